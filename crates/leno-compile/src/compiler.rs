//! Keeps what was compiled, and compiles again exactly what a change touches (CP11).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use leno_config::Kind;
use leno_ir::{Feature, ResourceName};
use leno_types::{DnsLabel, HostName, ServiceName, TrustDomain, WorkloadUid};

use crate::{
    Condition, EffectiveService, GeneratorNames, GivenNames, Input, Kept, Key, MAX_GENERATORS,
    Output, Services,
    audit::Round,
    authentication, conditions, destination,
    entry::Entry,
    graph::Graph,
    hostnames::{self, Hostnames},
    index::{of_namespace, remove},
    known::{Known, ObjectName, Touched},
    outputs::Outputs,
    references::{Asking, Labels, Question, of_authentication as dangling_of_authentication},
    service,
    view::{Read, ServiceMap, View},
    workload,
};

/// A status says what a name that leads nowhere may have been meant to be where a namespace has at most as many services:
/// each is compared with each such name whenever a service comes or goes, as thousands do after a restart.
const MAX_COMPARED: usize = 256;

/// How often each kind of thing was compiled, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compilations {
    /// Services with their routes.
    pub destinations: u64,
    /// Hosts.
    pub hosts: u64,
    /// Endpoints of services.
    pub endpoints: u64,
    /// Workloads with their access rules.
    pub workloads: u64,
    /// Further names of services.
    pub hostnames: u64,
}

/// Everything known of one mesh, and everything compiled from it.
#[derive(Debug)]
pub struct Compiler {
    pub(crate) known: Known,
    pub(crate) services: ServiceMap,
    /// Those that came, went or became different since it was last asked which.
    pub(crate) changed_services: BTreeSet<ServiceName>,
    /// Objects whose rules are carried by what came out different since.
    changed_objects: BTreeSet<(Kind, ObjectName)>,
    pub(crate) service_reads: Graph<ServiceName>,
    pub(crate) hostnames: Hostnames,
    pub(crate) hostname_reads: Graph<ServiceName>,
    pub(crate) outputs: Outputs,
    pub(crate) output_reads: Graph<Key>,
    /// Services by virtual address, by name: of several that claim one, the first has it.
    vips: BTreeMap<IpAddr, Vec<ServiceName>>,
    /// Virtual addresses by which something else may be found since it was last asked which.
    changed_vips: BTreeSet<IpAddr>,
    /// Keys whose outputs carry rules of an object.
    carriers: BTreeMap<(Kind, ObjectName), BTreeSet<Key>>,
    compilations: Compilations,
    /// What the auditor has not looked at in its round.
    pub(crate) unaudited: Round,
}

impl Compiler {
    /// A mesh of which nothing is known but its trust domain.
    #[must_use]
    pub fn new(domain: TrustDomain) -> Self {
        Self {
            known: Known::new(domain),
            services: ServiceMap::new(),
            changed_services: BTreeSet::new(),
            changed_objects: BTreeSet::new(),
            service_reads: Graph::new(),
            hostnames: Hostnames::default(),
            hostname_reads: Graph::new(),
            outputs: Outputs::default(),
            output_reads: Graph::new(),
            vips: BTreeMap::new(),
            changed_vips: BTreeSet::new(),
            carriers: BTreeMap::new(),
            compilations: Compilations::default(),
            unaudited: Round::default(),
        }
    }

    /// Takes changes in; gives exactly what came out different, in the order of keys. `None`: it is gone.
    pub fn apply(&mut self, inputs: Vec<Input>) -> Vec<(Key, Option<Arc<Output>>)> {
        let mut touched = Touched::default();
        for input in inputs {
            self.known.set(input, &mut touched);
        }
        let services = self.compile_services(&mut touched);
        self.compile_hostnames(services, &mut touched);
        let mut dirty = self.output_reads.dirty(&touched.reads);
        dirty.append(&mut touched.keys);
        let mut changed = Vec::new();
        for key in dirty {
            let view = View::new(&self.known, &self.services);
            let output = compile(&view, &self.hostnames, &key);
            // What is not there is not watched for: the change that makes it names its key.
            let reads = output.as_ref().map(|_| view.into_reads());
            self.output_reads.record(&key, reads.unwrap_or_default());
            self.count(&key);
            let kept = output.as_ref().map(Kept::from);
            debug_assert_eq!(kept.as_ref().and_then(Kept::output), output);
            if self.kept(&key) == kept.as_ref() {
                continue;
            }
            self.replace(&key, output.as_ref(), kept);
            let output = output.map(Arc::new);
            changed.push((key, output));
        }
        changed
    }

