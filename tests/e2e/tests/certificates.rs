//! Certificates of ten seconds under load: nothing fails, nothing begins on one that has ended.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use leno_e2e::{Backend, Load, SOON, response, run_script};
use leno_testkit::{Member, Mesh, suite, until};

/// So long the load runs: more than three lives of a certificate.
const HOW_LONG: Duration = Duration::from_secs(34);

struct Fixture {
    mesh: Mesh,
    web: Member,
    socket: Member,
    caller: Member,
    _backend: Backend,
}

fn start() -> Fixture {
    let mut mesh = Mesh::builder()
        .option("workload-ttl", "10s")
        .services(&["web", "socket"])
        .start();
    mesh.join("a");
    mesh.join("b");
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let web = mesh.run(&a).service("web").port("80:8080").start();
    let backend = Backend::http(web.listen(8080), |_| response(200, "", "ok"));
    let socket = mesh
        .run(&a)
        .service("socket")
        .port("80:8081")
        .option("check", "none")
        .start();
    let caller = mesh.run(&b).start();
    until("web answers", SOON, || {
        let mut wire = caller.try_connect("web", 80).ok()?;
        wire.try_send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").ok()?;
        wire.try_message().ok()
    });
    Fixture {
        mesh,
        web,
        socket,
        caller,
        _backend: backend,
    }
}

suite!(start, [nothing_fails_while_certificates_change_under_load]);

fn serials(mesh: &Mesh, account: &str) -> BTreeSet<String> {
    let proxies = mesh.api("/leno/v1/proxies");
    let all = proxies.as_array().expect("a list").iter();
    let certificates = all.flat_map(|proxy| {
        proxy["certificates"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    });
    let own = certificates.filter(|of| {
        of["identity"]
            .as_str()
            .is_some_and(|identity| identity.ends_with(account))
    });
    own.filter_map(|of| of["serial"].as_str().map(str::to_owned))
        .collect()
}

fn nothing_fails_while_certificates_change_under_load(fixture: &mut Fixture) {
    let python = leno_testkit::module_of_python("websockets");
    let mut chat = python.as_ref().map(|python| {
        let server =
            fixture
                .socket
                .spawn(&mut run_script(python, "websocket_server.py", &["8081"]));
        let client = fixture.caller.spawn(&mut run_script(
            python,
            "websocket_client.py",
            &["ws://socket/", "stream"],
        ));
        (server, client)
    });
    let loads: Vec<Load> = [1, 100, 1_000_000]
        .into_iter()
        .map(|each| Load::start(&fixture.caller, "web", each))
        .collect();
    let end = Instant::now() + HOW_LONG;
    let (mut web, mut most) = (BTreeSet::new(), 0.0_f64);
    while Instant::now() < end {
        web.extend(serials(&fixture.mesh, "/sa/web"));
        most = most.max(fixture.mesh.metric("a", "leno_open_mesh_connections", &[]));
        std::thread::sleep(Duration::from_millis(250));
    }
    for load in loads {
        let tally = load.stop();
        assert!(tally.good > 1_000, "{}", tally.good);
        assert!(
            tally.bad.is_empty(),
            "{} failed: {:?}",
            tally.bad.len(),
            tally.bad.first()
        );
    }
    assert!(web.len() >= 4, "{web:?}");
    assert!(most <= 12.0, "{most} connections at once");
    assert!(
        fixture
            .mesh
            .metric("b", "leno_certificate_rotations_total", &[])
            >= 3.0
    );
    if let Some((_, client)) = &mut chat {
        let said = client.stdout();
        assert!(
            client.ended().is_none() && !said.contains("ended"),
            "{said}{}",
            client.stderr()
        );
        assert!(said.lines().count() > 50, "{said}");
    }
    assert_eq!(fixture.web.process.ended(), None);
}
