//! Names: DNS labels, meshes, services, and the host names that mean a service.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

/// A DNS label (RFC 1123 2.1): 1 to 63 lower-case letters, digits and inner hyphens.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DnsLabel(Arc<str>);

/// The name of a mesh, a [`DnsLabel`]: the first part of every key.
pub type MeshName = DnsLabel;

/// A service: its namespace and its name. Shown as `namespace/name`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// The namespace it lives in.
    pub namespace: DnsLabel,
    /// Its name there.
    pub name: DnsLabel,
}

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, or longer than 63 bytes.
    #[error("a name has 1 to 63 characters, this has {0}")]
    Length(usize),
    /// A character other than `a-z`, `0-9` and `-`, or a `-` at an end.
    #[error("\"{0}\" is no name: use lower-case letters, digits and inner hyphens")]
    Illegal(String),
    /// Not of the form `namespace/name`.
    #[error("\"{0}\" is no service: write namespace/name")]
    Service(String),
}

impl DnsLabel {
    /// The label as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DnsLabel {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > 63 {
            return Err(NameError::Length(text.len()));
        }
        let legal = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if !text.bytes().all(legal) || text.starts_with('-') || text.ends_with('-') {
            return Err(NameError::Illegal(text.into()));
        }
        Ok(Self(text.into()))
    }
}

impl Borrow<str> for DnsLabel {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DnsLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DnsLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ServiceName {
    /// The service `name` of `namespace`.
    #[must_use]
    pub fn new(namespace: DnsLabel, name: DnsLabel) -> Self {
        Self { namespace, name }
    }

    /// The full host name: `name.namespace.svc.cluster.local`.
    #[must_use]
    pub fn host(&self) -> String {
        format!("{}.{}.svc.cluster.local", self.name, self.namespace)
    }
}

impl FromStr for ServiceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (namespace, name) = text
            .split_once('/')
            .ok_or_else(|| NameError::Service(text.into()))?;
        Ok(Self {
            namespace: namespace.parse()?,
            name: name.parse()?,
        })
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The service a host name can mean to a workload of `namespace`: `cart`, `cart.NS`, `cart.NS.svc` and
/// `cart.NS.svc.cluster.local`, in any case, with or without the final dot. `None` when it has another shape.
#[must_use]
pub fn parse_service_host(host: &str, namespace: &DnsLabel) -> Option<ServiceName> {
    let lower = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let mut labels = lower.split('.');
    let name: DnsLabel = labels.next()?.parse().ok()?;
    let namespace = match labels.next() {
        None => namespace.clone(),
        Some(label) => label.parse().ok()?,
    };
    match (labels.next(), labels.next(), labels.next(), labels.next()) {
        (None, ..)
        | (Some("svc"), None, ..)
        | (Some("svc"), Some("cluster"), Some("local"), None) => {
            Some(ServiceName { namespace, name })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_means_a_service_in_four_ways_and_no_other() {
        let here: DnsLabel = "shop".parse().expect("valid");
        let cart = |namespace: &str| format!("{namespace}/cart").parse::<ServiceName>().ok();
        assert_eq!(parse_service_host("cart", &here), cart("shop"));
        assert_eq!(parse_service_host("CART.", &here), cart("shop"));
        assert_eq!(parse_service_host("cart.other", &here), cart("other"));
        assert_eq!(parse_service_host("cart.other.svc", &here), cart("other"));
        assert_eq!(
            parse_service_host("cart.other.svc.cluster.local.", &here),
            cart("other")
        );
        for host in [
            "",
            ".",
            "cart.other.svc.cluster",
            "cart.other.com",
            "a.b.c.d.e.f",
            "cart.example.svc.cluster.local.x",
            "-a",
        ] {
            assert_eq!(parse_service_host(host, &here), None, "{host}");
        }
    }

    #[test]
    fn labels_are_lower_case_letters_digits_and_inner_hyphens() {
        assert!("a-1".parse::<DnsLabel>().is_ok());
        for bad in ["", "A", "a_b", "-a", "a-", "a.b", &"a".repeat(64)] {
            assert!(bad.parse::<DnsLabel>().is_err(), "{bad}");
        }
    }
}
