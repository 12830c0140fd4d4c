//! Kubernetes' own client against a mesh without Kubernetes: the oldest one that a distribution still has, and a
//! current one. What they print is what people read, so it is held to the word.

use std::{fs, path::PathBuf, process::Command};

use leno_config::Kind;
use leno_e2e::{Backend, SOON, response};
use leno_testkit::{Member, Mesh, Output, Process, need, suite, until};

/// A mesh, and the certificate of somebody in it.
struct Fixture {
    mesh: Mesh,
    friend: Member,
    _storefront: (Member, Backend),
    context: PathBuf,
}

fn start() -> Fixture {
    let mut mesh = Mesh::builder().services(&["storefront", "friend"]).start();
    let a = mesh.join("a");
    let storefront = mesh.run(&a).service("storefront").port("80:8080").start();
    let backend = Backend::http(storefront.listen(8080), |_| response(200, "", "ok"));
    let friend = mesh.run(&a).account("friend").start();
    let context = mesh.host("cp").disk().join("kubeconfig");
    let written = mesh
        .leno(&["user", "create", "somebody", "--role", "admin"])
        .good();
    fs::write(&context, written.text()).expect("the context is written");
    Fixture {
        mesh,
        friend,
        _storefront: (storefront, backend),
        context,
    }
}

suite!(
    start,
    [
        an_old_kubectl_configures_a_mesh,
        a_current_kubectl_configures_a_mesh,
        a_current_kubectl_validates_as_strictly_as_it_is_told,
        who_would_be_cut_off_is_told_before_and_when_it_is_written,
        what_is_not_there_is_told_by_name,
        every_field_is_explained,
        what_runs_is_described_as_a_cluster_would,
        what_the_control_plane_shows_is_what_the_schemas_say,
    ]
);

/// The oldest that a distribution still has.
const OLD: &str = "kubectl-1.20";
const CURRENT: &str = "kubectl";

impl Fixture {
    fn command(&self, kubectl: &PathBuf, words: &[&str]) -> Command {
        let mut command = Command::new(kubectl);
        command
            .args(words)
            .env("KUBECONFIG", &self.context)
            // What it learned of another mesh at this address is none of ours.
            .env("HOME", self.mesh.host("cp").disk());
        command
    }

    #[track_caller]
    fn kubectl(&self, kubectl: &PathBuf, words: &[&str]) -> Output {
        self.mesh.host("cp").run(&mut self.command(kubectl, words))
    }

    fn start(&self, kubectl: &PathBuf, words: &[&str]) -> Process {
        self.mesh
            .host("cp")
            .spawn(&mut self.command(kubectl, words))
    }

    /// Writes documents to a file that commands name.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.mesh.host("cp").disk().join(name);
        fs::write(&path, text).expect("documents are written");
        path.display().to_string()
    }

    /// The documents of a shop, its catalogue at these weights and with these ports.
    fn shop(&self, weights: [u32; 2], ports: &[u16]) -> String {
        let ports: String = ports
            .iter()
            .map(|port| format!("  - {{name: http-{port}, port: {port}, targetPort: 8080}}\n"))
            .collect();
        let service = |name: &str| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, labels: {{tier: front}}}}\nspec:\n  \
                 selector: {{app: {name}}}\n  ports:\n{ports}---\n"
            )
        };
        let [v1, v2] = weights;
        let route = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: catalog}}\nspec:\n  \
             parentRefs: [{{group: \"\", kind: Service, name: catalog}}]\n  rules:\n  - backendRefs:\n    \
             - {{name: catalog-v1, port: 80, weight: {v1}}}\n    - {{name: catalog-v2, port: 80, weight: {v2}}}\n---\n"
        );
        let policy = "apiVersion: leno.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: catalog}\nspec:\n  \
                      targetRefs: [{kind: Service, name: catalog}]\n  action: Allow\n  rules:\n  \
                      - from: [{serviceAccounts: [default/storefront]}]\n";
        let services = ["catalog", "catalog-v1", "catalog-v2"]
            .map(service)
            .concat();
        self.file("shop.yaml", &format!("{services}{route}{policy}"))
    }
}

