//! Host names: DNS names of hosts in the one form in which they are compared.

use std::{fmt, str::FromStr, sync::Arc};

use crate::DnsLabel;

/// Characters of a name at most, without the final dot (RFC 1035 2.3.4: 255 octets on the wire).
const LONGEST: usize = 253;

/// A DNS name of a host: [`DnsLabel`]s with dots between, at most 253 characters, in lower case and without the final
/// dot.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(Arc<str>);

/// Why a text is no host name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostNameError {
    /// Empty, or longer than 253 characters.
    #[error("a host name has 1 to 253 characters, this has {0}")]
    Length(usize),
    /// One of its labels is none.
    #[error(
        "\"{0}\" is no part of one: write 1 to 63 lower-case letters, digits and inner hyphens between dots"
    )]
    Label(String),
}

impl HostName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its labels, the most specific first.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    /// Whether it is `domain`, or a name below it.
    #[must_use]
    pub fn is_within(&self, domain: &str) -> bool {
        let above = self.0.strip_suffix(domain);
        above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
    }

    /// The names above it, the longest first: `b.c` and `c` of `a.b.c`.
    pub fn above(&self) -> impl Iterator<Item = &str> {
        let mut rest = self.as_str();
        std::iter::from_fn(move || {
            rest = rest.split_once('.')?.1;
            Some(rest)
        })
    }
}

impl FromStr for HostName {
    type Err = HostNameError;

    fn from_str(text: &str) -> Result<Self, HostNameError> {
        if text.is_empty() || text.len() > LONGEST {
            return Err(HostNameError::Length(text.len()));
        }
        for label in text.split('.') {
            if label.parse::<DnsLabel>().is_err() {
                return Err(HostNameError::Label(label.into()));
            }
        }
        Ok(Self(text.into()))
    }
}

impl std::borrow::Borrow<str> for HostName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_host_name_is_labels_and_dots() {
        let longest = [
            "a".repeat(63),
            "b".repeat(63),
            "c".repeat(63),
            "d".repeat(61),
        ]
        .join(".");
        for name in ["a", "cart.svc.mesh.local", "1.2", &longest] {
            assert_eq!(name.parse::<HostName>().unwrap().as_str(), name);
        }
        let long = format!("{longest}e");
        let label = format!("{}.b", "a".repeat(64));
        for bad in [
            "", ".", "a.", ".a", "a..b", "A.b", "a_b.c", "-a.b", &long, &label,
        ] {
            assert!(bad.parse::<HostName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_is_within_its_domains_and_no_other() {
        let name: HostName = "a.b.c".parse().unwrap();
        assert_eq!(name.above().collect::<Vec<_>>(), ["b.c", "c"]);
        for domain in ["a.b.c", "b.c", "c"] {
            assert!(name.is_within(domain), "{domain}");
        }
        for domain in [".c", "x.c", "z.a.b.c", "a.b"] {
            assert!(!name.is_within(domain), "{domain}");
        }
    }
}
