//! The test kit itself: what it claims to see, it sees. No mesh here.

use std::{io::Read, net::SocketAddr, time::Duration};

use leno_testkit::{Capture, Network, PAYLOAD, Signal, Wire, suite, until};

suite!(
    Network::new,
    [
        a_capture_sees_what_crosses_in_clear_in_both_families,
        a_host_reaches_hosts_outside_of_its_network,
        a_process_is_ended_and_its_output_kept,
    ]
);

fn a_capture_sees_what_crosses_in_clear_in_both_families(network: &mut Network) {
    let (a, b) = (network.add("a"), network.add("b"));
    for to in [
        SocketAddr::from((b.v4, 7000)),
        SocketAddr::from((b.v6, 7000)),
    ] {
        let capture = Capture::start(&[PAYLOAD.as_bytes()]);
        let listener = b.listen(to).expect("a listener");
        let mut client = Wire::new(a.connect(to).expect("a connection"));
        client.send(PAYLOAD);
        client.finish();
        let mut text = String::new();
        let (mut server, _) = listener.accept().expect("a connection");
        server.read_to_string(&mut text).expect("a text");
        assert_eq!(text, PAYLOAD);
        assert!(capture.count(PAYLOAD.as_bytes()) > 0);
        assert!(capture.to(to.ip(), 7000) > 0);
    }
}

fn a_host_reaches_hosts_outside_of_its_network(network: &mut Network) {
    let (inside, outside) = (network.add("inside"), network.add_outside("outside"));
    for to in [
        SocketAddr::from((outside.v4, 7001)),
        SocketAddr::from((outside.v6, 7001)),
    ] {
        let listener = outside.listen(to).expect("a listener");
        let client = inside.connect(to).expect("a connection");
        let (_, from) = listener.accept().expect("a connection");
        assert_eq!(from, client.local_addr().expect("our address"));
    }
}

fn a_process_is_ended_and_its_output_kept(network: &mut Network) {
    let host = network.add("p");
    assert_eq!(host.exec(&["sh", "-c", "echo out; exit 7"]).code, 7);
    let mut process =
        host.spawn(std::process::Command::new("sh").args(["-c", "echo ready >&2; sleep 100"]));
    process.says("ready", Duration::from_secs(10));
    process.signal(Signal::TERM);
    assert_eq!(process.wait(Duration::from_secs(10)), 128 + 15);
    until("its output is there", Duration::from_secs(5), || {
        process.stderr().contains("ready").then_some(())
    });
}
