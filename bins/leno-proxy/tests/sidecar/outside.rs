//! Callers from outside the mesh at a container's captured namespace: let in, until a policy takes mutual TLS only.

use std::{
    fs,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use leno_net::link;
use leno_testkit::{need, until, until_ok};

use super::{Fixture, SOON, answered, each_connection, say_who};

pub(super) fn callers_from_outside_are_let_in(fixture: &mut Fixture) {
    need!("curl");
    let counted = |host: &str| {
        fixture
            .mesh
            .metric(host, "leno_connections_inbound_total", &[])
    };
    let before = counted("pod");
    for address in [IpAddr::from(fixture.pod.v4), fixture.pod.v6.into()] {
        let url = format!("http://{}/", SocketAddr::new(address, 8080));
        for version in ["--http1.0", "--http1.1", "--http2-prior-knowledge"] {
            let words = ["curl", "-sS", "-m", "5", version, &url];
            answered(fixture.outside.exec(&words)).expect("an answer");
        }
        for port in [2525, 9999] {
            let stream = fixture.outside.connect(SocketAddr::new(address, port));
            let mut stream = stream.expect("a connection");
            let mut said = [0; 6];
            stream.read_exact(&mut said).expect("it speaks first");
            assert_eq!(&said, b"220 \r\n", "{address}:{port}");
            stream.write_all(b"NOOP").expect("bytes are sent");
            stream.read_exact(&mut said[..4]).expect("an answer");
            assert_eq!(&said[..4], b"NOOP", "{address}:{port}");
        }
    }
    until("all of them came by the proxy", SOON, || {
        (counted("pod") - before >= 10.0).then_some(())
    });
}

const STRICT: &str = "apiVersion: leno.dev/v1alpha1
kind: AuthenticationPolicy
metadata: {name: cart}
spec: {selector: {matchLabels: {app: cart}}, mtls: {mode: STRICT}}
";

/// What a caller from outside is answered over HTTP; 0 where it gets no answer.
fn status(fixture: &Fixture, address: IpAddr) -> String {
    let url = format!("http://{}/", SocketAddr::new(address, 8080));
    let words = ["curl", "-s", "-m", "5", "-o", "/dev/null", "-w"];
    let words = [&words[..], &["%{http_code}", &url]].concat();
    fixture.outside.exec(&words).text().trim().to_owned()
}

/// Whether a program that speaks first is heard from outside.
fn speaks(fixture: &Fixture, address: IpAddr, port: u16) -> bool {
    let Ok(mut stream) = fixture.outside.connect(SocketAddr::new(address, port)) else {
        return false;
    };
    stream.set_read_timeout(Some(SOON)).expect("a socket");
    // It may be reset while this is written.
    let _sent = stream.write_all(b"NOOP");
    is_heard(&mut stream)
}

/// Whether a word comes before the end of a connection. That neither comes is no answer.
fn is_heard(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 6]) {
        Ok(bytes) => bytes > 0,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => false,
        Err(error) => panic!("neither a word nor the end: {error}"),
    }
}

pub(super) fn a_strict_container_is_reached_in_clear_at_no_port(fixture: &mut Fixture) {
    need!("curl");
    let addresses = [IpAddr::from(fixture.pod.v4), fixture.pod.v6.into()];
    let is_open = |fixture: &Fixture, address| {
        let speak = speaks(fixture, address, 2525) && speaks(fixture, address, 9999);
        (status(fixture, address) == "200" && speak).then_some(())
    };
    for address in addresses {
        until("it takes plaintext", SOON, || is_open(fixture, address));
    }
    let warned = fixture.mesh.apply(STRICT, &["--wait"]).good();
    let outside = fixture.outside.v4.to_string();
    assert!(warned.stderr.contains(&outside), "{}", warned.stderr);
    for address in addresses {
        until("requests are refused", SOON, || {
            (status(fixture, address) == "403").then_some(())
        });
        for port in [2525, 9999] {
            assert!(!speaks(fixture, address, port), "{address}:{port}");
        }
    }
    until_ok("members are served", SOON, || {
        answered(fixture.caller.curl(&["http://cart/"]))
    });
    until("each refusal is counted", SOON, || {
        let reason = ["reason=\"PT\""];
        let refused = fixture.mesh.metric("pod", "leno_refused_total", &reason);
        (refused >= 6.0).then_some(())
    });
    let delete = ["delete", "authenticationpolicy", "cart"];
    fixture.mesh.leno(&delete).good();
    for address in addresses {
        until("it takes plaintext again", SOON, || {
            is_open(fixture, address)
        });
    }
}

