//! The file's layout, and how a connection to it is set up.
//!
//! Invariant: a file whose schema version is later than [`VERSION`] is never written.

use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    sync::Arc,
};

use leno_types::DnsLabel;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row};

use crate::{
    Change, Entry, Key, Options, StoreError,
    log::Logged,
    migrations::{MIGRATIONS, migrate, version_after},
};

/// The schema version this code writes.
pub(crate) const VERSION: i64 = version_after(MIGRATIONS);
/// "LENO", in SQLite's application id.
const APPLICATION_ID: i64 = 0x4c45_4e4f;
const PAGE_BYTES: u64 = 4096;

/// What a new file begins with: the newest schema. An older file gets there by [`MIGRATIONS`].
///
/// The change log holds what was there *before* each change; what a change wrote is the `before` of the next one of
/// its key, or is in `entries`. So each value is written twice, not three times.
const TABLES: &str = "
CREATE TABLE meta (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    revision    INTEGER NOT NULL,
    incarnation BLOB    NOT NULL
) STRICT;
INSERT INTO meta VALUES (1, 1, randomblob(16));
CREATE TABLE entries (
    mesh      TEXT    NOT NULL,
    resource  TEXT    NOT NULL,
    namespace TEXT    NOT NULL,
    name      TEXT    NOT NULL,
    value     BLOB    NOT NULL,
    revision  INTEGER NOT NULL,
    created   INTEGER NOT NULL,
    PRIMARY KEY (mesh, resource, namespace, name)
) STRICT;
CREATE TABLE changes (
    revision        INTEGER PRIMARY KEY,
    mesh            TEXT    NOT NULL,
    resource        TEXT    NOT NULL,
    namespace       TEXT    NOT NULL,
    name            TEXT    NOT NULL,
    deleted         INTEGER NOT NULL,
    created         INTEGER NOT NULL,
    before          BLOB,
    before_revision INTEGER NOT NULL
) STRICT;
";

/// Opens the one connection that writes, makes the tables if the file is new, and refuses what is not ours.
pub(crate) fn open_writer(path: &Path, options: &Options) -> Result<Connection, StoreError> {
    let error = |error: rusqlite::Error| StoreError::from_sqlite("opened", &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(path, flags).map_err(error)?;
    let version = pragma(&db, "user_version")?;
    let application = pragma(&db, "application_id")?;
    let tables: i64 = db
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(error)?;
    let fresh = version == 0 && application == 0 && tables == 0;
    if !fresh && application != APPLICATION_ID {
        return Err(StoreError::corrupt(format!(
            "{} is no Leno store",
            path.display()
        )));
    }
    if !fresh && version < 1 {
        let detail = format!("{} has no schema version", path.display());
        return Err(StoreError::corrupt(detail));
    }
    if version > VERSION {
        return Err(StoreError::Newer {
            path: path.into(),
            found: version,
            known: VERSION,
        });
    }
    db.pragma_update(None, "journal_mode", "WAL")
        .map_err(error)?;
    set_up(&db, options)?;
    if fresh {
        let transaction = db.transaction().map_err(error)?;
        transaction.execute_batch(TABLES).map_err(error)?;
        transaction
            .pragma_update(None, "application_id", APPLICATION_ID)
            .map_err(error)?;
        transaction
            .pragma_update(None, "user_version", VERSION)
            .map_err(error)?;
        transaction.commit().map_err(error)?;
    } else {
        migrate(&mut db, path, version, MIGRATIONS)?;
    }
    Ok(db)
}

/// Opens a connection that only reads.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)
        .map_err(|error| StoreError::from_sqlite("opened", &error))?;
    db.set_prepared_statement_cache_capacity(8);
    Ok(db)
}

fn set_up(db: &Connection, options: &Options) -> Result<(), StoreError> {
    let error = |error: rusqlite::Error| StoreError::from_sqlite("opened", &error);
    db.pragma_update(None, "synchronous", "FULL")
        .map_err(error)?;
    db.pragma_update(None, "temp_store", "MEMORY")
        .map_err(error)?;
    db.pragma_update(None, "trusted_schema", false)
        .map_err(error)?;
    // After a burst the log file goes back to this size.
    db.pragma_update(None, "journal_size_limit", 4 << 20)
        .map_err(error)?;
    let pages = i64::try_from(options.max_file_bytes / PAGE_BYTES).unwrap_or(i64::MAX);
    // The ceiling cannot lie below what the file has already; SQLite then takes the file's size.
    db.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
        .map_err(error)
}

fn pragma(db: &Connection, name: &str) -> Result<i64, StoreError> {
    db.pragma_query_value(None, name, |row| row.get(0))
        .map_err(|error| StoreError::from_sqlite("opened", &error))
}

