//! `leno demo`: what it shows is true, and nothing of it is left.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
    time::Duration,
};

use leno_e2e::SOON;
use leno_testkit::{Host, Network, Process, Signal, leno_binary, need, skip, suite, until};
use serde_json::Value;

/// Within so long nothing is left.
const LEFT_WITHIN: Duration = Duration::from_secs(5);
/// A demo shows traffic within so long, also a build that is not optimised, on a busy machine.
const READY: Duration = Duration::from_secs(40);

/// A machine with nothing on it.
struct Fixture {
    host: Rc<Host>,
    _network: Network,
    before: Vec<String>,
    mounts: String,
    number: u32,
}

fn start() -> Fixture {
    let mut network = Network::new();
    Fixture {
        host: network.add("m"),
        _network: network,
        before: processes(),
        mounts: mounts(),
        number: 0,
    }
}

suite!(
    start,
    [
        its_document_is_complete_and_every_edge_carried_traffic,
        two_run_side_by_side,
        what_it_suggests_works_while_it_runs,
        however_it_is_ended_nothing_is_left,
        an_ordinary_user_sees_it_as_well,
        where_namespaces_are_forbidden_it_names_the_permission,
    ]
);

/// Everything that runs here: id and program.
fn processes() -> Vec<String> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let mut found: Vec<String> = entries
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            (!stat.contains(") Z ")).then(|| {
                format!(
                    "{pid} {}",
                    fs::read_to_string(entry.path().join("comm"))
                        .unwrap_or_default()
                        .trim()
                )
            })
        })
        .collect();
    found.sort();
    found
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").expect("the mounts")
}

impl Fixture {
    /// A home of its own for each run, so that whatever is left there is seen.
    fn home(&mut self) -> PathBuf {
        self.number += 1;
        let home = self.host.disk().join(format!("home-{}", self.number));
        for dir in ["tmp", "config", "data", "run"] {
            fs::create_dir_all(home.join(dir)).expect("a home");
        }
        home
    }

    fn leno(&self, home: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(leno_binary());
        command.args(words);
        places(&mut command, home);
        command
    }

    fn demo(&self, home: &Path, words: &[&str]) -> Process {
        self.host.spawn(self.leno(home, &["demo"]).args(words))
    }

    /// Nothing runs, no file is there, no link is left, no context.
    #[track_caller]
    fn assert_nothing_left(&self, home: &Path) {
        until("every process is gone", LEFT_WITHIN, || {
            let left: Vec<String> = processes()
                .into_iter()
                .filter(|of| !self.before.contains(of))
                .collect();
            left.is_empty().then_some(())
        });
        let mut files = Vec::new();
        walk(home, &mut files);
        assert!(files.is_empty(), "{files:?}");
        let links = self
            .host
            .within(|| fs::read_to_string("/proc/thread-self/net/dev"))
            .expect("the links");
        assert_eq!(
            links.lines().filter(|line| line.contains(':')).count(),
            2,
            "{links}"
        );
        assert_eq!(mounts(), self.mounts);
    }
}

fn places(command: &mut Command, home: &Path) {
    command
        .env("HOME", home)
        .env("TMPDIR", home.join("tmp"))
        .env("XDG_CONFIG_HOME", home.join("config"))
        .env("XDG_DATA_HOME", home.join("data"))
        .env("XDG_RUNTIME_DIR", home.join("run"))
        .env_remove("LENO_CONFIG")
        .env_remove("LENO_CONTEXT");
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            walk(&entry.path(), files);
        } else {
            files.push(entry.path());
        }
    }
}

