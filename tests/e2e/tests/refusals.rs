//! Every reason of the closed set, brought about: the caller is told it, and log and metrics tell the same under the
//! same id. Not here: PI, FD (peers.rs), CERT (certificates.rs), OM (overload.rs), and PT, which no document can ask for yet
//! (`a_published_port_serves_callers_from_outside_until_strict_refuses_them` of the data plane shows it).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use leno_e2e::{Backend, SOON, refusal_id, response, shown};
use leno_testkit::{Answer, Member, Mesh, Wire, suite, until, until_ok};

/// On host a: `raw`, whatever a test makes of it, and `rogue` on host r; `caller` on b.
struct Fixture {
    mesh: Mesh,
    raw: Member,
    rogue: Member,
    caller: Member,
}

fn start() -> Fixture {
    let mesh = Mesh::with(&["a", "b", "r"], &["raw", "rogue", "caller"]);
    let (a, b, r) = (mesh.host("a"), mesh.host("b"), mesh.host("r"));
    let raw = mesh.run(&a).service("raw").port("80:8081/http");
    let rogue = mesh.run(&r).service("rogue").port("80:8082/http");
    Fixture {
        raw: raw.option("check", "none").start(),
        rogue: rogue.option("check", "none").start(),
        caller: mesh.run(&b).account("caller").start(),
        mesh,
    }
}

suite!(
    start,
    [
        uh_no_healthy_endpoint,
        uf_nobody_listens,
        uc_closed_without_an_answer,
        uo_too_many_requests_for_the_program,
        nr_no_route,
        nb_a_route_to_nowhere,
        ut_longer_than_its_route_allows,
        dc_the_client_went_away,
        dpe_the_client_breaks_its_protocol,
        upe_the_endpoint_breaks_its_protocol,
        hl_a_head_above_its_limit,
        rbac_a_policy_denies_it,
        se_a_newer_policy_ends_what_was_begun,
        ud_nothing_has_this_address,
        nc_the_service_is_no_more,
        loop_a_port_of_the_meshs_own,
        tls_no_handshake,
        dt_nobody_says_what_it_is,
    ]
);

const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
/// Nothing tries it again.
const POST: &str = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";

impl Fixture {
    /// Asks a service until the answer is this status, and gives the answer.
    fn until_status(&self, name: &str, status: u16, request: &str) -> Answer {
        until_ok("the answer is as expected", SOON, || {
            let answer = self.caller.try_connect(name, 80).and_then(|mut wire| {
                wire.try_send(request)?;
                wire.try_message()
            });
            match answer {
                Ok(answer) if answer.status() == status => Ok(answer),
                Ok(answer) => Err(answer.head),
                Err(error) => Err(error.to_string()),
            }
        })
    }

    /// A program of `raw` that does this with each connection.
    fn raw(&self, serve: impl Fn(Wire) + Send + Sync + 'static) -> Backend {
        Backend::connections(self.raw.listen(8081), serve)
    }

    /// A program of `raw` that answers nobody, and how many asked it.
    fn silent(&self) -> (Backend, Arc<AtomicUsize>) {
        let asked: Arc<AtomicUsize> = Arc::default();
        let counted = Arc::clone(&asked);
        let backend = self.raw(move |mut wire| {
            drop(wire.try_head());
            counted.fetch_add(1, Ordering::Relaxed);
            drop(wire.try_rest());
        });
        (backend, asked)
    }

    /// The answer was a refusal, and both proxies tell of it alike: the one that refused by its id.
    #[track_caller]
    fn shown(&self, answer: &Answer, by: &str, code: &str) {
        shown(&self.mesh, answer, by, code);
        until(
            "the caller's side counts it under the same reason",
            SOON,
            || {
                let labels = [
                    "reporter=\"source\"",
                    &format!("response_flags=\"{code}\"") as &str,
                ];
                let counted = self.mesh.metric("b", "istio_requests_total", &labels);
                (counted >= 1.0).then_some(())
            },
        );
    }
}

fn uh_no_healthy_endpoint(fixture: &mut Fixture) {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: empty}\nspec:\n  selector: {app: nobody}\n  ports: [{port: 80, targetPort: 8080}]\n";
    fixture.mesh.apply(service, &["--wait"]).good();
    let answer = fixture.until_status("empty", 503, GET);
    fixture.shown(&answer, "b", "UH");
}

fn uf_nobody_listens(fixture: &mut Fixture) {
    let answer = fixture.until_status("raw", 503, POST);
    fixture.shown(&answer, "a", "UF");
}

fn uc_closed_without_an_answer(fixture: &mut Fixture) {
    let _closing = fixture.raw(|mut wire| drop(wire.try_head()));
    let answer = fixture.until_status("raw", 503, POST);
    fixture.shown(&answer, "a", "UC");
}

