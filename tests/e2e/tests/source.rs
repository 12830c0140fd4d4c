//! Programs that see their callers' addresses, not the proxy's (`leno run --preserve-source`): through strangers that
//! decide and log by them.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    process::Command,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use leno_e2e::{
    Backend, SOON, nginx,
    peer::{Tunnel, identity, uid_of},
    resolver_of_ipv6, response,
};
use leno_testkit::{
    Host, Member, Mesh, Output, Process, Signal, need, skip, suite, until, until_ok,
};

const USER: u32 = 4321;
const HTTP: u16 = 8080;
const HTTP2: u16 = 8081;
const BYTES: u16 = 8082;

/// `web` and `db` on a see their callers' addresses, `plain` on a does not. They are called from b, which has `back`
/// too, from c, from d, which has no IPv4 address, and from outside the mesh.
struct Fixture {
    mesh: Mesh,
    web: Member,
    db: Member,
    plain: Member,
    back: Member,
    callers: [Member; 2],
    outside: Rc<Host>,
    nginx: Vec<Process>,
}

fn start() -> Fixture {
    let services = ["web", "db", "plain", "back", "mine", "hosted"];
    let mut mesh = Mesh::builder().services(&services).start();
    resolver_of_ipv6(&mesh);
    mesh.join_with("a", &[&format!("--allow-user={USER}=mine,default")]);
    mesh.join("b");
    mesh.join("c");
    mesh.join_ipv6_only("d");
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    // The strictest reverse path filter: answers are not to depend on it.
    let strict = || std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "1");
    a.within(strict).expect("a setting of host a");
    let web = mesh.run(&a).service("web").preserve_source();
    let web = [
        format!("80:{HTTP}"),
        format!("81:{HTTP2}"),
        format!("82:{BYTES}"),
    ]
    .iter()
    .fold(web, |web, port| web.port(port));
    let web = web
        .option("publish", "8090:8080")
        .option("publish", "8092:8082");
    let web = web.option("check", "none").start();
    let db = mesh.run(&a).service("db").port("3306").preserve_source();
    let db = db.option("check", "none").start();
    let plain = mesh.run(&a).service("plain").port("80:8080").start();
    let back = mesh.run(&b).service("back").port("80:8080").start();
    let callers = ["c", "d"].map(|host| mesh.run(&mesh.host(host)).start());
    let outside = mesh.network.add_outside("outside");
    Fixture {
        nginx: leno_testkit::program("nginx")
            .map(|program| nginx_of(&web, &program, &a))
            .into_iter()
            .collect(),
        mesh,
        web,
        db,
        plain,
        back,
        callers,
        outside,
    }
}

/// nginx, which says whom it sees.
fn nginx_of(web: &Member, program: &std::path::Path, host: &Host) -> Process {
    let says = "location / { return 200 '$remote_addr'; }";
    let server = |port: u16, more: &str| {
        format!("server {{ listen {port}{more}; listen [::]:{port}{more}; {says} }}")
    };
    let http = server(HTTP, "") + &server(HTTP2, " http2");
    nginx(web, program, &host.disk().join("nginx"), &http)
}

/// A program that answers requests with the address it sees.
fn observer(listener: TcpListener) -> Backend {
    Backend::connections(listener, |mut wire| {
        let seen = wire.stream().peer_addr().expect("its caller's address");
        let said = seen.ip().to_canonical().to_string();
        while wire.try_message().is_ok() {
            if wire.try_send(response(200, "", &said)).is_err() {
                return;
            }
        }
    })
}

/// A program that says first what address it sees.
fn greeter(listener: TcpListener) -> Backend {
    Backend::connections(listener, |mut wire| {
        let seen = wire.stream().peer_addr().expect("its caller's address");
        let said = format!("{}\n", seen.ip().to_canonical());
        // A caller that has gone is the caller's affair.
        drop(wire.try_send(said));
    })
}

fn any(port: u16) -> SocketAddr {
    ([0; 8], port).into()
}

