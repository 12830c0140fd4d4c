//! What a proxy must understand to apply a resource of security (CP10).
//!
//! A field that an older build does not know is dropped in silence when it reads a message, and what restricts would then
//! restrict no more. So what such a field means is named here, the name travels with the resource, and a proxy that does
//! not know the name denies.
//! Invariant: a name is never given another meaning; what is added gets a name of its own.

use std::{fmt, str::FromStr};

/// A feature of resources of security. Agents tell theirs when they connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// Access rules: allow and deny, by identity, namespace and port.
    Access,
    /// What single ports of a workload do with plaintext.
    Authentication,
}

/// No feature that this build knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this build knows no feature \"{0}\"")]
pub struct UnknownFeature(pub String);

impl Feature {
    /// All that this build understands.
    pub const ALL: [Self; 2] = [Self::Access, Self::Authentication];

    /// Its name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Access => "access/v1",
            Self::Authentication => "authentication/v1",
        }
    }

    /// The names of all.
    #[must_use]
    pub fn names() -> Vec<String> {
        Self::ALL.iter().map(ToString::to_string).collect()
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Feature {
    type Err = UnknownFeature;

    fn from_str(text: &str) -> Result<Self, UnknownFeature> {
        let mut all = Self::ALL.into_iter();
        let unknown = || UnknownFeature(text.chars().take(64).collect());
        all.find(|feature| feature.name() == text)
            .ok_or_else(unknown)
    }
}
