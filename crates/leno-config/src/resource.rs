//! Resources, typed: what is left of a document once it is known to be right.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    time::Duration,
};

use leno_types::{AppProtocol, DnsLabel, Identity, ServiceName};

use crate::{HostnameTemplate, Kind};

/// The annotation in which `leno apply` keeps where a document was written: `shop.yaml:12`.
pub const SOURCE_ANNOTATION: &str = "leno.dev/source";
/// The annotation in which it keeps the lines of the document's rules: `spec.rules[0]=14 spec.rules[1]=20`.
pub const SOURCE_MAP_ANNOTATION: &str = "leno.dev/source-map";
/// The annotation in which `leno allow`, `deny` and `mtls` keep the command that wrote a document.
pub const COMMAND_ANNOTATION: &str = "leno.dev/command";
/// The annotations that say where a document's `spec` comes from. They are true of that `spec` and no other.
pub const PROVENANCE: [&str; 3] = [SOURCE_ANNOTATION, SOURCE_MAP_ANNOTATION, COMMAND_ANNOTATION];

/// A resource that people write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A service.
    Service(Service),
    /// A route.
    HttpRoute(HttpRoute),
    /// A policy.
    AccessPolicy(AccessPolicy),
    /// What a port takes.
    AuthenticationPolicy(AuthenticationPolicy),
    /// A generator of names.
    HostnameGenerator(HostnameGenerator),
}

impl Resource {
    /// Its metadata.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        match self {
            Self::Service(service) => &service.meta,
            Self::HttpRoute(route) => &route.meta,
            Self::AccessPolicy(policy) => &policy.meta,
            Self::AuthenticationPolicy(policy) => &policy.meta,
            Self::HostnameGenerator(generator) => &generator.meta,
        }
    }

    /// The service, where it is one.
    #[must_use]
    pub fn as_service(&self) -> Option<&Service> {
        match self {
            Self::Service(service) => Some(service),
            _ => None,
        }
    }

    /// The route, where it is one.
    #[must_use]
    pub fn as_route(&self) -> Option<&HttpRoute> {
        match self {
            Self::HttpRoute(route) => Some(route),
            _ => None,
        }
    }

    /// The policy about callers, where it is one.
    #[must_use]
    pub fn as_access_policy(&self) -> Option<&AccessPolicy> {
        match self {
            Self::AccessPolicy(policy) => Some(policy),
            _ => None,
        }
    }

    /// The policy about plaintext, where it is one.
    #[must_use]
    pub fn as_authentication_policy(&self) -> Option<&AuthenticationPolicy> {
        match self {
            Self::AuthenticationPolicy(policy) => Some(policy),
            _ => None,
        }
    }

    /// The generator of names, where it is one.
    #[must_use]
    pub fn as_generator(&self) -> Option<&HostnameGenerator> {
        match self {
            Self::HostnameGenerator(generator) => Some(generator),
            _ => None,
        }
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::HttpRoute(_) => Kind::HttpRoute,
            Self::AccessPolicy(_) => Kind::AccessPolicy,
            Self::AuthenticationPolicy(_) => Kind::AuthenticationPolicy,
            Self::HostnameGenerator(_) => Kind::HostnameGenerator,
        }
    }
}

/// What every object has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The namespace it lives in.
    pub namespace: DnsLabel,
    /// Its name there.
    pub name: DnsLabel,
    /// The server's id of it; empty before it is stored.
    pub uid: String,
    /// How often its `spec` changed; 0 before it is stored.
    pub generation: u64,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// When it was stored first, RFC 3339 in UTC with whole seconds: such texts sort by time.
    pub creation: Option<String>,
    /// `file:line` of the document, from [`SOURCE_ANNOTATION`].
    pub source: Option<String>,
}

