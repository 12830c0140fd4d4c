//! Each protocol that programs speak, between two hosts of both families, and between two that have IPv6 alone.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream},
    path::Path,
    process::Command,
    rc::Rc,
};

use leno_e2e::{Backend, SOON, nginx, noise, resolver_of_ipv6, response, run_script};
use leno_testkit::{
    Capture, Host, Member, Mesh, PAYLOAD, Wire, need, need_python, suite, until, until_ok,
};

struct Fixture {
    mesh: Mesh,
    families: [Family; 2],
}

/// A server's host and a caller on another, and how one calls the other.
struct Family {
    v6: bool,
    host: Rc<Host>,
    /// Whatever a test makes of it: HTTP at port 80, undeclared at port 81, TLS at port 443, gRPC at port 50051.
    server: Member,
    caller: Member,
}

const HTTP: u16 = 8080;
const UNDECLARED: u16 = 8081;
const TLS: u16 = 8443;
const GRPC: u16 = 50051;

fn start() -> Fixture {
    let mut mesh = Mesh::builder().services(&["four", "six"]).start();
    resolver_of_ipv6(&mesh);
    mesh.join("a");
    mesh.join("b");
    mesh.join_ipv6_only("c");
    mesh.join_ipv6_only("d");
    mesh.network.add_outside("world");
    let families = [("four", "a", "b"), ("six", "c", "d")].map(|(service, at, from)| {
        let host = mesh.host(at);
        let server = mesh.run(&host).service(service).option("check", "none");
        let server = ["80:8080/http", "81:8081", "443:8443/tls", "50051/grpc"]
            .iter()
            .fold(server, |server, port| server.port(port));
        let server = server.option("publish", "9080:8080");
        Family {
            v6: service == "six",
            server: server.option("publish", "9081:8081").start(),
            caller: mesh.run(&mesh.host(from)).start(),
            host,
        }
    });
    Fixture { mesh, families }
}

suite!(
    start,
    [
        http_of_each_version,
        interim_responses_come_from_the_program,
        large_bodies_both_ways_at_once,
        grpc_of_all_four_kinds,
        websockets,
        a_way_to_elsewhere_through_a_program_that_is_a_forward_proxy,
        tls_of_the_programs_own_is_told_apart_by_its_name,
        bytes_of_a_server_that_speaks_first,
        nothing_of_it_crosses_in_clear,
    ]
);

impl Family {
    fn service(&self) -> &'static str {
        if self.v6 { "six" } else { "four" }
    }

    /// The service's virtual address, of this family.
    fn vip(&self, port: u16) -> SocketAddr {
        let all = self.caller.look_up(self.service()).expect("the service");
        let mut of = all.into_iter().find(|of| of.is_ipv6() == self.v6);
        let of = of.as_mut().expect("an address of this family");
        of.set_port(port);
        *of
    }

    /// The program connects to its service's port, in this family.
    fn connect(&self, port: u16) -> Wire {
        let to = self.vip(port);
        let stream = self.caller.within(|| TcpStream::connect(to));
        Wire::new(stream.unwrap_or_else(|error| panic!("{to}: {error}")))
    }

    /// The server's program, listening in this family alone where there is one alone.
    fn serve(&self, port: u16, serve: impl Fn(Wire) + Send + Sync + 'static) -> Backend {
        let any: IpAddr = if self.v6 {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            [0, 0, 0, 0].into()
        };
        Backend::connections(self.server.listen_on((any, port).into()), serve)
    }

    /// A published port of the server's host, in this family.
    fn published(&self, port: u16) -> SocketAddr {
        if self.v6 {
            (self.host.v6, port).into()
        } else {
            (self.host.v4, port).into()
        }
    }

    /// `host:port` of the service's virtual address as a URL has it.
    fn url(&self, scheme: &str, port: u16) -> String {
        format!("{scheme}://{}/", self.vip(port))
    }

    /// curl, in this family.
    fn curl(&self, arguments: &[&str]) -> leno_testkit::Output {
        let family = if self.v6 { "-6" } else { "-4" };
        self.caller.curl(&[&[family], arguments].concat())
    }
}

