//! Attacks: on published ports, by holders of a wrong certificate, at the control plane's port, on the agent's socket,
//! and with bytes that mean nothing anywhere. Each is refused for a reason, and the others are served meanwhile.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    process::Command,
    rc::Rc,
};

use leno_e2e::{Backend, SOON, response};
use leno_testkit::{Answer, Host, Member, Mesh, Output, Wire, need, suite, until};

/// `web` on a, published on 8080; `caller` on b; host s is a stranger's, host j joined and runs no agent.
struct Fixture {
    mesh: Mesh,
    web: Member,
    log: Backend,
    caller: Member,
}

fn start() -> Fixture {
    let mut mesh = Mesh::with(&["a", "b"], &["web"]);
    mesh.network.add("s");
    let joined = mesh.network.add("j");
    let token = mesh.token(&["--service=web"]);
    let joining = mesh.spawn_join(&joined, &token, &["--no-agent"]).wait(SOON);
    assert_eq!(joining, 0);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let web = mesh.run(&a).service("web").port("80:8080/http");
    let web = web.option("publish", "8080").start();
    let log = Backend::http(web.listen(8080), |_| response(200, "", "web"));
    let caller = mesh.run(&b).start();
    let fixture = Fixture {
        mesh,
        web,
        log,
        caller,
    };
    until("web is called by name and from outside", SOON, || {
        fixture.calls().then_some(())
    });
    fixture
}

suite!(
    start,
    [
        a_protocol_with_a_second_request_in_it_is_refused,
        who_says_nothing_holds_up_nobody,
        who_only_sits_on_the_agents_own_ports_makes_room,
        garbage_on_every_port_harms_nobody,
        without_a_certificate_nothing_is_told_at_the_control_plane,
        an_agents_and_a_workloads_certificates_are_nothing_at_the_api,
        an_agents_certificate_calls_no_workload,
        a_body_without_end_is_cut_off_at_the_api,
        a_user_who_may_not_run_programs_is_told_so,
        a_published_port_is_free_again_when_its_program_has_ended,
    ]
);

impl Fixture {
    /// Whether `web` answers a member, and a stranger at its published port.
    fn calls(&self) -> bool {
        let member = self.caller.try_connect("web", 80).and_then(get);
        let stranger = self
            .stranger(8080)
            .and_then(|stream| get(Wire::new(stream)));
        [member, stranger]
            .into_iter()
            .all(|answer| answer.is_ok_and(|answer| answer.status() == 200))
    }

    fn at(&self, port: u16) -> SocketAddr {
        (self.mesh.host("a").v4, port).into()
    }

    fn stranger(&self, port: u16) -> std::io::Result<TcpStream> {
        let stream = self.mesh.host("s").connect(self.at(port))?;
        stream.set_read_timeout(Some(SOON))?;
        stream.set_write_timeout(Some(SOON))?;
        Ok(stream)
    }

    /// The same processes as before, and they serve.
    fn unharmed(&mut self) {
        for host in ["a", "b"] {
            let agent = self.mesh.agent(host);
            assert_eq!(agent.ended(), None, "{}", agent.stderr());
        }
        let control_plane = self.mesh.control_plane.as_mut().expect("it runs");
        assert_eq!(control_plane.ended(), None, "{}", control_plane.stderr());
        assert!(self.calls());
    }

    /// A certificate and its key in one file, as an agent keeps them at `path` of a host's disk.
    fn certificate(&self, of: &Rc<Host>, path: &str) -> String {
        let text = fs::read_to_string(of.disk().join(path)).expect("what the agent keeps");
        let kept: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let kept = kept.get(0).unwrap_or(&kept);
        let pem = |field: &str| kept[field].as_str().expect("PEM").to_owned();
        let file = self.mesh.host("s").disk().join(path.replace('/', "-"));
        fs::write(&file, pem("key") + &pem("chain")).expect("a file");
        file.display().to_string()
    }

