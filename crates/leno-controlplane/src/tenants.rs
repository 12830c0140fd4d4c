//! Which meshes there are: the directory that everybody reads who must know before the task that owns their state is
//! asked, and the record by which a mesh outlives its control plane.
//!
//! Owns names, trust domains and ceilings. Refuses two meshes of one name or one trust domain: a certificate says of
//! which mesh it is by its trust domain alone (CP2).
//! Invariant: who came in by a certificate of a mesh is gone once that mesh is.

mod founding;

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use leno_runtime::Stop;
use leno_store::{Entry, Expect, Key, Store, StoreError, Write};
use leno_types::{Identity, MeshName, TrustDomain};
use serde::{Deserialize, Serialize};

use crate::{derived::Shared, people::People};

pub(crate) use founding::{Founder, FoundingError, Plan};

/// Meshes of one control plane: each has its own authority, addresses, compiled state and streams.
pub(crate) const MAX_MESHES: usize = 256;
/// Networks of one mesh.
pub(crate) const MAX_PREFIXES: usize = 256;
/// The collection of the record of a mesh, which has but one.
const MESHES: &str = "leno/mesh";
/// Its name there.
const RECORD: &str = "mesh";

/// A mesh that was made at run time, as stored. The control plane's first has none: its settings say what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MeshRecord {
    pub(crate) trust_domain: String,
    #[serde(default)]
    pub(crate) prefixes: Vec<String>,
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// Pins of its roots' keys when it was made: another mesh's files in its place are noticed.
    pub(crate) pins: Vec<String>,
    /// It is being removed, and is not served.
    #[serde(default)]
    pub(crate) deleting: bool,
}

impl MeshRecord {
    fn key(mesh: &MeshName) -> Key {
        Key::new(mesh.clone(), MESHES, "", RECORD)
    }

    /// The record of a mesh, and its entry.
    pub(crate) fn read(
        store: &dyn Store,
        mesh: &MeshName,
    ) -> Result<Option<(Self, Entry)>, StoreError> {
        let Some(entry) = store.get(&Self::key(mesh))? else {
            return Ok(None);
        };
        let record = serde_json::from_slice(&entry.value).map_err(|error| StoreError::Corrupt {
            detail: format!("the record of mesh {mesh}: {error}").into(),
        })?;
        Ok(Some((record, entry)))
    }

    pub(crate) fn write(&self, mesh: &MeshName, expect: Expect) -> Write {
        let value = serde_json::to_vec(self).expect("texts and numbers are JSON");
        Write::put(Self::key(mesh), value, expect)
    }
}

/// One mesh, as the directory has it.
#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) name: MeshName,
    pub(crate) domain: TrustDomain,
    /// The revision of the store of its record: what lies before is of another mesh of this name.
    pub(crate) begins: u64,
    pub(crate) shared: Arc<Shared>,
    pub(crate) people: Arc<People>,
    /// Ends the connections of whoever came in by a certificate of this mesh, at once.
    pub(crate) stop: Stop,
}

/// The meshes that are served, as they were at a moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tenants(Arc<BTreeMap<MeshName, Arc<Tenant>>>);

impl Tenants {
    /// The mesh that an identity is of.
    pub(crate) fn of(&self, identity: &Identity) -> Option<&Arc<Tenant>> {
        let mut tenants = self.0.values();
        tenants.find(|tenant| tenant.domain.as_str() == identity.domain_str())
    }
}

/// The meshes that are served. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Directory(Arc<RwLock<Tenants>>);

impl Directory {
    /// Those that there are now.
    pub(crate) fn now(&self) -> Tenants {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The mesh of this name.
    pub(crate) fn get(&self, name: &MeshName) -> Option<Arc<Tenant>> {
        self.now().0.get(name).cloned()
    }

    /// Which mesh has this trust domain.
    pub(crate) fn with_domain(&self, domain: &TrustDomain) -> Option<MeshName> {
        let now = self.now();
        let found = now.0.values().find(|tenant| tenant.domain == *domain);
        found.map(|tenant| tenant.name.clone())
    }

    /// A mesh is served from now on.
    pub(crate) fn insert(&self, tenant: Tenant) {
        self.change(|all| {
            all.insert(tenant.name.clone(), Arc::new(tenant));
        });
    }

    /// A mesh is served no more: whoever it let in leaves.
    pub(crate) fn remove(&self, name: &MeshName) {
        self.change(|all| {
            if let Some(tenant) = all.remove(name) {
                tenant.stop.trigger();
            }
        });
    }

    fn change(&self, edit: impl FnOnce(&mut BTreeMap<MeshName, Arc<Tenant>>)) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        edit(Arc::make_mut(&mut all.0));
    }
}
