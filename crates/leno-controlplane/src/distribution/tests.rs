#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use leno_wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Status};
use proptest::prelude::*;

use super::*;

/// What there is to be sent.
#[derive(Default)]
struct Shelf {
    resources: BTreeMap<(Type, String), Resource>,
    /// Virtual addresses, each with the service's name.
    addresses: BTreeMap<IpAddr, String>,
}

impl Shelf {
    /// Puts a resource there or takes it away; gives the names by which somebody may have asked for what changed.
    fn set(
        &mut self,
        kind: Type,
        name: &str,
        body: Option<Arc<[u8]>>,
        addresses: &[IpAddr],
    ) -> Vec<Arc<str>> {
        let mut asked: Vec<Arc<str>> = vec![name.into()];
        asked.extend(addresses.iter().copied().map(alias_of));
        let theirs = self.addresses.extract_if(.., |_, of| of == name);
        asked.extend(theirs.map(|(address, _)| alias_of(address)));
        let now = addresses.iter().map(|address| (*address, name.to_owned()));
        self.addresses.extend(now);
        if let Some(address) = name.strip_prefix("host/") {
            asked.push(format!("ip/{address}").into());
        }
        let key = (kind, name.to_owned());
        match body {
            Some(body) => {
                let resource = Resource {
                    name: name.into(),
                    version: Version::of(&body),
                    body,
                    nobody: false,
                };
                self.resources.insert(key, resource);
            }
            None => drop(self.resources.remove(&key)),
        }
        asked
    }

    fn get(&self, kind: Type, name: &str) -> Option<&Resource> {
        self.resources.get(&(kind, name.to_owned()))
    }
}

impl View for Shelf {
    fn resolve(&self, kind: Type, asked: &str) -> Option<Resource> {
        let Some(address) = asked.strip_prefix("ip/") else {
            return self.get(kind, asked).cloned();
        };
        let service = self.addresses.get(&address.parse().ok()?).cloned();
        let name = service.unwrap_or_else(|| format!("host/{address}"));
        self.get(kind, &name).cloned()
    }

    fn all(&self, kind: Type) -> Vec<Resource> {
        let own = ["w1", "w2", "w3"];
        own.iter()
            .filter_map(|name| self.get(kind, name).cloned())
            .collect()
    }
}

/// A proxy that holds what it is sent, as the protocol says.
#[derive(Default)]
struct Proxy {
    asked: BTreeSet<String>,
    held: BTreeMap<String, String>,
    received: usize,
}

impl Proxy {
    fn take(&mut self, answer: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        for resource in &answer.resources {
            let old = self
                .held
                .insert(resource.name.clone(), resource.version.clone());
            let again = old.as_ref() == Some(&resource.version);
            // The same version comes again only for a name that was asked for anew.
            assert!(!again || !resource.aliases.is_empty() || self.asked.contains(&resource.name));
            self.received += 1;
        }
        for name in &answer.removed_resources {
            self.held.remove(name);
        }
        ack(answer)
    }
}

