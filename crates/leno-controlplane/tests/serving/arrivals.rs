//! A service that comes after a proxy has asked for it: by name, by address, for its endpoints, in every order.

use std::net::SocketAddr;

use leno_controlplane::Config;
use leno_wire::{
    agent::{HealthChange, agent_message},
    mesh as wire,
};
use prost::Message;
use serde_json::{Value, json};

use super::{Agent, ControlPlane, DESTINATION, ENDPOINTS, Membership, cart, test};

const NAME: &str = "svc/default/cart";

/// A caller and a host that may serve, both connected.
async fn pair(control: &ControlPlane) -> (Agent, Agent) {
    let caller = Membership::join(control, "caller", serde_json::json!({})).await;
    let host = Membership::join(control, "host", cart()).await;
    (caller.connect(control).await, host.connect(control).await)
}

/// Reads until the endpoints of the service are `count`, and gives their healths.
async fn endpoints(agent: &mut Agent, count: usize) -> Vec<i32> {
    loop {
        let answer = agent.answer().await;
        for resource in answer.resources {
            let any = resource.resource.unwrap();
            if any.type_url != ENDPOINTS {
                continue;
            }
            let found = wire::Endpoints::decode(&*any.value).unwrap();
            if found.endpoints.len() == count {
                return found.endpoints.iter().map(|of| of.health).collect();
            }
        }
    }
}

/// Reads until the service has its addresses.
async fn addresses(agent: &mut Agent) -> Vec<String> {
    loop {
        let answer = agent.answer().await;
        for resource in answer.resources {
            let any = resource.resource.unwrap();
            let kind = wire::Destination::decode(&*any.value).unwrap().kind;
            if let Some(wire::destination::Kind::Service(service)) = kind
                && !service.vips.is_empty()
            {
                return service.vips;
            }
        }
    }
}

async fn health(agent: &Agent, uid: &str, healthy: bool) {
    let change = HealthChange {
        uid: uid.into(),
        healthy,
        detail: String::new(),
    };
    agent.say(agent_message::Message::Health(change)).await;
}

#[test]
fn an_agent_with_all_the_workloads_it_may_have_names_them_in_one_burst() {
    const ALL: usize = 512;
    test("burst", async |directory| {
        let port = SocketAddr::from(([127, 0, 0, 1], 0));
        let change = |config: &mut Config| config.metrics = Some(port);
        let control = ControlPlane::start_with(directory.path(), change).await;
        let membership = Membership::join(&control, "host", cart()).await;
        let mut host = membership.connect(&control).await;
        let new = vec![String::new(); ALL];
        let mut uids = host.register_at_once("cart", &new).await;
        uids.sort_unstable();
        uids.dedup();
        // None was turned away as an attack (too many small frames) or for lack of room.
        assert_eq!(uids.len(), ALL);
        // Nor was all that they are made anew for each: what comes while that is done is done together.
        let metrics = control.scrape().await;
        let of = metrics.lines().find_map(|line| {
            let rest = line.strip_prefix("leno_compile_total{mesh=\"default\"} ")?;
            rest.parse::<usize>().ok()
        });
        let compilations = of.unwrap();
        assert!(compilations < ALL, "{compilations} for {ALL}");
        control.stop().await;
    });
}

