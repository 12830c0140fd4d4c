//! What is not a request and its answer: gRPC, WebSocket, protocols in which the server speaks first, bytes.

use std::{
    io::{Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use leno_e2e::{Backend, SOON, median, noise, run_script};
use leno_testkit::{
    Capture, Member, Mesh, PAYLOAD, Wire, need, need_python, skip, suite, until, until_ok,
};

/// On host a: `grpc`, `socket`, `db`, and `mail` (undeclared ports, published); on host b: `caller`; `world` is outside.
struct Fixture {
    mesh: Mesh,
    grpc: Member,
    socket: Member,
    db: Member,
    mail: Member,
    caller: Member,
}

fn start() -> Fixture {
    let mut mesh = Mesh::with(&["a", "b"], &["grpc", "socket", "db", "mail"]);
    mesh.network.add_outside("world");
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let serve = |service: &str, port: &str| {
        let program = mesh.run(&a).service(service).port(port);
        program.option("check", "none")
    };
    Fixture {
        grpc: serve("grpc", "50051:50051/grpc").start(),
        socket: serve("socket", "80:8080").start(),
        db: serve("db", "3306").option("publish", "13306:3306").start(),
        mail: serve("mail", "25:2525").option("publish", "2525").start(),
        caller: mesh.run(&b).start(),
        mesh,
    }
}

suite!(
    start,
    [
        grpc_of_all_four_kinds_passes,
        a_grpc_failure_keeps_status_message_and_trailers,
        a_grpc_deadline_ends_the_call,
        a_cancelled_grpc_call_is_seen_by_the_server_at_once,
        a_websocket_library_talks_to_another,
        a_server_that_speaks_first_is_not_kept_waiting,
        mariadb_answers_on_an_undeclared_port,
        bytes_pass_both_ways_with_half_close,
        a_large_transfer_arrives_whole_in_both_directions,
        a_connection_that_nobody_takes_is_refused,
        tcp_is_reported_with_both_identities,
    ]
);

/// Plays a case of the client, and waits until the server has said so many lines that contain `word`; what both said.
fn grpc_case(
    fixture: &Fixture,
    case: &str,
    (word, lines): (&str, usize),
) -> Option<(String, String)> {
    let python = leno_testkit::module_of_python("grpc")?;
    let mut server = fixture
        .grpc
        .spawn(&mut run_script(&python, "grpc_server.py", &["50051"]));
    until("the gRPC server is ready", SOON, || {
        assert_eq!(server.ended(), None, "{}", server.stderr());
        server.stdout().contains("ready").then_some(())
    });
    let client = fixture.caller.run(&mut run_script(
        &python,
        "grpc_client.py",
        &["grpc:50051", case],
    ));
    assert_eq!(client.code, 0, "{}{}", client.text(), client.stderr);
    let said = until("the server has seen it", SOON, || {
        let said = server.stdout();
        (said.matches(word).count() >= lines).then_some(said)
    });
    Some((client.text(), said))
}

fn grpc_of_all_four_kinds_passes(fixture: &mut Fixture) {
    let capture = Capture::start(&[b"hello", b"test.Kinds"]);
    if grpc_case(fixture, "kinds", ("ready", 1)).is_none() {
        skip!("Python's module grpc is not installed");
    }
    capture.assert_no_cleartext(b"hello");
    capture.assert_no_cleartext(b"test.Kinds");
    let edge = until("the edge is reported", SOON, || {
        let edges = fixture.mesh.api("/leno/v1/telemetry/edges?window=60s");
        let found = edges["edges"]
            .as_array()?
            .iter()
            .find(|edge| edge["destination"] == "grpc");
        found
            .filter(|edge| edge["requests"].as_u64() >= Some(81))
            .cloned()
    });
    assert_eq!(edge["protocol"], "grpc", "{edge}");
    assert_eq!(edge["mtls"], true, "{edge}");
}

fn a_grpc_failure_keeps_status_message_and_trailers(fixture: &mut Fixture) {
    if grpc_case(fixture, "failure", ("ready", 1)).is_none() {
        skip!("Python's module grpc is not installed");
    }
}

fn a_grpc_deadline_ends_the_call(fixture: &mut Fixture) {
    if grpc_case(fixture, "deadline", ("cancelled unary", 1)).is_none() {
        skip!("Python's module grpc is not installed");
    }
}

fn a_cancelled_grpc_call_is_seen_by_the_server_at_once(fixture: &mut Fixture) {
    let Some((client, server)) = grpc_case(fixture, "cancel", ("ended both", 20)) else {
        skip!("Python's module grpc is not installed");
    };
    let times = |text: &str, word: &str| -> Vec<f64> {
        let lines = text.lines().filter(|line| line.starts_with(word));
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect()
    };
    let (cancelled, seen) = (times(&client, "cancel "), times(&server, "ended both"));
    assert_eq!((cancelled.len(), seen.len()), (20, 20), "{client}{server}");
    let took = cancelled
        .iter()
        .zip(&seen)
        .map(|(from, to)| Duration::from_secs_f64((to - from).max(0.0)));
    let median = median(took.collect());
    assert!(median < Duration::from_millis(100), "{median:?}");
}

fn a_websocket_library_talks_to_another(fixture: &mut Fixture) {
    let python = need_python!("websockets");
    let capture = Capture::start(&[b"Sec-WebSocket"]);
    let _server = fixture
        .socket
        .spawn(&mut run_script(&python, "websocket_server.py", &["8080"]));
    let client = fixture.caller.run(&mut run_script(
        &python,
        "websocket_client.py",
        &["ws://socket/chat", "echo"],
    ));
    assert_eq!(client.code, 0, "{}{}", client.text(), client.stderr);
    capture.assert_no_cleartext(b"Sec-WebSocket");
    let edge = until("the edge is reported", SOON, || {
        let edges = fixture.mesh.api("/leno/v1/telemetry/edges?window=60s");
        let all = edges["edges"].as_array()?;
        all.iter()
            .find(|edge| edge["destination"] == "socket" && edge["protocol"] == "websocket")
            .cloned()
    });
    assert_eq!(edge["mtls"], true, "{edge}");
}

fn smtp(mut wire: Wire) {
    // SMTP as RFC 5321 has it, as far as a greeting goes.
    wire.send("220 mail.test ESMTP\r\n");
    while let Ok(line) = wire.try_until(b"\r\n") {
        let line = String::from_utf8_lossy(&line).into_owned();
        let answer = match line.split_whitespace().next() {
            Some("EHLO") => "250-mail.test\r\n250 SIZE\r\n",
            Some("QUIT") => "221 bye\r\n",
            _ => "500 what\r\n",
        };
        if wire.try_send(answer).is_err() || line.starts_with("QUIT") {
            return;
        }
    }
}

/// A way to dial a server.
type Dial<'f> = &'f dyn Fn() -> Wire;

impl Fixture {
    /// A published port of host a, dialled from outside the mesh.
    fn outside_dial(&self, to: IpAddr, port: u16) -> Wire {
        let stream = self.mesh.host("world").connect((to, port).into());
        Wire::new(stream.expect("a published port"))
    }

    /// The server's first word comes through the mesh, and from outside it, within 5 ms of what a direct dial takes;
    /// dialled in turns, so that what else the machine does falls upon all alike, and judged by the quicker half, at
    /// the best of a few rounds. Whoever waited for the client to speak would do so each time, for hundreds of
    /// milliseconds.
    #[track_caller]
    fn speaks_first_in_time(&self, direct: Dial<'_>, others: &[Dial<'_>], first: impl Fn(Wire)) {
        const WITHIN: Duration = Duration::from_millis(5);
        let time = |dial: Dial<'_>| {
            let since = Instant::now();
            let mut wire = dial();
            let (word, took) = (wire.try_exactly(1), since.elapsed());
            word.expect("the server speaks");
            first(wire);
            took
        };
        let dials: Vec<Dial<'_>> = [direct].iter().chain(others).copied().collect();
        // The first of each finds out about the service.
        for dial in &dials {
            time(*dial);
        }
        let mut rounds = Vec::new();
        for _ in 0..4 {
            let mut times = vec![Vec::new(); dials.len()];
            for _ in 0..20 {
                for (dial, times) in dials.iter().zip(&mut times) {
                    times.push(time(*dial));
                }
            }
            let quicker: Vec<Duration> = times.into_iter().map(quicker_half).collect();
            let (direct, others) = quicker.split_first().expect("the direct one");
            if others.iter().all(|other| *other < *direct + WITHIN) {
                return;
            }
            rounds.push(quicker);
        }
        panic!("{rounds:?}, the first of each round direct");
    }
}

