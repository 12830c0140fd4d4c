//! One mesh: what is stored, who is in it, what follows, and who is told.
//!
//! Owns the way from an event to the streams it concerns: event → input → compiler → hub → stream.
//! Never waits. Invariant: every mesh has its own everything; nothing of one is reachable from another (CP2).

mod addresses;
mod afresh;
mod agents;
mod asking;
mod distribute;
mod grace;
mod losses;
mod members;
mod mtls;
mod names;
mod pace;
mod promised;
mod proxies;
mod remembered;
mod sources;
mod stale;
#[cfg(test)]
mod tests;
mod versions;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use leno_compile::{Compiler, Input};
use leno_config::{Kind, Resource};
use leno_ir::Prefix;
use leno_runtime::Stop;
use leno_store::Write;
use leno_tls::WorkloadCertificate;
use leno_types::{DnsLabel, HostPort, MeshName, TrustDomain};
use leno_wire::{
    agent::{ControlMessage, ProxyState},
    discovery::DeltaDiscoveryResponse,
};
use tokio::sync::mpsc;
use tonic::Status;

pub(crate) use agents::{Joining, Redeemed, SESSION_QUEUE, SignError};
pub(crate) use asking::Asked;
pub(crate) use distribute::ADS_QUEUE;
pub(crate) use remembered::remembered_key;

use names::Former;
use pace::{Pace, Readers};
use promised::Promised;
use remembered::RememberedServices;
use versions::Versions;

use grace::Grace;

use crate::{
    authority::{Authority, RenewError, server_names},
    core::Clock,
    derived::{Shared, Stale},
    distribution::{Hold, Hub, StreamId},
    metrics::Latencies,
    people::People,
    registry::{Effects, Registry, SessionId},
    telemetry::Telemetry,
    tokens::AgentRecord,
    uids::UidMint,
    vips::Vips,
};

/// What a mesh is made with.
pub(crate) struct Settings {
    pub(crate) name: MeshName,
    pub(crate) prefixes: Vec<Prefix>,
    pub(crate) advertise: Vec<HostPort>,
    /// The revision of the store at which it began.
    pub(crate) begins: u64,
}

/// What is counted since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) outputs: u64,
    pub(crate) pushes: u64,
    pub(crate) resources_sent: u64,
    pub(crate) refused_objects: u64,
    pub(crate) members_over_limit: u64,
    pub(crate) streams_ended: u64,
    pub(crate) redeemed: u64,
    pub(crate) csr_refused: u64,
    pub(crate) foreign_edges: u64,
    /// Documents of answers that were malformed, too long, or too many.
    pub(crate) answers_dropped: u64,
    pub(crate) audited: u64,
    pub(crate) divergences: u64,
}

/// How long changes took from the store to the acknowledgement of the last proxy concerned.
#[derive(Clone, Debug, Default)]
pub(crate) struct Convergence {
    pub(crate) took: Latencies,
    /// Since when at least one proxy is behind.
    pub(crate) behind_since: Option<Duration>,
}

type ObjectKey = (Kind, DnsLabel, DnsLabel);

/// What waits to be sent on a stream. On the heap: a queue keeps room for 32 even while none waits.
pub(crate) type Said<T> = Box<Result<T, Status>>;

/// A stream's outgoing half.
struct Outgoing<T> {
    agent: DnsLabel,
    sender: mpsc::Sender<Said<T>>,
    stop: Stop,
}

impl<T> Outgoing<T> {
    fn end(self, status: Status) {
        // A full queue means that the other side does not read: it then learns nothing but the end.
        drop(self.sender.try_send(Box::new(Err(status))));
        self.stop.trigger();
    }
}

