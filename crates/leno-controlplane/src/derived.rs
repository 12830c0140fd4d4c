//! What the API shows and nobody wrote: workloads, endpoint slices, derived services, statuses; and the addresses it
//! gives to services.
//!
//! Owns the snapshot that readers of the API see, brought up to date by the one task that owns the mesh: what is stale
//! in it is replaced, and the rest is not looked at. The addresses are behind a lock of their own, held for a look-up
//! only, because a write must be answered at once.
//! Invariant: a status says of an object only what was compiled from its stored generation.

mod hostnames;
mod objects;
mod programmed;
mod references;
mod statuses;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use leno_api::{Derived, Proposed};
use leno_compile::{EffectiveService, GivenNames, Kept, Key, Origin, Place};
use leno_config::{Finding, Kind, Resource};
use leno_store::{Expect, Write};
use leno_types::{DnsLabel, MeshName, ServiceName, TrustDomain, WorkloadUid};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

pub(crate) use statuses::StaleStatuses;

use crate::{
    core::Handle,
    mesh::{Mesh, locked, remembered_key},
    registry::Workload,
    tenants::Directory,
    times::{rfc3339_of, unix},
    vips::{Vip, Vips},
};

use objects::{derived_service, endpoint_slices, targets, workload_value};
use statuses::Statuses;

/// The controller's name in the status of routes.
const CONTROLLER: &str = "leno.dev/control-plane";
/// The reason for `Programmed` of what no proxy is told of.
const NOT_ACCEPTED: &str = "Invalid";
/// How long a reader waits to see what has happened; it then sees what there is.
const SETTLES: Duration = Duration::from_secs(5);

type ObjectKey = (Kind, DnsLabel, DnsLabel);

/// What is different from what was shown last.
#[derive(Debug, Default)]
pub(crate) struct Stale {
    pub(crate) services: BTreeSet<ServiceName>,
    pub(crate) workloads: BTreeSet<WorkloadUid>,
    pub(crate) agents: BTreeSet<DnsLabel>,
    pub(crate) statuses: StaleStatuses,
}

/// A service as it is shown.
#[derive(Debug)]
struct ShownService {
    service: Arc<EffectiveService>,
    addresses: Vec<IpAddr>,
    /// What somebody wrote.
    applied: Option<Arc<Resource>>,
    endpoints: Option<Kept>,
    /// Of a service that nobody wrote: the programs' port behind each of its own, where they are of one mind.
    targets: BTreeMap<u16, u16>,
    /// When it came, as this control plane saw it: after its restart that begins anew.
    since: Arc<str>,
}

/// Of an agent, what its workloads show.
#[derive(Debug)]
struct ShownAgent {
    place: Arc<Place>,
    connected: bool,
    unknown: bool,
}

/// What readers of the API see. What they see of derived objects is written when they read it: of a hundred thousand
/// workloads the JSON is many times as large as what is known of them, and most is never asked for.
#[derive(Debug, Default)]
struct Published {
    services: BTreeMap<ServiceName, ShownService>,
    /// What services are called besides.
    names: Arc<GivenNames>,
    workloads: BTreeMap<WorkloadUid, Arc<Workload>>,
    agents: BTreeMap<DnsLabel, ShownAgent>,
    statuses: Statuses,
}

impl Published {
    fn show_service(&mut self, name: ServiceName, mesh: &Mesh, now: &Arc<str>) {
        let Some(service) = mesh.compiler.effective(&name) else {
            self.services.remove(&name);
            return;
        };
        let key = (Kind::Service, name.namespace.clone(), name.name.clone());
        let before = self.services.get(&name);
        let endpoints = mesh.compiler.kept(&Key::Endpoints(name.clone())).cloned();
        let is_derived = service.origin != Origin::Applied;
        let of_derived = endpoints.as_ref().filter(|_| is_derived);
        let found = of_derived.and_then(Kept::output).as_ref().map(targets);
        let shown = ShownService {
            service: Arc::clone(service),
            addresses: mesh.addressed().get(&name).cloned().unwrap_or_default(),
            applied: mesh.objects.get(&key).cloned(),
            endpoints,
            targets: found.unwrap_or_default(),
            since: Arc::clone(before.map_or(now, |before| &before.since)),
        };
        self.services.insert(name, shown);
    }

