//! From the compiler's inputs to the streams that asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use leno_compile::{Input, Key, Output};
use leno_config::{IpFamily, Kind};
use leno_ir::{Destination, ResourceName};
use leno_runtime::Stop;
use leno_store::{Expect, Key as StoreKey, Write};
use leno_types::{DnsLabel, ServiceName, WorkloadUid};
use leno_wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use prost::Message;
use tokio::sync::mpsc;
use tonic::Status;

use super::{Mesh, Outgoing, sources::VIPS};
use crate::{
    distribution::{ProtocolError, Resource as Sent, StreamId, Type, View},
    times::unix,
    told::one_line,
    vips::Vip,
};

/// Answers that may wait to be sent on one stream: more than all windows together.
pub(crate) const ADS_QUEUE: usize = 64;
/// So much of a refusal is logged.
const MAX_REASON: usize = 2_000;
/// How often a few of the compiled resources are compiled afresh and compared.
const AUDIT_EVERY: Duration = Duration::from_secs(1);
/// How many: an hour is enough for 230,000.
const AUDITED: usize = 64;
/// Least time between two publications of statuses and derived objects for which nobody waits.
pub(super) const PUBLISH_EVERY: Duration = Duration::from_millis(50);

/// What one agent may see.
struct AgentView<'a> {
    catalog: &'a crate::distribution::Catalog,
    own: Option<&'a BTreeSet<WorkloadUid>>,
}

impl View for AgentView<'_> {
    fn resolve(&self, kind: Type, asked: &str) -> Option<Arc<Sent>> {
        self.catalog.resolve(kind, asked).cloned()
    }

    fn all(&self, kind: Type) -> Vec<Arc<Sent>> {
        match kind {
            Type::Mesh => self.catalog.get(kind, MESH).cloned().into_iter().collect(),
            Type::OwnWorkload => self
                .own
                .into_iter()
                .flatten()
                .filter_map(|uid| self.catalog.get(kind, &uid.to_string()).cloned())
                .collect(),
            Type::Endpoints | Type::Destination => Vec::new(),
        }
    }
}

/// The name of the one resource of type Mesh.
const MESH: &str = "mesh";

impl Mesh {
    /// Compiles what changed, and notes whom it concerns.
    pub(super) fn compile(&mut self, wall: SystemTime, writes: &mut Vec<Write>) {
        if self.mesh_due {
            self.mesh_due = false;
            self.note_places(unix(wall));
            let mesh = self.mesh_ir(unix(wall));
            self.pending.push(Input::Mesh(Arc::new(mesh)));
        }
        self.apply_pending();
        if std::mem::take(&mut self.services_due) {
            self.remember_services(unix(wall), writes);
            self.apply_pending();
            self.address_services(unix(wall), writes);
            let namespaces = self.vips().namespaces();
            if namespaces != self.namespaces {
                self.namespaces = namespaces;
                let mesh = self.mesh_ir(unix(wall));
                self.pending.push(Input::Mesh(Arc::new(mesh)));
            }
            self.apply_pending();
        }
    }

    fn apply_pending(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let inputs = std::mem::take(&mut self.pending);
        let started = Instant::now();
        let outputs = self.compiler.apply(inputs);
        self.compiled.record(started.elapsed());
        self.counters.outputs = self.counters.outputs.saturating_add(outputs.len() as u64);
        self.publish_due = true;
        for (key, output) in outputs {
            self.set_output(&key, output.as_deref());
        }
    }

    /// Looks at a few keys whether they are what compiling afresh gives; mends and tells what is not (CP11).
    pub(super) fn audit(&mut self, now: Duration) {
        if now < self.audited.saturating_add(AUDIT_EVERY) || !self.pending.is_empty() {
            return;
        }
        self.audited = now;
        let audit = self.compiler.audit(AUDITED);
        self.counters.audited = self.counters.audited.saturating_add(audit.compared);
        for (key, output) in audit.mended {
            self.counters.divergences = self.counters.divergences.saturating_add(1);
            tracing::error!(mesh = %self.name(), ?key, "what was compiled step by step differs from a fresh compilation, which replaces it; this is a fault of Leno, please report it");
            self.set_output(&key, output.as_deref());
            self.services_due = true;
            self.publish_due = true;
        }
    }

    fn set_output(&mut self, key: &Key, output: Option<&Output>) {
        let (kind, name) = resource_of(key);
        let (body, addresses) = output.map(output_body).unzip();
        let addresses = addresses.unwrap_or_default();
        let nobody = matches!(output, Some(Output::Endpoints(of)) if of.endpoints.is_empty());
        let asked = match nobody {
            true => self.catalog.set_nobody(&name, body.unwrap_or_default()),
            false => self.catalog.set(kind, &name, body, &addresses),
        };
        if asked.is_empty() {
            return;
        }
        let touched = match key {
            Key::Mesh => self.hub.changed_wildcard(kind, None),
            Key::OwnWorkload(uid) => match self.own.get(uid) {
                Some(agent) => self.hub.changed_wildcard(kind, Some(&agent.clone())),
                None => BTreeSet::new(),
            },
            Key::Destination(_) | Key::Host(_) | Key::Hostname(_) | Key::Endpoints(_) => {
                self.hub.changed(kind, &asked)
            }
        };
        self.ready.extend(touched);
    }

