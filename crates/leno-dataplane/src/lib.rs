//! Capture, identify, authorize, route, balance, forward, record: one worker of the data path.
//!
//! A worker is one thread with a current-thread runtime. It shares nothing: what it knows arrives in its mailbox as
//! [`Update`]s, what it wants to know or has to report leaves as [`Event`]s. It asks for destinations on first use,
//! keeps what it was told, and serves on when nobody answers any more.
//!
//! Invariant: nothing that the mesh claims ever leaves in clear. An address of the mesh is reached by mutual TLS
//! between identities, or it is refused with one reason of a closed set.

mod api;
mod app;
mod callers;
mod clusters;
mod config;
mod counters;
mod destinations;
mod detect;
mod dns;
mod ending;
mod foreign;
#[doc(hidden)]
pub mod fuzzing;
mod http_server;
mod inbound;
mod metadata;
mod outbound;
mod outbox;
mod outsiders;
mod overload;
mod places;
mod pool;
mod queue;
mod record;
mod remembered;
mod splice;
mod state;
mod target;
mod why;
mod worker;

pub use api::{
    AppDial, CaptureSockets, Event, ListenRole, Look, Outsider, RefusalRecord, Update, Worker,
    start,
};
pub use config::{Limits, OriginalDestination, WorkerConfig};
pub use leno_balance::Out;
pub use remembered::Remembered;
pub use why::{Chain, ENDPOINTS, Seen, Share};