    /// Services first: an output that reads one is dirty only where the service came out different. Gives those.
    fn compile_services(&mut self, touched: &mut Touched) -> BTreeSet<ServiceName> {
        let mut changed = BTreeSet::new();
        let mut dirty = self.service_reads.dirty(&touched.reads);
        dirty.append(&mut touched.services);
        for name in dirty {
            let view = View::fresh(&self.known);
            let service = service::effective(&view, &name);
            let reads = service.as_ref().map(|_| view.into_reads());
            self.service_reads.record(&name, reads.unwrap_or_default());
            if self.services.get(&name).map(|service| &**service) == service.as_ref() {
                continue;
            }
            match service {
                Some(service) => self.services.insert(name.clone(), Arc::new(service)),
                None => self.services.remove(&name),
            };
            self.changed_services.insert(name.clone());
            touched.reads.insert(Read::Effective(name.clone()));
            touched.keys.insert(Key::Destination(name.clone()));
            touched.keys.insert(Key::Endpoints(name.clone()));
            changed.insert(name);
        }
        changed
    }

    /// Then what these services, and those whose readings changed, are called besides.
    fn compile_hostnames(&mut self, mut dirty: BTreeSet<ServiceName>, touched: &mut Touched) {
        dirty.append(&mut self.hostname_reads.dirty(&touched.reads));
        for name in dirty {
            for host in self.set_claims(&name) {
                touched.reads.insert(Read::Claimants(host.clone()));
                touched.keys.insert(Key::Hostname(host));
            }
        }
        self.hostnames.refresh();
    }

    /// Asks anew what a service is called besides; gives the names about which anything changed.
    pub(crate) fn set_claims(&mut self, name: &ServiceName) -> BTreeSet<HostName> {
        let view = View::new(&self.known, &self.services);
        let claims = hostnames::claims(&view, name);
        // What is not there is not watched for.
        let reads = self.services.contains_key(name).then(|| view.into_reads());
        self.hostname_reads.record(name, reads.unwrap_or_default());
        self.hostnames.set(name, claims)
    }

    fn count(&mut self, key: &Key) {
        match key {
            Key::Mesh => {}
            Key::Destination(_) => self.compilations.destinations += 1,
            Key::Host(_) => self.compilations.hosts += 1,
            Key::Endpoints(_) => self.compilations.endpoints += 1,
            Key::OwnWorkload(_) => self.compilations.workloads += 1,
            Key::Hostname(_) => self.compilations.hostnames += 1,
        }
    }

    /// Keeps an output, and what is found through it.
    pub(crate) fn replace(&mut self, key: &Key, output: Option<&Output>, kept: Option<Kept>) {
        if let Some(before) = self.outputs.remove(key) {
            for object in before.objects() {
                remove(&mut self.carriers, object, key);
                self.changed_objects.insert(object.clone());
            }
            if let Key::Destination(name) = key {
                for vip in before.vips() {
                    self.release(vip, name);
                    self.changed_vips.insert(*vip);
                }
            }
        }
        let (Some(output), Some(kept)) = (output, kept) else {
            return;
        };
        let after = Entry::new(output, kept);
        for object in after.objects() {
            self.changed_objects.insert(object.clone());
            let carriers = self.carriers.entry(object.clone()).or_default();
            carriers.insert(key.clone());
        }
        if let Key::Destination(name) = key {
            for vip in after.vips() {
                self.claim(*vip, name);
                self.changed_vips.insert(*vip);
            }
        }
        self.outputs.insert(key.clone(), after);
    }

    /// A service says that a virtual address is its own. Nearly always it is the only one.
    fn claim(&mut self, vip: IpAddr, name: &ServiceName) {
        let services = self.vips.entry(vip).or_default();
        if let Err(at) = services.binary_search(name) {
            services.reserve_exact(1);
            services.insert(at, name.clone());
        }
    }

    fn release(&mut self, vip: &IpAddr, name: &ServiceName) {
        if let Some(services) = self.vips.get_mut(vip) {
            services.retain(|service| service != name);
            if services.is_empty() {
                self.vips.remove(vip);
            }
        }
    }

