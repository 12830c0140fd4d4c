//! gateway.networking.k8s.io/v1 `HTTPRoute`, attached to Services (GAMMA), within the limits of the Gateway API.

use std::time::Duration;

use leno_types::{DnsLabel, ServiceName, parse_duration, parse_service_host};
use serde_json::{Value, json};

use crate::{
    BackendRef, HttpRoute, Meta, ParentRef, PathMatch, RouteMatch, RouteRule,
    fields::{Findings, Object, text_of},
    schema::httproute as schema,
};

// The Gateway API's own limits.

/// `parentRefs` of an HTTPRoute.
pub(crate) const MAX_PARENTS: usize = 32;
/// `hostnames` of an HTTPRoute.
pub(crate) const MAX_HOSTNAMES: usize = 16;
/// `rules` of an HTTPRoute.
pub(crate) const MAX_RULES: usize = 16;
/// `matches` of one rule.
pub(crate) const MAX_MATCHES: usize = 64;
/// `matches` of all rules of an HTTPRoute together.
const MAX_MATCHES_OF_ROUTE: usize = 128;
/// `headers` of one match; as many `queryParams`.
pub(crate) const MAX_FIELDS: usize = 16;
/// `backendRefs` of one rule.
pub(crate) const MAX_BACKENDS: usize = 16;
/// `weight` of one backend.
pub(crate) const MAX_WEIGHT: u64 = 1_000_000;

/// What `method` says.
pub(crate) const METHODS: &[&str] = &[
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];

/// How a path is compared.
pub(crate) const PATH_TYPES: &[&str] = &["Exact", "PathPrefix"];
/// How a header field or a query parameter is compared.
pub(crate) const FIELD_TYPES: &[&str] = &["Exact"];

/// Reads an HTTPRoute.
pub(crate) fn read(
    meta: Option<Meta>,
    root: &mut Object<'_>,
    findings: &mut Findings,
) -> Option<HttpRoute> {
    let mut spec = root.required_object("spec", findings)?;
    spec.only(&schema::SPEC, findings);
    // Without a usable namespace there is already a finding; the rest is still worth checking.
    let namespace = match &meta {
        Some(meta) => meta.namespace.clone(),
        None => "default".parse().ok()?,
    };
    let parents = parents(&mut spec, &namespace, findings);
    hostnames(&mut spec, &namespace, &parents, findings);
    spec.default("rules", json!([{}]));
    let mut rules: Vec<RouteRule> = Vec::new();
    for (path, value) in spec.list("rules", MAX_RULES, findings) {
        let Some(rule) = rule(value, &path, &namespace, findings) else {
            continue;
        };
        if rule.name.is_some() && rules.iter().any(|other| other.name == rule.name) {
            findings.note(&format!("{path}.name"), "is the name of an earlier rule");
        }
        rules.push(rule);
    }
    let matches: usize = rules.iter().map(|rule| rule.matches.len()).sum();
    if matches > MAX_MATCHES_OF_ROUTE {
        let reason =
            format!("have {matches} matches together, at most {MAX_MATCHES_OF_ROUTE} are allowed");
        findings.note("spec.rules", reason);
    }
    Some(HttpRoute {
        meta: meta?,
        parents,
        rules,
    })
}

fn parents(spec: &mut Object<'_>, namespace: &DnsLabel, findings: &mut Findings) -> Vec<ParentRef> {
    let mut parents: Vec<ParentRef> = Vec::new();
    let missing = !spec.has("parentRefs");
    let members = spec.list("parentRefs", MAX_PARENTS, findings);
    if missing || members.is_empty() {
        findings.note("spec.parentRefs", "must name at least one Service");
    }
    for (path, value) in members {
        let Some(parent) = parent(value, &path, namespace, findings) else {
            continue;
        };
        if parents.contains(&parent) {
            findings.note(&path, "is there twice");
        } else {
            parents.push(parent);
        }
    }
    parents
}

fn parent(
    value: &mut Value,
    path: &str,
    own: &DnsLabel,
    findings: &mut Findings,
) -> Option<ParentRef> {
    let mut parent = Object::at(value, path, findings)?;
    parent.only(&schema::PARENT, findings);
    parent.default("group", "gateway.networking.k8s.io");
    parent.default("kind", "Gateway");
    let kind = parent.text("kind", findings)?.to_owned();
    let group = parent.text("group", findings)?.to_owned();
    if kind != "Service" {
        let reason = "must be Service (with group: \"\"): routes of gateways are not supported yet";
        findings.note(&parent.path("kind"), reason);
    } else if !matches!(group.as_str(), "" | "core") {
        let reason =
            "must be \"\" for a Service; the Gateway API means its own group where none is written";
        findings.note(&parent.path("group"), reason);
    }
    let name: Option<DnsLabel> = parent.required_parsed("name", findings);
    let namespace: Option<DnsLabel> = match parent.has("namespace") {
        true => parent.parsed("namespace", findings),
        false => Some(own.clone()),
    };
    if namespace.as_ref().is_some_and(|namespace| namespace != own) {
        let reason = "a route acts on services of its own namespace; routes for the callers of one namespace only are \
                      not supported yet";
        findings.note(&parent.path("namespace"), reason);
    }
    let port = parent.port("port", findings);
    Some(ParentRef {
        service: ServiceName::new(namespace?, name?),
        port,
    })
}

