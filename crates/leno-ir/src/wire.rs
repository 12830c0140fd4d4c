//! To and from the wire. Reading refuses what cannot be honoured; writing cannot fail.

use std::{fmt::Display, net::IpAddr, str::FromStr, time::Duration};

use leno_types::{AppProtocol, ServiceName};
use leno_wire::mesh as wire;

use crate::{
    AccessAction, AccessRule, Backend, Destination, Endpoint, EndpointPort, Endpoints, FEATURES,
    HeaderMatch, Health, Host, Mesh, MtlsMode, OwnWorkload, PathMatch, Principal, Provenance,
    Route, RouteMatch, Service, ServicePort, ServicePortRef, ValueMatch, WorkloadPort,
};

/// Why a resource from the control plane cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field whose text or number is not what the field means.
    #[error("{field}: {reason}")]
    Field {
        /// The field, as named in the protobuf file.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A field that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A choice this build does not know.
    #[error("{0} holds a value that this proxy does not know: it is older than its control plane")]
    Unknown(&'static str),
}

fn parse<T>(field: &'static str, text: &str) -> Result<T, WireError>
where
    T: FromStr<Err: Display>,
{
    text.parse().map_err(|error: T::Err| WireError::Field {
        field,
        reason: error.to_string(),
    })
}

fn parse_all<T>(field: &'static str, texts: &[String]) -> Result<Vec<T>, WireError>
where
    T: FromStr<Err: Display>,
{
    texts.iter().map(|text| parse(field, text)).collect()
}

fn port(field: &'static str, number: u32) -> Result<u16, WireError> {
    u16::try_from(number).map_err(|_| WireError::Field {
        field,
        reason: format!("{number} is no port"),
    })
}

fn optional_port(field: &'static str, number: u32) -> Result<Option<u16>, WireError> {
    Ok(Some(port(field, number)?).filter(|port| *port != 0))
}

fn protocol_to_wire(protocol: Option<AppProtocol>) -> i32 {
    let protocol = match protocol {
        None => wire::AppProtocol::Detect,
        Some(AppProtocol::Http) => wire::AppProtocol::Http,
        Some(AppProtocol::Http2) => wire::AppProtocol::Http2,
        Some(AppProtocol::Grpc) => wire::AppProtocol::Grpc,
        Some(AppProtocol::Tls) => wire::AppProtocol::Tls,
        Some(AppProtocol::Tcp) => wire::AppProtocol::Tcp,
    };
    protocol.into()
}

fn protocol_from_wire(number: i32) -> Result<Option<AppProtocol>, WireError> {
    Ok(
        match wire::AppProtocol::try_from(number).map_err(|_| WireError::Unknown("protocol"))? {
            wire::AppProtocol::Detect => None,
            wire::AppProtocol::Http => Some(AppProtocol::Http),
            wire::AppProtocol::Http2 => Some(AppProtocol::Http2),
            wire::AppProtocol::Grpc => Some(AppProtocol::Grpc),
            wire::AppProtocol::Tls => Some(AppProtocol::Tls),
            wire::AppProtocol::Tcp => Some(AppProtocol::Tcp),
        },
    )
}

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

impl Mesh {
    /// The message that says this.
    #[must_use]
    pub fn to_wire(&self) -> wire::Mesh {
        wire::Mesh {
            name: self.name.to_string(),
            trust_domain: self.trust_domain.to_string(),
            trust_bundle: self.trust_bundle.clone(),
            prefixes: texts(&self.prefixes),
            addresses: texts(&self.addresses),
            vip_prefix_v4: self.vip_v4.to_string(),
            vip_prefix_v6: self.vip_v6.to_string(),
            namespaces: self.namespaces.iter().map(ToString::to_string).collect(),
        }
    }

    /// What the message says.
    ///
    /// # Errors
    /// The first field that cannot be used.
    pub fn from_wire(message: &wire::Mesh) -> Result<Self, WireError> {
        Ok(Self {
            name: parse("name", &message.name)?,
            trust_domain: parse("trust_domain", &message.trust_domain)?,
            trust_bundle: message.trust_bundle.clone(),
            prefixes: parse_all("prefixes", &message.prefixes)?,
            addresses: parse_all("addresses", &message.addresses)?,
            vip_v4: parse("vip_prefix_v4", &message.vip_prefix_v4)?,
            vip_v6: parse("vip_prefix_v6", &message.vip_prefix_v6)?,
            namespaces: parse_all("namespaces", &message.namespaces)?
                .into_iter()
                .collect(),
        })
    }
}

impl OwnWorkload {
    /// The message that says this.
    #[must_use]
    pub fn to_wire(&self) -> wire::OwnWorkload {
        let mtls = match self.mtls {
            MtlsMode::Permissive => wire::MtlsMode::Permissive,
            MtlsMode::Strict => wire::MtlsMode::Strict,
            MtlsMode::Disable => wire::MtlsMode::Disable,
        };
        wire::OwnWorkload {
            uid: self.uid.to_string(),
            namespace: self.namespace.to_string(),
            name: self.name.clone(),
            identity: self.identity.to_string(),
            version: self.version.clone(),
            service: self
                .service
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            addresses: texts(&self.addresses),
            ports: self.ports.iter().map(workload_port_to_wire).collect(),
            mtls: mtls.into(),
            access: self.access.iter().map(access_to_wire).collect(),
        }
    }

    /// What the message says.
    ///
    /// # Errors
    /// The first field that cannot be used.
    pub fn from_wire(message: &wire::OwnWorkload) -> Result<Self, WireError> {
        let mtls =
            match wire::MtlsMode::try_from(message.mtls).map_err(|_| WireError::Unknown("mtls"))? {
                wire::MtlsMode::Permissive => MtlsMode::Permissive,
                wire::MtlsMode::Strict => MtlsMode::Strict,
                wire::MtlsMode::Disable => MtlsMode::Disable,
            };
        let service = Some(message.service.as_str()).filter(|name| !name.is_empty());
        Ok(Self {
            uid: parse("uid", &message.uid)?,
            namespace: parse("namespace", &message.namespace)?,
            name: message.name.clone(),
            identity: parse("identity", &message.identity)?,
            version: message.version.clone(),
            service: service.map(|name| parse("service", name)).transpose()?,
            addresses: parse_all("addresses", &message.addresses)?,
            ports: message
                .ports
                .iter()
                .map(workload_port_from_wire)
                .collect::<Result<_, _>>()?,
            mtls,
            access: message
                .access
                .iter()
                .map(access_from_wire)
                .collect::<Result<_, _>>()?,
        })
    }
}

fn workload_port_to_wire(port: &WorkloadPort) -> wire::WorkloadPort {
    let service = |of: &ServicePortRef| wire::ServicePortRef {
        service: of.service.to_string(),
        port: of.port.into(),
    };
    wire::WorkloadPort {
        port: port.port.into(),
        protocol: protocol_to_wire(port.protocol),
        published: port.published.unwrap_or(0).into(),
        services: port.services.iter().map(service).collect(),
    }
}

fn workload_port_from_wire(message: &wire::WorkloadPort) -> Result<WorkloadPort, WireError> {
    let service = |of: &wire::ServicePortRef| {
        Ok(ServicePortRef {
            service: parse("service", &of.service)?,
            port: port("port", of.port)?,
        })
    };
    Ok(WorkloadPort {
        port: port("port", message.port)?,
        protocol: protocol_from_wire(message.protocol)?,
        published: optional_port("published", message.published)?,
        services: message
            .services
            .iter()
            .map(service)
            .collect::<Result<_, WireError>>()?,
    })
}

fn access_to_wire(rule: &AccessRule) -> wire::AccessRule {
    let principal = |principal: &Principal| match principal {
        Principal::AnyAuthenticated => "*".to_owned(),
        Principal::Exact(identity) => identity.to_string(),
        Principal::Prefix(prefix) => format!("{prefix}*"),
    };
    let action = match rule.action {
        AccessAction::Allow => wire::AccessAction::Allow,
        AccessAction::Deny => wire::AccessAction::Deny,
    };
    wire::AccessRule {
        action: action.into(),
        principals: rule.principals.iter().map(principal).collect(),
        namespaces: rule.namespaces.clone(),
        ports: rule.ports.iter().map(|port| u32::from(*port)).collect(),
        must_understand: rule.unknown_feature.iter().cloned().collect(),
        provenance: Some(provenance_to_wire(&rule.provenance)),
    }
}

fn access_from_wire(message: &wire::AccessRule) -> Result<AccessRule, WireError> {
    let principal = |text: &String| match text.strip_suffix('*') {
        Some("") => Ok(Principal::AnyAuthenticated),
        Some(prefix) => Ok(Principal::Prefix(prefix.into())),
        None => parse("principals", text).map(Principal::Exact),
    };
    // An action or a feature from a later version must not widen access: the rule then denies (CP10).
    let known = wire::AccessAction::try_from(message.action).ok();
    let feature = message
        .must_understand
        .iter()
        .find(|feature| !FEATURES.contains(&feature.as_str()))
        .cloned();
    let unknown_feature = feature.or_else(|| {
        known
            .is_none()
            .then(|| format!("access action {}", message.action))
    });
    Ok(AccessRule {
        action: match known {
            Some(wire::AccessAction::Allow) => AccessAction::Allow,
            Some(wire::AccessAction::Deny) | None => AccessAction::Deny,
        },
        principals: message
            .principals
            .iter()
            .map(principal)
            .collect::<Result<_, _>>()?,
        namespaces: message.namespaces.clone(),
        ports: message
            .ports
            .iter()
            .map(|number| port("ports", *number))
            .collect::<Result<_, _>>()?,
        provenance: message
            .provenance
            .as_ref()
            .map(provenance_from_wire)
            .unwrap_or_default(),
        unknown_feature,
    })
}

fn provenance_to_wire(provenance: &Provenance) -> wire::Provenance {
    let Provenance {
        kind,
        namespace,
        name,
        uid,
        generation,
        field_path,
        source,
    } = provenance.clone();
    wire::Provenance {
        kind,
        namespace,
        name,
        uid,
        generation,
        field_path,
        source,
    }
}

fn provenance_from_wire(message: &wire::Provenance) -> Provenance {
    let wire::Provenance {
        kind,
        namespace,
        name,
        uid,
        generation,
        field_path,
        source,
    } = message.clone();
    Provenance {
        kind,
        namespace,
        name,
        uid,
        generation,
        field_path,
        source,
    }
}

impl Destination {
    /// The message that says this.
    #[must_use]
    pub fn to_wire(&self) -> wire::Destination {
        let kind = match self {
            Self::Service(service) => wire::destination::Kind::Service(service_to_wire(service)),
            Self::Host(host) => wire::destination::Kind::Host(wire::Host {
                address: host.address.to_string(),
                endpoints: host.endpoints.iter().map(endpoint_to_wire).collect(),
            }),
        };
        wire::Destination { kind: Some(kind) }
    }

    /// What the message says.
    ///
    /// # Errors
    /// The first field that cannot be used.
    pub fn from_wire(message: &wire::Destination) -> Result<Self, WireError> {
        match message
            .kind
            .as_ref()
            .ok_or(WireError::Unknown("destination"))?
        {
            wire::destination::Kind::Service(service) => {
                service_from_wire(service).map(Self::Service)
            }
            wire::destination::Kind::Host(host) => Ok(Self::Host(Host {
                address: parse("address", &host.address)?,
                endpoints: host
                    .endpoints
                    .iter()
                    .map(endpoint_from_wire)
                    .collect::<Result<_, _>>()?,
            })),
        }
    }
}

impl Endpoints {
    /// The message that says this.
    #[must_use]
    pub fn to_wire(&self) -> wire::Endpoints {
        wire::Endpoints {
            service: self.service.to_string(),
            endpoints: self.endpoints.iter().map(endpoint_to_wire).collect(),
        }
    }

    /// What the message says.
    ///
    /// # Errors
    /// The first field that cannot be used.
    pub fn from_wire(message: &wire::Endpoints) -> Result<Self, WireError> {
        Ok(Self {
            service: parse("service", &message.service)?,
            endpoints: message
                .endpoints
                .iter()
                .map(endpoint_from_wire)
                .collect::<Result<_, _>>()?,
        })
    }
}

fn service_to_wire(service: &Service) -> wire::Service {
    let port = |port: &ServicePort| wire::ServicePort {
        port: port.port.into(),
        protocol: protocol_to_wire(port.protocol),
        name: port.name.clone(),
    };
    wire::Service {
        name: service.name.to_string(),
        vips: texts(&service.vips),
        ports: service.ports.iter().map(port).collect(),
        routes: service.routes.iter().map(route_to_wire).collect(),
    }
}

fn service_from_wire(message: &wire::Service) -> Result<Service, WireError> {
    let service_port = |of: &wire::ServicePort| {
        Ok(ServicePort {
            port: port("port", of.port)?,
            protocol: protocol_from_wire(of.protocol)?,
            name: of.name.clone(),
        })
    };
    Ok(Service {
        name: parse("name", &message.name)?,
        vips: parse_all("vips", &message.vips)?,
        ports: message
            .ports
            .iter()
            .map(service_port)
            .collect::<Result<_, WireError>>()?,
        routes: message
            .routes
            .iter()
            .map(route_from_wire)
            .collect::<Result<_, _>>()?,
    })
}

fn route_to_wire(route: &Route) -> wire::Route {
    let millis = |timeout: Option<Duration>| {
        timeout.map_or(0, |timeout| {
            u64::try_from(timeout.as_millis())
                .unwrap_or(u64::MAX)
                .max(1)
        })
    };
    let backend = |backend: &Backend| wire::Backend {
        service: backend.service.to_string(),
        port: backend.port.into(),
        weight: backend.weight,
        invalid: backend.invalid.clone().unwrap_or_default(),
        field_path: backend.field_path.clone(),
    };
    wire::Route {
        provenance: Some(provenance_to_wire(&route.provenance)),
        matches: route.matches.iter().map(match_to_wire).collect(),
        backends: route.backends.iter().map(backend).collect(),
        request_timeout_ms: millis(route.request_timeout),
        backend_request_timeout_ms: millis(route.backend_request_timeout),
        ports: route.ports.iter().map(|port| u32::from(*port)).collect(),
    }
}

fn route_from_wire(message: &wire::Route) -> Result<Route, WireError> {
    let timeout =
        |millis: u64| Some(Duration::from_millis(millis)).filter(|timeout| !timeout.is_zero());
    let backend = |of: &wire::Backend| {
        Ok(Backend {
            service: parse::<ServiceName>("backends.service", &of.service)?,
            port: port("backends.port", of.port)?,
            weight: of.weight,
            invalid: Some(of.invalid.clone()).filter(|reason| !reason.is_empty()),
            field_path: of.field_path.clone(),
        })
    };
    Ok(Route {
        provenance: message
            .provenance
            .as_ref()
            .map(provenance_from_wire)
            .unwrap_or_default(),
        matches: message
            .matches
            .iter()
            .map(match_from_wire)
            .collect::<Result<_, _>>()?,
        backends: message
            .backends
            .iter()
            .map(backend)
            .collect::<Result<_, WireError>>()?,
        request_timeout: timeout(message.request_timeout_ms),
        backend_request_timeout: timeout(message.backend_request_timeout_ms),
        ports: message
            .ports
            .iter()
            .map(|number| port("ports", *number))
            .collect::<Result<_, _>>()?,
    })
}

fn match_to_wire(of: &RouteMatch) -> wire::RouteMatch {
    let field = |of: &HeaderMatch| {
        let ValueMatch::Exact(value) = &of.value;
        wire::HeaderMatch {
            name: of.name.clone(),
            value: Some(wire::header_match::Value::Exact(value.clone())),
        }
    };
    wire::RouteMatch {
        path: of.path.as_ref().map(|path| match path {
            PathMatch::Exact(path) => wire::route_match::Path::PathExact(path.clone()),
            PathMatch::Prefix(path) => wire::route_match::Path::PathPrefix(path.clone()),
        }),
        method: of.method.clone().unwrap_or_default(),
        headers: of.headers.iter().map(field).collect(),
        query: of.query.iter().map(field).collect(),
    }
}

fn match_from_wire(message: &wire::RouteMatch) -> Result<RouteMatch, WireError> {
    let field = |of: &wire::HeaderMatch| match &of.value {
        Some(wire::header_match::Value::Exact(value)) => Ok(HeaderMatch {
            name: of.name.clone(),
            value: ValueMatch::Exact(value.clone()),
        }),
        Some(wire::header_match::Value::Regex(_)) | None => {
            Err(WireError::Unknown("matches.headers.value"))
        }
    };
    Ok(RouteMatch {
        path: match &message.path {
            None => None,
            Some(wire::route_match::Path::PathExact(path)) => Some(PathMatch::Exact(path.clone())),
            Some(wire::route_match::Path::PathPrefix(path)) => {
                Some(PathMatch::Prefix(path.clone()))
            }
            Some(wire::route_match::Path::PathRegex(_)) => {
                return Err(WireError::Unknown("matches.path"));
            }
        },
        method: Some(message.method.clone()).filter(|method| !method.is_empty()),
        headers: message
            .headers
            .iter()
            .map(field)
            .collect::<Result<_, _>>()?,
        query: message.query.iter().map(field).collect::<Result<_, _>>()?,
    })
}

fn endpoint_to_wire(endpoint: &Endpoint) -> wire::Endpoint {
    let health = match endpoint.health {
        Health::Healthy => wire::Health::Healthy,
        Health::Unhealthy => wire::Health::Unhealthy,
        Health::Unknown => wire::Health::Unknown,
    };
    let port = |port: &EndpointPort| wire::EndpointPort {
        service_port: port.service_port.into(),
        workload_port: port.workload_port.into(),
        protocol: protocol_to_wire(port.protocol),
        published: port.published.unwrap_or(0).into(),
    };
    wire::Endpoint {
        uid: endpoint.uid.to_string(),
        name: endpoint.name.clone(),
        namespace: endpoint.namespace.clone(),
        identity: endpoint.identity.to_string(),
        version: endpoint.version.clone(),
        addresses: texts(&endpoint.addresses),
        ports: endpoint.ports.iter().map(port).collect(),
        health: health.into(),
        hbone_port: endpoint.hbone_port.into(),
        service: endpoint.service.clone(),
    }
}

fn endpoint_from_wire(message: &wire::Endpoint) -> Result<Endpoint, WireError> {
    let endpoint_port = |of: &wire::EndpointPort| {
        Ok(EndpointPort {
            service_port: port("service_port", of.service_port)?,
            workload_port: port("workload_port", of.workload_port)?,
            protocol: protocol_from_wire(of.protocol)?,
            published: optional_port("published", of.published)?,
        })
    };
    let addresses: Vec<IpAddr> = parse_all("addresses", &message.addresses)?;
    if addresses.is_empty() {
        return Err(WireError::Missing("addresses"));
    }
    Ok(Endpoint {
        uid: parse("uid", &message.uid)?,
        name: message.name.clone(),
        namespace: message.namespace.clone(),
        identity: parse("identity", &message.identity)?,
        version: message.version.clone(),
        service: message.service.clone(),
        addresses,
        hbone_port: port("hbone_port", message.hbone_port)?,
        ports: message
            .ports
            .iter()
            .map(endpoint_port)
            .collect::<Result<_, WireError>>()?,
        // A health that only a later version knows is not a reason to drop the endpoint.
        health: match wire::Health::try_from(message.health) {
            Ok(wire::Health::Healthy) => Health::Healthy,
            Ok(wire::Health::Unhealthy) => Health::Unhealthy,
            Ok(wire::Health::Unknown) | Err(_) => Health::Unknown,
        },
    })
}
