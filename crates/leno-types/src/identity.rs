//! SPIFFE identities: who a workload or an agent is, as its certificate says.
//!
//! Invariant: an [`Identity`] is a valid SPIFFE ID (SPIFFE-ID 2.1 to 2.4): scheme `spiffe`, a trust domain, a
//! path of non-empty segments, at most 2,048 bytes, no query, no fragment, no percent-encoding.

use std::{fmt, str::FromStr, sync::Arc};

use crate::DnsLabel;

/// A SPIFFE trust domain (SPIFFE-ID 2.1): lower-case letters, digits, `.`, `-`, `_`; 1 to 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// A SPIFFE ID. Leno's workloads are `spiffe://TD/ns/NAMESPACE/sa/ACCOUNT`, its agents
/// `spiffe://TD/leno/agent/NAME`, people `spiffe://TD/leno/user/NAME`, its control planes
/// `spiffe://TD/leno/control-plane`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    uri: Arc<str>,
    /// Bytes of the trust domain, which begins at offset 9.
    domain: u8,
}

/// Why a text is no SPIFFE identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The text does not begin with `spiffe://`.
    #[error("a SPIFFE ID begins with spiffe://")]
    Scheme,
    /// The trust domain is empty or longer than 255 bytes.
    #[error("a trust domain has 1 to 255 bytes")]
    DomainLength,
    /// A byte that the place it stands in does not allow.
    #[error("byte {byte:#04x} is not allowed in a SPIFFE ID")]
    IllegalByte {
        /// The offending byte.
        byte: u8,
    },
    /// An empty, `.` or `..` path segment, or no path at all.
    #[error("a SPIFFE path has segments that are not empty, . or ..")]
    Segment,
    /// More than 2,048 bytes.
    #[error("a SPIFFE ID has at most 2048 bytes")]
    TooLong,
}

const SCHEME: &str = "spiffe://";

impl TrustDomain {
    /// The domain as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        if text.is_empty() || text.len() > 255 {
            return Err(IdentityError::DomainLength);
        }
        let illegal = |b: &u8| !matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_');
        match text.bytes().find(illegal) {
            Some(byte) => Err(IdentityError::IllegalByte { byte }),
            None => Ok(Self(text.into())),
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Identity {
    /// The identity of a workload: `spiffe://TD/ns/NAMESPACE/sa/ACCOUNT`.
    #[must_use]
    pub fn workload(domain: &TrustDomain, namespace: &DnsLabel, account: &DnsLabel) -> Self {
        Self::build(domain, &format!("/ns/{namespace}/sa/{account}"))
    }

    /// The identity of a host's agent: `spiffe://TD/leno/agent/NAME`.
    #[must_use]
    pub fn agent(domain: &TrustDomain, name: &DnsLabel) -> Self {
        Self::build(domain, &format!("/leno/agent/{name}"))
    }

    /// The identity of a control plane: `spiffe://TD/leno/control-plane`.
    #[must_use]
    pub fn control_plane(domain: &TrustDomain) -> Self {
        Self::build(domain, "/leno/control-plane")
    }

    /// The identity of a person at the API: `spiffe://TD/leno/user/NAME`.
    #[must_use]
    pub fn user(domain: &TrustDomain, name: &DnsLabel) -> Self {
        Self::build(domain, &format!("/leno/user/{name}"))
    }

    fn build(domain: &TrustDomain, path: &str) -> Self {
        let domain_len =
            u8::try_from(domain.0.len()).expect("a trust domain has at most 255 bytes");
        Self {
            uri: format!("{SCHEME}{domain}{path}").into(),
            domain: domain_len,
        }
    }

    /// The whole URI.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(self.domain_str().into())
    }

    /// The trust domain as text, without allocating.
    #[must_use]
    pub fn domain_str(&self) -> &str {
        self.split().0
    }

    /// The path, beginning with `/`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.split().1
    }

    /// The namespace of a workload's identity.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.workload_parts().map(|(namespace, _)| namespace)
    }

    /// The service account of a workload's identity.
    #[must_use]
    pub fn service_account(&self) -> Option<&str> {
        self.workload_parts().map(|(_, account)| account)
    }

    /// The name of an agent's identity.
    #[must_use]
    pub fn agent_name(&self) -> Option<&str> {
        self.path()
            .strip_prefix("/leno/agent/")
            .filter(|name| !name.contains('/'))
    }

    /// The name of a user's identity.
    #[must_use]
    pub fn user_name(&self) -> Option<&str> {
        self.path()
            .strip_prefix("/leno/user/")
            .filter(|name| !name.contains('/'))
    }

    fn workload_parts(&self) -> Option<(&str, &str)> {
        let rest = self.path().strip_prefix("/ns/")?;
        let (namespace, rest) = rest.split_once('/')?;
        let account = rest.strip_prefix("sa/")?;
        (!account.contains('/')).then_some((namespace, account))
    }

    fn split(&self) -> (&str, &str) {
        self.uri
            .split_at_checked(SCHEME.len())
            .map_or(("", ""), |(_, rest)| {
                rest.split_at_checked(usize::from(self.domain))
                    .unwrap_or(("", ""))
            })
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        if text.len() > 2048 {
            return Err(IdentityError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(IdentityError::Scheme)?;
        let (domain, path) = rest.split_once('/').ok_or(IdentityError::Segment)?;
        let domain: TrustDomain = domain.parse()?;
        let illegal = |b: &u8| !matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'/');
        if let Some(byte) = path.bytes().find(illegal) {
            return Err(IdentityError::IllegalByte { byte });
        }
        if path
            .split('/')
            .any(|segment| matches!(segment, "" | "." | ".."))
        {
            return Err(IdentityError::Segment);
        }
        Ok(Self::build(&domain, &format!("/{path}")))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_identity_survives_text_and_gives_its_parts() {
        let id: Identity = "spiffe://default.leno/ns/shop/sa/cart"
            .parse()
            .expect("valid");
        assert_eq!(id.domain_str(), "default.leno");
        assert_eq!(id.namespace(), Some("shop"));
        assert_eq!(id.service_account(), Some("cart"));
        assert_eq!(id.agent_name(), None);
        let built = Identity::workload(
            &"default.leno".parse().expect("valid"),
            &"shop".parse().expect("valid"),
            &"cart".parse().expect("valid"),
        );
        assert_eq!(built, id);
    }

    #[test]
    fn what_is_no_spiffe_id_is_refused_with_its_reason() {
        let cases = [
            ("https://a/b", IdentityError::Scheme),
            ("spiffe:///b", IdentityError::DomainLength),
            ("spiffe://a", IdentityError::Segment),
            ("spiffe://a/", IdentityError::Segment),
            ("spiffe://a/b/../c", IdentityError::Segment),
            ("spiffe://a/b%20", IdentityError::IllegalByte { byte: b'%' }),
            ("spiffe://A/b", IdentityError::IllegalByte { byte: b'A' }),
            ("spiffe://a:1/b", IdentityError::IllegalByte { byte: b':' }),
            ("spiffe://a/b?c", IdentityError::IllegalByte { byte: b'?' }),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Identity>(), Err(error), "{text}");
        }
        assert_eq!(
            format!("spiffe://a/{}", "b".repeat(2048)).parse::<Identity>(),
            Err(IdentityError::TooLong)
        );
    }
}