/// One mesh.
pub(crate) struct Mesh {
    pub(crate) settings: Settings,
    pub(crate) authority: Authority,
    /// The control plane's own certificate, for its TLS port and its calls.
    pub(crate) certificate: WorkloadCertificate,
    /// Whether that is new since it was last put to use.
    pub(crate) renewed: bool,
    pub(crate) registry: Registry,
    pub(crate) compiler: Compiler,
    pub(crate) hub: Hub,
    pub(crate) telemetry: Telemetry,
    pub(crate) shared: Arc<Shared>,
    pub(crate) people: Arc<People>,
    pub(crate) counters: Counters,
    pub(crate) convergence: Convergence,
    /// How long compiling took.
    pub(crate) compiled: Latencies,
    /// The revision of the store that all of this is made from.
    pub(crate) revision: u64,
    pub(crate) states: BTreeMap<DnsLabel, ProxyState>,
    pub(crate) known_agents: BTreeMap<DnsLabel, AgentRecord>,
    /// Of these a renewal, or where they are, is not written down yet.
    noted: BTreeSet<DnsLabel>,
    agents_looked_at: Duration,
    pub(crate) objects: BTreeMap<ObjectKey, Arc<Resource>>,
    generation: u64,
    token_networks: BTreeMap<String, Prefix>,
    pending: Vec<Input>,
    /// Every service is to be looked at.
    services_due: bool,
    /// What rests or is empty is to be looked at, for its time may be over.
    upkeep_due: bool,
    /// Services to be looked at although the compiler says nothing of them.
    revisited: BTreeSet<leno_types::ServiceName>,
    /// Services that have not the addresses they want.
    unsatisfied: BTreeSet<leno_types::ServiceName>,
    mesh_due: bool,
    /// As proxies are told them.
    namespaces: BTreeSet<DnsLabel>,
    publish_due: bool,
    /// What is to be shown anew.
    pub(super) stale: Stale,
    compiling: Pace,
    publishing: Pace,
    readers: Readers,
    /// When the auditor last looked.
    audited: Duration,
    former: Former,
    addressed: BTreeMap<leno_types::ServiceName, Vec<IpAddr>>,
    remembered: RememberedServices,
    promised: Promised,
    versions: Versions,
    ads: BTreeMap<StreamId, Outgoing<DeltaDiscoveryResponse>>,
    sessions: BTreeMap<SessionId, Outgoing<ControlMessage>>,
    askings: asking::Askings,
    ready: BTreeSet<StreamId>,
    grace: Option<Grace>,
    published: Duration,
    challenged: BTreeSet<(DnsLabel, IpAddr)>,
    /// Why certificates are not renewed, as it was told.
    not_renewed: Option<String>,
}

