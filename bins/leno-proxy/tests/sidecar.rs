//! A container's namespace in the mesh: the real leno-proxy beside a program that knows nothing of it.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    rc::Rc,
    time::Duration,
};

use leno_net::{capture, link};
use leno_testkit::{
    Capture, Host, Member, Mesh, Output, PAYLOAD, Process, Signal, need, suite, until, until_ok,
};

/// A condition of the mesh comes true within this.
const SOON: Duration = Duration::from_secs(10);
/// The proxy's table.
const TABLE: &str = "leno";

/// Host `pod` is a container's namespace, `caller` runs on host `a`, and `outside` has no proxy.
struct Fixture {
    mesh: Mesh,
    pod: Rc<Host>,
    outside: Rc<Host>,
    caller: Member,
    proxy: Option<Process>,
}

fn start() -> Fixture {
    let mut mesh = Mesh::with(&["a"], &["caller"]);
    let a = mesh.host("a");
    let caller = mesh.run(&a).account("caller").start();
    let pod = mesh.network.add("pod");
    // As containers have them: what is redirected needs a route first.
    for (any, via) in [
        (IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(a.v4)),
        (IpAddr::from(Ipv6Addr::UNSPECIFIED), IpAddr::from(a.v6)),
    ] {
        let added = pod.within(|| link::add_route((any, 0), Some(via), None));
        added.expect("a default route");
    }
    let outside = mesh.network.add_outside("outside");
    let token = mesh.token(&["--service=cart"]);
    fs::write(pod.disk().join("token"), token).expect("the token is written");
    serve(&pod);
    let mut fixture = Fixture {
        mesh,
        pod,
        outside,
        caller,
        proxy: None,
    };
    fixture.start_proxy();
    fixture
}

impl Fixture {
    fn start_proxy(&mut self) {
        let mut proxy = self.pod.spawn(&mut proxy(&self.pod, &[]));
        until("the workload is in the mesh", SOON, || {
            assert_eq!(proxy.ended(), None, "{}", proxy.stderr());
            let said = proxy.stderr();
            said.contains("a workload is in the mesh").then_some(())
        });
        self.proxy = Some(proxy);
    }

    fn captured(&self) -> bool {
        let exists = || capture::exists(TABLE).map_err(io::Error::other);
        self.pod.within(exists).expect("tables can be listed")
    }
}

fn answered(output: Output) -> Result<(), Output> {
    if output.text().contains(PAYLOAD) {
        Ok(())
    } else {
        Err(output)
    }
}

/// leno-proxy as a container starts it: with an environment of its own.
fn proxy(pod: &Host, more: &[(&str, &str)]) -> Command {
    let disk = pod.disk();
    let mut command = Command::new(env!("CARGO_BIN_EXE_leno-proxy"));
    command
        .env_clear()
        .env("LENO_TOKEN_FILE", disk.join("token"))
        .env("LENO_DATA_DIR", disk.join("data"))
        .env("LENO_RUN_DIR", disk.join("run"))
        .env("LENO_HOST", "pod")
        .env("LENO_ADDRESSES", format!("{},{}", pod.v4, pod.v6))
        .env("LENO_CAPTURE", "namespace")
        .env("LENO_SERVICE", "cart")
        .env("LENO_PORTS", "80:8080/http")
        .envs(more.iter().copied());
    command
}

/// A program that answers every request with the payload.
fn serve(pod: &Host) {
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080));
    let listener: TcpListener = pod.listen(any).expect("the program listens");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
}

fn answer(mut stream: TcpStream) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.extend(byte),
            Ok(_) | Err(_) => return,
        }
    }
    let length = PAYLOAD.len();
    let text = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{PAYLOAD}"
    );
    // A caller that has gone is the caller's affair.
    drop(stream.write_all(text.as_bytes()));
}

fn a_container_is_called_by_name_and_nothing_crosses_in_clear(fixture: &mut Fixture) {
    need!("curl");
    let capture = Capture::start(&[PAYLOAD.as_bytes()]);
    until_ok("the workload is called", SOON, || {
        answered(fixture.caller.curl(&["http://cart/"]))
    });
    for _ in 0..5 {
        answered(fixture.caller.curl(&["http://cart/"])).expect("an answer");
    }
    assert!(capture.to(fixture.pod.v4, 15008) + capture.to(fixture.pod.v6, 15008) > 0);
    capture.assert_no_cleartext(PAYLOAD.as_bytes());
}