    /// Gives every service its addresses, and takes them from those that ended.
    fn address_services(&mut self, now: u64, writes: &mut Vec<Write>) {
        let services = self.compiler.services();
        let there: BTreeSet<&ServiceName> = services.iter().map(|service| &service.name).collect();
        // After a restart some are held for services that nobody came back for.
        let held = match self.grace {
            None => self.vips().held(),
            Some(_) => Vec::new(),
        };
        let known = self.addressed.keys().cloned().chain(held);
        let gone: BTreeSet<ServiceName> = known.filter(|name| !there.contains(name)).collect();
        for name in gone {
            self.addressed.remove(&name);
            self.vips().release(&name, now);
            self.write_vip(&name, writes);
            self.pending.push(Input::Vips(name, Vec::new()));
        }
        for service in &services {
            let addresses = if service.headless {
                Vec::new()
            } else {
                self.addresses_for(&service.name, now)
            };
            if self.addressed.get(&service.name) != Some(&addresses) {
                self.write_vip(&service.name, writes);
                self.addressed
                    .insert(service.name.clone(), addresses.clone());
                self.pending
                    .push(Input::Vips(service.name.clone(), addresses));
            }
        }
        let ended = self.vips().expire(now);
        for name in ended {
            self.write_vip(&name, writes);
        }
    }

    /// The addresses its document names, or a pair of its own.
    fn addresses_for(&mut self, name: &ServiceName, now: u64) -> Vec<IpAddr> {
        let key = (Kind::Service, name.namespace.clone(), name.name.clone());
        let applied = self
            .objects
            .get(&key)
            .and_then(|object| object.as_service());
        let applied = applied.map(|of| (of.cluster_ips.clone(), of.families.clone()));
        let mut vips = self.shared.vips();
        let (named, families) = applied.unwrap_or_default();
        let wanted = named.first().and_then(|address| Vip::of(*address));
        if let Some(vip) = wanted
            && vips.adopt(name, vip)
        {
            return named;
        }
        match vips.allocate(name, now) {
            Ok(vip) => {
                let of = |family: &IpFamily| match family {
                    IpFamily::V4 => vip.v4(),
                    IpFamily::V6 => vip.v6(),
                };
                if families.is_empty() {
                    vip.addresses()
                } else {
                    families.iter().map(of).collect()
                }
            }
            Err(error) => {
                tracing::error!(service = %name, %error, "a service has no virtual address");
                Vec::new()
            }
        }
    }

    fn write_vip(&self, name: &ServiceName, writes: &mut Vec<Write>) {
        let (namespace, service) = (name.namespace.as_str(), name.name.as_str());
        let key = StoreKey::new(self.settings.name.clone(), VIPS, namespace, service);
        writes.push(match self.vips().record(name) {
            Some(record) => {
                let value = serde_json::to_vec(&record).expect("numbers are JSON");
                Write::put(key, value, Expect::Any)
            }
            // What has rested is anybody's: a name that comes and goes leaves nothing behind.
            None => Write::delete(key, Expect::Any),
        });
    }

    /// A discovery stream opens.
    pub(crate) fn open_ads(
        &mut self,
        stream: StreamId,
        agent: &DnsLabel,
        sender: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
        stop: Stop,
        now: Duration,
    ) {
        if let Some(old) = self.hub.open(stream, agent, now) {
            self.end_ads(
                old,
                &Status::aborted("a newer stream of this agent took over"),
            );
        }
        let agent = agent.clone();
        self.ads.insert(
            stream,
            Outgoing {
                agent,
                sender,
                stop,
            },
        );
        self.publish_due = true;
    }

    /// A discovery stream says something.
    pub(crate) fn ads_request(
        &mut self,
        stream: StreamId,
        request: &DeltaDiscoveryRequest,
        now: Duration,
    ) {
        let Some(agent) = self.ads.get(&stream).map(|stream| stream.agent.clone()) else {
            return;
        };
        let view = AgentView {
            catalog: &self.catalog,
            own: self.own_by_agent.get(&agent),
        };
        if let Some(detail) = &request.error_detail {
            let reason = one_line(&detail.message, MAX_REASON);
            let kind = one_line(&request.type_url, 128);
            tracing::warn!(%agent, kind, reason, "a proxy refused resources");
        }
        match self.hub.request(stream, request, &view, now) {
            Ok(()) => {
                self.ready.insert(stream);
                self.publish_due = true;
            }
            Err(error @ (ProtocolError::Type(_) | ProtocolError::Wildcard(_))) => {
                self.end_ads(stream, &Status::invalid_argument(error.to_string()));
            }
        }
    }