const OBJECTS: [&str; 5] = [
    "service/catalog",
    "service/catalog-v1",
    "service/catalog-v2",
    "httproute.gateway.networking.k8s.io/catalog",
    "accesspolicy.leno.dev/catalog",
];

/// What `kubectl apply` and its like say of each object.
#[track_caller]
fn said(output: &Output, results: [&str; 5]) {
    let wanted: Vec<String> = OBJECTS
        .iter()
        .zip(results)
        .map(|(object, result)| format!("{object} {result}"))
        .collect();
    let text = output.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines, wanted, "{}", output.stderr);
}

#[track_caller]
fn has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
}

#[track_caller]
fn shows(process: &Process, text: &str) {
    until(text, SOON, || process.stdout().contains(text).then_some(()));
}

fn an_old_kubectl_configures_a_mesh(fixture: &mut Fixture) {
    configures_a_mesh(fixture, &need!(OLD));
}

fn a_current_kubectl_configures_a_mesh(fixture: &mut Fixture) {
    configures_a_mesh(fixture, &need!(CURRENT));
}

fn configures_a_mesh(fixture: &Fixture, kubectl: &PathBuf) {
    let run = |words: &[&str]| fixture.kubectl(kubectl, words);
    let first = fixture.shop([95, 5], &[80]);
    let tried = run(&["apply", "-f", &first, "--dry-run=server"]).good();
    said(&tried, ["created (server dry run)"; 5]);
    said(&run(&["apply", "-f", &first]).good(), ["created"; 5]);
    said(&run(&["apply", "-f", &first]).good(), ["unchanged"; 5]);
    assert_eq!(run(&["diff", "-f", &first]).code, 0);

    let mut watch = fixture.start(kubectl, &["get", "httproute", "-w"]);
    shows(&watch, "catalog-v1=95,catalog-v2=5");
    let second = fixture.shop([50, 50], &[80, 81]);
    let diff = run(&["diff", "-f", &second]);
    assert_eq!(diff.code, 1, "{}", diff.stderr);
    has(
        &diff.text(),
        &["-      weight: 95", "+      weight: 50", "+    port: 81"],
    );
    let changed = run(&["apply", "-f", &second]).good();
    let mut results = ["configured"; 5];
    results[4] = "unchanged";
    said(&changed, results);
    shows(&watch, "catalog-v1=50,catalog-v2=50");
    let seen = watch.stdout();
    let header = seen.lines().next().unwrap_or_default();
    let columns: Vec<&str> = header.split_whitespace().collect();
    assert_eq!(columns, ["NAME", "SERVICES", "BACKENDS", "STATUS", "AGE"]);
    assert_eq!(seen.matches("NAME").count(), 1, "{seen}");

    // A Service's ports are merged by their number; the address it has stays.
    let ports = "-o=jsonpath={.spec.clusterIP} {.spec.ports[*].port}";
    let before = run(&["get", "svc", "catalog", ports]).good().text();
    let patch = r#"{"spec": {"ports": [{"port": 82, "name": "more"}]}}"#;
    run(&["patch", "svc", "catalog", "-p", patch]).good();
    let after = run(&["get", "svc", "catalog", ports]).good().text();
    let mut all: Vec<&str> = after.split(' ').collect();
    all.sort_unstable();
    let mut wanted: Vec<&str> = before.split(' ').chain(["82"]).collect();
    wanted.sort_unstable();
    assert_eq!(all, wanted);

    has(
        &run(&["describe", "httproute", "catalog"]).good().text(),
        &["Weight:  50", "Programmed", "Events:"],
    );
    has(
        &run(&["describe", "service", "catalog"]).good().text(),
        &["Selector:", "app=catalog", "http-81  81/TCP"],
    );
    has(&run(&["get", "all"]).good().text(), &OBJECTS);
    let labelled = run(&["get", "svc", "-l", "tier=front", "-o", "name"]).good();
    assert_eq!(labelled.text().lines().count(), 3, "{}", labelled.text());
    run(&["label", "httproute", "catalog", "tier=front"]).good();
    run(&["replace", "-f", &second]).good();
    let deleted = run(&["delete", "-f", &second]).good().text();
    assert_eq!(deleted.matches("deleted").count(), 5, "{deleted}");
    let gone = until("nothing is left", SOON, || {
        let left = run(&["get", "httproutes,accesspolicies"]);
        left.text().is_empty().then_some(left)
    });
    has(&gone.stderr, &["No resources found in default namespace."]);
    watch.kill();
}

