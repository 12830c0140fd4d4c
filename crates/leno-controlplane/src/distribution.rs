//! Who gets which resource when: delta ADS without its transport (CP8).
//!
//! Owns by which names resources are asked for ([`Catalog`]; the compiler keeps their newest form), and what each stream
//! asked for, was sent and acknowledged ([`Subscriber`]). Never reads a clock or a socket. Refuses wildcards where only names are allowed.
//! Invariant: a version is the digest of a resource's bytes, so what a proxy has already is never sent again.

mod catalog;
mod few;
mod hub;
mod subscriber;
#[cfg(test)]
mod tests;

use leno_compile::Version;
use leno_wire::type_url;

pub use catalog::{Catalog, Resource};
pub(crate) use catalog::{alias_of, name_of, type_of};
pub use hub::{Hub, Programmed, StreamId};
pub use subscriber::{Held, Hold, ProtocolError, State, Subscriber, Tally, View};

/// The types of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Type {
    /// The mesh; to everybody.
    Mesh,
    /// A workload; to its own agent.
    OwnWorkload,
    /// The endpoints of a service; by name.
    Endpoints,
    /// What an address or a name means; by name.
    Destination,
}

impl Type {
    /// All, in the order in which they are sent: what another refers to goes first.
    pub const ALL: [Self; 4] = [
        Self::Mesh,
        Self::OwnWorkload,
        Self::Endpoints,
        Self::Destination,
    ];

    /// The type with this URL.
    #[must_use]
    pub fn from_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }

    /// Its URL on the wire.
    #[must_use]
    pub fn url(self) -> &'static str {
        match self {
            Self::Mesh => type_url::MESH,
            Self::OwnWorkload => type_url::OWN_WORKLOAD,
            Self::Endpoints => type_url::ENDPOINTS,
            Self::Destination => type_url::DESTINATION,
        }
    }

    /// Its short name, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mesh => "Mesh",
            Self::OwnWorkload => "OwnWorkload",
            Self::Endpoints => "Endpoints",
            Self::Destination => "Destination",
        }
    }

    /// Whether every proxy gets all that it may see, without asking by name.
    #[must_use]
    pub fn is_wildcard(self) -> bool {
        matches!(self, Self::Mesh | Self::OwnWorkload)
    }
}
