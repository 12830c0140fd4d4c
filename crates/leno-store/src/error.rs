//! What can go wrong with a store, and whose concern it is.

use std::{path::PathBuf, sync::Arc};

use crate::Key;

/// Why the store did not do what was asked. Nothing of a failed transaction is kept.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The key's last change is another than the writer knew.
    #[error("{key} has changed: revision {expected} was expected, {found} is there")]
    Conflict {
        /// What was to be written.
        key: Key,
        /// The revision the writer knew.
        expected: u64,
        /// The revision that is there.
        found: u64,
    },
    /// The key was to be created and is there.
    #[error("{key} exists already")]
    Exists {
        /// What was to be created.
        key: Key,
    },
    /// The key was to be changed or deleted and is not there.
    #[error("{key} does not exist")]
    NotFound {
        /// What was to be written.
        key: Key,
    },
    /// The changes asked for are no longer, or not yet, in the log: list again.
    #[error(
        "changes after revision {from} are not in the log, which begins after {oldest}: list again"
    )]
    Compacted {
        /// Where the watcher was.
        from: u64,
        /// The earliest revision that can be watched from.
        oldest: u64,
    },
    /// The watcher was slower than the bounded change log: list again.
    #[error("the watch fell behind at revision {seen}, the log begins after {oldest}: list again")]
    Lagged {
        /// The last revision the watcher saw.
        seen: u64,
        /// The earliest revision that can be watched from.
        oldest: u64,
    },
    /// The disk, or the ceiling on the store's size, is reached.
    #[error(
        "store full: nothing was written; free some space and try again, a restart is not needed"
    )]
    Full,
    /// The file is damaged, or is no store.
    #[error("the store is damaged ({detail}): restore a backup")]
    Corrupt {
        /// What was found.
        detail: Arc<str>,
    },
    /// A later version of Leno wrote the file.
    #[error(
        "{path:?} has schema version {found}, this Leno knows versions up to {known}: run the Leno that wrote it, \
         or a later one"
    )]
    Newer {
        /// The store's file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The latest version known.
        known: i64,
    },
    /// An earlier version's file could not be brought to this version's schema. It is as it was.
    #[error(
        "{path:?} cannot be brought from schema version {from} to {to} ({detail}); it is as it was: run the Leno that \
         wrote it, and report this"
    )]
    Migration {
        /// The store's file.
        path: PathBuf,
        /// Its schema version.
        from: i64,
        /// This Leno's.
        to: i64,
        /// What the system says.
        detail: Arc<str>,
    },
    /// Another process has the store open.
    #[error("{path:?} is in use by another process: one control plane at a time")]
    InUse {
        /// The store's file.
        path: PathBuf,
    },
    /// The storage failed in another way.
    #[error("the store cannot be {doing}: {detail}")]
    Io {
        /// What was tried: "opened", "read", "written".
        doing: &'static str,
        /// What the system says.
        detail: Arc<str>,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// The error SQLite gave while `doing`.
    pub(crate) fn from_sqlite(doing: &'static str, error: &rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt {
                detail: error.to_string().into(),
            },
            _ => Self::Io {
                doing,
                detail: error.to_string().into(),
            },
        }
    }

    /// The error the system gave while `doing`.
    pub(crate) fn from_io(doing: &'static str, error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::StorageFull {
            return Self::Full;
        }
        Self::Io {
            doing,
            detail: error.to_string().into(),
        }
    }

    /// The error for a value in the file that cannot be what was written.
    pub(crate) fn corrupt(detail: impl Into<Arc<str>>) -> Self {
        Self::Corrupt {
            detail: detail.into(),
        }
    }
}
