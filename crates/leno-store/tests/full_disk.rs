//! A disk that is really full: a small tmpfs in a mount namespace of this test's own.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test may panic")]

use std::{fs::OpenOptions, io::Write as _, path::Path};

use leno_store::{Expect, Key, Options, SqliteStore, Store, StoreError, Write};
use rustix::{
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::UnshareFlags,
};

fn key(name: &str) -> Key {
    Key::new("default".parse().unwrap(), "services", "shop", name)
}

/// Gives this thread, and those it starts, a mount namespace with a tmpfs of 8 MiB at `path`; it ends with them.
fn mount_small(path: &Path) -> Result<(), Errno> {
    // A thread that shares no file table with another may leave its mount namespace; this flag does not touch that table.
    #[expect(
        deprecated,
        reason = "its successor is unsafe because of a flag that is not used here"
    )]
    rustix::thread::unshare(UnshareFlags::NEWNS)?;
    mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )?;
    mount(
        "tmpfs",
        path,
        "tmpfs",
        MountFlags::empty(),
        Some(c"size=8m"),
    )
}

async fn fill_and_free(directory: &Path) {
    let store = SqliteStore::open(&directory.join("store.db"), Options::default()).unwrap();
    store
        .commit(vec![Write::put(key("first"), b"1".to_vec(), Expect::Any)])
        .await
        .unwrap();
    let ballast = directory.join("ballast");
    std::fs::write(&ballast, vec![1; 5 << 20]).unwrap();
    let large = vec![b'x'; 300 << 10];
    let mut written = Vec::new();
    let error = loop {
        let name = format!("large-{}", written.len());
        match store
            .commit(vec![Write::put(key(&name), large.clone(), Expect::Absent)])
            .await
        {
            Ok(_) => written.push(name),
            Err(error) => break error,
        }
        assert!(written.len() < 100);
    };
    assert!(matches!(error, StoreError::Full), "{error:?}");
    // The rest of the disk, too: not one byte is left.
    let mut rest = OpenOptions::new().append(true).open(&ballast).unwrap();
    while rest.write_all(&[1; 512]).is_ok() {}
    for _ in 0..3 {
        let again = store
            .commit(vec![Write::put(key("again"), large.clone(), Expect::Any)])
            .await;
        assert!(matches!(again, Err(StoreError::Full)), "{again:?}");
    }
    assert_eq!(
        &*store.get(&key("first")).unwrap().unwrap().value,
        b"1",
        "it is read all the same"
    );
    std::fs::remove_file(&ballast).unwrap();
    drop(rest);
    store
        .commit(vec![Write::put(key("again"), large, Expect::Absent)])
        .await
        .unwrap();
    store.check_integrity().unwrap();
    for name in &written {
        assert!(
            store.get(&key(name)).unwrap().is_some(),
            "{name} was acknowledged"
        );
    }
    drop(store);
    SqliteStore::open(&directory.join("store.db"), Options::default())
        .unwrap()
        .check_integrity()
        .unwrap();
}

#[test]
fn a_full_disk_is_said_and_survived_without_a_restart() {
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().to_owned();
    let test = std::thread::spawn(move || match mount_small(&path) {
        Err(error @ (Errno::PERM | Errno::ACCESS)) => Some(format!(
            "mounting a small tmpfs needs CAP_SYS_ADMIN: {error}"
        )),
        Err(error) => panic!("{error}"),
        Ok(()) => {
            let runtime = tokio::runtime::Builder::new_current_thread();
            { runtime }.build().unwrap().block_on(fill_and_free(&path));
            None
        }
    });
    if let Some(reason) = test.join().unwrap() {
        leno_testkit::skipped(&reason);
    }
}
