//! Everything known of a mesh, with the indexes that ranges are read through.
//!
//! Invariant: each index says exactly what a scan of the records would. [`Known::set`] names every [`Read`] whose
//! answer a change can alter.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use leno_config::{
    AccessPolicy, AccessTarget, AuthenticationPolicy, AuthenticationTarget, HostnameGenerator,
    HttpRoute, Kind, Resource, Service,
};
use leno_ir::Mesh;
use leno_types::{DnsLabel, HostName, ServiceName, TrustDomain, WorkloadUid};

use crate::{
    Input, Key, Remembered, WorkloadRecord,
    authentication::Authentications,
    hostnames::Born,
    index::{after, insert, members, of_namespace, remove, replace},
    labelled::{Labelled, anchor, found_by},
    view::Read,
};

/// Namespace and name of an object of any kind.
pub(crate) type ObjectName = ServiceName;

/// A workload.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) record: WorkloadRecord,
}

impl Member {
    /// Whether it has every label of a selector that is not empty.
    pub(crate) fn is_selected(&self, selector: &BTreeMap<String, String>) -> bool {
        !selector.is_empty()
            && selector
                .iter()
                .all(|(name, value)| self.record.label(name) == Some(value))
    }
}

/// What a change may alter.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    /// Questions that may be answered differently now.
    pub(crate) reads: BTreeSet<Read>,
    /// Services that may have begun to exist.
    pub(crate) services: BTreeSet<ServiceName>,
    /// Keys that may have begun to exist.
    pub(crate) keys: BTreeSet<Key>,
}

/// Everything known of a mesh.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) domain: TrustDomain,
    services: BTreeMap<ServiceName, Arc<Resource>>,
    routes: BTreeMap<ObjectName, Arc<Resource>>,
    policies: BTreeMap<ObjectName, Arc<Resource>>,
    authentications: BTreeMap<ObjectName, Arc<Resource>>,
    generators: BTreeMap<ObjectName, Arc<Resource>>,
    workloads: BTreeMap<WorkloadUid, Member>,
    remembered: BTreeMap<ServiceName, Arc<Remembered>>,
    vips: BTreeMap<ServiceName, Vec<IpAddr>>,
    mesh: Option<Arc<Mesh>>,
    /// Names that no service may have.
    reserved: Arc<BTreeSet<HostName>>,
    generators_by_age: BTreeSet<(Born, ObjectName)>,
    routes_of: BTreeMap<ServiceName, BTreeSet<ObjectName>>,
    policies_of: BTreeMap<AccessTarget, BTreeSet<ObjectName>>,
    authentications_of: Authentications,
    /// Workloads by the labels that selectors see, but for those that name their service.
    pub(crate) labelled: Labelled<WorkloadUid>,
    /// Applied services by one label of their selectors.
    pub(crate) selecting: Labelled<ServiceName>,
    /// How many workloads and services were looked at for a selector.
    pub(crate) looked_at: Cell<u64>,
    /// Workloads by the service they are registered for.
    pub(crate) registered: BTreeMap<ServiceName, BTreeSet<WorkloadUid>>,
    /// Workloads by the service of their version.
    versions: BTreeMap<ServiceName, BTreeSet<WorkloadUid>>,
    at: BTreeMap<IpAddr, BTreeSet<WorkloadUid>>,
}

impl Known {
    /// Nothing but the trust domain.
    pub(crate) fn new(domain: TrustDomain) -> Self {
        Self {
            domain,
            services: BTreeMap::new(),
            routes: BTreeMap::new(),
            policies: BTreeMap::new(),
            authentications: BTreeMap::new(),
            generators: BTreeMap::new(),
            workloads: BTreeMap::new(),
            remembered: BTreeMap::new(),
            vips: BTreeMap::new(),
            mesh: None,
            reserved: Arc::default(),
            generators_by_age: BTreeSet::new(),
            routes_of: BTreeMap::new(),
            policies_of: BTreeMap::new(),
            authentications_of: Authentications::default(),
            labelled: Labelled::new(),
            selecting: Labelled::new(),
            looked_at: Cell::new(0),
            registered: BTreeMap::new(),
            versions: BTreeMap::new(),
            at: BTreeMap::new(),
        }
    }

