//! What documents and registrations compile to: each `testdata/*.yaml` beside its `.golden`. Registrations are lines
//! `#! workload UID ns=.. name=.. sa=.. service=.. version=.. ip=.. port=80:8080/http health=..`, addresses
//! `#! vips NS/NAME ADDRESS ..`; `#! remembered NS/NAME SINCE`, `#! mesh NAME`, `#! reserved HOSTNAME ..`. `UPDATE_GOLDEN=1 cargo test -p leno-compile` rewrites them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(
    clippy::disallowed_methods,
    reason = "a golden test reads files and a variable; decisions do not"
)]

mod common;

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use leno_compile::{
    Compiler, Input, Output, Place, Program, RegisteredPort, Remembered, WorkloadRecord,
};
use leno_config::{admit, parse_documents};
use leno_ir::{
    AccessRule, Destination, Endpoint, Health, Mtls, OwnWorkload, PathMatch, Principal, Provenance,
    Route, RouteMatch, Service, ValueMatch,
};
use leno_types::{ServiceName, WorkloadUid};

fn port(text: &str) -> RegisteredPort {
    let (ports, protocol) = text
        .split_once('/')
        .map_or((text, None), |(ports, protocol)| (ports, Some(protocol)));
    let mut numbers = ports.split(':').map(|number| number.parse().unwrap());
    RegisteredPort {
        service_port: numbers.next(),
        workload_port: numbers.next().unwrap(),
        protocol: protocol.map(|protocol| protocol.parse().unwrap()),
        published: numbers.next(),
    }
}

fn workload(words: &[&str]) -> Input {
    let [uid, fields @ ..] = words else {
        panic!("a workload has an id");
    };
    let uid = WorkloadUid::from_bytes([uid.parse().unwrap(); 16]);
    let mut program = Program {
        uid,
        agent: "host".parse().unwrap(),
        namespace: "shop".parse().unwrap(),
        name: Box::default(),
        service_account: "default".parse().unwrap(),
        service: None,
        version: None,
        ports: Box::default(),
    };
    let (mut addresses, mut ports) = (Vec::new(), Vec::new());
    let (mut health, mut ready) = (Health::Healthy, true);
    for (key, value) in fields.iter().map(|field| field.split_once('=').unwrap()) {
        match key {
            "ns" => program.namespace = value.parse().unwrap(),
            "name" => program.name = value.into(),
            "sa" => program.service_account = value.parse().unwrap(),
            "service" => program.service = Some(value.parse().unwrap()),
            "version" => program.version = Some(value.parse().unwrap()),
            "ip" => addresses.push(value.parse().unwrap()),
            "port" => ports.push(port(value)),
            "health" => {
                health = if value == "unknown" {
                    Health::Unknown
                } else {
                    Health::Unhealthy
                }
            }
            "ready" => ready = value == "yes",
            other => panic!("no field {other}"),
        }
    }
    program.ports = ports.into();
    let place = Place {
        addresses,
        hbone_port: 15008,
    };
    let record = WorkloadRecord {
        program: Arc::new(program),
        place: Arc::new(place),
        versioned: true,
        health,
        ready,
    };
    Input::Workload(uid, Some(record))
}

fn inputs(file: &str, text: &str) -> Vec<Input> {
    let mut inputs = Vec::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("#! ")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["workload", rest @ ..] => inputs.push(workload(rest)),
            ["vips", name, rest @ ..] => {
                let vips = rest.iter().map(|vip| vip.parse().unwrap()).collect();
                inputs.push(Input::Vips(name.parse().unwrap(), vips));
            }
            ["remembered", name, since] => {
                let remembered = Remembered {
                    ports: Vec::new(),
                    own: true,
                    since: Some((*since).into()),
                };
                let remembered = Some(Arc::new(remembered));
                inputs.push(Input::Remembered(name.parse().unwrap(), remembered));
            }
            ["reserved", names @ ..] => {
                let names = names.iter().map(|name| name.parse().unwrap()).collect();
                inputs.push(Input::Reserved(Arc::new(names)));
            }
            ["mesh", name] => inputs.push(Input::Mesh(Arc::new(common::mesh(name)))),
            other => panic!("{other:?}"),
        }
    }
    let documents = parse_documents(file, text).unwrap_or_else(|findings| panic!("{findings:#?}"));
    for document in documents {
        let resource = admit(document.kind, document.with_source())
            .unwrap()
            .resource;
        let meta = resource.meta();
        let (namespace, name) = (meta.namespace.clone(), meta.name.clone());
        inputs.push(Input::Object(
            document.kind,
            namespace,
            name,
            Some(Arc::new(resource)),
        ));
    }
    inputs
}

