//! Clocks that are wrong, and clocks that jump: each a clear error, and nothing lost.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use leno_e2e::{Backend, SOON, response};
use leno_testkit::{
    Capture, Host, Member, Mesh, Network, leno_binary, need, skip, suite, until, until_ok,
};
use serde_json::Value;

/// `web` on a, called from b; the control plane's clock is ours to set where there is a library for that.
struct Fixture {
    mesh: Mesh,
    clock: Option<Clock>,
    _web: (Member, Backend),
    caller: Member,
}

/// A clock that a test sets.
struct Clock(PathBuf);

impl Clock {
    fn of(host: &Host) -> Self {
        let clock = Self(host.disk().join("clock"));
        clock.set("+0");
        clock
    }

    fn set(&self, offset: &str) {
        fs::write(&self.0, format!("{offset}\n")).expect("the clock is set");
    }

    fn environment(&self, library: &Path) -> [(String, OsString); 4] {
        [
            ("LD_PRELOAD".into(), library.into()),
            ("FAKETIME_TIMESTAMP_FILE".into(), (&self.0).into()),
            ("FAKETIME_NO_CACHE".into(), "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC".into(), "1".into()),
        ]
    }
}

fn fake_time_library() -> Option<PathBuf> {
    let roots = [
        "/usr/lib",
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
    ];
    let mut places = roots
        .iter()
        .map(|root| PathBuf::from(root).join("faketime/libfaketime.so.1"));
    places.find(|path| path.exists())
}

fn start() -> Fixture {
    let mut network = Network::new();
    let cp = network.add("cp");
    let mut builder = Mesh::builder().services(&["web", "late", "gone"]);
    let clock = fake_time_library().map(|library| {
        let clock = Clock::of(&cp);
        (clock.environment(&library), clock)
    });
    for (name, value) in clock.iter().flat_map(|(environment, _)| environment) {
        builder = builder.env(name, value);
    }
    let mut mesh = builder.start_on(network, cp);
    for host in ["a", "b", "off"] {
        mesh.join(host);
    }
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let web = mesh.run(&a).service("web").port("80:8080").start();
    let backend = Backend::http(web.listen(8080), |_| response(200, "", "ok"));
    let caller = mesh.run(&b).start();
    let fixture = Fixture {
        mesh,
        clock: clock.map(|(_, clock)| clock),
        _web: (web, backend),
        caller,
    };
    until_ok("web answers", SOON, || fixture.call("web"));
    fixture
}

suite!(
    start,
    [
        a_host_whose_clock_is_wrong_is_told_so,
        a_hosts_clock_that_jumps_refuses_with_a_reason_and_recovers,
        a_control_planes_clock_that_jumps_loses_nothing,
    ]
);

impl Fixture {
    /// Nothing, or what else came than an answer of `name`.
    fn call(&self, name: &str) -> Result<(), String> {
        let wire = self.caller.try_connect(name, 80);
        let mut wire = wire.map_err(|error| format!("connect: {error}"))?;
        let asked = format!("GET / HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
        let answer = wire.try_send(asked).and_then(|()| wire.try_message());
        let answer = answer.map_err(|error| error.to_string())?;
        match answer.status() {
            200 => Ok(()),
            _ => Err(answer.head),
        }
    }

    fn items(&self, kind: &str) -> Vec<Value> {
        let list = self.mesh.leno(&["get", kind, "-o", "json"]).good();
        let list: Value = serde_json::from_str(&list.text()).expect("JSON");
        list["items"].as_array().expect("items").clone()
    }

    fn names(&self, kind: &str) -> Vec<String> {
        let name = |item: &Value| {
            item["metadata"]["name"]
                .as_str()
                .expect("a name")
                .to_owned()
        };
        self.items(kind).iter().map(name).collect()
    }
}

fn a_host_whose_clock_is_wrong_is_told_so(fixture: &mut Fixture) {
    let faketime = need!("faketime");
    let host = fixture.mesh.network.add("late");
    let token = fixture.mesh.token(&[]);
    let file = host.disk().join("token");
    fs::write(&file, &token).expect("the token is written");
    let mut command = Command::new(&faketime);
    command
        .args(["-f", "-1h"])
        .arg(leno_binary())
        .arg("join")
        .arg("--no-agent")
        .arg(format!("--token-file={}", file.display()))
        .arg(format!("--data-dir={}", host.disk().join("data").display()))
        .arg(format!("--run-dir={}", host.disk().join("run").display()))
        .arg(format!("--address={}", host.v4))
        .arg("--host=late");
    let output = host.run(&mut command);
    if output.stderr.contains("LD_PRELOAD") {
        skip!("faketime does not work here: {}", output.stderr.trim());
    }
    assert_ne!(output.code, 0, "{}", output.stderr);
    assert!(output.stderr.contains("clock"), "{}", output.stderr);
}

fn a_hosts_clock_that_jumps_refuses_with_a_reason_and_recovers(fixture: &mut Fixture) {
    let Some(library) = fake_time_library() else {
        skip!("faketime is not installed");
    };
    let host = fixture.mesh.network.add("clock");
    let clock = Clock::of(&host);
    let token = fixture.mesh.token(&[]);
    let mut command = fixture.mesh.join_command(&host, &token);
    command.envs(clock.environment(&library));
    let process = host.spawn(&mut command);
    fixture.mesh.adopt_agent("clock", process);
    fixture.mesh.wait_ready("clock");
    let caller = fixture.mesh.run(&host).start();
    let ask = || {
        let mut wire = caller.try_connect("web", 80).ok()?;
        wire.try_send("GET /clock HTTP/1.1\r\nhost: web\r\n\r\n")
            .ok()?;
        wire.try_message().ok()
    };
    let serves = || ask().and_then(|answer| (answer.status() == 200).then_some(()));
    until("web answers", SOON, serves);
    let capture = Capture::start(&[b"GET /clock"]);
    for offset in ["+2h", "-2h", "+40d", "-40d"] {
        clock.set(offset);
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            let answer = ask().expect("an answer of some kind");
            let reason = answer
                .field("x-leno-refused")
                .unwrap_or_default()
                .to_owned();
            assert!(
                answer.status() == 200 || !reason.is_empty(),
                "{offset}: {}",
                answer.head
            );
            // A day's certificate is good two hours later.
            assert!(
                offset != "+2h" || answer.status() == 200,
                "{offset}: {}",
                answer.head
            );
        }
        clock.set("+0");
        until("it is well again", Duration::from_secs(20), serves);
    }
    capture.assert_no_cleartext(b"GET /clock");
    assert_eq!(fixture.mesh.agent("clock").ended(), None);
}

