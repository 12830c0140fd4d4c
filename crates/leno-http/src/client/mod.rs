//! Connections to upstreams.

mod http1;
mod http2;

pub use http1::H1;
pub use http2::H2;

pub(crate) use http1::nobody;
pub(crate) use http2::{OpenStream, Opened};
