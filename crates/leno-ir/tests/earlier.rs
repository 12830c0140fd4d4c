//! What an earlier version sent, byte for byte: today's code still reads it, and means the same by it (CP10).
//!
//! `testdata/wire-1/server.pb` and `caller.pb` are what two agents of the first version held of each resource type, as its
//! control plane had sent them: one hosts `cart` and is protected by two policies, the other calls it by a route.
//! `session.hex` has a message of each kind that both sides said to each other. None of them is ever changed; a version
//! that says something new adds files of its own.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test may panic")]

use std::collections::BTreeMap;

use leno_ir::{AccessAction, Destination, Endpoints, Mesh, MtlsMode, OwnWorkload, PathMatch};
use leno_wire::{
    agent::{
        AgentMessage, CertificateResponse, ControlMessage, RedeemRequest, RedeemResponse,
        SignWorkloadRequest, agent_message::Message as Says, control_message::Message as Answers,
    },
    discovery::{DeltaDiscoveryResponse, Resource},
    mesh as wire, type_url,
};
use prost::Message;

const SERVER: &[u8] = include_bytes!("../testdata/wire-1/server.pb");
const CALLER: &[u8] = include_bytes!("../testdata/wire-1/caller.pb");
const SESSION: &str = include_str!("../testdata/wire-1/session.hex");

/// The resources of a type.
fn resources(mut bytes: &[u8], url: &str) -> Vec<Resource> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let message = DeltaDiscoveryResponse::decode_length_delimited(&mut bytes).unwrap();
        if message.type_url == url {
            found.extend(message.resources);
        }
    }
    found
}

/// The bodies of a type, read.
fn read<M: Message + Default>(bytes: &[u8], url: &str) -> Vec<M> {
    let bodies = resources(bytes, url).into_iter();
    bodies
        .map(|resource| M::decode(&*resource.resource.unwrap().value).unwrap())
        .collect()
}

#[test]
fn a_workload_of_an_earlier_version_is_protected_as_it_was() {
    let own: Vec<wire::OwnWorkload> = read(SERVER, type_url::OWN_WORKLOAD);
    let [own] = own.as_slice() else {
        panic!("{own:?}")
    };
    let own = OwnWorkload::from_wire(own).unwrap();
    assert_eq!(
        own.identity.as_str(),
        "spiffe://default.leno/ns/default/sa/cart"
    );
    assert_eq!(own.mtls.mode, MtlsMode::Permissive);
    assert_eq!(own.not_understood().count(), 0, "nobody is denied for skew");
    let rule = |rule: &leno_ir::AccessRule| (rule.action, rule.provenance.name.clone());
    let rules: Vec<(AccessAction, String)> = own.access.iter().map(rule).collect();
    assert_eq!(
        rules,
        [
            (AccessAction::Allow, "cart".to_owned()),
            (AccessAction::Deny, "deny".to_owned())
        ]
    );
    let from = own.access.iter().map(|rule| &rule.provenance);
    assert!(
        from.clone()
            .all(|of| of.field_path == "spec.rules[0].from[0]" && of.generation == 1)
    );
    // It is sent on with what it needs, which is what an earlier version knows.
    let sent = own.to_wire();
    assert!(
        sent.access
            .iter()
            .all(|rule| rule.must_understand == ["access/v1"] && !rule.guard)
    );
    assert_eq!(OwnWorkload::from_wire(&sent).unwrap(), own);
}

