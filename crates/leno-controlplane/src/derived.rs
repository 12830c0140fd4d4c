//! What the API shows and nobody wrote: workloads, endpoint slices, derived services, statuses; and the addresses it
//! gives to services.
//!
//! Owns the snapshot that readers of the API see, replaced whole by the one task that owns the mesh. The addresses
//! are behind a lock of their own, held for a look-up only, because a write must be answered at once.
//! Invariant: a status says of an object only what was compiled from its stored generation.

mod ages;
mod hostnames;
mod objects;
mod programmed;
mod references;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use leno_api::Derived;
use leno_compile::{Condition, EffectiveService, GivenNames, Key, Origin, Output};
use leno_config::{Finding, Kind, ParentRef, Resource};
use leno_store::{Expect, Write};
use leno_types::{DnsLabel, MeshName, ServiceName, WorkloadUid};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

use crate::{
    core::Handle,
    mesh::{Mesh, locked, remembered_key},
    tenants::Directory,
    times::{rfc3339_of, unix},
    vips::{Vip, Vips},
};

use ages::Ages;
use objects::{derived_service, endpoint_slices, workloads};
use programmed::{condition_programmed, programmed};

/// The controller's name in the status of routes.
const CONTROLLER: &str = "leno.dev/control-plane";
/// The reason for `Programmed` of what no proxy is told of.
const NOT_ACCEPTED: &str = "Invalid";
/// How long a reader waits to see what has happened; it then sees what there is.
const SETTLES: Duration = Duration::from_secs(5);