/// The revision of a store that nobody has written to. Not 0: to clients of the API a `resourceVersion` of 0 means "any",
/// and who resumes a watch there is told what is, but not what is gone.
const FIRST: u64 = 1;

/// The last revision and the incarnation.
pub(crate) fn meta(db: &Connection) -> Result<(u64, u128), StoreError> {
    let (revision, incarnation): (i64, [u8; 16]) = db
        .query_row("SELECT revision, incarnation FROM meta", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .map_err(|error| StoreError::from_sqlite("read", &error))?;
    let revision =
        u64::try_from(revision).map_err(|_| StoreError::corrupt("its revision is negative"))?;
    // Earlier files began at 0.
    Ok((revision.max(FIRST), u128::from_be_bytes(incarnation)))
}

/// The entry of a key, if there is one.
pub(crate) fn get(db: &Connection, key: &Key) -> rusqlite::Result<Option<Entry>> {
    let columns = (
        key.mesh.as_str(),
        &*key.resource,
        &*key.namespace,
        &*key.name,
    );
    db.prepare_cached(
        "SELECT mesh, resource, namespace, name, value, revision, created FROM entries \
         WHERE mesh = ?1 AND resource = ?2 AND namespace = ?3 AND name = ?4",
    )?
    .query_row(columns, entry)
    .optional()
}

/// A row of `mesh, resource, namespace, name, value, revision, created`.
pub(crate) fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        key: key(row)?,
        value: row.get_ref(4)?.as_blob()?.into(),
        revision: row.get::<_, i64>(5)?.cast_unsigned(),
        created: row.get::<_, i64>(6)?.cast_unsigned(),
    })
}

/// The first four columns: `mesh, resource, namespace, name`.
fn key(row: &Row<'_>) -> rusqlite::Result<Key> {
    let text = |column: usize| -> rusqlite::Result<&str> { Ok(row.get_ref(column)?.as_str()?) };
    let mesh: DnsLabel = text(0)?.parse().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
    })?;
    Ok(Key::new(mesh, text(1)?, text(2)?, text(3)?))
}

/// The end of the change log, oldest first: contiguous, ending at `head`, at most `max` changes.
pub(crate) fn load_log(
    db: &Connection,
    head: u64,
    max: usize,
) -> Result<VecDeque<Logged>, StoreError> {
    let error = |error: rusqlite::Error| StoreError::from_sqlite("read", &error);
    let mut statement = db
        .prepare(
            "SELECT mesh, resource, namespace, name, before, before_revision, created, revision, deleted \
             FROM changes ORDER BY revision DESC LIMIT ?1",
        )
        .map_err(error)?;
    let mut rows = statement
        .query([i64::try_from(max).unwrap_or(i64::MAX)])
        .map_err(error)?;
    let mut log = VecDeque::new();
    let mut after: HashMap<Key, Option<Arc<[u8]>>> = HashMap::new();
    let mut expected = head;
    while let Some(row) = rows.next().map_err(error)? {
        let (key, revision, deleted, created, before_revision) = (|| {
            let revision: i64 = row.get(7)?;
            let deleted: bool = row.get(8)?;
            let created: i64 = row.get(6)?;
            let before: i64 = row.get(5)?;
            Ok((
                key(row)?,
                revision.cast_unsigned(),
                deleted,
                created.cast_unsigned(),
                before.cast_unsigned(),
            ))
        })()
        .map_err(error)?;
        if revision != expected {
            break; // a gap, as after a restored backup: what lies before it is another history
        }
        // Revision 0 is no change: a file that has one is damaged, and is read no further.
        expected = match expected.checked_sub(1) {
            Some(before) => before,
            None => break,
        };
        let before: Option<Arc<[u8]>> = row
            .get_ref(4)
            .and_then(|value| Ok(value.as_blob_or_null()?.map(Into::into)))
            .map_err(error)?;
        let previous = before.clone().map(|value| Entry {
            key: key.clone(),
            value,
            revision: before_revision,
            created,
        });
        let written = match after.insert(key.clone(), before) {
            Some(value) => value,
            None => get(db, &key).map_err(error)?.map(|entry| entry.value),
        };
        let change = match (deleted, written, &previous) {
            (false, Some(value), _) => Change::Put(Entry {
                key,
                value,
                revision,
                created,
            }),
            (true, _, Some(previous)) => Change::Delete {
                key,
                revision,
                last: Arc::clone(&previous.value),
            },
            _ => {
                return Err(StoreError::corrupt(format!(
                    "change {revision} has no value"
                )));
            }
        };
        log.push_front(Logged { change, previous });
    }
    Ok(log)
}
