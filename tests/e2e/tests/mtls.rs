//! AuthenticationPolicy: plaintext of callers outside the mesh, refused by mesh, namespace, workload and port, and nobody
//! else troubled.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use leno_e2e::{
    Backend, Load, SOON,
    peer::{Tunnel, identity, uid_of},
    response,
};
use leno_testkit::{Host, Member, Mesh, Wire, need, suite, until};

/// `web` on a speaks HTTP at 8080 (published as 9080) and echoes bytes at 8081 (published as 9081); `caller` on b is a
/// member, host s is not.
struct Fixture {
    mesh: Mesh,
    caller: Member,
    _web: (Member, [Backend; 2]),
}

fn start() -> Fixture {
    let mut mesh = Mesh::with(&["a", "b"], &["web", "friend"]);
    mesh.network.add_outside("s");
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let web = mesh.run(&a).service("web").port("80:8080/http");
    let web = web.port("81:8081/tcp").option("check", "none");
    let web = web.option("publish", "9080:8080");
    let web = web.option("publish", "9081:8081").start();
    let http = Backend::http(web.listen(8080), |_| response(200, "", "web"));
    let echo = Backend::connections(web.listen(8081), |mut wire| {
        while let Ok(line) = wire.try_until(b"\n") {
            if wire.try_send(line).is_err() {
                return;
            }
        }
    });
    let caller = mesh.run(&b).account("friend").start();
    let fixture = Fixture {
        mesh,
        caller,
        _web: (web, [http, echo]),
    };
    until("web answers everybody", SOON, || {
        let member = fixture.caller.try_connect("web", 80).ok()?;
        let member = answer(member).ok()?;
        (member == 200 && fixture.http() == Some(200)).then_some(())
    });
    fixture
}

suite!(
    start,
    [
        strict_refuses_plaintext_with_a_reason_while_members_lose_no_request,
        what_is_open_in_clear_ends_within_a_second,
        the_command_lists_whom_it_cuts_off_and_writes_an_ordinary_document,
        the_narrower_scope_decides,
        a_mode_outlives_the_control_plane_and_the_proxy,
        a_peer_of_another_make_is_served_under_strict,
    ]
);

fn answer(mut wire: Wire) -> io::Result<u16> {
    wire.try_send("GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n")?;
    Ok(wire.try_message()?.status())
}

