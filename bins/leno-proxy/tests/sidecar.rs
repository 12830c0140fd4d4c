//! A container's namespace in the mesh: the real leno-proxy beside a program that knows nothing of it.

#[path = "sidecar/outside.rs"]
mod outside;

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

use outside::{
    a_strict_container_is_reached_in_clear_at_no_port, callers_from_outside_are_let_in,
    nothing_beyond_the_container_is_reached_through_it,
    nothing_comes_in_before_the_proxy_knows_who_may,
    strict_holds_at_every_address_and_for_what_is_open,
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
    each_connection(&pod, 2525, speak_first);
    // Registered by nobody: none of the mesh's business.
    each_connection(&pod, 9999, speak_first);
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
        self.start_proxy_with(&[]);
    }

    fn end_proxy(&mut self) {
        let mut proxy = self.proxy.take().expect("it runs");
        proxy.signal(Signal::TERM);
        assert_eq!(proxy.wait(SOON), 0, "{}", proxy.stderr());
    }

    fn start_proxy_with(&mut self, more: &[(&str, &str)]) {
        let mut proxy = self.pod.spawn(&mut proxy(&self.pod, more));
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
        .env(
            "LENO_PORTS",
            "80:8080/http,25:2525,443:8443/tls,81:8181/http,82:8182",
        )
        .envs(more.iter().copied());
    command
}

/// A program that answers every request with the payload.
fn serve(pod: &Host) {
    each_connection(pod, 8080, answer);
}

/// A program that does this with each connection to a port, in both families.
fn each_connection(host: &Host, port: u16, serve: fn(TcpStream)) {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let listener: TcpListener = host.listen(any).expect("the program listens");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
}