fn a_container_calls_by_name_itself_included(fixture: &mut Fixture) {
    need!("curl");
    until_ok("it reaches itself", SOON, || {
        let words = ["curl", "-sS", "-m", "5", "http://cart/"];
        answered(fixture.pod.exec(&words))
    });
}

fn an_address_of_the_mesh_that_nobody_has_is_refused_not_called(fixture: &mut Fixture) {
    need!("curl");
    let url = format!("http://{}:8080/", Ipv4Addr::new(10, 77, 0, 250));
    let output = fixture.pod.exec(&["curl", "-sS", "-i", "-m", "5", &url]);
    assert!(
        output.text().contains("x-leno-refused: UD"),
        "{}",
        output.text()
    );
}

fn callers_from_outside_are_let_in(fixture: &mut Fixture) {
    need!("curl");
    let url = format!("http://{}:8080/", fixture.pod.v4);
    let output = fixture.outside.exec(&["curl", "-sS", "-m", "5", &url]);
    answered(output).expect("an answer");
}

fn rules_outlive_a_crash_and_nothing_leaves_until_a_successor_takes_over(fixture: &mut Fixture) {
    need!("curl");
    fixture.proxy.take().expect("it runs").kill();
    assert!(fixture.captured());
    // Somebody who would answer in clear.
    serve(&fixture.outside);
    let url = format!("http://{}:8080/", fixture.outside.v4);
    let words = ["curl", "-sS", "-m", "5", &url];
    let output = fixture.pod.exec(&words);
    assert_ne!(output.code, 0, "{}", output.text());
    // Without a token: it goes on as who it was.
    fs::remove_file(fixture.pod.disk().join("token")).expect("the token was there");
    fixture.start_proxy();
    until_ok("the outside is reached again", SOON, || {
        answered(fixture.pod.exec(&words))
    });
    until_ok("the workload is called again", SOON, || {
        answered(fixture.caller.curl(&["http://cart/"]))
    });
}

fn rules_that_another_program_flushed_are_restored_and_said(fixture: &mut Fixture) {
    need!("nft");
    need!("curl");
    let list = ["nft", "list", "table", "inet", TABLE];
    let rules = fixture.pod.exec(&list).text();
    assert!(rules.contains("redirect to"), "{rules}");
    for script in ["flush table inet leno", "flush ruleset"] {
        let flushed = fixture.pod.exec(&["nft", script]);
        assert_eq!(flushed.code, 0, "{}", flushed.text());
        until(script, SOON, || {
            (fixture.pod.exec(&list).text() == rules).then_some(())
        });
    }
    let said = fixture.proxy.as_ref().expect("it runs").stderr();
    assert!(said.contains("somebody removed capture rules"), "{said}");
    until_ok("the workload reaches the outside", SOON, || {
        let url = format!("http://{}:8080/", fixture.outside.v4);
        answered(fixture.pod.exec(&["curl", "-sS", "-m", "5", &url]))
    });
}

fn a_wrong_environment_is_told_whole_before_anything_is_touched(fixture: &mut Fixture) {
    let wrong = [
        ("LENO_PORTS", "80:x"),
        ("LENO_HOST", "Pod_1"),
        ("LENO_CAPTURES", "namespace"),
    ];
    let output = fixture.outside.run(&mut proxy(&fixture.outside, &wrong));
    assert_eq!(output.code, 2);
    for expected in [
        "LENO_PORTS: \"80:x\"",
        "LENO_HOST: \"Pod_1\"",
        "LENO_CAPTURES: there is no such variable; did you mean LENO_CAPTURE?",
    ] {
        assert!(output.stderr.contains(expected), "{}", output.stderr);
    }
    assert!(!fixture.outside.disk().join("data").exists());
}

fn a_clean_end_gives_the_namespace_back(fixture: &mut Fixture) {
    let mut proxy = fixture.proxy.take().expect("it runs");
    assert!(fixture.captured());
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait(SOON), 0, "{}", proxy.stderr());
    assert!(!fixture.captured());
    let status = fixture.mesh.leno(&["status"]);
    assert_eq!(status.code, 0, "{}", status.stderr);
}

suite!(
    start,
    [
        a_container_is_called_by_name_and_nothing_crosses_in_clear,
        a_container_calls_by_name_itself_included,
        an_address_of_the_mesh_that_nobody_has_is_refused_not_called,
        callers_from_outside_are_let_in,
        rules_outlive_a_crash_and_nothing_leaves_until_a_successor_takes_over,
        rules_that_another_program_flushed_are_restored_and_said,
        a_wrong_environment_is_told_whole_before_anything_is_touched,
        a_clean_end_gives_the_namespace_back,
    ]
);