/// Requests reach a Service's routes by its address, so another host name in them could not be honoured.
fn hostnames(
    spec: &mut Object<'_>,
    namespace: &DnsLabel,
    parents: &[ParentRef],
    findings: &mut Findings,
) {
    for (path, value) in spec.list("hostnames", MAX_HOSTNAMES, findings) {
        let Some(host) = text_of(value, &path, findings) else {
            continue;
        };
        let service = parse_service_host(host, namespace);
        let same = |parent: &ParentRef| Some(&parent.service) == service.as_ref();
        if parents.is_empty() || !parents.iter().all(same) {
            let reason = "a route of a Service gets every request to it, whatever its host name: leave hostnames out, \
                          or match on a header";
            findings.note(&path, reason);
        }
    }
}

fn rule(
    value: &mut Value,
    path: &str,
    namespace: &DnsLabel,
    findings: &mut Findings,
) -> Option<RouteRule> {
    let mut rule = Object::at(value, path, findings)?;
    rule.only(&schema::RULE, findings);
    let name = rule.text("name", findings).map(str::to_owned);
    if let Some(name) = &name
        && !(name.len() <= 253
            && name
                .split('.')
                .all(|label| label.parse::<DnsLabel>().is_ok()))
    {
        findings.note(
            &rule.path("name"),
            "is no name: write lower-case letters, digits, '-' and '.'",
        );
    }
    rule.default("matches", json!([{}]));
    let mut matches = Vec::new();
    let members = rule.list("matches", MAX_MATCHES, findings);
    if members.is_empty() {
        // An empty list is a list that matches everything, as an absent one.
        matches.push(everything());
    }
    for (path, value) in members {
        matches.extend(route_match(value, &path, findings));
    }
    let mut backends = Vec::new();
    for (path, value) in rule.list("backendRefs", MAX_BACKENDS, findings) {
        backends.extend(backend(value, &path, namespace, findings));
    }
    let (request_timeout, backend_request_timeout) = timeouts(&mut rule, findings);
    Some(RouteRule {
        name,
        matches,
        backends,
        request_timeout,
        backend_request_timeout,
    })
}

fn everything() -> RouteMatch {
    RouteMatch {
        path: PathMatch::Prefix("/".into()),
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
    }
}

fn timeouts(
    rule: &mut Object<'_>,
    findings: &mut Findings,
) -> (Option<Duration>, Option<Duration>) {
    let Some(timeouts) = rule.object("timeouts", findings) else {
        return (None, None);
    };
    timeouts.only(&schema::TIMEOUTS, findings);
    let mut read = |key: &str| {
        let text = timeouts.text(key, findings)?;
        match parse_duration(text) {
            Ok(duration) => Some(duration).filter(|duration| !duration.is_zero()),
            Err(error) => {
                let reason: String = error.to_string().chars().take(160).collect();
                findings.note(&timeouts.path(key), reason);
                None
            }
        }
    };
    let (request, backend) = (read("request"), read("backendRequest"));
    if let (Some(whole), Some(try_)) = (request, backend)
        && try_ > whole
    {
        let reason = "must not be longer than timeouts.request, which contains it";
        findings.note(&timeouts.path("backendRequest"), reason);
    }
    (request, backend)
}

fn backend(
    value: &mut Value,
    path: &str,
    own: &DnsLabel,
    findings: &mut Findings,
) -> Option<BackendRef> {
    let mut backend = Object::at(value, path, findings)?;
    backend.only(&schema::BACKEND, findings);
    backend.default("group", "");
    backend.default("kind", "Service");
    backend.default("weight", 1);
    if backend
        .text("group", findings)
        .is_some_and(|group| !matches!(group, "" | "core"))
        || backend
            .text("kind", findings)
            .is_some_and(|kind| kind != "Service")
    {
        findings.note(&backend.path("kind"), "must be Service, of group \"\"");
    }
    let weight = backend
        .number("weight", 0..=MAX_WEIGHT, findings)
        .and_then(|weight| u32::try_from(weight).ok());
    let name: Option<DnsLabel> = backend.required_parsed("name", findings);
    let port = backend.required_port("port", findings);
    let namespace: Option<DnsLabel> = match backend.has("namespace") {
        true => backend.parsed("namespace", findings),
        false => Some(own.clone()),
    };
    Some(BackendRef {
        service: ServiceName::new(namespace?, name?),
        port: port?,
        weight: weight?,
    })
}

