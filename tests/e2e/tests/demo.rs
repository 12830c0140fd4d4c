//! `leno demo`: what it shows is true, and nothing of it is left.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
    time::{Duration, Instant},
};

use leno_e2e::{SOON, crowd, once_within};
use leno_testkit::{Host, Network, Process, Signal, leno_binary, need, skip, suite, until};
use serde_json::Value;
use tries::what_it_suggests_works_while_it_runs;

#[path = "demo/tries.rs"]
mod tries;

/// Within so long nothing is left.
const LEFT_WITHIN: Duration = Duration::from_secs(5);
/// A demo shows traffic within so long, also a build that is not optimised, on a busy machine.
const READY: Duration = Duration::from_secs(40);
/// Of a few times, once within this.
const READY_WITHIN: Duration = Duration::from_secs(5);

/// A machine with nothing on it.
struct Fixture {
    host: Rc<Host>,
    _network: Network,
    before: Vec<String>,
    mounts: Vec<String>,
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

/// Everything that runs in this test's own PID namespace: id and program.
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

/// The mounts of this test's own namespace, by their mount points.
fn mounts() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    let point = |line: &str| line.split(' ').nth(4).unwrap_or_default().to_owned();
    text.lines().map(point).collect()
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

    /// Nothing runs, no file is there, no link is left, no rule, no context: now, or soon.
    #[track_caller]
    fn wait_for_nothing_left(&self, home: &Path) {
        until("every process is gone", SOON, || {
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
        // Fewer may be left: the host takes its copies away when what is mounted there is removed.
        let new: Vec<String> = mounts()
            .into_iter()
            .filter(|point| !self.mounts.contains(point))
            .collect();
        assert!(new.is_empty(), "{new:?}");
        if leno_testkit::program("nft").is_some() {
            let tables = self.host.exec(&["nft", "list", "tables"]).good().text();
            assert_eq!(tables, "", "rules are left");
        } else {
            leno_testkit::skipped("in part: nft is not installed");
        }
    }

    /// However it ends, nothing of it is left within five seconds: of a few times, since the machine may have its own
    /// reasons once.
    #[track_caller]
    fn ends_without_a_trace(
        &mut self,
        signal: Signal,
        start: impl Fn(&mut Self, &Path) -> Process,
    ) {
        let took = once_within(LEFT_WITHIN, || {
            let home = self.home();
            let mut demo = start(self, &home);
            let since = Instant::now();
            demo.signal(signal);
            demo.wait(Duration::from_secs(15));
            self.wait_for_nothing_left(&home);
            since.elapsed()
        });
        assert_eq!(took, Ok(()), "{signal:?}");
    }

    /// A demo that is ready.
    #[track_caller]
    fn ready(&self, mut demo: Process) -> Process {
        until("it is ready", READY, || {
            assert_eq!(demo.ended(), None, "{}", demo.stderr());
            let said = demo.stdout() + &demo.stderr();
            said.contains("mTLS on").then_some(())
        });
        demo
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

/// Checks the document as the design describes it; how long it was until traffic flowed.
#[track_caller]
fn check(document: &Value, mesh: &str) -> Duration {
    assert_eq!(document["mesh"], mesh);
    assert_eq!(document["trust_domain"], format!("{mesh}.leno"));
    assert!(
        document["version"]
            .as_str()
            .is_some_and(|version| !version.is_empty())
    );
    let ready = document["ready_ms"].as_u64().expect("ready_ms");
    assert!(ready > 0, "{document}");
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
        // Of a stream it is to the first byte.
        assert!(
            number("p50_ms") > 0.0 && number("p50_ms") <= number("p99_ms"),
            "{edge}"
        );
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
    Duration::from_millis(ready)
}

fn its_document_is_complete_and_every_edge_carried_traffic(fixture: &mut Fixture) {
    let ready = once_within(READY_WITHIN.mul_f64(crowd()), || {
        let home = fixture.home();
        let mut command = fixture.leno(&home, &["demo", "--for", "10s", "-o", "json"]);
        let output = fixture.host.run(&mut command);
        assert_eq!(output.code, 0, "{}{}", output.text(), output.stderr);
        let ready = check(&output.json(), "demo");
        fixture.wait_for_nothing_left(&home);
        ready
    });
    assert_eq!(ready, Ok(()));
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
    fixture.wait_for_nothing_left(&home);
}

fn however_it_is_ended_nothing_is_left(fixture: &mut Fixture) {
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        fixture.ends_without_a_trace(signal, |fixture, home| {
            fixture.ready(fixture.demo(home, &[]))
        });
    }
    // In the middle of its start.
    fixture.ends_without_a_trace(Signal::KILL, |fixture, home| {
        let demo = fixture.demo(home, &[]);
        until("it has begun", READY, || {
            (processes().len() > fixture.before.len() + 4).then_some(())
        });
        demo
    });
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
    let start = |fixture: &Fixture, home: &Path, words: &[&str]| {
        let owned = ["chown", "-R", "4321:4321", &home.display().to_string()];
        fixture.host.exec(&owned).good();
        let mut command = Command::new(&setpriv);
        command
            .args(user)
            .arg(leno_binary())
            .arg("demo")
            .args(words);
        places(&mut command, home);
        fixture.host.spawn(&mut command)
    };
    let home = fixture.home();
    let mut demo = start(fixture, &home, &["--for", "8s", "-o", "json"]);
    let code = demo.wait(Duration::from_secs(70));
    assert_eq!(code, 0, "{}{}", demo.stdout(), demo.stderr());
    let document = serde_json::from_str(&demo.stdout()).expect("one document");
    check(&document, "demo");
    fixture.wait_for_nothing_left(&home);
    fixture.ends_without_a_trace(Signal::KILL, |fixture, home| {
        fixture.ready(start(fixture, home, &[]))
    });
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
    fixture.wait_for_nothing_left(&home);
}