fn is_seen_as(what: &str, who: impl Into<IpAddr>, mut ask: impl FnMut() -> Output) {
    let who = who.into().to_string();
    until_ok(what, SOON, || {
        let output = ask();
        if output.code == 0 && output.text().trim() == who {
            Ok(())
        } else {
            Err(format!("not {who}: {}{}", output.text(), output.stderr))
        }
    });
}

fn nginx_sees_its_callers_addresses(fixture: &mut Fixture) {
    let _needed = (need!("nginx"), need!("curl"));
    assert_eq!(fixture.nginx.len(), 1);
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| fixture.mesh.host(name));
    let [of_c, of_d] = &fixture.callers;
    // Twice around: connections are kept, and each is one caller's own.
    for _ in 0..2 {
        for (version, port) in [("--http1.1", 80), ("--http2-prior-knowledge", 81)] {
            let url = format!("http://web:{port}/");
            let (what, back) = (format!("{version} to {port}"), &fixture.back);
            is_seen_as(&what, b.v4, || back.curl(&[version, &url]));
            is_seen_as(&what, c.v4, || of_c.curl(&[version, &url]));
            is_seen_as(&what, d.v6, || of_d.curl(&[version, &url]));
            // On its own host, and the program itself.
            is_seen_as(&what, a.v4, || fixture.plain.curl(&[version, &url]));
            is_seen_as(&what, a.v4, || fixture.web.curl(&[version, &url]));
        }
        for to in [IpAddr::from(a.v4), a.v6.into()] {
            let url = format!("http://{}/", SocketAddr::new(to, 8090));
            let from: IpAddr = match to {
                IpAddr::V4(_) => fixture.outside.v4.into(),
                IpAddr::V6(_) => fixture.outside.v6.into(),
            };
            let ask = || fixture.outside.exec(&["curl", "-sS", "-m", "5", &url]);
            is_seen_as("from outside the mesh", from, ask);
        }
    }
    // The host's loopback is the host, not the program itself.
    let ask = || a.exec(&["curl", "-sS", "-m", "5", "http://127.0.0.1:8090/"]);
    is_seen_as("from the host", a.v4, ask);
    // Nobody is who he says.
    let claims = [
        "x-forwarded-for: 192.0.2.9",
        "x-real-ip: 192.0.2.9",
        "x-leno-from: 192.0.2.9",
    ];
    let claims = claims.map(|field| ["-H", field]).concat();
    let ask = || fixture.back.curl(&[&claims[..], &["http://web/"]].concat());
    is_seen_as("whatever it claims", b.v4, ask);
}

fn who_does_not_ask_sees_the_proxy(fixture: &mut Fixture) {
    need!("curl");
    let a = fixture.mesh.host("a").v4;
    let _program = observer(fixture.plain.listen_on(any(HTTP)));
    for caller in [&fixture.back, &fixture.web] {
        is_seen_as("the proxy", a, || caller.curl(&["http://plain/"]));
    }
}

fn bytes_come_from_their_callers_and_a_dial_back_is_captured(fixture: &mut Fixture) {
    let (a, b) = (fixture.mesh.host("a"), fixture.mesh.host("b"));
    let d = fixture.mesh.host("d");
    let _program = greeter(fixture.web.listen_on(any(BYTES)));
    let greeted = |from: &Member| {
        let line = from.try_connect("web", 82).map(|mut wire| wire.line());
        line.map_err(|error| error.to_string())
    };
    let [_, of_d] = &fixture.callers;
    let seen = until_ok("it is called", SOON, || greeted(&fixture.back));
    assert_eq!(seen, b.v4.to_string());
    assert_eq!(greeted(of_d), Ok(d.v6.to_string()));
    for (to, from) in [
        (IpAddr::from(a.v4), IpAddr::from(fixture.outside.v4)),
        (a.v6.into(), fixture.outside.v6.into()),
    ] {
        let stream = fixture.outside.connect((to, 8092).into());
        let mut wire = leno_testkit::Wire::new(stream.expect("a connection"));
        assert_eq!(wire.line(), from.to_string());
    }
    // Back to the address it saw: through the mesh, as anywhere.
    let _program = observer(fixture.back.listen_on(any(HTTP)));
    let name = "leno_connections_outbound_total";
    let before = fixture.mesh.metric("a", name, &[]);
    let url = format!("http://{seen}:{HTTP}/");
    is_seen_as("the proxy", b.v4, || fixture.web.curl(&[&url]));
    until("it was captured", SOON, || {
        (fixture.mesh.metric("a", name, &[]) > before).then_some(())
    });
}