    /// What a key means now.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Arc<Output>> {
        self.output(key).map(Arc::new)
    }

    /// The same as it is kept, and sent.
    #[must_use]
    pub fn kept(&self, key: &Key) -> Option<&Kept> {
        self.outputs.get(key).map(|entry| &entry.kept)
    }

    fn output(&self, key: &Key) -> Option<Output> {
        self.kept(key)?.output()
    }

    /// The features without which a proxy must let nobody in at a workload.
    #[must_use]
    pub fn needs(&self, uid: WorkloadUid) -> &[Feature] {
        let entry = self.outputs.get(&Key::OwnWorkload(uid));
        entry.map_or(&[], Entry::needs)
    }

    /// Every key there is, with its output as it is kept.
    pub fn all_kept(&self) -> impl Iterator<Item = (Key, &Kept)> {
        self.outputs.iter().map(|(key, entry)| (key, &entry.kept))
    }

    /// Every key there is, with its output.
    pub fn outputs(&self) -> impl Iterator<Item = (Key, Output)> {
        let all = self.all_kept();
        all.filter_map(|(key, kept)| Some((key, kept.output()?)))
    }

    /// Compiles everything afresh, with nothing kept from before: what tests compare with.
    #[must_use]
    pub fn full(&self) -> BTreeMap<Key, Output> {
        let (known, touched) = self.known.rebuilt();
        let mut keys = touched.keys;
        let mut hostnames = Hostnames::default();
        for name in touched.services {
            let claims = hostnames::claims(&View::fresh(&known), &name);
            keys.extend(hostnames.set(&name, claims).into_iter().map(Key::Hostname));
            keys.insert(Key::Destination(name.clone()));
            keys.insert(Key::Endpoints(name));
        }
        keys.into_iter()
            .filter_map(|key| {
                let output = compile(&View::fresh(&known), &hostnames, &key)?;
                Some((key, output))
            })
            .collect()
    }

    /// How often each kind of thing was compiled so far.
    #[must_use]
    pub fn compilations(&self) -> Compilations {
        self.compilations
    }

    /// How many workloads and services were looked at so far to find out whom a selector selects.
    #[must_use]
    pub fn looked_at(&self) -> u64 {
        self.known.looked_at()
    }

    /// What a name that a proxy asks for means: a service, or the host at an address. A virtual address comes first.
    #[must_use]
    pub fn resolve(&self, name: &ResourceName) -> Option<Key> {
        let key = match name {
            ResourceName::Service(name) => Key::Destination(name.clone()),
            ResourceName::Host(address) => Key::Host(*address),
            ResourceName::Hostname(name) => Key::Hostname(name.clone()),
            ResourceName::Address(address) => {
                match self.vips.get(address).and_then(|of| of.first()) {
                    Some(name) => Key::Destination(name.clone()),
                    None => Key::Host(*address),
                }
            }
        };
        self.outputs.contains_key(&key).then_some(key)
    }

    /// The other names of what a key means: the addresses by which it is found.
    #[must_use]
    pub fn aliases(&self, key: &Key) -> Vec<ResourceName> {
        let addresses: Vec<IpAddr> = match (key, self.outputs.get(key)) {
            (Key::Destination(name), Some(entry)) => {
                let first = |vip: &IpAddr| self.vips.get(vip).and_then(|of| of.first());
                let own = entry.vips().iter().copied();
                own.filter(|vip| first(vip) == Some(name)).collect()
            }
            (Key::Host(address), Some(_)) if !self.vips.contains_key(address) => vec![*address],
            _ => Vec::new(),
        };
        addresses.into_iter().map(ResourceName::Address).collect()
    }

    /// What is to be said about an object; none when there is no such object.
    #[must_use]
    pub fn conditions(&self, kind: Kind, namespace: &DnsLabel, name: &DnsLabel) -> Vec<Condition> {
        self.conditions_asking(kind, namespace, name).0
    }

    /// The same, with what was asked about services to say it: as long as the answers are the same, nothing else is to
    /// be said. What is said of generators, and of policies about mutual TLS, depends on others of their kind besides.
    #[must_use]
    pub fn conditions_asking(
        &self,
        kind: Kind,
        namespace: &DnsLabel,
        name: &DnsLabel,
    ) -> (Vec<Condition>, BTreeSet<Question>) {
        let services = Asking::new(self);
        let name = ObjectName::new(namespace.clone(), name.clone());
        let conditions = match kind {
            Kind::Service => self
                .known
                .service(&name)
                .map(|service| conditions::of_service(&service.meta)),
            Kind::HttpRoute => self
                .known
                .route(&name)
                .map(|route| conditions::of_route(route, &services)),
            Kind::AccessPolicy => self
                .known
                .policy(&name)
                .map(|policy| conditions::of_policy(policy, &services)),
            Kind::AuthenticationPolicy => self.known.authentication(&name).map(|policy| {
                let mut found = authentication::conditions(&self.known, policy);
                found.push(conditions::of_references(
                    &policy.meta,
                    &dangling_of_authentication(policy, &services),
                ));
                found
            }),
            Kind::HostnameGenerator => self.known.generator(&name).map(|generator| {
                let mut in_force = self.known.generators().take(MAX_GENERATORS);
                let in_force = in_force.any(|of| std::ptr::eq(of, generator));
                conditions::of_generator(generator, in_force, &self.generator_names(&name))
            }),
            Kind::EndpointSlice | Kind::Workload => None,
        };
        (conditions.unwrap_or_default(), services.into_asked())
    }

    /// Every service there is, applied or derived, by name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<EffectiveService>> {
        self.services.values()
    }

    /// The service of a name.
    #[must_use]
    pub fn effective(&self, name: &ServiceName) -> Option<&Arc<EffectiveService>> {
        self.services.get(name)
    }

    /// Services that came, went or became different since this was last asked.
    pub fn take_changed_services(&mut self) -> BTreeSet<ServiceName> {
        std::mem::take(&mut self.changed_services)
    }

    /// Virtual addresses that were or are those of services that came out different since this was last asked.
    pub fn take_changed_addresses(&mut self) -> BTreeSet<IpAddr> {
        std::mem::take(&mut self.changed_vips)
    }

    /// Objects whose rules were or are carried by what came out different since this was last asked.
    pub fn take_changed_objects(&mut self) -> BTreeSet<(Kind, ServiceName)> {
        std::mem::take(&mut self.changed_objects)
    }

    /// The objects whose rules the output of a key carries.
    #[must_use]
    pub fn carried(&self, key: &Key) -> &[(Kind, ServiceName)] {
        self.outputs.get(key).map_or(&[], Entry::objects)
    }

    /// The keys whose outputs carry rules of an object; for a service, its own.
    #[must_use]
    pub fn resources_from(&self, kind: Kind, namespace: &DnsLabel, name: &DnsLabel) -> Vec<Key> {
        let name = ObjectName::new(namespace.clone(), name.clone());
        if kind == Kind::Service {
            let own = [Key::Destination(name.clone()), Key::Endpoints(name)];
            return own
                .into_iter()
                .filter(|key| self.outputs.contains_key(key))
                .collect();
        }
        if kind == Kind::HostnameGenerator {
            // By its domain proxies know which names to ask for; whose those are, see `generator_of`.
            let there = self.known.generator(&name).map(|_| Key::Mesh);
            return there.into_iter().collect();
        }
        let keys = self.carriers.get(&(kind, name));
        keys.into_iter().flatten().cloned().collect()
    }

    /// What comes of all generators.
    #[must_use]
    pub fn given_names(&self) -> &Arc<GivenNames> {
        self.hostnames.given()
    }

    /// What comes of a generator.
    #[must_use]
    pub fn generator_names(&self, generator: &ServiceName) -> GeneratorNames {
        self.hostnames.of_generator(generator)
    }

    /// The generator by which somebody has a name.
    #[must_use]
    pub fn generator_of(&self, name: &HostName) -> Option<&ServiceName> {
        self.hostnames.holder(name).map(|holder| &holder.generator)
    }
}