/// Checks the document as the design describes it.
#[track_caller]
fn check(document: &Value, mesh: &str) {
    assert_eq!(document["mesh"], mesh);
    assert_eq!(document["trust_domain"], format!("{mesh}.leno"));
    assert!(
        document["version"]
            .as_str()
            .is_some_and(|version| !version.is_empty())
    );
    let ready = document["ready_ms"].as_u64().expect("ready_ms");
    assert!(ready > 0 && ready < 30_000, "{ready}");
    let edges = document["edges"].as_array().expect("edges");
    let mut protocols: Vec<&str> = edges
        .iter()
        .filter_map(|edge| edge["protocol"].as_str())
        .collect();
    protocols.sort_unstable();
    protocols.dedup();
    assert_eq!(
        protocols,
        ["grpc", "http/1.1", "http/2", "tcp", "websocket"]
    );
    for edge in edges {
        let number = |name: &str| {
            edge[name]
                .as_f64()
                .unwrap_or_else(|| panic!("{name} in {edge}"))
        };
        assert!(number("requests") >= 1.0, "{edge}");
        assert!(number("rps") > 0.0, "{edge}");
        assert!(
            number("success_rate") >= 0.99 && number("success_rate") <= 1.0,
            "{edge}"
        );
        let expected = (number("requests") - number("failures")) / number("requests");
        assert!((number("success_rate") - expected).abs() < 1e-9, "{edge}");
        if edge["p50_ms"].is_number() {
            assert!(
                number("p50_ms") > 0.0 && number("p50_ms") <= number("p99_ms"),
                "{edge}"
            );
        } else {
            assert_eq!(edge["protocol"], "tcp", "{edge}");
        }
        let identity = |of: &str, name: &str| {
            let name = name.split("-v").next().unwrap_or_default().to_owned();
            assert_eq!(
                edge[of],
                format!("spiffe://{mesh}.leno/ns/shop/sa/{name}"),
                "{edge}"
            );
        };
        if edge["source"] == "legacy" {
            assert!(
                edge["mtls"] == false
                    && edge["source_identity"].is_null()
                    && edge["destination_identity"].is_null(),
                "{edge}"
            );
        } else {
            assert_eq!(edge["mtls"], true, "{edge}");
            identity(
                "source_identity",
                edge["source"].as_str().expect("a source"),
            );
            identity(
                "destination_identity",
                edge["destination"].as_str().expect("a destination"),
            );
        }
    }
    assert!(
        edges
            .iter()
            .any(|edge| edge["source"] == "legacy" && edge["destination"] == "storefront")
    );
    let proxies = document["proxies"].as_array().expect("proxies");
    assert!(proxies.len() >= 7, "{proxies:?}");
    let workloads = |proxy: &Value| proxy["workloads"].as_array().map_or(0, Vec::len);
    assert!(
        proxies.iter().any(|proxy| workloads(proxy) == 2),
        "two programs share a host"
    );
    assert!(proxies.iter().map(workloads).sum::<usize>() >= 8);
    let memory: u64 = proxies
        .iter()
        .filter_map(|proxy| proxy["pss_bytes"].as_u64())
        .sum();
    assert!(memory > 0 && memory < 150_000_000, "{memory}");
    assert!(proxies.iter().all(|proxy| {
        proxy["config_version"]
            .as_str()
            .is_some_and(|version| !version.is_empty())
    }));
}

fn its_document_is_complete_and_every_edge_carried_traffic(fixture: &mut Fixture) {
    let home = fixture.home();
    let output = fixture
        .host
        .run(&mut fixture.leno(&home, &["demo", "--for", "10s", "-o", "json"]));
    assert_eq!(output.code, 0, "{}{}", output.text(), output.stderr);
    check(&output.json(), "demo");
    fixture.assert_nothing_left(&home);
}

fn two_run_side_by_side(fixture: &mut Fixture) {
    let home = fixture.home();
    let mut first = fixture.demo(&home, &["--for", "14s", "-o", "json"]);
    until("the first has its name", READY, || {
        let config = fs::read_to_string(home.join("config/leno/config")).unwrap_or_default();
        config.contains("demo").then_some(())
    });
    let mut second = fixture.demo(&home, &["--for", "8s", "-o", "json"]);
    for (process, mesh) in [(&mut second, "demo-2"), (&mut first, "demo")] {
        let code = process.wait(Duration::from_secs(70));
        assert_eq!(code, 0, "{mesh}: {}{}", process.stdout(), process.stderr());
        check(
            &serde_json::from_str(&process.stdout()).expect("one document"),
            mesh,
        );
    }
    fixture.assert_nothing_left(&home);
}