fn http_of_each_version(fixture: &mut Fixture) {
    let (_curl, program) = (need!("curl"), need!("nginx"));
    for family in &fixture.families {
        {
            let _old = family.serve(HTTP, |mut wire| {
                let request = wire.message();
                // No length: the end of the connection ends the body.
                wire.send(format!("HTTP/1.0 200 OK\r\n\r\n{}", request.head));
            });
            let answer = family.connect(80).ask("GET /old HTTP/1.0\r\n\r\n");
            assert_eq!(answer.status(), 200, "{}", answer.head);
            assert!(answer.body.starts_with(b"GET /old HTTP/1."), "{answer:?}");
        }
        let dir = family.host.disk().join("nginx");
        let http = format!(
            "server {{ listen [::]:{HTTP} ipv6only=off; location / {{ return 200 'by $server_protocol'; }} }}
             server {{ listen [::]:{UNDECLARED} http2 ipv6only=off; location / {{ return 200 'by $server_protocol'; }} }}"
        );
        let _nginx = nginx(&family.server, &program, &dir, &http);
        for (version, port, expected) in [
            ("--http1.0", 80, "by HTTP/1.1"),
            ("--http1.1", 80, "by HTTP/1.1"),
            ("--http2-prior-knowledge", 80, "by HTTP/1.1"),
            ("--http2-prior-knowledge", 81, "by HTTP/2.0"),
        ] {
            let url = family.url("http", port);
            until_ok("nginx answers", SOON, || {
                let output = family.curl(&[version, &url]);
                if output.text() == expected {
                    Ok(())
                } else {
                    Err(output)
                }
            });
        }
        let url = format!("http://{}/", family.published(9080));
        let world = fixture.mesh.host("world");
        let output = world.exec(&["curl", "-sS", &url]).good();
        assert_eq!(output.text(), "by HTTP/1.1");
    }
}

fn interim_responses_come_from_the_program(fixture: &mut Fixture) {
    for family in &fixture.families {
        let _backend = family.serve(HTTP, |mut wire| {
            let head = wire.head().to_ascii_lowercase();
            assert!(head.contains("expect: 100-continue"), "{head}");
            wire.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n");
            wire.send("HTTP/1.1 100 Continue\r\n\r\n");
            let body = wire.try_exactly(5).expect("the body");
            wire.send("HTTP/1.1 103 Early Hints\r\nLink: </b.css>; rel=preload\r\n\r\n");
            wire.send(response(200, "", body));
        });
        let mut wire = family.connect(80);
        wire.send(
            "POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n",
        );
        let hints = wire.head();
        assert!(
            hints.starts_with("HTTP/1.1 103") && hints.contains("</a.css>"),
            "{hints}"
        );
        assert!(wire.head().starts_with("HTTP/1.1 100"));
        wire.send("hello");
        let hints = wire.head();
        assert!(
            hints.starts_with("HTTP/1.1 103") && hints.contains("</b.css>"),
            "{hints}"
        );
        assert_eq!(wire.message().body, b"hello");
    }
}

fn large_bodies_both_ways_at_once(fixture: &mut Fixture) {
    const SIZE: usize = 8 << 20;
    for family in &fixture.families {
        // Sends back what it has as soon as it has it, so that both directions are under way.
        let _backend = family.serve(HTTP, |mut wire| {
            wire.head();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n");
            wire.send(head);
            for _ in 0..SIZE / (64 << 10) {
                let Ok(part) = wire.try_exactly(64 << 10) else {
                    return;
                };
                if wire.try_send(part).is_err() {
                    return;
                }
            }
        });
        let mut wire = family.connect(80);
        wire.send(format!(
            "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {SIZE}\r\n\r\n"
        ));
        let body = noise(SIZE);
        let mut half = Wire::new(wire.stream().try_clone().expect("a second handle"));
        let sent = body.clone();
        let sending = std::thread::spawn(move || half.try_send(sent));
        let answer = wire.message();
        sending
            .join()
            .expect("no panic")
            .expect("all of it is sent");
        assert!(answer.body == body, "{} bytes came back", answer.body.len());
    }
}

