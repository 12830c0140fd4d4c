//! Where requests go, who may send them, and what happens when an endpoint fails.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use leno_e2e::{Backend, Load, SOON, once_within, response, run_script};
use leno_testkit::{Answer, Member, Mesh, need_python, suite, until};

/// `catalog` v1 on a, v2 on b; `cart` twice, on a and b; `shop` and `other` call from c.
struct Fixture {
    mesh: Mesh,
    shop: Member,
    other: Member,
    _catalog: [(Member, Backend); 2],
}

fn start() -> Fixture {
    let mesh = Mesh::with(
        &["a", "b", "c"],
        &["catalog", "cart", "shop", "other", "chat", "kinds"],
    );
    let (a, b, c) = (mesh.host("a"), mesh.host("b"), mesh.host("c"));
    let v1 = mesh
        .run(&a)
        .service("catalog")
        .version("v1")
        .port("80:8080")
        .start();
    let v2 = mesh
        .run(&b)
        .service("catalog")
        .version("v2")
        .port("80:8080")
        .start();
    let serve = |member: &Member, name: &'static str| {
        Backend::http(member.listen(8080), move |request| answer(request, name))
    };
    let backends = [serve(&v1, "v1"), serve(&v2, "v2")];
    let [first, second] = backends;
    let fixture = Fixture {
        shop: mesh.run(&c).account("shop").start(),
        other: mesh.run(&c).account("other").start(),
        mesh,
        _catalog: [(v1, first), (v2, second)],
    };
    fixture.wait_for(2);
    fixture
}

/// What the catalog says: its version; `/slow` takes six seconds.
fn answer(request: &Answer, name: &str) -> Vec<u8> {
    // Long enough for others to come meanwhile.
    let slow = request.request().1.starts_with("/slow");
    std::thread::sleep(Duration::from_millis(if slow { 6_000 } else { 2 }));
    response(200, "", name)
}

impl Fixture {
    /// Waits until so many replicas of the catalog answer.
    fn wait_for(&self, replicas: usize) {
        until("every replica answers", SOON, || {
            let seen = spread(&self.shop, "catalog", 4);
            (seen.len() == replicas && seen.keys().all(|key| key.starts_with('v'))).then_some(())
        });
    }
}

/// How often each body, or "status reason", came.
fn tally(member: &Member, name: &str, head: &str, times: usize) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    let mut wire = member.connect(name, 80);
    for _ in 0..times {
        let answer = wire.ask(format!("{head}host: {name}\r\n\r\n"));
        let said = match answer.status() {
            200 => String::from_utf8_lossy(&answer.body).into_owned(),
            status => format!(
                "{status} {}",
                answer
                    .field("x-leno-refused")
                    .unwrap_or_default()
                    .split(';')
                    .next()
                    .unwrap_or_default()
            ),
        };
        *seen.entry(said).or_default() += 1;
        if answer
            .field("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
        {
            wire = member.connect(name, 80);
        }
    }
    seen
}

/// How often each body came when eight callers asked at once. (One that asks again and again is rightly answered by
/// whoever is fastest.)
fn spread(member: &Member, name: &str, each: usize) -> BTreeMap<String, usize> {
    let mut wires: Vec<_> = (0..8).map(|_| member.connect(name, 80)).collect();
    let mut seen = BTreeMap::new();
    for _ in 0..each {
        for wire in &mut wires {
            wire.send(format!("GET / HTTP/1.1\r\nhost: {name}\r\n\r\n"));
        }
        for wire in &mut wires {
            let answer = wire.message();
            let said = String::from_utf8_lossy(&answer.body).into_owned();
            *seen.entry(said).or_default() += 1;
        }
    }
    seen
}

suite!(
    start,
    [
        a_split_gives_each_version_its_share_within_a_second,
        who_would_be_cut_off_is_told_of_documents_too,
        a_route_matches_headers_methods_and_paths,
        a_route_with_a_timeout_ends_the_request,
        a_denied_caller_is_refused_with_a_reason_and_others_are_not,
        an_allowed_caller_is_the_only_one,
        no_allow_overrides_a_deny_and_the_commands_say_so,
        a_denied_callers_open_streams_are_ended,
        replicas_share_the_load,
        no_get_fails_while_a_replica_dies,
        a_rolling_restart_under_load_loses_no_request,
        a_failing_check_takes_a_replica_out_and_brings_it_back,
        a_port_that_accepts_no_more_takes_a_replica_out_while_its_service_answers,
    ]
);