fn what_it_suggests_works_while_it_runs(fixture: &mut Fixture) {
    let home = fixture.home();
    let mut demo = fixture.demo(&home, &[]);
    until("it is ready and says what to try", READY, || {
        assert_eq!(demo.ended(), None, "{}", demo.stderr());
        let said = demo.stdout() + &demo.stderr();
        (said.contains("leno") && said.contains("--context demo") && said.contains("storefront"))
            .then_some(())
    });
    let leno = |words: &[&str]| {
        let words = [&["--context", "demo"], words].concat();
        fixture.host.run(&mut fixture.leno(&home, &words))
    };
    let shares = || {
        let total = |name: &str| {
            let edges = leno(&["top", "-o", "json"]);
            edges.text().contains(name)
        };
        total("catalog")
    };
    assert!(shares(), "top shows the catalog");
    let split = leno(&["split", "catalog", "v1=0", "v2=100"]).good();
    assert!(split.text().contains("catalog"), "{}", split.text());
    let certificates = leno(&["proxy", "certs"]).good().text();
    assert!(certificates.contains("/sa/storefront"), "{certificates}");
    leno(&["deny", "storefront", "reviews"]).good();
    until("the refusals are seen", SOON, || {
        let seen = leno(&["top", "-o", "json"]).text();
        seen.contains("reviews").then_some(())
    });
    demo.signal(Signal::INT);
    demo.wait(Duration::from_secs(15));
    fixture.assert_nothing_left(&home);
}

fn however_it_is_ended_nothing_is_left(fixture: &mut Fixture) {
    for signal in [Signal::TERM, Signal::KILL] {
        let home = fixture.home();
        let mut demo = fixture.demo(&home, &[]);
        until("it is ready", READY, || {
            assert_eq!(demo.ended(), None, "{}", demo.stderr());
            (demo.stdout() + &demo.stderr())
                .contains("mTLS on")
                .then_some(())
        });
        demo.signal(signal);
        demo.wait(Duration::from_secs(15));
        fixture.assert_nothing_left(&home);
    }
    // In the middle of its start.
    let home = fixture.home();
    let mut demo = fixture.demo(&home, &[]);
    until("it has begun", READY, || {
        (processes().len() > fixture.before.len() + 4).then_some(())
    });
    demo.signal(Signal::KILL);
    demo.wait(Duration::from_secs(15));
    fixture.assert_nothing_left(&home);
}

fn an_ordinary_user_sees_it_as_well(fixture: &mut Fixture) {
    let setpriv = need!("setpriv");
    let user = ["--reuid=4321", "--regid=4321", "--clear-groups"];
    let probe = fixture.host.run(
        Command::new(&setpriv)
            .args(user)
            .args(["unshare", "-Urn", "true"]),
    );
    if probe.code != 0 {
        skip!(
            "an ordinary user can make no namespaces here: {}",
            probe.stderr.trim()
        );
    }
    let home = fixture.home();
    fixture
        .host
        .exec(&["chown", "-R", "4321:4321", &home.display().to_string()])
        .good();
    let mut command = Command::new(setpriv);
    command
        .args(user)
        .arg(leno_binary())
        .args(["demo", "--for", "8s", "-o", "json"]);
    places(&mut command, &home);
    let output = fixture.host.run(&mut command);
    assert_eq!(output.code, 0, "{}{}", output.text(), output.stderr);
    check(&output.json(), "demo");
    fixture.assert_nothing_left(&home);
}

fn where_namespaces_are_forbidden_it_names_the_permission(fixture: &mut Fixture) {
    let home = fixture.home();
    let leno = leno_binary().display().to_string();
    let script =
        format!("echo 0 > /proc/sys/user/max_net_namespaces && exec {leno} demo --for 1s -o json");
    let unshare = need!("unshare");
    let mut command = Command::new(unshare);
    command.args(["-Ur", "sh", "-c", &script]);
    places(&mut command, &home);
    let output = fixture.host.run(&mut command);
    if output.stderr.contains("max_net_namespaces") && !output.stderr.contains("leno") {
        skip!("this cannot be forbidden here: {}", output.stderr.trim());
    }
    assert_eq!(output.code, 4, "{}", output.stderr);
    assert_eq!(
        output.text(),
        "",
        "standard output is for the document alone"
    );
    assert!(
        output.stderr.contains("namespace") && output.stderr.contains("sysctl"),
        "{}",
        output.stderr
    );
    fixture.assert_nothing_left(&home);
}
