//! The routes of a service: HTTPRoutes merged, in the order of precedence of the Gateway API.

use std::cmp::Reverse;

use leno_config::{HttpRoute, Meta, PathMatch, RouteRule};
use leno_ir::{Backend, HeaderMatch, Provenance, Route, RouteMatch, ValueMatch};
use leno_types::ServiceName;

use crate::{EffectiveService, view::View};

/// Where a route meets a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Attached {
    /// At these ports; none means all.
    To(Vec<u16>),
    /// Nowhere: the one port it names is not there.
    NoSuchPort(u16),
    /// Nowhere: the ports speak no HTTP.
    NotHttp,
}

/// Why a backend is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BackendFault {
    /// The reference crosses namespaces, and nothing permits that.
    NotPermitted,
    /// There is no such service.
    NoService,
    /// The service has no such port, but these.
    NoPort(Vec<u16>),
}

impl BackendFault {
    /// The word of the Gateway API for it.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::NotPermitted => "RefNotPermitted",
            Self::NoService | Self::NoPort(_) => "BackendNotFound",
        }
    }

    /// A sentence for people.
    pub(crate) fn message(&self, service: &ServiceName, port: u16) -> String {
        match self {
            Self::NotPermitted => {
                format!("{service} is of another namespace, and nothing permits to refer to it")
            }
            Self::NoService => format!("there is no service {service}"),
            Self::NoPort(has) => no_port(service, port, has),
        }
    }
}

/// Whether a route may send to a port of a service; `ports_of` gives those of a service that there is.
pub(crate) fn check_backend(
    route: &Meta,
    backend: &leno_config::BackendRef,
    ports_of: impl FnOnce(&ServiceName) -> Option<Vec<u16>>,
) -> Option<BackendFault> {
    // Asked first and told alone: whether a service of another namespace exists is not the writer's to learn.
    if backend.service.namespace != route.namespace {
        return Some(BackendFault::NotPermitted);
    }
    let Some(ports) = ports_of(&backend.service) else {
        return Some(BackendFault::NoService);
    };
    (!ports.contains(&backend.port)).then_some(BackendFault::NoPort(ports))
}

fn no_port(service: &ServiceName, port: u16, has: &[u16]) -> String {
    let has: Vec<String> = has.iter().map(ToString::to_string).collect();
    match has.is_empty() {
        true => format!("service {service} has no port {port}"),
        false => format!(
            "service {service} has no port {port}, it has {}",
            has.join(", ")
        ),
    }
}

impl EffectiveService {
    /// The numbers of its ports.
    pub(crate) fn port_numbers(&self) -> Vec<u16> {
        self.ports.iter().map(|port| port.port).collect()
    }

    /// Says that it has no such port, and which it has.
    pub(crate) fn no_port(&self, port: u16) -> String {
        no_port(&self.name, port, &self.port_numbers())
    }
}

/// Where a parent of a route, given as its port, meets its service.
pub(crate) fn attach(service: &EffectiveService, port: Option<u16>) -> Attached {
    let http = |port: &&leno_ir::ServicePort| port.protocol.is_none_or(|is| is.is_http());
    match port {
        Some(number) => match service.ports.iter().find(|port| port.port == number) {
            None => Attached::NoSuchPort(number),
            Some(port) if !http(&port) => Attached::NotHttp,
            Some(_) => Attached::To(vec![number]),
        },
        None if service.ports.iter().all(|port| http(&port)) => Attached::To(Vec::new()),
        None => {
            let ports: Vec<u16> = service
                .ports
                .iter()
                .filter(http)
                .map(|port| port.port)
                .collect();
            match ports.is_empty() {
                true => Attached::NotHttp,
                false => Attached::To(ports),
            }
        }
    }
}

/// The ports at which a route meets a service through any of its parents; none means all, `None` nowhere.
fn ports_of(route: &HttpRoute, service: &EffectiveService) -> Option<Vec<u16>> {
    let mut ports: Option<Vec<u16>> = None;
    for parent in route
        .parents
        .iter()
        .filter(|parent| parent.service == service.name)
    {
        match attach(service, parent.port) {
            Attached::To(all) if all.is_empty() => return Some(all),
            Attached::To(more) => ports.get_or_insert_default().extend(more),
            Attached::NoSuchPort(_) | Attached::NotHttp => {}
        }
    }
    ports.map(|mut ports| {
        ports.sort_unstable();
        ports.dedup();
        ports
    })
}

/// One match of one rule, which is what precedence is about.
struct Entry<'r> {
    route: &'r HttpRoute,
    rule: &'r RouteRule,
    rule_index: usize,
    of: &'r leno_config::RouteMatch,
    ports: &'r [u16],
}

impl Entry<'_> {
    /// Smaller is tried first: exact paths, longer prefixes, a method, more header fields, more parameters, then the
    /// older route, then its name, then the order of its rules.
    fn rank(&self) -> impl Ord + use<'_> {
        let (prefix, length) = match &self.of.path {
            PathMatch::Exact(path) => (false, path.len()),
            PathMatch::Prefix(path) => (true, path.len()),
        };
        let meta = &self.route.meta;
        let specific = (
            prefix,
            Reverse(length),
            self.of.method.is_none(),
            Reverse(self.of.headers.len()),
            Reverse(self.of.query.len()),
        );
        let older = (meta.creation.is_none(), &meta.creation);
        (
            specific,
            older,
            &meta.namespace,
            &meta.name,
            self.rule_index,
        )
    }
}