fn a_control_planes_clock_that_jumps_loses_nothing(fixture: &mut Fixture) {
    let Some(clock) = fixture.clock.take() else {
        skip!("faketime is not installed");
    };
    // A host that is off meanwhile, and a service that nobody serves any more: known by what is stored of them alone.
    let off = fixture.mesh.host("off");
    let gone = fixture
        .mesh
        .run(&off)
        .service("gone")
        .port("80:8080")
        .start();
    until("gone is listed", SOON, || {
        fixture
            .names("workloads")
            .iter()
            .any(|name| name.starts_with("gone"))
            .then_some(())
    });
    drop(gone);
    fixture.mesh.kill_agent("off");
    until("nobody serves gone", SOON, || {
        let left = fixture.names("workloads");
        (!left.iter().any(|name| name.starts_with("gone"))).then_some(())
    });
    let before = fixture.names("workloads");
    for (number, offset) in ["+2h", "-2h", "+40d", "-40d"].into_iter().enumerate() {
        clock.set(offset);
        let name = format!("written-{number}");
        let document = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  selector: {{app: x}}\n  ports: [{{port: 80}}]\n"
        );
        fixture.mesh.apply(&document, &[]).good();
        // Its certificates and leases are judged by this clock for a while.
        let end = Instant::now() + Duration::from_millis(1_500);
        let mut calls = 0;
        while Instant::now() < end {
            assert_eq!(fixture.call("web"), Ok(()), "{offset}");
            calls += 1;
        }
        assert!(calls > 10);
        assert_eq!(fixture.names("workloads"), before, "{offset}");
        let new = fixture.mesh.network.add(&format!("new{number}"));
        let token = fixture.mesh.token(&["--service=late"]);
        let mut joined = fixture.mesh.spawn_join(&new, &token, &["--no-agent"]);
        assert_eq!(joined.wait(SOON), 6, "{offset}");
        let why = if offset.starts_with('+') {
            "clock"
        } else {
            "expired"
        };
        joined.says(why, SOON);
    }
    clock.set("+0");
    let said = fixture
        .mesh
        .control_plane
        .as_ref()
        .expect("it runs")
        .stderr();
    for told in [
        "this machine's clock has jumped",
        "certificates are not renewed",
        "certificates are renewed again",
    ] {
        let times = said.matches(told).count();
        assert!((1..=4).contains(&times), "{told}: {times} times: {said}");
    }
    for number in 0..4 {
        assert!(
            fixture
                .names("services")
                .contains(&format!("written-{number}"))
        );
    }
    assert!(fixture.names("services").contains(&"gone".to_owned()));
    fixture.mesh.start_agent("off");
    let back = fixture
        .mesh
        .run(&off)
        .service("gone")
        .port("80:8080")
        .start();
    let _backend = Backend::http(back.listen(8080), |_| response(200, "", "gone"));
    until_ok("a host that was off serves again", SOON, || {
        fixture.call("gone")
    });
    drop(back);
    fixture.mesh.join("later");
    let later = fixture.mesh.host("later");
    let late = fixture
        .mesh
        .run(&later)
        .service("late")
        .port("80:8080")
        .start();
    let _backend = Backend::http(late.listen(8080), |_| response(200, "", "late"));
    until_ok("a host that joins afterwards is called", SOON, || {
        fixture.call("late")
    });
    fixture.mesh.kill_control_plane();
    fixture.mesh.start_control_plane();
    assert_eq!(fixture.call("web"), Ok(()));
}