type ObjectKey = (Kind, DnsLabel, DnsLabel);
/// Object, parent, condition.
type ConditionKey = (ObjectKey, Option<ParentRef>, &'static str);

#[derive(Debug, Default)]
struct Published {
    services: BTreeMap<ServiceName, (EffectiveService, Vec<IpAddr>)>,
    /// Those of them that somebody wrote.
    applied: BTreeMap<ServiceName, Arc<Resource>>,
    endpoints: BTreeMap<ServiceName, Arc<Output>>,
    /// What services are called besides.
    names: Arc<GivenNames>,
    /// Where each program listens.
    program_ports: BTreeMap<WorkloadUid, Vec<u16>>,
    workloads: Vec<Value>,
    ages: Ages,
    statuses: BTreeMap<ObjectKey, Value>,
}

impl Published {
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
    vips: Mutex<Vips>,
    published: RwLock<Arc<Published>>,
    /// Services that nobody wrote, and whether somebody serves them: as of now, not of the last publication.
    derived: Mutex<BTreeMap<ServiceName, bool>>,
    /// Since when each condition is as it is.
    transitions: Mutex<BTreeMap<ConditionKey, (bool, String)>>,
    ages: Mutex<Ages>,
    changes: watch::Sender<u64>,
}

impl Shared {
    /// Nothing published yet; `changes` is the same for all meshes.
    pub(crate) fn new(name: MeshName, changes: watch::Sender<u64>) -> Self {
        Self {
            name,
            vips: Mutex::default(),
            published: RwLock::default(),
            derived: Mutex::default(),
            transitions: Mutex::default(),
            ages: Mutex::default(),
            changes,
        }
    }

    /// The addresses of services.
    pub(crate) fn vips(&self) -> MutexGuard<'_, Vips> {
        locked(&self.vips)
    }

    /// Notes which services nobody wrote.
    pub(crate) fn note_derived(&self, services: &[EffectiveService]) {
        let derived = services.iter().filter(|of| of.origin != Origin::Applied);
        let derived = derived.map(|of| (of.name.clone(), of.origin != Origin::Remembered));
        *locked(&self.derived) = derived.collect();
    }

    /// Replaces what the API sees.
    pub(crate) fn publish(&self, mesh: &Mesh, now: SystemTime) {
        let addressed = mesh.addressed();
        let services = mesh.compiler.services();
        let endpoints = services
            .iter()
            .filter_map(|service| {
                let output = mesh.compiler.get(&Key::Endpoints(service.name.clone()))?;
                Some((service.name.clone(), output))
            })
            .collect();
        let with_addresses = |service: EffectiveService| {
            let addresses = addressed.get(&service.name).cloned().unwrap_or_default();
            (service.name.clone(), (service, addresses))
        };
        let mut transitions = locked(&self.transitions);
        let mut seen = BTreeSet::new();
        let mut statuses = BTreeMap::new();
        for key in mesh.objects.keys() {
            let status = status_of(mesh, key, &mut transitions, &mut seen, &rfc3339_of(now));
            statuses.insert(key.clone(), status);
        }
        transitions.retain(|key, _| seen.contains(key));
        let names = services.iter().map(|service| service.name.clone());
        let agents = mesh.registry.agents();
        let uids = agents.flat_map(|(_, agent)| agent.workloads.values().map(|of| of.uid));
        let mut ages = locked(&self.ages);
        ages.update(names, uids, &rfc3339_of(now));
        let published = Published {
            services: services.into_iter().map(with_addresses).collect(),
            applied: references::applied(mesh),
            endpoints,
            names: Arc::clone(mesh.compiler.given_names()),
            program_ports: references::program_ports(mesh),
            workloads: workloads(mesh, &ages),
            ages: ages.clone(),
            statuses,
        };
        *self
            .published
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(published);
        self.changes.send_modify(|version| *version += 1);
    }

    fn read(&self) -> Arc<Published> {
        Arc::clone(
            &self
                .published
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

/// What the API sees of all meshes.
pub(crate) struct DerivedMeshes {
    meshes: Directory,
    changes: watch::Sender<u64>,
    handle: Handle,
}

impl DerivedMeshes {
    /// Of these meshes, which count in `changes` what they show anew.
    pub(crate) fn new(meshes: Directory, changes: watch::Sender<u64>, handle: Handle) -> Self {
        Self {
            meshes,
            changes,
            handle,
        }
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
        let published = shared.read();
        let mut objects = match kind {
            Kind::Workload => published.workloads.clone(),
            Kind::EndpointSlice => published
                .endpoints
                .iter()
                .flat_map(|(name, output)| {
                    let ports = published.services.get(name);
                    let ports = ports.map(|(service, _)| service.ports.as_slice());
                    let since = published.ages.service(name);
                    endpoint_slices(name, ports.unwrap_or_default(), output, since)
                })
                .collect(),
            Kind::Service => {
                let derived = published
                    .services
                    .values()
                    .filter(|(service, _)| service.origin != Origin::Applied);
                derived
                    .map(|(service, addresses)| {
                        let since = published.ages.service(&service.name);
                        let endpoints = published.endpoints.get(&service.name);
                        let endpoints = endpoints.map(Arc::as_ref);
                        let mut object = derived_service(service, addresses, endpoints, since);
                        if let Some(generated) = published.names.get(&service.name) {
                            let mut status = json!({"loadBalancer": {}});
                            hostnames::of_service(&mut status, generated);
                            object["status"] = status;
                        }
                        object
                    })
                    .collect()
            }
            Kind::HttpRoute
            | Kind::AccessPolicy
            | Kind::AuthenticationPolicy
            | Kind::HostnameGenerator => Vec::new(),
        };
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
        let published = self.shared(mesh)?.read();
        let status = published.statuses.get(&key)?;
        Some(published.shown(&key, status))
    }

    fn statuses(&self, mesh: &DnsLabel, kind: Kind) -> Vec<(String, String, Value)> {
        let Some(shared) = self.shared(mesh) else {
            return Vec::new();
        };
        let published = shared.read();
        let of_kind = published.statuses.iter().filter(|(key, _)| key.0 == kind);
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

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
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

fn status_of(
    mesh: &Mesh,
    key: &ObjectKey,
    transitions: &mut BTreeMap<ConditionKey, (bool, String)>,
    seen: &mut BTreeSet<ConditionKey>,
    now: &str,
) -> Value {
    let (kind, namespace, name) = key;
    let mut conditions = mesh.compiler.conditions(*kind, namespace, name);
    let generation = mesh
        .objects
        .get(key)
        .map_or(0, |object| object.meta().generation);
    let accepted: BTreeMap<Option<ParentRef>, bool> = conditions
        .iter()
        .filter(|condition| condition.r#type == "Accepted")
        .map(|condition| (condition.parent.clone(), condition.status))
        .collect();
    let accepted = if accepted.is_empty() {
        BTreeMap::from([(None, true)])
    } else {
        accepted
    };
    let programmed = programmed(mesh, *kind, namespace, name);
    conditions.extend(accepted.into_iter().map(|(parent, accepted)| {
        let of = if accepted {
            programmed.clone()
        } else {
            condition_programmed(false, NOT_ACCEPTED, "it is not accepted".into())
        };
        Condition {
            parent,
            observed_generation: generation,
            ..of
        }
    }));
    let mut by_parent: BTreeMap<Option<ParentRef>, Vec<Value>> = BTreeMap::new();
    for condition in conditions {
        let at = (key.clone(), condition.parent.clone(), condition.r#type);
        let since = transitions
            .entry(at.clone())
            .or_insert_with(|| (condition.status, now.into()));
        if since.0 != condition.status {
            *since = (condition.status, now.into());
        }
        seen.insert(at);
        by_parent
            .entry(condition.parent.clone())
            .or_default()
            .push(json!({
                "type": condition.r#type,
                "status": if condition.status { "True" } else { "False" },
                "reason": condition.reason,
                "message": condition.message,
                "observedGeneration": condition.observed_generation,
                "lastTransitionTime": since.1,
            }));
    }
    match kind {
        Kind::HttpRoute => {
            let parents: Vec<Value> = by_parent
                .into_iter()
                .map(|(parent, conditions)| {
                    json!({
                        "parentRef": parent.map_or_else(|| json!({}), parent_value),
                        "controllerName": CONTROLLER,
                        "conditions": conditions,
                    })
                })
                .collect();
            json!({"parents": parents})
        }
        Kind::Service => {
            let all: Vec<Value> = by_parent.into_values().flatten().collect();
            json!({"loadBalancer": {}, "conditions": all})
        }
        Kind::HostnameGenerator => {
            let all: Vec<Value> = by_parent.into_values().flatten().collect();
            let mut status = json!({"conditions": all});
            let generator = ServiceName::new(namespace.clone(), name.clone());
            hostnames::of_generator(&mut status, &mesh.compiler.generator_names(&generator));
            status
        }
        Kind::AccessPolicy | Kind::AuthenticationPolicy | Kind::EndpointSlice | Kind::Workload => {
            let all: Vec<Value> = by_parent.into_values().flatten().collect();
            json!({"conditions": all})
        }
    }
}

fn parent_value(parent: ParentRef) -> Value {
    let mut value = json!({
        "group": "",
        "kind": "Service",
        "namespace": parent.service.namespace.as_str(),
        "name": parent.service.name.as_str(),
    });
    if let (Some(object), Some(port)) = (value.as_object_mut(), parent.port) {
        object.insert("port".into(), port.into());
    }
    value
}