/// The median of the quicker half.
fn quicker_half(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.truncate(times.len() / 2);
    median(times)
}

fn a_server_that_speaks_first_is_not_kept_waiting(fixture: &mut Fixture) {
    let _backend = Backend::connections(fixture.mail.listen(2525), smtp);
    let a = fixture.mesh.host("a");
    let vip = |v6: bool| {
        let mut all = fixture.caller.look_up("mail").expect("mail").into_iter();
        let mut of = all.find(|of| of.is_ipv6() == v6).expect("an address");
        of.set_port(25);
        of
    };
    let (v4, v6) = (vip(false), vip(true));
    let meshed = |to: SocketAddr| {
        let stream = fixture.caller.within(|| TcpStream::connect(to));
        Wire::new(stream.expect("a connection"))
    };
    fixture.speaks_first_in_time(
        &|| fixture.mail.connect("127.0.0.1", 2525),
        &[
            &|| meshed(v4),
            &|| meshed(v6),
            &|| fixture.outside_dial(a.v4.into(), 2525),
            &|| fixture.outside_dial(a.v6.into(), 2525),
        ],
        // What it said first has been read.
        |mut wire| {
            assert_eq!(wire.line(), "20 mail.test ESMTP");
            wire.send("EHLO caller\r\n");
            assert_eq!(wire.line(), "250-mail.test");
            assert_eq!(wire.line(), "250 SIZE");
            wire.send("QUIT\r\n");
            assert_eq!(wire.line(), "221 bye");
        },
    );
}

