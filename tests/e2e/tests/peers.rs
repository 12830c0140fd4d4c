//! Others at port 15008: a real Envoy, openssl, and frames made by hand. The right certificate is served; each wrong
//! one, and each forged destination, is refused with its reason.

use std::{path::Path, process::Command};

use leno_e2e::{
    Backend, SOON,
    peer::{Identity, Tunnel, identity, uid_of},
    response, run_script, shown,
};
use leno_testkit::{Answer, Capture, Member, Mesh, PAYLOAD, Process, Wire, need, suite, until};

/// `web` and `other` on a; `caller` on b, whose certificate the strangers on host s use; a second mesh beside it.
struct Fixture {
    mesh: Mesh,
    _second: Mesh,
    _web: Member,
    log: Backend,
    other_log: Backend,
    _others: Vec<Member>,
    web_uid: String,
    own: Identity,
    foreign: Identity,
}

fn start() -> Fixture {
    let mut mesh = Mesh::with(&["a", "b"], &["web", "other", "rogue"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let stranger = mesh.network.add("s");
    let web = mesh.run(&a).service("web").port("80:8080").start();
    let other = mesh.run(&a).service("other").port("80:8081").start();
    let caller = mesh.run(&b).start();
    let log = Backend::http(web.listen(8080), |_| response(200, "", PAYLOAD));
    let other_log = Backend::http(other.listen(8081), |_| response(200, "", "other"));
    let host = mesh.network.add("cp2");
    let mut network = leno_testkit::Network::empty();
    let elsewhere = mesh.network.add("elsewhere");
    network.include(&elsewhere);
    let mut second = Mesh::named("second").start_on(network, host);
    second.join_existing(&elsewhere);
    let foreigner = second.run(&elsewhere).start();
    let own = identity(&b, &stranger, "own");
    let foreign = identity(&elsewhere, &stranger, "foreign");
    let web_uid = uid_of(&mesh, "web");
    Fixture {
        mesh,
        _second: second,
        _web: web,
        log,
        other_log,
        _others: vec![other, caller, foreigner],
        web_uid,
        own,
        foreign,
    }
}

suite!(
    start,
    [
        an_envoy_with_the_right_certificate_is_served,
        an_envoy_with_a_wrong_certificate_is_refused_with_a_reason,
        a_peer_without_a_certificate_is_refused,
        a_name_of_nobody_gets_no_connection,
        only_connect_is_taken_from_others_meshes_protocol,
        a_forged_destination_is_refused_in_either_protocol,
        what_is_no_http_2_harms_nobody,
        broken_http_2_of_a_peer_is_refused_with_its_reason,
        a_server_with_anothers_certificate_is_refused_and_told_nothing,
    ]
);

/// An Envoy on host s that tunnels its port 9000 to port 8080 of host a, as `who`.
fn envoy(fixture: &Fixture, program: &Path, who: &Identity) -> Process {
    let (host, a) = (fixture.mesh.host("s"), fixture.mesh.host("a"));
    let to = Tunnel {
        host: a.v4,
        uid: &fixture.web_uid,
        identity: "spiffe://default.leno/ns/default/sa/web",
        roots: &fixture.own.roots,
        authority: &format!("{}:8080", a.v4),
    };
    to.by_envoy(&host, program, who)
}

fn through(fixture: &Fixture) -> std::io::Result<Answer> {
    let mut wire = Wire::new(
        fixture
            .mesh
            .host("s")
            .connect(([127, 0, 0, 1], 9000).into())?,
    );
    wire.try_send("GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n")?;
    wire.try_message()
}

fn an_envoy_with_the_right_certificate_is_served(fixture: &mut Fixture) {
    let program = need!("envoy");
    let _envoy = envoy(fixture, &program, &fixture.own);
    for _ in 0..10 {
        let answer = through(fixture).expect("an answer");
        assert_eq!(
            (answer.status(), answer.body.as_slice()),
            (200, PAYLOAD.as_bytes())
        );
    }
    until("who called is logged", SOON, || {
        let log = fixture.mesh.access_log("a");
        log.iter()
            .any(|line| line["source_identity"] == "spiffe://default.leno/ns/default/sa/default")
            .then_some(())
    });
}

fn failed_handshakes(fixture: &Fixture) -> f64 {
    fixture
        .mesh
        .metric("a", "leno_tls_handshakes_failed_total", &[])
}

fn an_envoy_with_a_wrong_certificate_is_refused_with_a_reason(fixture: &mut Fixture) {
    let program = need!("envoy");
    let (before, seen) = (failed_handshakes(fixture), fixture.log.seen().len());
    let _envoy = envoy(fixture, &program, &fixture.foreign);
    assert!(
        through(fixture).is_err(),
        "another mesh's certificate opens nothing"
    );
    assert_eq!(fixture.log.seen().len(), seen);
    until("the handshake is counted as failed", SOON, || {
        (failed_handshakes(fixture) > before).then_some(())
    });
    let label = "reason=\"other_trust_domain\"";
    until("under its reason, which the log says as well", SOON, || {
        // The log has one line a second for all of them.
        let refused = through(fixture).is_err();
        let counted = fixture
            .mesh
            .metric("a", "leno_tls_handshakes_failed_total", &[label]);
        let log = fixture.mesh.agent("a").stderr();
        let told = log
            .lines()
            .any(|line| line.contains("a TLS handshake failed") && line.contains(label));
        (refused && counted >= 1.0 && told).then_some(())
    });
}

fn raw(
    fixture: &Fixture,
    alpn: &str,
    who: Option<&Identity>,
    sni: &str,
    fields: &[&str],
) -> String {
    let python = leno_testkit::python().expect("it was looked for");
    let a = fixture.mesh.host("a").v4.to_string();
    let (chain, key) = who.map_or(("-", "-"), |who| (&who.chain, &who.key));
    let mut arguments = vec![a.as_str(), "15008", sni, alpn, chain, key];
    arguments.extend(fields);
    let output = fixture
        .mesh
        .host("s")
        .run(&mut run_script(&python, "h2raw.py", &arguments));
    assert_eq!(output.code, 0, "{}{}", output.text(), output.stderr);
    output.text()
}

const GET: [&str; 4] = [":method=GET", ":scheme=https", ":path=/", ":authority=web"];

fn a_peer_without_a_certificate_is_refused(fixture: &mut Fixture) {
    need!("python3");
    let (before, seen) = (failed_handshakes(fixture), fixture.log.seen().len());
    for alpn in ["h2", "leno/1", "-"] {
        let said = raw(fixture, alpn, None, &fixture.web_uid, &GET);
        assert!(!said.contains("status"), "{alpn}: {said}");
    }
    let said = raw(
        fixture,
        "leno/1",
        Some(&fixture.foreign),
        &fixture.web_uid,
        &GET,
    );
    assert!(!said.contains("status"), "{said}");
    until("each is counted", SOON, || {
        (failed_handshakes(fixture) >= before + 4.0).then_some(())
    });
    assert_eq!(fixture.log.seen().len(), seen);
}

fn a_name_of_nobody_gets_no_connection(fixture: &mut Fixture) {
    need!("python3");
    for sni in ["0123456789abcdef0123456789abcdef", "web", "localhost"] {
        let said = raw(fixture, "h2", Some(&fixture.own), sni, &GET);
        assert!(!said.contains("status"), "{sni}: {said}");
    }
}

fn only_connect_is_taken_from_others_meshes_protocol(fixture: &mut Fixture) {
    need!("python3");
    let seen = fixture.log.seen().len();
    let said = raw(fixture, "h2", Some(&fixture.own), &fixture.web_uid, &GET);
    assert!(
        said.contains("alpn h2") && said.contains("status 400"),
        "{said}"
    );
    assert_eq!(fixture.log.seen().len(), seen);
    let to = format!(":authority={}:8080", fixture.mesh.host("a").v4);
    let said = raw(
        fixture,
        "h2",
        Some(&fixture.own),
        &fixture.web_uid,
        &[":method=CONNECT", &to],
    );
    assert!(
        said.contains("status 200") && said.contains(PAYLOAD),
        "{said}"
    );
}

fn a_forged_destination_is_refused_in_either_protocol(fixture: &mut Fixture) {
    need!("python3");
    let (a, b) = (fixture.mesh.host("a").v4, fixture.mesh.host("b").v4);
    let forged = [
        "127.0.0.1:15000".to_owned(),
        "127.0.0.1:8080".to_owned(),
        format!("{a}:15000"),
        format!("{a}:15008"),
        format!("{a}:22"),
        // The other workload of the same host, under this one's name.
        format!("{a}:8081"),
        format!("{b}:8080"),
        "240.240.0.1:80".to_owned(),
        "[::1]:15000".to_owned(),
        "nonsense".to_owned(),
    ];
    let before = fixture
        .mesh
        .metric("a", "leno_refused_total", &["reason=\"FD\""]);
    let (seen, other) = (fixture.log.seen().len(), fixture.other_log.seen().len());
    for to in &forged {
        let metadata = format!("x-leno-to=1 {to} default/web:80 a");
        let fields = [GET.as_slice(), &[&metadata]].concat();
        let said = raw(
            fixture,
            "leno/1",
            Some(&fixture.own),
            &fixture.web_uid,
            &fields,
        );
        assert!(
            said.contains("status 403") || said.contains("status 400"),
            "{to}: {said}"
        );
        let authority = format!(":authority={to}");
        let said = raw(
            fixture,
            "h2",
            Some(&fixture.own),
            &fixture.web_uid,
            &[":method=CONNECT", &authority],
        );
        assert!(!said.contains("status 200"), "{to}: {said}");
    }
    let said = raw(
        fixture,
        "leno/1",
        Some(&fixture.own),
        &fixture.web_uid,
        &GET,
    );
    assert!(!said.contains("status 200"), "without metadata: {said}");
    assert_eq!(
        (fixture.log.seen().len(), fixture.other_log.seen().len()),
        (seen, other)
    );
    until("they are counted", SOON, || {
        let now = fixture
            .mesh
            .metric("a", "leno_refused_total", &["reason=\"FD\""]);
        (now - before >= 16.0).then_some(())
    });
    told_to_the_caller(fixture, &forged[0]);
    // The true one is served: so it was the address that was refused.
    let metadata = format!("x-leno-to=1 {a}:8080 default/web:80 a");
    let fields = [GET.as_slice(), &[&metadata]].concat();
    let said = raw(
        fixture,
        "leno/1",
        Some(&fixture.own),
        &fixture.web_uid,
        &fields,
    );
    assert!(
        said.contains("alpn leno/1") && said.contains("status 200") && said.contains(PAYLOAD),
        "{said}"
    );
}

/// A caller in the mesh is told the reason in either protocol, and the log has it under the same id.
fn told_to_the_caller(fixture: &Fixture, to: &str) {
    if leno_testkit::module_of_python("hpack").is_none() {
        // The fields of an answer cannot be read without it; the rest was shown.
        return leno_testkit::skipped("in part: Python's module hpack is not installed");
    }
    let (metadata, authority) = (
        format!("x-leno-to=1 {to} default/web:80 a"),
        format!(":authority={to}"),
    );
    let asked = [GET.as_slice(), &[&metadata]].concat();
    let tunnel = [":method=CONNECT", &authority];
    for (alpn, fields) in [("leno/1", &asked[..]), ("h2", &tunnel[..])] {
        let said = raw(fixture, alpn, Some(&fixture.own), &fixture.web_uid, fields);
        let mut lines = said.lines();
        let told = lines.find_map(|line| line.strip_prefix("field x-leno-refused "));
        let told = told.unwrap_or_else(|| panic!("{alpn}: no reason in {said}"));
        let head = format!("HTTP/1.1 403 Said\r\nx-leno-refused: {told}");
        let answer = Answer {
            head,
            body: Vec::new(),
        };
        shown(&fixture.mesh, &answer, "a", "FD");
    }
}

fn what_is_no_http_2_harms_nobody(fixture: &mut Fixture) {
    let (a, stranger) = (fixture.mesh.host("a"), fixture.mesh.host("s"));
    for bytes in [
        b"GET / HTTP/1.1\r\nhost: web\r\n\r\n".to_vec(),
        vec![0; 4096],
        b"\x16\x03\x01\xff\xff".to_vec(),
        Vec::new(),
    ] {
        let mut wire = Wire::new(
            stranger
                .connect((a.v4, 15008).into())
                .expect("a connection"),
        );
        drop(wire.try_send(&bytes));
        wire.finish();
        let answer = wire.try_rest().unwrap_or_default();
        assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
    }
    assert_eq!(fixture.mesh.agent("a").ended(), None);
}

fn broken_http_2_of_a_peer_is_refused_with_its_reason(fixture: &mut Fixture) {
    need!("python3");
    const PREFACE: &str = "505249202a20485454502f322e300d0a0d0a534d0d0a0d0a000000040000000000";
    let told = |broken: &str| {
        let refusals = fixture.mesh.admin("a", "/refusals").to_string();
        let labels = ["reason=\"DPE\""];
        let counted = fixture.mesh.metric("a", "leno_refused_total", &labels);
        let log = fixture.mesh.access_log("a");
        let lines = log.iter().filter(|line| line["response_flags"] == "DPE");
        (lines.count(), counted, refusals.matches(broken).count())
    };
    let before = told("broke HTTP/2");
    // DATA on stream 0, a frame of 16 MiB, HPACK that is none; and no preface at all.
    let broken = [
        format!("{PREFACE}000001000000000000ff"),
        format!("{PREFACE}ffffff000100000001"),
        format!("{PREFACE}000002010500000001ffff"),
        "474554202f20485454502f312e310d0a0d0a474554202f20485454502f312e310d0a0d0a".to_owned(),
    ];
    for (number, hex) in broken.iter().enumerate() {
        let raw_bytes = [&*format!("raw:{hex}")];
        let own = Some(&fixture.own);
        let said = raw(fixture, "leno/1", own, &fixture.web_uid, &raw_bytes);
        assert!(!said.contains("status"), "{said}");
        until("it is told", SOON, || {
            let now = told("broke HTTP/2");
            #[expect(clippy::cast_precision_loss, reason = "a handful")]
            let all = now.0 > before.0 + number
                && now.1 > before.1 + number as f64
                && now.2 > before.2 + number;
            all.then_some(())
        });
    }
    // One request of it may be malformed alone: it is answered.
    let differs = [GET.as_slice(), &["host=another"]].concat();
    let many: Vec<String> = (0..210).map(|number| format!("x-{number}=1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let many = [GET.as_slice(), &many].concat();
    for (fields, status) in [(differs, 400), (many, 431)] {
        let own = Some(&fixture.own);
        let said = raw(fixture, "leno/1", own, &fixture.web_uid, &fields);
        assert!(said.contains(&format!("status {status}")), "{said}");
        let Some(field) = said
            .lines()
            .find_map(|line| line.strip_prefix("field x-leno-refused "))
        else {
            // Fields cannot be read without Python's hpack.
            assert!(leno_testkit::module_of_python("hpack").is_none(), "{said}");
            continue;
        };
        let answer = Answer {
            head: format!("HTTP/1.1 {status} Said\r\nx-leno-refused: {field}"),
            body: Vec::new(),
        };
        let code = field.split(';').next().unwrap_or_default().to_owned();
        shown(&fixture.mesh, &answer, "a", &code);
    }
}

fn a_server_with_anothers_certificate_is_refused_and_told_nothing(fixture: &mut Fixture) {
    let openssl = need!("openssl");
    // A host whose agent is gone for a moment, with somebody else in its place: in the mesh, but not who is expected.
    let host = fixture.mesh.join("r");
    let rogue = fixture
        .mesh
        .run(&host)
        .service("rogue")
        .port("80:8080")
        .option("check", "none")
        .start();
    let caller = fixture.mesh.run(&fixture.mesh.host("b")).start();
    let ask = || {
        let mut wire = caller.try_connect("rogue", 80).ok()?;
        Some(wire.ask("GET /secret HTTP/1.1\r\nhost: rogue\r\n\r\n"))
    };
    until("it is known", SOON, ask);
    let capture = Capture::start(&[b"GET /secret"]);
    fixture.mesh.kill_agent("r");
    let own = &fixture.own;
    let mut server = host.spawn(Command::new(openssl).args([
        "s_server",
        "-accept",
        "15008",
        "-cert",
        &own.chain,
        "-cert_chain",
        &own.chain,
        "-key",
        &own.key,
        "-alpn",
        "leno/1,h2",
        "-verify",
        "2",
        "-quiet",
        "-tls1_3",
    ]));
    until("somebody else is there", SOON, || {
        host.connect((host.v4, 15008).into()).ok()
    });
    let answer = until("it is refused for who it is", SOON, || {
        let answer = ask()?;
        let reason = answer
            .field("x-leno-refused")
            .unwrap_or_default()
            .to_owned();
        reason.starts_with("PI;").then_some(answer)
    });
    assert_eq!(answer.status(), 503);
    shown(&fixture.mesh, &answer, "b", "PI");
    assert_eq!(server.stdout(), "", "nothing was said to it");
    assert_eq!(server.ended(), None);
    capture.assert_no_cleartext(b"GET /secret");
    drop(rogue);
}
