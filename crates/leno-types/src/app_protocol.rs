//! What a port speaks, as people declare it (Kubernetes `appProtocol`, Istio's port names, `--port 80:8080/http`).

use std::{fmt, str::FromStr};

/// The declared protocol of a port. A port without one is detected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AppProtocol {
    /// HTTP/1.0 or 1.1; WebSocket is this too (`http`, `ws`, `kubernetes.io/ws`).
    Http,
    /// HTTP/2 in clear with prior knowledge (`http2`, `h2c`, `kubernetes.io/h2c`).
    Http2,
    /// gRPC, over HTTP/2 in clear.
    Grpc,
    /// TLS that the mesh passes through, routed by SNI (`tls`, `https`).
    Tls,
    /// Bytes; also every protocol in which the server speaks first (`tcp`, `mysql`, `postgres`, `redis`, `mongo`, `smtp`).
    Tcp,
}

/// The text names no protocol that Leno knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no appProtocol: use http, http2, grpc, tls or tcp")]
pub struct AppProtocolError(pub String);

impl AppProtocol {
    /// The name Leno prints.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tls => "tls",
            Self::Tcp => "tcp",
        }
    }

    /// Whether the proxy reads requests from it.
    #[must_use]
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }
}

impl FromStr for AppProtocol {
    type Err = AppProtocolError;

    fn from_str(text: &str) -> Result<Self, AppProtocolError> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "http" | "http1" | "http/1.1" | "ws" | "kubernetes.io/ws" => Self::Http,
            "http2" | "h2c" | "http/2" | "kubernetes.io/h2c" => Self::Http2,
            "grpc" => Self::Grpc,
            "tls" | "https" | "wss" | "kubernetes.io/wss" => Self::Tls,
            "tcp" | "mysql" | "postgres" | "postgresql" | "redis" | "mongo" | "smtp" => Self::Tcp,
            _ => return Err(AppProtocolError(text.into())),
        })
    }
}

impl fmt::Display for AppProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
