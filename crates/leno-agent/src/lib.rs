//! A host's side of the mesh: its identity, workloads, certificates, subscriptions, capture and admin port.
//!
//! One loop ([`run`]) owns all of its state. It speaks to the control plane (a lease, certificates, delta ADS), to
//! programs over a Unix socket ([`protocol`]) and to the data plane by mailboxes.

mod admin;
mod ads;
mod agent;
mod busy;
mod certificates;
mod config;
mod dial;
mod explain;
mod files;
#[doc(hidden)]
pub mod fuzzing;
mod handover;
pub mod host;
mod host_network;
mod hosted;
mod join;
mod lines;
mod link;
mod local;
mod membership;
pub mod protocol;
mod refused;
mod report;
mod run_user;
mod saved;
mod sidecar;
#[doc(hidden)]
pub mod simulation;
mod standing;

pub use agent::{AgentError, run};
pub use config::{Config, Exclusions};
pub use dial::DialError;
pub use join::{JoinError, join};
pub use leno_ir::Prefix;
pub use membership::{Membership, MembershipError};
pub use run_user::{RunUser, RunUserError};
pub use saved::{KEPT_FILES, on_host_network, served};
pub use standing::is_another;

/// That no agent lives in this run directory.
///
/// # Errors
/// Which other does, and what to do.
pub fn nobody_listens(run_dir: &std::path::Path) -> std::io::Result<()> {
    local::nobody_listens(&config::socket(run_dir))
}

/// That an agent can begin here: no other lives in its run directory, and its ports are free. For those who ask before
/// they spend or make what would be in vain.
///
/// # Errors
/// What is in the way, and what to do.
pub fn can_begin(config: &Config) -> Result<(), AgentError> {
    nobody_listens(&config.run_dir).map_err(|error| AgentError::Listen(error.to_string()))?;
    admin::can_listen(config)
}
