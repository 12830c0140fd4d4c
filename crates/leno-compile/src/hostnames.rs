//! Further names of services, from the templates of HostnameGenerators, and who has which.
//!
//! Owns the rule of precedence: of several services that would get one name, an applied one goes before one that only
//! workloads made, then that to which the name was given first, which is when service and generator were both there,
//! then the older service. A new generator or a new service so takes nothing from anybody.
//! Invariant: the index is what the claims of every service say, whichever came first.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use leno_config::{Finding, HostnameGenerator, Meta, NamedService, Service, Unnamed};
use leno_types::{HostName, MeshName, ServiceName};

use crate::{Generated, Origin, index::remove, known::ObjectName, view::View};

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

/// What is to be said of a generator that is being written: services that it selects and that would get no name by it.
/// `holder` tells whose a name is now.
pub fn unnamed<'s>(
    generator: &HostnameGenerator,
    mesh: &MeshName,
    services: impl Iterator<Item = (&'s ServiceName, &'s BTreeMap<String, String>)>,
    holder: impl Fn(&HostName) -> Option<ServiceName>,
) -> Vec<Finding> {
    let selected = services.filter(|(name, labels)| {
        let selector = &generator.services;
        selector.selects(&name.namespace, labels)
    });
    let (mut all, mut lacking) = (0_usize, Vec::new());
    let mut firsts: BTreeMap<HostName, ServiceName> = BTreeMap::new();
    for (name, labels) in selected {
        all += 1;
        let filled = generator.template.fill(NamedService {
            mesh,
            namespace: &name.namespace,
            name: &name.name,
            labels,
        });
        let why = match filled {
            Err(unnamed) => Some(unnamed.to_string()),
            Ok(host) => {
                let has = holder(&host).or_else(|| firsts.get(&host).cloned());
                let has = has.filter(|has| has != name);
                let why = has.map(|has| format!("{host} is also the name of {has}"));
                firsts.entry(host).or_insert_with(|| name.clone());
                why
            }
        };
        lacking.extend(why.map(|why| format!("{name}: {why}")));
    }
    if all == 0 {
        let why = "it selects no service, so that it names nobody until there is one";
        return vec![Finding::new("spec.selector.service", why)];
    }
    let more = lacking.len().saturating_sub(NAMED);
    lacking.truncate(NAMED);
    if more > 0 {
        lacking.push(format!("and {more} more"));
    }
    let finding = |why| Finding::new("spec.template", why);
    lacking.into_iter().map(finding).collect()
}