fn a_current_kubectl_validates_as_strictly_as_it_is_told(fixture: &mut Fixture) {
    let kubectl = need!(CURRENT);
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: typo}\nspec:\n  ports: [{port: 80, portt: 1}]\n";
    let file = fixture.file("typo.yaml", text);
    let run = |more: &[&str]| {
        let words = [&["apply", "-f", &file][..], more].concat();
        fixture.kubectl(&kubectl, &words)
    };
    for mode in ["--validate=strict", "--validate=true"] {
        let refused = run(&[mode]);
        assert_eq!(refused.code, 1);
        has(
            &refused.stderr,
            &["strict decoding error: unknown field \"spec.ports[0].portt\" (did you mean port?)"],
        );
    }
    let warned = run(&["--validate=warn"]).good();
    has(&warned.text(), &["service/typo created"]);
    has(
        &warned.stderr,
        &["Warning: unknown field \"spec.ports[0].portt\""],
    );
    let ignored = run(&["--validate=ignore", "--dry-run=server"]).good();
    assert!(
        !ignored.stderr.contains("unknown field"),
        "{}",
        ignored.stderr
    );
    fixture
        .kubectl(&kubectl, &["delete", "service", "typo"])
        .good();
}

fn who_would_be_cut_off_is_told_before_and_when_it_is_written(fixture: &mut Fixture) {
    let policy = |action: &str, who: &str| {
        format!(
            "apiVersion: leno.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: doors}}\nspec:\n  \
             targetRefs: [{{kind: Service, name: storefront}}]\n  action: {action}\n  \
             rules: [{{from: [{{serviceAccounts: [default/{who}]}}]}}]\n"
        )
    };
    let deny = fixture.file("deny.yaml", &policy("Deny", "friend"));
    let allow = fixture.file("allow.yaml", &policy("Allow", "friend"));
    let other = fixture.file("other.yaml", &policy("Allow", "other"));
    let told =
        "Warning: cuts off, of those who called default/storefront in the last ten minutes: ";
    for kubectl in [need!(CURRENT), need!(OLD)] {
        let run = |words: &[&str]| fixture.kubectl(&kubectl, words).good();
        let tells = |output: &Output| output.stderr.contains(told);
        until("a dry run tells of the caller", SOON, || {
            let mut wire = fixture.friend.connect("storefront", 80);
            wire.send("GET / HTTP/1.1\r\nhost: storefront\r\nconnection: close\r\n\r\n");
            // The policy that the other kubectl deleted may still be in force at the proxy.
            let served = wire.message().status() == 200;
            (served && tells(&run(&["apply", "--dry-run=server", "-f", &deny]))).then_some(())
        });
        assert!(!tells(&run(&["apply", "-f", &allow])), "friend stays");
        assert!(tells(&run(&["apply", "-f", &other])), "friend loses");
        assert!(!tells(&run(&["apply", "-f", &other])), "nothing changes");
        assert!(!tells(&run(&["delete", "-f", &other])), "all may again");
        assert!(tells(&run(&["create", "-f", &deny])));
        run(&["delete", "accesspolicy", "doors"]);
    }
}

