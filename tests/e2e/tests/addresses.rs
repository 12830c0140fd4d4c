//! Addresses: a program's own, the mesh's, the world's, and those that nobody has.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use leno_e2e::{Backend, SOON, once_within, response};
use leno_testkit::{
    Answer, Capture, Member, Mesh, PAYLOAD, Wire, need, skip, suite, until, until_ok,
};

/// An ordinary user who may run programs on host b: those of the accounts `mine` and `default`.
const USER: u32 = 4321;

/// `own` on a (published on 8088), `peer` on b, and a host outside of the mesh.
struct Fixture {
    mesh: Mesh,
    own: Member,
    peer: Member,
    log: Backend,
    v6: Backend,
    peer_log: Backend,
    _world: [Backend; 2],
}

fn start() -> Fixture {
    let mut mesh = Mesh::builder().services(&["own", "peer", "mine"]).start();
    mesh.join("a");
    mesh.join_with("b", &[&format!("--allow-user={USER}=mine,default")]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let own = mesh
        .run(&a)
        .service("own")
        .port("80:8080")
        .option("publish", "8088:8080")
        .start();
    let peer = mesh.run(&b).service("peer").port("80:8080").start();
    let world = mesh.network.add_outside("world");
    let at = |address: IpAddr| {
        let listener = world.listen((address, 8000).into()).expect("a listener");
        Backend::http(listener, |_| response(200, "", "world"))
    };
    let fixture = Fixture {
        log: Backend::http(own.listen(8080), |_| response(200, "", PAYLOAD)),
        v6: Backend::http(
            own.listen_on(([0, 0, 0, 0, 0, 0, 0, 1], 8080).into()),
            |_| response(200, "", "on ::1"),
        ),
        peer_log: Backend::http(peer.listen(8080), |_| response(200, "", "peer")),
        _world: [at(world.v4.into()), at(world.v6.into())],
        own,
        peer,
        mesh,
    };
    until("both answer", SOON, || {
        let answers =
            |from: &Member, name| get(from, (*from.look_up(name).ok()?.first()?).ip(), 80).ok();
        answers(&fixture.own, "peer")
            .and(answers(&fixture.peer, "own"))
            .and_then(|answer| (answer.status() == 200).then_some(()))
    });
    // A host's further addresses are believed when it was proven that it answers there.
    let a = fixture.mesh.host("a");
    until("the host is known by its IPv6 address", SOON, || {
        let answer = get(&fixture.own, a.v6.into(), 8080).ok()?;
        (answer.status() == 200).then_some(())
    });
    fixture
}

suite!(
    start,
    [
        a_program_calls_itself_in_every_way_and_is_answered_once,
        its_own_loopback_is_not_captured,
        an_address_that_nobody_has_is_refused_inside_and_never_dialled,
        the_world_outside_is_reached_as_it_is,
        a_caller_without_a_proxy_reaches_only_what_is_published,
        lenos_own_ports_lead_nowhere,
        other_datagrams_to_a_service_are_rejected_at_once,
        names_are_answered_over_both_transports_and_families,
        a_headless_service_is_the_addresses_of_its_programs_over_mutual_tls,
        an_ordinary_user_joins_with_no_privilege,
        a_user_runs_what_it_may_and_nothing_else,
        sockets_of_another_user_stall_nobody,
        a_program_has_no_way_around_the_mesh,
    ]
);

fn ask(stream: io::Result<TcpStream>) -> io::Result<Answer> {
    let mut wire = Wire::new(stream?);
    wire.try_send("GET / HTTP/1.1\r\nhost: own\r\nconnection: close\r\n\r\n")?;
    wire.try_message()
}

fn get(member: &Member, address: IpAddr, port: u16) -> io::Result<Answer> {
    let to = SocketAddr::new(address, port);
    ask(member.within(|| TcpStream::connect_timeout(&to, SOON)))
}

/// A program calls in each of these ways, once. It is answered once, and the calling and the called side's proxies each
/// saw the request as often as is said: one hop, or none.
#[track_caller]
fn answered_once(
    mesh: &Mesh,
    (member, from): (&Member, &str),
    to: &str,
    seen: impl Fn() -> usize,
    ways: &[(SocketAddr, usize)],
) {
    let ask = |path: &str, way: &SocketAddr| {
        let stream = member.within(|| TcpStream::connect_timeout(way, SOON));
        let answer = Wire::new(stream.expect("a connection"))
            .ask(format!("GET {path} HTTP/1.1\r\nhost: own\r\n\r\n"));
        assert_eq!(answer.status(), 200, "{way}: {}", answer.head);
    };
    let path = |number: usize| format!("/once/{}/{number}", member.process.pid());
    for (number, (way, _)) in ways.iter().enumerate() {
        let before = seen();
        ask(&path(number), way);
        assert_eq!(seen(), before + 1, "{way}");
    }
    // A log is in order: what came before this one is there with it.
    let last = format!("/last/{}", member.process.pid());
    ask(&last, &ways.first().expect("a way").0);
    let log = |host: &str, reporter: &str| {
        let lines = mesh.access_log(host).into_iter();
        let ours = lines.filter(|line| line["reporter"] == reporter);
        ours.filter_map(|line| line["path"].as_str().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    let [called, served] = [(from, "source"), (to, "destination")].map(|(host, reporter)| {
        until("the log has come so far", SOON, || {
            Some(log(host, reporter)).filter(|paths| paths.contains(&last))
        })
    });
    for (number, (way, hops)) in ways.iter().enumerate() {
        let path = path(number);
        let count = |paths: &[String]| paths.iter().filter(|of| **of == path).count();
        assert_eq!((count(&called), count(&served)), (*hops, *hops), "{way}");
    }
}

/// The two virtual addresses of a service, at port 80.
fn vips(member: &Member, name: &str) -> Vec<SocketAddr> {
    let mut all = member.look_up(name).expect(name);
    assert_eq!(all.len(), 2, "{all:?}");
    all.iter_mut().for_each(|to| to.set_port(80));
    all
}

fn a_program_calls_itself_in_every_way_and_is_answered_once(fixture: &mut Fixture) {
    let a = fixture.mesh.host("a");
    let own = [
        SocketAddr::from((a.v4, 8080)),
        (a.v6, 8080).into(),
        ([127, 0, 0, 1], 8080).into(),
        ([0, 0, 0, 0, 0, 0, 0, 1], 8080).into(),
    ];
    let hops = |way: SocketAddr| (way, usize::from(!way.ip().is_loopback()));
    let ways: Vec<_> = vips(&fixture.own, "own").into_iter().chain(own).collect();
    let ways: Vec<_> = ways.into_iter().map(hops).collect();
    let seen = || fixture.log.seen().len() + fixture.v6.seen().len();
    answered_once(&fixture.mesh, (&fixture.own, "a"), "a", seen, &ways);
    let ways: Vec<_> = vips(&fixture.own, "peer").into_iter().map(hops).collect();
    let seen = || fixture.peer_log.seen().len();
    answered_once(&fixture.mesh, (&fixture.own, "a"), "b", seen, &ways);
}

fn its_own_loopback_is_not_captured(fixture: &mut Fixture) {
    let counted = || {
        fixture
            .mesh
            .metric("a", "leno_connections_outbound_total", &[])
    };
    get(&fixture.own, fixture.mesh.host("b").v4.into(), 8080).expect("an answer");
    let before = until("it is counted", SOON, || {
        Some(counted()).filter(|count| *count >= 1.0)
    });
    for _ in 0..20 {
        get(&fixture.own, [127, 0, 0, 1].into(), 8080).expect("an answer");
    }
    // Something captured afterwards is counted: so what was before would have been as well.
    get(&fixture.own, fixture.mesh.host("b").v4.into(), 8080).expect("an answer");
    let after = until("it is counted", SOON, || {
        Some(counted()).filter(|count| *count > before)
    });
    assert!(after - before < 20.0, "{before} became {after}");
}

fn an_address_that_nobody_has_is_refused_inside_and_never_dialled(fixture: &mut Fixture) {
    /// Within so long it is refused.
    const WITHIN: Duration = Duration::from_secs(2);
    /// The last number of the next address, so that none was asked for before.
    fn next(last: &mut u8) -> u16 {
        *last += 1;
        (*last).into()
    }
    let [hosts, hosts_v6, vips, vips_v6]: [fn(u16) -> IpAddr; 4] = [
        |last| [10, 77, 0, last as u8].into(),
        |last| [0xfd77, 0, 0, 0, 0, 0, 0, last].into(),
        |last| [240, 240, 9, last as u8].into(),
        |last| [0x2001, 2, 0, 0, 0, 0, 9, last].into(),
    ];
    let capture = Capture::start(&[b"GET / "]);
    let refused = |to: SocketAddr| {
        let since = Instant::now();
        let answer =
            get(&fixture.peer, to.ip(), to.port()).unwrap_or_else(|error| panic!("{to}: {error}"));
        assert_eq!(answer.status(), 503, "{to}: {}", answer.head);
        assert!(
            answer
                .field("x-leno-refused")
                .is_some_and(|reason| reason.starts_with("UD;")),
            "{to}: {}",
            answer.head
        );
        let took = since.elapsed();
        assert_eq!(capture.to(to.ip(), to.port()), 0, "{to}");
        took
    };
    for of in [hosts, hosts_v6, vips, vips_v6] {
        let mut last = 200;
        let took = once_within(WITHIN, || refused((of(next(&mut last)), 80).into()));
        assert_eq!(took, Ok(()), "{}", of(last.into()));
    }
    get(&fixture.peer, fixture.mesh.host("a").v4.into(), 8080)
        .expect("a member is reached by its address");
    capture.assert_no_cleartext(b"GET / ");
}

fn the_world_outside_is_reached_as_it_is(fixture: &mut Fixture) {
    let world = fixture.mesh.host("world");
    for address in [IpAddr::from(world.v4), world.v6.into()] {
        assert_eq!(
            get(&fixture.own, address, 8000).expect("an answer").body,
            b"world"
        );
        // Where nobody listens, nobody does.
        let outcome = get(&fixture.own, address, 8001);
        assert!(
            outcome
                .as_ref()
                .map_or(true, |answer| answer.status() == 503),
            "{outcome:?}"
        );
    }
}

fn a_caller_without_a_proxy_reaches_only_what_is_published(fixture: &mut Fixture) {
    let (a, world) = (fixture.mesh.host("a"), fixture.mesh.host("world"));
    let capture = Capture::start(&[PAYLOAD.as_bytes()]);
    for address in [IpAddr::from(a.v4), a.v6.into()] {
        let answer =
            ask(world.connect((address, 8088).into())).expect("the published port answers");
        assert_eq!(answer.body, PAYLOAD.as_bytes());
        assert!(answer.field("x-leno-refused").is_none());
        let other = world.connect((address, 8080).into());
        assert_eq!(
            other.map(drop).map_err(|error| error.kind()),
            Err(io::ErrorKind::ConnectionRefused)
        );
    }
    assert!(
        capture.count(PAYLOAD.as_bytes()) >= 2,
        "from outside it is in clear, which the capture sees"
    );
    let edge = until("the edge is reported", SOON, || {
        let edges = fixture.mesh.api("/leno/v1/telemetry/edges?window=60s");
        let all = edges["edges"].as_array()?;
        all.iter()
            .find(|edge| edge["destination"] == "own" && edge["mtls"] == false)
            .cloned()
    });
    assert!(edge["source_identity"].is_null(), "{edge}");
}

fn lenos_own_ports_lead_nowhere(fixture: &mut Fixture) {
    let a = fixture.mesh.host("a");
    for address in [IpAddr::from(a.v4), [127, 0, 0, 1].into(), a.v6.into()] {
        for port in [15000, 15001, 15006, 15008] {
            let since = Instant::now();
            match get(&fixture.own, address, port) {
                Ok(answer) => assert!(
                    [403, 503, 508].contains(&answer.status()),
                    "{address}:{port}: {}",
                    answer.head
                ),
                Err(error) => {
                    assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "{address}:{port}")
                }
            }
            assert!(
                since.elapsed() < SOON,
                "{address}:{port}: {:?}",
                since.elapsed()
            );
        }
    }
    assert_eq!(fixture.own.process.ended(), None);
    get(&fixture.own, fixture.mesh.host("b").v4.into(), 8080).expect("all is well afterwards");
}

fn other_datagrams_to_a_service_are_rejected_at_once(fixture: &mut Fixture) {
    for address in fixture.peer.look_up("own").expect("own") {
        let any: IpAddr = if address.is_ipv4() {
            [0, 0, 0, 0].into()
        } else {
            [0, 0, 0, 0, 0, 0, 0, 0].into()
        };
        let socket = fixture.peer.within(|| {
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect((address.ip(), 9999))?;
            Ok(socket)
        });
        let since = Instant::now();
        let outcome = socket.and_then(|socket| {
            socket.set_read_timeout(Some(SOON))?;
            socket.send(b"hello")?;
            socket.recv(&mut [0; 16])
        });
        let error = outcome.expect_err("nobody answers");
        assert_ne!(
            error.kind(),
            io::ErrorKind::WouldBlock,
            "{address}: it waited"
        );
        assert!(
            since.elapsed() < Duration::from_secs(4),
            "{address}: {error}"
        );
    }
}

fn names_are_answered_over_both_transports_and_families(fixture: &mut Fixture) {
    need!("dig");
    for transport in ["+notcp", "+tcp"] {
        for (kind, sign) in [("A", '.'), ("AAAA", ':')] {
            let output = fixture.peer.exec(&[
                "dig",
                "@192.0.2.53",
                "+short",
                "+time=3",
                "+tries=1",
                transport,
                "own.default.svc.cluster.local",
                kind,
            ]);
            let text = output.good().text();
            assert!(text.trim().contains(sign), "{transport} {kind}: {text:?}");
        }
    }
    let output = fixture.peer.exec(&[
        "dig",
        "@192.0.2.53",
        "+time=3",
        "+tries=1",
        "own.default.svc.cluster.local",
        "MX",
    ]);
    assert!(
        output.text().contains("NOERROR") && output.text().contains("ANSWER: 0"),
        "{}",
        output.text()
    );
}

fn a_headless_service_is_the_addresses_of_its_programs_over_mutual_tls(fixture: &mut Fixture) {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: each}\nspec:\n  clusterIP: None\n  selector: {app: peer}\n  ports: [{port: 8080}]\n";
    fixture.mesh.apply(service, &[]).good();
    let b = fixture.mesh.host("b");
    let mut expected: Vec<IpAddr> = vec![b.v4.into(), b.v6.into()];
    expected.sort_unstable();
    until("the name means the host of its program", SOON, || {
        let mut found: Vec<IpAddr> = fixture
            .own
            .look_up("each")
            .ok()?
            .iter()
            .map(SocketAddr::ip)
            .collect();
        found.sort_unstable();
        found.dedup();
        (found == expected).then_some(())
    });
    for (number, address) in expected.into_iter().enumerate() {
        let path = format!("/each/{number}");
        let to = SocketAddr::new(address, 8080);
        let stream = fixture.own.within(|| TcpStream::connect_timeout(&to, SOON));
        let answer = Wire::new(stream.expect("a connection"))
            .ask(format!("GET {path} HTTP/1.1\r\nhost: each\r\n\r\n"));
        assert_eq!(answer.status(), 200, "{address}: {}", answer.head);
        let line = until("the called side has logged it", SOON, || {
            let mut lines = fixture.mesh.access_log("b").into_iter();
            lines.find(|line| line["reporter"] == "destination" && line["path"] == *path)
        });
        assert_eq!(line["connection_security_policy"], "mutual_tls", "{line}");
    }
    // One without a program that is fit is a name without addresses, not a name that there is not.
    let nobody = service
        .replace("name: each", "name: none")
        .replace("app: peer", "app: nobody");
    fixture.mesh.apply(&nobody, &[]).good();
    need!("dig");
    let name = "none.default.svc.cluster.local";
    let output = fixture
        .own
        .exec(&["dig", "@192.0.2.53", "+time=3", "+tries=1", name, "A"]);
    let text = output.text();
    assert!(
        text.contains("NOERROR") && text.contains("ANSWER: 0"),
        "{text}"
    );
}

/// Skips where an ordinary user can make no namespaces.
fn needs_user_namespaces(fixture: &Fixture) {
    let setpriv = need!("setpriv");
    let b = fixture.mesh.host("b");
    let probe = b.run(std::process::Command::new(setpriv).args([
        &format!("--reuid={USER}"),
        &format!("--regid={USER}"),
        "--clear-groups",
        "unshare",
        "-Urn",
        "true",
    ]));
    if probe.code != 0 {
        skip!(
            "an ordinary user can make no namespaces here: {}",
            probe.stderr.trim()
        );
    }
}

fn an_ordinary_user_joins_with_no_privilege(fixture: &mut Fixture) {
    needs_user_namespaces(fixture);
    let b = fixture.mesh.host("b");
    let output = fixture
        .mesh
        .run(&b)
        .user(USER)
        .program([
            "sh",
            "-c",
            "id -u; grep -E 'Cap(Eff|Prm|Bnd|Amb)' /proc/self/status",
        ])
        .to_end();
    let text = output.good().text();
    assert!(text.starts_with(&format!("{USER}\n")), "{text}");
    let granted = text.lines().filter(|line| {
        line.starts_with("CapEff") || line.starts_with("CapPrm") || line.starts_with("CapAmb")
    });
    assert!(
        granted.clone().count() == 3
            && granted
                .clone()
                .all(|line| line.ends_with("0000000000000000")),
        "{text}"
    );
    let mine = fixture
        .mesh
        .run(&b)
        .user(USER)
        .service("mine")
        .port("80:8089")
        .start();
    let backend = Backend::http(mine.listen(8089), |_| response(200, "", "mine"));
    until_ok("it is called", SOON, || {
        let mut wire = fixture.own.try_connect("mine", 80)?;
        let answer = wire.ask("GET / HTTP/1.1\r\nhost: mine\r\n\r\n");
        if answer.body == b"mine" {
            Ok(())
        } else {
            Err(io::Error::other(answer.head))
        }
    });
    let calls = mine
        .connect("own", 80)
        .ask("GET / HTTP/1.1\r\nhost: own\r\n\r\n");
    assert_eq!(calls.body, PAYLOAD.as_bytes(), "and calls");
    let own = [
        (b.v4, 8089).into(),
        SocketAddr::from(([127, 0, 0, 1], 8089)),
    ];
    let ways = vips(&mine, "mine").into_iter().chain(own);
    let ways: Vec<_> = ways
        .map(|way| (way, usize::from(!way.ip().is_loopback())))
        .collect();
    let seen = || backend.seen().len();
    answered_once(&fixture.mesh, (&mine, "b"), "b", seen, &ways);
}

fn a_user_runs_what_it_may_and_nothing_else(fixture: &mut Fixture) {
    needs_user_namespaces(fixture);
    let b = fixture.mesh.host("b");
    let run = || fixture.mesh.run(&b).user(USER).program(["true"]);
    for (refused, what) in [
        (run().service("own").port("80:8080"), "service own"),
        (run().account("peer"), "service account peer"),
        (
            run().service("mine").port("80:8080").account("own"),
            "service account own",
        ),
    ] {
        let output = refused.to_end();
        assert_eq!(output.code, 4, "{}", output.stderr);
        let said = format!("user {USER} may not run {what} here, only default,mine");
        assert!(output.stderr.contains(&said), "{}", output.stderr);
        assert!(output.stderr.contains("--allow-user"), "{}", output.stderr);
    }
    run().to_end().good();
    // What may run may be published, through root's agent at low ports too.
    let mine = run().service("mine").port("80:8080");
    mine.option("publish", "81:8080").to_end().good();
    // Root may all.
    let root = fixture.mesh.run(&b).account("peer").program(["true"]);
    root.to_end().good();
}

/// A hostile `leno run`, in a network of its own. Without an argument it attaches what are no sockets; with one it
/// joins, and then does all it can to make those that it shares with the agent block whoever uses them.
const HOSTILE: &str = r#"
import array, fcntl, json, os, socket, struct, subprocess, sys, threading, time
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
def listener(port):
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    made.listen(64)
    return made
agent = socket.socket(socket.AF_UNIX)
agent.connect(os.environ["LENO_AGENT_SOCKET"])
def hear():
    length, = struct.unpack(">I", agent.recv(4, socket.MSG_WAITALL))
    return json.loads(agent.recv(length, socket.MSG_WAITALL))
def say(message, attached):
    data = json.dumps(message).encode()
    data = struct.pack(">I", len(data)) + data
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", attached))]
    agent.sendmsg([data], rights)
assert hear()["type"] == "host"
start = {"type": "start", "program": "hostile", "sockets": ["outbound", "dns_udp", "dns_tcp"]}
if len(sys.argv) == 1:
    null = os.open("/dev/null", os.O_RDONLY)
    say(start, [null, null, null])
    print(json.dumps(hear()))
    sys.exit()
udp = socket.socket(type=socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 15053))
shared = [listener(15001), udp, listener(15053)]
say(start, [of.fileno() for of in shared])
started = hear()
while started["type"] == "need_sockets":
    started = hear()
