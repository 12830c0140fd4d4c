//! core/v1 `Service`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use leno_types::{AppProtocol, DnsLabel, ports::is_reserved};
use serde_json::Value;

use crate::{
    IpFamily, Meta, Service, ServicePort, TargetPort,
    fields::{Findings, Object, number_of, parse_text, text_of},
    meta::labels,
    schema::service as schema,
};

/// Ports of a service at most.
pub(crate) const MAX_PORTS: usize = 100;

/// Addresses of a service at most: one of each family.
pub(crate) const MAX_FAMILIES: usize = 2;
/// What `ipFamilies` holds.
pub(crate) const FAMILIES: &[&str] = &["IPv4", "IPv6"];
/// What `ipFamilyPolicy` says.
pub(crate) const FAMILY_POLICIES: &[&str] = &["SingleStack", "PreferDualStack", "RequireDualStack"];

/// Reads a Service.
pub(crate) fn read(
    meta: Option<Meta>,
    root: &mut Object<'_>,
    findings: &mut Findings,
) -> Option<Service> {
    let mut spec = root.required_object("spec", findings)?;
    spec.only(&schema::SPEC, findings);
    fixed(
        &mut spec,
        "type",
        "ClusterIP",
        "only ClusterIP is supported: to be reached from outside, publish a port with `leno run`",
        findings,
    );
    fixed(
        &mut spec,
        "sessionAffinity",
        "None",
        "session affinity is not supported yet",
        findings,
    );
    fixed(
        &mut spec,
        "internalTrafficPolicy",
        "Cluster",
        "every endpoint of the mesh may be used: only Cluster is supported",
        findings,
    );
    let selector = labels(&spec, "selector", findings);
    let (cluster_ips, headless) = cluster_ips(&mut spec, findings);
    let families = families(&mut spec, &cluster_ips, findings);
    let ports = ports(&mut spec, findings);
    if ports.is_empty() && !headless && !spec.has("ports") {
        findings.note("spec.ports", "is required unless the service is headless");
    }
    Some(Service {
        meta: meta?,
        selector,
        ports,
        cluster_ips,
        headless,
        families,
    })
}

/// A field of which one value is supported, which is also its default.
fn fixed(spec: &mut Object<'_>, key: &str, only: &str, reason: &str, findings: &mut Findings) {
    spec.default(key, only);
    if spec.text(key, findings).is_some_and(|found| found != only) {
        findings.note(&spec.path(key), reason);
    }
}

/// `clusterIP` and `clusterIPs`, which say the same; whether they say `None`.
fn cluster_ips(spec: &mut Object<'_>, findings: &mut Findings) -> (Vec<IpAddr>, bool) {
    let mut texts: Vec<(String, String)> = Vec::new();
    for (path, value) in spec.list("clusterIPs", MAX_FAMILIES, findings) {
        let text = text_of(value, &path, findings).map(str::to_owned);
        texts.extend(text.map(|text| (path, text)));
    }
    let single = spec
        .text("clusterIP", findings)
        .filter(|text| !text.is_empty());
    match (single, texts.first()) {
        (Some(single), Some((_, first))) if single != first => {
            let reason = "must be the first of clusterIPs";
            findings.note("spec.clusterIP", reason);
        }
        (Some(single), None) => texts.push(("spec.clusterIP".into(), single.to_owned())),
        _ => {}
    }
    if texts.iter().any(|(_, text)| text == "None") {
        if texts.len() > 1 {
            findings.note("spec.clusterIPs", "None stands alone");
        }
        spec.default("clusterIP", "None");
        spec.default("clusterIPs", Value::from(vec!["None"]));
        return (Vec::new(), true);
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (path, text) in &texts {
        let Some(address) = parse_text::<IpAddr>(text, path, findings) else {
            continue;
        };
        if !is_usable(address) {
            findings.note(
                path,
                format!("{address} cannot be the address of a service"),
            );
        } else if addresses
            .iter()
            .any(|other| other.is_ipv4() == address.is_ipv4())
        {
            findings.note(
                path,
                "is the second address of its family: one of each is allowed",
            );
        }
        addresses.push(address);
    }
    if let Some(first) = addresses.first().map(ToString::to_string) {
        spec.default("clusterIP", first.clone());
        spec.default("clusterIPs", Value::from(vec![first]));
    }
    (addresses, false)
}

fn is_usable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !v4.is_unspecified()
                && !v4.is_loopback()
                && !v4.is_multicast()
                && v4 != Ipv4Addr::BROADCAST
        }
        IpAddr::V6(v6) => {
            !v6.is_unspecified()
                && v6 != Ipv6Addr::LOCALHOST
                && !v6.is_multicast()
                && !v6.is_unicast_link_local()
        }
    }
}