fn mariadb_grants_by_its_callers_addresses(fixture: &mut Fixture) {
    let (server, client, install) = (
        need!("mariadbd"),
        need!("mariadb"),
        need!("mariadb-install-db"),
    );
    let [b, c, d] = ["b", "c", "d"].map(|name| fixture.mesh.host(name));
    let data = fixture.mesh.host("a").disk().join("mariadb");
    let path = data.display().to_string();
    let installed = fixture.db.run(Command::new(install).args([
        "--user=root",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        &format!("--datadir={path}"),
    ]));
    if installed.code != 0 {
        skip!(
            "mariadb-install-db does not work here: {}",
            installed.stderr
        );
    }
    let grants = data.join("grants.sql");
    let text = [IpAddr::from(b.v4), d.v6.into()].map(|of| format!("CREATE USER guest@'{of}';\n"));
    std::fs::write(&grants, text.concat()).expect("the grants are written");
    let _running = fixture.db.spawn(Command::new(server).args([
        "--no-defaults",
        "--user=root",
        "--bind-address=0.0.0.0,::",
        "--port=3306",
        "--innodb-buffer-pool-size=8M",
        "--skip-name-resolve",
        &format!("--init-file={}", grants.display()),
        &format!("--datadir={path}"),
        &format!("--socket={path}/socket"),
        &format!("--pid-file={path}/pid"),
    ]));
    let ask = |from: &Member| {
        let mut command = Command::new(&client);
        command.args(["--no-defaults", "-h", "db", "-P", "3306", "--protocol=tcp"]);
        command.args(["-u", "guest", "--connect-timeout=5", "-N"]);
        from.run(command.args(["-e", "select user()"]))
    };
    let [of_c, of_d] = &fixture.callers;
    for (from, address) in [(&fixture.back, IpAddr::from(b.v4)), (of_d, d.v6.into())] {
        until_ok("MariaDB lets it in", Duration::from_secs(30), || {
            let output = ask(from);
            if output.text().trim() == format!("guest@{address}") {
                Ok(())
            } else {
                Err(format!("{}{}", output.text(), output.stderr))
            }
        });
    }
    let refused = ask(of_c);
    let said = format!("Host '{}' is not allowed to connect", c.v4);
    assert!(refused.stderr.contains(&said), "{}", refused.stderr);
}

fn an_ordinary_users_program_sees_them_too(fixture: &mut Fixture) {
    need!("curl");
    let [a, b, d] = ["a", "b", "d"].map(|name| fixture.mesh.host(name));
    let probe = a.run(Command::new("setpriv").args([
        &format!("--reuid={USER}"),
        "--clear-groups",
        "unshare",
        "-Urn",
        "true",
    ]));
    if probe.code != 0 {
        skip!(
            "an ordinary user can make no namespaces here: {}",
            probe.stderr.trim()
        );
    }
    let mine = fixture.mesh.run(&a).user(USER).service("mine");
    let mine = mine.port("80:8080").preserve_source().start();
    let _program = observer(mine.listen_on(any(HTTP)));
    let [_, of_d] = &fixture.callers;
    let ask = |from: &Member| from.curl(&["http://mine/"]);
    is_seen_as("by IPv4", b.v4, || ask(&fixture.back));
    is_seen_as("by IPv6", d.v6, || ask(of_d));
    is_seen_as("by itself", a.v4, || ask(&mine));
}

