//! The store on a SQLite file: WAL, `synchronous=FULL`, one writing thread, a few reading connections.
//!
//! Reads happen on the caller's thread: they never wait for the writer, and take microseconds.

use std::{
    fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    thread::JoinHandle,
};

use leno_types::DnsLabel;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::{
    Commit, Entry, Key, Store, StoreError, Watch, Write, copies,
    log::Log,
    schema,
    writer::{Counters, Request, Writer},
};

/// Transactions that may wait for the writer; more wait in `commit`.
const QUEUE: usize = 256;
/// Idle reading connections that are kept.
const READERS: usize = 4;

/// The ceilings of a store.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Changes that the log holds for watchers.
    pub max_changes: usize,
    /// Bytes of values, before and after, that the log holds.
    pub max_change_bytes: usize,
    /// Size of the file; above it the store is full.
    pub max_file_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_changes: 10_000,
            max_change_bytes: 64 << 20,
            max_file_bytes: 4 << 30,
        }
    }
}

/// What a store counted since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Transactions acknowledged.
    pub commits: u64,
    /// Syncs to disk: fewer than commits where they were grouped.
    pub groups: u64,
    /// Transactions whose condition did not hold.
    pub refused: u64,
    /// Transactions refused because the disk or the ceiling was full.
    pub full: u64,
    /// Watches that began too far back.
    pub compacted: u64,
    /// Watches cut because they were too slow.
    pub lagged: u64,
    /// The earliest revision that can be watched from.
    pub oldest_watchable: u64,
}

/// A [`Store`] in a SQLite file. Dropping it waits for the transactions in its queue.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    log: Arc<Log>,
    incarnation: u128,
    readers: Mutex<Vec<Connection>>,
    counters: Arc<Counters>,
    writing: Writing,
    _lock: Hold,
}

/// Who writes.
#[derive(Debug)]
enum Writing {
    Thread {
        queue: mpsc::Sender<Request>,
        /// Dropped to stop the writer.
        stop: Option<oneshot::Sender<()>>,
        writer: Option<JoinHandle<()>>,
    },
    Caller(Arc<Mutex<Writer>>),
}

impl SqliteStore {
    /// Opens the store at `path`, or makes it: the file 0600, its directory, if there is none, 0700.
    ///
    /// # Errors
    /// When another process has it open, a later Leno wrote it, it is damaged, or the disk refuses.
    pub fn open(path: &Path, options: Options) -> Result<Self, StoreError> {
        let error = |error: std::io::Error| StoreError::from_io("opened", &error);
        Self::open_with(path, options, |writer| {
            let (queue, requests) = mpsc::channel(QUEUE);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .map_err(error)?;
            let (stop, stopped) = oneshot::channel();
            let thread = std::thread::Builder::new()
                .name("leno-store".into())
                .spawn(move || runtime.block_on(writer.run(requests, stopped)))
                .map_err(error)?;
            Ok(Writing::Thread {
                queue,
                stop: Some(stop),
                writer: Some(thread),
            })
        })
    }

