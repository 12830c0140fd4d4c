//! Tokens, hosts and programs: who is let in as whom, and what is left when they go.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use leno_e2e::{Backend, SOON, once_within, response};
use leno_testkit::{Capture, Member, Mesh, Signal, need, suite, until, until_ok};
use leno_types::JoinToken;

/// Host a is joined and may serve cart, orders and payments.
struct Fixture {
    mesh: Mesh,
    number: u32,
}

fn start() -> Fixture {
    Fixture {
        mesh: Mesh::with(&["a"], &["cart", "orders"]),
        number: 0,
    }
}

suite!(
    start,
    [
        a_spent_token_is_refused,
        an_expired_token_is_refused,
        a_revoked_token_is_refused,
        an_altered_token_is_refused_before_anything_is_sent,
        a_token_of_another_mesh_is_refused,
        a_token_for_another_network_is_refused,
        a_changed_pin_is_a_mismatch_and_the_secret_never_leaves,
        a_service_outside_of_the_token_is_refused_by_name,
        no_program_sees_a_token,
        the_exit_code_is_the_programs_and_its_workload_goes_with_it,
        signals_reach_the_program,
        a_program_that_cannot_be_started_is_told_apart,
        two_programs_under_one_agent_have_an_identity_each,
        a_second_agent_on_a_host_names_the_first,
        a_host_comes_back_after_a_reboot_with_its_token_spent,
        a_host_is_of_one_mesh_until_it_left_and_its_name_stays,
        a_damaged_membership_is_mended_by_joining_again,
        a_disk_without_space_does_not_cost_the_token,
        a_port_that_is_taken_does_not_cost_the_token,
        a_low_port_that_an_ordinary_users_agent_may_not_have_is_told_with_the_way_out,
        another_user_may_not_run_programs,
    ]
);

impl Fixture {
    fn new_name(&mut self) -> String {
        self.number += 1;
        format!("h{}", self.number)
    }

    /// Joins a new host with a token, agent included: how that ended, and what it said.
    fn join(&mut self, token: &str) -> (i32, String) {
        let name = self.new_name();
        let host = self.mesh.network.add(&name);
        let mut process = self.mesh.spawn_join(&host, token, &["--no-agent"]);
        let code = process.wait(Duration::from_secs(30));
        (code, process.stderr())
    }
}

#[track_caller]
fn refused((code, said): (i32, String), words: &[&str]) {
    assert_eq!(code, 6, "{said}");
    for word in words {
        assert!(
            said.to_lowercase().contains(word),
            "{word:?} is not in {said}"
        );
    }
    assert!(!said.contains("panicked"), "{said}");
}

fn a_spent_token_is_refused(fixture: &mut Fixture) {
    let token = fixture.mesh.token(&["--service", "cart"]);
    let (code, said) = fixture.join(&token);
    assert_eq!(code, 0, "{said}");
    refused(fixture.join(&token), &["token", "leno token create"]);
    let twice = fixture.mesh.token(&["--service", "cart", "--uses", "2"]);
    assert_eq!(fixture.join(&twice).0, 0);
    assert_eq!(fixture.join(&twice).0, 0);
    refused(fixture.join(&twice), &["token"]);
}

fn an_expired_token_is_refused(fixture: &mut Fixture) {
    let token = fixture.mesh.token(&["--ttl", "1s"]);
    until("the token has expired", SOON, || {
        let list = fixture.mesh.leno(&["token", "list"]).good().text();
        list.contains("expired").then_some(())
    });
    refused(fixture.join(&token), &["expired"]);
}

fn a_revoked_token_is_refused(fixture: &mut Fixture) {
    let token = fixture.mesh.token(&["--ttl", "1h"]);
    let id = token.parse::<JoinToken>().expect("a token").id;
    let list = fixture.mesh.leno(&["token", "list"]).good().text();
    assert!(list.contains(&id) && !list.contains(&token), "{list}");
    fixture.mesh.leno(&["token", "delete", &id]).good();
    refused(fixture.join(&token), &["token"]);
}

