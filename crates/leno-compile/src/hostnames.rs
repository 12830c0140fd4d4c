//! Further names of services, from the templates of HostnameGenerators, and who has which.
//!
//! Owns the rule of precedence: of several services that would get one name, an applied one goes before one that only
//! workloads made, then that to which the name was given first, which is when service and generator were both there,
//! then the older service. A new generator or a new service so takes nothing from anybody.
//! Invariant: the index is what the claims of every service say, whichever came first.

use std::collections::{BTreeMap, BTreeSet};

use leno_config::{HostnameGenerator, Meta, NamedService, Unnamed};
use leno_types::{HostName, ServiceName};

use crate::{
    Generated,
    known::{ObjectName, remove},
    view::View,
};

/// Generators of a mesh that are in force: the oldest. Each may give a name to every service.
pub const MAX_GENERATORS: usize = 32;

/// When something was made; what does not say came last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Born(bool, String);

impl Born {
    pub(crate) fn of(creation: Option<&str>) -> Self {
        Self(creation.is_none(), creation.unwrap_or_default().into())
    }

    pub(crate) fn of_meta(meta: &Meta) -> Self {
        Self::of(meta.creation.as_deref())
    }
}

/// Who would have a name; the least one has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Claimant {
    derived: bool,
    /// Since when service and generator are both there.
    born: Born,
    service_born: Born,
    pub(crate) service: ServiceName,
    pub(crate) generator: ObjectName,
}

/// Why a generator gives no name to a service that it selects.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// The template does not fit it.
    #[error(transparent)]
    Template(#[from] Unnamed),
    /// The control plane is reached by this name.
    #[error("{0} is a name of the control plane")]
    Reserved(HostName),
}

/// What a generator that selects a service gives to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) by: Claimant,
    pub(crate) name: Result<HostName, Refused>,
}

/// What every generator that selects a service gives to it.
pub(crate) fn claims(view: &View<'_>, name: &ServiceName) -> Vec<Claim> {
    if view.effective(name).is_none() {
        return Vec::new();
    }
    let generators = view.generators();
    let Some(mesh) = view.mesh_name().filter(|_| !generators.is_empty()) else {
        return Vec::new();
    };
    let applied = view.applied(name);
    // As the API shows them.
    let derived = || BTreeMap::from([("leno.dev/derived".to_owned(), "true".to_owned())]);
    let labels = applied.map_or_else(derived, |service| service.meta.labels.clone());
    let born = match applied {
        Some(service) => Born::of_meta(&service.meta),
        None => Born::of(view.remembered(name).and_then(|of| of.since.as_deref())),
    };
    let service = NamedService {
        mesh,
        namespace: &name.namespace,
        name: &name.name,
        labels: &labels,
    };
    let selecting = generators
        .into_iter()
        .filter(|generator| generator.services.selects(&name.namespace, &labels));
    let claim = |generator: &HostnameGenerator| Claim {
        by: Claimant {
            derived: applied.is_none(),
            born: born.clone().max(Born::of_meta(&generator.meta)),
            service_born: born.clone(),
            service: name.clone(),
            generator: object_name(&generator.meta),
        },
        name: match generator.template.fill(service) {
            Ok(name) if view.is_reserved(&name) => Err(Refused::Reserved(name)),
            Ok(name) => Ok(name),
            Err(unnamed) => Err(unnamed.into()),
        },
    };
    selecting.map(claim).collect()
}

fn object_name(meta: &Meta) -> ObjectName {
    ObjectName::new(meta.namespace.clone(), meta.name.clone())
}

/// Says who has a name that another would have, and why.
fn conflict(name: &HostName, holder: &Claimant, other: &Claimant) -> String {
    let why = if holder.derived != other.derived {
        "which was applied"
    } else if holder.born != other.born {
        "which had it before"
    } else if holder.service_born != other.service_born {
        "which is older"
    } else {
        "which is first by name"
    };
    format!("{name} is the name of {}, {why}", holder.service)
}

/// The claims of all services.
#[derive(Debug, Default)]
pub(crate) struct Hostnames {
    claims: BTreeMap<ServiceName, Vec<Claim>>,
    claimants: BTreeMap<HostName, BTreeSet<Claimant>>,
    /// The services that a generator selects.
    selected: BTreeMap<ObjectName, BTreeSet<ServiceName>>,
}

impl Hostnames {
    /// Notes the claims of a service; gives the names that they change anything about.
    pub(crate) fn set(&mut self, service: &ServiceName, claims: Vec<Claim>) -> BTreeSet<HostName> {
        let before = self.claims.remove(service).unwrap_or_default();
        if before == claims {
            self.keep(service, claims);
            return BTreeSet::new();
        }
        let mut touched = BTreeSet::new();
        for claim in &before {
            remove(&mut self.selected, &claim.by.generator, service);
            if let Ok(name) = &claim.name {
                remove(&mut self.claimants, name, &claim.by);
                touched.insert(name.clone());
            }
        }
        for claim in &claims {
            let selected = self.selected.entry(claim.by.generator.clone());
            selected.or_default().insert(service.clone());
            if let Ok(name) = &claim.name {
                let claimants = self.claimants.entry(name.clone()).or_default();
                claimants.insert(claim.by.clone());
                touched.insert(name.clone());
            }
        }
        self.keep(service, claims);
        touched
    }

    fn keep(&mut self, service: &ServiceName, claims: Vec<Claim>) {
        if !claims.is_empty() {
            self.claims.insert(service.clone(), claims);
        }
    }

    /// The claims of a service, the oldest generator's first.
    pub(crate) fn of(&self, service: &ServiceName) -> &[Claim] {
        self.claims.get(service).map_or(&[], Vec::as_slice)
    }

    /// Who has a name.
    pub(crate) fn holder(&self, name: &HostName) -> Option<&Claimant> {
        self.claimants.get(name)?.first()
    }

    /// What comes of a claim.
    pub(crate) fn outcome(&self, claim: &Claim) -> Generated {
        let name = match &claim.name {
            Err(refused @ Refused::Template(_)) => Err(("TemplateError", refused.to_string())),
            Err(refused @ Refused::Reserved(_)) => Err(("Reserved", refused.to_string())),
            Ok(name) => match self.holder(name) {
                Some(holder) if holder.service != claim.by.service => {
                    Err(("Conflict", conflict(name, holder, &claim.by)))
                }
                _ => Ok(name.clone()),
            },
        };
        let generator = claim.by.generator.clone();
        Generated { generator, name }
    }

    /// Every service that claims one.
    pub(crate) fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.claims.keys()
    }

    /// Every name that somebody has.
    pub(crate) fn names(&self) -> impl Iterator<Item = &HostName> {
        self.claimants.keys()
    }

    /// What a generator gives, by service.
    pub(crate) fn by(&self, generator: &ObjectName) -> impl Iterator<Item = &Claim> {
        let services = self.selected.get(generator).into_iter().flatten();
        services
            .flat_map(|service| self.of(service))
            .filter(move |claim| claim.by.generator == *generator)
    }
}
