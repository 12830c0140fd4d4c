//! The view a compilation has of what is known: every question it asks is recorded, so that a change finds its readers.
//!
//! Invariant: what a compilation depends on is what it asked; an absence and a range are answers, too.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use leno_config::{
    AccessPolicy, AccessTarget, AuthenticationPolicy, AuthenticationTarget, HostnameGenerator,
    HttpRoute, Service,
};
use leno_ir::Mesh;
use leno_types::{HostName, MeshName, ServiceName, TrustDomain, WorkloadUid};

use crate::{
    EffectiveService, MAX_GENERATORS, Remembered, WorkloadRecord,
    hostnames::Hostnames,
    known::{Known, ObjectName},
    service,
};

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Read {
    /// The applied service of a name, or that there is none.
    Applied(ServiceName),
    /// The service of a name, applied or derived, or that there is none.
    Effective(ServiceName),
    /// The range of workloads registered for a service: which they are and what shape they have.
    Registered(ServiceName),
    /// What is remembered of a derived service.
    Remembered(ServiceName),
    /// The range of workloads that an applied service selects.
    Selected(ServiceName),
    /// All of a workload: what it is, the range of services that it belongs to, and the oldest policy about mutual TLS
    /// that chooses it by its labels, with what it says. Whoever asks one of these asks the others as well, and there is
    /// one such question for each workload of a mesh.
    Workload(WorkloadUid),
    /// The range of workloads at an address.
    At(IpAddr),
    /// The virtual addresses of a service.
    Vips(ServiceName),
    /// The range of routes of a service, with what they say.
    Routes(ServiceName),
    /// The range of policies with a target, with what they say.
    Policies(AccessTarget),
    /// The oldest policy about mutual TLS with a target, with what it says. On the heap, as there are few: a question
    /// takes the room of the largest.
    Authentication(Box<AuthenticationTarget>),
    /// The mesh.
    Mesh,
    /// The name of the mesh alone.
    MeshName,
    /// The range of generators, with what they say.
    Generators,
    /// Names that no service may have.
    Reserved,
    /// The range of services that would have a name.
    Claimants(HostName),
}

/// Services as compiled before.
pub(crate) type ServiceMap = BTreeMap<ServiceName, Arc<EffectiveService>>;

/// A view for one compilation.
pub(crate) struct View<'a> {
    known: &'a Known,
    /// `None`: each is compiled afresh.
    services: Option<&'a ServiceMap>,
    reads: RefCell<BTreeSet<Read>>,
}

impl<'a> View<'a> {
    /// A view that takes services as compiled before.
    pub(crate) fn new(known: &'a Known, services: &'a ServiceMap) -> Self {
        let reads = RefCell::default();
        Self {
            known,
            services: Some(services),
            reads,
        }
    }

    /// A view that keeps nothing from before.
    pub(crate) fn fresh(known: &'a Known) -> Self {
        let reads = RefCell::default();
        Self {
            known,
            services: None,
            reads,
        }
    }

    /// What was asked.
    pub(crate) fn into_reads(self) -> BTreeSet<Read> {
        self.reads.into_inner()
    }

    fn record(&self, read: Read) {
        self.reads.borrow_mut().insert(read);
    }