fn an_altered_token_is_refused_before_anything_is_sent(fixture: &mut Fixture) {
    let token = fixture.mesh.token(&[]);
    let capture = Capture::start(&[]);
    let middle = token.len() / 2;
    let other = if token.as_bytes().get(middle) == Some(&b'x') {
        "y"
    } else {
        "x"
    };
    let altered = format!("{}{other}{}", &token[..middle], &token[middle + 1..]);
    refused(fixture.join(&altered), &["altered"]);
    refused(fixture.join(&token[..token.len() - 4]), &["altered"]);
    refused(fixture.join("not a token"), &["leno_jt1_"]);
    refused(fixture.join(""), &["leno_jt1_"]);
    let control_plane = fixture.mesh.host("cp").v4;
    assert_eq!(capture.dialled(control_plane, 15012), 0);
    assert_eq!(fixture.join(&token).0, 0, "the token itself is good");
    assert!(capture.dialled(control_plane, 15012) > 0);
}

fn a_token_of_another_mesh_is_refused(fixture: &mut Fixture) {
    let mut token: JoinToken = fixture.mesh.token(&[]).parse().expect("a token");
    token.mesh = "other".parse().expect("a name");
    let (code, said) = fixture.join(&token.encode());
    assert_eq!(code, 6, "{said}");
    // A second mesh of its own: its token is nothing here, whatever addresses are written on it.
    let host = fixture.mesh.network.add("cp2");
    let network = leno_testkit::Network::empty();
    let other = Mesh::named("second").start_on(network, host);
    let mut foreign: JoinToken = other.token(&[]).parse().expect("a token");
    let own: JoinToken = fixture.mesh.token(&[]).parse().expect("a token");
    foreign.addresses.clone_from(&own.addresses);
    refused(fixture.join(&foreign.encode()), &["pin"]);
    foreign.pins.clone_from(&own.pins);
    let (code, said) = fixture.join(&foreign.encode());
    assert_eq!(code, 6, "{said}");
}

fn a_token_for_another_network_is_refused(fixture: &mut Fixture) {
    let token = fixture.mesh.token(&["--cidr", "192.0.2.0/24"]);
    refused(fixture.join(&token), &["192.0.2.0/24"]);
}

fn a_changed_pin_is_a_mismatch_and_the_secret_never_leaves(fixture: &mut Fixture) {
    let openssl = need!("openssl");
    let mut token: JoinToken = fixture.mesh.token(&[]).parse().expect("a token");
    let pin = token.pins.first_mut().expect("a pin");
    // The first character after "sha256/".
    let other = if pin.get(7..8) == Some("A") { "B" } else { "A" };
    pin.replace_range(7..8, other);
    refused(fixture.join(&token.encode()), &["pin"]);
    // The same against somebody who would take anything: all that he is told, he writes down.
    let host = fixture.mesh.network.add("liar");
    let dir = host.disk();
    let (key, certificate) = (dir.join("key"), dir.join("certificate"));
    let (key, certificate) = (key.display().to_string(), certificate.display().to_string());
    host.exec(&[
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=default.leno",
        "-addext",
        "subjectAltName=DNS:default.leno,DNS:control-plane.default.leno",
        "-keyout",
        &key,
        "-out",
        &certificate,
    ])
    .good();
    let mut liar = host.spawn(Command::new(openssl).args([
        "s_server",
        "-accept",
        "15012",
        "-key",
        &key,
        "-cert",
        &certificate,
        "-alpn",
        "h2,http/1.1",
        "-quiet",
    ]));
    until_ok("somebody else listens", SOON, || {
        host.connect((host.v4, 15012).into())
    });
    let mut stolen: JoinToken = fixture.mesh.token(&[]).parse().expect("a token");
    stolen.addresses = vec![std::net::SocketAddr::from((host.v4, 15012)).into()];
    let capture = Capture::start(&[]);
    let outcome = fixture.join(&stolen.encode());
    refused(outcome, &["did not prove to be the control plane"]);
    assert!(capture.to(host.v4, 15012) > 0, "it was asked");
    assert_eq!(liar.stdout(), "", "and told nothing");
    liar.kill();
}

