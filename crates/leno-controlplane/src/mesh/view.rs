//! What people see of a mesh: its proxies, what each has, and a summary.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use leno_compile::Output;
use leno_types::DnsLabel;
use serde_json::{Value, json};

use super::{
    Mesh,
    proxies::{self, health, version_text},
    versions::MAX_VERSIONS,
};
use crate::{
    distribution::{State, Type},
    documents::{CaInfo, Certificate, EdgeList, MeshStatus, Missing, ProxyResource, Vitals},
    registry::{Agent, Workload},
    times::rfc3339_of,
};

impl Mesh {
    /// What a proxy has of some types, and how far it is; `None`: there is no such proxy.
    pub(crate) fn proxy_resources(
        &self,
        host: &DnsLabel,
        kinds: &[Type],
    ) -> Option<Vec<ProxyResource>> {
        self.registry.agent(host)?;
        let Some(subscriber) = self.hub.of_agent(host) else {
            return Some(Vec::new());
        };
        let mut list = Vec::new();
        for kind in kinds {
            for (name, held, aliases) in subscriber.held(*kind) {
                let state = match held.state() {
                    State::Pending => "pending",
                    State::Acked => "acked",
                    State::Nacked(_) => "nacked",
                };
                list.push(ProxyResource {
                    type_name: kind.name().into(),
                    name: name.to_string(),
                    aliases: aliases.into_iter().map(ToString::to_string).collect(),
                    version: version_text(held),
                    state: state.into(),
                    content: self.content(*kind, name),
                });
            }
            list.extend(subscriber.absent(*kind).map(|name| ProxyResource {
                type_name: kind.name().into(),
                name: name.to_string(),
                state: "absent".into(),
                ..ProxyResource::default()
            }));
        }
        Some(list)
    }

    fn content(&self, kind: Type, name: &str) -> Value {
        let key = self.key_of(kind, name);
        let output = key.and_then(|key| self.compiler.get(&key));
        output.map_or(Value::Null, |output| output_value(&output))
    }

    /// The certificates a proxy says it holds; `None`: there is no such proxy.
    pub(crate) fn proxy_certificates(
        &self,
        host: &DnsLabel,
        now: Duration,
        wall: SystemTime,
    ) -> Option<Vec<Certificate>> {
        let agent = self.registry.agent(host)?;
        Some(self.proxy(host, agent, now, wall).certificates)
    }

    /// The edges of a window, or since the start.
    pub(crate) fn edges(&self, window: Option<Duration>, now: Duration) -> EdgeList {
        let (window_seconds, edges) = match window {
            Some(window) => self.telemetry.window(window, now),
            None => self.telemetry.totals(now),
        };
        EdgeList {
            window_seconds,
            edges,
        }
    }

    /// The authority, for people.
    pub(crate) fn ca_info(&self) -> CaInfo {
        CaInfo {
            trust_domain: self.domain().to_string(),
            bundle: self.authority.bundle().to_pem(),
            pins: self.authority.bundle().pins(),
            intermediate_not_after: rfc3339_of(self.authority.intermediate_not_after()),
            workload_ttl_seconds: self.authority.workload_ttl().as_secs(),
        }
    }

    /// Adds what this mesh knows of how the control plane is.
    pub(crate) fn vitals(&self, mut known: Vitals, since: SystemTime) -> Vitals {
        known.since = rfc3339_of(since);
        known.root_not_after = rfc3339_of(self.authority.root_not_after());
        known.intermediate_not_after = rfc3339_of(self.authority.intermediate_not_after());
        known.compiled_revision = self.revision;
        known.divergences = self.counters.divergences;
        for (name, met) in [
            (
                "leno_controlplane_members_exceeded_total",
                self.counters.members_over_limit,
            ),
            (
                "leno_controlplane_subscriptions_exceeded_total",
                self.hub.tally().over_limit,
            ),
            ("leno_services_forgotten_total", self.services_forgotten()),
        ] {
            if met > 0 {
                known.ceilings.insert(name.to_owned(), met);
            }
        }
        known
    }

