//! How a mesh's workloads are called, and who may speak of them.
//!
//! Owns the names of workloads that are there, and for late reports of those that were. Refuses an edge whose
//! reporting side its agent does not host: what one host says of another's traffic is not believed.
//! Invariant: at most twice as many names as there are workloads, and [`SPARE`] more.

use std::collections::{BTreeMap, BTreeSet};

use leno_types::{DnsLabel, Identity};
use leno_wire::agent::EdgeDelta;

use crate::telemetry;

/// Names of workloads that are gone, beside as many as there are workloads.
const SPARE: usize = 4_096;
/// Hosts of one name; only the end of its id tells two workloads of a name apart, so there may be a second.
const MAX_HOSTS: usize = 16;
/// Where a proxy counts what is beyond its own ceiling on edges.
const OTHER: &str = "other";

/// What is known of a name.
#[derive(Debug, Default)]
struct Known {
    shown: String,
    hosts: Vec<(DnsLabel, Identity)>,
}

/// Names of workloads.
#[derive(Debug, Default)]
pub(super) struct WorkloadNames(BTreeMap<String, Known>);

impl WorkloadNames {
    /// A workload is there: what people call it, where it runs and who it is.
    pub(super) fn insert(
        &mut self,
        name: &str,
        shown: String,
        agent: &DnsLabel,
        identity: &Identity,
    ) {
        let known = self.0.entry(name.to_owned()).or_default();
        known.shown = shown;
        let host = (agent.clone(), identity.clone());
        if known.hosts.len() < MAX_HOSTS && !known.hosts.contains(&host) {
            // Nearly always it is the only one.
            known.hosts.reserve_exact(1);
            known.hosts.push(host);
        }
    }

    /// Forgets those of workloads that are gone, once they are many.
    pub(super) fn forget<'a>(&mut self, there: usize, names: impl Iterator<Item = &'a str>) {
        if self.0.len() > there.saturating_mul(2).saturating_add(SPARE) {
            let there: BTreeSet<&str> = names.collect();
            self.0.retain(|name, _| there.contains(name.as_str()));
        }
    }

    /// Whether the side that an edge was seen from is a workload of this agent, with its identity or none.
    pub(super) fn may_report(&self, agent: &DnsLabel, edge: &EdgeDelta) -> bool {
        let (workload, identity, peer) = match edge.reporter {
            0 => (
                &edge.source_workload,
                &edge.source_identity,
                &edge.destination_workload,
            ),
            1 => (
                &edge.destination_workload,
                &edge.destination_identity,
                &edge.source_workload,
            ),
            _ => return false,
        };
        let of_agent = self.0.get(workload).is_some_and(|known| {
            known.hosts.iter().any(|(host, proven)| {
                host == agent && (identity.is_empty() || *identity == proven.as_str())
            })
        });
        let nobody = || edge.source_identity.is_empty() && edge.destination_identity.is_empty();
        of_agent || (workload == OTHER && peer == OTHER && nobody())
    }
}

impl telemetry::Names for WorkloadNames {
    fn display(&self, workload: &str) -> Option<String> {
        self.0.get(workload).map(|known| known.shown.clone())
    }
}