fn uo_too_many_requests_for_the_program(fixture: &mut Fixture) {
    /// docs/limits.md, `app_connections`.
    const OPEN: usize = 512;
    let (_silent, _) = fixture.silent();
    let connector = fixture.caller.connector();
    let mut open: Vec<Wire> = (0..=OPEN)
        .map(|_| {
            let mut wire = connector.connect("raw", 80).expect("a connection");
            wire.send(POST);
            wire
        })
        .collect();
    // One of them waits, and longer than it may; which one is the proxies' affair.
    let answer = until("one is refused", SOON, || {
        let ready = open.iter_mut().find(|wire| {
            let mut byte = [0];
            let nothing = Some(Duration::from_millis(1));
            wire.stream().set_read_timeout(nothing).expect("a timeout");
            wire.stream().peek(&mut byte).is_ok_and(|count| count > 0)
        })?;
        ready
            .stream()
            .set_read_timeout(Some(SOON))
            .expect("a timeout");
        ready.try_message().ok()
    });
    assert_eq!(answer.status(), 503);
    fixture.shown(&answer, "a", "UO");
    let full = fixture.mesh.metric(
        "a",
        "leno_limit_reached_total",
        &["limit=\"app_connections\""],
    );
    assert!(full >= 1.0, "{full}");
    // What ends now is refused as well. So much at once is not all remembered, and takes no room from what follows.
}

/// A route of `raw` with one rule.
fn route(fixture: &Fixture, rule: &str) {
    let text = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: raw}}\nspec:\n  parentRefs: [{{kind: Service, group: \"\", name: raw}}]\n  rules:\n  - {rule}\n    backendRefs: [{{name: raw, port: 80}}]\n"
    );
    fixture.mesh.apply(&text, &["--wait"]).good();
}

fn nr_no_route(fixture: &mut Fixture) {
    route(
        fixture,
        "matches: [{path: {type: PathPrefix, value: /only}}]",
    );
    let answer = fixture.until_status("raw", 404, GET);
    fixture.shown(&answer, "b", "NR");
    fixture.mesh.leno(&["delete", "httproute", "raw"]).good();
}

fn nb_a_route_to_nowhere(fixture: &mut Fixture) {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: nowhere}\nspec:\n  selector: {app: nobody}\n  ports: [{port: 80, targetPort: 8080, appProtocol: http}]\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: nowhere}\nspec:\n  parentRefs: [{kind: Service, group: \"\", name: nowhere}]\n  rules:\n  - backendRefs: [{name: raw, port: 81}]\n";
    fixture.mesh.apply(text, &[]).good();
    let answer = fixture.until_status("nowhere", 500, GET);
    fixture.shown(&answer, "b", "NB");
    until("people are told the status that callers got", SOON, || {
        let said = fixture.mesh.leno(&["status"]).text();
        said.contains("500 NB").then_some(())
    });
    let objects = ["delete", "httproute/nowhere", "service/nowhere"];
    fixture.mesh.leno(&objects).good();
}

fn ut_longer_than_its_route_allows(fixture: &mut Fixture) {
    let (_silent, _) = fixture.silent();
    route(fixture, "timeouts: {request: 300ms}");
    let answer = fixture.until_status("raw", 504, GET);
    fixture.shown(&answer, "b", "UT");
    fixture.mesh.leno(&["delete", "httproute", "raw"]).good();
}

fn dc_the_client_went_away(fixture: &mut Fixture) {
    let (_silent, asked) = fixture.silent();
    let mut wire = fixture.caller.connect("raw", 80);
    wire.send("GET /gone HTTP/1.1\r\nhost: x\r\n\r\n");
    until("the program is asked", SOON, || {
        (asked.load(Ordering::Relaxed) > 0).then_some(())
    });
    // A FIN alone may be a half-close: the answer would still be wanted.
    wire.reset();
    for host in ["a", "b"] {
        until("log and metric tell of it", SOON, || {
            let log = fixture.mesh.access_log(host);
            let told = log
                .iter()
                .any(|line| line["path"] == "/gone" && line["response_flags"] == "DC");
            let flags = ["response_code=\"499\"", "response_flags=\"DC\""];
            let counted = fixture.mesh.metric(host, "istio_requests_total", &flags);
            (told && counted >= 1.0).then_some(())
        });
    }
}

fn dpe_the_client_breaks_its_protocol(fixture: &mut Fixture) {
    let request = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: +5\r\n\r\nhello";
    let answer = fixture.until_status("raw", 400, request);
    fixture.shown(&answer, "b", "DPE");
}

fn upe_the_endpoint_breaks_its_protocol(fixture: &mut Fixture) {
    let _odd = fixture.raw(|mut wire| {
        drop(wire.try_head());
        drop(wire.try_send("what do you mean?\r\n\r\n"));
    });
    let answer = fixture.until_status("raw", 502, POST);
    fixture.shown(&answer, "a", "UPE");
}

fn hl_a_head_above_its_limit(fixture: &mut Fixture) {
    let request = format!(
        "GET / HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n",
        "x".repeat(70_000)
    );
    let answer = fixture.until_status("raw", 431, &request);
    fixture.shown(&answer, "b", "HL");
}

fn rbac_a_policy_denies_it(fixture: &mut Fixture) {
    let backend = Backend::http(fixture.raw.listen(8081), |_| response(200, "", ""));
    fixture.mesh.leno(&["deny", "caller", "raw"]).good();
    let answer = fixture.until_status("raw", 403, GET);
    let seen = backend.seen().len();
    fixture.shown(&answer, "a", "RBAC");
    let id = refusal_id(&answer);
    let log = fixture.mesh.access_log("a");
    let line = log.iter().find(|line| line["refusal_id"] == id.as_str());
    let rule = line.expect("a line")["rule"].as_str().unwrap_or_default();
    assert!(rule.contains("deny-caller-raw"), "{rule}");
    assert_eq!(backend.seen().len(), seen);
    fixture
        .mesh
        .leno(&["delete", "accesspolicy", "deny-caller-raw"])
        .good();
    fixture.until_status("raw", 200, GET);
}

fn se_a_newer_policy_ends_what_was_begun(fixture: &mut Fixture) {
    let (_silent, asked) = fixture.silent();
    let mut wire = fixture.caller.connect("raw", 80);
    wire.send(POST);
    until("the program is asked", SOON, || {
        (asked.load(Ordering::Relaxed) > 0).then_some(())
    });
    fixture.mesh.leno(&["deny", "caller", "raw"]).good();
    let answer = wire.message();
    assert_eq!(answer.status(), 503, "{}", answer.head);
    fixture.shown(&answer, "a", "SE");
    fixture
        .mesh
        .leno(&["delete", "accesspolicy", "deny-caller-raw"])
        .good();
}

fn ud_nothing_has_this_address(fixture: &mut Fixture) {
    let answer = fixture.until_status("10.77.0.200", 503, GET);
    fixture.shown(&answer, "b", "UD");
}

fn nc_the_service_is_no_more(fixture: &mut Fixture) {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: passing}\nspec:\n  selector: {app: nobody}\n  ports: [{port: 80, targetPort: 8080, appProtocol: http}]\n";
    fixture.mesh.apply(service, &["--wait"]).good();
    until("it is known", SOON, || {
        fixture.caller.look_up("passing").ok()
    });
    // A connection that was there when the service was.
    let mut wire = fixture.caller.connect("passing", 80);
    assert_eq!(wire.ask(GET).status(), 503);
    fixture.mesh.leno(&["delete", "service", "passing"]).good();
    let answer = until("it is known to be gone", SOON, || {
        let answer = wire.ask(GET);
        let reason = answer.field("x-leno-refused").unwrap_or_default();
        (!reason.starts_with("UH")).then_some(answer)
    });
    fixture.shown(&answer, "b", "NC");
}