fn mariadb_answers_on_an_undeclared_port(fixture: &mut Fixture) {
    let (server, client, install) = (
        need!("mariadbd"),
        need!("mariadb"),
        need!("mariadb-install-db"),
    );
    let data = fixture.mesh.host("a").disk().join("mariadb");
    let path = data.display().to_string();
    let installed = fixture.db.run(std::process::Command::new(install).args([
        "--user=root",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        &format!("--datadir={path}"),
    ]));
    if installed.code != 0 {
        skip!(
            "mariadb-install-db does not work here: {}",
            installed.stderr
        );
    }
    let _running = fixture.db.spawn(std::process::Command::new(server).args([
        "--no-defaults",
        "--user=root",
        "--bind-address=0.0.0.0",
        "--port=3306",
        "--skip-grant-tables",
        "--innodb-buffer-pool-size=8M",
        "--skip-name-resolve",
        "--max-connect-errors=100000",
        &format!("--datadir={path}"),
        &format!("--socket={path}/socket"),
        &format!("--pid-file={path}/pid"),
    ]));
    let ask = |sql: &str| {
        let mut command = std::process::Command::new(&client);
        command.args([
            "--no-defaults",
            "-h",
            "db",
            "-P",
            "3306",
            "--protocol=tcp",
            "--connect-timeout=5",
            "-N",
            "-e",
            sql,
        ]);
        fixture.caller.run(&mut command)
    };
    let capture = Capture::start(&[PAYLOAD.as_bytes()]);
    until_ok("MariaDB answers", Duration::from_secs(30), || {
        let output = ask("select 1");
        if output.code == 0 {
            Ok(())
        } else {
            Err(output.stderr)
        }
    });
    let output = ask(&format!("select repeat('{PAYLOAD} ', 20000)")).good();
    assert_eq!(output.text().matches(PAYLOAD).count(), 20_000);
    capture.assert_no_cleartext(PAYLOAD.as_bytes());
    let a = fixture.mesh.host("a");
    fixture.speaks_first_in_time(
        &|| fixture.db.connect("127.0.0.1", 3306),
        &[&|| fixture.caller.connect("db", 3306), &|| {
            fixture.outside_dial(a.v4.into(), 13306)
        }],
        |mut wire| {
            // Its greeting: the length's other bytes, number 0, protocol version 10, its own version.
            let greeting = wire.try_exactly(5).expect("a greeting");
            assert_eq!(greeting.get(2..4), Some(&[0, 10][..]), "{greeting:?}");
        },
    );
}