fn what_cannot_come_from_its_caller_is_refused(fixture: &mut Fixture) {
    need!("curl");
    let (a, d) = (fixture.mesh.host("a"), fixture.mesh.host("d"));
    let mine = fixture
        .mesh
        .run(&a)
        .service("mine")
        .port("80:8080")
        .preserve_source()
        .start();
    // Of IPv4 alone, on loopback alone, which is tried second in a network of its own.
    let program = observer(mine.listen_on(([127, 0, 0, 1], HTTP).into()));
    let b = fixture.mesh.host("b").v4;
    is_seen_as("by IPv4", b, || fixture.back.curl(&["http://mine/"]));
    let [_, of_d] = &fixture.callers;
    let output = of_d.curl(&["-i", "http://mine/"]);
    let text = output.text();
    let told = format!(
        "from its caller's address {}, which is to be preserved",
        d.v6
    );
    assert!(
        text.contains("503") && text.contains("x-leno-refused: UF"),
        "{text}"
    );
    until("the agent tells why", SOON, || {
        let page = fixture.mesh.admin("a", "/refusals").to_string();
        page.contains(&told).then_some(())
    });
    fixture.mesh.agent("a").says(&told, SOON);
    drop(program);
}

fn a_foreign_peers_stream_comes_from_that_peer(fixture: &mut Fixture) {
    let envoy = need!("envoy");
    let (b, a) = (fixture.mesh.host("b"), fixture.mesh.host("a").v4);
    let stranger = fixture.mesh.network.add("s");
    let own = identity(&b, &stranger, "own");
    let to = Tunnel {
        host: a,
        uid: &uid_of(&fixture.mesh, "web"),
        identity: "spiffe://default.leno/ns/default/sa/web",
        roots: &own.roots,
        authority: &format!("{a}:{BYTES}"),
    };
    let _program = greeter(fixture.web.listen_on(any(BYTES)));
    let _envoy = to.by_envoy(&stranger, &envoy, &own);
    let stream = stranger.connect(([127, 0, 0, 1], 9000).into());
    let mut wire = leno_testkit::Wire::new(stream.expect("a connection"));
    assert_eq!(wire.line(), stranger.v4.to_string());
}

fn a_caller_with_many_addresses_fills_nothing(fixture: &mut Fixture) {
    const ADDRESSES: usize = 600;
    /// `app_sources` of docs/limits.md.
    const CEILING: usize = 512;
    let (python, _ip) = (need!("python3"), need!("ip"));
    let (a, outside) = (fixture.mesh.host("a"), Rc::clone(&fixture.outside));
    let many = "2001:db8:77::".parse().expect("an address");
    let route = || leno_net::link::add_route((many, 64), Some(outside.v6.into()), None);
    a.within(route).expect("a route to all of them");
    let mine = fixture.mesh.run(&a).service("mine").port("80:8080/http");
    let mine = mine.option("publish", "8099:8080").preserve_source();
    let mine = mine.option("check", "none").start();
    let open = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&open);
    let _program = Backend::connections(mine.listen_on(any(HTTP)), move |mut wire| {
        counted.fetch_add(1, Ordering::SeqCst);
        while wire.try_message().is_ok() {
            if wire.try_send(response(200, "", "yes")).is_err() {
                break;
            }
        }
        counted.fetch_sub(1, Ordering::SeqCst);
    });
    // Each address calls once.
    let script = format!(
        "import socket, subprocess
own = ['2001:db8:77::%x' % (n + 1) for n in range({ADDRESSES})]
lines = ''.join('address add %s/128 dev lo nodad\\n' % one for one in own)
subprocess.run(['ip', '-6', '-batch', '-'], input=lines.encode(), check=True)
for one in own:
    caller = socket.create_connection(('{}', 8099), 10, (one, 0))
    caller.sendall(b'GET / HTTP/1.1\\r\\nhost: mine\\r\\n\\r\\n')
    assert b' 200 ' in caller.recv(4096), one
    caller.close()
",
        a.v6
    );
    let limited = || {
        let labels = ["limit=\"app_sources\""];
        fixture
            .mesh
            .metric("a", "leno_limit_reached_total", &labels)
    };
    let before = limited();
    outside
        .run(Command::new(python).args(["-c", &script]))
        .good();
    until("no more are kept than may be", SOON, || {
        (open.load(Ordering::SeqCst) <= CEILING).then_some(())
    });
    until("making room is counted", SOON, || {
        (limited() - before >= (ADDRESSES - CEILING) as f64).then_some(())
    });
}

