//! Who has a name that a template gives, whatever comes and goes.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;

use leno_compile::{Compiler, Input, Key, MAX_GENERATORS, Output, Remembered};
use leno_config::{Kind, admit};
use leno_ir::Destination;
use leno_types::{HostName, ServiceName};
use serde_json::{Value, json};

fn object(kind: Kind, value: Value) -> Input {
    let resource = admit(kind, value).unwrap().resource;
    let (namespace, name) = (
        resource.meta().namespace.clone(),
        resource.meta().name.clone(),
    );
    Input::Object(kind, namespace, name, Some(Arc::new(resource)))
}

fn generator(name: &str, second: usize, template: &str) -> Input {
    let creation = format!("2026-05-01T12:00:{second:02}Z");
    let value = json!({
        "apiVersion": "leno.dev/v1alpha1", "kind": "HostnameGenerator",
        "metadata": {"name": name, "namespace": "default", "creationTimestamp": creation},
        "spec": {"selector": {"service": {}}, "template": template},
    });
    object(Kind::HostnameGenerator, value)
}

fn applied(name: &str, second: usize) -> Input {
    let name: ServiceName = name.parse().unwrap();
    let creation = format!("2026-05-01T12:00:{second:02}Z");
    let value = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name.name.as_str(), "namespace": name.namespace.as_str(), "creationTimestamp": creation},
        "spec": {"ports": [{"port": 80}]},
    });
    object(Kind::Service, value)
}

fn derived(name: &str, second: usize) -> Input {
    let remembered = Remembered {
        ports: Vec::new(),
        own: true,
        since: Some(format!("2026-05-01T12:00:{second:02}Z")),
    };
    Input::Remembered(name.parse().unwrap(), Some(Arc::new(remembered)))
}

fn compiler() -> Compiler {
    let mesh = common::mesh("default");
    let mut compiler = Compiler::new("default.leno".parse().unwrap());
    compiler.apply(vec![Input::Mesh(Arc::new(mesh))]);
    compiler
}

fn holder(compiler: &Compiler, name: &str) -> Option<String> {
    let name: HostName = name.parse().unwrap();
    let output = compiler.get(&Key::Hostname(name))?;
    match &*output {
        Output::Destination(Destination::Hostname(of)) => Some(of.service.to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn neither_a_newer_generator_nor_a_newer_service_takes_a_name_from_anybody() {
    const NAME: &str = "cart.mesh.local";
    let mut compiler = compiler();
    compiler.apply(vec![
        derived("web/cart", 5),
        generator("flat", 1, "{{ .Name }}.mesh.local"),
    ]);
    let is = |compiler: &Compiler, service: &str| {
        assert_eq!(holder(compiler, NAME).as_deref(), Some(service));
    };
    is(&compiler, "web/cart");
    // First by name and in every other way, but later.
    compiler.apply(vec![derived("a/cart", 6)]);
    is(&compiler, "web/cart");
    // Older than either, by a generator that is newer than both.
    compiler.apply(vec![
        derived("b/old", 0),
        generator(
            "late",
            9,
            "{{ label \"leno.dev/derived\" }}.cart.mesh.local",
        ),
        generator("same", 9, "cart.mesh.local"),
    ]);
    is(&compiler, "web/cart");
    // What somebody wrote goes before what only programs made.
    compiler.apply(vec![applied("z/cart", 8)]);
    is(&compiler, "z/cart");
    compiler.apply(vec![Input::Object(
        Kind::Service,
        "z".parse().unwrap(),
        "cart".parse().unwrap(),
        None,
    )]);
    is(&compiler, "web/cart");
    compiler.apply(vec![Input::Remembered("web/cart".parse().unwrap(), None)]);
    is(&compiler, "a/cart");
}

#[test]
fn a_service_that_only_versions_made_gets_no_name_until_somebody_writes_it() {
    let mut compiler = compiler();
    let version = Remembered {
        ports: Vec::new(),
        own: false,
        since: None,
    };
    compiler.apply(vec![
        generator("flat", 1, "{{ .Name }}.mesh.local"),
        derived("shop/cart", 0),
        Input::Remembered("shop/cart-v2".parse().unwrap(), Some(Arc::new(version))),
    ]);
    assert!(holder(&compiler, "cart.mesh.local").is_some());
    assert_eq!(holder(&compiler, "cart-v2.mesh.local"), None);
    compiler.apply(vec![applied("shop/cart-v2", 5)]);
    assert!(holder(&compiler, "cart-v2.mesh.local").is_some());
}

#[test]
fn of_too_many_generators_the_oldest_are_in_force() {
    let mut compiler = compiler();
    compiler.apply(vec![applied("shop/cart", 0)]);
    let all = 0..=MAX_GENERATORS;
    let inputs = all.rev().map(|n| {
        let template = format!("{{{{ .Name }}}}.g{n}.mesh.local");
        generator(&format!("g{n}"), n, &template)
    });
    compiler.apply(inputs.collect());
    let last = format!("g{MAX_GENERATORS}");
    let name = |of: &str| format!("cart.{of}.mesh.local");
    let reason = |compiler: &Compiler| {
        let (namespace, name) = ("default".parse().unwrap(), last.parse().unwrap());
        let conditions = compiler.conditions(Kind::HostnameGenerator, &namespace, &name);
        conditions.first().unwrap().reason
    };
    assert_eq!(holder(&compiler, &name("g0")).as_deref(), Some("shop/cart"));
    assert_eq!(holder(&compiler, &name(&last)), None);
    assert_eq!(reason(&compiler), "TooMany");
    let gone = ("default".parse().unwrap(), "g3".parse().unwrap());
    compiler.apply(vec![Input::Object(
        Kind::HostnameGenerator,
        gone.0,
        gone.1,
        None,
    )]);
    assert_eq!(holder(&compiler, &name("g3")), None);
    assert_eq!(
        holder(&compiler, &name(&last)).as_deref(),
        Some("shop/cart")
    );
    assert_eq!(reason(&compiler), "Accepted");
}
