//! The three answers about a destination (CP7), and names.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{DNSClass, Name, RData, RecordType},
};
use leno_dataplane::Update;
use leno_telemetry::counters::Counter;
use leno_types::{Refusal, ServiceName};
use tokio::{io::AsyncReadExt, net::UdpSocket};

use crate::{
    apps::{ask, get, http1, ok, server_first},
    host::{Captured, Host, World},
    run,
};

#[test]
fn what_is_unknown_inside_the_mesh_is_refused_and_never_called_in_clear() {
    run(async {
        let world = World::new();
        let one = Host::start(&world);
        let web = one.workload("web", &[]).await;
        let captured = one.capture(&web);
        // Somebody would even answer there in clear.
        let (port, log) = http1([127, 7, 9, 9].into(), |_| ok("plaintext"));
        let to = SocketAddr::from(([127, 7, 9, 9], port));
        let mut stream = captured.connect(to).await;
        let refused = ask(&mut stream, &get("/")).await;
        assert_eq!(refused.status(), 503);
        assert!(refused.field("x-leno-refused").unwrap().starts_with("UD; "));
        // Bytes are refused by a reset.
        let mut stream = captured.connect(to).await;
        assert!(stream.read_u8().await.is_err());
        assert!(log.borrow().is_empty());
    });
}

#[test]
fn a_destination_that_is_not_answered_is_refused_in_time_and_at_once_without_a_control_plane() {
    run(async {
        let world = World::new();
        let one = Host::start(&world);
        one.seen.silent.set(true);
        let web = one.workload("web", &[]).await;
        let captured = one.capture(&web);
        let to = SocketAddr::from(([10, 77, 0, 1], 80));
        let begun = Instant::now();
        let refused = ask(&mut captured.connect(to).await, &get("/")).await;
        assert!(refused.field("x-leno-refused").unwrap().starts_with("DT; "));
        assert!(begun.elapsed().as_millis() >= 1_900);

        one.send(Update::ControlPlane { connected: false });
        let begun = Instant::now();
        let to = SocketAddr::from(([10, 77, 0, 2], 80));
        let refused = ask(&mut captured.connect(to).await, &get("/")).await;
        assert!(refused.field("x-leno-refused").unwrap().starts_with("DT; "));
        assert!(begun.elapsed().as_millis() < 1_500);
        one.seen
            .until("the refusals", |seen| seen.refusals.borrow().len() == 2)
            .await;
        assert!(
            one.seen
                .refusals
                .borrow()
                .iter()
                .all(|record| record.reason == Refusal::DiscoveryTimeout)
        );
    });
}

#[test]
fn what_is_known_is_served_on_without_a_control_plane_and_the_outside_is_reached_in_clear() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let (port, _) = http1(two.ip, |_| ok("cart"));
        let web = one.workload("web", &[]).await;
        let cart = two.workload("cart", &[(80, port, None)]).await;
        let vip = world.service("shop/cart", 80, None, vec![cart.endpoint]);
        let captured = one.capture(&web);
        assert_eq!(
            ask(&mut captured.connect(vip).await, &get("/"))
                .await
                .text(),
            "cart"
        );
        one.send(Update::ControlPlane { connected: false });
        two.send(Update::ControlPlane { connected: false });
        for _ in 0..3 {
            assert_eq!(
                ask(&mut captured.connect(vip).await, &get("/"))
                    .await
                    .text(),
                "cart"
            );
        }
        // 127.0.0.1 is outside what this mesh claims.
        let outside = server_first([127, 0, 0, 1].into(), "hello");
        let mut stream = captured.connect(([127, 0, 0, 1], outside).into()).await;
        let mut banner = [0; 5];
        stream.read_exact(&mut banner).await.unwrap();
        assert_eq!(&banner, b"hello");
        assert_eq!(
            one.seen.asked.borrow().len(),
            1,
            "{:?}",
            one.seen.asked.borrow()
        );
    });
}

#[test]
fn a_member_called_by_its_own_address_is_reached_by_mutual_tls() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let (port, _) = http1(two.ip, |_| ok("cart"));
        let web = one.workload("web", &[]).await;
        let cart = two.workload("cart", &[(80, port, None)]).await;
        world.host(two.ip, vec![cart.endpoint]);
        let captured = one.capture(&web);
        let to = SocketAddr::new(two.ip, port);
        assert_eq!(
            ask(&mut captured.connect(to).await, &get("/")).await.text(),
            "cart"
        );
        two.seen
            .until("an mTLS edge", |seen| {
                let totals = seen.totals.borrow();
                totals
                    .edges()
                    .any(|(edge, _)| edge.mtls && edge.source_identity.is_some())
            })
            .await;
        // A port that nobody registered there is not the mesh's to call.
        let other = SocketAddr::new(two.ip, 22);
        let refused = ask(&mut captured.connect(other).await, &get("/")).await;
        assert!(refused.field("x-leno-refused").unwrap().starts_with("UD; "));
        // And the proxies' own ports are a loop.
        let own = SocketAddr::new(two.ip, 15008);
        let refused = ask(&mut captured.connect(own).await, &get("/")).await;
        assert_eq!(refused.status(), 508);
    });
}

