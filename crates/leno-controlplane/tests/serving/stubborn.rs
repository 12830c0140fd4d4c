//! Agents that are let in and then send what they should not on their discovery stream: each is bounded, counted and told
//! so, and others are served.

use leno_wire::discovery::DeltaDiscoveryRequest;
use tonic::Code;

use super::{
    ControlPlane, DESTINATION, ENDPOINTS, MESH, Membership, cart,
    client::{Agent, garbage},
    service, test,
};

/// Answers that are on their way at once, as docs/limits.md has it.
const WINDOW: usize = 8;
/// Names of one type that one stream may ask for.
const NAMES: usize = 16_384;

async fn metered(directory: &tempfile::TempDir) -> ControlPlane {
    ControlPlane::start_with(directory.path(), |config| {
        config.metrics = Some("127.0.0.1:0".parse().unwrap());
    })
    .await
}

async fn count(control: &ControlPlane, name: &str) -> u64 {
    let text = control.scrape().await;
    let line = text.lines().find(|line| line.starts_with(name));
    line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
}

/// Two agents, and a service that is there for them to ask for.
async fn two(control: &ControlPlane) -> (Agent, Agent, Membership) {
    control
        .apply("/api/v1/namespaces/default/services", service("cart"))
        .await;
    let good = Membership::join(control, "good", cart()).await;
    let bad = Membership::join(control, "bad", cart()).await;
    (good.connect(control).await, bad.connect(control).await, bad)
}

/// Whether an agent that has asked for nothing yet is served.
async fn is_served(agent: &mut Agent) {
    agent.ask(DESTINATION, &["svc/default/cart"]).await;
    let answer = agent.answer().await;
    assert_eq!(answer.resources[0].name, "svc/default/cart");
}

fn acknowledging(url: &str, nonce: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: url.into(),
        response_nonce: nonce.into(),
        ..DeltaDiscoveryRequest::default()
    }
}

#[test]
fn acknowledgements_of_what_was_never_sent_change_nothing_and_are_counted() {
    test("nonces", async |directory| {
        let control = metered(&directory).await;
        let (mut good, mut bad, _) = two(&control).await;
        bad.ask(DESTINATION, &["svc/default/cart"]).await;
        let answer = bad.answer_unacknowledged().await;
        for nonce in [
            "nonsense",
            "0",
            "99999999999999999999",
            &"x".repeat(100_000),
        ] {
            bad.send(acknowledging(DESTINATION, nonce)).await;
        }
        // That nonce is of another type's answer.
        bad.send(acknowledging(ENDPOINTS, &answer.nonce)).await;
        // In order: what comes after the acknowledgements is answered after them.
        bad.ask(MESH, &["*"]).await;
        bad.answer().await;
        let path = "/meshes/default/leno/v1/proxies/bad/config";
        let (_, config) = control.admin("GET", path, None).await;
        let cart = config.as_array().unwrap().iter();
        let mut cart = cart.filter(|of| of["name"] == "svc/default/cart");
        assert_eq!(cart.next().unwrap()["state"], "pending", "{config:#}");
        let strange = count(&control, "leno_controlplane_strange_nonces_total{").await;
        assert_eq!(strange, 5);
        is_served(&mut good).await;
        control.stop().await;
    });
}

#[test]
fn an_unknown_type_a_wildcard_and_garbage_end_that_stream_with_the_reason() {
    test("protocol", async |directory| {
        let control = metered(&directory).await;
        let (mut good, mut bad, host) = two(&control).await;
        bad.ask("type.googleapis.com/nothing", &["x"]).await;
        let status = bad.discovery_ended().await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains("no resource type"), "{status:?}");
        let mut bad = host.connect(&control).await;
        bad.ask(DESTINATION, &["*"]).await;
        let status = bad.discovery_ended().await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains("by name"), "{status:?}");
        let channel = host.channel(&control).await;
        let status = garbage(channel, 1).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let channel = host.channel(&control).await;
        let status = garbage(channel, 5 << 20).await;
        assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
        assert_eq!(
            count(&control, "leno_controlplane_streams_ended_total{").await,
            4
        );
        is_served(&mut good).await;
        control.stop().await;
    });
}

#[test]
fn names_without_end_are_bounded_and_foreign_ones_are_absent() {
    test("names", async |directory| {
        let control = metered(&directory).await;
        let (mut good, mut bad, _) = two(&control).await;
        let odd = [
            "svc/../../other/cart",
            "mesh/other/svc/default/cart",
            "ip/300.1.1.1",
            "svc/default/cart\0",
            "",
        ];
        bad.ask(DESTINATION, &odd).await;
        let answer = bad.answer().await;
        assert!(answer.resources.is_empty(), "{answer:?}");
        assert_eq!(answer.removed_resources.len(), odd.len());
        let names: Vec<String> = (0..NAMES + 1_000).map(|n| format!("svc/a/s{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for some in names.chunks(4_000) {
            bad.ask(ENDPOINTS, some).await;
        }
        let mut absent = 0;
        while absent < NAMES {
            absent += bad.answer().await.removed_resources.len();
        }
        let exceeded = count(&control, "leno_controlplane_subscriptions_exceeded_total{").await;
        assert_eq!(exceeded, 1_000);
        is_served(&mut good).await;
        // It is not ended for it: what it asked for first it has.
        is_served(&mut bad).await;
        control.stop().await;
    });
}

#[test]
fn one_that_never_acknowledges_is_sent_a_window_and_shown_as_behind() {
    test("silent", async |directory| {
        let control = metered(&directory).await;
        let (mut good, mut bad, _) = two(&control).await;
        is_served(&mut good).await;
        bad.ask(DESTINATION, &["svc/default/cart"]).await;
        let path = "/meshes/default/api/v1/namespaces/default/services/cart";
        let mut answers = 0;
        for port in 0..2 * WINDOW {
            let mut changed = service("cart");
            changed["spec"]["ports"][0]["targetPort"] = (9_000 + port).into();
            changed["spec"]["ports"][0]["port"] = (9_000 + port).into();
            let (code, answer) = control.admin("PUT", path, Some(changed)).await;
            assert_eq!(code, 200, "{answer}");
            // The good one has it, so that the bad one was sent it as well, if it ever is.
            good.answer().await;
        }
        while !bad.is_silent().await {
            answers += 1;
        }
        assert!(answers <= WINDOW, "{answers}");
        let proxies = "/meshes/default/leno/v1/proxies";
        let seen = control
            .await_document(proxies, |list| list[1]["state"] == "in-sync")
            .await;
        assert_eq!(seen[0]["state"], "behind", "{seen:#}");
        assert!(seen[0]["pending"].as_u64() > Some(0), "{seen:#}");
        control.stop().await;
    });
}