fn place(of: &Provenance) -> String {
    let Provenance {
        kind,
        namespace,
        name,
        field_path,
        source,
        generation,
        ..
    } = of;
    format!("{kind} {namespace}/{name} generation {generation} {field_path} ({source})")
}

fn route_match(of: &RouteMatch) -> String {
    let mut parts = Vec::new();
    match &of.path {
        Some(PathMatch::Exact(path)) => parts.push(format!("path = {path}")),
        Some(PathMatch::Prefix(path)) => parts.push(format!("path in {path}")),
        None => {}
    }
    parts.extend(of.method.iter().map(|method| format!("method = {method}")));
    for (kind, fields) in [("header", &of.headers), ("query", &of.query)] {
        for field in fields {
            let ValueMatch::Exact(value) = &field.value;
            parts.push(format!("{kind} {} = {value}", field.name));
        }
    }
    parts.join(" and ")
}

fn route(out: &mut String, route: &Route) {
    let ports = match route.ports.is_empty() {
        true => "all ports".to_owned(),
        false => format!("ports {:?}", route.ports),
    };
    writeln!(out, "  route {}, {ports}", place(&route.provenance)).unwrap();
    for of in &route.matches {
        writeln!(out, "    when {}", route_match(of)).unwrap();
    }
    for backend in &route.backends {
        let invalid = backend
            .invalid
            .as_ref()
            .map(|why| format!(" INVALID {why}"))
            .unwrap_or_default();
        let (service, port, weight) = (&backend.service, backend.port, backend.weight);
        writeln!(
            out,
            "    to {service}:{port} x {weight} ({}){invalid}",
            backend.field_path
        )
        .unwrap();
    }
    for (name, timeout) in [
        ("request", route.request_timeout),
        ("try", route.backend_request_timeout),
    ] {
        if let Some(timeout) = timeout {
            writeln!(out, "    {name} timeout {timeout:?}").unwrap();
        }
    }
}

fn service(out: &mut String, of: &Service) {
    match of.headless {
        true => writeln!(out, "  headless").unwrap(),
        false => writeln!(out, "  vips {:?}", of.vips).unwrap(),
    }
    for port in &of.ports {
        let protocol = port
            .protocol
            .map_or("detect", leno_types::AppProtocol::as_str);
        writeln!(out, "  port {} {protocol} \"{}\"", port.port, port.name).unwrap();
    }
    for of in &of.routes {
        route(out, of);
    }
}

fn endpoint(out: &mut String, of: &Endpoint) {
    let uid = of.uid.as_bytes()[0];
    let Endpoint {
        name,
        identity,
        version,
        service,
        addresses,
        health,
        ..
    } = of;
    writeln!(out, "  {uid} {name} {identity} service \"{service}\" version \"{version}\" {addresses:?} {health:?}").unwrap();
    for port in &of.ports {
        let (at, is) = (port.service_port, port.workload_port);
        let protocol = port
            .protocol
            .map_or("detect", leno_types::AppProtocol::as_str);
        writeln!(
            out,
            "    {at} -> {is} {protocol} published {:?}",
            port.published
        )
        .unwrap();
    }
}

fn rule(out: &mut String, of: &AccessRule) {
    let principal = |principal: &Principal| match principal {
        Principal::AnyAuthenticated => "*".to_owned(),
        Principal::Exact(identity) => identity.to_string(),
        Principal::Prefix(prefix) => format!("{prefix}*"),
    };
    let principals: Vec<String> = of.principals.iter().map(principal).collect();
    writeln!(
        out,
        "  {:?} principals {principals:?} namespaces {:?} ports {:?} {}",
        of.action,
        of.namespaces,
        of.ports,
        place(&of.provenance)
    )
    .unwrap();
}