fn grpc_of_all_four_kinds(fixture: &mut Fixture) {
    let python = need_python!("grpc");
    for family in &fixture.families {
        let port = GRPC.to_string();
        let mut server = family
            .server
            .spawn(&mut run_script(&python, "grpc_server.py", &[&port]));
        until("the gRPC server is ready", SOON, || {
            assert_eq!(server.ended(), None, "{}", server.stderr());
            server.stdout().contains("ready").then_some(())
        });
        let kind = if family.v6 { "ipv6" } else { "ipv4" };
        let target = format!("{kind}:{}", family.vip(GRPC));
        for case in ["kinds", "failure"] {
            let mut client = run_script(&python, "grpc_client.py", &[&target, case]);
            let client = family.caller.run(&mut client);
            assert_eq!(client.code, 0, "{case}: {}{}", client.text(), client.stderr);
        }
    }
}

fn websockets(fixture: &mut Fixture) {
    let python = need_python!("websockets");
    for family in &fixture.families {
        let port = HTTP.to_string();
        let _server =
            family
                .server
                .spawn(&mut run_script(&python, "websocket_server.py", &[&port]));
        let url = family.url("ws", 80);
        let mut client = run_script(&python, "websocket_client.py", &[&url, "echo"]);
        let client = family.caller.run(&mut client);
        assert_eq!(client.code, 0, "{}{}", client.text(), client.stderr);
    }
}

/// A forward proxy as RFC 9110 9.3.6 has it, whose elsewhere is an echo of its own.
fn forward_proxy(mut wire: Wire) {
    // Dialled to see who speaks first, it may be left again.
    let Ok(head) = wire.try_head() else { return };
    if !head.starts_with("CONNECT elsewhere.test:443 HTTP/1.1") {
        wire.send(response(200, "", "no CONNECT"));
        return;
    }
    wire.send("HTTP/1.1 200 Connection established\r\n\r\n");
    while let Ok(line) = wire.try_until(b"\n") {
        if wire.try_send(line).is_err() {
            return;
        }
    }
}

fn a_way_to_elsewhere_through_a_program_that_is_a_forward_proxy(fixture: &mut Fixture) {
    const CONNECT: &str = "CONNECT elsewhere.test:443 HTTP/1.1\r\nhost: elsewhere.test:443\r\n\r\n";
    for family in &fixture.families {
        let _proxy = family.serve(UNDECLARED, forward_proxy);
        let _http = family.serve(HTTP, forward_proxy);
        let published = family.published(9081);
        let world = fixture.mesh.host("world");
        // Requests of its own kind first: what the port was found to speak does not stand in the way.
        for turn in 0..2 {
            let plain = family.connect(81).ask("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
            assert_eq!(plain.body, b"no CONNECT", "{turn}");
            let mut wire = family.connect(81);
            wire.send(CONNECT);
            let head = wire.head();
            assert!(
                head.starts_with("HTTP/1.1 200 Connection established"),
                "{head}"
            );
            wire.send("bytes, and no HTTP\n");
            assert_eq!(wire.line(), "bytes, and no HTTP");
            // Who proved nothing gets no way past the rules of HTTP but where bytes are what was declared.
            let refused = || {
                let labels = ["reason=\"DPE\""];
                let host = &family.host.name;
                fixture.mesh.metric(host, "leno_refused_total", &labels)
            };
            let before = refused();
            let mut stranger = Wire::new(world.connect(published).expect("a published port"));
            let answer = stranger.ask(CONNECT);
            assert_eq!(answer.status(), 400, "{}", answer.head);
            until("it is counted", SOON, || (refused() > before).then_some(()));
        }
        // Where HTTP is declared, rules of HTTP hold for each request: bytes would get past them.
        let answer = family.connect(80).ask(CONNECT);
        assert_eq!(answer.status(), 400, "{}", answer.head);
        let told = answer.field("x-leno-refused").unwrap_or_default();
        assert!(told.starts_with("DPE;"), "{told}");
    }
}

/// A certificate for this name; `None` where openssl makes none.
fn certificate(host: &Host, name: &str) -> (String, String) {
    let [key, chain] = ["key", "pem"].map(|kind| {
        let path = host.disk().join(format!("{name}.{kind}"));
        path.display().to_string()
    });
    let subject = format!("/CN={name}");
    let words = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    ];
    let more = [
        "-nodes", "-days", "1", "-subj", &subject, "-keyout", &key, "-out", &chain,
    ];
    host.exec(&[&words[..], &more].concat()).good();
    (chain, key)
}