    /// A discovery stream ended; `wrong` is what the other side is told if it is still there.
    pub(crate) fn close_ads(&mut self, stream: StreamId, wrong: Option<&Status>) {
        self.publish_due = true;
        if let Some(status) = wrong {
            return self.end_ads(stream, status);
        }
        self.hub.close(stream);
        self.ads.remove(&stream);
        self.ready.remove(&stream);
    }

    fn end_ads(&mut self, stream: StreamId, status: &Status) {
        self.counters.streams_ended = self.counters.streams_ended.saturating_add(1);
        if let Some(outgoing) = self.ads.remove(&stream) {
            outgoing.end(status.clone());
        }
        self.hub.close(stream);
        self.ready.remove(&stream);
    }

    /// Ends the discovery streams of an agent.
    pub(super) fn end_ads_of(&mut self, agent: &DnsLabel, status: &Status) {
        let theirs = self.ads.iter().filter(|(_, stream)| stream.agent == *agent);
        let theirs: Vec<StreamId> = theirs.map(|(id, _)| *id).collect();
        for stream in theirs {
            self.end_ads(stream, status);
        }
    }

    /// Sends what is due to the streams it is due to.
    pub(super) fn push(&mut self, now: Duration) {
        let hold = self.hold(now);
        for id in std::mem::take(&mut self.ready) {
            let Some(outgoing) = self.ads.get(&id) else {
                continue;
            };
            let view = AgentView {
                catalog: &self.catalog,
                own: self.own_by_agent.get(&outgoing.agent),
            };
            let Some((_, subscriber)) = self.hub.stream(id) else {
                continue;
            };
            // The windows leave room in the queue, so a permit is missing only when the stream has just ended.
            while let Ok(permit) = outgoing.sender.try_reserve() {
                let Some(response) = subscriber.next(&view, hold) else {
                    break;
                };
                self.counters.pushes = self.counters.pushes.saturating_add(1);
                let sent = response.resources.len() as u64;
                self.counters.resources_sent = self.counters.resources_sent.saturating_add(sent);
                self.publish_due = true;
                permit.send(Ok(response));
            }
        }
    }

    /// Shows statuses and derived objects to the API.
    pub(super) fn publish(&mut self, now: Duration, wall: SystemTime) {
        self.publish_due = false;
        self.published = now;
        self.measure_convergence(now);
        self.shared.publish(self, wall);
    }

    /// How long it takes until all proxies run what they were sent.
    fn measure_convergence(&mut self, now: Duration) {
        let behind = self
            .hub
            .streams()
            .any(|(_, _, subscriber)| subscriber.is_behind());
        match (behind, self.convergence.behind_since) {
            (true, None) => self.convergence.behind_since = Some(now),
            (false, Some(since)) => {
                let took = now.saturating_sub(since);
                self.convergence.took.record(took);
                self.convergence.behind_since = None;
            }
            _ => {}
        }
    }

    /// The names by which a key's resource may be asked for.
    pub(crate) fn asked_names(&self, key: &Key) -> Vec<Arc<str>> {
        let (_, name) = resource_of(key);
        let mut names: Vec<Arc<str>> = vec![name.into()];
        names.extend(
            self.compiler
                .aliases(key)
                .iter()
                .map(|name| Arc::from(name.to_string())),
        );
        if let Key::Host(address) = key {
            names.push(ResourceName::Address(*address).to_string().into());
        }
        names.sort();
        names.dedup();
        names
    }

    /// Services as a map from name to virtual addresses.
    pub(crate) fn addressed(&self) -> &BTreeMap<ServiceName, Vec<IpAddr>> {
        &self.addressed
    }
}

/// The message in which an output is sent, and the virtual addresses it is known by.
pub(crate) fn output_body(output: &Output) -> (Vec<u8>, Vec<IpAddr>) {
    let body = match output {
        Output::Mesh(mesh) => mesh.to_wire().encode_to_vec(),
        Output::OwnWorkload(own) => own.to_wire().encode_to_vec(),
        Output::Endpoints(endpoints) => endpoints.to_wire().encode_to_vec(),
        Output::Destination(destination) => destination.to_wire().encode_to_vec(),
    };
    let addresses = match output {
        Output::Destination(Destination::Service(service)) => service.vips.clone(),
        _ => Vec::new(),
    };
    (body, addresses)
}

/// The type and canonical name under which a key's output is sent.
pub(crate) fn resource_of(key: &Key) -> (Type, String) {
    match key {
        Key::Mesh => (Type::Mesh, MESH.into()),
        Key::OwnWorkload(uid) => (Type::OwnWorkload, uid.to_string()),
        Key::Destination(name) => (
            Type::Destination,
            ResourceName::Service(name.clone()).to_string(),
        ),
        Key::Host(address) => (Type::Destination, ResourceName::Host(*address).to_string()),
        Key::Hostname(name) => (
            Type::Destination,
            ResourceName::Hostname(name.clone()).to_string(),
        ),
        Key::Endpoints(name) => (
            Type::Endpoints,
            ResourceName::Service(name.clone()).to_string(),
        ),
    }
}