pub(super) fn strict_holds_at_every_address_and_for_what_is_open(fixture: &mut Fixture) {
    // An address that nobody told the mesh of, as a second network of the container has.
    let untold = IpAddr::from([10, 77, 0, 99]);
    let add = || link::add_address("eth0", untold, 24);
    fixture.pod.within(add).expect("a second address");
    let address = IpAddr::from(fixture.pod.v4);
    until("both take plaintext", SOON, || {
        let open = status(fixture, untold) == "200" && speaks(fixture, untold, 9999);
        (open && speaks(fixture, address, 9999)).then_some(())
    });
    let mut open = Vec::new();
    for port in [2525, 9999] {
        let stream = fixture.outside.connect(SocketAddr::new(address, port));
        let mut stream = stream.expect("a connection");
        stream.read_exact(&mut [0; 6]).expect("it speaks first");
        open.push(stream);
    }
    fixture.mesh.apply(STRICT, &["--wait"]).good();
    for mut stream in open {
        assert!(!is_heard(&mut stream), "it goes on");
    }
    for address in [address, untold] {
        assert_eq!(status(fixture, address), "403", "{address}");
        for port in [2525, 9999] {
            assert!(!speaks(fixture, address, port), "{address}:{port}");
        }
    }
    let delete = ["delete", "authenticationpolicy", "cart"];
    fixture.mesh.leno(&delete).good();
    until("all is open again", SOON, || {
        (status(fixture, untold) == "200" && speaks(fixture, address, 9999)).then_some(())
    });
}

pub(super) fn nothing_comes_in_before_the_proxy_knows_who_may(fixture: &mut Fixture) {
    fixture.mesh.apply(STRICT, &["--wait"]).good();
    fixture.end_proxy();
    fixture.mesh.kill_control_plane();
    let run = fixture.pod.disk().join("run");
    for entry in fs::read_dir(&run).expect("the run directory") {
        let path = entry.expect("an entry").path();
        let gone = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        gone.expect("it is removed");
    }
    let mut proxy = fixture.pod.spawn(&mut super::proxy(&fixture.pod, &[]));
    until("the namespace is captured", SOON, || {
        assert_eq!(proxy.ended(), None, "{}", proxy.stderr());
        let taken = proxy.stderr().contains("go through the mesh");
        (fixture.captured() && taken).then_some(())
    });
    let mut waiting = Vec::new();
    for port in [2525, 9999] {
        let at = SocketAddr::new(fixture.pod.v4.into(), port);
        waiting.push(fixture.outside.connect(at).expect("a connection"));
    }
    fixture.mesh.start_control_plane();
    until("the workload is in the mesh", SOON, || {
        let said = proxy.stderr();
        said.contains("a workload is in the mesh").then_some(())
    });
    fixture.proxy = Some(proxy);
    until("requests are refused", SOON, || {
        (status(fixture, fixture.pod.v4.into()) == "403").then_some(())
    });
    // Who is let in hears the program: what it said before the proxy knew comes before the end.
    for mut stream in waiting {
        assert!(!is_heard(&mut stream), "in clear");
    }
    until("the control plane takes changes", SOON, || {
        let delete = ["delete", "authenticationpolicy", "cart"];
        (fixture.mesh.leno(&delete).code == 0).then_some(())
    });
    until_ok("members are served again", SOON, || {
        answered(fixture.caller.curl(&["http://cart/"]))
    });
    until("it takes plaintext again", SOON, || {
        (status(fixture, fixture.pod.v4.into()) == "200").then_some(())
    });
}

