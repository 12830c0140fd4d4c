//! What the tests in namespaces share: each runs on a thread with a network namespace of its own.

#![allow(dead_code, reason = "each test binary uses some of it")]

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use leno_net::{arena, link, netns, socket};
use tokio::net::{TcpListener, UdpSocket};

/// The namespace's own addresses.
pub(crate) const V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub(crate) const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 2);

/// Longer than anything here takes; reached only by a failure.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Runs `f` on a thread in a new network namespace. An ordinary user's test runs again as root of namespaces of its
/// own; where there are none, it is skipped.
pub(crate) fn in_namespace<F: Future<Output = ()>>(f: impl FnOnce() -> F + Send + 'static) {
    if !netns::has_admin_capability() {
        return again_as_root_of_an_arena();
    }
    let in_an_arena = std::env::var_os(arena::LIFELINE_VARIABLE).is_some();
    if in_an_arena && let Ok(lifeline) = arena::lifeline() {
        std::thread::spawn(move || {
            arena::wait_for_end(&lifeline);
            std::process::exit(1);
        });
    }
    // Whatever is skipped in it is known by the test's own name.
    let thread = std::thread::Builder::new().name(leno_testkit::current_test());
    let thread = thread.spawn(move || {
        netns::unshare_net().expect("a network namespace");
        link::loopback_up().expect("lo up");
        run(f());
    });
    if let Err(panic) = thread.expect("a thread").join() {
        std::panic::resume_unwind(panic);
    }
}

fn again_as_root_of_an_arena() {
    let test = leno_testkit::current_test();
    let program = std::env::current_exe().expect("this program");
    let mut line = vec![program.into_os_string()];
    line.extend(["--exact", &test, "--nocapture"].map(OsString::from));
    let variables: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    match arena::spawn_init(&line, &variables, true) {
        Ok(arena) => assert_eq!(arena.wait().expect("our child"), 0, "{test} in an arena"),
        Err(error) => leno_testkit::skipped(&format!("no namespaces can be made here: {error}")),
    }
}

/// Runs `future` on a runtime of this thread, with an end.
pub(crate) fn run(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        tokio::time::timeout(LONG, future)
            .await
            .expect("it ends in time")
    });
}

/// Gives the namespace its addresses and keeps everything in it.
pub(crate) fn keep_everything_inside() {
    link::add_address("lo", V4.into(), 32).expect("an IPv4 address");
    link::add_address("lo", V6.into(), 128).expect("an IPv6 address");
    link::add_local_default(Some(V4), Some(V6)).expect("the local default routes");
}

/// Listeners with the same port on two addresses.
pub(crate) fn listeners(v4: Ipv4Addr, v6: Ipv6Addr) -> (u16, [TcpListener; 2]) {
    let first = socket::listen_tcp((v4, 0).into(), 64).expect("an IPv4 listener");
    let port = first.local_addr().expect("its address").port();
    let second = socket::listen_tcp((v6, port).into(), 64).expect("an IPv6 listener");
    (
        port,
        [first, second].map(|listener| TcpListener::from_std(listener).expect("a listener")),
    )
}

pub(crate) fn loopback_listeners() -> (u16, [TcpListener; 2]) {
    listeners(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST)
}

pub(crate) fn udp(addr: SocketAddr) -> UdpSocket {
    UdpSocket::from_std(socket::bind_udp(addr).expect("a UDP socket")).expect("a UDP socket")
}

/// Panics unless table `inet leno` is what the `nft` tool makes of `rules`. Compared as that tool lists both, whatever
/// its version.
pub(crate) fn assert_table(rules: &str) {
    let Some((_, installed)) = output("nft", &["list", "table", "inet", "leno"]) else {
        return;
    };
    let (success, text) = output("nft", &[&format!("table inet meant {{ {rules}\n}}")])
        .expect("nft ran a moment ago");
    assert!(success, "{text}");
    let (_, meant) =
        output("nft", &["list", "table", "inet", "meant"]).expect("nft ran a moment ago");
    assert_eq!(
        installed,
        meant.replace("table inet meant", "table inet leno")
    );
}

/// What a program prints, or `None` when it is not installed.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Option<(bool, String)> {
    match Command::new(program).args(arguments).output() {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            Some((
                output.status.success(),
                String::from_utf8_lossy(&text).into_owned(),
            ))
        }
        Err(_) => {
            leno_testkit::skipped(&format!("in part: {program} is not installed"));
            None
        }
    }
}

pub(crate) fn any(of: IpAddr) -> SocketAddr {
    match of {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// `listeners[0]` for IPv4, `[1]` for IPv6.
pub(crate) fn of_family<T>(pair: &[T; 2], ip: IpAddr) -> &T {
    let [v4, v6] = pair;
    if ip.is_ipv4() { v4 } else { v6 }
}
