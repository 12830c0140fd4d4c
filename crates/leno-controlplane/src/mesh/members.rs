//! The mesh as every proxy knows it: its networks, and the addresses of members outside of them.
//!
//! Owns which addresses are the mesh's own. Invariant: the end of a lease takes no address away, nor does a control
//! plane's restart: what is called there is refused, and never sent in clear to whoever is there now.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use leno_ir::Prefix;

use super::Mesh;
use crate::{
    registry::{Effects, SessionId},
    tokens::AgentRecord,
    vips,
};

/// Members that lie in no prefix and are listed singly (CP7).
const MAX_SINGLE_MEMBERS: usize = 1_024;

impl Mesh {
    /// Notes in its record where each agent is reached, so that it is known when the agent is gone.
    pub(super) fn note_places(&mut self, now: u64) {
        for (name, record) in &mut self.known_agents {
            let news = match self.registry.agent(name) {
                _ if record.revoked => record.places.note(&[], now),
                Some(agent) => record.places.note(&agent.place.addresses, now),
                None => false,
            };
            if news {
                self.noted.insert(name.clone());
            }
        }
    }

    /// After a restart an agent is where it had proven to be: otherwise it would be told of fewer addresses, and its callers
    /// too, until it has proven them again. Who left before the restart proves anew.
    pub(super) fn prove_again(&mut self, session: SessionId, now: Duration, fx: &mut Effects) {
        let Some(agent) = self.sessions.get(&session).map(|of| of.agent.clone()) else {
            return;
        };
        let record = self.known_agents.get(&agent);
        let here = record.filter(|record| record.stopped.is_none());
        if let Some(record) = here.filter(|_| self.hold(now).grace.is_some()) {
            for address in record.places.now().to_vec() {
                self.registry.prove(&agent, address, fx);
            }
        }
    }

    /// Whether an agent that is not there said so: otherwise it is missed.
    pub(super) fn note_stopped(&mut self, session: SessionId, stopped: Option<u64>) {
        let Some(agent) = self.sessions.get(&session).map(|of| &of.agent) else {
            return;
        };
        let record = self.known_agents.get_mut(agent);
        if let Some(record) = record.filter(|record| record.stopped != stopped) {
            record.stopped = stopped;
            self.noted.insert(agent.clone());
        }
    }

    /// The mesh as every proxy knows it.
    pub(super) fn mesh_ir(&mut self, now: u64) -> leno_ir::Mesh {
        let (mesh, over) = self.as_known(now);
        if over > 0 {
            self.counters.members_over_limit =
                self.counters.members_over_limit.saturating_add(over as u64);
            tracing::warn!(
                over,
                "members outside every network of the mesh are more than can be listed: give their network with --prefix or a token's --cidr"
            );
        }
        mesh
    }

    /// The same, and how many members cannot be listed.
    pub(super) fn as_known(&self, now: u64) -> (leno_ir::Mesh, usize) {
        let agent_networks = self
            .known_agents
            .values()
            .filter_map(|record| record.scope.cidr);
        let mut prefixes: Vec<Prefix> = self
            .settings
            .prefixes
            .iter()
            .copied()
            .chain(self.token_networks.values().copied())
            .chain(agent_networks)
            .collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        let (addresses, over) = self.single_members(&prefixes, now);
        let mesh = leno_ir::Mesh {
            name: self.settings.name.clone(),
            trust_domain: self.domain().clone(),
            trust_bundle: self.authority.bundle().to_pem(),
            prefixes,
            addresses: addresses.into_iter().collect(),
            vip_v4: vips::prefix_v4(),
            vip_v6: vips::prefix_v6(),
            namespaces: self.namespaces.clone(),
            // Filled in by the compiler.
            domains: BTreeSet::new(),
        };
        (mesh, over)
    }

    /// Addresses of members outside of `prefixes`, and how many more there are than can be listed. Who holds a lease
    /// comes first, then who was heard of last.
    fn single_members(&self, prefixes: &[Prefix], now: u64) -> (BTreeSet<IpAddr>, usize) {
        let mut away: Vec<&AgentRecord> = self.known_agents.values().collect();
        away.sort_by_key(|record| std::cmp::Reverse(record.created.max(record.renewed)));
        let members = self
            .registry
            .agents()
            .flat_map(|(_, agent)| agent.place.addresses.iter().copied());
        let resting = away.iter().flat_map(|record| record.places.claimed(now));
        let (mut listed, mut over) = (BTreeSet::new(), BTreeSet::new());
        for address in members.chain(resting) {
            if prefixes.iter().any(|prefix| prefix.contains(address)) {
                continue;
            }
            if listed.len() < MAX_SINGLE_MEMBERS {
                listed.insert(address);
            } else if !listed.contains(&address) {
                over.insert(address);
            }
        }
        (listed, over.len())
    }
}