/// A server that speaks first, and then says once more what it is told.
fn speak_first(mut stream: TcpStream) {
    let mut said = [0; 4];
    // A caller that has gone is the caller's affair.
    drop(
        stream
            .write_all(b"220 \r\n")
            .and_then(|()| stream.read_exact(&mut said))
            .and_then(|()| stream.write_all(&said)),
    );
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

fn tls_from_outside_reaches_the_program_as_it_came(fixture: &mut Fixture) {
    let openssl = need!("openssl");
    let path = |name: &str| fixture.pod.disk().join(name).display().to_string();
    let (key, chain) = (path("own.key"), path("own.pem"));
    let subject = ["-nodes", "-days", "1", "-subj", "/CN=own.test"];
    let made = ["openssl", "req", "-x509", "-newkey", "rsa:2048"];
    let files = ["-keyout", &key, "-out", &chain];
    fixture
        .pod
        .exec(&[&made[..], &subject, &files].concat())
        .good();
    let mut server = Command::new(&openssl);
    server.args(["s_server", "-accept", "8443", "-www"]);
    let _server = fixture
        .pod
        .spawn(server.args(["-key", &key, "-cert", &chain]));
    for address in [IpAddr::from(fixture.pod.v4), fixture.pod.v6.into()] {
        let to = SocketAddr::new(address, 8443).to_string();
        // Offers of another mesh's are the program's to answer.
        for alpn in ["h2", "istio,istio-peer-exchange,h2"] {
            until_ok("the program's own certificate is shown", SOON, || {
                let mut client = Command::new(&openssl);
                client.args(["s_client", "-connect", &to, "-alpn", alpn]);
                let output = fixture.outside.run(&mut client);
                if output.text().replace(' ', "").contains("CN=own.test") {
                    Ok(())
                } else {
                    Err(output)
                }
            });
        }
    }
}

fn a_dial_that_comes_back_to_its_own_proxy_is_ended_at_its_first_turn(fixture: &mut Fixture) {
    no_dial_turns_twice(fixture, &["redirect to :15001", "redirect to :15006"]);
}

fn no_dial_turns_twice(fixture: &Fixture, ways: &[&str]) {
    let (_curl, _nft) = (need!("curl"), need!("nft"));
    let looped = || {
        let labels = ["reason=\"LOOP\""];
        fixture.mesh.metric("pod", "leno_refused_total", &labels)
    };
    for way in ways {
        answered(fixture.caller.curl(&["http://cart/"])).expect("an answer");
        let before = looped();
        // Somebody's rules that take the proxy's own connections to the program back to it, mark or no mark.
        let rules = format!(
            "table inet somebodys {{\nchain output {{\ntype nat hook output priority -90\n\
             tcp dport 8080 {way}\n}}\n}}"
        );
        fixture.pod.exec(&["nft", &rules]).good();
        let since = std::time::Instant::now();
        let output = fixture.caller.curl(&["-i", "http://cart/"]);
        let took = since.elapsed();
        fixture
            .pod
            .exec(&["nft", "delete table inet somebodys"])
            .good();
        let text = output.text();
        assert!(!text.contains(PAYLOAD), "{way}: {text}");
        assert!(took < Duration::from_secs(5), "{way}: {took:?}");
        until("it is counted", SOON, || (looped() > before).then_some(()));
        let turns = looped() - before;
        assert_eq!(turns, 1.0, "{way}: {text}");
        until_ok("without them it is called again", SOON, || {
            answered(fixture.caller.curl(&["http://cart/"]))
        });
    }
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

fn what_is_excluded_goes_past_the_mesh_and_nothing_else_does(fixture: &mut Fixture) {
    let (setpriv, bash) = (need!("setpriv"), need!("bash"));
    const IN: (u16, u16) = (9101, 9102);
    const OUT: (u16, u16) = (9201, 9202);
    for (host, (left, taken)) in [(&fixture.pod, IN), (&fixture.outside, OUT)] {
        each_connection(host, left, speak_first);
        each_connection(host, taken, speak_first);
    }
    let elsewhere = fixture.mesh.network.add_outside("elsewhere");
    each_connection(&elsewhere, OUT.1, speak_first);
    fixture.end_proxy();
    fixture.start_proxy_with(&[
        ("LENO_EXCLUDE_INBOUND_PORTS", "9101"),
        ("LENO_EXCLUDE_OUTBOUND_PORTS", "9201"),
        ("LENO_EXCLUDE_OUTBOUND_UIDS", "4321"),
        (
            "LENO_EXCLUDE_OUTBOUND_IP_RANGES",
            &format!("{}/32,{}/128", elsewhere.v4, elsewhere.v6),
        ),
    ]);
    // As a user, whose every connection goes past the mesh, or none.
    let as_user = |uid: u32, to: SocketAddr| {
        let script = format!(
            "exec 3<>/dev/tcp/{}/{}; read -r line <&3; echo $line",
            to.ip(),
            to.port()
        );
        let mut command = Command::new(&setpriv);
        command.args([format!("--reuid={uid}"), "--clear-groups".into()]);
        let output = fixture.pod.run(command.arg(&bash).args(["-c", &script]));
        assert!(
            output.text().contains("220"),
            "{uid} {to}: {}",
            output.stderr
        );
    };
    let greeted = |from: &Host, to: SocketAddr| {
        let mut stream = from.connect(to).expect("a connection");
        let mut said = [0; 6];
        stream.read_exact(&mut said).expect("it speaks first");
        assert_eq!(&said, b"220 \r\n", "{to}");
    };
    // By the proxy once, and past it as often as there are ways: each is counted before its greeting is passed on.
    for v6 in [false, true] {
        let at = |host: &Host, port| {
            let address = if v6 { host.v6.into() } else { host.v4.into() };
            SocketAddr::new(address, port)
        };
        let counted = || {
            ["inbound", "outbound"].map(|way| {
                let name = format!("leno_connections_{way}_total");
                fixture.mesh.metric("pod", &name, &[])
            })
        };
        let (pod, outside) = (&fixture.pod, &fixture.outside);
        let before = counted();
        greeted(outside, at(pod, IN.0));
        greeted(pod, at(outside, OUT.0));
        greeted(pod, at(&elsewhere, OUT.1));
        greeted(outside, at(pod, IN.1));
        greeted(pod, at(outside, OUT.1));
        as_user(4321, at(outside, OUT.1));
        let after = [before[0] + 1.0, before[1] + 1.0];
        until("those of the mesh are counted", SOON, || {
            let now = counted();
            (now[0] >= after[0] && now[1] >= after[1]).then_some(())
        });
        assert_eq!(counted(), after);
        // Of another user it is taken.
        as_user(4322, at(outside, OUT.1));
        until("it is counted", SOON, || {
            (counted() == [after[0], after[1] + 1.0]).then_some(())
        });
    }
    fixture.end_proxy();
    fixture.start_proxy();
}

/// Says first as whom it sees its caller.
fn say_who(mut stream: TcpStream) {
    let seen = stream.peer_addr().expect("its caller's address");
    let said = format!("{}\n", seen.ip().to_canonical());
    // A caller that has gone is the caller's affair.
    drop(stream.write_all(said.as_bytes()));
}

/// Answers one request with it.
fn answer_who(mut stream: TcpStream) {
    let seen = stream.peer_addr().expect("its caller's address");
    let said = seen.ip().to_canonical().to_string();
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.extend(byte),
            Ok(_) | Err(_) => return,
        }
    }
    let length = said.len();
    let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{said}");
    // A caller that has gone is the caller's affair.
    drop(stream.write_all(text.as_bytes()));
}