/// The subject that a TLS server shows who asks for this name.
fn subject(family: &Family, openssl: &Path, port: u16, name: &str) -> String {
    let to = family.vip(port).to_string();
    let mut command = Command::new(openssl);
    command.args(["s_client", "-connect", &to, "-servername", name]);
    let output = family.caller.run(&mut command);
    let text = output.text();
    let line = text.lines().find(|line| line.starts_with("subject="));
    line.map(|line| line.replace(' ', "")).unwrap_or_default()
}

fn tls_of_the_programs_own_is_told_apart_by_its_name(fixture: &mut Fixture) {
    let (openssl, program) = (need!("openssl"), need!("nginx"));
    for family in &fixture.families {
        let server = |name: &str, rest: &str| {
            let (chain, key) = certificate(&family.host, name);
            let listen = |port: u16| format!("listen [::]:{port} ssl{rest};");
            format!(
                "server {{ {} {} server_name {name}; ssl_certificate {chain}; ssl_certificate_key {key};
                   location / {{ return 200 '{PAYLOAD} of {name}'; }} }}",
                listen(TLS),
                listen(UNDECLARED),
            )
        };
        let http = server("one.test", " ipv6only=off") + &server("two.test", "");
        let dir = family.host.disk().join("tls");
        let _nginx = nginx(&family.server, &program, &dir, &http);
        // Declared to be TLS, and found to be.
        for port in [443, 81] {
            for name in ["one.test", "two.test"] {
                until_ok("the name's own certificate is shown", SOON, || {
                    let shown = subject(family, &openssl, port, name);
                    if shown == format!("subject=CN={name}") {
                        Ok(())
                    } else {
                        Err(shown)
                    }
                });
            }
        }
    }
}

fn bytes_of_a_server_that_speaks_first(fixture: &mut Fixture) {
    for family in &fixture.families {
        let _backend = family.serve(UNDECLARED, |mut wire| {
            wire.send("begin\n");
            let all = wire.try_rest().expect("all that the caller says");
            wire.send(format!("{} bytes\n", all.len()));
        });
        let mut wire = family.connect(81);
        assert_eq!(wire.line(), "begin");
        wire.send(noise(300_000));
        wire.finish();
        assert_eq!(wire.line(), "300000 bytes");
        assert_eq!(wire.try_rest().expect("the end"), b"");
    }
}

fn nothing_of_it_crosses_in_clear(fixture: &mut Fixture) {
    for family in &fixture.families {
        let capture = Capture::start(&[PAYLOAD.as_bytes()]);
        let _backend = family.serve(HTTP, |mut wire| {
            drop(wire.try_message());
            drop(wire.try_send(response(200, "", PAYLOAD)));
        });
        for _ in 0..5 {
            let answer = family.connect(80).ask("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
            assert_eq!(answer.body, PAYLOAD.as_bytes());
        }
        let to = |address: IpAddr| capture.to(address, 15008);
        if family.v6 {
            assert!(to(family.host.v6.into()) > 0);
            assert_eq!(to(family.host.v4.into()), 0, "it has none");
        } else {
            assert!(to(family.host.v4.into()) > 0);
        }
        capture.assert_no_cleartext(PAYLOAD.as_bytes());
    }
}
