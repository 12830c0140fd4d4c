//! A small versioned store: get, list, compare-and-set in transactions, watch; SQLite behind it (CP6).
//!
//! Owns what people and operators wrote: objects, tokens, revocations. Leases, acks, health and metrics never go
//! through it. Values are opaque bytes.
//!
//! Invariants:
//! - Every write takes one revision of its own, and revisions are contiguous; a transaction of *n* writes that
//!   ends at revision *r* took `r - n + 1 ..= r` in the order given. So a watcher can resume after any single
//!   change, inside a transaction too, and loses or repeats nothing.
//! - A commit is acknowledged only after it is on disk; a transaction is wholly visible or not at all.
//! - Reading never waits for the writer.

mod around;
mod copies;
mod error;
mod log;
mod migrations;
mod schema;
mod sqlite;
mod writer;

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use leno_types::DnsLabel;

pub use around::Around;
pub use copies::{JUMP, begin_anew};
pub use error::StoreError;
pub use log::Watch;
pub use sqlite::{Hold, Options, SqliteStore, Stats, hold};

/// What a value is stored under. The mesh is its first part: meshes are tenants (CP2).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The tenant.
    pub mesh: DnsLabel,
    /// The collection: `services`, `httproutes.gateway.networking.k8s.io`, `leno/tokens`.
    pub resource: Arc<str>,
    /// The namespace; empty when the collection has none.
    pub namespace: Arc<str>,
    /// The name there.
    pub name: Arc<str>,
}

impl Key {
    /// The key with these parts.
    pub fn new(
        mesh: DnsLabel,
        resource: impl Into<Arc<str>>,
        namespace: impl Into<Arc<str>>,
        name: impl Into<Arc<str>>,
    ) -> Self {
        Self {
            mesh,
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/", self.mesh, self.resource)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A stored value with its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Key,
    /// Its bytes.
    pub value: Arc<[u8]>,
    /// The revision that wrote it.
    pub revision: u64,
    /// The revision that created it: equal to `revision` when it was never changed since.
    pub created: u64,
}

/// What must be true of a key for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing. (A deletion still needs something to delete.)
    Any,
    /// That there is no such key.
    Absent,
    /// That its last change is this one.
    Revision(u64),
}

/// One write of a transaction.
#[derive(Clone, Debug)]
pub struct Write {
    /// What to write.
    pub key: Key,
    /// The new value; `None` deletes.
    pub value: Option<Vec<u8>>,
    /// The condition.
    pub expect: Expect,
}

impl Write {
    /// Sets `key` to `value`.
    #[must_use]
    pub fn put(key: Key, value: Vec<u8>, expect: Expect) -> Self {
        Self {
            key,
            value: Some(value),
            expect,
        }
    }

    /// Deletes `key`.
    #[must_use]
    pub fn delete(key: Key, expect: Expect) -> Self {
        Self {
            key,
            value: None,
            expect,
        }
    }
}

/// One change, as a watch tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Created (`created == revision`) or changed.
    Put(Entry),
    /// Deleted.
    Delete {
        /// What was deleted.
        key: Key,
        /// The revision of the deletion.
        revision: u64,
        /// The last value.
        last: Arc<[u8]>,
    },
}

impl Change {
    /// The key that changed.
    #[must_use]
    pub const fn key(&self) -> &Key {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision of the change.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        match self {
            Self::Put(entry) => entry.revision,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// The outcome of [`Store::commit`], to be awaited; dropping it does not take the transaction back.
pub type Commit = Pin<Box<dyn Future<Output = Result<u64, StoreError>> + Send>>;

/// A versioned store. Object safe: the control plane holds an `Arc<dyn Store>`.
pub trait Store: Send + Sync {
    /// The value of a key, if there is one.
    ///
    /// # Errors
    /// When the storage fails.
    fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError>;

    /// All entries of a collection, of one namespace or of all, ordered by namespace and name, with the revision
    /// at which exactly these existed. A [`Store::watch`] from it sees every later change.
    ///
    /// # Errors
    /// When the storage fails.
    fn list(
        &self,
        mesh: &DnsLabel,
        resource: &str,
        namespace: Option<&str>,
    ) -> Result<(Vec<Entry>, u64), StoreError>;

    /// Every mesh that has an entry, ordered.
    ///
    /// # Errors
    /// When the storage fails.
    fn meshes(&self) -> Result<Vec<DnsLabel>, StoreError>;

    /// Every collection of a mesh that has an entry, ordered.
    ///
    /// # Errors
    /// When the storage fails.
    fn collections(&self, mesh: &DnsLabel) -> Result<Vec<Arc<str>>, StoreError>;

    /// Does all of `writes` in order in one transaction, or none; answers the revision of the last one after it is
    /// on disk. An empty transaction answers the current revision. A key may be named more than once; later writes see earlier ones.
    fn commit(&self, writes: Vec<Write>) -> Commit;

    /// Changes after revision `from`, of all meshes, in order.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when some of them are no longer in the bounded change log, or `from` was never
    /// reached: the watcher must list again.
    fn watch(&self, from: u64) -> Result<Watch, StoreError>;

    /// The revision of the last change.
    fn revision(&self) -> u64;

    /// The identity of this history: another after a backup was restored.
    fn incarnation(&self) -> u128;
}