fn a_service_outside_of_the_token_is_refused_by_name(fixture: &mut Fixture) {
    let a = fixture.mesh.host("a");
    let output = fixture
        .mesh
        .run(&a)
        .service("payments")
        .port("80:8080")
        .program(["true"])
        .to_end();
    assert_eq!(output.code, 6, "{}", output.stderr);
    assert!(
        output.stderr.contains("payments") && output.stderr.contains("cart"),
        "{}",
        output.stderr
    );
    let output = fixture
        .mesh
        .run(&a)
        .account("admin")
        .program(["true"])
        .to_end();
    assert_eq!(output.code, 6, "{}", output.stderr);
    assert!(output.stderr.contains("admin"), "{}", output.stderr);
    let output = fixture
        .mesh
        .run(&a)
        .option("namespace", "kube-system")
        .program(["true"])
        .to_end();
    assert_eq!(output.code, 6, "{}", output.stderr);
}

fn no_program_sees_a_token(fixture: &mut Fixture) {
    let a = fixture.mesh.host("a");
    let token = fixture.mesh.token(&[]);
    let program = fixture
        .mesh
        .run(&a)
        .env("LENO_TOKEN", &token)
        .env("LENO_JOIN_TOKEN", &token)
        .env("KEPT", "1");
    let output = program
        .program([
            "sh",
            "-c",
            "cat /proc/$$/environ /proc/self/environ; cat /proc/[0-9]*/cmdline",
        ])
        .to_end();
    let text = output.good().text();
    assert!(text.contains("KEPT=1"), "{text}");
    assert!(!text.contains("leno_jt1_"), "{text}");
}

fn workloads(mesh: &Mesh) -> String {
    mesh.api("/leno/v1/proxies").to_string()
}

fn the_exit_code_is_the_programs_and_its_workload_goes_with_it(fixture: &mut Fixture) {
    let a = fixture.mesh.host("a");
    for (script, code) in [
        ("exit 7", 7),
        ("exit 0", 0),
        ("kill -9 $$", 137),
        ("kill -15 $$", 143),
    ] {
        let output = fixture.mesh.run(&a).program(["sh", "-c", script]).to_end();
        assert_eq!(output.code, code, "{script}: {}", output.stderr);
        assert_eq!(output.text(), "", "nothing of ours on standard output");
    }
    let go = a.disk().join("go");
    let script = format!(
        "while [ ! -e {} ]; do sleep 0.02; done; exit 7",
        go.display()
    );
    let gone = once_within(Duration::from_secs(1), || {
        let marker = fixture
            .mesh
            .run(&a)
            .service("orders")
            .version("brief")
            .port("80:8099")
            .option("check", "none");
        let mut process = marker.program(["sh", "-c", &script]).spawn();
        until("the workload is there", SOON, || {
            workloads(&fixture.mesh).contains("\"brief\"").then_some(())
        });
        fs::write(&go, "").expect("a file");
        assert_eq!(process.wait(SOON), 7);
        let since = Instant::now();
        fs::remove_file(&go).expect("our own file");
        until("the workload is gone", SOON, || {
            (!workloads(&fixture.mesh).contains("\"brief\"")).then_some(())
        });
        since.elapsed()
    });
    assert_eq!(gone, Ok(()));
}

fn signals_reach_the_program(fixture: &mut Fixture) {
    let a = fixture.mesh.host("a");
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::USR1, "USR1"),
    ] {
        let script =
            format!("trap 'echo got; exit 42' {name}; echo up; while :; do sleep 0.05; done");
        let mut process = fixture.mesh.run(&a).program(["sh", "-c", &script]).spawn();
        until("the program is up", SOON, || {
            process.stdout().contains("up").then_some(())
        });
        process.signal(signal);
        assert_eq!(process.wait(SOON), 42, "{name}");
        assert!(process.stdout().contains("got"), "{name}");
    }
    // Without `leno run` the program is gone as well.
    let mut process = fixture
        .mesh
        .run(&a)
        .program(["sh", "-c", "echo $$; exec sleep 1000"])
        .spawn();
    let pid = until("the program is up", SOON, || {
        process.stdout().trim().parse::<u32>().ok()
    });
    process.kill();
    until("the program is gone", SOON, || gone(pid).then_some(()));
}

