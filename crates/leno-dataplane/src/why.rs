//! All that explains a refusal: the rule, the backend, and each endpoint as it was then; and as it is now.
//!
//! Made when something is refused and when somebody asks, never for what goes well.
//! Invariant: a picture holds at most [`ENDPOINTS`] endpoints; how many more there were is told.

use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use leno_balance::{EndpointState, Out};
use leno_ir::{Backend, Endpoint, Health, Provenance, Route};
use leno_types::{Identity, ServiceName, WorkloadUid};

use crate::{clusters::Cluster, destinations::ServiceView, target::Target};

/// Endpoints of one picture: those that were tried first, then those that are out, then the others.
pub const ENDPOINTS: usize = 8;
/// Rules of a policy that are named where none of them allows a caller.
const ALLOWING: usize = 4;

/// The way of what was refused, as far as it had come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// The rule that sent it there, or refused it.
    pub rule: Option<Provenance>,
    /// The rules that would have allowed it for another caller; none of them did.
    pub allowing: Vec<Provenance>,
    /// The service called, and its port.
    pub called: Option<(ServiceName, u16)>,
    /// Where the rule sends it.
    pub backend: Option<Share>,
    /// The endpoints, as they were.
    pub endpoints: Vec<Seen>,
    /// So many more there were.
    pub more: usize,
    /// The time that its rule gives it.
    pub request_timeout: Option<Duration>,
    /// The same for one try.
    pub try_timeout: Option<Duration>,
    /// How long it took until it was refused.
    pub elapsed: Option<Duration>,
}

/// A backend, and what of the traffic it gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Whose endpoints.
    pub service: ServiceName,
    /// Its port.
    pub port: u16,
    /// Its weight.
    pub weight: u32,
    /// The sum of its rule's weights.
    pub of: u64,
    /// Where it is written.
    pub field: String,
}

/// An endpoint, as one proxy saw it at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// It.
    pub uid: WorkloadUid,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Who it must prove to be.
    pub identity: Identity,
    /// Where its program is; no port where it does not serve the one that was asked for.
    pub address: Option<SocketAddr>,
    /// What its agent says.
    pub health: Health,
    /// Open requests.
    pub pending: u32,
    /// Failures in a row.
    pub failures: u32,
    /// What they were, for people.
    pub fault: Option<String>,
    /// It was taken out for failing.
    pub ejected: Option<Out>,
    /// It is passed over because it could not be reached.
    pub unreachable: Option<Out>,
    /// What came of the try with it.
    pub tried: Option<String>,
}

/// A try that came to nothing.
pub(crate) struct Tried {
    pub(crate) uid: WorkloadUid,
    pub(crate) why: String,
}

/// Which rule a request takes. Only who it is is noted: what of it is needed is looked up where it is refused.
pub(crate) struct Ruled {
    view: Rc<ServiceView>,
    route: *const Route,
    backend: *const Backend,
}

impl Ruled {
    /// The rule and the backend that were chosen, of this service.
    pub(crate) fn new(view: Rc<ServiceView>, route: *const Route, backend: *const Backend) -> Self {
        Self {
            view,
            route,
            backend,
        }
    }

    fn tell(&self, chain: &mut Chain) {
        let mut routes = self.view.service.routes.iter();
        let Some(route) = routes.find(|route| std::ptr::eq(*route, self.route)) else {
            return;
        };
        let mut backends = route.backends.iter();
        let backend = backends.find(|backend| std::ptr::eq(*backend, self.backend));
        chain.ruled(route, backend);
    }
}

impl Chain {
    /// What a rule says of it.
    pub(crate) fn ruled(&mut self, route: &Route, backend: Option<&Backend>) {
        self.rule = Some(route.provenance.clone());
        self.request_timeout = route.request_timeout;
        self.try_timeout = route.backend_request_timeout;
        let weights = route.backends.iter().map(|of| u64::from(of.weight));
        let of = weights.sum();
        self.backend = backend.map(|backend| Share {
            service: backend.service.clone(),
            port: backend.port,
            weight: backend.weight,
            of,
            field: backend.field_path.clone(),
        });
    }

    /// The way of what had come as far as `target`.
    pub(crate) fn to(
        mut self,
        target: &Target,
        rule: Option<&Ruled>,
        tried: &[Tried],
        now: Instant,
    ) -> Self {
        if let Some(rule) = rule {
            rule.tell(&mut self);
        }
        match target {
            Target::Service { cluster, port } => {
                if self.backend.is_none() {
                    self.backend = Some(Share {
                        service: cluster.service.clone(),
                        port: *port,
                        weight: 1,
                        of: 1,
                        field: String::new(),
                    });
                }
                (self.endpoints, self.more) = endpoints(cluster, *port, tried, now, ENDPOINTS);
            }
            Target::Direct(direct) => {
                let at = SocketAddr::new(direct.address, direct.port.workload_port);
                let mut seen = of(&direct.endpoint, Some(at));
                seen.told(tried);
                self.endpoints.push(seen);
            }
        }
        self
    }

    /// That no rule of these allows the caller.
    pub(crate) fn not_allowed(rules: &[leno_ir::AccessRule]) -> Vec<Provenance> {
        let allow = rules
            .iter()
            .filter(|rule| rule.action == leno_ir::AccessAction::Allow);
        allow
            .map(|rule| rule.provenance.clone())
            .take(ALLOWING)
            .collect()
    }
}

/// The endpoints of a service as they stand, for one of its ports (0: whichever it has), and how many more there are.
pub(crate) fn endpoints(
    cluster: &Cluster,
    port: u16,
    tried: &[Tried],
    now: Instant,
    most: usize,
) -> (Vec<Seen>, usize) {
    let mut states = cluster.states(now);
    let was_tried = |state: &EndpointState| tried.iter().any(|of| of.uid == state.endpoint.uid);
    states.sort_by_key(|state| (!was_tried(state), !is_out(state)));
    let more = states.len().saturating_sub(most);
    states.truncate(most);
    let seen = states.into_iter().map(|state| {
        let mut seen = of(&state.endpoint, address(&state.endpoint, port));
        seen.told(tried);
        seen.pending = state.pending;
        seen.failures = state.failures;
        seen.fault = state.fault.map(|fault| fault.to_string());
        (seen.ejected, seen.unreachable) = (state.ejected, state.unreachable);
        seen
    });
    (seen.collect(), more)
}

fn is_out(state: &EndpointState) -> bool {
    state.ejected.is_some()
        || state.unreachable.is_some()
        || state.endpoint.health != Health::Healthy
}

fn address(endpoint: &Arc<Endpoint>, port: u16) -> Option<SocketAddr> {
    let ip: IpAddr = *endpoint.addresses.first()?;
    let of = match port {
        0 => endpoint.ports.first(),
        port => endpoint.port_of_service(port),
    };
    Some(SocketAddr::new(ip, of?.workload_port))
}

fn of(endpoint: &Endpoint, address: Option<SocketAddr>) -> Seen {
    Seen {
        uid: endpoint.uid,
        name: endpoint.name.clone(),
        namespace: endpoint.namespace.clone(),
        identity: endpoint.identity.clone(),
        address,
        health: endpoint.health,
        pending: 0,
        failures: 0,
        fault: None,
        ejected: None,
        unreachable: None,
        tried: None,
    }
}

impl Seen {
    fn told(&mut self, tried: &[Tried]) {
        let last = tried.iter().rev().find(|of| of.uid == self.uid);
        self.tried = last.map(|of| of.why.clone());
    }
}
