//! Names of services: they outlive their last workload and the control plane, end when somebody says so, and no
//! version's label takes one that was promised to others.

use std::{fs, os::unix::net::UnixListener, path::Path, process::Command};

use leno_e2e::{Backend, SOON, response};
use leno_testkit::{Mesh, need, suite, until, until_ok};

/// Host a serves `cart` and `late`, b calls; c may serve `pay` alone, and d `pay-api`.
struct Fixture {
    mesh: Mesh,
}

fn start() -> Fixture {
    let mut mesh = Mesh::with(&["a", "b"], &["cart", "late"]);
    for (name, service) in [("c", "pay"), ("d", "pay-api")] {
        let host = mesh.network.add(name);
        let token = mesh.token(&[&format!("--service={service}")]);
        let process = mesh.spawn_join(&host, &token, &[]);
        mesh.adopt_agent(name, process);
        mesh.wait_ready(name);
    }
    Fixture { mesh }
}

suite!(
    start,
    [
        a_name_outlives_its_last_workload_and_keeps_its_address,
        a_name_that_nobody_serves_is_deleted_and_one_that_is_served_is_not,
        a_name_is_known_before_its_host_is_back_from_the_control_planes_restart,
        a_version_makes_no_service_of_a_name_that_is_promised_to_others,
        names_are_found_where_the_hosts_programs_ask_a_daemon,
    ]
);

/// What `curl` prints of a call: status, and the reason of a refusal.
fn call(member: &leno_testkit::Member, name: &str) -> String {
    let url = format!("http://{name}/");
    let form = "%{http_code} %header{x-leno-refused}";
    let out = member.curl(&["-s", "-m", "10", "-o", "/dev/null", "-w", form, &url]);
    out.text().trim().to_owned()
}

fn a_name_outlives_its_last_workload_and_keeps_its_address(fixture: &mut Fixture) {
    let (a, b) = (fixture.mesh.host("a"), fixture.mesh.host("b"));
    let cart = fixture.mesh.run(&a).service("cart").port("80:8080").start();
    let backend = Backend::http(cart.listen(8080), |_| response(200, "", "cart"));
    let caller = fixture.mesh.run(&b).start();
    until("cart answers", SOON, || {
        call(&caller, "cart").starts_with("200").then_some(())
    });
    let address = caller.look_up("cart").expect("cart has an address");
    drop(backend);
    assert_eq!(cart.stop(), 143);
    until("nobody answers, by name", SOON, || {
        call(&caller, "cart").starts_with("503 UH").then_some(())
    });
    assert_eq!(caller.look_up("cart").expect("the name stays"), address);
    // Who never asked before learns the same.
    let stranger = fixture.mesh.run(&b).start();
    assert_eq!(stranger.look_up("cart").expect("the name stays"), address);
    let services = fixture.mesh.leno(&["get", "services"]).good().text();
    assert!(services.contains("cart"), "{services}");
    let cart = fixture.mesh.run(&a).service("cart").port("80:8080").start();
    let _backend = Backend::http(cart.listen(8080), |_| response(200, "", "cart"));
    until("cart answers again", SOON, || {
        call(&caller, "cart").starts_with("200").then_some(())
    });
    assert_eq!(caller.look_up("cart").expect("its address"), address);
}

fn a_name_that_nobody_serves_is_deleted_and_one_that_is_served_is_not(fixture: &mut Fixture) {
    let (a, b) = (fixture.mesh.host("a"), fixture.mesh.host("b"));
    let cart = fixture.mesh.run(&a).service("cart").port("80:8080").start();
    let _backend = Backend::http(cart.listen(8080), |_| response(200, "", "cart"));
    let caller = fixture.mesh.run(&b).start();
    until("cart answers", SOON, || {
        call(&caller, "cart").starts_with("200").then_some(())
    });
    let refused = fixture.mesh.leno(&["delete", "service", "cart"]);
    assert_ne!(refused.code, 0);
    let stderr = refused.stderr.clone();
    assert!(stderr.contains("workloads serve it"), "{stderr}");
    assert!(call(&caller, "cart").starts_with("200"));
    assert_eq!(cart.stop(), 143);
    until_ok("it is deleted", SOON, || {
        let deleted = fixture.mesh.leno(&["delete", "service", "cart"]);
        (deleted.code == 0).then_some(()).ok_or(deleted.stderr)
    });
    until("its name is gone", SOON, || {
        caller.look_up("cart").is_err().then_some(())
    });
    let again = fixture.mesh.leno(&["delete", "service", "cart"]);
    assert_ne!(again.code, 0, "{}", again.text());
}

