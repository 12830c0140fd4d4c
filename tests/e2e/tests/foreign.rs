//! A peer of others' making that speaks HBONE alone: a real Envoy at port 15008 takes the place of a host's proxy, and
//! programs in the mesh call what is behind it.

use std::{fs, process::Command, rc::Rc, time::Duration};

use leno_e2e::{Backend, SOON, response, run_script, shown};
use leno_testkit::{
    Capture, Host, Member, Mesh, PAYLOAD, Process, Wire, need, need_python, suite, until,
};

/// `web` was registered from host r, whose proxy is gone; its programs listen on the host itself. `caller` is on b.
struct Fixture {
    mesh: Mesh,
    r: Rc<Host>,
    _web: Member,
    caller: Member,
    envoy: Option<Process>,
}

const HTTP: u16 = 8080;
const GRPC: u16 = 8081;
const BYTES: u16 = 8082;

fn start() -> Fixture {
    let mut mesh = Mesh::with(&["b", "r"], &["web"]);
    let (b, r) = (mesh.host("b"), mesh.host("r"));
    let web = mesh.run(&r).service("web").option("check", "none");
    let web = ["80:8080/http", "81:8081/grpc", "82:8082", "83:8083/http"]
        .iter()
        .fold(web, |web, port| web.port(port))
        .start();
    let caller = mesh.run(&b).start();
    until("the workload is saved", SOON, || {
        let text = fs::read_to_string(r.disk().join("run/workloads.json")).ok()?;
        let saved: serde_json::Value = serde_json::from_str(&text).ok()?;
        for part in ["chain", "key", "bundle"] {
            let pem = saved[0][part].as_str()?;
            fs::write(r.disk().join(format!("{part}.pem")), pem).ok()?;
        }
        Some(())
    });
    until("the service is known", SOON, || caller.look_up("web").ok());
    mesh.kill_agent("r");
    let envoy = leno_testkit::program("envoy").map(|program| envoy(&r, &program));
    Fixture {
        mesh,
        r,
        _web: web,
        caller,
        envoy,
    }
}

suite!(
    start,
    [
        requests_reach_a_program_behind_an_envoy,
        grpc_reaches_a_program_behind_an_envoy,
        bytes_reach_a_program_behind_an_envoy,
        what_an_envoy_has_no_route_for_is_refused_with_a_reason,
    ]
);

/// An Envoy that ends HBONE at the host's port 15008, as ztunnel does, with the workload's certificate.
fn envoy(host: &Host, program: &std::path::Path) -> Process {
    let (v4, disk) = (host.v4, host.disk().display().to_string());
    let route = |port: u16| {
        format!(
            "            - name: to-{port}
              domains: ['{v4}:{port}']
              routes: [{{match: {{connect_matcher: {{}}}}, route: {{cluster: at-{port}, upgrade_configs: [{{upgrade_type: CONNECT, connect_config: {{}}}}]}}}}]\n"
        )
    };
    let cluster = |port: u16| {
        format!(
            "  - name: at-{port}
    type: STATIC
    connect_timeout: 2s
    load_assignment: {{cluster_name: at-{port}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {v4}, port_value: {port}}}}}}}}}]}}]}}\n"
        )
    };
    let ports = [HTTP, GRPC, BYTES];
    let routes: String = ports.into_iter().map(route).collect();
    let clusters: String = ports.into_iter().map(cluster).collect();
    let config = format!(
        "static_resources:
  listeners:
  - address: {{socket_address: {{address: {v4}, port_value: 15008}}}}
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            alpn_protocols: [h2]
            tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}
            tls_certificates: [{{certificate_chain: {{filename: '{disk}/chain.pem'}}, private_key: {{filename: '{disk}/key.pem'}}}}]
            validation_context: {{trusted_ca: {{filename: '{disk}/bundle.pem'}}}}
      filters:
      - name: hcm
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: hbone
          codec_type: HTTP2
          http2_protocol_options: {{allow_connect: true}}
          upgrade_configs: [{{upgrade_type: CONNECT}}]
          http_filters:
          - name: router
            typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            virtual_hosts:
{routes}  clusters:
{clusters}"
    );
    let file = host.disk().join("envoy.yaml");
    fs::write(&file, config).expect("Envoy's configuration");
    let mut command = Command::new(program);
    command.args(["--config-path", &file.display().to_string()]);
    let quiet = ["--log-level", "warning", "--use-dynamic-base-id"];
    let mut process = host.spawn(command.args(quiet).args(["--concurrency", "1"]));
    until("Envoy listens", Duration::from_secs(20), || {
        assert_eq!(process.ended(), None, "{}", process.stderr());
        host.connect((v4, 15008).into()).ok()
    });
    process
}

