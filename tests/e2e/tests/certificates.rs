//! Certificates of ten seconds under load: nothing fails, nothing begins on one that has ended; and without one nothing
//! leaves.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::{Duration, Instant},
};

use leno_e2e::{Backend, Load, SOON, Stillness, Tally, once_within, response, run_script, shown};
use leno_testkit::{Capture, Member, Mesh, Process, need_python, suite, until};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// So long the load runs: six lives of a certificate.
const HOW_LONG: Duration = Duration::from_secs(60);
const LIFE: Duration = Duration::from_secs(10);
/// A machine that stands still for so long cannot renew what lives for ten seconds.
const LONG_STILL: Duration = Duration::from_secs(2);

struct Fixture {
    mesh: Mesh,
    web: Member,
    _socket: Member,
    caller: Member,
    /// A WebSocket that is spoken through from the beginning, with its server.
    chat: Option<(Process, Process)>,
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
    let chat = leno_testkit::module_of_python("websockets").map(|python| {
        let server = socket.spawn(&mut run_script(&python, "websocket_server.py", &["8081"]));
        (converse(&python, &caller), server)
    });
    Fixture {
        mesh,
        web,
        _socket: socket,
        caller,
        chat,
        _backend: backend,
    }
}

/// Says one frame after the other through a WebSocket, and hears each again, until it ends.
fn converse(python: &Path, caller: &Member) -> Process {
    let arguments = ["ws://socket/", "stream"];
    caller.spawn(&mut run_script(python, "websocket_client.py", &arguments))
}

suite!(
    start,
    [
        nothing_fails_while_certificates_change_under_load,
        a_websocket_loses_no_frame_in_ten_rotations_and_ends_when_its_caller_is_denied,
        without_a_certificate_nothing_leaves_and_with_a_new_one_all_goes_on,
    ]
);

/// A certificate's serial, and when it ends, in seconds since 1970.
type Certificate = (String, u64);

/// The certificate of a workload of this host, as its proxy shows it.
fn certificate(mesh: &Mesh, host: &str, account: &str) -> Certificate {
    let page = mesh.admin(host, "/certs");
    let mut all = page.as_array().expect("a list").iter();
    let own = all.find(|of| {
        let identity = of["identity"].as_str();
        identity.is_some_and(|identity| identity.ends_with(account))
    });
    let own = own.expect("a certificate");
    let serial = own["serial"].as_str().expect("a serial").to_owned();
    (serial, own["not_after"].as_u64().expect("an end"))
}

/// When the certificate ends that was the newest at a time: seconds since 1970.
fn end_at(certificates: &BTreeSet<Certificate>, time: f64) -> f64 {
    let ends = certificates.iter().map(|(_, end)| *end as f64);
    // Issued a moment before, and its life counted in whole seconds.
    let issued = ends.filter(|end| end - LIFE.as_secs_f64() <= time + 1.0);
    issued.fold(0.0, f64::max)
}