fn a_split_gives_each_version_its_share_within_a_second(fixture: &mut Fixture) {
    let output = fixture
        .mesh
        .leno(&["split", "catalog", "v1=75", "v2=25"])
        .good();
    assert!(output.text().contains("programmed"), "{}", output.text());
    let seen = tally(&fixture.shop, "catalog", "GET / HTTP/1.1\r\n", 400);
    let share = |name: &str| seen.get(name).copied().unwrap_or(0);
    assert_eq!(share("v1") + share("v2"), 400, "{seen:?}");
    // Five standard deviations of a fair draw.
    assert!((57..=143).contains(&share("v2")), "{seen:?}");
    let mut to = ("v2", ["v1=0", "v2=100"]);
    let took = once_within(Duration::from_secs(1), || {
        let (version, [v1, v2]) = to;
        let since = Instant::now();
        fixture.mesh.leno(&["split", "catalog", v1, v2]).good();
        let took = since.elapsed();
        let seen = tally(&fixture.shop, "catalog", "GET / HTTP/1.1\r\n", 50);
        let all = seen.into_iter().collect::<Vec<_>>();
        assert_eq!(all, [(version.to_owned(), 50)]);
        to = match version {
            "v2" => ("v1", ["v1=100", "v2=0"]),
            _ => ("v2", ["v1=0", "v2=100"]),
        };
        took
    });
    assert_eq!(took, Ok(()));
    let nowhere = fixture.mesh.leno(&["split", "catalog", "v1=0", "v2=0"]);
    assert_eq!(nowhere.code, 2, "{}", nowhere.stderr);
    fixture
        .mesh
        .leno(&["delete", "httproute", "catalog"])
        .good();
    fixture.wait_for(2);
}