/// The families a service is to have an address of. Leno gives one of each unless the document says otherwise.
fn families(spec: &mut Object<'_>, addresses: &[IpAddr], findings: &mut Findings) -> Vec<IpFamily> {
    let mut families = Vec::new();
    for (path, value) in spec.list("ipFamilies", MAX_FAMILIES, findings) {
        let family = match text_of(value, &path, findings) {
            Some("IPv4") => IpFamily::V4,
            Some("IPv6") => IpFamily::V6,
            Some(_) => {
                findings.note(&path, "must be IPv4 or IPv6");
                continue;
            }
            None => continue,
        };
        if families.contains(&family) {
            findings.note(&path, "is there twice");
        } else {
            families.push(family);
        }
    }
    let policy = spec.word("ipFamilyPolicy", FAMILY_POLICIES, findings);
    for address in addresses {
        let family = if address.is_ipv4() {
            IpFamily::V4
        } else {
            IpFamily::V6
        };
        if spec.has("ipFamilies") && !families.contains(&family) {
            let reason = format!("does not hold the family of {address} in clusterIPs");
            findings.note("spec.ipFamilies", reason);
        } else if !families.contains(&family) {
            families.push(family);
        }
    }
    if policy == Some("SingleStack") {
        if families.len() > 1 {
            let reason = "SingleStack, but two families are asked for";
            findings.note("spec.ipFamilyPolicy", reason);
        }
        if families.is_empty() {
            families.push(IpFamily::V4);
        }
        return families;
    }
    if !spec.has("ipFamilies") || policy.is_some() {
        for family in [IpFamily::V4, IpFamily::V6] {
            if !families.contains(&family) {
                families.push(family);
            }
        }
    }
    families
}

fn ports(spec: &mut Object<'_>, findings: &mut Findings) -> Vec<ServicePort> {
    let mut ports: Vec<ServicePort> = Vec::new();
    let mut members = spec.list("ports", MAX_PORTS, findings);
    let several = members.len() > 1;
    for (path, value) in &mut members {
        let Some(port) = port(value, path, several, findings) else {
            continue;
        };
        if ports.iter().any(|other| other.port == port.port) {
            findings.note(
                &format!("{path}.port"),
                format!("{} is there twice", port.port),
            );
        }
        if !port.name.is_empty() && ports.iter().any(|other| other.name == port.name) {
            let reason = format!("\"{}\" is there twice", port.name);
            findings.note(&format!("{path}.name"), reason);
        }
        ports.push(port);
    }
    ports
}

fn port(
    value: &mut Value,
    path: &str,
    several: bool,
    findings: &mut Findings,
) -> Option<ServicePort> {
    let mut object = Object::at(value, path, findings)?;
    object.only(&schema::PORT, findings);
    object.default("protocol", "TCP");
    match object.text("protocol", findings) {
        Some("TCP") | None => {}
        Some(other @ ("UDP" | "SCTP")) => {
            let reason =
                format!("{other} does not pass through the mesh yet: only TCP is supported");
            findings.note(&object.path("protocol"), reason);
        }
        Some(_) => findings.note(&object.path("protocol"), "must be TCP"),
    }
    if several && !object.has("name") {
        let reason = "is required where a service has more than one port";
        findings.note(&object.path("name"), reason);
    }
    let name: Option<DnsLabel> = object.parsed("name", findings);
    let name = name.map(|name| name.to_string()).unwrap_or_default();
    let port = object.required_port("port", findings)?;
    object.default("targetPort", port);
    let target = target(&object, findings)?;
    let declared: Option<AppProtocol> = object.parsed("appProtocol", findings);
    // As in Istio: the name says it up to its first hyphen, where it says anything.
    let prefix = name.split('-').next().unwrap_or_default();
    let protocol = declared.or_else(|| prefix.parse().ok());
    Some(ServicePort {
        name,
        port,
        target,
        protocol,
    })
}

fn target(object: &Object<'_>, findings: &mut Findings) -> Option<TargetPort> {
    let path = object.path("targetPort");
    match object.raw("targetPort")? {
        Value::String(name) => {
            // Kubernetes allows 15 characters (RFC 6335); a number in quotes is a mistake it refuses, too.
            let digits = name.bytes().all(|byte| byte.is_ascii_digit());
            let parsed: DnsLabel = parse_text(name, &path, findings)?;
            if digits {
                findings.note(&path, "is a number in quotes: write it without");
            } else if name.len() > 15 {
                findings.note(&path, "is longer than the 15 characters a port's name has");
            }
            Some(TargetPort::Name(parsed.to_string()))
        }
        value => {
            let number = number_of(value, 1..=65_535, &path, findings)?;
            let number = u16::try_from(number).ok()?;
            if is_reserved(number) {
                findings.note(&path, format!("{number} is a port of the proxy itself"));
            }
            Some(TargetPort::Number(number))
        }
    }
}
