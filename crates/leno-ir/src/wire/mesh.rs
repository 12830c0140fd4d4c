//! The must-have set (CP8): the mesh, and the workloads of this host.

use leno_wire::mesh as wire;

use super::{
    WireError,
    access::{access_to_wire, accesses_from_wire, deny_all, guard},
    all,
    mtls::{mode_from_wire, mode_to_wire, port_from_wire, port_to_wire},
    optional_port, parse, parse_all, port, protocol_from_wire, protocol_to_wire,
    provenance_from_wire, provenance_to_wire, texts,
};
use crate::{Mesh, Mtls, MtlsMode, OwnWorkload, Provenance, ServicePortRef, WorkloadPort};

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
            domains: self.domains.iter().map(ToString::to_string).collect(),
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
            domains: parse_all("domains", &message.domains)?
                .into_iter()
                .collect(),
        })
    }
}

impl OwnWorkload {
    /// The message that says this.
    #[must_use]
    pub fn to_wire(&self) -> wire::OwnWorkload {
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
            mtls: mode_to_wire(self.mtls.mode),
            mtls_provenance: self.mtls.provenance.as_ref().map(provenance_to_wire),
            access: (self.access.iter().map(access_to_wire))
                .chain(guard(&self.must_understand))
                .collect(),
        }
    }

    /// What the message says.
    ///
    /// # Errors
    /// The first field that cannot be used.
    pub fn from_wire(message: &wire::OwnWorkload) -> Result<Self, WireError> {
        let (mut access, must_understand) = accesses_from_wire(&message.access)?;
        let mode = mode_from_wire(message.mtls).unwrap_or_else(|| {
            // The last good one may let in whom this one does not (CP10).
            let feature = format!("mtls mode {}", message.mtls);
            access.push(deny_all(feature, Provenance::default()));
            MtlsMode::Strict
        });
        let mtls = Mtls {
            mode,
            provenance: message.mtls_provenance.as_ref().map(provenance_from_wire),
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
            ports: all(&message.ports, workload_port_from_wire)?,
            mtls,
            access,
            must_understand,
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
        mtls: port.mtls.as_ref().map(port_to_wire),
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
        services: all(&message.services, service)?,
        mtls: message.mtls.as_ref().map(port_from_wire),
    })
}
