//! The resources people write: parsed, defaulted, validated, and what is wrong with them and where.
//!
//! Owns the vocabulary of documents. Refuses whatever it cannot honour whole: unknown fields, fields of the
//! Kubernetes or Gateway API that Leno does not have yet, values that mean two things. Reads no file and no clock.
//! Invariant: a [`Resource`] needs no further check of itself; only references to other objects may dangle.

mod access_policy;
mod authentication_policy;
mod document;
mod elsewhere;
mod fields;
mod finding;
mod hostname_generator;
mod hostname_template;
mod httproute;
mod kind;
mod meta;
mod path;
mod resource;
mod schema;
mod service;
mod template;
mod yaml;

use serde_json::Value;

pub use document::{Document, parse_documents};
pub use elsewhere::instead_of;
pub use finding::{Finding, nearest};
pub use hostname_template::{HostnameTemplate, HostnameTemplateError, NamedService, Unnamed};
pub use kind::Kind;
pub use resource::{
    AccessAction, AccessPolicy, AccessRule, AccessSource, AccessTarget, AuthenticationPolicy,
    AuthenticationTarget, BackendRef, COMMAND_ANNOTATION, HostnameGenerator, HttpRoute, IpFamily,
    Meta, MtlsMode, PROVENANCE, ParentRef, PathMatch, Principal, Resource, RouteMatch, RouteRule,
    SOURCE_ANNOTATION, SOURCE_MAP_ANNOTATION, Service, ServicePort, ServiceSelector, TargetPort,
};
pub use schema::{Field, Fields, List, Merge, Shape, departures, prune, schema};
pub use template::{
    SplitBackend, access_policy, authentication_template, httproute_split, service_template,
};

/// A document the server can store.
#[derive(Clone, Debug, PartialEq)]
pub struct Admitted {
    /// The document as it is kept: a Service with its defaults, as a cluster keeps one; any other as it was written,
    /// with its namespace, so that who applies it again finds it unchanged.
    pub value: Value,
    /// The same, typed.
    pub resource: Resource,
}

/// Reads a document as the server does: unknown fields refused, defaults set, everything checked. The namespace is
/// `default` where the document has none.
///
/// # Errors
/// Everything that is wrong with it, in the order of the document.
pub fn admit(kind: Kind, value: Value) -> Result<Admitted, Vec<Finding>> {
    fields::admit(kind, value)
}
