//! Relay.
use std::time::Duration;
use leno_types::Refusal;
use crate::{Cancel, Incoming, ResponseHead, client};
/// Where a request goes.
#[derive(Debug)]
pub enum Upstream {
    /// A stream of a multiplexed connection.
    H2(client::H2),
    /// A connection of its own; given back in [`Relayed::reusable`].
    H1(client::H1),
}
/// How one exchange is to be carried.
pub struct RelayOptions<'a> {
    /// To the end of the response head.
    pub request_timeout: Option<Duration>,
    /// Without a byte either way, after the response head.
    pub idle_timeout: Option<Duration>,
    /// Sees and may edit every final response head (and 101) before it is written; not interim ones.
    pub on_response: &'a mut dyn FnMut(&mut ResponseHead),
    /// Ends the exchange from outside.
    pub cancel: &'a Cancel,
}
/// Whose fault it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The caller.
    Client,
    /// The endpoint.
    Upstream,
}
/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Both messages were carried whole.
    Complete,
    /// The client went away.
    ClientGone,
    /// The upstream reset or closed before its response head.
    UpstreamResetBeforeHead,
    /// The upstream reset or closed within its response.
    UpstreamResetAfterHead,
    /// A timeout of [`RelayOptions`].
    Timeout,
    /// A side broke its protocol.
    Protocol(Side),
    /// [`RelayOptions::cancel`] was thrown.
    Cancelled,
    /// The exchange became bytes both ways and ended; the byte counts are in [`Relayed`].
    Switched,
}
/// What became of an exchange.
#[derive(Debug)]
pub struct Relayed {
    /// The status the client got.
    pub status: Option<u16>,
    /// From trailers, or the head of a trailers-only response.
    pub grpc_status: Option<u8>,
    /// Body bytes (after a switch: bytes) from the client.
    pub request_bytes: u64,
    /// Body bytes (after a switch: bytes) to the client.
    pub response_bytes: u64,
    /// From the start to the first byte of the final response head.
    pub first_byte: Option<Duration>,
    /// How it ended.
    pub ended: Ended,
    /// When relay itself answered: why.
    pub refused: Option<Refusal>,
    /// The HTTP/1 connection, if a further exchange may use it.
    pub reusable: Option<client::H1>,
}
/// The request comes back whole: nothing of it had an effect, another endpoint may be tried.
#[derive(Debug)]
pub struct Unsent<'c> {
    /// The request as it was given.
    pub incoming: Incoming<'c>,
    /// What happened.
    pub why: UnsentReason,
}
/// Why nothing of a request had an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnsentReason {
    /// REFUSED_STREAM (RFC 9113 8.7).
    RefusedStream,
    /// A GOAWAY whose last stream is below ours, or the connection takes no further stream.
    GoAway,
    /// The connection was dead before anything was sent.
    ConnectionDead,
    /// A reused HTTP/1 connection closed without a byte of an answer to an idempotent request (RFC 9112 9.3.1).
    StaleConnection,
}
/// Carries one exchange.
///
/// # Errors
/// [`Unsent`] when nothing of the request had an effect.
pub async fn relay<'c>(_incoming: Incoming<'c>, _upstream: Upstream, _options: RelayOptions<'_>) -> Result<Relayed, Unsent<'c>> { todo!() }