fn own(out: &mut String, of: &OwnWorkload) {
    writeln!(
        out,
        "  {} {} service {:?} version \"{}\"",
        of.name, of.identity, of.service, of.version
    )
    .unwrap();
    for port in &of.ports {
        let protocol = port
            .protocol
            .map_or("detect", leno_types::AppProtocol::as_str);
        let services: Vec<String> = port
            .services
            .iter()
            .map(|of| format!("{}:{}", of.service, of.port))
            .collect();
        writeln!(
            out,
            "  port {} {protocol} published {:?} for {services:?}",
            port.port, port.published
        )
        .unwrap();
        if let Some(of) = &port.mtls {
            mtls(out, "    ", of);
        }
    }
    if of.mtls.provenance.is_some() {
        mtls(out, "  ", &of.mtls);
    }
    for of in &of.access {
        rule(out, of);
    }
}

fn mtls(out: &mut String, indent: &str, of: &Mtls) {
    let from = of.provenance.as_ref().map(place).unwrap_or_default();
    writeln!(out, "{indent}{:?} {from}", of.mode).unwrap();
}

fn render(path: &Path) -> String {
    let file = path.file_name().unwrap().to_str().unwrap();
    let text = fs::read_to_string(path).unwrap();
    let mut compiler = Compiler::new("default.leno".parse().unwrap());
    let inputs = inputs(file, &text);
    let mut out = String::new();
    let objects: Vec<_> = inputs
        .iter()
        .filter_map(|input| match input {
            Input::Object(kind, namespace, name, _) => {
                Some((*kind, namespace.clone(), name.clone()))
            }
            _ => None,
        })
        .collect();
    compiler.apply(inputs);
    for (kind, namespace, name) in objects {
        writeln!(out, "{kind} {namespace}/{name}").unwrap();
        for of in compiler.conditions(kind, &namespace, &name) {
            let parent = of.parent.map(|parent| match parent.port {
                Some(port) => format!("{}:{port} ", parent.service),
                None => format!("{} ", parent.service),
            });
            let parent = parent.unwrap_or_default();
            writeln!(
                out,
                "  {parent}{}={} {} {}",
                of.r#type, of.status, of.reason, of.message
            )
            .unwrap();
        }
        let of = ServiceName::new(namespace.clone(), name.clone());
        for (service, given) in &**compiler.given_names() {
            for given in given.iter().filter(|given| given.generator == of) {
                writeln!(out, "  {service} {:?}", given.name).unwrap();
            }
        }
        writeln!(
            out,
            "  carried by {:?}",
            compiler.resources_from(kind, &namespace, &name)
        )
        .unwrap();
    }
    for (key, output) in compiler.outputs() {
        writeln!(out, "{key:?} {:?}", compiler.aliases(&key)).unwrap();
        match &output {
            Output::Destination(Destination::Service(of)) => service(&mut out, of),
            Output::Destination(Destination::Host(of)) => {
                of.endpoints.iter().for_each(|of| endpoint(&mut out, of))
            }
            Output::Endpoints(of) => of.endpoints.iter().for_each(|of| endpoint(&mut out, of)),
            Output::OwnWorkload(of) => own(&mut out, of),
            Output::Destination(Destination::Hostname(of)) => {
                writeln!(out, "  {} is {}", of.name, of.service).unwrap();
            }
            Output::Mesh(of) => writeln!(out, "  domains {:?}", of.domains).unwrap(),
        }
    }
    out
}

#[test]
fn documents_and_registrations_compile_to_what_proxies_act_on() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "yaml"))
        .collect();
    files.sort();
    assert!(files.len() >= 12, "{}", files.len());
    let mut wrong = Vec::new();
    for path in files {
        let now = render(&path);
        let golden = path.with_extension("golden");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &now).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != now {
            wrong.push(format!("{}:\n{now}", golden.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
