//! The must-have set (CP8): the mesh, and the workloads of this host, as the control plane describes them.

use std::{collections::BTreeSet, fmt, net::IpAddr, str::FromStr};

use leno_types::{
    AppProtocol, DnsLabel, HostName, Identity, MeshName, ServiceName, TrustDomain, WorkloadUid,
};

use crate::{AccessRule, Feature, Provenance};

/// What every proxy of a mesh knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// The mesh.
    pub name: MeshName,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// PEM of the roots to trust: one, or two while they are rotated.
    pub trust_bundle: String,
    /// What lies inside is never called in clear (CP7).
    pub prefixes: Vec<Prefix>,
    /// Members outside every prefix.
    pub addresses: Vec<IpAddr>,
    /// Where virtual addresses of version 4 come from.
    pub vip_v4: Prefix,
    /// Where virtual addresses of version 6 come from.
    pub vip_v6: Prefix,
    /// Namespaces that have services, or had some not long ago.
    pub namespaces: BTreeSet<DnsLabel>,
    /// Below these, services may have further names.
    pub domains: BTreeSet<HostName>,
}

impl Mesh {
    /// Whether an address that nothing is known about may only be called through the mesh.
    #[must_use]
    pub fn claims(&self, address: IpAddr) -> bool {
        self.is_virtual(address)
            || self.prefixes.iter().any(|prefix| prefix.contains(address))
            || self.addresses.contains(&address)
    }

    /// Whether a service may have this name by a template.
    #[must_use]
    pub fn may_name(&self, name: &HostName) -> bool {
        name.above().any(|domain| self.domains.contains(domain))
    }

    /// Whether an address is a service's virtual one.
    #[must_use]
    pub fn is_virtual(&self, address: IpAddr) -> bool {
        self.vip_v4.contains(address) || self.vip_v6.contains(address)
    }
}

/// A network in CIDR notation. Bits beyond the length are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// The text is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no network: write ADDRESS/LENGTH, such as 10.0.0.0/24")]
pub struct PrefixError(pub String);

impl Prefix {
    /// The network of `address` with `length` bits; longer than the address means the address alone.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Self {
        match address {
            IpAddr::V4(v4) => {
                let length = length.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                Self {
                    address: IpAddr::V4((u32::from(v4) & mask).into()),
                    length,
                }
            }
            IpAddr::V6(v6) => {
                let length = length.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                Self {
                    address: IpAddr::V6((u128::from(v6) & mask).into()),
                    length,
                }
            }
        }
    }

    /// The first address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Bits of the network.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether `address` lies inside.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && Self::new(address, self.length) == *self
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let error = || PrefixError(text.into());
        let (address, length) = text.split_once('/').ok_or_else(error)?;
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let length: u8 = length.parse().map_err(|_| error())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if length > longest {
            return Err(error());
        }
        Ok(Self::new(address, length))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// What a workload does with plaintext from outside the mesh (row I2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MtlsMode {
    /// Mutual TLS from the mesh, plaintext where a port is published.
    #[default]
    Permissive,
    /// Mutual TLS only.
    Strict,
}

/// What a workload or a port of it does with plaintext, and which policy says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mtls {
    /// What it does.
    pub mode: MtlsMode,
    /// Where it was written; `None` where no policy says anything.
    pub provenance: Option<Provenance>,
}

/// A workload of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnWorkload {
    /// Its id.
    pub uid: WorkloadUid,
    /// Its namespace.
    pub namespace: DnsLabel,
    /// Its name, unique in the mesh while it lives, such as `cart-b7f2`.
    pub name: String,
    /// Who it is.
    pub identity: Identity,
    /// Its `version` label; empty when it has none.
    pub version: String,
    /// The first of its services; `None` when it only calls.
    pub service: Option<ServiceName>,
    /// The addresses at which others reach it.
    pub addresses: Vec<IpAddr>,
    /// What it serves.
    pub ports: Vec<WorkloadPort>,
    /// What it does with plaintext, at ports that do not say.
    pub mtls: Mtls,
    /// Who may call it.
    pub access: Vec<AccessRule>,
    /// What a proxy must understand to serve it besides its rules: one that does not denies everybody (CP10).
    pub must_understand: BTreeSet<Feature>,
}

impl OwnWorkload {
    /// What a proxy must understand to let anybody in.
    #[must_use]
    pub fn needs(&self) -> BTreeSet<Feature> {
        let rules = (!self.access.is_empty()).then_some(Feature::Access);
        self.must_understand.iter().copied().chain(rules).collect()
    }

    /// What this build does not understand of it, for which it denies everybody.
    pub fn not_understood(&self) -> impl Iterator<Item = &str> {
        let rules = self.access.iter();
        rules.filter_map(|rule| rule.unknown_feature.as_deref())
    }

    /// What it does with plaintext that comes to a port of its program.
    #[must_use]
    pub fn mtls_at(&self, port: u16) -> &Mtls {
        let own = self.ports.iter().find(|of| of.port == port);
        own.and_then(|of| of.mtls.as_ref()).unwrap_or(&self.mtls)
    }
}

/// A port a workload serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadPort {
    /// Where the program listens.
    pub port: u16,
    /// What it speaks; `None` is detected.
    pub protocol: Option<AppProtocol>,
    /// The port of the host at which callers from outside the mesh reach it.
    pub published: Option<u16>,
    /// The services it belongs to.
    pub services: Vec<ServicePortRef>,
    /// What it does with plaintext; `None`: as the workload.
    pub mtls: Option<Mtls>,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePortRef {
    /// The service.
    pub service: ServiceName,
    /// The port.
    pub port: u16,
}