fn a_name_is_known_before_its_host_is_back_from_the_control_planes_restart(fixture: &mut Fixture) {
    let (a, b) = (fixture.mesh.host("a"), fixture.mesh.host("b"));
    let late = fixture.mesh.run(&a).service("late").port("80:8081").start();
    let _backend = Backend::http(late.listen(8081), |_| response(200, "", "late"));
    let caller = fixture.mesh.run(&b).start();
    // Known where it is served; the caller's proxy has never heard of it.
    let address = until_ok("late has an address", SOON, || late.look_up("late"));
    until("the name is written down", SOON, || {
        let services = fixture.mesh.leno(&["get", "services"]).good().text();
        services.contains("late").then_some(())
    });
    fixture.mesh.kill_agent("a");
    fixture.mesh.kill_control_plane();
    fixture.mesh.start_control_plane();
    until_ok("the name is known", SOON, || caller.look_up("late"));
    assert_eq!(caller.look_up("late").expect("its address"), address);
    let answer = call(&caller, "late");
    assert!(answer.starts_with("503 "), "{answer}");
    fixture.mesh.start_agent("a");
    until("late answers", SOON, || {
        call(&caller, "late").starts_with("200").then_some(())
    });
    assert_eq!(caller.look_up("late").expect("its address"), address);
}

fn a_version_makes_no_service_of_a_name_that_is_promised_to_others(fixture: &mut Fixture) {
    let mesh = &fixture.mesh;
    let (b, c, d) = (mesh.host("b"), mesh.host("c"), mesh.host("d"));
    let serve = |host, version: &str| {
        let member = mesh.run(host).service("pay").version(version);
        member.port("80:8080").start()
    };
    let (api, v2) = (serve(&c, "api"), serve(&c, "v2"));
    let _backends =
        [&api, &v2].map(|of| Backend::http(of.listen(8080), |_| response(200, "", "pay")));
    let caller = mesh.run(&b).start();
    for name in ["pay", "pay-v2"] {
        until(&format!("{name} answers"), SOON, || {
            call(&caller, name).starts_with("200").then_some(())
        });
    }
    assert!(caller.look_up("pay-api").is_err(), "promised to others");
    let status = mesh.leno(&["status"]).text();
    assert!(
        status.contains("makes no service default/pay-api"),
        "{status}"
    );
    // Whom it was promised to has it.
    let own = mesh.run(&d).service("pay-api").port("80:8080").start();
    let _backend = Backend::http(own.listen(8080), |_| response(200, "", "own"));
    until_ok("pay-api answers", SOON, || {
        let out = caller.curl(&["-s", "-m", "10", "http://pay-api/"]);
        let body = out.text();
        (body == "own").then_some(()).ok_or(body)
    });
}

/// Files of this test's own mount namespace in place of the machine's, until it is dropped.
struct Mounted(Vec<&'static str>);

impl Mounted {
    fn add(&mut self, arguments: &[&str], target: &'static str) {
        let mut mount = Command::new("mount");
        let status = mount.args(arguments).arg(target).status();
        assert!(status.expect("mount").success(), "{target}");
        self.0.push(target);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for target in self.0.iter().rev() {
            drop(Command::new("umount").arg("-l").arg(target).status());
        }
    }
}

fn names_are_found_where_the_hosts_programs_ask_a_daemon(fixture: &mut Fixture) {
    const NSCD: &str = "/var/run/nscd";
    need!("getent");
    let (a, b) = (fixture.mesh.host("a"), fixture.mesh.host("b"));
    let late = fixture.mesh.run(&a).service("late").port("80:8080").start();
    let mut mounted = Mounted(Vec::new());
    // As Arch has it, with nobody who would answer by DNS.
    let switch = b.disk().join("nsswitch.conf");
    fs::write(
        &switch,
        "passwd: files\nhosts: resolve [!UNAVAIL=return] files\n",
    )
    .expect("a file");
    mounted.add(
        &["--bind", &switch.display().to_string()],
        "/etc/nsswitch.conf",
    );
    let mut script = "getent ahosts late && grep ^hosts: /etc/nsswitch.conf".to_owned();
    let nscd = fs::metadata(NSCD).is_ok_and(|found| found.is_dir());
    let _daemon = nscd.then(|| {
        mounted.add(&["-t", "tmpfs", "none"], NSCD);
        let socket = Path::new(NSCD).join("socket");
        script.push_str(" && ! test -S /var/run/nscd/socket");
        UnixListener::bind(socket).expect("a socket")
    });
    let own = fixture.mesh.run(&b).program(["sh", "-c", &script]);
    let output = own.to_end().good();
    let text = output.text();
    assert!(
        text.contains("240.240.") && text.ends_with("hosts: files dns\n"),
        "{text}"
    );
    assert!(!output.stderr.contains("past DNS"), "{}", output.stderr);
    // The machine's files are as they were.
    let seen = b.exec(&[
        "sh",
        "-c",
        "cat /etc/nsswitch.conf; test -S /var/run/nscd/socket; echo $?",
    ]);
    let expected = format!("files\n{}\n", i32::from(!nscd));
    assert!(seen.text().ends_with(&expected), "{}", seen.text());
    drop(late);
}
