//! The names by which resources are asked for (CP8).

use std::{fmt, net::IpAddr, str::FromStr};

use leno_types::{DnsLabel, HostName, ServiceName};

/// What a proxy asks for: a service by its name or a further one or, for an address, whatever answers there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceName {
    /// `svc/NAMESPACE/NAME`: canonical for services and their endpoints.
    Service(ServiceName),
    /// `ip/ADDRESS`: an alias; answered by a service (a virtual address) or a host.
    Address(IpAddr),
    /// `host/ADDRESS`: canonical for a host.
    Host(IpAddr),
    /// `name/HOSTNAME`: canonical for a further name of a service.
    Hostname(HostName),
}

/// The text is none of the four forms.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no resource name: svc/NAMESPACE/NAME, ip/ADDRESS, host/ADDRESS or name/HOSTNAME"
)]
pub struct ResourceNameError(pub String);

impl FromStr for ResourceName {
    type Err = ResourceNameError;

    fn from_str(text: &str) -> Result<Self, ResourceNameError> {
        let error = || ResourceNameError(text.chars().take(128).collect());
        let (form, rest) = text.split_once('/').ok_or_else(error)?;
        match form {
            "svc" => {
                let (namespace, name) = rest.split_once('/').ok_or_else(error)?;
                let label = |text: &str| text.parse::<DnsLabel>().map_err(|_| error());
                Ok(Self::Service(ServiceName::new(
                    label(namespace)?,
                    label(name)?,
                )))
            }
            "ip" => rest.parse().map(Self::Address).map_err(|_| error()),
            "host" => rest.parse().map(Self::Host).map_err(|_| error()),
            "name" => rest.parse().map(Self::Hostname).map_err(|_| error()),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => write!(f, "svc/{name}"),
            Self::Address(address) => write!(f, "ip/{address}"),
            Self::Host(address) => write!(f, "host/{address}"),
            Self::Hostname(name) => write!(f, "name/{name}"),
        }
    }
}