/// Whether a process has ended; one that nobody has reaped has.
fn gone(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.is_empty() || status.contains(") Z ")
}

fn a_program_that_cannot_be_started_is_told_apart(fixture: &mut Fixture) {
    let a = fixture.mesh.host("a");
    let output = fixture.mesh.run(&a).program(["absent-program"]).to_end();
    assert_eq!(output.code, 127, "{}", output.stderr);
    assert!(
        output.stderr.contains("absent-program"),
        "{}",
        output.stderr
    );
    let mut lonely = Command::new(leno_testkit::leno_binary());
    lonely
        .args(["run", "--", "true"])
        .env("LENO_AGENT_SOCKET", "/nowhere/agent.sock");
    let output = a.run(&mut lonely);
    assert_eq!(output.code, 5, "{}", output.stderr);
    assert!(
        output.stderr.contains("leno up") || output.stderr.contains("leno join"),
        "{}",
        output.stderr
    );
}

fn subject_of(fixture: &Fixture, uid: &str) -> String {
    let cp = fixture.mesh.host("cp");
    let to = format!("{}:15008", fixture.mesh.host("a").v4);
    // It has no certificate of its own, so that this ends in an error, after the server has shown its own.
    let script = format!(
        "openssl s_client -connect {to} -servername {uid} -alpn h2 -showcerts </dev/null 2>/dev/null | openssl x509 -noout -ext subjectAltName"
    );
    cp.exec(&["sh", "-c", &script]).text()
}

fn two_programs_under_one_agent_have_an_identity_each(fixture: &mut Fixture) {
    need!("openssl");
    let a = fixture.mesh.host("a");
    let name = fixture.new_name();
    fixture.mesh.join(&name);
    let b = fixture.mesh.host(&name);
    // Both on 8080: each has a network of its own.
    let cart = fixture.mesh.run(&a).service("cart").port("80:8080").start();
    let orders = fixture
        .mesh
        .run(&a)
        .service("orders")
        .port("80:8080")
        .start();
    let caller = fixture.mesh.run(&b).start();
    let _cart = Backend::http(cart.listen(8080), |_| response(200, "", "cart"));
    let _orders = Backend::http(orders.listen(8080), |_| response(200, "", "orders"));
    let ask = |name: &str| -> Result<Vec<u8>, String> {
        let mut wire = caller
            .try_connect(name, 80)
            .map_err(|error| error.to_string())?;
        Ok(wire
            .ask(format!("GET / HTTP/1.1\r\nhost: {name}\r\n\r\n"))
            .body)
    };
    for name in ["cart", "orders"] {
        until("it answers", SOON, || {
            (ask(name).as_deref() == Ok(name.as_bytes())).then_some(())
        });
    }
    let proxies = fixture.mesh.api("/leno/v1/proxies");
    for service in ["cart", "orders"] {
        let all = proxies.as_array().expect("a list").iter();
        let mut own =
            all.flat_map(|proxy| proxy["workloads"].as_array().cloned().unwrap_or_default());
        let workload = own.find(|workload| {
            workload["identity"]
                .as_str()
                .is_some_and(|id| id.ends_with(service))
        });
        let uid = workload.expect("its workload")["uid"]
            .as_str()
            .expect("its id")
            .to_owned();
        let shown = subject_of(fixture, &uid);
        assert!(
            shown.contains(&format!("spiffe://default.leno/ns/default/sa/{service}")),
            "{service}: {shown}"
        );
    }
    // A name that nobody here has gets no certificate at all.
    assert_eq!(subject_of(fixture, &"0".repeat(32)), "");
}