/// An ordinary user's own agent, which can enter nobody's network: `leno run` makes its sockets.
fn an_ordinary_users_agent_needs_no_privilege_for_it(fixture: &mut Fixture) {
    let (setpriv, nginx) = (need!("setpriv"), need!("nginx"));
    let host = fixture.mesh.network.add("e");
    let place = host.disk().join("place");
    std::fs::create_dir(&place).expect("a directory");
    std::os::unix::fs::chown(&place, Some(USER), Some(USER)).expect("it is the user's");
    let as_user = |words: &[&str]| {
        let mut command = Command::new(&setpriv);
        command
            .args([format!("--reuid={USER}"), format!("--regid={USER}")])
            .args(["--clear-groups", "--bounding-set=-all", "--inh-caps=-all"])
            .arg(leno_testkit::leno_binary())
            .args(words)
            .current_dir(&place)
            .env("HOME", &place)
            .env("XDG_RUNTIME_DIR", &place)
            .env("XDG_DATA_HOME", &place)
            .env("XDG_CONFIG_HOME", &place);
        host.spawn(&mut command)
    };
    let file = place.join("nginx.conf");
    let dir = place.display();
    let text = format!(
        "daemon off; master_process off; pid {dir}/pid; error_log stderr; events {{ }}
         http {{ access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p;
           fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
           server {{ listen {HTTP}; listen [::]:{HTTP}; return 200 '$remote_addr'; }} }}"
    );
    std::fs::write(&file, text).expect("nginx's configuration");
    let (v4, v6) = (host.v4.to_string(), host.v6.to_string());
    let mut up = as_user(&["up", "--address", &v4, "--address", &v6]);
    until("it is up, or may not", SOON, || {
        let ready = up.stderr().contains("Try:") || up.stdout().contains("Try:");
        (ready || up.ended().is_some()).then_some(())
    });
    let run = ["run", "--publish", "8090:8080", "--preserve-source", "--"];
    let program = [
        &nginx.display().to_string(),
        "-c",
        &file.display().to_string(),
    ]
    .map(String::from);
    let program = program.each_ref().map(String::as_str);
    let mut running = as_user(&[&run[..], &program, &["-e", "stderr"]].concat());
    until("it runs, or may not", SOON, || {
        (running.stderr().contains('▶') || running.ended().is_some()).then_some(())
    });
    if running.ended() == Some(4) {
        skip!("{}", running.stderr());
    }
    for (to, from) in [
        (IpAddr::from(host.v4), IpAddr::from(fixture.outside.v4)),
        (host.v6.into(), fixture.outside.v6.into()),
    ] {
        let url = format!("http://{}/", SocketAddr::new(to, 8090));
        let ask = || fixture.outside.exec(&["curl", "-sS", "-m", "5", &url]);
        is_seen_as("from outside the mesh", from, ask);
    }
    running.signal(Signal::TERM);
    running.wait(SOON);
    up.signal(Signal::TERM);
    up.wait(SOON);
}

fn a_restarted_agent_keeps_it(fixture: &mut Fixture) {
    let _program = greeter(fixture.web.listen_on(any(BYTES)));
    let b = fixture.mesh.host("b").v4.to_string();
    fixture.mesh.kill_agent("a");
    fixture.mesh.start_agent("a");
    // More than are in stock: new ones are as the first.
    let seen = until_ok("it is called again", SOON, || {
        let wire = fixture.back.try_connect("web", 82);
        wire.and_then(|mut wire| wire.try_until(b"\n"))
    });
    assert_eq!(String::from_utf8_lossy(&seen).trim(), b);
    for _ in 0..80 {
        assert_eq!(fixture.back.connect("web", 82).line(), b);
    }
}

