//! Routes of a service: what a request must look like, and where it goes then.

use std::time::Duration;

use leno_types::ServiceName;

/// Which document, and which field of it, a rule comes from (CP9).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Provenance {
    /// The object's kind, such as `HTTPRoute`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its generation.
    pub generation: u64,
    /// The field, such as `spec.rules[0]`.
    pub field_path: String,
    /// `file:line` of what the user applied; empty when unknown.
    pub source: String,
}

/// One rule of a service. The compiler has put the rules in order: the first that matches wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it was written.
    pub provenance: Provenance,
    /// Any of them; none matches every request.
    pub matches: Vec<RouteMatch>,
    /// Where requests go, by weight. None, or a sum of zero, refuses them (NB, 500 as the Gateway API demands).
    pub backends: Vec<Backend>,
    /// From the request's first byte to the end of the response's head (HTTPRoute `timeouts.request`).
    pub request_timeout: Option<Duration>,
    /// The same for one try (HTTPRoute `timeouts.backendRequest`).
    pub backend_request_timeout: Option<Duration>,
    /// The service ports it is for; none means all.
    pub ports: Vec<u16>,
}

/// What a request must look like. Every part that is given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteMatch {
    /// The path, without the query.
    pub path: Option<PathMatch>,
    /// The method, in upper case.
    pub method: Option<String>,
    /// Header fields; names in lower case.
    pub headers: Vec<HeaderMatch>,
    /// Query parameters.
    pub query: Vec<HeaderMatch>,
}

/// A match on the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// Equal.
    Exact(String),
    /// Equal, or longer by whole segments (Gateway API `PathPrefix`); `/` matches all. Without trailing slash.
    Prefix(String),
}

/// A match on one field or parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// The name, in lower case for header fields.
    pub name: String,
    /// What the value must be.
    pub value: ValueMatch,
}

/// What a value must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// Equal.
    Exact(String),
}

/// One place a route sends requests to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The service whose endpoints are used.
    pub service: ServiceName,
    /// Its port.
    pub port: u16,
    /// Its share of the sum of weights.
    pub weight: u32,
    /// Why requests for it are refused instead: the reference dangles or is forbidden.
    pub invalid: Option<String>,
    /// The field it was written in.
    pub field_path: String,
}
