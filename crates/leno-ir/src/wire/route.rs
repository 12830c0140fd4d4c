//! Routes. A match that this build does not know is refused with its route: to leave it out would widen it.

use std::time::Duration;

use leno_types::ServiceName;
use leno_wire::mesh as wire;

use super::{WireError, all, parse, port, provenance_from_wire, provenance_to_wire};
use crate::{Backend, HeaderMatch, PathMatch, Route, RouteMatch, ValueMatch};

pub(super) fn route_to_wire(route: &Route) -> wire::Route {
    let millis = |timeout: Option<Duration>| {
        timeout.map_or(0, |timeout| {
            u64::try_from(timeout.as_millis())
                .unwrap_or(u64::MAX)
                .max(1)
        })
    };
    let backend = |backend: &Backend| wire::Backend {
        service: backend.service.to_string(),
        port: backend.port.into(),
        weight: backend.weight,
        invalid: backend.invalid.clone().unwrap_or_default(),
        field_path: backend.field_path.clone(),
    };
    wire::Route {
        provenance: Some(provenance_to_wire(&route.provenance)),
        matches: route.matches.iter().map(match_to_wire).collect(),
        backends: route.backends.iter().map(backend).collect(),
        request_timeout_ms: millis(route.request_timeout),
        backend_request_timeout_ms: millis(route.backend_request_timeout),
        ports: route.ports.iter().map(|port| u32::from(*port)).collect(),
    }
}

pub(super) fn route_from_wire(message: &wire::Route) -> Result<Route, WireError> {
    let timeout =
        |millis: u64| Some(Duration::from_millis(millis)).filter(|timeout| !timeout.is_zero());
    let backend = |of: &wire::Backend| {
        Ok(Backend {
            service: parse::<ServiceName>("backends.service", &of.service)?,
            port: port("backends.port", of.port)?,
            weight: of.weight,
            invalid: Some(of.invalid.clone()).filter(|reason| !reason.is_empty()),
            field_path: of.field_path.clone(),
        })
    };
    Ok(Route {
        provenance: message
            .provenance
            .as_ref()
            .map(provenance_from_wire)
            .unwrap_or_default(),
        matches: all(&message.matches, match_from_wire)?,
        backends: all(&message.backends, backend)?,
        request_timeout: timeout(message.request_timeout_ms),
        backend_request_timeout: timeout(message.backend_request_timeout_ms),
        ports: all(&message.ports, |number| port("ports", *number))?,
    })
}

fn match_to_wire(of: &RouteMatch) -> wire::RouteMatch {
    let field = |of: &HeaderMatch| {
        let ValueMatch::Exact(value) = &of.value;
        wire::HeaderMatch {
            name: of.name.clone(),
            value: Some(wire::header_match::Value::Exact(value.clone())),
        }
    };
    wire::RouteMatch {
        path: of.path.as_ref().map(|path| match path {
            PathMatch::Exact(path) => wire::route_match::Path::PathExact(path.clone()),
            PathMatch::Prefix(path) => wire::route_match::Path::PathPrefix(path.clone()),
        }),
        method: of.method.clone().unwrap_or_default(),
        headers: of.headers.iter().map(field).collect(),
        query: of.query.iter().map(field).collect(),
    }
}

fn match_from_wire(message: &wire::RouteMatch) -> Result<RouteMatch, WireError> {
    let field = |of: &wire::HeaderMatch| match &of.value {
        Some(wire::header_match::Value::Exact(value)) => Ok(HeaderMatch {
            name: of.name.clone(),
            value: ValueMatch::Exact(value.clone()),
        }),
        Some(wire::header_match::Value::Regex(_)) | None => {
            Err(WireError::Unknown("matches.headers.value"))
        }
    };
    Ok(RouteMatch {
        path: match &message.path {
            None => None,
            Some(wire::route_match::Path::PathExact(path)) => Some(PathMatch::Exact(path.clone())),
            Some(wire::route_match::Path::PathPrefix(path)) => {
                Some(PathMatch::Prefix(path.clone()))
            }
            Some(wire::route_match::Path::PathRegex(_)) => {
                return Err(WireError::Unknown("matches.path"));
            }
        },
        method: Some(message.method.clone()).filter(|method| !method.is_empty()),
        headers: all(&message.headers, field)?,
        query: all(&message.query, field)?,
    })
}