fn loop_a_port_of_the_meshs_own(fixture: &mut Fixture) {
    let a = fixture.mesh.host("a");
    let stream = fixture
        .caller
        .within(|| std::net::TcpStream::connect((a.v4, 15008)));
    let answer = Wire::new(stream.expect("taken by the proxy")).ask(GET);
    assert_eq!(answer.status(), 508, "{}", answer.head);
    fixture.shown(&answer, "b", "LOOP");
}

fn tls_no_handshake(fixture: &mut Fixture) {
    let known = Backend::http(fixture.rogue.listen(8082), |_| response(200, "", ""));
    fixture.until_status("rogue", 200, GET);
    drop(known);
    fixture.mesh.kill_agent("r");
    let r = fixture.mesh.host("r");
    let listener = until_ok("its port is free", SOON, || r.listen((r.v4, 15008).into()));
    // Somebody who takes every connection and speaks no TLS.
    let _other = Backend::connections(listener, |mut wire| {
        drop(wire.try_send("220 mail.test ESMTP\r\n"));
        drop(wire.try_exactly(1));
    });
    let answer = until("its handshake is what fails", SOON, || {
        let answer = fixture.caller.try_connect("rogue", 80).ok()?.ask(GET);
        let reason = answer.field("x-leno-refused").unwrap_or_default();
        reason.starts_with("TLS;").then_some(answer)
    });
    assert_eq!(answer.status(), 503, "{}", answer.head);
    fixture.shown(&answer, "b", "TLS");
}

/// The last one: it takes the control plane away.
fn dt_nobody_says_what_it_is(fixture: &mut Fixture) {
    fixture.mesh.kill_control_plane();
    let answer = until("it is noticed", SOON, || {
        let answer = fixture.caller.try_connect("10.77.0.201", 80).ok()?.ask(GET);
        let reason = answer.field("x-leno-refused").unwrap_or_default();
        reason.starts_with("DT;").then_some(answer)
    });
    assert_eq!(answer.status(), 503, "{}", answer.head);
    fixture.shown(&answer, "b", "DT");
}