fn route_match(value: &mut Value, path: &str, findings: &mut Findings) -> Option<RouteMatch> {
    let mut of = Object::at(value, path, findings)?;
    of.only(&schema::MATCH, findings);
    of.default("path", json!({}));
    let path = of
        .object("path", findings)
        .and_then(|path| path_match(path, findings));
    let method = of.word("method", METHODS, findings).map(str::to_owned);
    let headers = named(&mut of, "headers", 4096, findings);
    let query = named(&mut of, "queryParams", 1024, findings);
    Some(RouteMatch {
        path: path?,
        method,
        headers,
        query,
    })
}

fn path_match(mut path: Object<'_>, findings: &mut Findings) -> Option<PathMatch> {
    path.only(&schema::PATH, findings);
    path.default("type", "PathPrefix");
    path.default("value", "/");
    let kind = kind_of(&path, PATH_TYPES, findings)?;
    let value = path.text("value", findings)?;
    if let Some(reason) = wrong_path(value) {
        findings.note(&path.path("value"), reason);
        return None;
    }
    Some(match kind {
        "Exact" => PathMatch::Exact(value.to_owned()),
        _ => {
            let bare = value.strip_suffix('/').unwrap_or(value);
            PathMatch::Prefix(if bare.is_empty() { "/" } else { bare }.to_owned())
        }
    })
}

/// The `type` of a match. `RegularExpression` is real, but not here yet.
fn kind_of(
    of: &Object<'_>,
    words: &[&'static str],
    findings: &mut Findings,
) -> Option<&'static str> {
    if of.raw("type").and_then(Value::as_str) == Some("RegularExpression") {
        let reason = format!(
            "RegularExpression is not supported yet: use {}",
            words.join(" or ")
        );
        findings.note(&of.path("type"), reason);
        return None;
    }
    of.word("type", words, findings)
}

/// What the Gateway API forbids in a path, because proxies and programs read it in different ways.
fn wrong_path(path: &str) -> Option<String> {
    if !path.starts_with('/') {
        return Some("must begin with /".into());
    }
    if path.len() > 1024 {
        return Some("is longer than 1024 bytes".into());
    }
    let lower = path.to_ascii_lowercase();
    for forbidden in ["//", "/./", "/../", "%2f", "#"] {
        if lower.contains(forbidden) {
            return Some(format!("must not contain {forbidden}"));
        }
    }
    if path.ends_with("/..") || path.ends_with("/.") {
        return Some("must not end with /. or /..".into());
    }
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let legal = match byte {
            b'%' => {
                let mut hex = || bytes.next().is_some_and(|digit| digit.is_ascii_hexdigit());
                hex() && hex()
            }
            _ => byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(&byte),
        };
        if !legal {
            let reason = "holds a character that a path of a URL cannot: write it as %XX (a query is matched with \
                          queryParams)";
            return Some(reason.into());
        }
    }
    None
}

/// Matches on header fields (names become lower-case) or query parameters.
fn named(
    of: &mut Object<'_>,
    key: &str,
    longest: usize,
    findings: &mut Findings,
) -> Vec<(String, String)> {
    let is_header = key == "headers";
    let mut pairs: Vec<(String, String)> = Vec::new();
    for (path, value) in of.list(key, MAX_FIELDS, findings) {
        let Some(mut field) = Object::at(value, &path, findings) else {
            continue;
        };
        field.only(&schema::NAMED, findings);
        field.default("type", "Exact");
        kind_of(&field, FIELD_TYPES, findings);
        let name = field.required_text("name", findings).map(str::to_owned);
        let value = field.required_text("value", findings).map(str::to_owned);
        let (Some(mut name), Some(value)) = (name, value) else {
            continue;
        };
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || name.len() > 256 || (is_header && !name.bytes().all(token)) {
            findings.note(&field.path("name"), "is no name of such a field");
        }
        if is_header {
            name.make_ascii_lowercase();
        }
        let visible = |byte: u8| byte == b'\t' || (b' '..=b'~').contains(&byte) || byte >= 0x80;
        if value.is_empty() || value.len() > longest || !value.bytes().all(visible) {
            let reason = format!("must be 1 to {longest} printable characters");
            findings.note(&field.path("value"), reason);
        }
        if pairs.iter().any(|(other, _)| *other == name) {
            let reason = "is there twice in one match; the Gateway API would ignore the second";
            findings.note(&field.path("name"), reason);
        }
        pairs.push((name, value));
    }
    pairs
}
