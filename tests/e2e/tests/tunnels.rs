//! HTTP of a peer that is no Leno proxy: a real Envoy carries it as bytes to ports that are declared to speak HTTP.

use std::time::Duration;

use leno_e2e::{
    Backend, SOON,
    peer::{Identity, Tunnel, identity, uid_of},
    response, run_script, shown,
};
use leno_testkit::{
    Capture, Member, Mesh, PAYLOAD, Process, Wire, need, need_python, suite, until,
};

/// `web` on a; `caller` on b, whose certificate the Envoy on host s has.
struct Fixture {
    mesh: Mesh,
    web: Member,
    caller: Member,
    uid: String,
    own: Identity,
}

const HTTP: u16 = 8080;
const GRPC: u16 = 8081;
const CALLER: &str = "spiffe://default.leno/ns/default/sa/friend";

fn start() -> Fixture {
    let mut mesh = Mesh::with(&["a", "b"], &["web", "friend"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let stranger = mesh.network.add("s");
    let web = mesh.run(&a).service("web").option("check", "none");
    let web = web.port("80:8080/http").port("81:8081/grpc").start();
    let caller = mesh.run(&b).account("friend").start();
    let own = identity(&b, &stranger, "own");
    let uid = uid_of(&mesh, "web");
    Fixture {
        mesh,
        web,
        caller,
        uid,
        own,
    }
}

suite!(
    start,
    [
        requests_in_a_tunnel_are_requests,
        http_2_and_grpc_in_a_tunnel_reach_the_program,
        what_is_no_http_in_a_tunnel_is_refused_with_its_reason,
        a_denied_caller_is_refused_on_the_tunnel_it_has,
    ]
);

impl Fixture {
    /// An Envoy on host s that tunnels its port 9000 to this port of host a.
    fn envoy(&self, program: &std::path::Path, port: u16) -> Process {
        let a = self.mesh.host("a").v4;
        let to = Tunnel {
            host: a,
            uid: &self.uid,
            identity: "spiffe://default.leno/ns/default/sa/web",
            roots: &self.own.roots,
            authority: &format!("{a}:{port}"),
        };
        to.by_envoy(&self.mesh.host("s"), program, &self.own)
    }

    fn dial(&self) -> Wire {
        let s = self.mesh.host("s");
        Wire::new(
            s.connect(([127, 0, 0, 1], 9000).into())
                .expect("a connection"),
        )
    }
}

fn requests_in_a_tunnel_are_requests(fixture: &mut Fixture) {
    let program = need!("envoy");
    let backend = Backend::http(fixture.web.listen(HTTP), |request| {
        response(
            200,
            "X-CaSe: Yes\r\n",
            [b"<", &request.body[..], b">"].concat(),
        )
    });
    let _envoy = fixture.envoy(&program, HTTP);
    let capture = Capture::start(&[PAYLOAD.as_bytes()]);
    let mut wire = fixture.dial();
    for number in 0..20 {
        let answer = wire.ask(format!(
            "POST /{number} HTTP/1.1\r\nHost: web\r\nX-Twice: 1\r\nx-TWICE: 2\r\nx-leno-from: forged\r\n\
             x-leno-to: 1 127.0.0.1:15000 - -\r\ncontent-length: {}\r\n\r\n{PAYLOAD}",
            PAYLOAD.len()
        ));
        assert_eq!(answer.status(), 200, "{}", answer.head);
        assert_eq!(answer.body, format!("<{PAYLOAD}>").into_bytes());
        assert!(answer.head.contains("X-CaSe: Yes"), "{}", answer.head);
    }
    capture.assert_no_cleartext(PAYLOAD.as_bytes());
    let seen = backend.seen();
    assert_eq!(seen.len(), 20);
    for request in &seen {
        let head = &request.head;
        assert!(!head.to_ascii_lowercase().contains("x-leno-"), "{head}");
        assert!(head.contains("X-Twice: 1\r\nx-TWICE: 2"), "{head}");
        assert!(request.field("traceparent").is_some(), "{head}");
    }
    let line = until("each is logged", SOON, || {
        let log = fixture.mesh.access_log("a");
        let mut lines = log.into_iter().filter(|line| line["path"] == "/19");
        lines.next()
    });
    assert_eq!(line["source_identity"], CALLER, "{line}");
    assert_eq!(line["response_code"], 200, "{line}");
    until("each is counted", SOON, || {
        let principal = format!("source_principal=\"{CALLER}\"");
        let labels = [principal.as_str(), "request_protocol=\"http\""];
        let counted = fixture.mesh.metric("a", "istio_requests_total", &labels);
        (counted >= 20.0).then_some(())
    });
}

fn http_2_and_grpc_in_a_tunnel_reach_the_program(fixture: &mut Fixture) {
    let python = need_python!("grpc");
    let program = need!("envoy");
    let port = GRPC.to_string();
    let mut server = fixture
        .web
        .spawn(&mut run_script(&python, "grpc_server.py", &[&port]));
    until("the gRPC server is ready", SOON, || {
        assert_eq!(server.ended(), None, "{}", server.stderr());
        server.stdout().contains("ready").then_some(())
    });
    let _envoy = fixture.envoy(&program, GRPC);
    for case in ["kinds", "failure", "deadline"] {
        let mut client = run_script(&python, "grpc_client.py", &["127.0.0.1:9000", case]);
        let client = fixture.mesh.host("s").run(&mut client);
        assert_eq!(client.code, 0, "{case}: {}{}", client.text(), client.stderr);
    }
    until("each is counted", SOON, || {
        let labels = ["request_protocol=\"grpc\"", CALLER];
        let counted = fixture.mesh.metric("a", "istio_requests_total", &labels);
        (counted >= 81.0).then_some(())
    });
}

fn what_is_no_http_in_a_tunnel_is_refused_with_its_reason(fixture: &mut Fixture) {
    let program = need!("envoy");
    let backend = Backend::connections(fixture.web.listen(HTTP), |mut wire| {
        panic!("something reached the program: {:?}", wire.try_rest());
    });
    let _envoy = fixture.envoy(&program, HTTP);
    for bytes in [
        vec![0; 300],
        b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".to_vec(),
    ] {
        let mut wire = fixture.dial();
        wire.send(&bytes);
        let answer = wire.message();
        // It waits for us to have read it.
        drop(wire);
        assert_eq!(answer.status(), 400, "{bytes:?}: {}", answer.head);
        shown(&fixture.mesh, &answer, "a", "DPE");
    }
    // What speaks TLS would not read an answer in clear.
    let counted = || {
        fixture
            .mesh
            .metric("a", "leno_refused_total", &["reason=\"DPE\""])
    };
    let before = counted();
    let mut wire = fixture.dial();
    wire.send(b"\x16\x03\x01\x00\x05hello");
    assert_eq!(wire.try_rest().unwrap_or_default(), b"");
    until("it is counted", SOON, || (counted() > before).then_some(()));
    assert!(backend.seen().is_empty());
}

fn a_denied_caller_is_refused_on_the_tunnel_it_has(fixture: &mut Fixture) {
    let program = need!("envoy");
    let backend = Backend::http(fixture.web.listen(HTTP), |_| response(200, "", PAYLOAD));
    let _envoy = fixture.envoy(&program, HTTP);
    let mut wire = fixture.dial();
    let get = "GET / HTTP/1.1\r\nhost: web\r\n\r\n";
    assert_eq!(wire.ask(get).status(), 200);
    fixture.mesh.leno(&["deny", "friend", "web"]).good();
    let seen = backend.seen().len();
    let answer = wire.ask(get);
    assert_eq!(answer.status(), 403, "{}", answer.head);
    shown(&fixture.mesh, &answer, "a", "RBAC");
    assert_eq!(backend.seen().len(), seen);
    let undo = ["delete", "accesspolicy", "deny-friend-web"];
    fixture.mesh.leno(&undo).good();
    until("it may again", Duration::from_secs(20), || {
        (fixture.dial().ask(get).status() == 200).then_some(())
    });
    // So that the caller's own proxy is seen to be well.
    let answer = fixture.caller.connect("web", 80).ask(get);
    assert_eq!(answer.status(), 200, "{}", answer.head);
}
