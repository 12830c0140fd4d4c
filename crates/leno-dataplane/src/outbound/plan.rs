//! Where one request of a program goes: the route it takes, the backend's endpoints, the time it may take; and what the
//! balancer learns from its end.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use leno_balance::{Fault, Outcome};
use leno_http::{Ended, Relayed, RequestHead, Side};
use leno_ir::{Backend, Provenance, Route};
use leno_policy::{Headers, RequestView};
use leno_types::Refusal;

use super::{Denial, Flow};
use crate::{
    destinations::ServiceView,
    target::Target,
    why::{Chain, Ruled},
};

/// Where one request goes and how long it may take.
pub(super) struct Plan {
    pub(super) target: Target,
    pub(super) request_timeout: Option<Duration>,
    pub(super) try_timeout: Option<Duration>,
    pub(super) route: Option<String>,
    /// The rule that sends it there, for whoever asks why it was refused.
    pub(super) rule: Option<Ruled>,
}

impl Plan {
    /// What is left of the time for the whole request.
    pub(super) fn left(&self, begun: Instant) -> Option<Duration> {
        let limit = self.request_timeout?;
        Some(limit.saturating_sub(begun.elapsed()))
    }
}

/// The fields of a request, as routes look at them.
struct View<'a>(&'a RequestHead);

impl Headers for View<'_> {
    fn get(&self, lower_name: &str) -> Option<&[u8]> {
        if lower_name == "host" {
            return self.0.authority.as_deref();
        }
        self.0.fields.get(lower_name)
    }
}

/// The route of a request that begins `now`, and its backend's endpoints.
pub(super) async fn plan(flow: &Flow, head: &RequestHead, now: Instant) -> Result<Plan, Denial> {
    flow.look_again().await;
    let direct = matches!(&*flow.meaning.borrow(), super::Meaning::Direct(_));
    if !direct {
        let view = flow.service(now)?;
        let port = flow.to.port();
        let routed = |route: &Route| route.ports.is_empty() || route.ports.contains(&port);
        if view.service.routes.iter().any(routed) {
            return by_route(flow, head, view, now).await;
        }
    }
    Ok(Plan {
        target: flow.target().await?,
        request_timeout: None,
        try_timeout: None,
        route: None,
        rule: None,
    })
}

async fn by_route(
    flow: &Flow,
    head: &RequestHead,
    service: Rc<ServiceView>,
    now: Instant,
) -> Result<Plan, Denial> {
    let path = String::from_utf8_lossy(&head.path);
    let view = RequestView {
        method: head.method.as_str(),
        path: &path,
        headers: &View(head),
    };
    let route = leno_policy::route(&service.service.routes, flow.to.port(), &view)
        .ok_or_else(|| Denial::new(Refusal::NoRoute, "no route of the service matches"))?;
    let chain = |backend: Option<&Backend>| {
        let mut chain = Chain::default();
        chain.ruled(route, backend);
        Some(Box::new(chain))
    };
    let denied = |detail: String, field: &str| Denial {
        reason: Refusal::NoBackend,
        detail,
        rule: rule_name(&route.provenance, field),
        chain: None,
    };
    let backend = leno_policy::backend(route, fastrand::u32(..)).ok_or_else(|| Denial {
        chain: chain(None),
        ..denied("the route has no backend with a weight".into(), "")
    })?;
    if let Some(invalid) = &backend.invalid {
        return Err(Denial {
            chain: chain(Some(backend)),
            ..denied(invalid.clone(), &backend.field_path)
        });
    }
    let cluster = flow
        .cluster(&service, &backend.service, now)
        .await
        .map_err(|denial| Denial {
            rule: rule_name(&route.provenance, &backend.field_path),
            chain: chain(Some(backend)),
            ..denial
        })?;
    let (this_route, this_backend) = (std::ptr::from_ref(route), std::ptr::from_ref(backend));
    Ok(Plan {
        target: Target::Service {
            cluster,
            port: backend.port,
        },
        request_timeout: route.request_timeout,
        try_timeout: route.backend_request_timeout,
        route: flow
            .shared
            .config
            .access_log
            .then(|| rule_name(&route.provenance, "")),
        rule: Some(Ruled::new(service, this_route, this_backend)),
    })
}

/// `Kind namespace/name field`, with the place it was written at where that is known.
pub(crate) fn rule_name(provenance: &Provenance, field: &str) -> String {
    let field = if field.is_empty() {
        &provenance.field_path
    } else {
        field
    };
    let mut name = format!(
        "{} {}/{} {field}",
        provenance.kind, provenance.namespace, provenance.name
    );
    if !provenance.source.is_empty() {
        name.push_str(&format!(" ({})", provenance.source));
    }
    name
}

/// What the balancer learns from an exchange.
pub(super) fn verdict(relayed: &Relayed, told: Option<Refusal>) -> Outcome {
    /// gRPC UNAVAILABLE.
    const UNAVAILABLE: u8 = 14;
    match (relayed.ended, told) {
        (_, Some(Refusal::UpstreamConnectFailure)) => Outcome::ConnectFailure,
        // A quick no is no quick endpoint, and neither is it a bad one.
        (_, Some(Refusal::Overload | Refusal::Overflow)) => Outcome::Busy,
        // The mesh said no on purpose: that says nothing about the endpoint's health.
        (_, Some(Refusal::Denied | Refusal::StreamEnded | Refusal::ForgedDestination)) => {
            Outcome::Success
        }
        (Ended::Complete | Ended::Switched, _) => match (relayed.status, relayed.grpc_status) {
            (Some(status), _) if status >= 500 => Outcome::Failure(Fault::Status(status)),
            (_, Some(UNAVAILABLE)) => Outcome::Failure(Fault::Grpc(UNAVAILABLE)),
            _ => Outcome::Success,
        },
        (Ended::ClientGone | Ended::Cancelled | Ended::Protocol(Side::Client), _) => {
            Outcome::Cancelled
        }
        (Ended::UpstreamResetBeforeHead | Ended::UpstreamResetAfterHead, _) => {
            Outcome::Failure(Fault::Reset)
        }
        (Ended::Timeout, _) => Outcome::Failure(Fault::Timeout),
        (Ended::Protocol(Side::Upstream), _) => Outcome::Failure(Fault::Protocol),
    }
}
