//! Sources, compile, snapshot, distribute; certificate authority, registry, tokens, telemetry.
//!
//! Owns everything a mesh's control plane does behind one TLS port and one admin socket. Never routes a request.
//! Invariant: what decides ([`registry`], [`distribution`], [`vips`], [`telemetry`]) has no clock, socket or
//! randomness of its own.

mod audit;
pub mod authority;
pub mod backup;
mod behind;
mod challenge;
pub mod config;
mod core;
mod derived;
pub mod distribution;
pub mod documents;
mod error;
mod grpc;
mod http;
mod listener;
mod mesh;
mod metrics;
mod people;
pub mod places;
mod records;
pub mod registry;
mod server;
#[doc(hidden)]
pub mod simulation;
mod skew;
pub mod telemetry;
mod tenants;
mod times;
pub mod tokens;
mod told;
pub mod uids;
pub mod vips;
mod vitals;

pub use config::Config;
pub use error::StartError;
pub use people::Role;
pub use server::{Bound, can_listen};

use leno_runtime::Stop;

/// Runs a control plane until `stop`. Needs a current-thread runtime on which local tasks can be started.
///
/// # Errors
/// What keeps it from starting, and what to do about it.
pub async fn run(config: Config, stop: Stop) -> Result<(), StartError> {
    Bound::bind(config).await?.serve(stop).await
}
