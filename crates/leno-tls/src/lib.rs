//! Identities, verification, rotation and certificate authority; the only user of rustls.
//!
//! Owns every decision about who a peer is: TLS 1.3 only, aws-lc-rs, X25519MLKEM768 offered first, no resumption,
//! no 0-RTT. Refuses a certificate that is not the one due, with one reason of a closed set. Reads no file, opens
//! no socket, logs nothing.
//! Invariant: a [`Peer`] exists only for a certificate that chains to the bundle, is within its time, made for the
//! use it was put to, and carries exactly one URI name, a SPIFFE ID of the bundle's trust domain.
//!
//! Key material lives in [`PrivateKey`] and [`Secret`] only: zeroed when dropped, never printed.

pub mod ca;
pub mod control;

mod alpn;
mod bundle;
mod certificate;
mod client;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod key;
mod leaf;
mod pem;
mod provider;
mod secret;
mod server;
mod verify;

#[cfg(test)]
mod tests;

pub use alpn::Alpn;
pub use bundle::{MAX_ROOTS, TrustBundle};
pub use certificate::WorkloadCertificate;
pub use client::{Connected, Connector};
pub use error::{HandshakeError, TlsError, VerifyError, verify_failure_reason};
pub use key::PrivateKey;
pub use leaf::Peer;
pub use provider::{HANDSHAKE_TIMEOUT, SEND_BUFFER_LIMIT};
pub use secret::Secret;
pub use server::{Accepted, Acceptor, ServerIdentities};
pub use tokio_rustls::{client::TlsStream as ClientStream, server::TlsStream as ServerStream};
pub use verify::MAX_CHAIN;