    /// Gives back whose it is.
    fn show_workload(&mut self, uid: WorkloadUid, mesh: &Mesh) -> Option<DnsLabel> {
        let shown = match mesh.registry.workload(&uid) {
            Some((.., workload)) => {
                self.workloads.insert(uid, Arc::clone(workload));
                Arc::clone(workload)
            }
            None => self.workloads.remove(&uid)?,
        };
        Some(shown.agent.clone())
    }

    fn show_agent(&mut self, name: DnsLabel, mesh: &Mesh) {
        let Some(agent) = mesh.registry.agent(&name) else {
            self.agents.remove(&name);
            return;
        };
        let shown = ShownAgent {
            place: Arc::clone(&agent.place),
            connected: agent.session.is_some(),
            unknown: agent.is_unknown(),
        };
        self.agents.insert(name, shown);
    }

    /// The objects of a kind that nobody wrote.
    fn derived(&self, kind: Kind, domain: &TrustDomain) -> Vec<Value> {
        match kind {
            Kind::Workload => {
                let shown = self.workloads.values().filter_map(|of| {
                    let agent = self.agents.get(&of.agent)?;
                    Some(workload_value(of, agent, domain))
                });
                shown.collect()
            }
            Kind::EndpointSlice => {
                let slices = self.services.values().filter_map(|shown| {
                    let output = shown.endpoints.as_ref()?.output()?;
                    let service = &shown.service;
                    Some(endpoint_slices(
                        &service.name,
                        &service.ports,
                        &output,
                        &shown.since,
                    ))
                });
                slices.flatten().collect()
            }
            Kind::Service => {
                let nobody_wrote = |of: &&ShownService| of.service.origin != Origin::Applied;
                let derived = self.services.values().filter(nobody_wrote);
                derived.map(|shown| self.derived_service(shown)).collect()
            }
            Kind::HttpRoute
            | Kind::AccessPolicy
            | Kind::AuthenticationPolicy
            | Kind::HostnameGenerator => Vec::new(),
        }
    }

    fn derived_service(&self, shown: &ShownService) -> Value {
        let mut object = derived_service(
            &shown.service,
            &shown.addresses,
            &shown.targets,
            &shown.since,
        );
        if let Some(generated) = self.names.get(&shown.service.name) {
            let mut status = json!({"loadBalancer": {}});
            hostnames::of_service(&mut status, generated);
            object["status"] = status;
        }
        object
    }

    /// A status with what is written when it is read: where many generators name many services it is far more than
    /// all the rest.
    fn shown(&self, (kind, namespace, name): &ObjectKey, status: &Value) -> Value {
        let mut status = status.clone();
        if *kind == Kind::Service
            && let Some(generated) = self
                .names
                .get(&ServiceName::new(namespace.clone(), name.clone()))
        {
            hostnames::of_service(&mut status, generated);
        }
        status
    }
}

/// What the API sees of one mesh.
#[derive(Debug)]
pub(crate) struct Shared {
    name: MeshName,
    domain: TrustDomain,
    vips: Mutex<Vips>,
    published: RwLock<Published>,
    /// Services that nobody wrote, and whether somebody serves them: as of now, not of the last publication.
    derived: Mutex<BTreeMap<ServiceName, bool>>,
    changes: watch::Sender<u64>,
}

