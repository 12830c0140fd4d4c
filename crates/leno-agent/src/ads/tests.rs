#![allow(clippy::unwrap_used, reason = "a test may panic")]
use prost_types_any::any;

use super::*;

mod prost_types_any {
    use leno_wire::discovery::Resource;
    use prost::Message;

    /// A resource of `url` around `message`.
    pub(super) fn any(name: &str, version: &str, url: &str, message: &impl Message) -> Resource {
        let mut resource = Resource {
            version: version.into(),
            name: name.into(),
            ..Resource::default()
        };
        let content = resource.resource.get_or_insert_default();
        content.type_url = url.into();
        content.value = message.encode_to_vec();
        resource
    }
}

fn endpoints(service: &str, version: &str) -> Resource {
    let message = wire::Endpoints {
        service: service.into(),
        endpoints: Vec::new(),
    };
    any(
        &format!("svc/{service}"),
        version,
        type_url::ENDPOINTS,
        &message,
    )
}

fn response(url: &str, resources: Vec<Resource>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        system_version_info: "7".into(),
        type_url: url.into(),
        nonce: "n1".into(),
        resources,
        removed_resources: removed.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn a_reconnect_tells_the_versions_held_and_asks_for_the_same_names() {
    let mut client = AdsClient::default();
    assert!(client.subscribe(Type::Endpoints, "svc/shop/cart").is_some());
    assert!(
        client.subscribe(Type::Endpoints, "svc/shop/cart").is_none(),
        "asked once"
    );
    let (changes, ack) = client.handle(response(
        type_url::ENDPOINTS,
        vec![endpoints("shop/cart", "v1")],
        &[],
    ));
    assert_eq!(changes.len(), 1);
    assert_eq!(
        (ack.response_nonce.as_str(), ack.error_detail),
        ("n1", None)
    );
    assert_eq!(client.version(), "7");
    let again = client.connect(&Node::default());
    let of = again
        .iter()
        .find(|request| request.type_url == type_url::ENDPOINTS)
        .unwrap();
    assert_eq!(of.resource_names_subscribe, ["svc/shop/cart"]);
    assert_eq!(
        of.initial_resource_versions
            .get("svc/shop/cart")
            .map(String::as_str),
        Some("v1")
    );
    let mesh = again
        .iter()
        .find(|request| request.type_url == type_url::MESH)
        .unwrap();
    assert_eq!(mesh.resource_names_subscribe, ["*"]);
}

#[test]
fn what_cannot_be_read_is_refused_by_name_and_the_rest_of_the_response_applied() {
    let mut client = AdsClient::default();
    for name in ["svc/shop/bad", "svc/shop/cart"] {
        client.subscribe(Type::Endpoints, name);
    }
    let bad = any(
        "svc/shop/bad",
        "1",
        type_url::ENDPOINTS,
        &wire::Endpoints {
            service: "no name".into(),
            endpoints: Vec::new(),
        },
    );
    let (changes, nack) = client.handle(response(
        type_url::ENDPOINTS,
        vec![bad, endpoints("shop/cart", "v1")],
        &[],
    ));
    assert!(matches!(
        changes.as_slice(),
        [Change::Endpoints {
            answer: Some(_),
            ..
        }]
    ));
    let error = nack.error_detail.unwrap();
    assert!(
        error.message.contains("svc/shop/bad: service"),
        "{}",
        error.message
    );
    assert!(!error.message.contains("cart"));
    assert_eq!(
        (client.held(), client.nacks(), client.version()),
        (1, 1, "")
    );
}

#[test]
fn absence_is_an_answer() {
    let mut client = AdsClient::default();
    client.subscribe(Type::Destination, "ip/10.0.0.9");
    let (changes, _) = client.handle(response(
        type_url::DESTINATION,
        Vec::new(),
        &["ip/10.0.0.9"],
    ));
    let [
        Change::Destination {
            name, answer: None, ..
        },
    ] = changes.as_slice()
    else {
        panic!("{changes:?}")
    };
    assert_eq!(name.to_string(), "ip/10.0.0.9");
}

#[test]
fn unsubscribing_drops_the_resource_unless_another_name_still_asks_for_it() {
    let mut client = AdsClient::default();
    for name in ["svc/shop/cart", "ip/240.240.0.1"] {
        client.subscribe(Type::Destination, name);
    }
    let service = wire::Service {
        name: "shop/cart".into(),
        ..wire::Service::default()
    };
    let message = wire::Destination {
        kind: Some(wire::destination::Kind::Service(service)),
    };
    let mut resource = any("svc/shop/cart", "1", type_url::DESTINATION, &message);
    resource.aliases = vec!["ip/240.240.0.1".into()];
    client.handle(response(type_url::DESTINATION, vec![resource], &[]));
    assert!(
        client
            .unsubscribe(Type::Destination, "svc/shop/cart")
            .is_some()
    );
    assert_eq!(client.held(), 1);
    assert!(
        client
            .unsubscribe(Type::Destination, "ip/240.240.0.1")
            .is_some()
    );
    assert_eq!(client.held(), 0);
    assert!(
        client
            .unsubscribe(Type::Destination, "ip/240.240.0.1")
            .is_none()
    );
}

#[test]
fn what_is_saved_is_held_again_after_a_restart() {
    let mut client = AdsClient::default();
    client.subscribe(Type::Endpoints, "svc/shop/cart");
    client.handle(response(
        type_url::ENDPOINTS,
        vec![endpoints("shop/cart", "v1")],
        &[],
    ));
    let mut restarted = AdsClient::default();
    assert_eq!(restarted.restore(client.save()).len(), 1);
    assert_eq!(
        restarted.connect(&Node::default()),
        client.connect(&Node::default())
    );
}

#[test]
fn an_unknown_type_is_refused_without_touching_anything() {
    let mut client = AdsClient::default();
    let (changes, nack) = client.handle(response(
        "type.googleapis.com/other",
        vec![endpoints("shop/cart", "1")],
        &[],
    ));
    assert!(changes.is_empty() && nack.error_detail.is_some() && client.held() == 0);
}
