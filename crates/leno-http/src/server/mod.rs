//! Connections from clients.

mod http1;
mod http2;

pub use http1::H1;
pub use http2::H2;