fn a_second_agent_on_a_host_names_the_first(fixture: &mut Fixture) {
    let a = fixture.mesh.host("a");
    let token = fixture.mesh.token(&[]);
    let mut second = fixture.mesh.spawn_join(&a, &token, &[]);
    let code = second.wait(SOON);
    let said = second.stderr();
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("another agent") || said.contains("is taken by"),
        "{said}"
    );
    // Elsewhere on its disk, but with the same ports.
    let run = a.disk().join("second");
    let mut third = fixture.mesh.spawn_agent_at(&a, &run);
    assert_eq!(third.wait(SOON), 1);
    let said = third.stderr();
    assert!(
        said.contains("15008") && said.contains("leno") && said.contains("pid"),
        "{said}"
    );
}

fn a_host_comes_back_after_a_reboot_with_its_token_spent(fixture: &mut Fixture) {
    let name = fixture.new_name();
    fixture.mesh.join(&name);
    let back = once_within(Duration::from_secs(10), || reboot(fixture, &name));
    assert_eq!(back, Ok(()));
}

/// From its agent's start until a program on it is called again.
fn reboot(fixture: &mut Fixture, name: &str) -> Duration {
    let host = fixture.mesh.host(name);
    let before = fixture
        .mesh
        .run(&host)
        .service("cart")
        .version("rebooted")
        .port("80:8090")
        .option("check", "none")
        .start();
    until("it is there", SOON, || {
        workloads(&fixture.mesh)
            .contains("\"rebooted\"")
            .then_some(())
    });
    drop(before);
    fixture.mesh.kill_agent(name);
    let (v4, v6) = (host.v4, host.v6);
    drop(host);
    fixture.mesh.network.remove(name);
    let host = fixture.mesh.network.add_again(name, v4, v6);
    assert!(!host.run_dir().join("workloads.json").exists());
    forget(&host.disk().join("token"));
    let a = fixture.mesh.host("a");
    let caller = fixture.mesh.run(&a).start();
    let since = Instant::now();
    fixture.mesh.start_agent(name);
    let after: Member = fixture
        .mesh
        .run(&host)
        .service("cart")
        .version("rebooted")
        .port("80:8090")
        .start();
    let _backend = Backend::http(after.listen(8090), |_| response(200, "", "back"));
    until("it answers", SOON, || {
        let mut wire = caller.try_connect("cart-rebooted", 80).ok()?;
        let answer = wire.ask("GET / HTTP/1.1\r\nhost: cart\r\n\r\n");
        (answer.body == b"back").then_some(())
    });
    since.elapsed()
}

fn a_host_is_of_one_mesh_until_it_left_and_its_name_stays(fixture: &mut Fixture) {
    let name = fixture.new_name();
    let host = fixture.mesh.network.add(&name);
    let token = || fixture.mesh.token(&["--service", "cart"]);
    let (first, second) = (token(), token());
    let join = |token: &str, more: &[&str]| {
        let mut process = fixture.mesh.spawn_join(&host, token, more);
        (process.wait(SOON), process.stderr())
    };
    let leave = || {
        let mut command = Command::new(leno_testkit::leno_binary());
        let place = |name: &str| host.disk().join(name).display().to_string();
        command
            .arg("leave")
            .arg(format!("--data-dir={}", place("data")))
            .arg(format!("--run-dir={}", place("run")));
        host.run(&mut command)
    };
    assert_eq!(join(&first, &["--no-agent"]).0, 0);
    let already = format!("{name} of mesh \"default\"");
    let mut elsewhere: JoinToken = second.parse().expect("a token");
    elsewhere.mesh = "other".parse().expect("a name");
    refused(
        join(&elsewhere.encode(), &["--no-agent"]),
        &[&already, "leno leave"],
    );
    let (code, said) = join(&second, &["--no-agent"]);
    assert_eq!(code, 0, "it was not spent: {said}");
    assert!(said.contains(&format!("as host {name}\n")), "{said}");
    assert!(leave().good().stderr.contains("membership.json"));
    assert!(leave().good().stderr.contains("no mesh"));
    let after = fixture.mesh.token(&["--service", "cart"]);
    let (code, said) = join(&after, &["--no-agent"]);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains(&format!("the name {name} is taken")),
        "{said}"
    );
    fixture.mesh.start_agent(&name);
    let pid = fixture.mesh.agent(&name).pid();
    let third = fixture.mesh.token(&["--service", "cart"]);
    let mut again = fixture.mesh.spawn_join(&host, &third, &[]);
    assert_eq!(again.wait(SOON), 1);
    let said = again.stderr();
    assert!(
        said.contains(&format!("another agent (pid {pid})")),
        "{said}"
    );
    let output = leave();
    refused((output.code, output.stderr), &["another agent"]);
    // Without its agent a program is told of, for nobody else does.
    let program = fixture.mesh.run(&host).service("cart").port("80:8080");
    let program = program.start();
    until("it is kept for the next agent", SOON, || {
        let kept = fs::read_to_string(host.run_dir().join("workloads.json")).ok()?;
        kept.contains("cart").then_some(())
    });
    let agent = fixture.mesh.agent(&name);
    agent.signal(Signal::INT);
    assert_eq!(agent.wait(SOON), 0);
    let said = leave().good().stderr;
    assert!(said.contains("in no mesh from now on"), "{said}");
    assert!(said.contains("(cart-"), "{said}");
    drop(program);
    let (code, said) = fixture.join(&third);
    assert_eq!(code, 0, "it was not spent: {said}");
}