#[test]
fn addresses_beyond_the_ceiling_make_room_and_are_unsubscribed() {
    run(async {
        let world = World::new();
        let one = Host::start_with(&world, |config| config.limits.destinations = 4);
        let web = one.workload("web", &[]).await;
        let captured = one.capture(&web);
        for last in 1..=10 {
            let to = SocketAddr::from(([10, 77, 1, last], 80));
            let refused = ask(&mut captured.connect(to).await, &get("/")).await;
            assert!(refused.field("x-leno-refused").unwrap().starts_with("UD; "));
        }
        assert_eq!(one.seen.asked.borrow().len(), 10);
        assert_eq!(one.seen.forgotten.borrow().len(), 6);
    });
}

#[test]
fn a_destination_that_is_not_used_is_unsubscribed_and_one_that_is_stays() {
    run(async {
        let world = World::new();
        let one = Host::start_with(&world, |config| {
            config.limits.destination_idle = Duration::from_secs(2);
        });
        let web = one.workload("web", &[]).await;
        let captured = one.capture(&web);
        let call = async |to| {
            let refused = ask(&mut captured.connect(to).await, &get("/")).await;
            assert!(refused.field("x-leno-refused").unwrap().starts_with("UD; "));
        };
        let (asked, forgotten) = (&one.seen.asked, &one.seen.forgotten);
        // A machine that stands still leaves everything unused: then it is tried with other addresses.
        for last in [1, 3, 5, 7] {
            let [unused, used] =
                [last, last + 1].map(|last| SocketAddr::from(([10, 77, 1, last], 80)));
            let before = (asked.borrow().len(), forgotten.borrow().len());
            call(unused).await;
            let (begun, mut called, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
            while forgotten.borrow().len() == before.1 {
                call(used).await;
                longest = longest.max(called.elapsed());
                called = Instant::now();
                assert!(begun.elapsed() < Duration::from_secs(15));
            }
            if longest > Duration::from_millis(1_500) {
                continue;
            }
            assert!(begun.elapsed() >= Duration::from_millis(1_900));
            let asked_for = asked.borrow()[before.0..].to_vec();
            assert_eq!(forgotten.borrow()[before.1..], asked_for[..1]);
            assert_eq!(asked_for.len(), 2, "{asked_for:?}");
            // Called again, it is asked for again.
            call(unused).await;
            assert_eq!(asked.borrow().len(), before.0 + 3);
            return;
        }
        panic!("the machine stood still each time");
    });
}

pub async fn resolve(captured: Captured, name: &str, kind: RecordType) -> Message {
    exchange(
        captured,
        &[Query::query(Name::from_ascii(name).unwrap(), kind)],
    )
    .await
}

async fn exchange(captured: Captured, questions: &[Query]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    for question in questions {
        query.add_query(question.clone());
    }
    let bytes = query.to_vec().unwrap();
    socket.send_to(&bytes, captured.dns).await.unwrap();
    let mut buffer = vec![0; 4096];
    let (length, _) = socket.recv_from(&mut buffer).await.unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

/// A resolver outside that says 192.0.2.1 to everything, and what it was asked.
pub async fn resolver() -> (SocketAddr, Rc<RefCell<Vec<String>>>) {
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = upstream.local_addr().unwrap();
    let asked = Rc::new(RefCell::new(Vec::new()));
    let asked_ = Rc::clone(&asked);
    tokio::task::spawn_local(async move {
        let mut buffer = vec![0; 4096];
        while let Ok((length, from)) = upstream.recv_from(&mut buffer).await {
            let mut message = Message::from_vec(&buffer[..length])
                .unwrap()
                .into_response();
            let name = message.queries[0].name().clone();
            asked_.borrow_mut().push(name.to_ascii());
            let data = RData::A("192.0.2.1".parse::<std::net::Ipv4Addr>().unwrap().into());
            message.add_answer(hickory_proto::rr::Record::from_rdata(name, 1, data));
            let bytes = message.to_vec().unwrap();
            upstream.send_to(&bytes, from).await.unwrap();
        }
    });
    (at, asked)
}

#[test]
fn without_a_control_plane_no_name_that_may_be_the_meshs_is_asked_outside() {
    run(async {
        let world = World::new();
        let (at, asked) = resolver().await;
        let one = Host::start_with(&world, |config| {
            config.dns_upstreams = vec![at];
            config.dns_search = vec!["corp.example".into()];
        });
        let web = one.workload("web", &[]).await;
        let captured = one.capture(&web);
        let code = async |name: &str| {
            let answer = resolve(captured, name, RecordType::A).await;
            answer.metadata.response_code
        };
        one.seen.silent.set(true);
        assert_eq!(code("vault.bank.").await, ResponseCode::ServFail, "slow");
        one.send(Update::ControlPlane { connected: false });
        for name in ["safe.bank.", "nobody.", "www.corp.example."] {
            assert_eq!(code(name).await, ResponseCode::ServFail, "{name}");
        }
        assert!(asked.borrow().is_empty(), "{:?}", asked.borrow());
        for name in ["example.com.", "www.example.com.", "a.www.corp.example."] {
            assert_eq!(code(name).await, ResponseCode::NoError, "{name}");
        }
        assert_eq!(asked.borrow().len(), 3);
        one.seen.silent.set(false);
        one.send(Update::ControlPlane { connected: true });
        // What is nobody's in a namespace of the mesh does not exist.
        while code("other.bank.").await != ResponseCode::NXDomain {}
        assert_eq!(asked.borrow().len(), 3);
    });
}

#[test]
fn names_of_the_mesh_are_answered_here_and_all_others_by_the_hosts_resolver() {
    run(async {
        let world = World::new();
        let (at, asked) = resolver().await;
        let one = Host::start_with(&world, |config| config.dns_upstreams = vec![at]);
        let web = one.workload("web", &[]).await;
        let vip = world.service("shop/cart", 80, None, Vec::new());
        let captured = one.capture(&web);
        for name in ["cart.", "CART.shop.", "cart.shop.svc.cluster.local."] {
            let answer = resolve(captured, name, RecordType::A).await;
            assert_eq!(answer.answers[0].data.ip_addr(), Some(vip.ip()), "{name}");
        }
        let six = resolve(captured, "cart.", RecordType::AAAA).await;
        assert_eq!(
            six.answers[0].data.ip_addr(),
            Some("2001:2::1".parse().unwrap())
        );
        let none = resolve(captured, "cart.", RecordType::MX).await;
        assert_eq!(none.metadata.response_code, ResponseCode::NoError);
        assert!(none.answers.is_empty());
        for unknown in ["nobody.", "nobody.shop.", "nobody.bank.svc."] {
            let answer = resolve(captured, unknown, RecordType::A).await;
            assert_eq!(
                answer.metadata.response_code,
                ResponseCode::NXDomain,
                "{unknown}"
            );
        }
        let mut query = Query::query(Name::from_ascii("cart.").unwrap(), RecordType::A);
        query.set_query_class(DNSClass::CH);
        let none = exchange(captured, &[query]).await;
        assert_eq!(none.metadata.response_code, ResponseCode::NoError);
        assert!(none.answers.is_empty());
        let two = ["www.example.com.", "cart."]
            .map(|name| Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        let refused = exchange(captured, &two).await;
        assert_eq!(refused.metadata.response_code, ResponseCode::FormErr);
        assert!(asked.borrow().is_empty(), "{:?}", asked.borrow());
        for outside in ["example.com.", "www.example.com."] {
            let answer = resolve(captured, outside, RecordType::A).await;
            assert_eq!(
                answer.answers[0].data.ip_addr(),
                Some([192, 0, 2, 1].into())
            );
        }
        assert_eq!(asked.borrow().len(), 2);
        one.seen
            .until("counters", |seen| {
                seen.counters.borrow().get(Counter::DnsMeshAnswers) == 9
            })
            .await;
    });
}

#[test]
fn a_headless_name_is_only_what_the_mesh_claims() {
    run(async {
        let world = World::new();
        let one = Host::start(&world);
        let web = one.workload("web", &[]).await;
        let mut endpoint = web.endpoint.clone();
        // Called by its own address: outside of the mesh's ranges that would be in clear.
        endpoint.addresses = ["192.0.2.7", "127.7.0.9"]
            .map(|ip| ip.parse().unwrap())
            .into();
        world.service("shop/each", 80, None, vec![endpoint]);
        let name: ServiceName = "shop/each".parse().unwrap();
        {
            let mut services = world.services.borrow_mut();
            let each = services.get_mut(&name).unwrap();
            (each.headless, each.vips) = (true, Vec::new());
        }
        let answer = resolve(one.capture(&web), "each.", RecordType::A).await;
        let all: Vec<_> = answer.answers.iter().map(|of| of.data.ip_addr()).collect();
        assert_eq!(all, [Some([127, 7, 0, 9].into())]);
    });
}

#[test]
fn a_headless_name_of_many_is_some_of_them_in_one_small_answer() {
    run(async {
        const MANY: u16 = 1_500;
        let world = World::new();
        let one = Host::start(&world);
        let web = one.workload("web", &[]).await;
        let endpoints = (0..MANY).map(|number| {
            let [third, fourth] = number.to_be_bytes();
            let mut endpoint = web.endpoint.clone();
            endpoint.uid = format!("{number:032x}").parse().unwrap();
            endpoint.addresses = vec![[127, 7, third, fourth].into()];
            endpoint
        });
        world.service("shop/each", 80, None, endpoints.collect());
        {
            let name: ServiceName = "shop/each".parse().unwrap();
            let mut services = world.services.borrow_mut();
            let each = services.get_mut(&name).unwrap();
            (each.headless, each.vips) = (true, Vec::new());
        }
        let captured = one.capture(&web);
        let mut seen = BTreeSet::new();
        for _ in 0..40 {
            let answer = resolve(captured, "each.", RecordType::A).await;
            // What fits into the smallest datagram is never cut off, so that nobody has to ask again by TCP.
            assert!(!answer.metadata.truncation && answer.to_vec().unwrap().len() <= 512);
            assert_eq!(answer.answers.len(), 8);
            let addresses = answer.answers.iter().map(|of| of.data.ip_addr().unwrap());
            seen.extend(addresses);
        }
        assert!(seen.len() > 100, "always the same: {seen:?}");
    });
}

#[test]
fn a_service_that_has_no_address_yet_is_not_taken_for_a_headless_one() {
    run(async {
        let world = World::new();
        let one = Host::start(&world);
        let web = one.workload("web", &[]).await;
        world.service("shop/late", 80, None, vec![web.endpoint.clone()]);
        let name: ServiceName = "shop/late".parse().unwrap();
        {
            let mut services = world.services.borrow_mut();
            services.get_mut(&name).unwrap().vips.clear();
        }
        let answer = resolve(one.capture(&web), "late.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    });
}

#[test]
fn names_are_answered_over_tcp_and_without_ipv6_there_are_no_aaaa() {
    use tokio::io::AsyncWriteExt;
    run(async {
        let world = World::new();
        let one = Host::start_with(&world, |config| config.ipv6 = false);
        let web = one.workload("web", &[]).await;
        let vip = world.service("shop/cart", 80, None, Vec::new());
        let captured = one.capture(&web);
        let mut stream = tokio::net::TcpStream::connect(captured.dns_tcp)
            .await
            .unwrap();
        for (kind, expected) in [(RecordType::A, Some(vip.ip())), (RecordType::AAAA, None)] {
            let mut query = Message::query();
            query.add_query(Query::query(Name::from_ascii("cart.").unwrap(), kind));
            let bytes = query.to_vec().unwrap();
            stream
                .write_u16(bytes.len().try_into().unwrap())
                .await
                .unwrap();
            stream.write_all(&bytes).await.unwrap();
            let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
            stream.read_exact(&mut answer).await.unwrap();
            let answer = Message::from_vec(&answer).unwrap();
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
            assert_eq!(
                answer.answers.first().and_then(|r| r.data.ip_addr()),
                expected
            );
        }
    });
}

#[test]
fn a_kept_connection_does_not_keep_a_refusal_that_is_history() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let (port, _) = http1(two.ip, |_| ok("cart"));
        let web = one.workload("web", &[]).await;
        let cart = two.workload("cart", &[(80, port, None)]).await;
        let captured = one.capture(&web);
        // Nothing is there yet, neither a service behind the address nor an endpoint of the other one.
        let unknown = SocketAddr::from(([240, 240, 0, 2], 80));
        let empty = world.service("shop/empty", 80, None, Vec::new());
        let mut first = captured.connect(unknown).await;
        let refused = ask(&mut first, &get("/")).await;
        assert!(refused.field("x-leno-refused").unwrap().starts_with("UD; "));
        let mut second = captured.connect(empty).await;
        let refused = ask(&mut second, &get("/")).await;
        assert!(refused.field("x-leno-refused").unwrap().starts_with("UH; "));
        one.seen
            .until("a refusal labelled by its service", |seen| {
                let totals = seen.totals.borrow();
                let mut edges = totals.edges();
                edges.any(|(edge, _)| &*edge.destination_service == "empty.shop.svc.cluster.local")
            })
            .await;
        assert_eq!(
            world.service("shop/cart", 80, None, vec![cart.endpoint.clone()]),
            unknown
        );
        world.route("shop/cart", Vec::new());
        world.set_endpoints("shop/empty", vec![cart.endpoint]);
        for stream in [&mut first, &mut second] {
            while ask(stream, &get("/")).await.status() != 200 {
                tokio::task::yield_now().await;
            }
        }
    });
}
