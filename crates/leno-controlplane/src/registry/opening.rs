//! A stream of an agent opens: whose it is, where it comes from, and at which addresses its host is reached.
//!
//! Refuses who comes from where its token does not allow. Invariant: an address is used only when it is proven.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use leno_compile::Place;
use leno_types::DnsLabel;
use leno_wire::agent as wire;

use crate::told::one_line;

use super::{
    Agent, AgentScope, CONFIRM, CONFIRM_LEAST, Effects, Lease, MAX_ADDRESSES, MAX_AGENTS, Refused,
    Registry, SessionId,
};

/// A connection's opening.
#[derive(Clone, Debug)]
pub struct Opening<'a> {
    /// Which stream.
    pub session: SessionId,
    /// Whose, by its certificate.
    pub agent: &'a DnsLabel,
    /// What that agent may host.
    pub scope: AgentScope,
    /// Where the stream comes from.
    pub source: IpAddr,
    /// What it says.
    pub hello: &'a wire::Hello,
    /// The wall clock.
    pub wall: SystemTime,
}

impl Registry {
    /// A stream opens: the agent's lease begins, or goes on.
    ///
    /// # Errors
    /// When it comes from where its token does not allow, or a ceiling is reached.
    pub fn open(
        &mut self,
        opening: Opening<'_>,
        now: Duration,
        fx: &mut Effects,
    ) -> Result<(), Refused> {
        let Opening {
            session,
            agent: name,
            scope,
            source,
            hello,
            wall,
        } = opening;
        if !scope.allows_address(source) {
            return Err(Refused::Invalid {
                field: "addresses",
                reason: format!("this host calls from {source}, and its join token is for {scope}"),
            });
        }
        if hello.addresses.len() > MAX_ADDRESSES {
            return Err(Refused::Limit(format!(
                "an agent has at most {MAX_ADDRESSES} addresses"
            )));
        }
        if !self.agents.contains_key(name) && self.agents.len() >= MAX_AGENTS {
            return Err(Refused::Limit(format!(
                "a mesh has at most {MAX_AGENTS} agents at once"
            )));
        }
        let claimed = parse_addresses(&hello.addresses)?;
        let hbone_port = match hello.hbone_port {
            0 => leno_types::ports::HBONE,
            port => u16::try_from(port).map_err(|_| Refused::Invalid {
                field: "hbone_port",
                reason: format!("{port} is no port"),
            })?,
        };
        let previous = self.agents.remove(name);
        if let Some(old) = previous.as_ref().and_then(|agent| agent.session) {
            self.sessions.remove(&old);
            self.counters.replaced = self.counters.replaced.saturating_add(1);
            fx.end
                .push((old, "a newer session of this agent took over"));
        }
        let mut proven = vec![source];
        let mut workloads = BTreeMap::new();
        if let Some(previous) = previous {
            let still = |address: &IpAddr| claimed.contains(address) && *address != source;
            proven.extend(previous.proven.iter().copied().filter(still));
            workloads = previous.workloads;
        }
        for workload in workloads.values_mut() {
            let workload = Arc::make_mut(workload);
            // Since it was named last, not since this connection: one that flaps would keep for ever what has ended.
            let by = workload.name_by.unwrap_or(now.saturating_add(CONFIRM));
            workload.name_by = Some(by.max(now.saturating_add(CONFIRM_LEAST)));
            fx.changed
                .insert(workload.uid, Arc::clone(&workload.program));
        }
        let mut agent = Agent {
            scope,
            session: Some(session),
            place: Arc::default(),
            version: one_line(&hello.version, 64),
            features: short_texts(&hello.features),
            since: wall,
            confirm_by: (workloads.values()).filter_map(|of| of.name_by).min(),
            workloads,
            host: one_line(&hello.host, 253),
            source,
            claimed,
            proven,
            heard: now,
            pinged: now,
            sequence: 0,
            lease: Lease::Live,
        };
        let addresses = agent.effective();
        let unproven = agent.claimed.len().saturating_sub(addresses.len());
        agent.place = Arc::new(Place {
            addresses,
            hbone_port,
        });
        self.counters.unproven = self.counters.unproven.saturating_add(unproven as u64);
        self.end_former(&agent, fx);
        self.sessions.insert(session, name.clone());
        self.agents.insert(name.clone(), Box::new(agent));
        self.gone.remove(name);
        fx.members = true;
        Ok(())
    }

    /// A machine has one agent at an address and port. Where one comes under another name (the host joined anew, its old
    /// certificate lost), the one that was there before and is silent is gone, and its workloads with it. The host's name
    /// is its own word, and the address may be many hosts': so it ends nobody who expects a successor, nor one that may
    /// host what it may not; those end with their leases.
    fn end_former(&mut self, comes: &Agent, fx: &mut Effects) {
        let is_former = |other: &Agent| {
            other.session.is_none()
                && !matches!(other.lease, Lease::HandedOver { .. })
                && other.scope == comes.scope
                && other.host == comes.host
                && other.place.hbone_port == comes.place.hbone_port
                && (other.place.addresses.iter())
                    .any(|address| comes.place.addresses.contains(address))
        };
        let former: Vec<DnsLabel> = self
            .agents
            .iter()
            .filter(|(_, other)| is_former(other))
            .map(|(name, _)| name.clone())
            .collect();
        for name in former {
            self.counters.superseded = self.counters.superseded.saturating_add(1);
            self.remove(&name, fx);
        }
    }

    /// An agent has called, with its certificate, from an address: it is proven to be its own.
    pub fn prove(&mut self, name: &DnsLabel, address: IpAddr, fx: &mut Effects) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        if agent.proven.len() >= MAX_ADDRESSES || agent.proven.contains(&address) {
            return;
        }
        agent.proven.push(address);
        let addresses = agent.effective();
        if addresses != agent.place.addresses {
            agent.place = Arc::new(Place {
                addresses,
                hbone_port: agent.place.hbone_port,
            });
            fx.changed.extend(agent.programs());
            fx.members = true;
        }
    }

    /// What an agent claims as its address and has not proven.
    #[must_use]
    pub fn unproven(&self, name: &DnsLabel) -> Vec<IpAddr> {
        let Some(agent) = self.agents.get(name).filter(|agent| !agent.scope.any) else {
            return Vec::new();
        };
        let open = |address: &&IpAddr| {
            !agent.proven.contains(address) && agent.scope.allows_address(**address)
        };
        agent.claimed.iter().filter(open).copied().collect()
    }
}

/// At most 64 texts of at most 64 characters: what one agent may have us keep.
fn short_texts(texts: &[String]) -> Vec<String> {
    texts
        .iter()
        .take(64)
        .map(|text| one_line(text, 64))
        .collect()
}

fn parse_addresses(texts: &[String]) -> Result<Vec<IpAddr>, Refused> {
    let mut addresses = Vec::new();
    for text in texts {
        let address: IpAddr = text.parse().map_err(|_| Refused::Invalid {
            field: "addresses",
            reason: format!(
                "\"{}\" is no address",
                text.chars().take(64).collect::<String>()
            ),
        })?;
        let address = address.to_canonical();
        if address.is_unspecified() || address.is_multicast() {
            return Err(Refused::Invalid {
                field: "addresses",
                reason: format!("{address} is nobody's"),
            });
        }
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}