fn bytes_pass_both_ways_with_half_close(fixture: &mut Fixture) {
    // The answer begins only when the caller has said everything, and the connection lives on until it is told.
    let _backend = Backend::connections(fixture.mail.listen(2525), |mut wire| {
        wire.send("begin\n");
        let all = wire.try_rest().expect("all that the caller says");
        wire.send(format!("{} bytes\n", all.len()));
    });
    for family in [0, 1] {
        let address = fixture.caller.look_up("mail").expect("mail");
        let mut address = *address
            .iter()
            .find(|of| usize::from(of.is_ipv6()) == family)
            .expect("an address");
        address.set_port(25);
        let stream = fixture
            .caller
            .within(|| TcpStream::connect(address))
            .expect("a connection");
        let mut wire = Wire::new(stream);
        assert_eq!(wire.line(), "begin");
        wire.send(noise(300_000));
        wire.finish();
        assert_eq!(wire.line(), "300000 bytes");
        assert_eq!(wire.try_rest().expect("the end"), b"");
    }
}

fn a_large_transfer_arrives_whole_in_both_directions(fixture: &mut Fixture) {
    let size = 32 * 1024 * 1024;
    let _backend = Backend::connections(fixture.mail.listen(2525), move |wire| {
        let mut back = wire.stream().try_clone().expect("a second handle");
        let writing = std::thread::spawn(move || {
            back.write_all(b"!")
                .and_then(|()| back.write_all(&noise(size)))?;
            back.shutdown(Shutdown::Write)
        });
        let mut read = Vec::new();
        let mut stream = wire.stream();
        stream
            .read_to_end(&mut read)
            .expect("all that the caller says");
        writing.join().expect("the writer").expect("all is said");
        assert!(
            read == noise(size),
            "{} bytes of {size} came, or others",
            read.len()
        );
    });
    let wire = fixture.caller.connect("mail", 25);
    let mut stream = wire.stream();
    let mut writer = stream.try_clone().expect("a second handle");
    let writing = std::thread::spawn(move || {
        writer.write_all(&noise(size))?;
        writer.shutdown(Shutdown::Write)
    });
    let mut read = Vec::new();
    stream
        .read_to_end(&mut read)
        .expect("all that the server says");
    writing.join().expect("the writer").expect("all is said");
    assert_eq!(read.len(), size + 1);
    assert!(read.get(1..) == Some(&noise(size)), "other bytes came");
}

fn a_connection_that_nobody_takes_is_refused(fixture: &mut Fixture) {
    // 7777 is no port of the service.
    let since = Instant::now();
    let outcome = fixture
        .caller
        .try_connect("mail", 7777)
        .and_then(|mut wire| {
            wire.try_send("hello\r\n")?;
            wire.try_rest()
        });
    assert!(
        outcome.as_ref().map_or(true, Vec::is_empty)
            || outcome.is_ok_and(|bytes| bytes.starts_with(b"HTTP/1.1 "))
    );
    assert!(since.elapsed() < Duration::from_secs(5));
}

fn tcp_is_reported_with_both_identities(fixture: &mut Fixture) {
    let _backend = Backend::connections(fixture.mail.listen(2525), smtp);
    for _ in 0..3 {
        let mut wire = fixture.caller.connect("mail", 25);
        wire.line();
        wire.send("QUIT\r\n");
        wire.line();
    }
    let edge = until("the edge is reported", SOON, || {
        let edges = fixture.mesh.api("/leno/v1/telemetry/edges?window=60s");
        let all = edges["edges"].as_array()?;
        all.iter()
            .find(|edge| {
                // The caller from outside the mesh, of another test, is an edge of its own.
                edge["destination"] == "mail"
                    && edge["protocol"] == "tcp"
                    && edge["source"] != "legacy"
            })
            .cloned()
    });
    assert_eq!(edge["mtls"], true, "{edge}");
    assert_eq!(
        edge["source_identity"], "spiffe://default.leno/ns/default/sa/default",
        "{edge}"
    );
    assert_eq!(
        edge["destination_identity"], "spiffe://default.leno/ns/default/sa/mail",
        "{edge}"
    );
}
