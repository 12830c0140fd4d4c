//! What a proxy acts on, and its translation to and from the wire.
//!
//! Types here are already right: identities parsed, ports in range, matches lower-cased where they are compared so.
//! `from_wire` refuses what a newer control plane may send and this build cannot honour; a refusal becomes a NACK
//! that names the resource, and the last good one stays.

mod access;
mod destination;
mod feature;
mod mesh;
mod name;
mod route;
mod wire;

pub use access::{AccessAction, AccessRule, Principal};
pub use destination::{
    Destination, Endpoint, EndpointPort, Endpoints, Health, Host, Hostname, Service, ServicePort,
};
pub use feature::{Feature, UnknownFeature};
pub use mesh::{
    Mesh, Mtls, MtlsMode, OwnWorkload, Prefix, PrefixError, ServicePortRef, WorkloadPort,
};
pub use name::{ResourceName, ResourceNameError};
pub use route::{Backend, HeaderMatch, PathMatch, Provenance, Route, RouteMatch, ValueMatch};
pub use wire::WireError;
