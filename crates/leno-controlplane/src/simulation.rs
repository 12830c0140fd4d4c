//! What the simulation (tests/simulate) runs: the control plane of several meshes, without ports and without a machine.
//!
//! It is the task that owns the state, with the same API, calls of agents and writes as when it is served; what a peer
//! has proven is given as an argument. Beside that it can be looked into, by what nobody else may see.
//! Invariant: nothing here decides anything; what is seen is copied out.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::Router;
use leno_api::{Api, Environment};
use leno_compile::{Compiler, Version};
use leno_runtime::{Scope, Stop};
use leno_store::{Expect, Store, Write};
use leno_types::{DnsLabel, Identity, MeshName, TrustDomain, WorkloadUid};
use leno_wire::{
    agent::{AgentMessage, ControlMessage},
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
};
use tokio_stream::Stream;
use tonic::Status;

pub use crate::core::World;
use crate::{
    StartError,
    audit::{AUDIT, AuditLog},
    authority::Authority,
    core::{self, Clock, Core, Jobs},
    derived::DerivedMeshes,
    distribution::{State, Type},
    grpc::{AgentService, Caller},
    http::{self, Meshes},
    mesh::Mesh,
    records::Record,
    registry::AgentScope,
    tenants::{Founder, Plan},
    times::unix,
    tokens::AgentRecord,
};

/// Life of workloads' certificates and of the intermediate: longer than anything simulated.
pub const TTLS: (Duration, Duration) = (
    Duration::from_secs(24 * 3600),
    Duration::from_secs(30 * 24 * 3600),
);
/// Where the meshes' authorities are, in the data directory.
const MESHES: &str = "meshes";
/// Tasks of one control plane.
const MAX_TASKS: usize = 10_000;

/// A control plane that runs on what it is given.
pub struct Plane {
    service: AgentService,
    router: Router,
}

/// An agent that has proven who it is.
#[derive(Clone, Debug)]
pub struct Who {
    /// The trust domain of its certificate.
    pub domain: TrustDomain,
    /// Its name.
    pub agent: DnsLabel,
    /// When its certificate was issued.
    pub issued: SystemTime,
    /// Where it calls from.
    pub source: IpAddr,
}

impl From<Who> for Caller {
    fn from(who: Who) -> Self {
        Self {
            identity: Identity::agent(&who.domain, &who.agent),
            agent: who.agent,
            issued: who.issued,
            source: who.source,
        }
    }
}

/// The state's task, to be run where local tasks can be started.
pub struct Running(Core, Jobs, Stop);

impl Running {
    /// Runs until the stop.
    pub async fn run(self) {
        core::run(self.0, self.1, self.2).await;
    }
}

/// The trust domain that a mesh has by default.
///
/// # Panics
/// Never: a label and a suffix are a trust domain.
#[must_use]
pub fn domain_of(mesh: &MeshName) -> TrustDomain {
    format!("{mesh}.leno")
        .parse()
        .expect("a label and a suffix are a trust domain")
}

impl Plane {
    /// Opens one on a data directory: the meshes that it was started with, the first of which is its own, and those that
    /// were made since.
    ///
    /// # Errors
    /// When the store cannot be read, or an authority cannot be read or made.
    pub async fn open(
        meshes: &[MeshName],
        data_dir: &Path,
        store: Arc<dyn Store>,
        world: Arc<dyn World>,
        environment: Arc<dyn Environment>,
        stop: Stop,
    ) -> Result<(Self, Running), StartError> {
        let default = || "default".parse().expect("a legal name");
        let own: MeshName = meshes.first().cloned().unwrap_or_else(default);
        let founder = Founder {
            root: data_dir.join(MESHES),
            ttls: TTLS,
            advertise: Vec::new(),
            clock: Clock::new(world),
        };
        let mut opened = founder.reopen(&*store, &own).await?;
        for name in meshes {
            opened.push(founder.open(&plan(name))?);
        }
        let opened = opened.into_iter().map(|mesh| (mesh.name().clone(), mesh));
        let scope = Scope::new(stop.child(), Some(MAX_TASKS));
        let clock = founder.clock.clone();
        let shared = Arc::clone(&store);
        let made = Core::new(own.clone(), opened.collect(), shared, clock, scope);
        let (core, jobs) = made.map_err(|error| StartError::Authority {
            mesh: own.to_string(),
            reason: error.to_string(),
        })?;
        let directory = core.directory.clone();
        let derived = DerivedMeshes::new(directory, core.handle.clone());
        let mut api = Api::new(Arc::clone(&store), Arc::new(derived));
        api.environment = environment;
        let service = AgentService {
            handle: core.handle.clone(),
            own,
            audit: Arc::new(leno_api::Unaudited),
            redeeming_again: Arc::new(tokio::sync::Semaphore::new(1)),
        };
        let audit = Arc::new(AuditLog::new(data_dir.join(AUDIT)));
        let meshes = Meshes::new(&core, store, audit, founder);
        let answers = api.answers();
        let plane = Self {
            service,
            router: http::meshes_router(meshes).fallback_service(api.router(answers)),
        };
        Ok((plane, Running(core, jobs, stop)))
    }