    /// The summary.
    pub(crate) fn summary(&self, since: SystemTime, wall: SystemTime) -> MeshStatus {
        let mut workloads = BTreeMap::new();
        let (mut connected, mut disconnected, mut in_sync, mut nacks) = (0, 0, 0, 0);
        let mut findings = Vec::new();
        for (name, agent) in self.registry.agents() {
            for workload in agent.workloads.values() {
                *workloads
                    .entry(health(agent, workload).to_owned())
                    .or_default() += 1;
                findings.extend(self.nameless(name, agent, workload));
            }
            if agent.session.is_some() {
                connected += 1;
            } else {
                disconnected += 1;
                findings.push(format!("the agent of {name} is away"));
            }
            findings.extend(self.unreached(name, agent));
            findings.extend(self.too_old(name, agent));
            let Some(subscriber) = self.hub.of_agent(name) else {
                continue;
            };
            in_sync += usize::from(proxies::in_sync(subscriber));
            for kind in Type::ALL {
                for (resource, held, _) in subscriber.held(kind) {
                    if let State::Nacked(reason) = held.state() {
                        nacks += 1;
                        findings.push(format!(
                            "{name} refuses {} {resource}: {reason}",
                            kind.name()
                        ));
                    }
                }
            }
        }
        for (name, _) in self
            .left(wall)
            .filter(|(_, record)| record.stopped.is_none())
        {
            disconnected += 1;
            findings.push(format!("the agent of {name} is away"));
        }
        findings.truncate(100);
        MeshStatus {
            mesh: self.settings.name.to_string(),
            trust_domain: self.domain().to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            since: rfc3339_of(since),
            addresses: self
                .settings
                .advertise
                .iter()
                .map(ToString::to_string)
                .collect(),
            revision: self.revision,
            proxies_connected: connected,
            proxies_disconnected: disconnected,
            proxies_in_sync: in_sync,
            workloads,
            services: self.addressed.len(),
            nacks,
            intermediate_not_after: rfc3339_of(self.authority.intermediate_not_after()),
            findings,
        }
    }

    /// That a workload's version has no name of its own.
    fn nameless(&self, name: &DnsLabel, agent: &Agent, workload: &Workload) -> Option<String> {
        if let Some(service) = self.promised_to_others(agent, workload) {
            return Some(format!(
                "the version of {} makes no service {service}: a join token promises that name to others; choose another version",
                workload.name
            ));
        }
        let service = self.version_over_limit(name, agent, workload)?;
        Some(format!(
            "the version of {} makes no service {service}: {name} made {MAX_VERSIONS} of them today; delete some that nobody serves (leno delete service)",
            workload.name
        ))
    }

    /// That a host is not where it claims to be.
    fn unreached(&self, name: &DnsLabel, agent: &Agent) -> Option<String> {
        let unproven = self.registry.unproven(name);
        if unproven.is_empty() || agent.workloads.is_empty() {
            return None;
        }
        let list: Vec<String> = unproven.iter().map(IpAddr::to_string).collect();
        let list = list.join(", ");
        Some(format!(
            "{name} does not answer at {list}, which it claims: not used"
        ))
    }

    /// That a host's proxy denies for what it does not know (CP10).
    fn too_old(&self, name: &DnsLabel, agent: &Agent) -> impl Iterator<Item = String> {
        let missing = self.missing(agent).into_iter();
        missing.map(move |Missing { feature, workloads }| {
            let workloads = workloads.join(", ");
            format!("{name} does not know {feature} and lets nobody in to {workloads}: update Leno there")
        })
    }
}