    /// A file with a gRPC message that says nothing, as curl is told of it.
    fn empty_message(&self) -> String {
        let file = self.mesh.host("s").disk().join("empty-message");
        fs::write(&file, [0; 5]).expect("a file");
        format!("@{}", file.display())
    }

    /// Asks the control plane from the stranger's host: the answer's body, then its status.
    fn ask(&self, curl: &std::path::Path, path: &str, more: &[&str]) -> Output {
        let url = format!("https://{}:15012{path}", self.mesh.host("cp").v4);
        let mut command = Command::new(curl);
        command.args(["-sk", "--max-time", "20", "-w", "\n%{http_code}", &url]);
        self.mesh.host("s").run(command.args(more))
    }
}

fn get(mut wire: Wire) -> std::io::Result<Answer> {
    wire.try_send("GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n")?;
    wire.try_message()
}

impl Fixture {
    /// The answer to a call of gRPC. curl sometimes loses one that comes before it has sent its message.
    fn call(&self, curl: &std::path::Path, name: &str, more: &[&str]) -> String {
        let path = format!("/leno.agent.v1.Agent/{name}");
        until("curl has an answer", SOON, || {
            let answer = self.ask(curl, &path, more).text();
            (!answer.trim_end().ends_with("000")).then_some(answer)
        })
    }
}

/// What curl is told for a call of gRPC.
fn grpc(message: &str) -> [&str; 6] {
    let kind = "content-type: application/grpc";
    ["--data-binary", message, "-H", kind, "-D", "-"]
}

/// One HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Fields of HTTP/2, none of them indexed or compressed.
fn fields(list: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in list {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("less than 127 bytes"));
            block.extend(text.as_bytes());
        }
    }
    block
}

/// Reads frames until one of these kinds comes on the stream.
fn frame_of(stream: &mut TcpStream, number: u32, kinds: &[u8]) -> (u8, Vec<u8>) {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).expect("a frame");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).expect("a length")];
        stream.read_exact(&mut payload).expect("a frame");
        if head[5..] == number.to_be_bytes() && kinds.contains(&head[3]) {
            return (head[3], payload);
        }
    }
}

fn a_protocol_with_a_second_request_in_it_is_refused(fixture: &mut Fixture) {
    let before = fixture.log.seen().len();
    let mut stream = fixture.stranger(8080).expect("a connection");
    let smuggled = "websocket\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: web\r\n\r\n";
    let connect = fields(&[
        (":method", "CONNECT"),
        (":protocol", smuggled),
        (":scheme", "http"),
        (":authority", "web"),
        (":path", "/"),
    ]);
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(frame(1, 4, 1, &connect));
    stream.write_all(&bytes).expect("bytes are sent");
    let (kind, block) = frame_of(&mut stream, 1, &[1, 3]);
    // A HEADERS frame that begins with `:status: 400` of the static table (RFC 7541 A), or a reset.
    assert!(
        kind == 3 || block.first() == Some(&0x8c),
        "{kind} {block:x?}"
    );
    assert!(fixture.calls());
    let seen = fixture.log.seen();
    let new = seen.get(before..).unwrap_or_default();
    assert!(!new.is_empty());
    for request in new {
        assert!(!request.head.contains("smuggled"), "{}", request.head);
    }
}

fn who_says_nothing_holds_up_nobody(fixture: &mut Fixture) {
    let silent = |host: &str| {
        let labels = ["limit=\"silent_connections\""];
        fixture
            .mesh
            .metric(host, "leno_limit_reached_total", &labels)
    };
    let before = silent("a");
    let open: Vec<TcpStream> = (0..1_200)
        .map(|_| fixture.stranger(8080).expect("a connection"))
        .collect();
    assert!(fixture.calls());
    until("the ceiling is counted", SOON, || {
        (silent("a") - before >= 100.0).then_some(())
    });
    drop(open);
    fixture.unharmed();
}