#[test]
fn what_an_acknowledged_change_made_is_read_after_it() {
    const WORKLOADS: &str = "/meshes/default/apis/leno.dev/v1alpha1/namespaces/default/workloads";
    const SLICES: &str =
        "/meshes/default/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    const CART: &str = "/meshes/default/api/v1/namespaces/default/services/cart";
    test("read", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let membership = Membership::join(&control, "host", cart()).await;
        let mut host = membership.connect(&control).await;
        for number in 1..=20 {
            let registered = host.register("cart", 8080, "").await;
            let (code, list) = control.admin("GET", WORKLOADS, None).await;
            assert_eq!(code, 200, "{list}");
            let items = list["items"].as_array().unwrap();
            assert_eq!(items.len(), number);
            let listed = |of: &Value| of["metadata"]["uid"] == registered.uid;
            assert!(items.iter().any(listed));
            let slices = control.admin("GET", SLICES, None).await.1;
            let endpoints = slices["items"][0]["endpoints"].as_array().unwrap();
            assert_eq!(endpoints.len(), number);
            assert_eq!(control.admin("GET", CART, None).await.0, 200);
        }
        // What a person writes as well, with what is to be said of it.
        for number in 0..20 {
            let name = format!("route-{number}");
            let collection =
                "/meshes/default/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes";
            let route = json!({
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "HTTPRoute",
                "metadata": {"name": name, "namespace": "default"},
                "spec": {
                    "parentRefs": [{"kind": "Service", "group": "", "name": "cart"}],
                    "rules": [{"backendRefs": [{"name": "cart", "port": 80}]}],
                },
            });
            let (code, answer) = control.admin("POST", collection, Some(route)).await;
            assert_eq!(code, 201, "{answer}");
            let path = format!("{collection}/{name}");
            let read = control.admin("GET", &path, None).await.1;
            let accepted = &read["status"]["parents"][0]["conditions"][0];
            assert_eq!(accepted["status"], "True", "{read}");
        }
        control.stop().await;
    });
}

#[test]
fn a_service_asked_for_before_it_exists_comes_with_its_endpoints() {
    test("absent", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let (mut caller, mut host) = pair(&control).await;
        caller.ask(ENDPOINTS, &[NAME]).await;
        assert_eq!(caller.answer().await.removed_resources, [NAME]);
        caller.ask(DESTINATION, &[NAME]).await;
        assert_eq!(caller.answer().await.removed_resources, [NAME]);
        let registered = host.register_unready("cart", 8080).await;
        // The service is there, and nobody to call yet.
        assert!(endpoints(&mut caller, 0).await.is_empty());
        health(&host, &registered.uid, true).await;
        assert_eq!(
            endpoints(&mut caller, 1).await,
            [wire::Health::Healthy as i32]
        );
        control.stop().await;
    });
}

#[test]
fn what_was_ready_once_stays_an_endpoint_while_its_checks_fail() {
    test("failing", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let (mut caller, mut host) = pair(&control).await;
        let registered = host.register_unready("cart", 8080).await;
        caller.ask(ENDPOINTS, &[NAME]).await;
        assert!(endpoints(&mut caller, 0).await.is_empty());
        health(&host, &registered.uid, true).await;
        assert_eq!(
            endpoints(&mut caller, 1).await,
            [wire::Health::Healthy as i32]
        );
        health(&host, &registered.uid, false).await;
        assert_eq!(
            endpoints(&mut caller, 1).await,
            [wire::Health::Unhealthy as i32]
        );
        control.stop().await;
    });
}

#[test]
fn a_service_that_returns_is_told_to_who_asked_for_its_address() {
    test("address", async |directory| {
        let control = ControlPlane::start(directory.path()).await;
        let (mut caller, mut host) = pair(&control).await;
        let registered = host.register("cart", 8080, "").await;
        caller.ask(DESTINATION, &[NAME]).await;
        let vips = addresses(&mut caller).await;
        host.deregister(&registered.uid).await;
        // Its name outlives it, until somebody says otherwise.
        let path = "/meshes/default/api/v1/namespaces/default/services/cart";
        while control.admin("DELETE", path, None).await.0 != 200 {
            tokio::task::yield_now().await;
        }
        assert_eq!(caller.answer().await.removed_resources, [NAME]);
        // Asked by address while there is none: absent, and told when it is there again, with the same address.
        let aliases: Vec<String> = vips.iter().map(|vip| format!("ip/{vip}")).collect();
        caller.ask(DESTINATION, &[&aliases[0]]).await;
        assert_eq!(
            caller.answer().await.removed_resources,
            [aliases[0].as_str()]
        );
        host.register("cart", 8080, "").await;
        assert_eq!(addresses(&mut caller).await, vips);
        control.stop().await;
    });
}