/// When the requests of each connection of peers began, as the access log of host a has them.
fn connections(mesh: &Mesh) -> BTreeMap<String, Vec<f64>> {
    let log = std::fs::read_to_string(mesh.host("a").disk().join("access.log"));
    let log = log.expect("an access log");
    let field = |line: &str, name: &str| {
        let rest = line.split_once(&format!("\"{name}\":\""))?.1;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let mut connections: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let ours = |line: &&str| line.contains("\"destination_service\":\"default/web\"");
    for line in log.lines().filter(ours) {
        let (Some(from), Some(began)) = (
            field(line, "downstream_remote_address"),
            field(line, "start_time"),
        ) else {
            continue;
        };
        let began = OffsetDateTime::parse(&began, &Rfc3339).expect("a time");
        let seconds = began.unix_timestamp() as f64 + f64::from(began.millisecond()) / 1e3;
        connections.entry(from).or_default().push(seconds);
    }
    connections
}

fn nothing_fails_while_certificates_change_under_load(fixture: &mut Fixture) {
    for _ in 0..2 {
        let watch = Stillness::watch();
        let round = one_round(fixture);
        let still = watch.longest();
        // Who stands still for so long renews too late, and proves nothing; who does not has no excuse.
        if still < LONG_STILL {
            return judge(fixture, &round);
        }
        eprintln!("the machine stood still for {still:?}: the round is repeated");
    }
    panic!("the machine stood still in both rounds");
}

/// What was seen of one round of load.
struct Round {
    tallies: Vec<Tally>,
    web: BTreeSet<Certificate>,
    caller: BTreeSet<Certificate>,
    most: f64,
    rotations: f64,
    /// Seconds since 1970.
    since: f64,
}

fn one_round(fixture: &Fixture) -> Round {
    let rotations = || {
        let rotations = "leno_certificate_rotations_total";
        fixture.mesh.metric("b", rotations, &[])
    };
    let since = OffsetDateTime::now_utc();
    let before = rotations();
    let loads: Vec<Load> = [1, 100, 1_000_000]
        .into_iter()
        .map(|each| Load::paced(&fixture.caller, "web", each, Duration::from_millis(4)))
        .collect();
    let end = Instant::now() + HOW_LONG;
    let (mut web, mut caller, mut most) = (BTreeSet::new(), BTreeSet::new(), 0.0_f64);
    while Instant::now() < end {
        web.insert(certificate(&fixture.mesh, "a", "/sa/web"));
        caller.insert(certificate(&fixture.mesh, "b", "/sa/default"));
        most = most.max(fixture.mesh.metric("a", "leno_open_mesh_connections", &[]));
        std::thread::sleep(Duration::from_millis(250));
    }
    Round {
        tallies: loads.into_iter().map(Load::stop).collect(),
        web,
        caller,
        most,
        rotations: rotations() - before,
        since: since.unix_timestamp() as f64 + f64::from(since.millisecond()) / 1e3,
    }
}

#[track_caller]
fn judge(fixture: &mut Fixture, round: &Round) {
    for tally in &round.tallies {
        assert!(tally.good > 1_000, "{}", tally.good);
        assert!(
            tally.bad.is_empty(),
            "{} failed: {:?}",
            tally.bad.len(),
            tally.bad.first()
        );
    }
    let (web, caller) = (&round.web, &round.caller);
    assert!(web.len() >= 6 && caller.len() >= 6, "{web:?} {caller:?}");
    assert!(round.most <= 12.0, "{} connections at once", round.most);
    assert!(round.rotations >= 6.0, "{} rotations", round.rotations);
    nothing_began_past_an_end(&fixture.mesh, round);
    assert_eq!(fixture.web.process.ended(), None);
}

/// A connection was made with the certificates that both sides had when its first request began, or older ones.
#[track_caller]
fn nothing_began_past_an_end(mesh: &Mesh, round: &Round) {
    /// Between the look at the clock and the line in the log a busy machine may do something else.
    const SLACK: f64 = 0.1;
    let mut connections = connections(mesh);
    // Those from before may be older than what is known of certificates.
    connections.retain(|_, began| began.iter().all(|began| *began > round.since));
    assert!(connections.len() >= 6, "{}", connections.len());
    for (from, began) in &connections {
        let first = began.iter().copied().fold(f64::MAX, f64::min);
        let last = began.iter().copied().fold(0.0, f64::max);
        let ends = [&round.web, &round.caller].map(|of| end_at(of, first));
        let end = ends.into_iter().fold(f64::MAX, f64::min);
        assert!(end > 0.0, "no certificate is known from before {first}");
        assert!(
            last < end + SLACK,
            "{from}: of {} requests from {first} on the last began at {last}, its certificate ended at {end}",
            began.len()
        );
    }
    let requests: usize = connections.values().map(Vec::len).sum();
    assert!(requests > 3_000, "{requests} lines of the log");
}

/// How many frames came back whole, in tens.
#[track_caller]
fn frames(client: &mut Process) -> usize {
    let said = client.stdout();
    let going_on = client.ended().is_none() && !said.contains("ended");
    assert!(going_on, "{said}{}", client.stderr());
    said.lines().count()
}

fn a_websocket_loses_no_frame_in_ten_rotations_and_ends_when_its_caller_is_denied(
    fixture: &mut Fixture,
) {
    let python = need_python!("websockets");
    let (mesh, caller) = (&fixture.mesh, &fixture.caller);
    let (client, _server) = fixture.chat.as_mut().expect("it began with the fixture");
    // The first certificate of each was no rotation; host a has two programs.
    let rotations = |host: &str| mesh.metric(host, "leno_certificate_rotations_total", &[]);
    let ten = || rotations("a") >= 22.0 && rotations("b") >= 11.0;
    until("each has had ten other certificates", LIFE * 12, || {
        frames(client);
        ten().then_some(())
    });
    let before = frames(client);
    until("it goes on", SOON, || {
        (frames(client) > before + 2).then_some(())
    });
    let took = once_within(Duration::from_secs(1), || {
        let ended = |client: &Process| client.stdout().contains("ended");
        if ended(client) {
            *client = converse(&python, caller);
            until("another begins", SOON, || {
                (frames(client) > 2).then_some(())
            });
        }
        let since = Instant::now();
        mesh.leno(&["deny", "default", "socket"]).good();
        until("it is ended", SOON, || ended(client).then_some(()));
        let took = since.elapsed();
        mesh.leno(&["delete", "accesspolicy", "deny-default-socket"])
            .good();
        took
    });
    assert_eq!(took, Ok(()), "from the command's start");
}

fn without_a_certificate_nothing_leaves_and_with_a_new_one_all_goes_on(fixture: &mut Fixture) {
    let capture = Capture::start(&[b"GET /secret"]);
    let ask = |fixture: &Fixture| {
        let mut wire = fixture.caller.try_connect("web", 80).ok()?;
        wire.try_send("GET /secret HTTP/1.1\r\nhost: web\r\n\r\n")
            .ok()?;
        wire.try_message().ok()
    };
    assert!(ask(fixture).is_some_and(|answer| answer.status() == 200));
    // Nobody renews any more.
    fixture.mesh.kill_control_plane();
    let answer = until("the last certificate has ended", LIFE * 2, || {
        ask(fixture).filter(|answer| answer.status() != 200)
    });
    assert_eq!(answer.status(), 503, "{}", answer.head);
    // Whose certificate ended first says so.
    let answer = until("ours has ended", LIFE, || {
        let answer = ask(fixture)?;
        let reason = answer.field("x-leno-refused").unwrap_or_default();
        reason.starts_with("CERT;").then_some(answer)
    });
    shown(&fixture.mesh, &answer, "b", "CERT");
    capture.assert_no_cleartext(b"GET /secret");
    fixture.mesh.start_control_plane();
    until("all goes on", LIFE * 3, || {
        ask(fixture).filter(|answer| answer.status() == 200)
    });
}