fn policy(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: leno.dev/v1alpha1\nkind: AuthenticationPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

const STRICT: &str = "{targetRefs: [{kind: Service, name: web}], mtls: {mode: STRICT}}";

impl Fixture {
    fn outside(&self) -> std::rc::Rc<Host> {
        self.mesh.host("s")
    }

    fn dial(&self, port: u16) -> io::Result<TcpStream> {
        let stream = self
            .outside()
            .connect((self.mesh.host("a").v4, port).into())?;
        stream.set_read_timeout(Some(SOON))?;
        Ok(stream)
    }

    /// What a caller from outside is answered; `None`: its connection ends.
    fn http(&self) -> Option<u16> {
        answer(Wire::new(self.dial(9080).ok()?)).ok()
    }

    /// Whether bytes of a caller from outside come back.
    fn echoes(&self) -> bool {
        let mut wire = Wire::new(self.dial(9081).expect("the port is there"));
        wire.try_send("hello\n").is_ok() && wire.try_until(b"\n").is_ok()
    }

    /// Applies a policy and waits until it is in force.
    fn apply(&self, namespace: &str, name: &str, spec: &str) {
        let text = policy(namespace, name, spec);
        self.mesh.apply(&text, &["--wait"]).good();
    }

    fn delete(&self, namespace: &str, name: &str) {
        let delete = ["delete", "authenticationpolicy", name, "-n", namespace];
        self.mesh.leno(&delete).good();
    }

    /// Both ports, as a caller from outside finds them: HTTP and bytes.
    fn until(&self, what: &str, http: u16, echoes: bool) {
        until(what, SOON, || {
            (self.http() == Some(http) && self.echoes() == echoes).then_some(())
        });
    }

    fn is_open(&self, what: &str) {
        self.until(what, 200, true);
    }
}

fn strict_refuses_plaintext_with_a_reason_while_members_lose_no_request(fixture: &mut Fixture) {
    let load = Load::start(&fixture.caller, "web", 20);
    load.more(50);
    fixture.apply("default", "web", STRICT);
    fixture.until("plaintext is refused", 403, false);
    load.more(200);
    let told = fixture.mesh.leno(&["get", "authn", "-o", "wide"]).good();
    assert!(told.text().contains("STRICT"), "{}", told.text());
    until("the refusals are logged with their reason", SOON, || {
        let log = fixture.mesh.access_log("a");
        let refused = log.iter().filter(|line| {
            let text = line.to_string();
            text.contains("\"PT\"") && text.contains("AuthenticationPolicy default/web")
        });
        (refused.count() > 0).then_some(())
    });
    let metric = || {
        fixture
            .mesh
            .metric("a", "leno_refused_total", &["reason=\"PT\""])
    };
    until("and counted", SOON, || (metric() >= 2.0).then_some(()));
    fixture.delete("default", "web");
    fixture.is_open("without the policy it is as before");
    load.more(50);
    let tally = load.stop();
    assert!(tally.bad.is_empty(), "{tally:?}");
}

fn what_is_open_in_clear_ends_within_a_second(fixture: &mut Fixture) {
    fixture.is_open("everybody is served");
    let mut idle = Wire::new(fixture.dial(9080).expect("a connection"));
    let kept = idle.ask("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
    assert_eq!(kept.status(), 200);
    let mut bytes = fixture.dial(9081).expect("a connection");
    bytes.write_all(b"hello\n").expect("it is read");
    let mut back = [0; 6];
    bytes.read_exact(&mut back).expect("an echo");
    let silent = fixture.dial(9081).expect("a connection");
    let mut member = fixture.caller.connect("web", 81);
    member.send("hello\n");
    assert_eq!(member.line(), "hello");
    fixture.apply("default", "web", STRICT);
    let since = Instant::now();
    let mut rest = Vec::new();
    for mut stream in [idle.stream().try_clone().expect("a socket"), bytes, silent] {
        // An end or a reset, and nothing before it.
        let _ended = stream.read_to_end(&mut rest);
    }
    assert_eq!(rest, b"");
    assert!(since.elapsed() < Duration::from_secs(1), "{since:?}");
    member.send("still\n");
    assert_eq!(member.line(), "still");
    fixture.delete("default", "web");
}

fn the_command_lists_whom_it_cuts_off_and_writes_an_ordinary_document(fixture: &mut Fixture) {
    let leno = |arguments: &[&str]| fixture.mesh.leno(arguments).good();
    let s = fixture.outside().v4.to_string();
    until("who calls in plaintext is shown", SOON, || {
        assert_eq!(fixture.http(), Some(200));
        let shown = leno(&["mtls"]).text();
        (shown.contains("PERMISSIVE") && shown.contains(&s)).then_some(())
    });
    // Connected counts, too: an hour-old stream of bytes is cut off like any other.
    let _silent = fixture.dial(9081).expect("a connection");
    until("who is only connected is shown", SOON, || {
        let list = leno(&["mtls", "-o", "json"]).json();
        let ports = list["ports"].as_array().expect("ports").clone();
        let port = ports.iter().find(|port| port["port"] == 8081)?.clone();
        (port["callers"][0]["address"] == s.as_str()).then_some(())
    });
    let shown = leno(&["mtls", "strict", "web", "--dry-run", "-o", "yaml"]).text();
    assert!(shown.contains("kind: AuthenticationPolicy"), "{shown}");
    assert_eq!(fixture.http(), Some(200), "nothing was changed");
    // So does applying such a document, whatever it names the workload by.
    let labels = "{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}}";
    let proposed = policy("default", "labels", labels);
    let warned = fixture.mesh.apply(&proposed, &["--dry-run"]).good();
    for told in ["cuts off", &s, "default/web:8080"] {
        assert!(warned.stderr.contains(told), "{told}: {}", warned.stderr);
    }
    let strict = leno(&["mtls", "strict", "--yes"]);
    for told in ["cuts off", &s, "default/web:8080", "default/web:8081"] {
        assert!(strict.stderr.contains(told), "{told}: {}", strict.stderr);
    }
    assert!(
        strict.stderr.contains("undo: leno delete"),
        "{}",
        strict.stderr
    );
    fixture.until("the mesh refuses plaintext", 403, false);
    leno(&["mtls", "permissive", "web", "--port", "8080"]);
    fixture.until("but for one port", 200, false);
    until("check tells of both", SOON, || {
        assert_eq!(fixture.http(), Some(200));
        let check = fixture.mesh.leno(&["check"]).text();
        let both = check.contains("web:8081 refuses callers in plaintext")
            && check.contains("plaintext enters at default/web:8080");
        both.then_some(())
    });
    let again = leno(&["mtls", "strict"]);
    assert!(
        again
            .stderr
            .contains("goes on letting plaintext in at default/web:8080"),
        "{}",
        again.stderr
    );
    // Of labels that nobody has it is said that they change nothing.
    let nobody = policy("default", "nobody", &labels.replace("web", "wep"));
    let nobody = fixture.mesh.apply(&nobody, &["--wait"]);
    assert_eq!(nobody.code, 6, "{}", nobody.stderr);
    assert!(
        nobody
            .stderr
            .contains("no program has app=wep in namespace default"),
        "{}",
        nobody.stderr
    );
    fixture.delete("default", "nobody");
    let wrong = fixture.mesh.leno(&["mtls", "strict", "wep"]);
    assert_eq!(wrong.code, 6, "{}", wrong.stderr);
    assert!(
        wrong.stderr.contains("did you mean web?"),
        "{}",
        wrong.stderr
    );
    fixture.delete("default", "mtls-web");
    fixture.delete("default", "mtls-of-mesh");
    fixture.is_open("without any policy");
}

fn the_narrower_scope_decides(fixture: &mut Fixture) {
    fixture.is_open("everybody is served");
    fixture.apply(
        "ops",
        "all",
        "{targetRefs: [{kind: Mesh}], mtls: {mode: STRICT}}",
    );
    fixture.until("the mesh refuses plaintext", 403, false);
    let namespace = "{targetRefs: [{kind: Namespace}], mtls: {mode: PERMISSIVE}}";
    fixture.apply("default", "all", namespace);
    fixture.is_open("the namespace goes before the mesh");
    fixture.apply(
        "default",
        "labels",
        "{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}}",
    );
    fixture.until("its workloads before the namespace", 403, false);
    let port = "{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, portLevelMtls: {\"8080\": {mode: PERMISSIVE}}}";
    fixture.apply("default", "labels", port);
    fixture.until("a port before its workload", 200, false);
    // A younger one for the same workload decides nothing, and says so.
    let younger = policy("default", "younger", STRICT);
    let applied = fixture.mesh.apply(&younger, &["--wait"]);
    assert_ne!(applied.code, 0, "{}", applied.stderr);
    assert!(
        applied.stderr.contains("default/labels decides"),
        "{}",
        applied.stderr
    );
    fixture.until("the older one decides", 200, false);
    fixture.delete("default", "younger");
    fixture.delete("default", "labels");
    fixture.is_open("the namespace again");
    fixture.delete("default", "all");
    fixture.until("the mesh again", 403, false);
    fixture.delete("ops", "all");
    fixture.is_open("without any policy");
}

fn a_mode_outlives_the_control_plane_and_the_proxy(fixture: &mut Fixture) {
    fixture.apply("default", "web", STRICT);
    fixture.until("plaintext is refused", 403, false);
    fixture.mesh.kill_control_plane();
    fixture.until("also without a control plane", 403, false);
    fixture.mesh.kill_agent("a");
    fixture.mesh.start_agent("a");
    fixture.until("also by a proxy that was started since", 403, false);
    until("and members are served", SOON, || {
        let wire = fixture.caller.try_connect("web", 80).ok()?;
        (answer(wire).ok()? == 200).then_some(())
    });
    fixture.mesh.start_control_plane();
    fixture.until("and when it is back", 403, false);
    until("it takes changes again", SOON, || {
        let delete = ["delete", "authenticationpolicy", "web"];
        (fixture.mesh.leno(&delete).code == 0).then_some(())
    });
    fixture.is_open("and as before");
}

fn a_peer_of_another_make_is_served_under_strict(fixture: &mut Fixture) {
    let program = need!("envoy");
    let (a, b, s) = (
        fixture.mesh.host("a"),
        fixture.mesh.host("b"),
        fixture.outside(),
    );
    let own = identity(&b, &s, "own");
    let uid = uid_of(&fixture.mesh, "web");
    let to = Tunnel {
        host: a.v4,
        uid: &uid,
        identity: "spiffe://default.leno/ns/default/sa/web",
        roots: &own.roots,
        authority: &format!("{}:8080", a.v4),
    };
    let _envoy = to.by_envoy(&s, &program, &own);
    let through = || {
        let stream = s.connect(([127, 0, 0, 1], 9000).into()).ok()?;
        answer(Wire::new(stream)).ok()
    };
    until("the tunnel stands", SOON, || {
        (through() == Some(200)).then_some(())
    });
    fixture.apply("default", "web", STRICT);
    fixture.until("plaintext is refused", 403, false);
    for _ in 0..5 {
        assert_eq!(through(), Some(200));
    }
    fixture.delete("default", "web");
}
