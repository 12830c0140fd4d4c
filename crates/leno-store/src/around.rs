//! A store whose commits pass something on their way: a meter, or in a simulation a disk that fails. All else is the
//! store's own.

use std::sync::Arc;

use leno_types::DnsLabel;

use crate::{Commit, Entry, Key, SqliteStore, Store, StoreError, Watch, Write};

/// What stands around a store; it is a [`Store`] itself.
pub trait Around: Send + Sync {
    /// The store.
    fn store(&self) -> &SqliteStore;

    /// [`Store::commit`], by way of what stands around.
    fn commit(&self, writes: Vec<Write>) -> Commit;
}

impl<T: Around> Store for T {
    fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.store().get(key)
    }

    fn list(
        &self,
        mesh: &DnsLabel,
        resource: &str,
        namespace: Option<&str>,
    ) -> Result<(Vec<Entry>, u64), StoreError> {
        self.store().list(mesh, resource, namespace)
    }

    fn meshes(&self) -> Result<Vec<DnsLabel>, StoreError> {
        self.store().meshes()
    }

    fn collections(&self, mesh: &DnsLabel) -> Result<Vec<Arc<str>>, StoreError> {
        self.store().collections(mesh)
    }

    fn commit(&self, writes: Vec<Write>) -> Commit {
        Around::commit(self, writes)
    }

    fn watch(&self, from: u64) -> Result<Watch, StoreError> {
        self.store().watch(from)
    }

    fn revision(&self) -> u64 {
        self.store().revision()
    }

    fn incarnation(&self) -> u128 {
        self.store().incarnation()
    }
}