    /// The trust domain; it never changes.
    pub(crate) fn domain(&self) -> &'a TrustDomain {
        &self.known.domain
    }

    /// See [`Read::Applied`].
    pub(crate) fn applied(&self, name: &ServiceName) -> Option<&'a Service> {
        self.record(Read::Applied(name.clone()));
        self.known.service(name)
    }

    /// See [`Read::Effective`].
    pub(crate) fn effective(&self, name: &ServiceName) -> Option<Arc<EffectiveService>> {
        self.record(Read::Effective(name.clone()));
        match self.services {
            Some(services) => services.get(name).cloned(),
            None => service::effective(&View::fresh(self.known), name).map(Arc::new),
        }
    }

    /// See [`Read::Registered`].
    pub(crate) fn registered(&self, name: &ServiceName) -> Vec<&'a WorkloadRecord> {
        self.record(Read::Registered(name.clone()));
        let records = self.known.registered(name).map(|member| &member.record);
        records.collect()
    }

    /// See [`Read::Remembered`].
    pub(crate) fn remembered(&self, name: &ServiceName) -> Option<&'a Remembered> {
        self.record(Read::Remembered(name.clone()));
        self.known.remembered(name)
    }

    /// See [`Read::Selected`].
    pub(crate) fn selected(&self, service: &Service) -> Vec<&'a WorkloadRecord> {
        self.record(Read::Selected(service.name()));
        let namespace = &service.meta.namespace;
        let selected = self.known.selected(namespace, &service.selector);
        selected.map(|member| &member.record).collect()
    }

    /// The services that a workload belongs to; see [`Read::Workload`].
    pub(crate) fn memberships(&self, record: &WorkloadRecord) -> BTreeSet<ServiceName> {
        self.record(Read::Workload(record.uid));
        let selecting = self
            .known
            .workload(record.uid)
            .into_iter()
            .flat_map(|member| self.known.selecting(member))
            .map(Service::name);
        let of_version = record.made_service();
        let of_version = of_version.filter(|name| !self.known.is_taken(name));
        // An applied service with a selector wins over what was registered.
        let registered = record.service_name().into_iter().chain(of_version);
        let registered = registered.filter(|name| {
            let applied = self.known.service(name);
            applied.is_none_or(|service| service.selector.is_empty())
        });
        selecting.chain(registered).collect()
    }

    /// See [`Read::Workload`].
    pub(crate) fn workload(&self, uid: WorkloadUid) -> Option<&'a WorkloadRecord> {
        self.record(Read::Workload(uid));
        self.known.workload(uid).map(|member| &member.record)
    }

    /// See [`Read::At`].
    pub(crate) fn at(&self, address: IpAddr) -> Vec<WorkloadUid> {
        self.record(Read::At(address));
        self.known.at(address).collect()
    }

    /// See [`Read::Vips`].
    pub(crate) fn vips(&self, name: &ServiceName) -> &'a [IpAddr] {
        self.record(Read::Vips(name.clone()));
        self.known.vips(name)
    }

    /// See [`Read::Routes`].
    pub(crate) fn routes(&self, name: &ServiceName) -> Vec<&'a HttpRoute> {
        self.record(Read::Routes(name.clone()));
        self.known.routes_of(name).collect()
    }

    /// See [`Read::Policies`]; each once, by name, whichever of the targets it has.
    pub(crate) fn policies(
        &self,
        targets: impl Iterator<Item = AccessTarget>,
    ) -> Vec<&'a AccessPolicy> {
        let mut names: BTreeSet<&'a ObjectName> = BTreeSet::new();
        for target in targets {
            names.extend(self.known.policies_of(&target));
            self.record(Read::Policies(target));
        }
        let policies = names.into_iter().filter_map(|name| self.known.policy(name));
        policies.collect()
    }

    /// See [`Read::Authentication`].
    pub(crate) fn authentication(
        &self,
        target: &AuthenticationTarget,
    ) -> Option<&'a AuthenticationPolicy> {
        self.record(Read::Authentication(target.clone().into()));
        let (_, oldest) = self.known.authentications_of().of(target).next()?;
        self.known.authentication(oldest)
    }

    /// The oldest policy about mutual TLS that chooses a workload by its labels; see [`Read::Workload`].
    pub(crate) fn authentication_by_labels(
        &self,
        record: &WorkloadRecord,
    ) -> Option<&'a AuthenticationPolicy> {
        self.record(Read::Workload(record.uid));
        let member = self.known.workload(record.uid)?;
        let policies = self.known.authentications_of().by_labels(&record.namespace);
        let mut policies = policies.filter_map(|(_, name)| self.known.authentication(name));
        policies.find(|policy| {
            policy.targets.iter().any(|target| match target {
                AuthenticationTarget::Labels(_, labels) => member.is_selected(labels),
                _ => false,
            })
        })
    }

    /// See [`Read::MeshName`].
    pub(crate) fn mesh_name(&self) -> Option<&'a MeshName> {
        self.record(Read::MeshName);
        self.known.mesh().map(|mesh| &mesh.name)
    }

    /// See [`Read::Generators`]; those in force, the oldest first.
    pub(crate) fn generators(&self) -> Vec<&'a HostnameGenerator> {
        self.record(Read::Generators);
        self.known.generators().take(MAX_GENERATORS).collect()
    }

    /// See [`Read::Reserved`].
    pub(crate) fn is_reserved(&self, name: &HostName) -> bool {
        self.record(Read::Reserved);
        self.known.is_reserved(name)
    }

    /// The one of those that would have a name that has it; see [`Read::Claimants`].
    pub(crate) fn holder(&self, hostnames: &Hostnames, name: &HostName) -> Option<ServiceName> {
        self.record(Read::Claimants(name.clone()));
        hostnames.holder(name).map(|holder| holder.service.clone())
    }

    /// See [`Read::Mesh`].
    pub(crate) fn mesh(&self) -> Option<&'a Mesh> {
        self.record(Read::Mesh);
        self.known.mesh()
    }
}
