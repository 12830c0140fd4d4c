//! From the schema of an earlier version to this one's.
//!
//! Owns the list of what changed. All that is due happens in one transaction, with the new version's number: who is
//! interrupted finds the old file. Refuses to go back: an earlier Leno is told so, and nothing is written.
//! Invariant: an entry of the list is never changed once a version with it was published; what is wrong with one is
//! mended by the next.

use std::path::Path;

use rusqlite::{Connection, Transaction};

use crate::StoreError;

/// What leads from version 1 to 2, from 2 to 3, and so on. None yet: the first schema is this one.
pub(crate) const MIGRATIONS: &[&str] = &[];

/// The version that `migrations` lead to.
pub(crate) const fn version_after(migrations: &[&str]) -> i64 {
    // A list in the source: its length is a small number.
    1 + migrations.len().cast_signed() as i64
}

/// Brings a file of schema version `from` to the version that `migrations` lead to.
pub(crate) fn migrate(
    db: &mut Connection,
    path: &Path,
    from: i64,
    migrations: &[&str],
) -> Result<(), StoreError> {
    let to = version_after(migrations);
    if from == to {
        return Ok(());
    }
    let outcome = db.transaction().and_then(|transaction| {
        apply(&transaction, from, migrations)?;
        transaction.commit()
    });
    outcome.map_err(|error| match StoreError::from_sqlite("migrated", &error) {
        StoreError::Io { detail, .. } => StoreError::Migration {
            path: path.into(),
            from,
            to,
            detail,
        },
        known => known,
    })
}

/// Does everything but commit.
fn apply(transaction: &Transaction<'_>, from: i64, migrations: &[&str]) -> rusqlite::Result<()> {
    let done = usize::try_from(from - 1).unwrap_or(0);
    for statements in migrations.iter().skip(done) {
        transaction.execute_batch(statements)?;
    }
    transaction.pragma_update(None, "user_version", version_after(migrations))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::{fs, path::PathBuf};

    use super::*;

    const FIXTURE: &[u8] = include_bytes!("../testdata/schema-1.db");
    const GOOD: &[&str] = &[
        "ALTER TABLE entries ADD COLUMN author TEXT; UPDATE entries SET author = 'unknown';",
        "CREATE TABLE seen (at INTEGER NOT NULL) STRICT;",
    ];
    const BAD: &[&str] = &[
        "ALTER TABLE entries ADD COLUMN author TEXT; UPDATE entries SET author = 'unknown';",
        "DROP TABLE meta; INSERT INTO nowhere VALUES (1);",
    ];

    /// A copy of what the first version wrote.
    fn file(directory: &tempfile::TempDir) -> PathBuf {
        let path = directory.path().join("store.db");
        fs::write(&path, FIXTURE).unwrap();
        path
    }

    fn open(path: &Path) -> Connection {
        let db = Connection::open(path).unwrap();
        db.pragma_update(None, "journal_mode", "WAL").unwrap();
        db
    }

    fn version(db: &Connection) -> i64 {
        db.pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap()
    }

    /// Whether the second version's column is there; how many entries are.
    fn seen(db: &Connection) -> (bool, i64) {
        let entries = db.query_row("SELECT count(*) FROM entries", [], |row| row.get(0));
        let column = db.prepare("SELECT author FROM entries").is_ok();
        (column, entries.unwrap())
    }

    #[test]
    fn every_step_is_done_once_and_nothing_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory);
        let mut db = open(&path);
        let (_, entries) = seen(&db);
        assert!(entries > 10, "the fixture has something in it");
        migrate(&mut db, &path, 1, &GOOD[..1]).unwrap();
        assert_eq!((version(&db), seen(&db)), (2, (true, entries)));
        // The first step would fail if it were done again.
        migrate(&mut db, &path, 2, GOOD).unwrap();
        migrate(&mut db, &path, 3, GOOD).unwrap();
        assert_eq!((version(&db), seen(&db)), (3, (true, entries)));
    }

    #[test]
    fn a_step_that_fails_leaves_the_old_file_and_says_which_leno_can_use_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory);
        let mut db = open(&path);
        let before = seen(&db);
        let error = migrate(&mut db, &path, 1, BAD).unwrap_err().to_string();
        assert!(error.contains("from schema version 1 to 3"), "{error}");
        assert!(error.contains("run the Leno that wrote it"), "{error}");
        assert_eq!((version(&db), seen(&db)), (1, before));
        crate::schema::meta(&db).unwrap();
    }

    /// What a machine finds that lost its power after every step, and before the commit.
    #[test]
    fn a_crash_in_the_middle_leaves_the_old_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory);
        let mut db = open(&path);
        // Pages reach the disk before the commit does.
        db.pragma_update(None, "cache_size", 1).unwrap();
        let before = seen(&db);
        let transaction = db.transaction().unwrap();
        apply(&transaction, 1, GOOD).unwrap();
        let crashed = directory.path().join("crashed.db");
        for end in ["", "-wal"] {
            let from = directory.path().join(format!("store.db{end}"));
            fs::copy(from, directory.path().join(format!("crashed.db{end}"))).unwrap();
        }
        transaction.commit().unwrap();
        assert_eq!(version(&db), 3);
        let mut found = open(&crashed);
        assert_eq!((version(&found), seen(&found)), (1, before));
        migrate(&mut found, &crashed, 1, GOOD).unwrap();
        assert_eq!((version(&found), seen(&found)), (3, (true, before.1)));
    }
}