/// What a proxy was told, as JSON for people: the shape of the wire.
fn output_value(output: &Output) -> Value {
    match output {
        Output::Mesh(mesh) => {
            let texts =
                |list: &[leno_ir::Prefix]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
            json!({
                "name": mesh.name.as_str(),
                "trust_domain": mesh.trust_domain.as_str(),
                "prefixes": texts(&mesh.prefixes),
                "addresses": mesh.addresses,
                "vip_prefixes": texts(&[mesh.vip_v4, mesh.vip_v6]),
                "domains": mesh.domains.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "namespaces": mesh.namespaces.iter().map(DnsLabel::as_str).collect::<Vec<_>>(),
            })
        }
        Output::OwnWorkload(own) => json!({
            "uid": own.uid.to_string(),
            "namespace": own.namespace.as_str(),
            "name": own.name,
            "identity": own.identity.as_str(),
            "version": own.version,
            "service": own.service.as_ref().map(ToString::to_string),
            "addresses": own.addresses,
            "mtls": mtls(&own.mtls),
            "ports": own.ports.iter().map(|port| json!({
                "port": port.port,
                "protocol": port.protocol.map(leno_types::AppProtocol::as_str),
                "published": port.published,
                "mtls": port.mtls.as_ref().map(mtls),
                "services": port.services.iter().map(|of| format!("{}:{}", of.service, of.port)).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
            "access": own.access.iter().map(|rule| json!({
                "action": format!("{:?}", rule.action).to_ascii_lowercase(),
                "principals": rule.principals.iter().map(principal).collect::<Vec<_>>(),
                "namespaces": rule.namespaces,
                "ports": rule.ports,
                "from": provenance(&rule.provenance),
            })).collect::<Vec<_>>(),
        }),
        Output::Endpoints(endpoints) => json!({
            "service": endpoints.service.to_string(),
            "endpoints": endpoints.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        }),
        Output::Destination(leno_ir::Destination::Host(host)) => json!({
            "address": host.address,
            "endpoints": host.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        }),
        Output::Destination(leno_ir::Destination::Hostname(of)) => json!({
            "hostname": of.name.as_str(),
            "service": of.service.to_string(),
        }),
        Output::Destination(leno_ir::Destination::Service(service)) => json!({
            "service": service.name.to_string(),
            "vips": service.vips,
            "headless": service.headless,
            "ports": service.ports.iter().map(|port| json!({
                "port": port.port,
                "name": port.name,
                "protocol": port.protocol.map(leno_types::AppProtocol::as_str),
            })).collect::<Vec<_>>(),
            "routes": service.routes.iter().map(route).collect::<Vec<_>>(),
        }),
    }
}

fn principal(principal: &leno_ir::Principal) -> String {
    match principal {
        leno_ir::Principal::AnyAuthenticated => "*".into(),
        leno_ir::Principal::Exact(identity) => identity.to_string(),
        leno_ir::Principal::Prefix(prefix) => format!("{prefix}*"),
    }
}

fn endpoint(endpoint: &leno_ir::Endpoint) -> Value {
    json!({
        "uid": endpoint.uid.to_string(),
        "name": endpoint.name,
        "namespace": endpoint.namespace,
        "identity": endpoint.identity.as_str(),
        "version": endpoint.version,
        "addresses": endpoint.addresses,
        "hbone_port": endpoint.hbone_port,
        "health": format!("{:?}", endpoint.health).to_ascii_lowercase(),
        "ports": endpoint.ports.iter().map(|port| json!({
            "service_port": port.service_port,
            "port": port.workload_port,
            "protocol": port.protocol.map(leno_types::AppProtocol::as_str),
            "published": port.published,
        })).collect::<Vec<_>>(),
    })
}

fn route(route: &leno_ir::Route) -> Value {
    json!({
        "from": provenance(&route.provenance),
        "ports": route.ports,
        "matches": route.matches.iter().map(|of| json!({
            "path": of.path.as_ref().map(|path| match path {
                leno_ir::PathMatch::Exact(path) => format!("= {path}"),
                leno_ir::PathMatch::Prefix(path) => path.clone(),
            }),
            "method": of.method,
            "headers": of.headers.iter().map(field).collect::<Vec<_>>(),
            "query": of.query.iter().map(field).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "backends": route.backends.iter().map(|backend| json!({
            "service": backend.service.to_string(),
            "port": backend.port,
            "weight": backend.weight,
            "invalid": backend.invalid,
        })).collect::<Vec<_>>(),
        "request_timeout_ms": route.request_timeout.map(|timeout| timeout.as_millis().to_string()),
    })
}

fn field(of: &leno_ir::HeaderMatch) -> String {
    let leno_ir::ValueMatch::Exact(value) = &of.value;
    format!("{}={value}", of.name)
}

fn mtls(of: &leno_ir::Mtls) -> Value {
    json!({
        "mode": format!("{:?}", of.mode).to_ascii_lowercase(),
        "from": of.provenance.as_ref().map(provenance),
    })
}

fn provenance(of: &leno_ir::Provenance) -> Value {
    json!({
        "kind": of.kind,
        "namespace": of.namespace,
        "name": of.name,
        "generation": of.generation,
        "field": of.field_path,
        "source": of.source,
    })
}
