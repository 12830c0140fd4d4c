//! What the simulation (tests/simulate) runs of an agent: its side of discovery, with what it holds shown.

use std::collections::BTreeMap;

use leno_wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource};

use crate::ads::{AdsClient, Change, Type};

/// An agent's side of discovery.
#[derive(Debug, Default)]
pub struct Discovery(AdsClient);

/// What an agent asks for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// What an address or a name means.
    Destination,
    /// Who serves.
    Endpoints,
}

impl From<Wanted> for Type {
    fn from(wanted: Wanted) -> Self {
        match wanted {
            Wanted::Destination => Self::Destination,
            Wanted::Endpoints => Self::Endpoints,
        }
    }
}

impl Discovery {
    /// What is sent first on a new stream.
    #[must_use]
    pub fn connect(&self, node: &Node) -> Vec<DeltaDiscoveryRequest> {
        self.0.connect(node)
    }

    /// Asks for a resource.
    pub fn subscribe(&mut self, wanted: Wanted, name: &str) -> Option<DeltaDiscoveryRequest> {
        self.0.subscribe(wanted.into(), name)
    }

    /// Asks for it no longer.
    pub fn unsubscribe(&mut self, wanted: Wanted, name: &str) -> Option<DeltaDiscoveryRequest> {
        self.0.unsubscribe(wanted.into(), name)
    }

    /// Takes a response in: the workloads of this host of which it says that there are none, and what to answer.
    pub fn handle(
        &mut self,
        response: DeltaDiscoveryResponse,
    ) -> (Vec<String>, DeltaDiscoveryRequest) {
        let (changes, answer) = self.0.handle(response);
        let gone = changes.into_iter().filter_map(|change| match change {
            Change::WorkloadGone(uid) => Some(uid.to_string()),
            _ => None,
        });
        (gone.collect(), answer)
    }

    /// The version that is held of a resource.
    #[must_use]
    pub fn version(&self, kind: &str, name: &str) -> Option<String> {
        self.0.versions().get(kind)?.get(name).cloned()
    }

    /// What is held, by type and name.
    #[must_use]
    pub fn held(&self) -> BTreeMap<(String, String), Resource> {
        let types = self.0.save().into_iter();
        types
            .flat_map(|of| {
                let kind = of.type_url;
                let held = of.resources.into_iter();
                held.map(move |resource| ((kind.clone(), resource.name.clone()), resource))
            })
            .collect()
    }

    /// Ends and begins again, with what was written down.
    #[must_use]
    pub fn restarted(&self) -> Self {
        let mut client = AdsClient::default();
        client.restore(self.0.save());
        Self(client)
    }
}