impl Mesh {
    /// A mesh of which the store has not been read yet.
    pub(crate) fn new(
        settings: Settings,
        authority: Authority,
        certificate: WorkloadCertificate,
        now: Duration,
    ) -> Self {
        let domain = authority.domain().clone();
        let mint = UidMint::new(settings.name.clone(), authority.uid_key());
        Self {
            registry: Registry::new(mint, now),
            compiler: Compiler::new(domain.clone()),
            shared: Arc::new(Shared::new(settings.name.clone(), domain)),
            people: Arc::default(),
            settings,
            authority,
            certificate,
            renewed: false,
            hub: Hub::default(),
            telemetry: Telemetry::default(),
            counters: Counters::default(),
            convergence: Convergence::default(),
            compiled: Latencies::default(),
            revision: 0,
            states: BTreeMap::new(),
            known_agents: BTreeMap::new(),
            noted: BTreeSet::new(),
            agents_looked_at: now,
            objects: BTreeMap::new(),
            generation: 1,
            token_networks: BTreeMap::new(),
            pending: Vec::new(),
            services_due: true,
            upkeep_due: false,
            revisited: BTreeSet::new(),
            unsatisfied: BTreeSet::new(),
            mesh_due: true,
            namespaces: BTreeSet::new(),
            publish_due: true,
            stale: Stale::default(),
            compiling: Pace::default(),
            publishing: Pace::default(),
            readers: Readers::default(),
            audited: now,
            former: Former::default(),
            addressed: BTreeMap::new(),
            remembered: RememberedServices::default(),
            promised: Promised::default(),
            versions: Versions::default(),
            ads: BTreeMap::new(),
            sessions: BTreeMap::new(),
            askings: asking::Askings::default(),
            ready: BTreeSet::new(),
            grace: None,
            published: Duration::ZERO,
            challenged: BTreeSet::new(),
            not_renewed: None,
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &MeshName {
        &self.settings.name
    }

    /// Its trust domain.
    pub(crate) fn domain(&self) -> &TrustDomain {
        self.authority.domain()
    }

    /// Names by which the control plane's certificate is good.
    pub(crate) fn server_names(&self) -> Vec<String> {
        let hosts = self
            .settings
            .advertise
            .iter()
            .map(|place| place.host().to_owned());
        server_names(self.domain(), hosts)
    }

    pub(crate) fn vips(&self) -> MutexGuard<'_, Vips> {
        self.shared.vips()
    }

    /// How far this control plane is from knowing all.
    pub(crate) fn hold(&self, now: Duration) -> Hold {
        Hold {
            now,
            grace: self.grace.map(|of| of.until).filter(|until| now < *until),
            revision: self.revision,
        }
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: Duration, wall: SystemTime) {
        let mut fx = Effects::default();
        self.registry.tick(now, &mut fx);
        self.follow(fx);
        self.end_grace(now);
        self.upkeep_due |= self.is_upkeep_due(now);
        self.audit(now);
        self.sweep_askings();
        let hold = self.hold(now);
        for (id, _, subscriber) in self.hub.streams() {
            if subscriber.wake_at(hold).is_some() {
                self.ready.insert(id);
            }
        }
        self.renew(wall);
    }

    /// The grace ends when its time is over, or when everybody who is known is back with all that runs.
    fn end_grace(&mut self, now: Duration) {
        let Some(mut grace) = self.grace else {
            return;
        };
        // Who said goodbye is not waited for.
        let known = self
            .known_agents
            .iter()
            .filter(|(_, record)| !record.revoked && record.stopped.is_none());
        let mut away = known.filter(|(name, _)| {
            self.registry
                .agent(name)
                .is_none_or(|agent| agent.session.is_none())
        });
        let named = self.registry.agents().map(|(_, of)| of.workloads.len());
        let is_over = grace.is_over(now, away.next().is_none(), named.sum());
        self.grace = Some(grace).filter(|_| !is_over);
        if is_over {
            // Who serves what is known now: names that nobody came back for have begun to be empty.
            self.services_due = true;
        }
    }

    /// Renews the intermediate and the control plane's own certificate when they are due; says once why it cannot.
    fn renew(&mut self, now: SystemTime) {
        match self.try_renew(now) {
            Ok(()) if self.not_renewed.is_none() => {}
            Ok(()) => {
                self.not_renewed = None;
                tracing::warn!(mesh = %self.name(), "certificates are renewed again");
            }
            Err(error) => {
                let error = error.to_string();
                if self.not_renewed.as_ref() != Some(&error) {
                    tracing::error!(error, mesh = %self.name(), "certificates are not renewed; those that there are serve on");
                    self.not_renewed = Some(error);
                }
            }
        }
    }

    fn try_renew(&mut self, now: SystemTime) -> Result<(), RenewError> {
        let renewed = self.authority.renew(now)?;
        if renewed {
            let not_after = crate::times::rfc3339_of(self.authority.intermediate_not_after());
            tracing::info!(mesh = %self.name(), %not_after, "the intermediate was renewed");
        }
        let due = {
            let own = &self.certificate;
            // A clock that was set back makes it one from the future.
            now >= own.renew_at(0.5) || now < own.not_before()
        };
        if !due && !renewed {
            return Ok(());
        }
        self.generation += 1;
        let names = self.server_names();
        self.certificate = self
            .authority
            .own_certificate(&names, self.generation, now)?;
        self.renewed = true;
        Ok(())
    }

    /// Does what events made due, as far as its pace allows.
    pub(crate) fn flush(&mut self, clock: &Clock, wall: SystemTime, writes: &mut Vec<Write>) {
        let now = clock.uptime();
        if self.is_compile_due() && self.compiling.allows(now) {
            self.compile(wall, writes);
            self.compiling.worked(now, clock.uptime());
        }
        if !self.is_compile_due() {
            self.readers.compiled(self.revision);
        }
        self.push(now);
        let now = clock.uptime();
        if self.publish_due && now >= self.next_publication() {
            self.publish(now, wall);
            self.publishing.worked(now, clock.uptime());
        }
        if !self.publish_due {
            self.readers.shown();
        }
    }

    /// Ends every stream: the control plane stops. Agents come back to another, or to the next.
    pub(crate) fn end_all(&mut self) {
        let status = || Status::unavailable("the control plane is shutting down");
        for (_, stream) in std::mem::take(&mut self.ads) {
            stream.end(status());
        }
        for (_, session) in std::mem::take(&mut self.sessions) {
            session.end(status());
        }
    }
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