/// What every generator that selects a service gives to it.
pub(crate) fn claims(view: &View<'_>, name: &ServiceName) -> Vec<Claim> {
    let Some(effective) = view.effective(name) else {
        return Vec::new();
    };
    let generators = view.generators();
    let Some(mesh) = view.mesh_name().filter(|_| !generators.is_empty()) else {
        return Vec::new();
    };
    let applied = view.applied(name);
    let labels = labels_of(applied);
    let born = match applied {
        Some(service) => Born::of_meta(&service.meta),
        None => {
            let remembered = view.remembered(name);
            // Who may serve `api` calls versions as it likes: their names would be what no token was made for.
            let versions = match effective.origin {
                Origin::Version => true,
                Origin::Remembered => remembered.is_none_or(|of| !of.own),
                Origin::Applied | Origin::Registered => false,
            };
            if versions {
                return Vec::new();
            }
            Born::of(remembered.and_then(|of| of.since.as_deref()))
        }
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

/// The labels of a service as the API shows them; `None` is one that nobody wrote.
#[must_use]
pub fn labels_of(applied: Option<&Service>) -> BTreeMap<String, String> {
    let derived = || BTreeMap::from([("leno.dev/derived".to_owned(), "true".to_owned())]);
    applied.map_or_else(derived, |service| service.meta.labels.clone())
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

/// Services that a generator's status names for the names that they lack.
const NAMED: usize = 5;

/// What comes of all generators, by service; the oldest generator first.
pub type GivenNames = BTreeMap<ServiceName, Arc<[Generated]>>;

/// What comes of one generator.
#[derive(Clone, Debug, Default)]
pub struct GeneratorNames {
    /// Services that it selects.
    pub services: usize,
    /// Of these, those that have their name.
    pub names: usize,
    /// One word on the first that has not.
    pub(crate) reason: Option<&'static str>,
    /// Which have not, and why; the first ones.
    pub(crate) lacking: Vec<String>,
}

/// The same, of all services.
#[derive(Debug, Default)]
struct ByGenerator {
    names: usize,
    lacking: BTreeMap<ServiceName, (&'static str, String)>,
}

/// The name that a claim is for, and whose it is.
fn named(claim: &Claim) -> Option<(&HostName, &Claimant)> {
    Some((claim.name.as_ref().ok()?, &claim.by))
}

/// The claims of all services.
#[derive(Debug, Default)]
pub(crate) struct Hostnames {
    claims: BTreeMap<ServiceName, Vec<Claim>>,
    claimants: BTreeMap<HostName, BTreeSet<Claimant>>,
    /// What comes of the claims, as of the last [`Hostnames::refresh`].
    given: Arc<GivenNames>,
    by_generator: BTreeMap<ObjectName, ByGenerator>,
    /// Since then claims of these changed,
    stale: BTreeSet<ServiceName>,
    /// and who has these.
    moved: BTreeSet<HostName>,
}

impl Hostnames {
    /// Notes the claims of a service; gives the names that they change anything about.
    pub(crate) fn set(&mut self, service: &ServiceName, claims: Vec<Claim>) -> BTreeSet<HostName> {
        let before = self.claims.remove(service).unwrap_or_default();
        if before == claims {
            self.keep(service, claims);
            return BTreeSet::new();
        }
        // Most stay as they are where one generator of many comes or goes.
        let named = |claim| named(claim).map(|(name, by)| (name.clone(), by.clone()));
        let was: BTreeSet<(HostName, Claimant)> = before.iter().filter_map(named).collect();
        let is: BTreeSet<(HostName, Claimant)> = claims.iter().filter_map(named).collect();
        let changed = was.symmetric_difference(&is);
        let touched: BTreeSet<HostName> = changed.map(|(name, _)| name.clone()).collect();
        let holders: Vec<Option<Claimant>> = touched
            .iter()
            .map(|name| self.holder(name).cloned())
            .collect();
        for (name, by) in was.difference(&is) {
            remove(&mut self.claimants, name, by);
        }
        for (name, by) in is.difference(&was) {
            let claimants = self.claimants.entry(name.clone()).or_default();
            claimants.insert(by.clone());
        }
        for (name, holder) in touched.iter().zip(&holders) {
            if self.holder(name) != holder.as_ref() {
                self.moved.insert(name.clone());
            }
        }
        self.stale.insert(service.clone());
        self.keep(service, claims);
        touched
    }

    /// Finds out what has come of what was set since the last time.
    pub(crate) fn refresh(&mut self) {
        let mut services = std::mem::take(&mut self.stale);
        for name in std::mem::take(&mut self.moved) {
            let claimants = self.claimants.get(&name).into_iter().flatten();
            services.extend(claimants.map(|of| of.service.clone()));
        }
        for service in services {
            let claims = self.claims.get(&service).into_iter().flatten();
            let outcomes: Arc<[Generated]> = claims.map(|claim| self.outcome(claim)).collect();
            let before = self.given.get(&service).cloned().unwrap_or_default();
            if before == outcomes {
                continue;
            }
            for of in before.iter() {
                if let Some(by) = self.by_generator.get_mut(&of.generator) {
                    match &of.name {
                        Ok(_) => by.names = by.names.saturating_sub(1),
                        Err(_) => drop(by.lacking.remove(&service)),
                    }
                    if by.names == 0 && by.lacking.is_empty() {
                        self.by_generator.remove(&of.generator);
                    }
                }
            }
            for of in outcomes.iter() {
                let by = self.by_generator.entry(of.generator.clone()).or_default();
                match &of.name {
                    Ok(_) => by.names += 1,
                    Err(why) => drop(by.lacking.insert(service.clone(), why.clone())),
                }
            }
            let given = Arc::make_mut(&mut self.given);
            match outcomes.is_empty() {
                true => given.remove(&service),
                false => given.insert(service, outcomes),
            };
        }
    }

    fn keep(&mut self, service: &ServiceName, claims: Vec<Claim>) {
        if !claims.is_empty() {
            self.claims.insert(service.clone(), claims);
        }
    }

    /// Who has a name.
    pub(crate) fn holder(&self, name: &HostName) -> Option<&Claimant> {
        self.claimants.get(name)?.first()
    }

    /// What comes of a claim.
    fn outcome(&self, claim: &Claim) -> Generated {
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

    /// What comes of all claims.
    pub(crate) fn given(&self) -> &Arc<GivenNames> {
        &self.given
    }

    /// What comes of a generator.
    pub(crate) fn of_generator(&self, generator: &ObjectName) -> GeneratorNames {
        let Some(of) = self.by_generator.get(generator) else {
            return GeneratorNames::default();
        };
        let lacking = of.lacking.iter().take(NAMED);
        GeneratorNames {
            services: of.names + of.lacking.len(),
            names: of.names,
            reason: of.lacking.values().next().map(|(reason, _)| *reason),
            lacking: lacking
                .map(|(service, (_, message))| format!("{service}: {message}"))
                .collect(),
        }
    }
}
