//! A copy of a store, and the new history that begins with it.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test may panic")]

use std::os::unix::fs::PermissionsExt;

use leno_store::{Expect, JUMP, Key, Options, SqliteStore, Store, StoreError, Write, begin_anew};
use tempfile::TempDir;

fn key(name: &str) -> Key {
    Key::new("default".parse().unwrap(), "services", "shop", name)
}

fn put(name: &str, value: &str) -> Write {
    Write::put(key(name), value.into(), Expect::Any)
}

fn open(directory: &TempDir, name: &str) -> SqliteStore {
    SqliteStore::open(&directory.path().join(name), Options::default()).unwrap()
}

#[tokio::test]
async fn a_copy_has_what_was_committed_and_is_its_owners_alone() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory, "store.db");
    store.commit(vec![put("cart", "1")]).await.unwrap();
    let path = directory.path().join("copy.db");
    store.copy_to(&path).unwrap();
    store.commit(vec![put("cart", "2")]).await.unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let copy = open(&directory, "copy.db");
    assert_eq!(&*copy.get(&key("cart")).unwrap().unwrap().value, b"1");
    assert_eq!(copy.revision(), 2);
    assert!(store.copy_to(&path).is_err(), "nothing is written over");
}

#[tokio::test]
async fn a_new_history_takes_no_revision_of_the_old_and_watches_none_of_it() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory, "store.db");
    store
        .commit(vec![put("cart", "1"), put("web", "1")])
        .await
        .unwrap();
    store.commit(vec![put("cart", "2")]).await.unwrap();
    let path = directory.path().join("copy.db");
    store.copy_to(&path).unwrap();
    let later = store.commit(vec![put("late", "1")]).await.unwrap();
    let old = store.incarnation();
    drop(store);

    let revision = begin_anew(&path, later + 7).unwrap();
    assert_eq!(revision, later + 7 + JUMP + 2);
    let copy = open(&directory, "copy.db");
    assert_eq!(copy.revision(), revision);
    assert_ne!(copy.incarnation(), old);
    let (entries, _) = copy
        .list(&"default".parse().unwrap(), "services", None)
        .unwrap();
    let found: Vec<_> = entries
        .iter()
        .map(|entry| {
            (
                &*entry.key.name,
                &*entry.value,
                entry.revision,
                entry.created,
            )
        })
        .collect();
    // In the order in which they were made.
    let (first, second) = (revision - 1, revision);
    assert_eq!(
        found,
        [
            ("cart", &b"2"[..], first, first),
            ("web", &b"1"[..], second, second)
        ]
    );
    for from in [0, 2, 3, later, later + 7, revision - 1] {
        let watched = copy.watch(from);
        assert!(
            matches!(watched, Err(StoreError::Compacted { .. })),
            "{from}"
        );
    }
    for known in [1, 2, 3, later] {
        let write = Write::put(key("cart"), "stale".into(), Expect::Revision(known));
        let outcome = copy.commit(vec![write]).await;
        assert!(
            matches!(outcome, Err(StoreError::Conflict { .. })),
            "{known}"
        );
    }
    let mut watch = copy.watch(revision).unwrap();
    copy.commit(vec![put("web", "2")]).await.unwrap();
    assert_eq!(watch.next().await.unwrap().revision(), revision + 1);
}

#[test]
fn what_is_no_store_is_not_restored() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("copy.db");
    std::fs::write(&path, "something else").unwrap();
    assert!(begin_anew(&path, 0).is_err());
}

#[tokio::test]
async fn a_copy_that_would_do_something_of_its_own_is_not_restored() {
    let directory = TempDir::new().unwrap();
    drop(open(&directory, "store.db"));
    let path = directory.path().join("store.db");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch(
        "CREATE TRIGGER t AFTER UPDATE ON meta BEGIN UPDATE meta SET revision = 5; END",
    )
    .unwrap();
    drop(db);
    let outcome = begin_anew(&path, 0);
    assert!(
        matches!(outcome, Err(StoreError::Corrupt { .. })),
        "{outcome:?}"
    );
}