fn a_damaged_membership_is_mended_by_joining_again(fixture: &mut Fixture) {
    let name = fixture.new_name();
    let host = fixture.mesh.join(&name);
    fixture.mesh.kill_agent(&name);
    let file = host.disk().join("data/membership.json");
    let whole = fs::read_to_string(&file).expect("the membership");
    for content in [
        "",
        "{}",
        &whole[..whole.len() / 2],
        &whole.replace("BEGIN", "BEGONE"),
    ] {
        fs::write(&file, content).expect("the membership is damaged");
        let mut agent = fixture.mesh.spawn_agent_at(&host, &host.disk().join("run"));
        assert_eq!(agent.wait(SOON), 1, "{}", agent.stderr());
        let said = agent.stderr();
        assert!(
            said.contains("membership.json is damaged") && said.contains("leno join"),
            "{said}"
        );
    }
    let token = fixture.mesh.token(&["--service", "cart"]);
    let mut process = fixture.mesh.spawn_join(&host, &token, &["--no-agent"]);
    assert_eq!(process.wait(SOON), 0, "{}", process.stderr());
    fixture.mesh.start_agent(&name);
}

fn a_disk_without_space_does_not_cost_the_token(fixture: &mut Fixture) {
    let name = fixture.new_name();
    let host = fixture.mesh.network.add(&name);
    let data = host.disk().join("data");
    fs::create_dir_all(&data).expect("a directory");
    let path = data.display().to_string();
    let mounted = host.exec(&[
        "mount",
        "-t",
        "tmpfs",
        "-o",
        "size=64k,mode=700",
        "tmpfs",
        &path,
    ]);
    if mounted.code != 0 {
        leno_testkit::skip!("no tmpfs can be mounted here: {}", mounted.stderr.trim());
    }
    let filler = data.join("filler");
    // It ends when the disk is full.
    drop(fs::write(&filler, vec![0; 1 << 20]));
    let token = fixture.mesh.token(&["--service", "cart"]);
    let mut process = fixture.mesh.spawn_join(&host, &token, &["--no-agent"]);
    let code = process.wait(SOON);
    let said = process.stderr();
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains(&path) && said.contains("No space left"),
        "{said}"
    );
    fs::remove_file(&filler).expect("space again");
    let mut process = fixture.mesh.spawn_join(&host, &token, &["--no-agent"]);
    assert_eq!(process.wait(SOON), 0, "{}", process.stderr());
    host.exec(&["umount", &path]).good();
}