    /// The same with every index built anew from the records.
    pub(crate) fn rebuilt(&self) -> (Self, Touched) {
        let mut known = Self::new(self.domain.clone());
        let mut touched = Touched::default();
        let objects = [
            (Kind::Service, &self.services),
            (Kind::HttpRoute, &self.routes),
            (Kind::AccessPolicy, &self.policies),
            (Kind::AuthenticationPolicy, &self.authentications),
            (Kind::HostnameGenerator, &self.generators),
        ];
        for (kind, objects) in objects {
            for (name, resource) in objects {
                let (namespace, name) = (name.namespace.clone(), name.name.clone());
                let input = Input::Object(kind, namespace, name, Some(resource.clone()));
                known.set(input, &mut touched);
            }
        }
        for (uid, member) in &self.workloads {
            let input = Input::Workload(*uid, Some(member.record.clone()));
            known.set(input, &mut touched);
        }
        for (name, remembered) in &self.remembered {
            let input = Input::Remembered(name.clone(), Some(remembered.clone()));
            known.set(input, &mut touched);
        }
        for (name, vips) in &self.vips {
            known.set(Input::Vips(name.clone(), vips.clone()), &mut touched);
        }
        if let Some(mesh) = &self.mesh {
            known.set(Input::Mesh(mesh.clone()), &mut touched);
        }
        known.set(Input::Reserved(self.reserved.clone()), &mut touched);
        (known, touched)
    }

    /// Takes one change in.
    pub(crate) fn set(&mut self, input: Input, touched: &mut Touched) {
        match input {
            Input::Object(kind, namespace, name, resource) => {
                let name = ObjectName::new(namespace, name);
                // A resource of another kind than it says would be read as something that it is not.
                let resource = resource.filter(|resource| resource.kind() == kind);
                match kind {
                    Kind::Service => self.set_service(name, resource, touched),
                    Kind::HttpRoute => self.set_route(name, resource, touched),
                    Kind::AccessPolicy => self.set_policy(name, resource, touched),
                    Kind::AuthenticationPolicy => self.set_authentication(name, resource, touched),
                    Kind::HostnameGenerator => self.set_generator(name, resource, touched),
                    Kind::EndpointSlice | Kind::Workload => {}
                }
            }
            Input::Workload(uid, record) => self.set_workload(uid, record, touched),
            Input::Remembered(name, remembered) => self.remember(name, remembered, touched),
            Input::Vips(name, vips) => {
                let before = match vips.is_empty() {
                    true => self.vips.remove(&name),
                    false => self.vips.insert(name.clone(), vips),
                };
                if before.as_ref() != self.vips.get(&name) {
                    touched.reads.insert(Read::Vips(name));
                }
            }
            Input::Reserved(names) => {
                self.reserved = names;
                touched.reads.insert(Read::Reserved);
            }
            Input::Mesh(mesh) => {
                if self.mesh().is_none_or(|before| before.name != mesh.name) {
                    touched.reads.insert(Read::MeshName);
                }
                self.mesh = Some(mesh);
                touched.reads.insert(Read::Mesh);
                touched.keys.insert(Key::Mesh);
            }
        }
    }

    fn remember(
        &mut self,
        name: ServiceName,
        remembered: Option<Arc<Remembered>>,
        touched: &mut Touched,
    ) {
        let was_taken = self.is_taken(&name);
        let before = match remembered {
            Some(remembered) => self.remembered.insert(name.clone(), remembered),
            None => self.remembered.remove(&name),
        };
        if before.as_ref() == self.remembered.get(&name) {
            return;
        }
        if self.is_taken(&name) != was_taken {
            touched.reads.insert(Read::Registered(name.clone()));
            let versions = members(&self.versions, &name).copied();
            touched.reads.extend(versions.map(Read::Workload));
        }
        touched.reads.insert(Read::Remembered(name.clone()));
        touched.services.insert(name);
    }

