//! HTTP between two hosts: plain programs, plain names, and nothing in clear between them.

use leno_e2e::{SOON, nginx};
use leno_testkit::{Capture, Member, Mesh, PAYLOAD, Process, need, suite, until_ok};

struct Fixture {
    mesh: Mesh,
    web: Member,
    caller: Member,
    nginx: Option<Process>,
}

fn start() -> Fixture {
    let mesh = Mesh::with(&["a", "b"], &["web", "shop"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let web = mesh.run(&a).service("web").port("80:8080").start();
    let caller = mesh.run(&b).account("shop").start();
    let mut fixture = Fixture {
        mesh,
        web,
        caller,
        nginx: None,
    };
    if let Some(program) = leno_testkit::program("nginx") {
        let http = format!("server {{ listen 8080; location / {{ return 200 '{PAYLOAD} of nginx'; }} }}");
        let dir = a.disk().join("nginx");
        fixture.nginx = Some(nginx(&fixture.web, &program, &dir, &http));
    }
    fixture
}

suite!(start, [a_plain_name_is_called_over_mutual_tls]);

fn a_plain_name_is_called_over_mutual_tls(fixture: &mut Fixture) {
    let (_curl, _nginx) = (need!("curl"), need!("nginx"));
    until_ok("web answers", SOON, || {
        let output = fixture.caller.curl(&["http://web/"]);
        if output.code == 0 && output.text().contains("nginx") { Ok(()) } else { Err(output) }
    });
    let capture = Capture::start(&[PAYLOAD.as_bytes(), b"GET /"]);
    for family in ["-4", "-6"] {
        let output = fixture.caller.curl(&[family, "http://web/"]).good();
        assert_eq!(output.text(), format!("{PAYLOAD} of nginx"));
    }
    capture.assert_no_cleartext(PAYLOAD.as_bytes());
    capture.assert_no_cleartext(b"GET /");
}
