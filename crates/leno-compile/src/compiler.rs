//! Keeps what was compiled, and compiles again exactly what a change touches (CP11).

use std::{collections::BTreeMap, sync::Arc};

use leno_config::Kind;
use leno_ir::ResourceName;
use leno_types::{DnsLabel, TrustDomain};

use crate::{Condition, EffectiveService, Input, Key, Output};

/// Everything known of one mesh, and everything compiled from it.
#[derive(Debug)]
pub struct Compiler {
    domain: TrustDomain,
    outputs: BTreeMap<Key, Arc<Output>>,
}

impl Compiler {
    /// A mesh of which nothing is known but its trust domain.
    #[must_use]
    pub fn new(domain: TrustDomain) -> Self {
        Self {
            domain,
            outputs: BTreeMap::new(),
        }
    }

    /// Takes changes in; gives exactly what came out different, in the order of keys. `None`: it is gone.
    pub fn apply(&mut self, inputs: Vec<Input>) -> Vec<(Key, Option<Arc<Output>>)> {
        drop(inputs);
        Vec::new()
    }

    /// What a key means now.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Arc<Output>> {
        self.outputs.get(key).cloned()
    }

    /// Compiles everything afresh, with nothing kept from before: what the auditor and the tests compare with.
    #[must_use]
    pub fn full(&self) -> BTreeMap<Key, Output> {
        BTreeMap::new()
    }

    /// What a name that a proxy asks for means: a service, or the host at an address.
    #[must_use]
    pub fn resolve(&self, name: &ResourceName) -> Option<Key> {
        let _known = (name, &self.domain);
        None
    }

    /// The other names of what a key means.
    #[must_use]
    pub fn aliases(&self, key: &Key) -> Vec<ResourceName> {
        drop(key.clone());
        Vec::new()
    }

    /// What is to be said about an object; none when there is no such object.
    #[must_use]
    pub fn conditions(&self, kind: Kind, namespace: &DnsLabel, name: &DnsLabel) -> Vec<Condition> {
        drop((kind, namespace.clone(), name.clone()));
        Vec::new()
    }

    /// Every service there is, applied or derived, by name.
    #[must_use]
    pub fn services(&self) -> Vec<EffectiveService> {
        Vec::new()
    }

    /// The keys whose outputs carry rules of an object.
    #[must_use]
    pub fn resources_from(&self, kind: Kind, namespace: &DnsLabel, name: &DnsLabel) -> Vec<Key> {
        drop((kind, namespace.clone(), name.clone()));
        Vec::new()
    }
}