    fn set_service(
        &mut self,
        name: ServiceName,
        resource: Option<Arc<Resource>>,
        touched: &mut Touched,
    ) {
        let before = replace(&mut self.services, &name, resource);
        let before = before.as_deref().and_then(Resource::as_service);
        let after = self.services.get(&name);
        let after = after.and_then(|service| service.as_service());
        if before == after {
            return;
        }
        if let Some(label) = before.and_then(|service| anchor(&service.selector)) {
            self.selecting.remove(&name.namespace, label, &name);
        }
        if let Some(label) = after.and_then(|service| anchor(&service.selector)) {
            self.selecting.insert(&name.namespace, label, name.clone());
        }
        let (was, is) = (
            before.map(|service| &service.selector),
            after.map(|service| &service.selector),
        );
        if was != is {
            touched.reads.insert(Read::Selected(name.clone()));
            for selector in was.into_iter().chain(is) {
                let selected = self.selected(&name.namespace, selector);
                let selected = selected.map(|member| Read::Workload(member.record.uid));
                touched.reads.extend(selected);
            }
            let registered = members(&self.registered, &name).chain(members(&self.versions, &name));
            touched
                .reads
                .extend(registered.copied().map(Read::Workload));
        }
        touched.reads.insert(Read::Applied(name.clone()));
        touched.services.insert(name);
    }

    fn set_route(
        &mut self,
        name: ObjectName,
        resource: Option<Arc<Resource>>,
        touched: &mut Touched,
    ) {
        let before = replace(&mut self.routes, &name, resource);
        for parent in before
            .as_deref()
            .and_then(Resource::as_route)
            .into_iter()
            .flat_map(|route| &route.parents)
        {
            remove(&mut self.routes_of, &parent.service, &name);
            touched.reads.insert(Read::Routes(parent.service.clone()));
        }
        let after = self.routes.get(&name).and_then(|route| route.as_route());
        for parent in after.into_iter().flat_map(|route| &route.parents) {
            insert(&mut self.routes_of, parent.service.clone(), name.clone());
            touched.reads.insert(Read::Routes(parent.service.clone()));
        }
    }

    fn set_policy(
        &mut self,
        name: ObjectName,
        resource: Option<Arc<Resource>>,
        touched: &mut Touched,
    ) {
        let before = replace(&mut self.policies, &name, resource);
        for target in before
            .as_deref()
            .and_then(Resource::as_access_policy)
            .into_iter()
            .flat_map(|policy| &policy.targets)
        {
            remove(&mut self.policies_of, target, &name);
            touched.reads.insert(Read::Policies(target.clone()));
        }
        let after = self
            .policies
            .get(&name)
            .and_then(|policy| policy.as_access_policy());
        for target in after.into_iter().flat_map(|policy| &policy.targets) {
            insert(&mut self.policies_of, target.clone(), name.clone());
            touched.reads.insert(Read::Policies(target.clone()));
        }
    }

    fn set_authentication(
        &mut self,
        name: ObjectName,
        resource: Option<Arc<Resource>>,
        touched: &mut Touched,
    ) {
        let before = replace(&mut self.authentications, &name, resource);
        let before = before
            .as_deref()
            .and_then(Resource::as_authentication_policy);
        let after = self.authentications.get(&name).map(|policy| &**policy);
        let after = after.and_then(Resource::as_authentication_policy);
        if let Some(before) = before {
            self.authentications_of.remove(before);
        }
        if let Some(after) = after {
            self.authentications_of.insert(after);
        }
        for target in before.into_iter().chain(after).flat_map(|of| &of.targets) {
            if let AuthenticationTarget::Labels(namespace, labels) = target {
                let selected = self.selected(namespace, labels);
                let selected = selected.map(|member| Read::Workload(member.record.uid));
                touched.reads.extend(selected);
            } else {
                touched
                    .reads
                    .insert(Read::Authentication(target.clone().into()));
            }
        }
    }

    fn set_generator(
        &mut self,
        name: ObjectName,
        resource: Option<Arc<Resource>>,
        touched: &mut Touched,
    ) {
        let born = |of: &HostnameGenerator| Born::of_meta(&of.meta);
        let before = replace(&mut self.generators, &name, resource);
        let before = before.as_deref().and_then(Resource::as_generator);
        if before == self.generator(&name) {
            return;
        }
        if let Some(before) = before {
            self.generators_by_age.remove(&(born(before), name.clone()));
        }
        if let Some(after) = self.generator(&name).map(born) {
            self.generators_by_age.insert((after, name));
        }
        touched.reads.insert(Read::Generators);
    }