/// What the namespace has of routing rules and tables of nftables, in whatever order.
fn installed(pod: &Host) -> Vec<String> {
    let shown = [
        &["ip", "-4", "rule"][..],
        &["ip", "-6", "rule"],
        &["nft", "list", "tables"],
    ];
    let text = shown.map(|words| pod.exec(words).text()).concat();
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn callers_are_seen_at_their_own_addresses_where_that_is_asked_for(fixture: &mut Fixture) {
    let _needed = (need!("curl"), need!("nft"), need!("ip"));
    each_connection(&fixture.pod, 8181, answer_who);
    each_connection(&fixture.pod, 8182, say_who);
    // Registered by nobody.
    each_connection(&fixture.pod, 8183, say_who);
    let strict = || fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "1");
    fixture.pod.within(strict).expect("a setting of the pod");
    fixture.end_proxy();
    let before = installed(&fixture.pod);
    let settings = [("LENO_PRESERVE_SOURCE", "true")];
    fixture.start_proxy_with(&settings);
    let by_name = |from: &dyn Fn(&str) -> Output, who: &str| {
        until_ok("it sees its caller", SOON, || {
            let output = from("http://cart:81/");
            match output.text() == who {
                true => Ok(()),
                false => Err(output),
            }
        });
    };
    let caller = fixture.mesh.host("a").v4.to_string();
    by_name(&|url| fixture.caller.curl(&[url]), &caller);
    let own = fixture.pod.v4.to_string();
    let itself = |url: &str| fixture.pod.exec(&["curl", "-sS", "-m", "5", url]);
    by_name(&itself, &own);
    let from_outside = |fixture: &Fixture| {
        for v6 in [false, true] {
            let of = |host: &Host| -> IpAddr { if v6 { host.v6.into() } else { host.v4.into() } };
            let who = of(&fixture.outside).to_string();
            for port in [8182, 8183] {
                let to = SocketAddr::new(of(&fixture.pod), port);
                let mut stream = fixture.outside.connect(to).expect("a connection");
                let mut said = String::new();
                stream.read_to_string(&mut said).expect("a line");
                assert_eq!(said.trim(), who, "{to}");
            }
            let url = format!("http://{}/", SocketAddr::new(of(&fixture.pod), 8181));
            let output = fixture.outside.exec(&["curl", "-sS", "-m", "5", &url]);
            assert_eq!(output.text(), who, "{}", output.stderr);
        }
    };
    from_outside(fixture);
    // What the program calls is captured as before, also where it has just been called from.
    let url = format!("http://{}:8184/", fixture.outside.v4);
    each_connection(&fixture.outside, 8184, answer);
    let calls = || answered(fixture.pod.exec(&["curl", "-sS", "-m", "5", &url]));
    until_ok("it calls back", SOON, calls);
    // By loopback nothing of another's address is answered, so that there is no way back at all.
    let way = format!("meta nfproto ipv4 dnat ip to {}:15006", fixture.pod.v4);
    no_dial_turns_twice(fixture, &[&way]);
    // Somebody flushes it; then the proxy crashes, and its successor takes it over.
    for words in [
        &["nft", "delete", "table", "inet", "leno-source"][..],
        &["ip", "rule", "del", "priority", "1000"],
        &["ip", "-6", "rule", "del", "priority", "1000"],
    ] {
        let with = installed(&fixture.pod);
        fixture.pod.exec(words).good();
        until("it is restored", SOON, || {
            (installed(&fixture.pod) == with).then_some(())
        });
    }
    from_outside(fixture);
    fixture.proxy.take().expect("it runs").kill();
    fixture.start_proxy_with(&settings);
    from_outside(fixture);
    fixture.end_proxy();
    assert_eq!(installed(&fixture.pod), before, "nothing is left");
    fixture.start_proxy();
}

fn a_successor_that_is_told_otherwise_serves_what_it_is_told(fixture: &mut Fixture) {
    need!("curl");
    each_connection(&fixture.pod, 8383, answer);
    let ports = "80:8080/http,83:8383/http";
    for crashes in [true, false] {
        if crashes {
            fixture.proxy.take().expect("it runs").kill();
            fixture.start_proxy_with(&[("LENO_PORTS", ports)]);
        } else {
            fixture.end_proxy();
            fixture.start_proxy();
        }
        let outcome = |output: Output| match answered(output) {
            Ok(()) if crashes => Ok(()),
            Err(output) if !crashes && output.text().contains("has no port 83") => Ok(()),
            Ok(()) => Err("it is served as before".to_owned()),
            Err(output) => Err(output.text()),
        };
        until_ok("what it was told holds", SOON, || {
            outcome(fixture.caller.curl(&["http://cart:83/"]))
        });
        until_ok("and the rest", SOON, || {
            answered(fixture.caller.curl(&["http://cart/"]))
        });
    }
}

fn a_clean_end_gives_the_namespace_back(fixture: &mut Fixture) {
    assert!(fixture.captured());
    fixture.end_proxy();
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
        tls_from_outside_reaches_the_program_as_it_came,
        a_strict_container_is_reached_in_clear_at_no_port,
        strict_holds_at_every_address_and_for_what_is_open,
        nothing_comes_in_before_the_proxy_knows_who_may,
        nothing_beyond_the_container_is_reached_through_it,
        a_dial_that_comes_back_to_its_own_proxy_is_ended_at_its_first_turn,
        rules_outlive_a_crash_and_nothing_leaves_until_a_successor_takes_over,
        rules_that_another_program_flushed_are_restored_and_said,
        what_is_excluded_goes_past_the_mesh_and_nothing_else_does,
        callers_are_seen_at_their_own_addresses_where_that_is_asked_for,
        a_successor_that_is_told_otherwise_serves_what_it_is_told,
        a_wrong_environment_is_told_whole_before_anything_is_touched,
        a_clean_end_gives_the_namespace_back,
    ]
);