#[test]
fn a_mesh_a_route_and_endpoints_of_an_earlier_version_mean_what_they_meant() {
    let mesh: Vec<wire::Mesh> = read(CALLER, type_url::MESH);
    let mesh = Mesh::from_wire(&mesh[0]).unwrap();
    assert!(mesh.claims("10.78.0.9".parse().unwrap()), "its prefix");
    assert!(mesh.is_virtual("240.240.0.1".parse().unwrap()));
    assert!(mesh.trust_bundle.contains("BEGIN CERTIFICATE"));
    let mut destinations = BTreeMap::new();
    for message in read::<wire::Destination>(CALLER, type_url::DESTINATION) {
        if let Destination::Service(service) = Destination::from_wire(&message).unwrap() {
            destinations.insert(service.name.to_string(), service);
        }
    }
    let cart = &destinations["default/cart"];
    assert_eq!(cart.vips.len(), 2);
    let first = &cart.routes[0];
    assert_eq!(first.matches[0].path, Some(PathMatch::Prefix("/v2".into())));
    assert_eq!(first.backends[0].weight, 9);
    assert_eq!(first.provenance.kind, "HTTPRoute");
    let endpoints: Vec<wire::Endpoints> = read(CALLER, type_url::ENDPOINTS);
    let endpoints = Endpoints::from_wire(&endpoints[0]).unwrap();
    assert_eq!(endpoints.endpoints[0].hbone_port, 15008);
}

/// The recorded messages, by name.
fn session() -> BTreeMap<&'static str, Vec<u8>> {
    let mut messages = BTreeMap::new();
    for line in SESSION.lines() {
        let (name, hex) = line.split_once(' ').unwrap();
        let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        messages.insert(name, (0..hex.len()).step_by(2).map(digit).collect());
    }
    messages
}

/// Reads a message of which nothing may be dropped: it is written back the same.
fn whole<M: Message + Default>(
    messages: &mut BTreeMap<&'static str, Vec<u8>>,
    name: &'static str,
) -> M {
    let bytes = messages.remove(name).unwrap();
    let message = M::decode(&*bytes).unwrap();
    assert_eq!(message.encode_to_vec(), bytes, "{name}");
    message
}

#[test]
fn every_message_of_an_earlier_session_is_read_whole() {
    let mut messages = session();
    let mut says = |name| whole::<AgentMessage>(&mut messages, name).message.unwrap();
    let (Says::Hello(hello), Says::Register(register)) = (says("hello"), says("register")) else {
        panic!("others")
    };
    assert_eq!((&*hello.version, hello.hbone_port), ("0.1.0", 15008));
    assert_eq!(hello.features, ["access/v1"]);
    assert_eq!((register.request, register.ready), (7, true));
    assert_eq!(register.ports[0].published, 9080);
    assert!(matches!(says("deregister"), Says::Deregister(of) if of.uid.len() == 32));
    assert!(matches!(says("health"), Says::Health(of) if of.healthy && of.detail == "passes"));
    assert!(matches!(says("report"), Says::Report(of) if of.edges[0].requests == 5));
    assert!(matches!(says("pong"), Says::Pong(of) if of.sequence == 4));
    assert!(matches!(says("goodbye"), Says::Goodbye(of) if of.handover));
    let mut answers = |name| {
        let message = whole::<ControlMessage>(&mut messages, name);
        message.message.unwrap()
    };
    assert!(matches!(answers("welcome"), Answers::Welcome(of) if of.mesh == "default"));
    assert!(matches!(answers("registered"), Answers::Registered(of) if of.name == "cart-1"));
    assert!(matches!(answers("refused"), Answers::Refused(of) if of.code == "scope"));
    assert!(matches!(answers("ping"), Answers::Ping(of) if of.sequence == 4));
    let redeem: RedeemRequest = whole(&mut messages, "redeem");
    assert_eq!((&*redeem.token_id, redeem.clock), ("t", 5));
    let redeemed: RedeemResponse = whole(&mut messages, "redeemed");
    assert_eq!(redeemed.agent, "b");
    let sign: SignWorkloadRequest = whole(&mut messages, "sign");
    assert_eq!(sign.csr, [9]);
    let certificate: CertificateResponse = whole(&mut messages, "certificate");
    assert_eq!(certificate.chain, "c");
    assert!(messages.is_empty(), "not looked at: {messages:?}");
}
