//! Carries one exchange from an incoming request to an upstream, whichever versions both are.
//!
//! Owns the order of things: the request goes out while the answer is awaited, interim answers pass on as they come,
//! an early answer does not stop the request, and what ends early on one side ends visibly on the other.
//! Invariant: a request comes back as [`Unsent`] only when nothing of it had an effect.

mod exchange;
mod flow;
mod pump;
mod upstream;

use std::{fmt, time::Duration};

use leno_types::Refusal;

use crate::{Cancel, Incoming, ResponseHead, client};
use exchange::{Exchange, Next};

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
    /// Sees and may edit the final response head (or the one that switches) before it is written; not interim ones,
    /// and not the refusals that relay makes itself.
    pub on_response: &'a mut dyn FnMut(&mut ResponseHead),
    /// Whether this final response says that nothing of the request had an effect, and it is wanted back instead. Asked
    /// once, only where it can be given back.
    pub declined: &'a dyn Fn(&ResponseHead) -> bool,
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
    /// Both messages were carried whole, or the response was and nobody wanted the rest of the request.
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
    /// From the start to the final response head.
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
    /// REFUSED_STREAM (RFC 9113 8.7), or no room for a further stream.
    RefusedStream,
    /// An answer that [`RelayOptions::declined`] knows.
    Declined,
    /// A GOAWAY whose last stream is below ours, or the connection takes no further stream.
    GoAway,
    /// The connection was dead before anything was sent.
    ConnectionDead,
    /// A reused HTTP/1 connection closed without a byte of an answer to an idempotent request (RFC 9112 9.3.1).
    StaleConnection,
}

impl fmt::Debug for RelayOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayOptions")
            .field("request_timeout", &self.request_timeout)
            .field("idle_timeout", &self.idle_timeout)
            .finish_non_exhaustive()
    }
}

/// Carries one exchange. Dropping the future cuts the exchange on both sides.
///
/// # Errors
/// [`Unsent`] when nothing of the request had an effect.
pub fn relay<'c, 'o>(
    incoming: Incoming<'c>,
    mut upstream: Upstream,
    mut options: RelayOptions<'o>,
) -> impl Future<Output = Result<Relayed, Unsent<'c>>> + use<'c, 'o> {
    // Not an `async fn`: the exchange is built where it stays. A future is moved into its task whole, and arguments
    // that are moved on inside of one take their room twice.
    let mut exchange = Exchange::new(incoming, &upstream);
    async move {
        let next = match exchange.prepare(&upstream).await {
            Ok(()) => match exchange.begin(&mut upstream) {
                Ok((mut awaiting, mut sink)) => {
                    exchange.run(&mut awaiting, &mut sink, &mut options).await
                }
                Err(next) => next,
            },
            Err(next) => next,
        };
        match next {
            Next::GiveBack(why) => Err(exchange.give_back(why)),
            // Seldom, and larger than all the rest.
            Next::Refuse(reason, ended) => Ok(Box::pin(exchange.refuse(reason, ended)).await),
            Next::Done { upstream_keeps } => {
                let mut relayed = exchange.into_relayed();
                if let (true, Upstream::H1(mut connection)) = (upstream_keeps, upstream) {
                    connection.0.carried += 1;
                    relayed.reusable = Some(connection).filter(client::H1::is_reusable);
                }
                Ok(relayed)
            }
        }
    }
}
