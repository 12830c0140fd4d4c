//! Everything the compiler is to know, made anew from the store and the registry: what the simulation compares with what
//! came step by step.

use std::sync::Arc;

use leno_api::store_resource;
use leno_compile::Input;
use leno_store::Store;

use super::{
    Mesh,
    sources::{STORED, object_key, read_object, record_of},
};

impl Mesh {
    /// Whether agents are still coming back.
    pub(crate) fn is_in_grace(&self) -> bool {
        self.grace.is_some()
    }

    /// All inputs. Objects are read from the store; what cannot be read there is not among them.
    pub(crate) fn afresh(&self, store: &dyn Store, now: u64) -> Vec<Input> {
        let mut inputs = vec![Input::Mesh(Arc::new(self.as_known(now).0))];
        let own = self.server_names();
        let own = own.iter();
        let own = own.filter_map(|name| name.to_ascii_lowercase().parse().ok());
        inputs.push(Input::Reserved(Arc::new(own.collect())));
        for kind in STORED {
            let entries = store.list(&self.settings.name, &store_resource(kind), None);
            for entry in entries.map(|(entries, _)| entries).unwrap_or_default() {
                if let (Some((kind, namespace, name)), Ok(resource)) =
                    (object_key(kind, &entry.key), read_object(kind, &entry))
                {
                    let resource = Some(Arc::new(resource));
                    inputs.push(Input::Object(kind, namespace, name, resource));
                }
            }
        }
        for (name, agent) in self.registry.agents() {
            for workload in agent.workloads.values() {
                let mut record = record_of(agent, workload);
                record.versioned = self.promised_to_others(agent, workload).is_none()
                    && self.version_over_limit(name, agent, workload).is_none();
                inputs.push(Input::Workload(workload.uid, Some(record)));
            }
        }
        for (name, what) in self.remembered.all() {
            inputs.push(Input::Remembered(name.clone(), Some(Arc::clone(what))));
        }
        for (name, addresses) in &self.addressed {
            inputs.push(Input::Vips(name.clone(), addresses.clone()));
        }
        inputs
    }
}