    /// As [`SqliteStore::open`], but each transaction is done by whoever awaits it, at that moment: for those to whom
    /// nothing may happen by itself, such as a simulation.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub fn open_without_thread(path: &Path, options: Options) -> Result<Self, StoreError> {
        Self::open_with(path, options, |writer| {
            Ok(Writing::Caller(Arc::new(Mutex::new(writer))))
        })
    }

    fn open_with(
        path: &Path,
        options: Options,
        writing: impl FnOnce(Writer) -> Result<Writing, StoreError>,
    ) -> Result<Self, StoreError> {
        make_private(path)?;
        let lock = hold(path)?;
        let db = schema::open_writer(path, &options)?;
        let (head, incarnation) = schema::meta(&db)?;
        let changes = schema::load_log(&db, head, options.max_changes)?;
        let limits = (options.max_changes, options.max_change_bytes);
        let log = Arc::new(Log::new(head, changes, limits));
        let counters = Arc::<Counters>::default();
        let writer = Writer::new(db, Arc::clone(&log), Arc::clone(&counters), head);
        Ok(Self {
            path: path.into(),
            log,
            incarnation,
            readers: Mutex::default(),
            counters,
            writing: writing(writer)?,
            _lock: lock,
        })
    }

    /// What was counted since the store was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let Counters {
            commits,
            groups,
            refused,
            full,
        } = &*self.counters;
        Stats {
            commits: commits.load(Ordering::Relaxed),
            groups: groups.load(Ordering::Relaxed),
            refused: refused.load(Ordering::Relaxed),
            full: full.load(Ordering::Relaxed),
            compacted: self.log.compacted.load(Ordering::Relaxed),
            lagged: self.log.lagged.load(Ordering::Relaxed),
            oldest_watchable: self.log.oldest(),
        }
    }

    /// Bytes left on its disk; `None` where the system does not say.
    #[must_use]
    pub fn free_bytes(&self) -> Option<u64> {
        let of = rustix::fs::statvfs(&self.path).ok()?;
        Some(of.f_bavail.saturating_mul(of.f_frsize))
    }

    /// SQLite's own check of the file.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] with the first thing found.
    pub fn check_integrity(&self) -> Result<(), StoreError> {
        self.read(|db| Ok(copies::sound(db)))?
    }

    pub(crate) fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let idle = self.idle().pop();
        let db = match idle {
            Some(db) => db,
            None => schema::open_reader(&self.path)?,
        };
        let answer = query(&db).map_err(|error| StoreError::from_sqlite("read", &error))?;
        let mut idle = self.idle();
        if idle.len() < READERS {
            idle.push(db);
        }
        Ok(answer)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for SqliteStore {
    fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.read(|db| schema::get(db, key))
    }

    fn list(
        &self,
        mesh: &DnsLabel,
        resource: &str,
        namespace: Option<&str>,
    ) -> Result<(Vec<Entry>, u64), StoreError> {
        self.read(|db| {
            // One transaction, so that entries and revision are of one moment.
            let transaction = db.unchecked_transaction()?;
            let revision: i64 = transaction
                .prepare_cached("SELECT revision FROM meta")?
                .query_row([], |row| row.get(0))?;
            let entries = transaction
                .prepare_cached(
                    "SELECT mesh, resource, namespace, name, value, revision, created FROM entries \
                     WHERE mesh = ?1 AND resource = ?2 AND namespace >= ?3 AND (?4 OR namespace = ?3) \
                     ORDER BY namespace, name",
                )?
                .query_map(
                    (
                        mesh.as_str(),
                        resource,
                        namespace.unwrap_or_default(),
                        namespace.is_none(),
                    ),
                    schema::entry,
                )?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            transaction.commit()?;
            Ok((entries, revision.cast_unsigned()))
        })
    }

    fn meshes(&self) -> Result<Vec<DnsLabel>, StoreError> {
        let names: Vec<String> = self.read(|db| {
            db.prepare("SELECT DISTINCT mesh FROM entries ORDER BY mesh")?
                .query_map([], |row| row.get(0))?
                .collect()
        })?;
        let mesh = |name: String| {
            name.parse()
                .map_err(|_| StoreError::corrupt(format!("\"{name}\" is no mesh")))
        };
        names.into_iter().map(mesh).collect()
    }

    fn collections(&self, mesh: &DnsLabel) -> Result<Vec<Arc<str>>, StoreError> {
        self.read(|db| {
            db.prepare("SELECT DISTINCT resource FROM entries WHERE mesh = ?1 ORDER BY resource")?
                .query_map([mesh.as_str()], |row| Ok(row.get_ref(0)?.as_str()?.into()))?
                .collect()
        })
    }

    fn commit(&self, writes: Vec<Write>) -> Commit {
        let head = self.log.head();
        if writes.is_empty() {
            return Box::pin(std::future::ready(Ok(head)));
        }
        let queue = match &self.writing {
            Writing::Thread { queue, .. } => queue.clone(),
            Writing::Caller(writer) => {
                let writer = Arc::clone(writer);
                return Box::pin(async move {
                    let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                    writer.write(writes)
                });
            }
        };
        Box::pin(async move {
            let (answer, outcome) = oneshot::channel();
            queue
                .send(Request { writes, answer })
                .await
                .map_err(|_| StoreError::Closed)?;
            drop(queue);
            outcome.await.map_err(|_| StoreError::Closed)?
        })
    }

    fn watch(&self, from: u64) -> Result<Watch, StoreError> {
        self.log.watch(from)
    }

    fn revision(&self) -> u64 {
        self.log.head()
    }

    fn incarnation(&self) -> u128 {
        self.incarnation
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        if let Writing::Thread { stop, writer, .. } = &mut self.writing {
            drop(stop.take());
            if writer.take().is_some_and(|writer| writer.join().is_err()) {
                tracing::error!("the store's writer had panicked");
            }
        }
        self.log.close();
    }
}

/// Makes the directory 0700 if there is none, and the file 0600 in any case: it holds hashes of secrets. A directory
/// that exists is somebody's choice (it may be `/tmp`) and is left as it is.
fn make_private(path: &Path) -> Result<(), StoreError> {
    let error = |error: std::io::Error| StoreError::from_io("opened", &error);
    if let Some(directory) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(error)?;
    }
    // SQLite gives the files beside it the mode of this one.
    let file = private_file(path).map_err(error)?;
    file.set_permissions(Permissions::from_mode(0o600))
        .map_err(error)
}

pub(crate) fn private_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// A store's place, held for this process: nobody else opens the store meanwhile. The system lets go of it however the
/// process ends.
#[derive(Debug)]
pub struct Hold(#[expect(dead_code, reason = "held, not read")] File);

/// Holds the place of the store at `path`, whether or not it can be opened.
///
/// # Errors
/// [`StoreError::InUse`] when another holds it; when the disk refuses.
pub fn hold(path: &Path) -> Result<Hold, StoreError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    let file =
        private_file(Path::new(&beside)).map_err(|error| StoreError::from_io("opened", &error))?;
    match file.try_lock() {
        Ok(()) => Ok(Hold(file)),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: path.into() }),
        Err(TryLockError::Error(error)) => Err(StoreError::from_io("opened", &error)),
    }
}