    fn set_workload(
        &mut self,
        uid: WorkloadUid,
        record: Option<WorkloadRecord>,
        touched: &mut Touched,
    ) {
        let before = self.workloads.remove(&uid);
        let after = record.map(|record| Member { record });
        let (was, is) = (
            before.as_ref().map(|member| &member.record),
            after.as_ref().map(|member| &member.record),
        );
        if was != is {
            touched.reads.insert(Read::Workload(uid));
            touched.keys.insert(Key::OwnWorkload(uid));
            let same_place =
                was.map(|was| &was.place.addresses) == is.map(|is| &is.place.addresses);
            for record in was.into_iter().chain(is).filter(|_| !same_place) {
                touched
                    .reads
                    .extend(record.place.addresses.iter().copied().map(Read::At));
                touched
                    .keys
                    .extend(record.place.addresses.iter().copied().map(Key::Host));
            }
            let same_shape = matches!((was, is), (Some(was), Some(is)) if was.same_shape(is));
            for member in before.iter().chain(&after).filter(|_| !same_shape) {
                self.touch_shape(member, touched);
            }
            if !(same_place && same_shape) {
                self.index(uid, was, is, touched);
            }
        }
        if let Some(after) = after {
            self.workloads.insert(uid, after);
        }
    }

    /// Brings the indexes up to date with a workload that came, went, moved or changed its shape.
    fn index(
        &mut self,
        uid: WorkloadUid,
        was: Option<&WorkloadRecord>,
        is: Option<&WorkloadRecord>,
        touched: &mut Touched,
    ) {
        let own = was
            .into_iter()
            .chain(is)
            .filter_map(|record| record.service_name());
        let own: BTreeSet<ServiceName> = own.collect();
        let taken = |known: &Self| {
            own.iter()
                .map(|name| known.is_taken(name))
                .collect::<Vec<_>>()
        };
        let taken_before = taken(self);
        if let Some(was) = was {
            for label in found_by(was) {
                self.labelled.remove(&was.namespace, label, &uid);
            }
            if let Some(service) = was.service_name() {
                remove(&mut self.registered, &service, &uid);
            }
            if let Some(service) = was.made_service() {
                remove(&mut self.versions, &service, &uid);
            }
            for address in &was.place.addresses {
                remove(&mut self.at, address, &uid);
            }
        }
        if let Some(is) = is {
            for label in found_by(is) {
                self.labelled.insert(&is.namespace, label, uid);
            }
            if let Some(service) = is.service_name() {
                insert(&mut self.registered, service, uid);
            }
            if let Some(service) = is.made_service() {
                insert(&mut self.versions, service, uid);
            }
            for address in &is.place.addresses {
                insert(&mut self.at, *address, uid);
            }
        }
        let flipped = own.iter().zip(taken_before.iter().zip(taken(self)));
        for (name, _) in flipped.filter(|(_, (was, is))| *was != is) {
            let versions = members(&self.versions, name).copied();
            touched.reads.extend(versions.map(Read::Workload));
        }
    }

    /// A workload of this shape came or went.
    fn touch_shape(&self, member: &Member, touched: &mut Touched) {
        for service in member.record.registered_for() {
            touched.reads.insert(Read::Registered(service.clone()));
            touched.services.insert(service);
        }
        let selecting = self.selecting(member).map(Service::name);
        touched.reads.extend(selecting.map(Read::Selected));
    }

    /// An object as it stands, and was taken in.
    pub(crate) fn object(&self, kind: Kind, name: &ObjectName) -> Option<&Arc<Resource>> {
        let objects = match kind {
            Kind::Service => &self.services,
            Kind::HttpRoute => &self.routes,
            Kind::AccessPolicy => &self.policies,
            Kind::AuthenticationPolicy => &self.authentications,
            Kind::HostnameGenerator => &self.generators,
            Kind::EndpointSlice | Kind::Workload => return None,
        };
        objects.get(name)
    }