fn ack(answer: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: answer.type_url.clone(),
        response_nonce: answer.nonce.clone(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn ask(kind: Type, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.url().into(),
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn hold(seconds: u64, grace: Option<u64>) -> Hold {
    Hold {
        now: Duration::from_secs(seconds),
        grace: grace.map(Duration::from_secs),
        revision: 1,
    }
}

fn put(shelf: &mut Shelf, subscriber: &mut Subscriber, kind: Type, name: &str, body: Option<&str>) {
    let addresses = match (kind, body) {
        (Type::Destination, Some(_)) if name == "svc/a/b" => vec!["240.240.0.7".parse().unwrap()],
        _ => Vec::new(),
    };
    for asked in shelf.set(
        kind,
        name,
        body.map(|body| body.as_bytes().into()),
        &addresses,
    ) {
        subscriber.touch(kind, &asked);
    }
}

/// Lets both sides talk until nothing is due.
fn settle(
    subscriber: &mut Subscriber,
    shelf: &Shelf,
    proxy: &mut Proxy,
    at: Hold,
) -> Vec<DeltaDiscoveryResponse> {
    let mut all = Vec::new();
    while let Some(answer) = subscriber.next(shelf, at) {
        let ack = proxy.take(&answer);
        subscriber.request(&ack, shelf, at.now).unwrap();
        all.push(answer);
        assert!(all.len() < 10_000, "it never settles");
    }
    all
}

#[test]
fn presence_absence_and_aliases_are_answers() {
    let (mut shelf, mut subscriber, mut proxy) = (
        Shelf::default(),
        Subscriber::new(Duration::ZERO),
        Proxy::default(),
    );
    put(
        &mut shelf,
        &mut subscriber,
        Type::Destination,
        "svc/a/b",
        Some("one"),
    );
    let request = ask(
        Type::Destination,
        &["svc/a/b", "ip/240.240.0.7", "ip/10.0.0.1", "nonsense"],
    );
    subscriber
        .request(&request, &shelf, Duration::ZERO)
        .unwrap();
    let answers = settle(&mut subscriber, &shelf, &mut proxy, hold(0, None));
    let [answer] = answers.as_slice() else {
        panic!("{answers:?}")
    };
    assert_eq!(answer.resources.len(), 1);
    assert_eq!(answer.resources[0].aliases, ["ip/240.240.0.7"]);
    assert_eq!(answer.removed_resources, ["ip/10.0.0.1", "nonsense"]);
    assert!(subscriber.is_in_sync());
    // A host comes to an address that was absent.
    put(
        &mut shelf,
        &mut subscriber,
        Type::Destination,
        "host/10.0.0.1",
        Some("host"),
    );
    let answers = settle(&mut subscriber, &shelf, &mut proxy, hold(1, None));
    assert_eq!(
        (
            &*answers[0].resources[0].name,
            &*answers[0].resources[0].aliases
        ),
        ("host/10.0.0.1", &["ip/10.0.0.1".to_owned()][..])
    );
    // The service goes: by every name it was asked for.
    put(
        &mut shelf,
        &mut subscriber,
        Type::Destination,
        "svc/a/b",
        None,
    );
    let answers = settle(&mut subscriber, &shelf, &mut proxy, hold(1, None));
    assert_eq!(answers[0].removed_resources, ["ip/240.240.0.7", "svc/a/b"]);
    assert!(settle(&mut subscriber, &shelf, &mut proxy, hold(2, None)).is_empty());
}

#[test]
fn what_a_proxy_brings_along_is_not_sent_again_and_what_is_missing_is_held_back_in_grace() {
    let (mut shelf, mut subscriber, mut proxy) = (
        Shelf::default(),
        Subscriber::new(Duration::ZERO),
        Proxy::default(),
    );
    put(
        &mut shelf,
        &mut subscriber,
        Type::Endpoints,
        "svc/a/b",
        Some("two replicas"),
    );
    let version = shelf
        .get(Type::Endpoints, "svc/a/b")
        .unwrap()
        .version
        .to_string();
    let mut request = ask(Type::Endpoints, &["svc/a/b", "svc/a/gone", "svc/a/new"]);
    request.initial_resource_versions = BTreeMap::from([
        ("svc/a/b".to_owned(), version),
        ("svc/a/gone".to_owned(), "old".to_owned()),
    ]);
    subscriber
        .request(&request, &shelf, Duration::ZERO)
        .unwrap();
    assert!(settle(&mut subscriber, &shelf, &mut proxy, hold(0, Some(30))).is_empty());
    // One replica is not back yet.
    put(
        &mut shelf,
        &mut subscriber,
        Type::Endpoints,
        "svc/a/b",
        Some("one replica"),
    );
    assert!(settle(&mut subscriber, &shelf, &mut proxy, hold(5, Some(30))).is_empty());
    assert!(subscriber.wake_at(hold(5, Some(30))).is_some());
    put(
        &mut shelf,
        &mut subscriber,
        Type::Endpoints,
        "svc/a/b",
        Some("two replicas"),
    );
    let answers = settle(&mut subscriber, &shelf, &mut proxy, hold(31, Some(30)));
    let [answer] = answers.as_slice() else {
        panic!("{answers:?}")
    };
    assert!(answer.resources.is_empty());
    assert_eq!(answer.removed_resources, ["svc/a/gone", "svc/a/new"]);
    assert!(subscriber.wake_at(hold(31, None)).is_none());
}

#[test]
fn the_mesh_is_not_held_back_in_grace_for_it_says_who_must_not_be_called_in_clear() {
    let (mut shelf, mut subscriber, mut proxy) = (
        Shelf::default(),
        Subscriber::new(Duration::ZERO),
        Proxy::default(),
    );
    let mut request = ask(Type::Mesh, &["*"]);
    request.initial_resource_versions = BTreeMap::from([("w1".to_owned(), "old".to_owned())]);
    put(&mut shelf, &mut subscriber, Type::Mesh, "w1", Some("a"));
    subscriber
        .request(&request, &shelf, Duration::ZERO)
        .unwrap();
    let answers = settle(&mut subscriber, &shelf, &mut proxy, hold(0, Some(30)));
    assert_eq!(answers[0].resources.len(), 1);
    put(&mut shelf, &mut subscriber, Type::Mesh, "w1", Some("b"));
    let answers = settle(&mut subscriber, &shelf, &mut proxy, hold(1, Some(30)));
    assert_eq!(answers[0].resources.len(), 1);
}

#[test]
fn an_unknown_name_is_absent_within_a_second_even_in_grace() {
    let (shelf, mut subscriber, mut proxy) = (
        Shelf::default(),
        Subscriber::new(Duration::ZERO),
        Proxy::default(),
    );
    subscriber
        .request(
            &ask(Type::Destination, &["svc/a/b"]),
            &shelf,
            Duration::from_secs(5),
        )
        .unwrap();
    assert!(settle(&mut subscriber, &shelf, &mut proxy, hold(5, Some(30))).is_empty());
    let answers = settle(&mut subscriber, &shelf, &mut proxy, hold(6, Some(30)));
    assert_eq!(answers[0].removed_resources, ["svc/a/b"]);
}

#[test]
fn own_workloads_come_unasked_and_are_not_taken_from_a_proxy_that_just_returned() {
    let (mut shelf, mut subscriber, mut proxy) = (
        Shelf::default(),
        Subscriber::new(Duration::ZERO),
        Proxy::default(),
    );
    let mut request = ask(Type::OwnWorkload, &["*"]);
    request.initial_resource_versions = BTreeMap::from([("w1".to_owned(), "old".to_owned())]);
    subscriber
        .request(&request, &shelf, Duration::ZERO)
        .unwrap();
    let answers = settle(&mut subscriber, &shelf, &mut proxy, hold(0, None));
    assert!(
        answers.len() == 1
            && answers[0].resources.is_empty()
            && answers[0].removed_resources.is_empty()
    );
    put(
        &mut shelf,
        &mut subscriber,
        Type::OwnWorkload,
        "w1",
        Some("one"),
    );
    let answers = settle(&mut subscriber, &shelf, &mut proxy, hold(3, None));
    assert_eq!(answers[0].resources[0].name, "w1");
    put(&mut shelf, &mut subscriber, Type::OwnWorkload, "w1", None);
    let answers = settle(&mut subscriber, &shelf, &mut proxy, hold(4, None));
    assert_eq!(answers[0].removed_resources, ["w1"]);
}

#[test]
fn a_nack_concerns_the_resources_it_names() {
    let (mut shelf, mut subscriber) = (Shelf::default(), Subscriber::new(Duration::ZERO));
    for name in ["svc/a/b", "svc/a/bc", "svc/a/c"] {
        put(
            &mut shelf,
            &mut subscriber,
            Type::Endpoints,
            name,
            Some("one"),
        );
    }
    let request = ask(Type::Endpoints, &["svc/a/b", "svc/a/bc", "svc/a/c"]);
    subscriber
        .request(&request, &shelf, Duration::ZERO)
        .unwrap();
    let answer = subscriber.next(&shelf, hold(0, None)).unwrap();
    let message = "svc/a/bc: ports: 70000 is no port; svc/a/c: no content";
    let nack = DeltaDiscoveryRequest {
        error_detail: Some(Status {
            code: 3,
            message: message.into(),
            details: Vec::new(),
        }),
        ..ack(&answer)
    };
    subscriber.request(&nack, &shelf, Duration::ZERO).unwrap();
    let state = |name: &str| {
        let held = subscriber.held_as(Type::Endpoints, name);
        held.unwrap().state()
    };
    assert_eq!(state("svc/a/b"), State::Acked);
    assert_eq!(state("svc/a/bc"), State::Nacked("ports: 70000 is no port"));
    assert_eq!(state("svc/a/c"), State::Nacked("no content"));
    assert_eq!(subscriber.tally.nacks, 2);
    // A message that names none refuses all that it answers, and is shown as one line.
    put(
        &mut shelf,
        &mut subscriber,
        Type::Endpoints,
        "svc/a/b",
        Some("two"),
    );
    let answer = subscriber.next(&shelf, hold(0, None)).unwrap();
    let nack = DeltaDiscoveryRequest {
        error_detail: Some(Status {
            code: 3,
            message: "too\nbig".into(),
            details: Vec::new(),
        }),
        ..ack(&answer)
    };
    subscriber.request(&nack, &shelf, Duration::ZERO).unwrap();
    let held = subscriber.held_as(Type::Endpoints, "svc/a/b").unwrap();
    assert_eq!(held.state(), State::Nacked("too?big"));
    assert!(held.running().is_some() && held.running() != held.version());
}

#[test]
fn nobody_gets_everything_and_the_names_of_one_stream_are_bounded() {
    let (shelf, mut subscriber) = (Shelf::default(), Subscriber::new(Duration::ZERO));
    let everything = subscriber.request(&ask(Type::Destination, &["*"]), &shelf, Duration::ZERO);
    assert_eq!(everything, Err(ProtocolError::Wildcard("Destination")));
    let unknown = DeltaDiscoveryRequest {
        type_url: "x".into(),
        ..DeltaDiscoveryRequest::default()
    };
    assert!(matches!(
        subscriber.request(&unknown, &shelf, Duration::ZERO),
        Err(ProtocolError::Type(_))
    ));
    let names: Vec<String> = (0..20_000).map(|n| format!("svc/a/s{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    subscriber
        .request(&ask(Type::Endpoints, &names), &shelf, Duration::ZERO)
        .unwrap();
    assert_eq!(subscriber.tally.over_limit, 20_000 - 16_384);
}

#[test]
fn names_longer_than_any_that_exists_are_not_kept_nor_versions_that_nobody_gave() {
    let (mut shelf, mut subscriber) = (Shelf::default(), Subscriber::new(Duration::ZERO));
    let (long, short) = (format!("svc/a/{}", "x".repeat(507)), "svc/a/b".to_owned());
    let mut request = ask(Type::Endpoints, &[&long, &short]);
    let versions = [(long, "1".into()), (short, "v".repeat(100_000))];
    request.initial_resource_versions.extend(versions);
    subscriber
        .request(&request, &shelf, Duration::ZERO)
        .unwrap();
    assert_eq!(subscriber.tally.over_limit, 1);
    assert_eq!(subscriber.asked().count(), 1);
    let held: Vec<(&str, Option<Version>)> = subscriber
        .held(Type::Endpoints)
        .map(|(name, held, _)| (&**name, held.version()))
        .collect();
    assert_eq!(held, [("svc/a/b", None)]);
    // It is another than any that there is.
    put(
        &mut shelf,
        &mut subscriber,
        Type::Endpoints,
        "svc/a/b",
        Some("one"),
    );
    let answer = subscriber.next(&shelf, hold(0, None)).unwrap();
    assert_eq!(answer.resources.len(), 1);
}

#[test]
fn a_window_bounds_what_is_on_its_way() {
    let (mut shelf, mut subscriber) = (Shelf::default(), Subscriber::new(Duration::ZERO));
    subscriber
        .request(&ask(Type::Endpoints, &["svc/a/b"]), &shelf, Duration::ZERO)
        .unwrap();
    let mut sent = 0;
    for change in 0..100 {
        put(
            &mut shelf,
            &mut subscriber,
            Type::Endpoints,
            "svc/a/b",
            Some(&change.to_string()),
        );
        sent += usize::from(subscriber.next(&shelf, hold(0, None)).is_some());
    }
    assert_eq!(sent, 8);
}

#[test]
fn a_change_touches_the_streams_that_asked_and_no_other() {
    let (mut hub, mut shelf) = (Hub::default(), Shelf::default());
    let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
    hub.open(1, &a, Duration::ZERO);
    hub.open(2, &b, Duration::ZERO);
    hub.request(
        1,
        &ask(Type::Endpoints, &["svc/a/b"]),
        &shelf,
        Duration::ZERO,
    )
    .unwrap();
    hub.request(
        2,
        &ask(Type::Endpoints, &["svc/a/c"]),
        &shelf,
        Duration::ZERO,
    )
    .unwrap();
    let names = shelf.set(Type::Endpoints, "svc/a/b", Some([1].into()), &[]);
    assert_eq!(hub.changed(Type::Endpoints, &names), BTreeSet::from([1]));
    assert_eq!(hub.open(3, &a, Duration::ZERO), Some(1));
    assert!(hub.changed(Type::Endpoints, &names).is_empty());
}

const NAMES: [&str; 4] = ["svc/a/b", "svc/a/c", "host/10.0.0.1", "host/10.0.0.2"];
const ASKED: [&str; 6] = [
    "svc/a/b",
    "svc/a/c",
    "ip/10.0.0.1",
    "ip/10.0.0.2",
    "ip/240.240.0.7",
    "ip/10.0.0.9",
];

#[derive(Clone, Debug)]
enum Step {
    Put(usize, Option<u8>),
    Ask(usize),
    Leave(usize),
    Talk,
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..NAMES.len(), prop::option::of(0..3_u8)).prop_map(|(name, body)| Step::Put(name, body)),
        (0..ASKED.len()).prop_map(Step::Ask),
        (0..ASKED.len()).prop_map(Step::Leave),
        Just(Step::Talk),
        Just(Step::Reconnect),
    ]
}

proptest! {
    /// Whatever happens in whatever order: once both sides have talked, the proxy holds exactly what the names it
    /// asked for mean, in the newest version; and then nothing is due.
    #[test]
    fn both_sides_agree_in_the_end(steps in prop::collection::vec(step(), 1..80)) {
        let mut shelf = Shelf::default();
        let mut subscriber = Subscriber::new(Duration::ZERO);
        let mut proxy = Proxy::default();
        for step in steps {
            match step {
                Step::Put(name, body) => {
                    let body = body.map(|body| body.to_string());
                    put(&mut shelf, &mut subscriber, Type::Destination, NAMES[name], body.as_deref());
                }
                Step::Ask(name) => {
                    proxy.asked.insert(ASKED[name].into());
                    subscriber.request(&ask(Type::Destination, &[ASKED[name]]), &shelf, Duration::ZERO).unwrap();
                }
                Step::Leave(name) => {
                    proxy.asked.remove(ASKED[name]);
                    let request = DeltaDiscoveryRequest {
                        type_url: Type::Destination.url().into(),
                        resource_names_unsubscribe: vec![ASKED[name].into()],
                        ..DeltaDiscoveryRequest::default()
                    };
                    subscriber.request(&request, &shelf, Duration::ZERO).unwrap();
                    settle(&mut subscriber, &shelf, &mut proxy, hold(9, None));
                    let meant: BTreeSet<String> = proxy.asked.iter().filter_map(|asked| shelf.resolve(Type::Destination, asked)).map(|of| of.name.to_string()).collect();
                    proxy.held.retain(|name, _| meant.contains(name));
                }
                Step::Talk => {
                    settle(&mut subscriber, &shelf, &mut proxy, hold(9, None));
                }
                Step::Reconnect => {
                    subscriber = Subscriber::new(Duration::ZERO);
                    let names: Vec<&str> = proxy.asked.iter().map(String::as_str).collect();
                    let mut request = ask(Type::Destination, &names);
                    request.initial_resource_versions = proxy.held.clone();
                    subscriber.request(&request, &shelf, Duration::ZERO).unwrap();
                }
            }
        }
        settle(&mut subscriber, &shelf, &mut proxy, hold(9, None));
        let meant: BTreeMap<String, String> = proxy
            .asked
            .iter()
            .filter_map(|asked| shelf.resolve(Type::Destination, asked))
            .map(|resource| (resource.name.to_string(), resource.version.to_string()))
            .collect();
        prop_assert_eq!(&proxy.held, &meant);
        prop_assert!(subscriber.next(&shelf, hold(9, None)).is_none());
        prop_assert!(subscriber.is_in_sync());
    }
}