fn who_only_sits_on_the_agents_own_ports_makes_room(fixture: &mut Fixture) {
    let made_room = || {
        let labels = ["limit=\"admin_connections\""];
        fixture
            .mesh
            .metric("a", "leno_limit_reached_total", &labels)
    };
    for (port, path) in [(15020, "/metrics"), (15021, "/healthz/ready")] {
        let before = made_room();
        // Some say nothing at all, and some ask and do not read.
        let mut open: Vec<Wire> = (0..200)
            .map(|_| Wire::new(fixture.stranger(port).expect("a connection")))
            .collect();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        for wire in open.iter_mut().step_by(2) {
            // It may have made room already.
            drop(wire.try_send(&request));
        }
        let mut fresh = Wire::new(fixture.stranger(port).expect("a connection"));
        assert_eq!(fresh.ask(&request).status(), 200, "{port}");
        until("all but so many have made room", SOON, || {
            (made_room() - before >= 150.0).then_some(())
        });
        let first = open.remove(1);
        match first.stream().read(&mut [0; 1]) {
            Ok(0) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            other => panic!("{port}: {other:?}"),
        }
    }
    assert!(fixture.calls());
}

fn garbage_on_every_port_harms_nobody(fixture: &mut Fixture) {
    let long = |byte: u8| vec![byte; 300_000];
    let head = [b"GET / HTTP/1.1\r\na: ".to_vec(), long(b'a')].concat();
    let line = [b"GET /".to_vec(), long(b'a'), b" HTTP/1.1\r\n\r\n".to_vec()].concat();
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), long(0xff)].concat();
    let hello = [b"\x16\x03\x01\x3f\xff\x01".to_vec(), long(7)].concat();
    let all = [long(0), long(0xff), long(b'\n'), head, line, preface, hello];
    let control_plane = SocketAddr::from((fixture.mesh.host("cp").v4, 15012));
    let ports = [15008, 15020, 15021, 8080].map(|port| fixture.at(port));
    for at in ports.into_iter().chain([control_plane]) {
        for bytes in &all {
            let host = fixture.mesh.host("s");
            let mut stream = host.connect(at).expect("a connection");
            stream.set_write_timeout(Some(SOON)).expect("a timeout");
            // It is up to the other side when to stop reading.
            drop(stream.write_all(bytes));
        }
        assert!(fixture.calls(), "after garbage at {at}");
    }
    for private in [15000, 15001, 15006] {
        assert!(
            fixture.stranger(private).is_err(),
            "{private} is open to all"
        );
    }
    fixture.unharmed();
}

fn without_a_certificate_nothing_is_told_at_the_control_plane(fixture: &mut Fixture) {
    let curl = need!("curl");
    for path in [
        "/version",
        "/meshes",
        "/meshes/default/api/v1/services",
        "/meshes/default/leno/v1/tokens",
        "/meshes/default/leno/v1/status",
        "/meshes/default/leno/v1/proxies",
        "/meshes/default/leno/v1/telemetry/edges",
    ] {
        let answer = fixture.ask(&curl, path, &[]).text();
        assert!(answer.trim_end().ends_with("401"), "{path}: {answer}");
        assert!(answer.contains("\"reason\":\"Unauthorized\""), "{answer}");
    }
    let message = fixture.empty_message();
    let grpc = grpc(&message);
    for call in ["SignWorkload", "Renew", "Session"] {
        let answer = fixture.call(&curl, call, &grpc);
        // 16 is UNAUTHENTICATED.
        assert!(answer.contains("grpc-status: 16"), "{call}: {answer}");
    }
}

fn an_agents_and_a_workloads_certificates_are_nothing_at_the_api(fixture: &mut Fixture) {
    let curl = need!("curl");
    let agent = fixture.certificate(&fixture.mesh.host("j"), "data/membership.json");
    let workload = fixture.certificate(&fixture.mesh.host("b"), "run/workloads.json");
    for file in [agent, workload] {
        for path in [
            "/api/v1/services",
            "/leno/v1/tokens",
            "/leno/v1/proxies",
            "/leno/v1/status",
        ] {
            let path = format!("/meshes/default{path}");
            let answer = fixture.ask(&curl, &path, &["--cert", &file]).text();
            assert!(answer.trim_end().ends_with("403"), "{path}: {answer}");
            assert!(answer.contains("\"reason\":\"Forbidden\""), "{answer}");
        }
    }
    let file = fixture.certificate(&fixture.mesh.host("b"), "run/workloads.json");
    let message = fixture.empty_message();
    let grpc = [&["--cert", &file][..], &grpc(&message)].concat();
    let answer = fixture.call(&curl, "Renew", &grpc);
    // 7 is PERMISSION_DENIED.
    assert!(answer.contains("grpc-status: 7"), "{answer}");
}

