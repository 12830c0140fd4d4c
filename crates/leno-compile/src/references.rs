//! What a document refers to and what of it leads nowhere, with what that means for requests.
//!
//! Owns the words of the conditions `Accepted` and `ResolvedRefs` (CP12), and of the warnings that a write is answered
//! with: they are the same, whether the document is stored or only proposed. Knows services through [`Services`].
//! Invariant: a document is not refused for what is said here. What it refers to may come later, and the Gateway API
//! has it so.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use leno_config::{
    AccessAction, AccessPolicy, AccessTarget, AuthenticationPolicy, AuthenticationTarget, Finding,
    HttpRoute, ParentRef, Resource, RouteRule, nearest,
};
use leno_types::{DnsLabel, ServiceName};

use crate::{
    EffectiveService,
    route::{Attached, BackendFault, attach, check_backend},
};

/// The services that documents refer to.
pub trait Services {
    /// The service of a name.
    fn service(&self, name: &ServiceName) -> Option<EffectiveService>;
    /// The names of all services of a namespace.
    fn names(&self, namespace: &DnsLabel) -> Vec<DnsLabel>;
    /// Where the programs behind a service listen; nothing while none is ready.
    fn program_ports(&self, name: &ServiceName) -> BTreeSet<u16>;
    /// Where the programs of a namespace that have all of these labels listen; `None` while there is no such program.
    fn labelled_ports(&self, namespace: &DnsLabel, labels: &Labels) -> Option<BTreeSet<u16>>;
}

/// What a selector asks for.
pub type Labels = BTreeMap<String, String>;

/// A question about services, on whose answer depends what is said of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Question {
    /// The service of a name.
    Service(ServiceName),
    /// The names of all services of a namespace.
    Names(DnsLabel),
    /// Where the programs behind a service listen.
    ProgramPorts(ServiceName),
}

/// Services, and what was asked about them.
pub(crate) struct Asking<'a, S> {
    services: &'a S,
    asked: RefCell<BTreeSet<Question>>,
}

impl<'a, S> Asking<'a, S> {
    pub(crate) fn new(services: &'a S) -> Self {
        let asked = RefCell::default();
        Self { services, asked }
    }

    pub(crate) fn into_asked(self) -> BTreeSet<Question> {
        self.asked.into_inner()
    }

    fn ask(&self, question: Question) -> &'a S {
        self.asked.borrow_mut().insert(question);
        self.services
    }
}

impl<S: Services> Services for Asking<'_, S> {
    fn service(&self, name: &ServiceName) -> Option<EffectiveService> {
        self.ask(Question::Service(name.clone())).service(name)
    }

    fn names(&self, namespace: &DnsLabel) -> Vec<DnsLabel> {
        self.ask(Question::Names(namespace.clone()))
            .names(namespace)
    }

    fn program_ports(&self, name: &ServiceName) -> BTreeSet<u16> {
        let services = self.ask(Question::ProgramPorts(name.clone()));
        services.program_ports(name)
    }

    /// Asked for policies about mutual TLS alone, which are looked at whenever a workload is different.
    fn labelled_ports(&self, namespace: &DnsLabel, labels: &Labels) -> Option<BTreeSet<u16>> {
        self.services.labelled_ports(namespace, labels)
    }
}

/// A reference that leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dangling {
    /// The parent of a route that does not take it; `None` for everything else.
    pub parent: Option<ParentRef>,
    /// One word for machines, of the Gateway API where it has one.
    pub reason: &'static str,
    /// Where it stands, what is wrong, and what happens to requests.
    pub finding: Finding,
}

/// Every reference of a document that leads nowhere; of a generator see [`crate::unnamed`].
#[must_use]
pub fn dangling(resource: &Resource, services: &impl Services) -> Vec<Dangling> {
    match resource {
        Resource::Service(_) | Resource::HostnameGenerator(_) => Vec::new(),
        Resource::HttpRoute(route) => of_route(route, services),
        Resource::AccessPolicy(policy) => of_policy(policy, services),
        Resource::AuthenticationPolicy(policy) => of_authentication(policy, services),
    }
}