/// An agent of this host that takes over from the one that runs.
fn take_over(host: &Host) -> Process {
    let of = |name: &str| format!("--{name}-dir={}", host.disk().join(name).display());
    let mut command = Command::new(leno_testkit::leno_binary());
    command
        .args(["agent", "--takeover", "--dns=127.0.0.1:9"])
        .args([of("data"), of("run"), format!("--host={}", host.name)])
        .args(
            host.addresses()
                .into_iter()
                .map(|address| format!("--address={address}")),
        );
    host.spawn(&mut command)
}

fn a_program_on_the_hosts_network_sees_them_and_leaves_nothing_behind(fixture: &mut Fixture) {
    need!("curl");
    let [a, b, d] = ["a", "b", "d"].map(|name| fixture.mesh.host(name));
    let installed = || {
        let rules = [["ip", "-4", "rule"], ["ip", "-6", "rule"]];
        let rules = rules.map(|words| a.exec(&words).text()).concat();
        let tables =
            leno_testkit::program("nft").map(|_| a.exec(&["nft", "list", "tables"]).text());
        (rules, tables)
    };
    let before = installed();
    let run = fixture
        .mesh
        .run(&a)
        .option("network", "host")
        .option("check", "none");
    let run = run.service("hosted").port("80:8095").preserve_source();
    let mut process = run
        .program(["sh", "-c", "echo up; exec sleep infinity"])
        .spawn();
    let began = Instant::now();
    while !process.stdout().contains("up") {
        if process.ended() == Some(4) {
            return leno_testkit::skipped(&process.stderr());
        }
        assert!(began.elapsed() < SOON, "{}", process.stderr());
        std::thread::sleep(Duration::from_millis(5));
    }
    let program = observer(a.listen(any(8095)).expect("a listener"));
    let [_, of_d] = &fixture.callers;
    let ask = |from: &Member| from.curl(&["http://hosted/"]);
    is_seen_as("by IPv4", b.v4, || ask(&fixture.back));
    is_seen_as("by IPv6", d.v6, || ask(of_d));
    is_seen_as("on its own host", a.v4, || ask(&fixture.plain));
    // A successor takes over what its predecessor installed.
    fixture.mesh.kill_agent("a");
    fixture.mesh.start_agent("a");
    let agent = fixture.mesh.agent("a");
    agent.says("a workload is in the mesh workload=\"hosted", SOON);
    is_seen_as("after a restart", b.v4, || ask(&fixture.back));
    let successor = take_over(&a);
    until("the predecessor stops", SOON, || {
        fixture.mesh.agent("a").ended()
    });
    fixture.mesh.adopt_agent("a", successor);
    is_seen_as("by a successor", b.v4, || ask(&fixture.back));
    let agent = fixture.mesh.agent("a");
    agent.says("a workload is in the mesh workload=\"hosted", SOON);
    drop(program);
    process.signal(Signal::TERM);
    assert_eq!(process.wait(SOON), 128 + 15);
    until("rules and tables are as before", SOON, || {
        (installed() == before).then_some(())
    });
}

suite!(
    start,
    [
        nginx_sees_its_callers_addresses,
        who_does_not_ask_sees_the_proxy,
        bytes_come_from_their_callers_and_a_dial_back_is_captured,
        mariadb_grants_by_its_callers_addresses,
        an_ordinary_users_program_sees_them_too,
        an_ordinary_users_agent_needs_no_privilege_for_it,
        a_caller_with_many_addresses_fills_nothing,
        what_cannot_come_from_its_caller_is_refused,
        a_foreign_peers_stream_comes_from_that_peer,
        a_program_on_the_hosts_network_sees_them_and_leaves_nothing_behind,
        a_restarted_agent_keeps_it,
    ]
);
