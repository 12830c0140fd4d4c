//! Generated protobuf messages and gRPC stubs of every protocol Leno speaks, and how streams buffer them.
//!
//! The sources are in `proto/`; `cargo xtask codegen` writes `src/generated/`. Translation to types that cannot be
//! wrong is leno-ir's.

pub mod codec;

pub use generated::{agent, discovery, mesh};

mod generated {
    #![allow(
        missing_docs,
        clippy::all,
        clippy::pedantic,
        clippy::allow_attributes_without_reason,
        unreachable_pub,
        reason = "generated code; the documentation stands in proto/"
    )]

    /// Incremental aggregated discovery (xDS).
    pub mod discovery {
        include!("generated/envoy.service.discovery.v3.rs");
    }

    /// What a proxy acts on.
    pub mod mesh {
        include!("generated/leno.mesh.v1.rs");
    }

    /// What an agent says to its control plane.
    pub mod agent {
        include!("generated/leno.agent.v1.rs");
    }
}

/// The type URLs of the resources in [`mesh`].
pub mod type_url {
    /// [`super::mesh::Mesh`]
    pub const MESH: &str = "type.googleapis.com/leno.mesh.v1.Mesh";
    /// [`super::mesh::OwnWorkload`]
    pub const OWN_WORKLOAD: &str = "type.googleapis.com/leno.mesh.v1.OwnWorkload";
    /// [`super::mesh::Destination`]
    pub const DESTINATION: &str = "type.googleapis.com/leno.mesh.v1.Destination";
    /// [`super::mesh::Endpoints`]
    pub const ENDPOINTS: &str = "type.googleapis.com/leno.mesh.v1.Endpoints";
}

/// What an agent that can be asked ([`agent::Ask`]) names among its features.
pub const ASK: &str = "ask/v1";