impl Meta {
    /// `file:line` of a field: its own line where [`SOURCE_MAP_ANNOTATION`] knows it or the nearest field around it,
    /// otherwise the document's; empty when the object says nothing.
    #[must_use]
    pub fn source_of(&self, field: &str) -> String {
        let Some(source) = &self.source else {
            return String::new();
        };
        let lines = self.annotations.get(SOURCE_MAP_ANNOTATION);
        let line_of = |wanted: &str| {
            let mut pairs = lines?.split(' ').filter_map(|pair| pair.split_once('='));
            pairs.find(|(at, _)| *at == wanted).map(|(_, line)| line)
        };
        let mut at = field;
        loop {
            let file = source
                .rsplit_once(':')
                .map_or(source.as_str(), |(file, _)| file);
            if let Some(line) = line_of(at).filter(|line| line.parse::<u32>().is_ok()) {
                return format!("{file}:{line}");
            }
            match crate::path::outer(at) {
                Some(outer) => at = outer,
                None => return source.clone(),
            }
        }
    }
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Metadata.
    pub meta: Meta,
    /// Labels its workloads have, all of them. Empty: the workloads registered for it by name.
    pub selector: BTreeMap<String, String>,
    /// Its ports; at least one unless it is headless.
    pub ports: Vec<ServicePort>,
    /// Addresses given to it (`clusterIPs`); the API allocates them when there are none.
    pub cluster_ips: Vec<IpAddr>,
    /// `clusterIP: None`: it has no address of its own and gets none.
    pub headless: bool,
    /// The families of which it is to have an address, in order.
    pub families: Vec<IpFamily>,
}

impl Service {
    /// Its namespace and name.
    #[must_use]
    pub fn name(&self) -> ServiceName {
        ServiceName::new(self.meta.namespace.clone(), self.meta.name.clone())
    }
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IpFamily {
    /// `IPv4`.
    V4,
    /// `IPv6`.
    V6,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty when it has none.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// The port of the workloads behind it.
    pub target: TargetPort,
    /// What it speaks: `appProtocol`, otherwise what its name begins with (`http-web`), otherwise detected.
    pub protocol: Option<AppProtocol>,
}

/// A port of workloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By the name the workload's port has.
    Name(String),
}

/// Rules for the requests of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRoute {
    /// Metadata.
    pub meta: Meta,
    /// The services it is for.
    pub parents: Vec<ParentRef>,
    /// Its rules, in order.
    pub rules: Vec<RouteRule>,
}

/// A service that a route is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParentRef {
    /// The service.
    pub service: ServiceName,
    /// The one port of it; all when `None`.
    pub port: Option<u16>,
}

/// One rule of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRule {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Any of them; at least one after defaults.
    pub matches: Vec<RouteMatch>,
    /// Where requests go, by weight. None: to the parent itself.
    pub backends: Vec<BackendRef>,
    /// `timeouts.request`; zero means none, as the Gateway API says.
    pub request_timeout: Option<Duration>,
    /// `timeouts.backendRequest`.
    pub backend_request_timeout: Option<Duration>,
}

/// What a request must look like; every part that is given must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteMatch {
    /// The path.
    pub path: PathMatch,
    /// The method, in upper case.
    pub method: Option<String>,
    /// Header fields: name in lower case, value.
    pub headers: Vec<(String, String)>,
    /// Query parameters: name, value.
    pub query: Vec<(String, String)>,
}

/// A match on the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// Equal.
    Exact(String),
    /// Equal or longer by whole segments; `/` matches all. Without trailing slash otherwise.
    Prefix(String),
}

/// Where a rule sends requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendRef {
    /// The service.
    pub service: ServiceName,
    /// Its port.
    pub port: u16,
    /// Its share of the sum of weights.
    pub weight: u32,
}

/// Who may call a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessPolicy {
    /// Metadata.
    pub meta: Meta,
    /// What it protects; at least one.
    pub targets: Vec<AccessTarget>,
    /// What its rules do.
    pub action: AccessAction,
    /// Its rules. None, with [`AccessAction::Allow`], allows nobody.
    pub rules: Vec<AccessRule>,
}

/// What a policy protects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AccessTarget {
    /// The workloads of a service.
    Service(ServiceName),
    /// The workloads of a namespace.
    Namespace(DnsLabel),
    /// Every workload.
    Mesh,
}