/// As compiled: what a status says is of the same moment as what proxies are told.
impl Services for Compiler {
    fn service(&self, name: &ServiceName) -> Option<EffectiveService> {
        self.services.get(name).map(|service| (**service).clone())
    }

    fn names(&self, namespace: &DnsLabel) -> Vec<DnsLabel> {
        let services = of_namespace(&self.services, namespace);
        let names = services.take(MAX_COMPARED + 1);
        let names: Vec<_> = names.map(|service| service.name.name.clone()).collect();
        match names.len() {
            ..=MAX_COMPARED => names,
            _ => Vec::new(),
        }
    }

    fn program_ports(&self, name: &ServiceName) -> BTreeSet<u16> {
        let Some(Output::Endpoints(endpoints)) = self.output(&Key::Endpoints(name.clone())) else {
            return BTreeSet::new();
        };
        let mut ports = BTreeSet::new();
        for endpoint in &endpoints.endpoints {
            if let Some(member) = self.known.workload(endpoint.uid) {
                let of_program = member.record.ports.iter();
                ports.extend(of_program.map(|port| port.workload_port));
            }
        }
        ports
    }

    fn labelled_ports(&self, namespace: &DnsLabel, labels: &Labels) -> Option<BTreeSet<u16>> {
        let selected = self.known.selected(namespace, labels);
        let each = selected.map(|member| -> BTreeSet<u16> {
            let ports = member.record.ports.iter();
            ports.map(|port| port.workload_port).collect()
        });
        each.reduce(|all, more| &all | &more)
    }
}

/// What a key means: a pure function of the key and what the view shows.
pub(crate) fn compile(view: &View<'_>, hostnames: &Hostnames, key: &Key) -> Option<Output> {
    match key {
        Key::Mesh => view.mesh().cloned().map(|mut mesh| {
            let generators = view.generators().into_iter();
            let domains = generators.map(|of| of.template.domain().clone());
            mesh.domains = domains.collect();
            Output::Mesh(mesh)
        }),
        Key::Hostname(name) => {
            destination::of_hostname(view, hostnames, name).map(Output::Destination)
        }
        Key::Destination(name) => destination::of_service(view, name).map(Output::Destination),
        Key::Host(address) => destination::of_host(view, *address).map(Output::Destination),
        Key::Endpoints(name) => service::endpoints(view, name).map(Output::Endpoints),
        Key::OwnWorkload(uid) => workload::own(view, *uid).map(Output::OwnWorkload),
    }
}