fn what_is_not_there_is_told_by_name(fixture: &mut Fixture) {
    let kubectl = need!(CURRENT);
    let file = fixture.shop([1, 1], &[80]);
    let refused = |words: &[&str], says: &[&str]| {
        let output = fixture.kubectl(&kubectl, words);
        assert_ne!(output.code, 0, "{words:?}: {}", output.text());
        has(&output.stderr, says);
    };
    refused(
        &["get", "pods"],
        &["the server doesn't have a resource type \"pods\""],
    );
    refused(
        &["get", "events"],
        &["the server doesn't have a resource type \"events\""],
    );
    refused(
        &["apply", "--server-side", "-f", &file],
        &["server-side apply is not there yet: use client-side apply, or leno apply"],
    );
    refused(
        &["get", "service", "nobody"],
        &["services \"nobody\" not found"],
    );
    refused(
        &["delete", "workload", "nobody"],
        &["made by the control plane from what runs"],
    );
    let who = fixture.kubectl(&kubectl, &["auth", "whoami"]).good().text();
    has(&who, &["/leno/user/somebody", "[admin]"]);
    // A current client writes reviews as protobuf, an old one as JSON.
    for kubectl in [kubectl, need!(OLD)] {
        let asked = ["auth", "can-i", "list", "pods"];
        let allowed = fixture.kubectl(&kubectl, &asked);
        has(&allowed.text(), &["no - there is no such kind here"]);
        assert_eq!(allowed.code, 1);
        let asked = ["auth", "can-i", "create", "httproutes"];
        let allowed = fixture.kubectl(&kubectl, &asked);
        assert_eq!(allowed.good().text().trim(), "yes");
    }
}

fn every_field_is_explained(fixture: &mut Fixture) {
    let kubectl = need!(CURRENT);
    let explained = |what: &str| fixture.kubectl(&kubectl, &["explain", what]).good().text();
    has(
        &explained("httproute.spec.rules"),
        &[
            "GROUP:      gateway.networking.k8s.io",
            "FIELD: rules <[]Object>",
            "backendRefs",
        ],
    );
    has(
        &explained("service.spec.ports.targetPort"),
        &["FIELD: targetPort <IntOrString>"],
    );
    has(
        &explained("accesspolicy.spec.rules.from"),
        &["serviceAccounts", "SPIFFE IDs"],
    );
    let whole = fixture
        .kubectl(&kubectl, &["explain", "workload", "--recursive"])
        .good()
        .text();
    has(&whole, &["identity", "connected"]);
}

fn what_runs_is_described_as_a_cluster_would(fixture: &mut Fixture) {
    let kubectl = need!(CURRENT);
    let address = fixture.mesh.host("a").v4;
    until("its endpoint is there", SOON, || {
        let described = fixture.kubectl(&kubectl, &["describe", "service", "storefront"]);
        let text = described.good().text();
        let endpoints = format!("{address}:8080");
        (text.contains("8080/TCP") && text.contains(&endpoints)).then_some(())
    });
}

fn what_the_control_plane_shows_is_what_the_schemas_say(fixture: &mut Fixture) {
    let file = fixture.shop([1, 1], &[80]);
    fixture.mesh.leno(&["apply", "-f", &file]).good();
    let names = "apiVersion: leno.dev/v1alpha1\nkind: HostnameGenerator\nmetadata: {name: all}\nspec:\n  \
                 selector: {service: {}}\n  template: \"{{ .Name }}.mesh.test\"\n";
    fixture.mesh.apply(names, &[]).good();
    for kind in Kind::ALL.iter().copied() {
        let words = ["get", kind.plural(), "-o", "json"];
        let list = fixture.mesh.leno(&words).good().json();
        let items = list["items"].as_array().cloned().unwrap_or_default();
        for object in &items {
            let departures = leno_config::departures(kind, object);
            assert_eq!(departures, Vec::<String>::new(), "{object}");
        }
        let is_there = kind.kind() != "AuthenticationPolicy";
        assert!(!is_there || !items.is_empty(), "there is no {kind}");
    }
    fixture.mesh.leno(&["delete", "-f", &file]).good();
    fixture
        .mesh
        .leno(&["delete", "hostnamegenerator", "all"])
        .good();
}