/// Packets that the kernel of the container dropped because they were for others, of both families.
fn not_forwarded(fixture: &Fixture) -> [u64; 2] {
    let tables = || {
        let net = "/proc/thread-self/net";
        Ok([
            fs::read_to_string(format!("{net}/snmp"))?,
            fs::read_to_string(format!("{net}/snmp6"))?,
        ])
    };
    let [v4, v6] = fixture.pod.within(tables).expect("the kernel's counters");
    let mut ip = v4.lines().filter(|line| line.starts_with("Ip:"));
    let (names, values) = ip.next().zip(ip.next()).expect("names and values");
    let v4 = names.split(' ').zip(values.split(' '));
    let mut v4 = v4.filter(|(name, _)| *name == "InAddrErrors");
    let mut v6 = v6.lines().filter_map(|line| line.split_once(' '));
    let v6 = v6.find(|(name, _)| *name == "Ip6InAddrErrors");
    [v4.next(), v6].map(|of| {
        of.and_then(|(_, value)| value.trim().parse().ok())
            .expect("a number")
    })
}

pub(super) fn nothing_beyond_the_container_is_reached_through_it(fixture: &mut Fixture) {
    const PORT: u16 = 9999;
    let forward = |fixture: &Fixture, on: &str| {
        let set = || {
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", on)?;
            fs::write("/proc/sys/net/ipv4/ip_forward", on)
        };
        fixture.pod.within(set).expect("settings of the pod");
    };
    // A network behind the container, and a neighbour that takes it for a router.
    let beyond = fixture.mesh.network.add_outside("beyond");
    each_connection(&beyond, PORT, say_who);
    let (v4, v6) = (
        Ipv4Addr::new(10, 99, 0, 1),
        Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1),
    );
    let pod = &fixture.pod;
    let ways: [(IpAddr, u8, IpAddr, IpAddr); 2] = [
        (v4.into(), 32, beyond.v4.into(), pod.v4.into()),
        (v6.into(), 128, beyond.v6.into(), pod.v6.into()),
    ];
    for (far, prefix, next, container) in ways {
        let address = beyond.within(|| link::add_address("lo", far, prefix));
        let on = pod.within(|| link::add_route((far, prefix), Some(next), None));
        let through = || link::add_route((far, prefix), Some(container), None);
        let through = fixture.outside.within(through);
        address.and(on).and(through).expect("a way there");
    }
    let dropped = not_forwarded(fixture);
    for (far, ..) in ways {
        let to = SocketAddr::new(far, PORT);
        let call = || TcpStream::connect_timeout(&to, Duration::from_secs(1));
        let error = fixture.outside.within(call).expect_err("a relay");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{to}: {error}");
    }
    let now = not_forwarded(fixture);
    let both = now[0] > dropped[0] && now[1] > dropped[1];
    assert!(both, "it came to the container: {dropped:?} {now:?}");
    // A container that is a router on purpose: its kernel forwards, and the proxy sees none of it.
    forward(fixture, "1");
    for (far, ..) in ways {
        let stream = fixture.outside.connect(SocketAddr::new(far, PORT));
        let mut seen = String::new();
        let read = stream.expect("a way there").read_to_string(&mut seen);
        read.expect("a line");
        let own = match far.is_ipv4() {
            true => IpAddr::from(fixture.outside.v4),
            false => fixture.outside.v6.into(),
        };
        assert_eq!(seen.trim(), own.to_string(), "its caller is no proxy");
    }
    forward(fixture, "0");
    for (far, prefix, next, container) in ways {
        let on = pod.within(|| link::delete_route((far, prefix), Some(next), None));
        let through = || link::delete_route((far, prefix), Some(container), None);
        on.and(fixture.outside.within(through))
            .expect("they were there");
    }
    fixture.mesh.network.remove("beyond");
}
