//! Further names of services, as templates make them.

use std::net::IpAddr;

use hickory_proto::{op::ResponseCode, rr::RecordType};
use leno_dataplane::Update;
use leno_types::ServiceName;

use crate::{
    apps::{ask, get, http1, ok},
    discovery::{resolve, resolver},
    host::{Host, World},
    run,
};

#[test]
fn a_templates_name_means_its_service_and_requests_to_it_are_the_services() {
    run(async {
        let world = World::new();
        let (one, two) = (Host::start(&world), Host::start(&world));
        let (port, log) = http1(two.ip, |_| ok("cart"));
        let web = one.workload("web", &[]).await;
        let cart = two.workload("cart", &[(80, port, None)]).await;
        let to = world.service("shop/cart", 80, None, vec![cart.endpoint]);
        world.name("cart.mesh.local", Some("shop/cart"));
        let captured = one.capture(&web);
        let four = resolve(captured, "Cart.Mesh.LOCAL.", RecordType::A).await;
        assert_eq!(four.answers[0].data.ip_addr(), Some(to.ip()));
        let six = resolve(captured, "cart.mesh.local.", RecordType::AAAA).await;
        let expected: IpAddr = "2001:2::1".parse().unwrap();
        assert_eq!(six.answers[0].data.ip_addr(), Some(expected));
        let request = get("/").replace("Host: app", "Host: cart.mesh.local");
        let answer = ask(&mut captured.connect(to).await, &request).await;
        assert_eq!(answer.status(), 200);
        assert!(
            log.borrow()[0].contains("cart.mesh.local"),
            "{:?}",
            log.borrow()
        );
        one.seen
            .until("an edge to the service", |seen| {
                let totals = seen.totals.borrow();
                let mut edges = totals.edges();
                edges.any(|(edge, _)| &*edge.destination_service == "cart.shop.svc.cluster.local")
            })
            .await;
    });
}

#[test]
fn a_name_follows_who_has_it_and_nobodys_is_asked_outside() {
    run(async {
        let world = World::new();
        let (at, asked) = resolver().await;
        let one = Host::start_with(&world, |config| {
            config.dns_upstreams = vec![at];
            config.dns_search = vec!["mesh.local".into()];
        });
        let web = one.workload("web", &[]).await;
        let a = world.service("shop/a", 80, None, Vec::new());
        let b = world.service("shop/b", 80, None, Vec::new());
        world.name("x.mesh.local", Some("shop/a"));
        let captured = one.capture(&web);
        let address = async |name: &str| {
            let answer = resolve(captured, name, RecordType::A).await;
            answer.answers.first().and_then(|of| of.data.ip_addr())
        };
        assert_eq!(address("x.mesh.local.").await, Some(a.ip()));
        // What the search list makes of a name of one's own namespace means that, whatever a template says.
        world.name("b.mesh.local", Some("shop/a"));
        assert_eq!(address("b.mesh.local.").await, Some(b.ip()));
        assert!(asked.borrow().is_empty(), "{:?}", asked.borrow());
        world.name("x.mesh.local", Some("shop/b"));
        while address("x.mesh.local.").await != Some(b.ip()) {}
        // The services themselves are who they were.
        assert_eq!(address("a.").await, Some(a.ip()));
        assert_eq!(address("b.").await, Some(b.ip()));
        world.name("x.mesh.local", None);
        let outside: IpAddr = [192, 0, 2, 1].into();
        while address("x.mesh.local.").await != Some(outside) {}
        assert_eq!(*asked.borrow(), ["x.mesh.local."]);
    });
}

#[test]
fn below_a_templates_domain_nothing_is_asked_outside_while_nobody_can_tell() {
    run(async {
        let world = World::new();
        let (at, asked) = resolver().await;
        let one = Host::start_with(&world, |config| config.dns_upstreams = vec![at]);
        let web = one.workload("web", &[]).await;
        let captured = one.capture(&web);
        one.send(Update::ControlPlane { connected: false });
        let answer = resolve(captured, "x.mesh.local.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        assert!(asked.borrow().is_empty(), "{:?}", asked.borrow());
        let answer = resolve(captured, "x.other.local.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    });
}

#[test]
fn a_templates_name_of_a_headless_service_means_its_endpoints() {
    run(async {
        let world = World::new();
        let one = Host::start(&world);
        let web = one.workload("web", &[]).await;
        let name: ServiceName = "shop/each".parse().unwrap();
        world.service("shop/each", 80, None, vec![web.endpoint.clone()]);
        {
            let mut services = world.services.borrow_mut();
            let each = services.get_mut(&name).unwrap();
            (each.headless, each.vips) = (true, Vec::new());
        }
        world.name("each.mesh.local", Some("shop/each"));
        let answer = resolve(one.capture(&web), "each.mesh.local.", RecordType::A).await;
        let all: Vec<_> = answer.answers.iter().map(|of| of.data.ip_addr()).collect();
        assert_eq!(all, [Some(one.ip)]);
    });
}