impl Shared {
    /// Nothing published yet.
    pub(crate) fn new(name: MeshName, domain: TrustDomain) -> Self {
        Self {
            name,
            domain,
            vips: Mutex::default(),
            published: RwLock::default(),
            derived: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// The addresses of services.
    pub(crate) fn vips(&self) -> MutexGuard<'_, Vips> {
        locked(&self.vips)
    }

    /// Notes of a service whether nobody wrote it.
    pub(crate) fn note_derived(&self, name: &ServiceName, service: Option<&Arc<EffectiveService>>) {
        let mut derived = locked(&self.derived);
        match service.map(|service| service.origin) {
            None | Some(Origin::Applied) => drop(derived.remove(name)),
            Some(origin) => drop(derived.insert(name.clone(), origin != Origin::Remembered)),
        }
    }

    /// Shows the API anew what is stale.
    pub(crate) fn publish(&self, mesh: &Mesh, stale: Stale, now: SystemTime) {
        let published = self.published.write();
        let mut published = published.unwrap_or_else(PoisonError::into_inner);
        let now: Arc<str> = rfc3339_of(now).into();
        for name in stale.services {
            published.show_service(name, mesh, &now);
        }
        let mut agents = stale.agents;
        for uid in stale.workloads {
            agents.extend(published.show_workload(uid, mesh));
        }
        for name in agents {
            published.show_agent(name, mesh);
        }
        published.names = Arc::clone(mesh.compiler.given_names());
        published.statuses.update(mesh, stale.statuses, &now);
        drop(published);
        self.changes.send_modify(|version| *version += 1);
    }

    /// Objects of which another status is shown than looking at all of them afresh gives.
    pub(crate) fn different_statuses(&self, mesh: &Mesh) -> Vec<String> {
        self.read().statuses.different(mesh)
    }

    fn read(&self) -> RwLockReadGuard<'_, Published> {
        let published = self.published.read();
        published.unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the API sees of all meshes.
pub(crate) struct DerivedMeshes {
    meshes: Directory,
    handle: Handle,
}

impl DerivedMeshes {
    /// Of these meshes.
    pub(crate) fn new(meshes: Directory, handle: Handle) -> Self {
        Self { meshes, handle }
    }

    fn shared(&self, mesh: &MeshName) -> Option<Arc<Shared>> {
        self.meshes
            .get(mesh)
            .map(|tenant| Arc::clone(&tenant.shared))
    }
}

impl Derived for DerivedMeshes {
    fn settled<'a>(&'a self, mesh: &'a DnsLabel) -> BoxFuture<'a, ()> {
        let (told, shown) = oneshot::channel();
        let mesh = mesh.clone();
        let asked = self.handle.call(move |core| {
            let revision = core.store.revision();
            if let Some(mesh) = core.meshes.get_mut(&mesh) {
                mesh.tell_when_shown(revision, told);
            }
        });
        Box::pin(async move {
            let shown = async {
                // Who is not told reads what there is: the control plane ends.
                if asked.await.is_ok() {
                    let _ending = shown.await;
                }
            };
            if tokio::time::timeout(SETTLES, shown).await.is_err() {
                tracing::warn!(
                    "what is shown is older than what is known: there is too much to do"
                );
            }
        })
    }

    fn list(&self, mesh: &DnsLabel, kind: Kind, namespace: Option<&str>) -> Vec<Value> {
        let Some(shared) = self.shared(mesh) else {
            return Vec::new();
        };
        let mut objects = shared.read().derived(kind, &shared.domain);
        if let Some(namespace) = namespace {
            objects.retain(|object| {
                object
                    .pointer("/metadata/namespace")
                    .and_then(Value::as_str)
                    == Some(namespace)
            });
        }
        objects
    }

    fn status(&self, mesh: &DnsLabel, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        let key = (kind, namespace.parse().ok()?, name.parse().ok()?);
        let shared = self.shared(mesh)?;
        let published = shared.read();
        let status = published.statuses.get(&key)?;
        Some(published.shown(&key, status))
    }

    fn statuses(&self, mesh: &DnsLabel, kind: Kind) -> Vec<(String, String, Value)> {
        let Some(shared) = self.shared(mesh) else {
            return Vec::new();
        };
        let published = shared.read();
        let of_kind = published.statuses.of_kind(kind);
        of_kind
            .map(|(key, status)| {
                let shown = published.shown(key, status);
                (key.1.to_string(), key.2.to_string(), shown)
            })
            .collect()
    }

    fn delete(
        &self,
        mesh: &DnsLabel,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Option<Result<Write, String>> {
        let shared = self.shared(mesh).filter(|_| kind == Kind::Service)?;
        let name = ServiceName::new(namespace.parse().ok()?, name.parse().ok()?);
        let served = locked(&shared.derived).get(&name).copied()?;
        if served {
            let why = "workloads serve it, and it is there as long as they are: stop them first (leno get workloads shows them)";
            return Some(Err(why.into()));
        }
        let key = remembered_key(&shared.name, &name);
        Some(Ok(Write::delete(key, Expect::Any)))
    }

    fn admit_write(
        &self,
        mesh: &DnsLabel,
        kind: Kind,
        object: &mut Value,
        old: Option<&Value>,
        now: SystemTime,
    ) -> Result<(), Vec<Finding>> {
        match self.shared(mesh) {
            Some(shared) if kind == Kind::Service => {
                give_addresses(&mut shared.vips(), object, old, unix(now))
                    .map_err(|finding| vec![finding])
            }
            _ => Ok(()),
        }
    }

    fn warnings(&self, mesh: &DnsLabel, together: &[&Resource]) -> Vec<Vec<Finding>> {
        match self.shared(mesh) {
            Some(shared) => references::warnings(mesh, &shared.read(), together),
            None => vec![Vec::new(); together.len()],
        }
    }

    fn cut_off<'a>(
        &'a self,
        mesh: &'a DnsLabel,
        proposed: Vec<Proposed>,
    ) -> BoxFuture<'a, Vec<String>> {
        let mesh = mesh.clone();
        let asked = self.handle.call(move |core| {
            let now = core.clock.uptime();
            let mesh = core.meshes.get_mut(&mesh)?;
            Some(mesh.cut_off(&proposed, now))
        });
        Box::pin(async move {
            let told = asked.await;
            told.ok().flatten().unwrap_or_default()
        })
    }

    fn changes(&self, mesh: &DnsLabel) -> watch::Receiver<u64> {
        // Of a mesh that is gone nothing changes any more, and who waits for it is told so.
        let none = || watch::channel(0).1;
        self.shared(mesh)
            .map_or_else(none, |of| of.changes.subscribe())
    }

    fn begins(&self, mesh: &DnsLabel) -> u64 {
        self.meshes.get(mesh).map_or(0, |tenant| tenant.begins)
    }

    fn has_mesh(&self, mesh: &DnsLabel) -> bool {
        self.meshes.get(mesh).is_some()
    }
}

/// Gives a service addresses, or checks those it names.
fn give_addresses(
    vips: &mut Vips,
    object: &mut Value,
    old: Option<&Value>,
    now: u64,
) -> Result<(), Finding> {
    let text = |object: &Value, pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let label = |pointer: &str| {
        let parsed = text(object, pointer).parse::<DnsLabel>();
        parsed.map_err(|error| {
            Finding::new(
                pointer.trim_start_matches('/').replace('/', "."),
                error.to_string(),
            )
        })
    };
    let service = ServiceName::new(label("/metadata/namespace")?, label("/metadata/name")?);
    let addresses_of = |object: &Value| -> Vec<IpAddr> {
        let many = object.pointer("/spec/clusterIPs").and_then(Value::as_array);
        let many = many.into_iter().flatten().filter_map(Value::as_str);
        let one = object.pointer("/spec/clusterIP").and_then(Value::as_str);
        let mut list: Vec<IpAddr> = many
            .chain(one)
            .filter_map(|text| text.parse().ok())
            .collect();
        let mut seen = BTreeSet::new();
        list.retain(|address| seen.insert(*address));
        list
    };
    if text(object, "/spec/clusterIP") == "None" {
        return Ok(());
    }
    let mut addresses = addresses_of(object);
    if addresses.is_empty() {
        addresses = old.map(&addresses_of).unwrap_or_default();
    }
    let checked = vips.check(&service, &addresses, now);
    let named = checked.map_err(|error| Finding::new("spec.clusterIPs", error.to_string()))?;
    if let Some(vip) = named {
        vips.claim(&service, vip, now);
    } else {
        let vip: Vip = vips
            .offer(&service, now)
            .map_err(|error| Finding::new("spec.clusterIPs", error.to_string()))?;
        let families = object.pointer("/spec/ipFamilies").and_then(Value::as_array);
        let families: Vec<&str> = families
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        addresses = match families.as_slice() {
            [] => vip.addresses(),
            some => some
                .iter()
                .map(|family| {
                    if *family == "IPv6" {
                        vip.v6()
                    } else {
                        vip.v4()
                    }
                })
                .collect(),
        };
    }
    if let (Some(spec), Some(first)) = (
        object.get_mut("spec").and_then(Value::as_object_mut),
        addresses.first(),
    ) {
        let family = |address: &IpAddr| if address.is_ipv4() { "IPv4" } else { "IPv6" };
        spec.insert("clusterIP".into(), json!(first.to_string()));
        let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        spec.insert("clusterIPs".into(), json!(texts));
        let families: Vec<&str> = addresses.iter().map(family).collect();
        spec.insert("ipFamilies".into(), json!(families));
        let policy = if families.len() > 1 {
            "RequireDualStack"
        } else {
            "SingleStack"
        };
        spec.entry("ipFamilyPolicy")
            .or_insert_with(|| json!(policy));
    }
    Ok(())
}
