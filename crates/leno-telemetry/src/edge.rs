//! Who spoke with whom, and how it ended: the keys of every traffic metric.

use std::{sync::Arc, time::Duration};

use leno_types::{Identity, Refusal};

/// Which end of a connection counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reporter {
    /// The caller's proxy.
    Source,
    /// The called workload's proxy.
    Destination,
}

impl Reporter {
    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// What was spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// gRPC.
    Grpc,
    /// A WebSocket.
    WebSocket,
    /// Bytes.
    Tcp,
}

impl Protocol {
    /// The name Leno shows.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "http/2",
            Self::Grpc => "grpc",
            Self::WebSocket => "websocket",
            Self::Tcp => "tcp",
        }
    }

    /// The value of Istio's label `request_protocol`, which dashboards compare: `http`, `grpc` or `tcp`.
    #[must_use]
    pub const fn istio(self) -> &'static str {
        match self {
            Self::Http1 | Self::Http2 | Self::WebSocket => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

/// Source, destination and protocol: what a graph draws one line for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EdgeKey {
    /// Who counted.
    pub reporter: Reporter,
    /// `unknown` for a caller from outside the mesh.
    pub source_workload: Arc<str>,
    /// The namespace of the source.
    pub source_namespace: Arc<str>,
    /// Who the source proved to be.
    pub source_identity: Option<Identity>,
    /// `unknown` for what is outside the mesh.
    pub destination_workload: Arc<str>,
    /// The namespace of the destination.
    pub destination_namespace: Arc<str>,
    /// The full host name of the service called.
    pub destination_service: Arc<str>,
    /// The destination workload's version.
    pub destination_version: Arc<str>,
    /// Who the destination proved to be.
    pub destination_identity: Option<Identity>,
    /// What was spoken.
    pub protocol: Protocol,
    /// Whether it went over mutual TLS.
    pub mtls: bool,
}

impl EdgeKey {
    /// Where everything is counted that is beyond the ceiling on edges.
    #[must_use]
    pub fn other(reporter: Reporter, protocol: Protocol, mtls: bool) -> Self {
        let other: Arc<str> = "other".into();
        Self {
            reporter,
            source_workload: Arc::clone(&other),
            source_namespace: Arc::clone(&other),
            source_identity: None,
            destination_workload: Arc::clone(&other),
            destination_namespace: Arc::clone(&other),
            destination_service: Arc::clone(&other),
            destination_version: other,
            destination_identity: None,
            protocol,
            mtls,
        }
    }
}

/// How one request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestOutcome {
    /// The HTTP status; 0 when there was none.
    pub response_code: u16,
    /// The gRPC status, for gRPC.
    pub grpc_status: Option<u8>,
    /// Why the mesh answered in the destination's place.
    pub refusal: Option<Refusal>,
    /// From the request's first byte to the response's last.
    pub duration: Duration,
    /// From the request's first byte to the response's first.
    pub first_byte: Option<Duration>,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the response's body.
    pub response_bytes: u64,
}

/// The part of an outcome that is a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResponseKey {
    /// The HTTP status; `None` for all those beyond the ceiling on responses of an edge.
    pub code: Option<u16>,
    /// The gRPC status.
    pub grpc_status: Option<u8>,
    /// Why the mesh answered.
    pub refusal: Option<Refusal>,
}

impl ResponseKey {
    /// Where responses are counted that are beyond the ceiling.
    pub const OTHER: Self = Self {
        code: None,
        grpc_status: None,
        refusal: None,
    };

    /// Whether the request failed: by a refusal, a status of 500 or more, no status, or a gRPC status that blames
    /// the server (UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS). A client that went away is no
    /// failure of anybody's.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        let status = matches!(self.code, Some(0 | 500..));
        let refused = !matches!(self.refusal, None | Some(Refusal::ClientGone));
        refused || status || matches!(self.grpc_status, Some(2 | 4 | 13 | 14 | 15))
    }
}

impl From<&RequestOutcome> for ResponseKey {
    fn from(outcome: &RequestOutcome) -> Self {
        Self {
            code: Some(outcome.response_code),
            grpc_status: outcome.grpc_status,
            refusal: outcome.refusal,
        }
    }
}
