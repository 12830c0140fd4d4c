//! The data path's HTTP: own HTTP/1 codec, HTTP/2 on the h2 crate, upgrade, limits, corked writes, and [`relay`](mod@relay),
//! which carries one exchange from an incoming request to an upstream whichever versions both are.
//!
//! Owns framing: hop-by-hop and framing fields are taken out where a message is parsed and made anew where it is
//! written, never copied. Refuses every message two parsers could read in two ways. Single-threaded by design:
//! nothing here is `Send`, and no socket, clock or name is looked up on its own account.

mod ahead;
mod alive;
mod body;
mod cancel;
mod case;
pub mod client;
mod convert;
mod cork;
pub mod detect;
mod error;
mod fields;
#[doc(hidden)]
pub mod fuzzing;
pub mod h1;
mod head;
mod limits;
mod relay;
mod reply;
pub mod server;
mod sink;
mod timer;
mod tunnel;
mod urgency;
mod websocket;

pub use ahead::ReadAhead;
pub use body::Body;
pub use cancel::Cancel;
pub use case::CASE_FIELD;
pub use cork::{Corked, Corker};
pub use error::{BodyError, ClientError, ReplyError, ServerError};
pub use fields::Fields;
pub use head::{RequestHead, ResponseHead, Version};
pub use limits::{Counters, Limits};
pub use relay::{Ended, RelayOptions, Relayed, Side, Unsent, UnsentReason, Upstream, relay};
pub use reply::{Incoming, Reply};
pub use tunnel::Tunnel;
pub use urgency::urgency;