/// Calls to a version are calls to its service. Nothing is applied here: only what would be is told.
fn who_would_be_cut_off_is_told_of_documents_too(fixture: &mut Fixture) {
    tally(&fixture.shop, "catalog", "GET / HTTP/1.1\r\n", 1);
    let policy = "apiVersion: leno.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: a}\nspec:\n  targetRefs: [{kind: Service, name: catalog}]\n  action: Allow\n  rules: [{from: [{serviceAccounts: [default/front]}], to: [{ports: [1]}]}]\n";
    until("telemetry knows the call", SOON, || {
        let deny = ["deny", "*", "catalog", "--dry-run"];
        let denied = fixture.mesh.leno(&deny).good().stderr;
        let applied = fixture.mesh.apply(policy, &["--dry-run"]).good().stderr;
        assert!(applied.contains(".yaml:7"), "{applied}");
        assert!(applied.contains("listens on 1, and there"), "{applied}");
        let cut_off = |text: &str| text.contains("cuts off, of those who called");
        (cut_off(&denied) && cut_off(&applied)).then_some(())
    });
}

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: catalog}
spec:
  parentRefs: [{kind: Service, group: \"\", name: catalog}]
  rules:
  - matches: [{headers: [{name: x-canary, value: \"yes\"}]}, {method: PUT}, {path: {type: PathPrefix, value: /new}}]
    backendRefs: [{name: catalog-v2, port: 80}]
  - matches: [{path: {type: Exact, value: /slow}}]
    timeouts: {request: 400ms}
    backendRefs: [{name: catalog-v1, port: 80}]
  - backendRefs: [{name: catalog-v1, port: 80}]
";

fn a_route_matches_headers_methods_and_paths(fixture: &mut Fixture) {
    fixture.mesh.apply(ROUTE, &["--wait"]).good();
    let cases = [
        ("GET / HTTP/1.1\r\n", "v1"),
        ("GET / HTTP/1.1\r\nX-Canary: yes\r\n", "v2"),
        ("GET / HTTP/1.1\r\nX-Canary: YES\r\n", "v1"),
        ("PUT / HTTP/1.1\r\ncontent-length: 0\r\n", "v2"),
        ("GET /new HTTP/1.1\r\n", "v2"),
        ("GET /new/thing?a=1 HTTP/1.1\r\n", "v2"),
        ("GET /newer HTTP/1.1\r\n", "v1"),
    ];
    for (head, version) in cases {
        let seen = tally(&fixture.shop, "catalog", head, 6);
        assert_eq!(
            seen.into_iter().collect::<Vec<_>>(),
            [(version.to_owned(), 6)],
            "{head:?}"
        );
    }
}

fn a_route_with_a_timeout_ends_the_request(fixture: &mut Fixture) {
    fixture.mesh.apply(ROUTE, &["--wait"]).good();
    let since = Instant::now();
    let seen = tally(&fixture.shop, "catalog", "GET /slow HTTP/1.1\r\n", 1);
    assert_eq!(seen.into_keys().collect::<Vec<_>>(), ["504 UT"]);
    assert!(
        since.elapsed() < Duration::from_secs(5),
        "{:?}",
        since.elapsed()
    );
    fixture
        .mesh
        .leno(&["delete", "httproute", "catalog"])
        .good();
    fixture.wait_for(2);
}

fn a_denied_caller_is_refused_with_a_reason_and_others_are_not(fixture: &mut Fixture) {
    fixture.mesh.leno(&["deny", "shop", "catalog"]).good();
    let denied = tally(&fixture.shop, "catalog", "GET / HTTP/1.1\r\n", 20);
    assert_eq!(
        denied.into_iter().collect::<Vec<_>>(),
        [("403 RBAC".to_owned(), 20)]
    );
    let others = tally(&fixture.other, "catalog", "GET / HTTP/1.1\r\n", 20);
    assert!(
        others.keys().all(|key| key == "v1" || key == "v2"),
        "{others:?}"
    );
    let counted = |host| {
        fixture
            .mesh
            .metric(host, "leno_refused_total", &["reason=\"RBAC\""])
    };
    until("the refusals are counted", SOON, || {
        (counted("a") + counted("b") >= 20.0).then_some(())
    });
    fixture
        .mesh
        .leno(&["delete", "accesspolicy", "deny-shop-catalog"])
        .good();
    fixture.wait_for(2);
}

fn an_allowed_caller_is_the_only_one(fixture: &mut Fixture) {
    fixture.mesh.leno(&["allow", "other", "catalog"]).good();
    let denied = tally(&fixture.shop, "catalog", "GET / HTTP/1.1\r\n", 10);
    assert_eq!(denied.into_keys().collect::<Vec<_>>(), ["403 RBAC"]);
    let others = tally(&fixture.other, "catalog", "GET / HTTP/1.1\r\n", 10);
    assert!(
        others.keys().all(|key| key == "v1" || key == "v2"),
        "{others:?}"
    );
    fixture
        .mesh
        .leno(&["delete", "accesspolicy", "allow-other-catalog"])
        .good();
    fixture.wait_for(2);
}

fn no_allow_overrides_a_deny_and_the_commands_say_so(fixture: &mut Fixture) {
    let mesh = &fixture.mesh;
    let refused = || {
        let seen = tally(&fixture.other, "catalog", "GET / HTTP/1.1\r\n", 5);
        assert_eq!(seen.into_keys().collect::<Vec<_>>(), ["403 RBAC"]);
    };
    mesh.leno(&["deny", "*", "catalog"]).good();
    refused();
    let said = mesh.leno(&["allow", "other", "catalog"]);
    assert_eq!(said.code, 6, "{}", said.stderr);
    let words = "leno delete accesspolicy deny-all-catalog";
    assert!(said.stderr.contains(words), "{}", said.stderr);
    mesh.leno(&["allow", "other", "catalog", "--force"]).good();
    refused();
    for name in ["allow-other-catalog", "deny-all-catalog"] {
        mesh.leno(&["delete", "accesspolicy", name]).good();
    }
    // The natural undo of a deny that the command wrote.
    mesh.leno(&["deny", "other", "catalog"]).good();
    refused();
    let said = mesh.leno(&["allow", "other", "catalog"]).good();
    let words = "deny-other-catalog, which leno deny wrote, is deleted";
    assert!(said.stderr.contains(words), "{}", said.stderr);
    let words = "undo: leno deny other catalog; leno delete accesspolicy allow-other-catalog";
    assert!(said.stderr.contains(words), "{}", said.stderr);
    until("it may call again", SOON, || {
        let seen = tally(&fixture.other, "catalog", "GET / HTTP/1.1\r\n", 1);
        seen.keys().all(|key| key.starts_with('v')).then_some(())
    });
    mesh.leno(&["delete", "accesspolicy", "allow-other-catalog"])
        .good();
    for (caller, service, near) in [
        ("othr", "catalog", "did you mean other?"),
        ("other", "catalgo", "did you mean catalog?"),
    ] {
        let said = mesh.leno(&["deny", caller, service]);
        assert_eq!(said.code, 6, "{}", said.stderr);
        assert!(said.stderr.contains(near), "{}", said.stderr);
    }
    let stored = mesh.leno(&["get", "accesspolicies", "-o", "name"]).text();
    assert!(
        !stored.contains("othr") && !stored.contains("catalgo"),
        "{stored}"
    );
    fixture.wait_for(2);
}

fn a_denied_callers_open_streams_are_ended(fixture: &mut Fixture) {
    let (grpc, _) = (need_python!("grpc"), need_python!("websockets"));
    let a = fixture.mesh.host("a");
    let chat = fixture
        .mesh
        .run(&a)
        .service("chat")
        .port("80:8080")
        .option("check", "none")
        .start();
    let kinds = fixture
        .mesh
        .run(&a)
        .service("kinds")
        .port("50051/grpc")
        .option("check", "none")
        .start();
    let _chat = chat.spawn(&mut run_script(&grpc, "websocket_server.py", &["8080"]));
    let _kinds = kinds.spawn(&mut run_script(&grpc, "grpc_server.py", &["50051"]));
    let mut socket = fixture.shop.spawn(&mut run_script(
        &grpc,
        "websocket_client.py",
        &["ws://chat/", "stream"],
    ));
    let mut stream = fixture.shop.spawn(&mut run_script(
        &grpc,
        "grpc_client.py",
        &["kinds:50051", "stream"],
    ));
    until("both streams run", Duration::from_secs(20), || {
        let run = socket.stdout().contains("frames 21") && stream.stdout().contains("echo\necho");
        run.then_some(())
    });
    for (name, process) in [("chat", &mut socket), ("kinds", &mut stream)] {
        // How soon: see the test with ten rotations.
        fixture.mesh.leno(&["deny", "shop", name]).good();
        until("the stream is ended", SOON, || {
            process.stdout().contains("ended").then_some(())
        });
        fixture
            .mesh
            .leno(&["delete", "accesspolicy", &format!("deny-shop-{name}")])
            .good();
    }
}

fn replicas_share_the_load(fixture: &mut Fixture) {
    let seen = spread(&fixture.shop, "catalog", 50);
    assert!(
        seen.values().all(|count| *count >= 60) && seen.len() == 2,
        "{seen:?}"
    );
}

fn no_get_fails_while_a_replica_dies(fixture: &mut Fixture) {
    let b = fixture.mesh.host("b");
    let third = fixture
        .mesh
        .run(&b)
        .service("catalog")
        .version("v3")
        .port("80:8083")
        .start();
    let backend = Backend::http(third.listen(8083), |_| response(200, "", "v3"));
    fixture.wait_for(3);
    let loads: Vec<Load> = [1, 50]
        .into_iter()
        .map(|each| Load::start(&fixture.shop, "catalog", each))
        .collect();
    let more = |count| loads.iter().for_each(|load| load.more(count));
    more(50);
    // The program first, as when it crashes; then its whole `leno run`.
    drop(backend);
    more(50);
    let mut third = third;
    third.process.kill();
    until("the replica is gone", SOON, || {
        let status = fixture.mesh.api("/leno/v1/proxies").to_string();
        (!status.contains("\"v3\"")).then_some(())
    });
    more(50);
    for load in loads {
        let tally = load.stop();
        assert!(tally.bad.is_empty(), "{tally:?}");
    }
}

fn a_rolling_restart_under_load_loses_no_request(fixture: &mut Fixture) {
    let hosts = ["a", "b"].map(|name| fixture.mesh.host(name));
    let replica = |on: usize| {
        let run = fixture.mesh.run(&hosts[on]);
        let member = run.service("cart").port("80:8085").start();
        let backend = Backend::http(member.listen(8085), |_| response(200, "", "cart"));
        (member, backend)
    };
    let mut replicas = VecDeque::from([0, 1].map(&replica));
    let called = |backend: &Backend| !backend.seen().is_empty();
    until("the cart answers", SOON, || {
        let mut wire = fixture.shop.try_connect("cart", 80).ok()?;
        wire.try_send("GET / HTTP/1.1\r\nhost: cart\r\n\r\n").ok()?;
        (wire.try_message().ok()?.status() == 200).then_some(())
    });
    let loads = [
        Load::start(&fixture.shop, "cart", 50),
        Load::posts(&fixture.shop, "cart", 1),
        Load::posts(&fixture.shop, "cart", 50),
    ];
    for on in [0, 1, 0, 1] {
        until("each replica is called", Duration::from_secs(20), || {
            replicas.iter().all(|(_, log)| called(log)).then_some(())
        });
        let (gone, _answering) = replicas.pop_front().expect("two");
        assert_eq!(gone.stop(), 128 + 15);
        replicas.push_back(replica(on));
        loads.iter().for_each(|load| load.more(20));
    }
    for load in loads {
        let tally = load.stop();
        assert!(tally.bad.is_empty(), "{tally:?}");
    }
}

fn a_failing_check_takes_a_replica_out_and_brings_it_back(fixture: &mut Fixture) {
    let b = fixture.mesh.host("b");
    let fit = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let replica = fixture
        .mesh
        .run(&b)
        .service("catalog")
        .version("v4")
        .port("80:8084")
        .option("check", "http:/ready")
        .start();
    let asked = std::sync::Arc::clone(&fit);
    let _backend = Backend::http(replica.listen(8084), move |request| {
        let fit = asked.load(std::sync::atomic::Ordering::Relaxed);
        let status = if request.request().1 == "/ready" && !fit {
            500
        } else {
            200
        };
        response(status, "", "v4")
    });
    fixture.wait_for(3);
    fit.store(false, std::sync::atomic::Ordering::Relaxed);
    until("it is known to be unfit", SOON, || {
        let status = fixture.mesh.leno(&["status"]).good().text();
        status.contains("unhealthy").then_some(())
    });
    until("it gets nothing any more", SOON, || {
        (spread(&fixture.shop, "catalog", 5).len() == 2).then_some(())
    });
    assert_eq!(spread(&fixture.shop, "catalog", 30).len(), 2);
    fit.store(true, std::sync::atomic::Ordering::Relaxed);
    fixture.wait_for(3);
    assert_eq!(replica.stop(), 128 + 15);
}

/// The check alone: what callers call accepts all the time.
fn a_port_that_accepts_no_more_takes_a_replica_out_while_its_service_answers(
    fixture: &mut Fixture,
) {
    let b = fixture.mesh.host("b");
    let replica = fixture.mesh.run(&b).service("catalog").version("v5");
    // Its first port is what is asked.
    let replica = replica.port("81:8090").port("80:8084").start();
    let _backend = Backend::http(replica.listen(8084), |_| response(200, "", "v5"));
    let accepts = || Backend::connections(replica.listen(8090), drop);
    let checked = accepts();
    fixture.wait_for(3);
    drop(checked);
    until("it gets nothing any more", SOON, || {
        (spread(&fixture.shop, "catalog", 5).len() == 2).then_some(())
    });
    let seen = spread(&fixture.shop, "catalog", 30);
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(
        seen.keys().all(|key| key.starts_with('v')),
        "no call failed: {seen:?}"
    );
    let _checked = accepts();
    fixture.wait_for(3);
    assert_eq!(replica.stop(), 128 + 15);
}
