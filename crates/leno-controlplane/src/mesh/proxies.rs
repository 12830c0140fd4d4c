//! What is known of each proxy: whether it is there, what it acknowledged, refused, or is too old for.
//!
//! Owns the judgement of a proxy in one word. Invariant: every member is told of until its membership ends, also one that
//! is away and holds no lease any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use leno_compile::RegisteredPort;
use leno_ir::Feature;
use leno_types::{DnsLabel, TrustDomain, WorkloadUid};

use super::Mesh;
use crate::{
    distribution::{Held, State, Subscriber, Type},
    documents::{Certificate, Missing, Nack, Proxy, ProxyWorkload},
    registry::{Agent, Gone, Workload},
    skew::Skew,
    times::{rfc3339, rfc3339_of, unix},
    tokens::AgentRecord,
};

impl Mesh {
    /// Its proxies; `wall` is the time on the wall after `now` of uptime.
    pub(crate) fn proxies(&self, now: Duration, wall: SystemTime) -> Vec<Proxy> {
        let here = self.registry.agents();
        let mut list: Vec<Proxy> = here
            .map(|(name, agent)| self.proxy(name, agent, now, wall))
            .collect();
        let left = self
            .left(wall)
            .map(|(name, record)| self.left_proxy(name, record, now, wall));
        list.extend(left);
        list.sort_by(|one, other| one.host.cmp(&other.host));
        list
    }

    /// Members that hold no lease.
    pub(super) fn left(&self, wall: SystemTime) -> impl Iterator<Item = (&DnsLabel, &AgentRecord)> {
        let known = self.known_agents.iter();
        known.filter(move |(name, record)| {
            let gone = self.registry.agent(name).is_none();
            gone && !record.revoked && !record.is_over(unix(wall))
        })
    }

    /// Who is connected now.
    pub(crate) fn connected_agents(&self) -> Vec<DnsLabel> {
        let agents = self.registry.agents();
        let connected = agents.filter(|(_, agent)| agent.session.is_some());
        connected.map(|(name, _)| name.clone()).collect()
    }

    /// Of one that holds a lease.
    pub(super) fn proxy(
        &self,
        name: &DnsLabel,
        agent: &Agent,
        now: Duration,
        wall: SystemTime,
    ) -> Proxy {
        let state = self.states.get(name).cloned().unwrap_or_default();
        let subscriber = self.hub.of_agent(name);
        let connected = agent.session.is_some();
        let (resources, nacks) = subscriber.map(held).unwrap_or_default();
        let missing: Vec<Missing> = self.missing(agent);
        let is_in_sync = subscriber.is_some_and(in_sync);
        let certificates = state.certificates.iter().map(|certificate| Certificate {
            uid: certificate.uid.clone(),
            identity: certificate.identity.clone(),
            serial: certificate.serial.clone(),
            not_after: rfc3339(certificate.not_after),
        });
        let word = match (connected, is_in_sync) {
            (false, _) => "away",
            (true, _) if !nacks.is_empty() => "refuses",
            (true, _) if !missing.is_empty() => "denies",
            (true, true) => "in-sync",
            (true, false) => "behind",
        };
        Proxy {
            host: name.to_string(),
            state: word.into(),
            addresses: agent.place.addresses.clone(),
            unproven: self.registry.unproven(name),
            workloads: agent
                .workloads
                .values()
                .map(|workload| shown(agent, workload, self.domain()))
                .collect(),
            skew: skew(&agent.version),
            version: agent.version.clone(),
            connected,
            since: rfc3339_of(match connected {
                true => agent.since,
                false => heard(agent.heard, now, wall),
            }),
            rss_bytes: state.rss_bytes,
            pss_bytes: state.pss_bytes,
            config_version: state.config_version,
            revision: self.revision,
            acked: match is_in_sync {
                true => Some(self.revision),
                false => subscriber.and_then(Subscriber::acked),
            },
            pending: subscriber.map_or(0, Subscriber::due),
            resources,
            nacks,
            features: agent.features.clone(),
            missing,
            certificates: certificates.collect(),
        }
    }

