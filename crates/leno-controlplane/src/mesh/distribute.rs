//! From the compiler's inputs to the streams that asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use leno_compile::{Input, Key, Output};
use leno_config::Kind;
use leno_runtime::Stop;
use leno_store::Write;
use leno_types::{DnsLabel, WorkloadUid};
use leno_wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::mpsc;
use tonic::Status;

use super::{Mesh, Outgoing, Said};
use crate::{
    distribution::{
        Catalog, ProtocolError, Resource as Sent, StreamId, Type, View, alias_of, name_of, type_of,
    },
    registry::Workload,
    times::unix,
    told::one_line,
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
    catalog: Catalog<'a>,
    own: Option<&'a BTreeMap<WorkloadUid, Arc<Workload>>>,
}

impl View for AgentView<'_> {
    fn resolve(&self, kind: Type, asked: &str) -> Option<Sent> {
        self.catalog.resolve(kind, asked)
    }

    fn all(&self, kind: Type) -> Vec<Sent> {
        match kind {
            Type::Mesh => self.catalog.get(&Key::Mesh).into_iter().collect(),
            Type::OwnWorkload => {
                let own = self.own.into_iter().flat_map(BTreeMap::keys);
                let own = own.map(|uid| Key::OwnWorkload(*uid));
                own.filter_map(|key| self.catalog.get(&key)).collect()
            }
            Type::Endpoints | Type::Destination => Vec::new(),
        }
    }
}

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
        let services = self.services_to_look_at();
        if !services.is_empty() || self.upkeep_due {
            self.follow_services(services, unix(wall), writes);
        }
    }

    pub(super) fn apply_pending(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let inputs = std::mem::take(&mut self.pending);
        let started = Instant::now();
        let names = Arc::clone(self.compiler.given_names());
        let outputs = self.compiler.apply(inputs);
        self.compiled.record(started.elapsed());
        if !Arc::ptr_eq(&names, self.compiler.given_names()) {
            let statuses = &mut self.stale.statuses;
            statuses.kinds.insert(Kind::HostnameGenerator);
        }
        for (kind, name) in self.compiler.take_changed_objects() {
            let key = (kind, name.namespace, name.name);
            self.stale.statuses.objects.insert(key);
        }
        self.counters.outputs = self.counters.outputs.saturating_add(outputs.len() as u64);
        self.publish_due = true;
        for (key, output) in outputs {
            self.output_changed(&key, output.as_deref());
        }
        self.addresses_changed();
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
            self.output_changed(&key, output.as_deref());
            self.services_due = true;
            self.publish_due = true;
        }
        self.addresses_changed();
    }

    /// Tells whom it concerns that something else is compiled for a key.
    fn output_changed(&mut self, key: &Key, output: Option<&Output>) {
        self.output_stale(key, output);
        let kind = type_of(key);
        let touched = match key {
            Key::Mesh => self.hub.changed_wildcard(kind, None),
            Key::OwnWorkload(uid) => match self.registry.workload(uid) {
                Some((agent, ..)) => self.hub.changed_wildcard(kind, Some(agent)),
                None => BTreeSet::new(),
            },
            Key::Destination(_) | Key::Host(_) | Key::Hostname(_) | Key::Endpoints(_) => {
                self.hub.changed(kind, &told_names(key))
            }
        };
        self.ready.extend(touched);
    }

    /// Tells those who asked by an address that something else may be found at it.
    fn addresses_changed(&mut self) {
        let addresses = self.compiler.take_changed_addresses().into_iter();
        let names: Vec<Arc<str>> = addresses.map(alias_of).collect();
        let touched = self.hub.changed(Type::Destination, &names);
        self.ready.extend(touched);
    }

    /// A discovery stream opens.
    pub(crate) fn open_ads(
        &mut self,
        stream: StreamId,
        agent: &DnsLabel,
        sender: mpsc::Sender<Said<DeltaDiscoveryResponse>>,
        stop: Stop,
        now: Duration,
    ) {
        self.proxy_stale(agent);
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
            catalog: Catalog::new(&self.compiler),
            own: self.registry.agent(&agent).map(|of| &of.workloads),
        };
        if let Some(detail) = &request.error_detail {
            let reason = one_line(&detail.message, MAX_REASON);
            let kind = one_line(&request.type_url, 128);
            tracing::warn!(%agent, kind, reason, "a proxy refused resources");
        }
        let answered = self.hub.answered(stream, request);
        match self.hub.request(stream, request, &view, now) {
            Ok(()) => {
                if let Some(kind) = Type::from_url(&request.type_url) {
                    let asked = &request.resource_names_subscribe;
                    let names = asked.iter().chain(&request.resource_names_unsubscribe);
                    // What it has from before runs there.
                    let names = names.chain(request.initial_resource_versions.keys());
                    let names = names.map(String::as_str);
                    self.names_stale(kind, names.chain(answered.iter().map(|name| &**name)));
                }
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
        if let Some(outgoing) = self.ads.remove(&stream) {
            self.proxy_stale(&outgoing.agent);
        }
        self.hub.close(stream);
        self.ready.remove(&stream);
    }

    fn end_ads(&mut self, stream: StreamId, status: &Status) {
        self.counters.streams_ended = self.counters.streams_ended.saturating_add(1);
        if let Some(outgoing) = self.ads.remove(&stream) {
            self.proxy_stale(&outgoing.agent);
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
        let mut told = BTreeSet::new();
        for id in std::mem::take(&mut self.ready) {
            let Some(outgoing) = self.ads.get(&id) else {
                continue;
            };
            let view = AgentView {
                catalog: Catalog::new(&self.compiler),
                own: (self.registry.agent(&outgoing.agent)).map(|of| &of.workloads),
            };
            let Some((_, subscriber)) = self.hub.stream(id) else {
                continue;
            };
            // The windows leave room in the queue, so a permit is missing only when the stream has just ended.
            let mut sent = false;
            while let Ok(permit) = outgoing.sender.try_reserve() {
                let Some(response) = subscriber.next(&view, hold) else {
                    break;
                };
                sent = true;
                self.counters.pushes = self.counters.pushes.saturating_add(1);
                let resources = response.resources.len() as u64;
                self.counters.resources_sent =
                    self.counters.resources_sent.saturating_add(resources);
                self.publish_due = true;
                told.extend(names_of(&response));
                permit.send(Box::new(Ok(response)));
            }
            if sent {
                self.hub.sent(id);
            }
        }
        for (kind, name) in told {
            self.names_stale(kind, [name.as_str()].into_iter());
        }
    }

    /// Shows statuses and derived objects to the API.
    pub(super) fn publish(&mut self, now: Duration, wall: SystemTime) {
        self.publish_due = false;
        self.published = now;
        self.measure_convergence(now);
        let stale = std::mem::take(&mut self.stale);
        self.shared.publish(self, stale, wall);
    }

    /// Objects of which another status is shown than looking at all of them afresh gives; none while any is stale.
    pub(crate) fn different_statuses(&self) -> Vec<String> {
        match self.publish_due || self.is_compile_due() {
            true => Vec::new(),
            false => self.shared.different_statuses(self),
        }
    }

    /// How long it takes until all proxies run what they were sent.
    fn measure_convergence(&mut self, now: Duration) {
        match (self.hub.is_behind(), self.convergence.behind_since) {
            (true, None) => self.convergence.behind_since = Some(now),
            (false, Some(since)) => {
                let took = now.saturating_sub(since);
                self.convergence.took.record(took);
                self.convergence.behind_since = None;
            }
            _ => {}
        }
    }

    /// What proxies are sent.
    pub(crate) fn catalog(&self) -> Catalog<'_> {
        Catalog::new(&self.compiler)
    }

    /// The names by which a key's resource may be asked for.
    pub(crate) fn asked_names(&self, key: &Key) -> Vec<Arc<str>> {
        let mut names = told_names(key);
        let aliases = self.compiler.aliases(key).into_iter();
        names.extend(aliases.map(|name| Arc::from(name.to_string())));
        names.sort();
        names.dedup();
        names
    }
}

/// The names by which somebody may have asked for what a key means, but for a service's addresses.
fn told_names(key: &Key) -> Vec<Arc<str>> {
    let mut names = vec![name_of(key)];
    if let Key::Host(address) = key {
        names.push(alias_of(*address));
    }
    names
}

/// What an answer is about.
fn names_of(response: &DeltaDiscoveryResponse) -> impl Iterator<Item = (Type, String)> {
    let kind = Type::from_url(&response.type_url);
    let names = response.resources.iter().map(|resource| &resource.name);
    let names = names.chain(&response.removed_resources);
    names.filter_map(move |name| Some((kind?, name.clone())))
}