fn a_port_that_is_taken_does_not_cost_the_token(fixture: &mut Fixture) {
    let name = fixture.new_name();
    let host = fixture.mesh.network.add(&name);
    let token = fixture.mesh.token(&["--service", "cart"]);
    for port in [15008, 15020] {
        let taken = host.listen(([0, 0, 0, 0], port).into());
        let taken = taken.expect("a listener");
        let mut process = fixture.mesh.spawn_join(&host, &token, &[]);
        assert_eq!(process.wait(SOON), 1);
        let said = process.stderr();
        let own = format!("port {port} is taken by");
        assert!(said.contains(&own) && !said.contains("joined"), "{said}");
        drop(taken);
    }
    let mut process = fixture.mesh.spawn_join(&host, &token, &[]);
    process.says("agent ready", SOON);
    process.signal(Signal::INT);
    assert_eq!(process.wait(SOON), 0);
    // Who tries the token again is told that the host needs none.
    let mut process = fixture.mesh.spawn_join(&host, &token, &[]);
    let ended = (process.wait(SOON), process.stderr());
    let joined = format!("this host is {name} of mesh");
    refused(ended, &["is spent", &joined, "leno agent starts its agent"]);
}

fn forget(path: &Path) {
    drop(fs::remove_dir_all(path));
    drop(fs::remove_file(path));
    assert!(!path.exists(), "{}", path.display());
}

fn a_low_port_that_an_ordinary_users_agent_may_not_have_is_told_with_the_way_out(
    fixture: &mut Fixture,
) {
    const USER: u32 = 4321;
    let setpriv = need!("setpriv");
    let host = fixture.mesh.network.add("low");
    let place = host.disk().join("place");
    fs::create_dir(&place).expect("a directory");
    std::os::unix::fs::chown(&place, Some(USER), Some(USER)).expect("it is the user's");
    let as_user = |words: &[&str]| {
        let mut command = Command::new(&setpriv);
        command
            .args([format!("--reuid={USER}"), format!("--regid={USER}")])
            .args(["--clear-groups", "--bounding-set=-all", "--inh-caps=-all"])
            .arg(leno_testkit::leno_binary())
            .args(words)
            .current_dir(&place);
        for variable in [
            "HOME",
            "XDG_RUNTIME_DIR",
            "XDG_DATA_HOME",
            "XDG_CONFIG_HOME",
        ] {
            command.env(variable, &place);
        }
        command
    };
    let mut up = host.spawn(&mut as_user(&["up", "--address", &host.v4.to_string()]));
    until("it is up, or may not", SOON, || {
        let ready = up.stderr().contains("Try:") || up.stdout().contains("Try:");
        (ready || up.ended().is_some()).then_some(())
    });
    if let Some(code) = up.ended() {
        leno_testkit::skip!("no agent of an ordinary user: {code}: {}", up.stderr());
    }
    let may = host.run(&mut as_user(&["run", "--", "true"]));
    if may.code == 4 {
        leno_testkit::skip!("{}", may.stderr.trim());
    }
    may.good();
    let publish = ["run", "--publish", "80:8080", "--", "true"];
    let refused = host.run(&mut as_user(&publish));
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    for said in ["port 80", "ip_unprivileged_port_start=80", "1024"] {
        assert!(refused.stderr.contains(said), "{said}: {}", refused.stderr);
    }
    up.signal(Signal::TERM);
    up.wait(SOON);
}

fn another_user_may_not_run_programs(fixture: &mut Fixture) {
    let setpriv = need!("setpriv");
    let a = fixture.mesh.host("a");
    let probe = a.run(Command::new(setpriv).args([
        "--reuid=4321",
        "--regid=4321",
        "--clear-groups",
        "true",
    ]));
    if probe.code != 0 {
        leno_testkit::skip!("no other user can be had here: {}", probe.stderr.trim());
    }
    let output = fixture.mesh.run(&a).user(4321).program(["true"]).to_end();
    assert_eq!(output.code, 4, "{}", output.stderr);
    assert!(output.stderr.contains("--allow-user"), "{}", output.stderr);
}