    /// Of one that holds none.
    fn left_proxy(
        &self,
        name: &DnsLabel,
        record: &AgentRecord,
        now: Duration,
        wall: SystemTime,
    ) -> Proxy {
        let gone = self.registry.gone(name);
        let version = gone.map(|gone| gone.version.clone()).unwrap_or_default();
        let (state, since) = match (record.stopped, gone) {
            (Some(stopped), _) => ("stopped", rfc3339(stopped)),
            (None, Some(Gone { heard: at, .. })) => ("away", rfc3339_of(heard(*at, now, wall))),
            // It did not come back since this control plane started, and was not asked before.
            (None, None) => ("away", String::new()),
        };
        Proxy {
            host: name.to_string(),
            state: state.into(),
            addresses: gone.map(|gone| gone.addresses.clone()).unwrap_or_default(),
            skew: gone.map_or(String::new(), |gone| skew(&gone.version)),
            version,
            since,
            revision: self.revision,
            ..Proxy::default()
        }
    }

    /// What an agent is too old for, by feature: the workloads to which it lets nobody in.
    pub(super) fn missing(&self, agent: &Agent) -> Vec<Missing> {
        let mut missing: BTreeMap<Feature, Vec<String>> = BTreeMap::new();
        for workload in agent.workloads.values() {
            for feature in self.lacks(agent, workload.uid) {
                missing
                    .entry(feature)
                    .or_default()
                    .push(workload.name.to_string());
            }
        }
        let missing = missing.into_iter();
        missing
            .map(|(feature, workloads)| Missing {
                feature: feature.to_string(),
                workloads,
            })
            .collect()
    }

    /// The features that a workload needs and its agent does not know.
    pub(crate) fn lacks(&self, agent: &Agent, uid: WorkloadUid) -> BTreeSet<Feature> {
        let knows = |feature: &Feature| agent.features.iter().any(|of| of == feature.name());
        let needs = self.compiler.needs(uid).iter().copied();
        needs.filter(|feature| !knows(feature)).collect()
    }
}

/// Whether it runs the newest of everything; one that has not asked for anything yet runs nothing.
pub(super) fn in_sync(subscriber: &Subscriber) -> bool {
    subscriber.is_in_sync() && subscriber.acked().is_some()
}

/// Acknowledged resources by type, and those that were refused.
fn held(subscriber: &Subscriber) -> (BTreeMap<String, usize>, Vec<Nack>) {
    let (mut resources, mut nacks) = (BTreeMap::new(), Vec::new());
    for kind in Type::ALL {
        let mut acked = 0;
        for (resource, held, _) in subscriber.held(kind) {
            match held.state() {
                State::Acked => acked += 1,
                State::Pending => {}
                State::Nacked(reason) => nacks.push(Nack {
                    type_name: kind.name().into(),
                    resource: resource.to_string(),
                    version: version_text(held),
                    reason: reason.to_owned(),
                }),
            }
        }
        resources.insert(kind.name().to_owned(), acked);
    }
    (resources, nacks)
}

/// The version sent last, for people; one that no control plane gives is not repeated.
pub(super) fn version_text(held: &Held) -> String {
    held.version()
        .map_or_else(String::new, |version| version.to_string())
}

fn skew(version: &str) -> String {
    Skew::between(version, env!("CARGO_PKG_VERSION"))
        .word()
        .into()
}

/// When it was on the wall at `at` of uptime.
fn heard(at: Duration, now: Duration, wall: SystemTime) -> SystemTime {
    wall.checked_sub(now.saturating_sub(at)).unwrap_or(wall)
}

pub(super) fn health(agent: &Agent, workload: &Workload) -> &'static str {
    match (agent.is_unknown(), workload.healthy) {
        (true, _) => "unknown",
        (false, true) => "healthy",
        (false, false) => "unhealthy",
    }
}

fn shown(agent: &Agent, workload: &Workload, domain: &TrustDomain) -> ProxyWorkload {
    let port = |port: &RegisteredPort| {
        let service = port
            .service_port
            .map_or_else(String::new, |number| format!("{number}:"));
        let protocol = port
            .protocol
            .map_or_else(String::new, |protocol| format!("/{protocol}"));
        format!("{service}{}{protocol}", port.workload_port)
    };
    ProxyWorkload {
        uid: workload.uid.to_string(),
        name: workload.name.to_string(),
        namespace: workload.namespace.to_string(),
        service: workload.service.as_ref().map(ToString::to_string),
        version: workload.version_text().to_owned(),
        identity: workload.identity(domain).to_string(),
        health: health(agent, workload).into(),
        ports: workload.ports.iter().map(port).collect(),
    }
}