    /// The API.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// An agent's session.
    ///
    /// # Errors
    /// As it is told to the agent.
    pub async fn session(
        &self,
        who: Who,
        inbound: impl Stream<Item = Result<AgentMessage, Status>> + Send + Unpin + 'static,
    ) -> Result<impl Stream<Item = Result<ControlMessage, Status>> + Unpin + 'static, Status> {
        self.service.open_session(who.into(), inbound).await
    }

    /// An agent's discovery stream.
    ///
    /// # Errors
    /// As it is told to the agent.
    pub async fn discovery(
        &self,
        who: Who,
        inbound: impl Stream<Item = Result<DeltaDiscoveryRequest, Status>> + Send + Unpin + 'static,
    ) -> Result<impl Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Unpin + 'static, Status>
    {
        self.service.open_discovery(who.into(), inbound).await
    }

    /// What is inside of a mesh, with a compilation afresh or without; `None`: it ends.
    pub async fn look(&self, mesh: &MeshName, afresh: bool) -> Option<Look> {
        let mesh = mesh.clone();
        let look = move |core: &mut Core| {
            let now = unix(core.clock.wall());
            let mesh = core.meshes.get(&mesh)?;
            let fresh = afresh.then(|| compiled_afresh(mesh, &*core.store, now));
            Some(look(mesh, fresh))
        };
        self.service.handle.call(look).await.ok().flatten()
    }
}

/// What a mesh is that a control plane is started with.
fn plan(name: &MeshName) -> Plan {
    Plan {
        name: name.clone(),
        domain: domain_of(name),
        prefixes: Vec::new(),
        begins: 0,
    }
}

/// Makes the authority of a mesh that a control plane is to be started with, in its data directory.
///
/// # Errors
/// When it cannot be made.
pub fn make_authority(data_dir: &Path, mesh: &MeshName, now: SystemTime) -> Result<(), StartError> {
    let directory = data_dir.join(MESHES).join(mesh.as_str());
    Authority::open(&directory, mesh, &domain_of(mesh), TTLS, now).map(drop)
}

/// The write by which a host becomes a member that may host anything of a namespace.
#[must_use]
pub fn member(mesh: &MeshName, agent: &DnsLabel, scope: &AgentScope, now: SystemTime) -> Write {
    let record = AgentRecord::new(agent, scope, "token".into(), unix(now));
    record.write(AgentRecord::key(mesh, agent.as_str()), Expect::Absent)
}

/// What is inside of a mesh.
#[derive(Debug)]
pub struct Look {
    /// The revision of the store that all is made from.
    pub revision: u64,
    /// Whether agents are still coming back after a restart.
    pub in_grace: bool,
    /// Agents that hold a lease.
    pub agents: BTreeMap<DnsLabel, Leased>,
    /// What is distributed: type and name to version.
    pub served: BTreeMap<(Type, String), String>,
    /// What a fresh, full compilation of what the store and the registry hold gives; where it was asked for.
    pub fresh: Option<Compiler>,
    /// What was sent on each discovery stream.
    pub streams: BTreeMap<DnsLabel, Sent>,
    /// Resources found to differ from a fresh compilation.
    pub divergences: u64,
    /// Objects of which another status is shown than a look at all of them gives; none while one is to be shown anew.
    pub different_statuses: Vec<String>,
}

/// By type and name: the version sent, the one that is said to run, and whether the newest is acknowledged.
pub type Sent = BTreeMap<(Type, String), (String, String, bool)>;

/// An agent that holds a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leased {
    /// Whether it is connected.
    pub connected: bool,
    /// Whether it is kept although it is silent, with many others.
    pub unknown: bool,
    /// Its workloads by id: name and service.
    pub workloads: BTreeMap<WorkloadUid, (String, Option<DnsLabel>)>,
}

fn compiled_afresh(mesh: &Mesh, store: &dyn Store, now: u64) -> Compiler {
    let mut compiler = Compiler::new(mesh.domain().clone());
    compiler.apply(mesh.afresh(store, now));
    compiler
}

fn look(mesh: &Mesh, fresh: Option<Compiler>) -> Look {
    let served = mesh.catalog().all();
    let served = served.map(|(kind, resource)| {
        (
            (kind, resource.name.to_string()),
            resource.version.to_string(),
        )
    });
    Look {
        revision: mesh.revision,
        in_grace: mesh.is_in_grace(),
        agents: agents(mesh),
        served: served.collect(),
        fresh,
        streams: streams(mesh),
        divergences: mesh.counters.divergences,
        different_statuses: mesh.different_statuses(),
    }
}

fn agents(mesh: &Mesh) -> BTreeMap<DnsLabel, Leased> {
    let agents = mesh.registry.agents().map(|(name, agent)| {
        let workloads = agent.workloads.values().map(|workload| {
            let what = (workload.name.to_string(), workload.service.clone());
            (workload.uid, what)
        });
        let leased = Leased {
            connected: agent.session.is_some(),
            unknown: agent.is_unknown(),
            workloads: workloads.collect(),
        };
        (name.clone(), leased)
    });
    agents.collect()
}

fn streams(mesh: &Mesh) -> BTreeMap<DnsLabel, Sent> {
    let streams = mesh.hub.streams().map(|(_, agent, subscriber)| {
        let mut all = BTreeMap::new();
        for kind in Type::ALL {
            for (name, held, _) in subscriber.held(kind) {
                let acked = held.state() == State::Acked;
                let text = |version: Option<Version>| {
                    version.map_or_else(String::new, |version| version.to_string())
                };
                let versions = (text(held.version()), text(held.running()), acked);
                all.insert((kind, name.to_string()), versions);
            }
        }
        (agent.clone(), all)
    });
    streams.collect()
}
