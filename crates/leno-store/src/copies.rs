//! Copies of a store for backups, and what makes a store of a copy: a new history.
//!
//! Invariant: a history never uses a revision of the one it was copied from again, nor of any that grew from the same
//! copy, as long as fewer than [`JUMP`] changes were made since: what a client knew of them is out of date, not
//! mistaken for something else.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use crate::{Options, SqliteStore, StoreError, schema};

/// How far a new history begins after the one it was copied from.
pub const JUMP: u64 = 1_000_000_000;

impl SqliteStore {
    /// Writes what is committed now to the file at `path`, which is made (0600) and must be empty if it is there. Runs
    /// on the caller's thread for as long as the disk takes; writing goes on meanwhile.
    ///
    /// # Errors
    /// When the disk refuses; [`StoreError::Full`] when it is full.
    pub fn copy_to(&self, path: &Path) -> Result<(), StoreError> {
        let io = |error: std::io::Error| StoreError::from_io("copied", &error);
        // SQLite would make it with the process's own mode.
        drop(crate::sqlite::private_file(path).map_err(io)?);
        let target = path.to_str().ok_or_else(|| {
            StoreError::from_io("copied", &std::io::Error::other("its path is no UTF-8"))
        })?;
        self.read(|db| db.execute("VACUUM INTO ?1", [target]))?;
        let copy = std::fs::File::open(path).map_err(io)?;
        copy.sync_all().map_err(io)
    }
}

/// Turns the copy at `path`, which nobody has open, into a store of a new history: its revisions begin [`JUMP`] after
/// its own, and after `known` where that is later; every entry is as if it had just been created; no change before can
/// be watched. Returns the new revision.
///
/// # Errors
/// When it is no store, of a later version of Leno, damaged, or the disk refuses.
pub fn begin_anew(path: &Path, known: u64) -> Result<u64, StoreError> {
    let error = |error: rusqlite::Error| StoreError::from_sqlite("restored", &error);
    plain(&schema::open_reader(path)?)?;
    let mut db = schema::open_writer(path, &Options::default())?;
    sound(&db)?;
    let (own, _) = schema::meta(&db)?;
    let begin = own.max(known).saturating_add(JUMP);
    let transaction = db
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(error)?;
    transaction
        .execute("DELETE FROM changes", ())
        .map_err(error)?;
    let renumber = "UPDATE entries SET revision = ranked.revision, created = ranked.revision FROM \
         (SELECT rowid AS id, ?1 + row_number() OVER (ORDER BY created, revision) AS revision FROM entries) AS ranked \
         WHERE entries.rowid = ranked.id";
    let entries = transaction
        .execute(renumber, [begin.cast_signed()])
        .map_err(error)?;
    let revision = begin + entries as u64;
    transaction
        .execute(
            "UPDATE meta SET revision = ?1, incarnation = randomblob(16)",
            [revision.cast_signed()],
        )
        .map_err(error)?;
    transaction.commit().map_err(error)?;
    // Nothing is left in a file beside it.
    db.pragma_update(None, "journal_mode", "DELETE")
        .map_err(error)?;
    Ok(revision)
}

/// Refuses a file that would do something of its own when it is written to: a store has tables, and nothing else.
fn plain(db: &Connection) -> Result<(), StoreError> {
    let found: Option<String> = db
        .query_row(
            "SELECT name FROM sqlite_schema WHERE type NOT IN ('table', 'index') LIMIT 1",
            [],
            |row| row.get(0),
        )
        .optional()
        .map_err(|error| StoreError::from_sqlite("restored", &error))?;
    match found {
        None => Ok(()),
        Some(_) => Err(StoreError::corrupt("it holds more than tables")),
    }
}

/// SQLite's own check of the file.
pub(crate) fn sound(db: &Connection) -> Result<(), StoreError> {
    let found: Option<String> = db
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .optional()
        .map_err(|error| StoreError::from_sqlite("read", &error))?;
    match found.as_deref() {
        Some("ok") => Ok(()),
        found => Err(StoreError::corrupt(
            found.unwrap_or("it cannot be checked").to_owned(),
        )),
    }
}
