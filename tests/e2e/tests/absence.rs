//! The control plane is away: what runs goes on, nothing new is let out in clear, and its return is noticed.

use std::{
    net::{SocketAddr, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

use leno_e2e::{Backend, Load, SOON, once_within, response};
use leno_testkit::{Capture, Member, Mesh, PAYLOAD, Signal, Wire, suite, until_ok};

/// What cannot be reached is refused within this.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);

/// `web` and `late` on a, called from b; an outside host with an HTTP server.
struct Fixture {
    mesh: Mesh,
    web: Member,
    late: Member,
    caller: Member,
    late_vip: SocketAddr,
    outside: SocketAddr,
    _backends: Vec<Backend>,
}

fn start() -> Fixture {
    let mut mesh = Mesh::with(&["a", "b"], &["web", "late", "new"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let web = mesh.run(&a).service("web").port("80:8080").start();
    let late = mesh.run(&a).service("late").port("80:8081").start();
    let stranger = mesh.network.add_outside("world");
    let outside = SocketAddr::from((stranger.v4, 8000));
    let backends = vec![
        Backend::http(web.listen(8080), |_| response(200, "", PAYLOAD)),
        Backend::http(late.listen(8081), |_| response(200, "", "late")),
        Backend::http(stranger.listen(outside).expect("a listener"), |_| {
            response(200, "", "world")
        }),
    ];
    let caller = mesh.run(&b).start();
    until_ok("web answers", SOON, || get(&caller, "web"));
    // Asked for where it is hosted: the caller's proxy has never heard of it.
    let mut late_vip = *web
        .look_up("late")
        .expect("late")
        .iter()
        .find(|of| of.is_ipv4())
        .expect("an IPv4 address");
    late_vip.set_port(80);
    Fixture {
        mesh,
        web,
        late,
        caller,
        late_vip,
        outside,
        _backends: backends,
    }
}

suite!(
    start,
    [
        traffic_goes_on_when_the_control_plane_is_killed,
        an_unseen_destination_is_refused_with_a_reason_and_in_clear_not_a_byte,
        a_destination_outside_still_works,
        a_host_says_for_how_long_its_programs_go_on,
        an_agent_restarted_meanwhile_serves_on,
        an_agent_killed_meanwhile_serves_on_after_its_restart,
        its_return_is_noticed_and_nothing_is_lost,
    ]
);

fn get(member: &Member, name: &str) -> Result<String, String> {
    let mut wire = member
        .try_connect(name, 80)
        .map_err(|error| error.to_string())?;
    let asked = format!("GET / HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
    wire.try_send(asked)
        .and_then(|()| wire.try_message())
        .map_err(|error| error.to_string())
        .and_then(|answer| match answer.status() {
            200 => Ok(String::from_utf8_lossy(&answer.body).into_owned()),
            _ => Err(answer.head),
        })
}

fn traffic_goes_on_when_the_control_plane_is_killed(fixture: &mut Fixture) {
    let load = Load::start(&fixture.caller, "web", 10);
    load.more(50);
    fixture.mesh.kill_control_plane();
    load.more(500);
    let tally = load.stop();
    assert!(tally.bad.is_empty(), "{tally:?}");
}

fn an_unseen_destination_is_refused_with_a_reason_and_in_clear_not_a_byte(fixture: &mut Fixture) {
    let a = fixture.mesh.host("a");
    let capture = Capture::start(&[b"GET /secret", PAYLOAD.as_bytes()]);
    let refused = |to: SocketAddr| {
        let since = Instant::now();
        let stream = fixture
            .caller
            .within(|| TcpStream::connect_timeout(&to, SOON))
            .expect("taken by the proxy");
        let mut wire = Wire::new(stream);
        let answer = wire.ask("GET /secret HTTP/1.1\r\nhost: late\r\n\r\n");
        assert_eq!(answer.status(), 503, "{to}: {}", answer.head);
        let reason = answer
            .field("x-leno-refused")
            .unwrap_or_default()
            .to_owned();
        assert!(
            reason.starts_with("DT;") || reason.starts_with("UD;"),
            "{to}: {reason}"
        );
        let took = since.elapsed();
        assert_eq!(capture.to(to.ip(), to.port()), 0, "{to}");
        took
    };
    for to in [
        fixture.late_vip,
        SocketAddr::from((a.v4, 8081)),
        SocketAddr::from((a.v6, 8081)),
    ] {
        assert_eq!(once_within(REFUSED_WITHIN, || refused(to)), Ok(()), "{to}");
    }
    // So that nothing captured is no proof of nothing sent.
    get(&fixture.caller, "web").expect("web still answers");
    capture.assert_no_cleartext(b"GET /secret");
    capture.assert_no_cleartext(PAYLOAD.as_bytes());
    assert!(
        fixture.caller.look_up("late").is_err(),
        "an unknown name is no name"
    );
}

fn a_destination_outside_still_works(fixture: &mut Fixture) {
    let stream = fixture
        .caller
        .within(|| TcpStream::connect_timeout(&fixture.outside, SOON));
    let mut wire = Wire::new(stream.expect("a connection"));
    assert_eq!(
        wire.ask("GET / HTTP/1.1\r\nhost: world\r\n\r\n").body,
        b"world"
    );
}

fn a_host_says_for_how_long_its_programs_go_on(fixture: &mut Fixture) {
    let a = fixture.mesh.host("a");
    let mut check = Command::new(leno_testkit::leno_binary());
    check
        .args(["check", "-o", "json"])
        .env("LENO_AGENT_SOCKET", fixture.mesh.agent_socket("a"))
        .env("LENO_CONFIG", a.disk().join("no-context"));
    let said = a.run(&mut check);
    assert_eq!(said.code, 3, "its control plane is away: {}", said.text());
    let found: Vec<serde_json::Value> = serde_json::from_str(&said.text()).expect("a list");
    let of = |id: &str| {
        found
            .iter()
            .find(|of| of["id"] == id)
            .expect("it is looked at")
    };
    assert_eq!(of("agent-connected")["ok"], false);
    let away = of("agent-away");
    let text = away["check"].as_str().expect("a text");
    assert!(
        away["ok"] == true && text.contains("without a control plane for 24h"),
        "{away}"
    );
}

fn an_agent_restarted_meanwhile_serves_on(fixture: &mut Fixture) {
    for host in ["b", "a"] {
        let agent = fixture.mesh.agent(host);
        agent.signal(Signal::TERM);
        assert_eq!(agent.wait(Duration::from_secs(15)), 0);
        fixture.mesh.spawn_agent(host);
        until_ok("web answers again", SOON, || get(&fixture.caller, "web"));
    }
    assert_eq!(fixture.web.process.ended(), None);
}

fn an_agent_killed_meanwhile_serves_on_after_its_restart(fixture: &mut Fixture) {
    for host in ["a", "b"] {
        fixture.mesh.kill_agent(host);
        fixture.mesh.spawn_agent(host);
        until_ok("web answers again", SOON, || get(&fixture.caller, "web"));
    }
    assert_eq!(fixture.caller.process.ended(), None);
}

fn its_return_is_noticed_and_nothing_is_lost(fixture: &mut Fixture) {
    let load = Load::start(&fixture.caller, "web", 10);
    fixture.mesh.start_control_plane();
    until_ok("late answers", Duration::from_secs(20), || {
        get(&fixture.caller, "late")
    });
    let a = fixture.mesh.host("a");
    let new = fixture.mesh.run(&a).service("new").port("80:8082").start();
    let _backend = Backend::http(new.listen(8082), |_| response(200, "", "new"));
    until_ok("a new service answers", SOON, || {
        get(&fixture.caller, "new")
    });
    load.more(20);
    let tally = load.stop();
    assert!(tally.bad.is_empty(), "{tally:?}");
    let status = fixture.mesh.leno(&["status"]).good().text();
    for name in ["web", "late", "new"] {
        assert!(status.contains(name), "{name}: {status}");
    }
    assert_eq!(fixture.late.process.ended(), None);
}
