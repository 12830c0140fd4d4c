//! Others at port 15008: a real Envoy, openssl, and frames made by hand. The right certificate is served; each wrong
//! one, and each forged destination, is refused with its reason.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use leno_e2e::{Backend, SOON, response, run_script, shown};
use leno_testkit::{
    Answer, Capture, Host, Member, Mesh, PAYLOAD, Process, Wire, need, suite, until,
};

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

/// Certificate chain, key and roots of a workload, in files.
struct Identity {
    chain: String,
    key: String,
    roots: String,
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
    let web_uid = until("web is registered", SOON, || {
        let proxies = mesh.api("/leno/v1/proxies");
        let all = proxies
            .as_array()?
            .iter()
            .flat_map(|proxy| proxy["workloads"].as_array().cloned().unwrap_or_default());
        let mut found = all.filter(|workload| {
            workload["service"]
                .as_str()
                .is_some_and(|name| name.ends_with("web"))
        });
        found.next()?["uid"].as_str().map(str::to_owned)
    });
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

/// What an agent keeps for its own restart, written where a stranger can use it.
fn identity(of: &Host, to: &Host, name: &str) -> Identity {
    let saved = until("the workload is saved", SOON, || {
        let text = fs::read_to_string(of.disk().join("run/workloads.json")).ok()?;
        let saved: serde_json::Value = serde_json::from_str(&text).ok()?;
        saved.get(0).cloned()
    });
    let write = |field: &str| {
        let path: PathBuf = to.disk().join(format!("{name}-{field}.pem"));
        fs::write(&path, saved[field].as_str().expect("PEM")).expect("a file");
        path.display().to_string()
    };
    Identity {
        chain: write("chain"),
        key: write("key"),
        roots: write("bundle"),
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
        a_server_with_anothers_certificate_is_refused_and_told_nothing,
    ]
);

/// An Envoy that tunnels 127.0.0.1:9000 to `authority` by HBONE.
fn envoy(fixture: &Fixture, program: &std::path::Path, who: &Identity, authority: &str) -> Process {
    let (host, a) = (fixture.mesh.host("s"), fixture.mesh.host("a"));
    let config = format!(
        "static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: 9000}}}}
    filter_chains:
    - filters:
      - name: tcp
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tunnel
          cluster: mesh
          tunneling_config: {{hostname: '{authority}'}}
  clusters:
  - name: mesh
    connect_timeout: 3s
    type: STATIC
    load_assignment:
      cluster_name: mesh
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {}, port_value: 15008}}}}}}}}]}}]
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    transport_socket:
      name: tls
      typed_config:
        '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: '{}'
        common_tls_context:
          alpn_protocols: [h2]
          tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}
          tls_certificates: [{{certificate_chain: {{filename: '{}'}}, private_key: {{filename: '{}'}}}}]
          validation_context:
            trusted_ca: {{filename: '{}'}}
            match_typed_subject_alt_names: [{{san_type: URI, matcher: {{exact: 'spiffe://default.leno/ns/default/sa/web'}}}}]
",
        a.v4, fixture.web_uid, who.chain, who.key, fixture.own.roots
    );
    let file = host.disk().join("envoy.yaml");
    fs::write(&file, config).expect("Envoy's configuration");
    let process = host.spawn(
        Command::new(program)
            .args(["--config-path", &file.display().to_string()])
            .args([
                "--log-level",
                "warning",
                "--use-dynamic-base-id",
                "--concurrency",
                "1",
            ]),
    );
    until("Envoy listens", Duration::from_secs(20), || {
        host.connect(([127, 0, 0, 1], 9000).into()).ok()
    });
    process
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
    let _envoy = envoy(
        fixture,
        &program,
        &fixture.own,
        &format!("{}:8080", fixture.mesh.host("a").v4),
    );
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
    let _envoy = envoy(
        fixture,
        &program,
        &fixture.foreign,
        &format!("{}:8080", fixture.mesh.host("a").v4),
    );
    assert!(
        through(fixture).is_err(),
        "another mesh's certificate opens nothing"
    );
    assert_eq!(fixture.log.seen().len(), seen);
    until("the handshake is counted as failed", SOON, || {
        (failed_handshakes(fixture) > before).then_some(())
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
    let before = failed_handshakes(fixture);
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
    assert!(
        fixture.log.seen().is_empty()
            || !fixture
                .log
                .seen()
                .iter()
                .any(|request| request.field("host") == Some("x"))
    );
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
        return;
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