/// `there is no service a/b`, with the nearest name that there is.
fn no_service(
    name: &ServiceName,
    field: String,
    meaning: &str,
    services: &impl Services,
) -> Finding {
    let names = services.names(&name.namespace);
    let names: Vec<&str> = names.iter().map(DnsLabel::as_str).collect();
    let reason = format!("there is no service {name}: {meaning}");
    Finding::new(field, reason).with_suggestion(nearest(name.name.as_str(), &names))
}

pub(crate) fn of_route(route: &HttpRoute, services: &impl Services) -> Vec<Dangling> {
    let parents = route
        .parents
        .iter()
        .enumerate()
        .filter_map(|(index, parent)| {
            let (reason, finding) = refused_parent(parent, index, services)?;
            let parent = Some(parent.clone());
            Some(Dangling {
                parent,
                reason,
                finding,
            })
        });
    let mut found: Vec<Dangling> = parents.collect();
    for (rule_index, rule) in route.rules.iter().enumerate() {
        for (index, backend) in rule.backends.iter().enumerate() {
            let ports_of = |name: &_| Some(services.service(name)?.port_numbers());
            let Some(fault) = check_backend(&route.meta, backend, ports_of) else {
                continue;
            };
            let field = format!("spec.rules[{rule_index}].backendRefs[{index}]");
            let meaning = share(rule, backend.weight);
            let finding = match &fault {
                BackendFault::NoService => no_service(
                    &backend.service,
                    format!("{field}.name"),
                    &meaning,
                    services,
                ),
                BackendFault::NoPort(_) | BackendFault::NotPermitted => {
                    let message = fault.message(&backend.service, backend.port);
                    Finding::new(field, format!("{message}: {meaning}"))
                }
            };
            let reason = fault.reason();
            found.push(Dangling {
                parent: None,
                reason,
                finding,
            });
        }
    }
    found
}

/// What becomes of the requests that a rule sends to a backend of this weight, which is not there.
fn share(rule: &RouteRule, weight: u32) -> String {
    let all: u64 = rule
        .backends
        .iter()
        .map(|backend| u64::from(backend.weight))
        .sum();
    let weight = u64::from(weight);
    match weight {
        0 => "no request goes there while its weight is 0".into(),
        _ if weight == all => "every request of this rule is answered 500".into(),
        _ => format!("{weight} of {all} requests of this rule are answered 500"),
    }
}

fn refused_parent(
    parent: &ParentRef,
    index: usize,
    services: &impl Services,
) -> Option<(&'static str, Finding)> {
    const MEANING: &str = "the route changes no request there";
    let name = &parent.service;
    let field = |of: &str| format!("spec.parentRefs[{index}].{of}");
    let Some(service) = services.service(name) else {
        let finding = no_service(name, field("name"), MEANING, services);
        return Some(("NoMatchingParent", finding));
    };
    match attach(&service, parent.port) {
        Attached::To(_) => None,
        Attached::NoSuchPort(port) => {
            let reason = format!("{}: {MEANING}", service.no_port(port));
            Some(("NoMatchingParent", Finding::new(field("port"), reason)))
        }
        Attached::NotHttp => {
            let reason = format!("no port of service {name} that it is for speaks HTTP: {MEANING}");
            let of = if parent.port.is_some() {
                "port"
            } else {
                "name"
            };
            Some(("UnsupportedProtocol", Finding::new(field(of), reason)))
        }
    }
}

pub(crate) fn of_policy(policy: &AccessPolicy, services: &impl Services) -> Vec<Dangling> {
    let mut found = Vec::new();
    for (index, target) in policy.targets.iter().enumerate() {
        if let AccessTarget::Service(name) = target {
            found.extend(unprotected(name, index, services));
        }
    }
    found.extend(unmatched_ports(policy, services));
    found
}