    /// The applied service of a name.
    pub(crate) fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.services
            .get(name)
            .and_then(|service| service.as_service())
    }

    /// A route.
    pub(crate) fn route(&self, name: &ObjectName) -> Option<&HttpRoute> {
        self.routes.get(name).and_then(|route| route.as_route())
    }

    /// The routes that name a service as parent, by name.
    pub(crate) fn routes_of(&self, service: &ServiceName) -> impl Iterator<Item = &HttpRoute> {
        members(&self.routes_of, service).filter_map(|name| self.route(name))
    }

    /// A policy.
    pub(crate) fn policy(&self, name: &ObjectName) -> Option<&AccessPolicy> {
        self.policies
            .get(name)
            .and_then(|policy| policy.as_access_policy())
    }

    /// The names of the policies with a target.
    pub(crate) fn policies_of(&self, target: &AccessTarget) -> impl Iterator<Item = &ObjectName> {
        members(&self.policies_of, target)
    }

    /// A policy about mutual TLS.
    pub(crate) fn authentication(&self, name: &ObjectName) -> Option<&AuthenticationPolicy> {
        let policy = self.authentications.get(name);
        policy.and_then(|policy| policy.as_authentication_policy())
    }

    /// Those of a namespace.
    pub(crate) fn authentications_in(
        &self,
        namespace: &DnsLabel,
    ) -> impl Iterator<Item = &AuthenticationPolicy> {
        of_namespace(&self.authentications, namespace)
            .filter_map(|of| of.as_authentication_policy())
    }

    /// The same by what they are for.
    pub(crate) fn authentications_of(&self) -> &Authentications {
        &self.authentications_of
    }

    /// A generator of names.
    pub(crate) fn generator(&self, name: &ObjectName) -> Option<&HostnameGenerator> {
        let generator = self.generators.get(name);
        generator.and_then(|generator| generator.as_generator())
    }

    /// All of them, the oldest first.
    pub(crate) fn generators(&self) -> impl Iterator<Item = &HostnameGenerator> {
        let by_age = self.generators_by_age.iter();
        by_age.filter_map(|(_, name)| self.generator(name))
    }

    /// Whether no service may have a name.
    pub(crate) fn is_reserved(&self, name: &HostName) -> bool {
        self.reserved.contains(name)
    }

    /// A workload.
    pub(crate) fn workload(&self, uid: WorkloadUid) -> Option<&Member> {
        self.workloads.get(&uid)
    }

    /// The workloads registered for a service, or else those of which it is the version's service. A service of its
    /// own takes no members from versions: a token for `pay` allows no part in a service `pay-api`.
    pub(crate) fn registered(&self, service: &ServiceName) -> impl Iterator<Item = &Member> {
        let index = match self.is_taken(service) {
            true => &self.registered,
            false => &self.versions,
        };
        members(index, service).filter_map(|uid| self.workload(*uid))
    }

    /// Whether a workload is or was registered for a service of this name, not only for a version.
    pub(crate) fn is_taken(&self, service: &ServiceName) -> bool {
        let remembered = || self.remembered.get(service);
        self.registered.contains_key(service) || remembered().is_some_and(|of| of.own)
    }

    /// What is remembered of a derived service.
    pub(crate) fn remembered(&self, service: &ServiceName) -> Option<&Remembered> {
        self.remembered.get(service).map(|of| &**of)
    }

    /// The workloads at an address.
    pub(crate) fn at(&self, address: IpAddr) -> impl Iterator<Item = WorkloadUid> {
        self.at.get(&address).into_iter().flatten().copied()
    }

    /// The virtual addresses given to a service.
    pub(crate) fn vips(&self, service: &ServiceName) -> &[IpAddr] {
        self.vips.get(service).map_or(&[], Vec::as_slice)
    }

    /// Every key that could have an output, but those of workloads; some more than once.
    pub(crate) fn possible_keys(&self) -> impl Iterator<Item = Key> {
        let names = self.services.keys().chain(self.registered.keys());
        let names = names.chain(self.versions.keys());
        let names = names.chain(self.remembered.keys());
        let of_name =
            |name: &ServiceName| [Key::Destination(name.clone()), Key::Endpoints(name.clone())];
        let hosts = self.at.keys().copied().map(Key::Host);
        names.flat_map(of_name).chain(hosts).chain([Key::Mesh])
    }

    /// The workload after this one, in the order of ids.
    pub(crate) fn workload_after(&self, uid: Option<WorkloadUid>) -> Option<WorkloadUid> {
        after(&self.workloads, uid)
    }

    /// The mesh.
    pub(crate) fn mesh(&self) -> Option<&Mesh> {
        self.mesh.as_deref()
    }
}
