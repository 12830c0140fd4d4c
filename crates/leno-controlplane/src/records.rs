//! What the control plane keeps of its own in the store, beside the objects that people write: each a JSON document in a
//! collection of its kind.
//!
//! Invariant: what cannot be read is none, and never half of one.

use leno_store::{Entry, Expect, Key, Write};
use leno_types::MeshName;
use serde::{Serialize, de::DeserializeOwned};

/// A record of a mesh that has a name and no namespace.
pub(crate) trait Record: Serialize + DeserializeOwned {
    /// Its collection in the store.
    const COLLECTION: &'static str;

    /// Where it is.
    fn key(mesh: &MeshName, name: &str) -> Key {
        Key::new(mesh.clone(), Self::COLLECTION, "", name)
    }

    /// What is stored; `None` when it is damaged.
    fn read(entry: &Entry) -> Option<Self> {
        serde_json::from_slice(&entry.value).ok()
    }

    /// The write that keeps it.
    fn write(&self, key: Key, expect: Expect) -> Write {
        let value = serde_json::to_vec(self).expect("texts and numbers are JSON");
        Write::put(key, value, expect)
    }
}
