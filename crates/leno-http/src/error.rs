//! What can go wrong on one connection, and whose fault it is.

use std::io;

use leno_types::Refusal;

use crate::h1::ParseError;

/// Why a connection from a client gives no further request.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The client's bytes are no HTTP/1 request; it was answered with [`ParseError::status`].
    #[error("the client's request is malformed")]
    Malformed(#[from] ParseError),
    /// A request head did not arrive in time; it was answered 408.
    #[error("the client's request head did not arrive in time")]
    HeadTimeout,
    /// The connection ended within a request.
    #[error("the client closed the connection within a request")]
    Truncated,
    /// HTTP/2 broken by the client.
    #[error("the client broke HTTP/2")]
    Http2(#[source] h2::Error),
    /// Nothing came any more, and no answer to a PING.
    #[error("the client is silent, and answers no ping")]
    Dead,
    /// The transport failed.
    #[error("the client's connection failed")]
    Io(#[from] io::Error),
}

impl ServerError {
    /// The status the client was answered with; `None` when it was not.
    #[must_use]
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::Malformed(why) => Some(why.status()),
            Self::HeadTimeout => Some(408),
            Self::Truncated => Some(400),
            Self::Http2(_) | Self::Dead | Self::Io(_) => None,
        }
    }

    /// All of it in one line, for people.
    #[must_use]
    pub fn told(&self) -> String {
        match self {
            Self::Malformed(why) => format!("the client's request: {why}"),
            Self::Http2(why) => format!("the client broke HTTP/2: {why}"),
            Self::HeadTimeout | Self::Truncated | Self::Dead | Self::Io(_) => self.to_string(),
        }
    }

    /// The reason of that answer, or of the end without one.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Malformed(ParseError::TooLarge) => Some(Refusal::HeadTooLarge),
            Self::Malformed(_) | Self::HeadTimeout | Self::Truncated => {
                Some(Refusal::ClientProtocol)
            }
            // Where the client gave up first it is its own reason.
            Self::Http2(error) => (!error.is_remote()).then_some(Refusal::ClientProtocol),
            Self::Dead | Self::Io(_) => None,
        }
    }
}

/// Why a request could not be sent on a connection of ours.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The peer allows no further stream, is going away, or refused this one: it had no effect.
    #[error("the peer did not take the request")]
    Refused,
    /// The peer does not speak extended CONNECT (RFC 8441), or asks for something HTTP/2 cannot carry.
    #[error("HTTP/2 cannot carry this request to this peer: {0}")]
    Unsupported(&'static str),
    /// HTTP/2 broken, or the stream reset.
    #[error("the stream failed")]
    Http2(#[source] h2::Error),
    /// The transport failed.
    #[error("the upstream's connection failed")]
    Io(#[from] io::Error),
}

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection ended before the body did.
    #[error("the body is cut short")]
    Truncated,
    /// Chunked coding or trailers that break RFC 9112 7.1.
    #[error("the body's framing is malformed")]
    Malformed(#[from] ParseError),
    /// The stream was reset, or the HTTP/2 connection failed.
    #[error("the stream was reset")]
    Http2(#[source] h2::Error),
    /// The transport failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
}

/// Why an answer could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    /// The client is gone.
    #[error("the client is gone")]
    Gone,
    /// A tunnel of its own exists on HTTP/2 only.
    #[error("an HTTP/1 request cannot become a tunnel of its own")]
    NotHttp2,
}
