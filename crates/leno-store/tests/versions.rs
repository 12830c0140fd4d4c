//! Files of other versions: what an earlier one wrote is opened, what a later one wrote is refused and left as it is.
//!
//! `testdata/schema-N.db` is a store as the first Leno with schema version N wrote it, with objects, tokens, agents and a
//! change log; a new one comes with each new version, and none is ever changed.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test may panic")]

use std::fs;

use leno_store::{Options, SqliteStore, Store, StoreError};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata");

#[tokio::test]
async fn what_every_earlier_version_wrote_is_opened_and_written_on() {
    let mut opened = 0;
    for fixture in fs::read_dir(FIXTURES).unwrap() {
        let fixture = fixture.unwrap().path();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        fs::copy(&fixture, &path).unwrap();
        let store = SqliteStore::open(&path, Options::default()).unwrap();
        let mesh = "default".parse().unwrap();
        let (services, revision) = store.list(&mesh, "services", None).unwrap();
        let names: Vec<&str> = services.iter().map(|entry| &*entry.key.name).collect();
        assert_eq!(names, ["cart", "web"], "{}", fixture.display());
        assert_eq!(revision, store.revision());
        let (agents, _) = store.list(&mesh, "leno/agents", None).unwrap();
        assert_eq!(agents.len(), 2);
        // A watch resumes where a watcher of the earlier version was.
        let mut watch = store.watch(revision - 10).unwrap();
        let seen = std::iter::from_fn(|| watch.try_next_with_previous().unwrap());
        assert_eq!(seen.count(), 10);
        let mut write = services[0].clone();
        write.key.name = "another".into();
        let write = leno_store::Write::put(write.key, b"{}".to_vec(), leno_store::Expect::Absent);
        assert_eq!(store.commit(vec![write]).await.unwrap(), revision + 1);
        opened += 1;
    }
    assert!(opened > 0, "no fixture is in {FIXTURES}");
}

#[test]
fn what_a_later_version_wrote_is_refused_by_number_and_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    // The header has the schema version at byte 60 (https://sqlite.org/fileformat2.html section 1.3).
    let mut later = fs::read(format!("{FIXTURES}/schema-1.db")).unwrap();
    later[60..64].copy_from_slice(&9_u32.to_be_bytes());
    fs::write(&path, &later).unwrap();
    let error = SqliteStore::open(&path, Options::default()).unwrap_err();
    assert!(
        matches!(error, StoreError::Newer { found: 9, .. }),
        "{error}"
    );
    let text = error.to_string();
    assert!(text.contains("schema version 9"), "{text}");
    assert!(text.contains("run the Leno that wrote it"), "{text}");
    assert_eq!(fs::read(&path).unwrap(), later);
}
