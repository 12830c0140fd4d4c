//! Message heads: what was said, without how it was framed.

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use crate::Fields;

/// The version a message came in, or is to be sent in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0: no chunked, no 1xx, bodies may end by close.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

impl Version {
    /// Whether it is HTTP/1.0 or 1.1.
    #[must_use]
    pub const fn is_http1(self) -> bool {
        !matches!(self, Self::Http2)
    }

    /// As logs write it: `HTTP/1.0`, `HTTP/1.1`, `HTTP/2`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// The head of a request. Framing and hop-by-hop fields (Connection and what it nominates, Keep-Alive,
/// Proxy-Connection, TE except `trailers`, Transfer-Encoding, Content-Length, Upgrade) are not in `fields`; neither
/// is Host, which is `authority`.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The method. An HTTP/1 request that asks to switch keeps its own; extended CONNECT is `CONNECT`.
    pub method: http::Method,
    /// Host, the authority of an absolute-form target (which wins over Host, RFC 9112 3.2.2) or `:authority`.
    pub authority: Option<Bytes>,
    /// Path and query in origin form, `*` for OPTIONS, empty for CONNECT.
    pub path: Bytes,
    /// Whether the scheme is `https`; for origin-form HTTP/1 `false`: the owner of the connection knows better.
    pub scheme_https: bool,
    /// The version it came in.
    pub version: Version,
    /// `:protocol` of an extended CONNECT (RFC 8441), or the token of an HTTP/1 request that asks to switch.
    pub protocol: Option<Bytes>,
    /// Everything else, in order.
    pub fields: Fields,
    /// What one proxy says to the next: sent over HTTP/2 beside `fields`, over HTTP/1 not at all. Empty in what was
    /// received: there it is among `fields`.
    pub private: Vec<(HeaderName, HeaderValue)>,
}

impl RequestHead {
    /// A request with no fields.
    #[must_use]
    pub fn new(method: http::Method, authority: impl Into<Bytes>, path: impl Into<Bytes>) -> Self {
        Self {
            method,
            authority: Some(authority.into()),
            path: path.into(),
            scheme_https: false,
            version: Version::Http11,
            protocol: None,
            fields: Fields::new(),
            private: Vec::new(),
        }
    }

    /// A plain CONNECT to `authority`, as HBONE uses it.
    #[must_use]
    pub fn connect(authority: impl Into<Bytes>) -> Self {
        Self {
            version: Version::Http2,
            ..Self::new(http::Method::CONNECT, authority, Bytes::new())
        }
    }

    /// Whether success turns the connection or stream into bytes both ways.
    #[must_use]
    pub fn asks_to_switch(&self) -> bool {
        self.protocol.is_some() || self.method == http::Method::CONNECT
    }

    /// Whether the caller speaks gRPC (content-type `application/grpc`, with or without a suffix).
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        const GRPC: &[u8] = b"application/grpc";
        self.fields.get("content-type").is_some_and(|value| {
            value
                .get(..GRPC.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(GRPC))
        })
    }
}

/// The head of a response; as with requests without framing and hop-by-hop fields.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// 100 to 999.
    pub status: u16,
    /// The reason phrase of HTTP/1, kept where the other side is HTTP/1 too.
    pub reason: Option<Bytes>,
    /// The version it came in.
    pub version: Version,
    /// Everything else, in order.
    pub fields: Fields,
}

impl ResponseHead {
    /// A response with no fields.
    #[must_use]
    pub const fn new(status: u16) -> Self {
        Self {
            status,
            reason: None,
            version: Version::Http11,
            fields: Fields::new(),
        }
    }

    /// Whether it is interim (1xx): the exchange goes on. 101 ends HTTP and is not.
    #[must_use]
    pub const fn is_interim(&self) -> bool {
        self.status >= 100 && self.status < 200 && self.status != 101
    }
}