assert started["type"] == "started", started
def block():
    while True:
        for of in shared:
            flags = fcntl.fcntl(of, fcntl.F_GETFL)
            fcntl.fcntl(of, fcntl.F_SETFL, flags & ~os.O_NONBLOCK)
threading.Thread(target=block, daemon=True).start()
print("joined", file=sys.stderr, flush=True)
while True:
    for port in (15001, 15053):
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
        except OSError:
            pass
    udp_caller = socket.socket(type=socket.SOCK_DGRAM)
    udp_caller.sendto(b"?", ("127.0.0.1", 15053))
    time.sleep(0.01)
"#;

fn sockets_of_another_user_stall_nobody(fixture: &mut Fixture) {
    needs_user_namespaces(fixture);
    let setpriv = need!("setpriv");
    // The first one found may be in somebody's own directory.
    let system = std::path::PathBuf::from("/usr/bin/python3");
    let python = if system.exists() {
        system
    } else {
        need!("python3")
    };
    let b = fixture.mesh.host("b");
    let hostile = |argument: &[&str]| {
        let mut command = std::process::Command::new(&setpriv);
        command
            .args([&format!("--reuid={USER}"), &format!("--regid={USER}")])
            .args(["--clear-groups", "unshare", "-Urn"])
            .arg(&python)
            .args(["-c", HOSTILE])
            .args(argument)
            .env("LENO_AGENT_SOCKET", fixture.mesh.agent_socket("b"));
        command
    };
    let refused = b.run(&mut hostile(&[]));
    if refused.stderr.contains("Permission denied") {
        skip!("user {USER} may not run {}", python.display());
    }
    let answer = refused.good().text();
    assert!(
        answer.contains("\"invalid\"") && answer.contains("is not a TCP socket"),
        "{answer}"
    );
    let mut joined = b.spawn(&mut hostile(&["join"]));
    joined.says("joined", SOON);
    // The other program of this host calls and is called all the while, on new connections.
    let mut slowest = Duration::ZERO;
    for _ in 0..200 {
        let started = Instant::now();
        for (from, name) in [(&fixture.peer, "own"), (&fixture.own, "peer")] {
            let mut wire = from.try_connect(name, 80).expect("a connection");
            let answer = wire.ask("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            assert_eq!(answer.status(), 200);
        }
        slowest = slowest.max(started.elapsed());
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert_eq!(joined.ended(), None, "{}", joined.stderr());
}

fn a_program_has_no_way_around_the_mesh(fixture: &mut Fixture) {
    need!("nft");
    let a = fixture.mesh.host("a");
    let script = "nft flush ruleset; ip link add x type dummy; ip route del default; ip addr; cat /proc/net/dev";
    let output = fixture.mesh.run(&a).program(["sh", "-c", script]).to_end();
    let devices: Vec<String> = output
        .text()
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.trim().to_owned())
        .filter(|name| name == "eth0" || name == "x")
        .collect();
    assert!(devices.is_empty(), "{}", output.text());
    assert!(
        output.stderr.contains("Operation not permitted"),
        "{}",
        output.stderr
    );
}
