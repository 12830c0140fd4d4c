//! What each port does with plaintext, which policy says so, and who calls it in clear.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use super::Mesh;
use crate::documents::{MtlsCaller, MtlsList, MtlsPort};

impl Mesh {
    /// Every port of every workload.
    pub(crate) fn mtls(&self, now: Duration) -> MtlsList {
        let mut callers: BTreeMap<_, Vec<MtlsCaller>> = BTreeMap::new();
        let hosts = self.hosts_by_address();
        for ((workload, port, address), calls) in self.telemetry.outsiders.recent(now) {
            let of = callers.entry((*workload, *port)).or_default();
            of.push(MtlsCaller {
                address: *address,
                host: hosts.get(address).cloned(),
                calls: calls.calls,
                refused: calls.refused,
                seconds_ago: calls.ago.as_secs(),
            });
        }
        let agents = self.registry.agents();
        let workloads = agents.flat_map(|(host, agent)| {
            agent
                .workloads
                .values()
                .map(move |workload| (host, workload))
        });
        let mut ports = Vec::new();
        for (host, workload) in workloads {
            for port in self.compiler.mtls_of(workload.uid) {
                let policy = port.provenance.as_ref();
                ports.push(MtlsPort {
                    namespace: workload.namespace.to_string(),
                    services: port
                        .services
                        .iter()
                        .map(|name| name.name.to_string())
                        .collect(),
                    workload: workload.name.to_string(),
                    host: host.to_string(),
                    port: port.port,
                    published: port.published,
                    mode: port.mode.into(),
                    scope: port.scope.into(),
                    policy: policy.map(|of| format!("{}/{}", of.namespace, of.name)),
                    source: policy
                        .map(|of| of.source.clone())
                        .filter(|text| !text.is_empty()),
                    callers: callers
                        .remove(&(workload.uid, port.port))
                        .unwrap_or_default(),
                });
            }
        }
        ports.sort_by(|one, other| {
            let key = |of: &MtlsPort| (of.namespace.clone(), of.workload.clone(), of.port);
            key(one).cmp(&key(other))
        });
        MtlsList { ports }
    }

    pub(super) fn hosts_by_address(&self) -> BTreeMap<IpAddr, String> {
        let agents = self.registry.agents();
        agents
            .flat_map(|(name, agent)| {
                let addresses = agent.place.addresses.iter();
                addresses.map(move |address| (*address, name.to_string()))
            })
            .collect()
    }
}