/// The routes of a service, the first that matches wins.
pub(crate) fn routes(view: &View<'_>, service: &EffectiveService) -> Vec<Route> {
    let attached: Vec<(&HttpRoute, Vec<u16>)> = view
        .routes(&service.name)
        .into_iter()
        .filter_map(|route| Some((route, ports_of(route, service)?)))
        .collect();
    let mut entries: Vec<Entry<'_>> = Vec::new();
    for (route, ports) in &attached {
        for (rule_index, rule) in route.rules.iter().enumerate() {
            let of_rule = rule.matches.iter().map(|of| Entry {
                route,
                rule,
                rule_index,
                of,
                ports,
            });
            entries.extend(of_rule);
        }
    }
    // Stable: matches of one rule that rank alike keep their order.
    entries.sort_by(|a, b| a.rank().cmp(&b.rank()));
    let mut routes = Vec::new();
    let mut run: Vec<&Entry<'_>> = Vec::new();
    for entry in &entries {
        let same = |first: &&Entry<'_>| {
            std::ptr::eq(first.route, entry.route) && first.rule_index == entry.rule_index
        };
        if !run.first().is_none_or(same) {
            lower(view, service, &run, &mut routes);
            run.clear();
        }
        run.push(entry);
    }
    lower(view, service, &run, &mut routes);
    routes
}

/// Neighbours of one rule become one route.
fn lower(view: &View<'_>, service: &EffectiveService, run: &[&Entry<'_>], routes: &mut Vec<Route>) {
    let Some(first) = run.first() else {
        return;
    };
    let field_path = format!("spec.rules[{}]", first.rule_index);
    let everything = run.iter().any(|entry| is_everything(entry.of));
    let matches = match everything {
        true => Vec::new(),
        false => run.iter().map(|entry| lower_match(entry.of)).collect(),
    };
    let route = Route {
        provenance: provenance("HTTPRoute", &first.route.meta, field_path),
        matches,
        backends: Vec::new(),
        request_timeout: first.rule.request_timeout,
        backend_request_timeout: first.rule.backend_request_timeout,
        ports: first.ports.to_vec(),
    };
    if first.rule.backends.is_empty() {
        // GAMMA: a rule that names no backend sends to its parent, at the port that was asked for.
        let all: Vec<u16> = match first.ports {
            [] => service.ports.iter().map(|port| port.port).collect(),
            some => some.to_vec(),
        };
        routes.extend(all.into_iter().map(|port| Route {
            backends: vec![Backend {
                service: service.name.clone(),
                port,
                weight: 1,
                invalid: None,
                field_path: route.provenance.field_path.clone(),
            }],
            ports: vec![port],
            ..route.clone()
        }));
        return;
    }
    let backends = first
        .rule
        .backends
        .iter()
        .enumerate()
        .map(|(index, backend)| {
            let ports_of = |name: &_| Some(view.effective(name)?.port_numbers());
            let fault = check_backend(&first.route.meta, backend, ports_of);
            Backend {
                service: backend.service.clone(),
                port: backend.port,
                weight: backend.weight,
                invalid: fault.map(|fault| {
                    let message = fault.message(&backend.service, backend.port);
                    format!("{}: {message}", fault.reason())
                }),
                field_path: format!("{}.backendRefs[{index}]", route.provenance.field_path),
            }
        });
    routes.push(Route {
        backends: backends.collect(),
        ..route
    });
}

fn is_everything(of: &leno_config::RouteMatch) -> bool {
    matches!(&of.path, PathMatch::Prefix(path) if path == "/")
        && of.method.is_none()
        && of.headers.is_empty()
        && of.query.is_empty()
}

fn lower_match(of: &leno_config::RouteMatch) -> RouteMatch {
    let fields = |pairs: &[(String, String)]| {
        let field = |(name, value): &(String, String)| HeaderMatch {
            name: name.clone(),
            value: ValueMatch::Exact(value.clone()),
        };
        pairs.iter().map(field).collect()
    };
    RouteMatch {
        path: match &of.path {
            PathMatch::Prefix(path) if path == "/" => None,
            PathMatch::Prefix(path) => Some(leno_ir::PathMatch::Prefix(path.clone())),
            PathMatch::Exact(path) => Some(leno_ir::PathMatch::Exact(path.clone())),
        },
        method: of.method.clone(),
        headers: fields(&of.headers),
        query: fields(&of.query),
    }
}

/// Where a rule was written.
pub(crate) fn provenance(kind: &str, meta: &Meta, field_path: String) -> Provenance {
    Provenance {
        kind: kind.into(),
        namespace: meta.namespace.to_string(),
        name: meta.name.to_string(),
        uid: meta.uid.clone(),
        generation: meta.generation,
        source: meta.source_of(&field_path),
        field_path,
    }
}