/// A target of a policy that is no service (yet).
fn unprotected(name: &ServiceName, index: usize, services: &impl Services) -> Option<Dangling> {
    if services.service(name).is_some() {
        return None;
    }
    let meaning = "nothing is protected there until there is one";
    let field = format!("spec.targetRefs[{index}].name");
    Some(Dangling {
        parent: None,
        reason: "TargetNotFound",
        finding: no_service(name, field, meaning, services),
    })
}

pub(crate) fn of_authentication(
    policy: &AuthenticationPolicy,
    services: &impl Services,
) -> Vec<Dangling> {
    let mut found = Vec::new();
    let mut listening = Some(BTreeSet::new());
    for (index, target) in policy.targets.iter().enumerate() {
        let ports = match target {
            AuthenticationTarget::Service(name) => {
                found.extend(unprotected(name, index, services));
                services.program_ports(name)
            }
            AuthenticationTarget::Labels(namespace, labels) => {
                let ports = services.labelled_ports(namespace, labels);
                found.extend(ports.is_none().then(|| unselected(target)));
                ports.unwrap_or_default()
            }
            AuthenticationTarget::Namespace(_) | AuthenticationTarget::Mesh => BTreeSet::new(),
        };
        listening = together(listening, ports);
    }
    let listening = listening.unwrap_or_default();
    if listening.is_empty() {
        return found;
    }
    let there: Vec<String> = listening.iter().map(ToString::to_string).collect();
    let there = there.join(", ");
    let unmatched = policy.ports.keys().filter(|port| !listening.contains(port));
    found.extend(unmatched.map(|port| Dangling {
        parent: None,
        reason: "PortNotFound",
        finding: Finding::new(
            format!("spec.portLevelMtls.{port}"),
            format!(
                "no program that it is for listens on {port}, so it changes nothing: ports are the program's own, here {there}"
            ),
        ),
    }));
    found
}

/// Labels that no program has (yet).
fn unselected(target: &AuthenticationTarget) -> Dangling {
    Dangling {
        parent: None,
        reason: "TargetNotFound",
        finding: Finding::new(
            "spec.selector.matchLabels",
            format!("no program has {target}: the policy changes nothing until one does"),
        ),
    }
}

/// Where the programs of services listen; `None` where not every one of them is known.
fn listening(named: Option<Vec<&ServiceName>>, services: &impl Services) -> Option<BTreeSet<u16>> {
    let each = named?;
    let each = each.iter().map(|name| services.program_ports(name));
    each.fold(Some(BTreeSet::new()), together)
}

/// Of what does not run nobody knows where it will listen, and of all together neither.
fn together(all: Option<BTreeSet<u16>>, ports: BTreeSet<u16>) -> Option<BTreeSet<u16>> {
    let mut all = all.filter(|_| !ports.is_empty())?;
    all.extend(ports);
    Some(all)
}

/// Ports of rules at which no protected program listens. Only where every program that is protected is known.
fn unmatched_ports(policy: &AccessPolicy, services: &impl Services) -> Vec<Dangling> {
    let named: Option<Vec<&ServiceName>> = policy
        .targets
        .iter()
        .map(|target| match target {
            AccessTarget::Service(name) => Some(name),
            AccessTarget::Namespace(_) | AccessTarget::Mesh => None,
        })
        .collect();
    let Some(listening) = listening(named, services) else {
        return Vec::new();
    };
    let meaning = match policy.action {
        AccessAction::Allow => "lets nobody in",
        AccessAction::Deny => "denies nobody",
    };
    let there: Vec<String> = listening.iter().map(ToString::to_string).collect();
    let there = there.join(", ");
    let rules = policy.rules.iter().enumerate();
    let unmatched = rules.flat_map(|(index, rule)| {
        let ports = rule.ports.iter().filter(|port| !listening.contains(port));
        ports.map(move |port| (index, *port))
    });
    unmatched
        .map(|(index, port)| Dangling {
            parent: None,
            reason: "PortNotFound",
            finding: Finding::new(
                format!("spec.rules[{index}].to"),
                format!(
                    "no program that is protected listens on {port}, and there the rule {meaning}: ports are the program's \
                     own, here {there}"
                ),
            ),
        })
        .collect()
}