fn an_agents_certificate_calls_no_workload(fixture: &mut Fixture) {
    let openssl = need!("openssl");
    let refused = |host: &str| {
        let labels = ["reason=\"no_workload\""];
        let name = "leno_tls_handshakes_failed_total";
        fixture.mesh.metric(host, name, &labels)
    };
    let before = refused("a");
    let agent = fixture.certificate(&fixture.mesh.host("j"), "data/membership.json");
    let at = fixture.at(15008).to_string();
    let mut command = Command::new(openssl);
    command.args(["s_client", "-connect", &at, "-noservername"]);
    command.args(["-alpn", "h2", "-cert", &agent, "-cert_chain", &agent]);
    fixture.mesh.host("s").run(command.args(["-key", &agent]));
    until("it was refused, and counted", SOON, || {
        (refused("a") > before).then_some(())
    });
}

fn a_body_without_end_is_cut_off_at_the_api(fixture: &mut Fixture) {
    let curl = need!("curl");
    let control_plane = fixture.mesh.control_plane.as_ref().expect("it runs").pid();
    let resident = || {
        let memory = fs::read_to_string(format!("/proc/{control_plane}/status"));
        let memory = memory.expect("it runs");
        let mut lines = memory.lines();
        let line = lines.find_map(|line| line.strip_prefix("VmRSS:"));
        let words = line.and_then(|line| line.split_whitespace().next());
        words.and_then(|word| word.parse::<u64>().ok()).expect("kB")
    };
    let before = resident();
    let file = fixture.mesh.host("s").disk().join("large");
    fs::write(&file, vec![b' '; 64 << 20]).expect("a file");
    let data = format!("@{}", file.display());
    for path in ["/api/v1/namespaces/default/services", "/leno/v1/tokens"] {
        let path = format!("/meshes/default{path}");
        let more = ["-X", "POST", "--http1.1", "--data-binary", &data];
        let answer = fixture.ask(&curl, &path, &more).text();
        assert!(!answer.trim_end().ends_with("201"), "{answer}");
    }
    let after = resident();
    assert!(after < before + 32 * 1024, "{before} kB, then {after} kB");
    fixture.unharmed();
}

fn a_user_who_may_not_run_programs_is_told_so(fixture: &mut Fixture) {
    need!("setpriv");
    let a = fixture.mesh.host("a");
    // The socket is in a directory of this test's own; everybody may come as far as that.
    for dir in a.disk().join("run/agent.sock").ancestors().skip(1).take(2) {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("permissions");
    }
    let run = fixture.mesh.run(&a).user(4321).program(["true"]);
    let output = run.to_end();
    assert_ne!(output.code, 0);
    assert!(
        output
            .stderr
            .contains("user 4321 may not run programs here"),
        "{}",
        output.stderr
    );
    fixture.unharmed();
}

fn a_published_port_is_free_again_when_its_program_has_ended(fixture: &mut Fixture) {
    let a = fixture.mesh.host("a");
    for _ in 0..3 {
        let run = fixture.mesh.run(&a).service("web").port("81:8081/http");
        let run = run.option("publish", "8081").option("check", "none");
        let output = run.program(["true"]).to_end();
        assert_eq!(output.code, 0, "{}", output.stderr);
        until("nobody listens there", SOON, || {
            fixture.stranger(8081).is_err().then_some(())
        });
    }
    // Its own, of another program, was let be.
    assert!(fixture.calls());
    assert_eq!(fixture.web.exec(&["true"]).code, 0);
}