macro_rules! need_envoy {
    ($fixture:expr) => {
        need!("envoy");
        let envoy = $fixture.envoy.as_mut().expect("it was started");
        assert_eq!(envoy.ended(), None, "{}", envoy.stderr());
    };
}

fn requests_reach_a_program_behind_an_envoy(fixture: &mut Fixture) {
    need_envoy!(fixture);
    let listener = fixture.r.listen((fixture.r.v4, HTTP).into());
    let backend = Backend::http(listener.expect("a listener"), |request| {
        response(
            200,
            "X-CaSe: Yes\r\n",
            [PAYLOAD.as_bytes(), &request.body].concat(),
        )
    });
    let capture = Capture::start(&[PAYLOAD.as_bytes()]);
    let mut wire = fixture.caller.connect("web", 80);
    for number in 0..30 {
        let answer = wire.ask(format!(
            "POST /{number} HTTP/1.1\r\nHost: web\r\nX-Twice: 1\r\nx-TWICE: 2\r\ncontent-length: 4\r\n\r\nbody"
        ));
        assert_eq!(answer.status(), 200, "{}", answer.head);
        assert_eq!(answer.body, format!("{PAYLOAD}body").into_bytes());
        assert!(answer.head.contains("X-CaSe: Yes"), "{}", answer.head);
    }
    let seen = backend.seen();
    assert_eq!(seen.len(), 30);
    for request in &seen {
        let head = request.head.to_ascii_lowercase();
        assert!(
            !head.contains("x-leno-"),
            "it would believe nothing of it: {head}"
        );
        assert!(
            request.head.contains("X-Twice: 1\r\nx-TWICE: 2"),
            "{}",
            request.head
        );
        assert!(request.field("traceparent").is_some(), "{}", request.head);
    }
    // Many at once, each in a stream of its own.
    let connector = fixture.caller.connector();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let mut wire = connector.connect("web", 80).expect("a connection");
                for _ in 0..10 {
                    let answer = wire.ask("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
                    assert_eq!(answer.status(), 200, "{}", answer.head);
                }
            });
        }
    });
    capture.assert_no_cleartext(PAYLOAD.as_bytes());
}

fn grpc_reaches_a_program_behind_an_envoy(fixture: &mut Fixture) {
    let python = need_python!("grpc");
    need_envoy!(fixture);
    let port = GRPC.to_string();
    let mut server = fixture
        .r
        .spawn(&mut run_script(&python, "grpc_server.py", &[&port]));
    until("the gRPC server is ready", SOON, || {
        assert_eq!(server.ended(), None, "{}", server.stderr());
        server.stdout().contains("ready").then_some(())
    });
    for case in ["kinds", "failure", "deadline"] {
        let mut client = run_script(&python, "grpc_client.py", &["web:81", case]);
        let client = fixture.caller.run(&mut client);
        assert_eq!(client.code, 0, "{case}: {}{}", client.text(), client.stderr);
    }
}

fn bytes_reach_a_program_behind_an_envoy(fixture: &mut Fixture) {
    need_envoy!(fixture);
    let listener = fixture.r.listen((fixture.r.v4, BYTES).into());
    let _backend = Backend::connections(listener.expect("a listener"), |mut wire| {
        wire.send("220 mail.test ESMTP\r\n");
        drop(wire.try_until(b"\n").and_then(|line| wire.try_send(line)));
    });
    let mut wire: Wire = fixture.caller.connect("web", 82);
    assert_eq!(wire.line(), "220 mail.test ESMTP");
    wire.send("EHLO caller\r\n");
    assert_eq!(wire.line(), "EHLO caller");
    assert_eq!(wire.try_rest().expect("the end"), b"");
}

fn what_an_envoy_has_no_route_for_is_refused_with_a_reason(fixture: &mut Fixture) {
    need_envoy!(fixture);
    // Its port 8083 leads nowhere.
    let mut wire = fixture.caller.connect("web", 83);
    let answer = wire.ask("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
    assert_eq!(answer.status(), 503, "{}", answer.head);
    shown(&fixture.mesh, &answer, "b", "UF");
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(text.contains("the peer answered 404"), "{text}");
}