/// What the rules of a policy do. Deny beats allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessAction {
    /// What matches may call; once a workload has an allow policy, nobody else may.
    Allow,
    /// What matches may not.
    Deny,
}

impl AccessAction {
    /// What documents say.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "Allow",
            Self::Deny => "Deny",
        }
    }
}

/// One rule: it matches a call that one of `from` (anybody when there is none) makes to one of `ports` (any when
/// there is none).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRule {
    /// Callers.
    pub from: Vec<AccessSource>,
    /// Ports at which the program listens, from every entry of `to`.
    pub ports: Vec<u16>,
}

/// A set of callers: those in one of `principals` (if any) who are also in one of `namespaces` (if any). One of the
/// two has a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessSource {
    /// Identities, from `principals` or `serviceAccounts`.
    pub principals: Vec<Principal>,
    /// Namespaces of identities.
    pub namespaces: Vec<DnsLabel>,
}

/// A set of identities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// `*`: everyone who proved an identity.
    AnyAuthenticated,
    /// One identity.
    Exact(Identity),
    /// Identities whose URI begins so (`spiffe://shop.leno/ns/web/*`).
    Prefix(String),
    /// A service account of the policy's own mesh, whatever its trust domain is called.
    ServiceAccount {
        /// Its namespace.
        namespace: DnsLabel,
        /// Its name.
        name: DnsLabel,
    },
}

/// Which ports of workloads take mutual TLS alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthenticationPolicy {
    /// Metadata.
    pub meta: Meta,
    /// What it is for; at least one.
    pub targets: Vec<AuthenticationTarget>,
    /// For every port that has no mode of its own. `None`, only where [`Self::ports`] has some: as the wider scope says.
    pub mode: Option<MtlsMode>,
    /// By port at which the program listens; only where every target means workloads.
    pub ports: BTreeMap<u16, MtlsMode>,
}

/// What an [`AuthenticationPolicy`] is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuthenticationTarget {
    /// The workloads of a service.
    Service(ServiceName),
    /// The workloads of a namespace that have all of these labels, of which there is one at least.
    Labels(DnsLabel, BTreeMap<String, String>),
    /// The workloads of a namespace.
    Namespace(DnsLabel),
    /// Every workload.
    Mesh,
}

impl AuthenticationTarget {
    /// Whether it means a namespace or the mesh.
    #[must_use]
    pub const fn is_wide(&self) -> bool {
        match self {
            Self::Service(_) | Self::Labels(..) => false,
            Self::Namespace(_) | Self::Mesh => true,
        }
    }
}

impl fmt::Display for AuthenticationTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => write!(f, "service {name}"),
            Self::Labels(namespace, labels) => {
                let labels: Vec<String> = labels
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                write!(f, "{} in namespace {namespace}", labels.join(","))
            }
            Self::Namespace(name) => write!(f, "namespace {name}"),
            Self::Mesh => f.write_str("the mesh"),
        }
    }
}

/// What a port does with plaintext. Mutual TLS it takes in either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MtlsMode {
    /// Refuse it.
    Strict,
    /// Let it in where the port is published.
    Permissive,
}

impl MtlsMode {
    /// What documents say.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "STRICT",
            Self::Permissive => "PERMISSIVE",
        }
    }
}

/// Further names for services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostnameGenerator {
    /// Metadata.
    pub meta: Meta,
    /// Which services get one.
    pub services: ServiceSelector,
    /// What the names are like.
    pub template: HostnameTemplate,
}

/// Services of a mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSelector {
    /// Labels they have, all of them.
    pub labels: BTreeMap<String, String>,
    /// Namespaces they live in; empty for every one.
    pub namespaces: BTreeSet<DnsLabel>,
}

impl ServiceSelector {
    /// Whether it means a service of this namespace with these labels.
    #[must_use]
    pub fn selects(&self, namespace: &DnsLabel, labels: &BTreeMap<String, String>) -> bool {
        (self.namespaces.is_empty() || self.namespaces.contains(namespace))
            && self
                .labels
                .iter()
                .all(|(name, value)| labels.get(name) == Some(value))
    }
}
