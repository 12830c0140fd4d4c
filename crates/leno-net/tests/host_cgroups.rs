//! Programs on a shared network, told by their cgroups, and whose a captured connection is.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{assert_table, in_namespace, keep_everything_inside, loopback_listeners, of_family};
use leno_net::capture::{Cgroup, HostCgroups};
use leno_net::{cgroup, socket};
use tokio::net::TcpStream;

/// A cgroup that is removed when dropped.
struct Group(PathBuf, Cgroup);

impl Group {
    /// `None`, with the reason noted, where there is no cgroup v2 to write to.
    fn new(name: &str) -> Option<Self> {
        let made = cgroup::root().and_then(|root| {
            let path = root.join(format!("leno-test-{}-{name}", std::process::id()));
            let identity = cgroup::create(&path)?;
            Ok(Self(path, identity))
        });
        let tell = |error: &_| leno_testkit::skipped(&format!("no cgroup can be made: {error}"));
        made.inspect_err(tell).ok()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        cgroup::kill_all(&self.0).unwrap();
        // The dead leave a moment after they are killed.
        while std::fs::read_to_string(self.0.join("cgroup.procs"))
            .is_ok_and(|pids| !pids.is_empty())
        {
            std::thread::yield_now();
        }
        assert!(cgroup::remove(&self.0).unwrap());
        assert!(!cgroup::remove(&self.0).unwrap());
    }
}

/// A program in a cgroup that connects when told to.
struct Connector(Child);

impl Connector {
    fn start(group: Option<&Path>, to: SocketAddr) -> Self {
        // The shell moves itself, so that the socket is made inside.
        let move_in = group
            .map(|path| format!("echo $$ > {}/cgroup.procs; ", path.display()))
            .unwrap_or_default();
        let script = format!(
            "{move_in}exec 3<>/dev/tcp/{}/{} && echo connected && exec cat",
            to.ip(),
            to.port()
        );
        let child = Command::new("bash")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Connector {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn only_programs_of_the_named_cgroups_are_captured_and_known_by_one_query() {
    in_namespace(|| async {
        let (Some(group), Some(outside)) = (Group::new("in"), Group::new("out")) else {
            return;
        };
        keep_everything_inside();
        let (outbound_port, outbound) = loopback_listeners();
        HostCgroups {
            outbound_port,
            dns_port: 15053,
            cgroups: vec![group.1, group.1],
        }
        .install("leno")
        .unwrap();

        for to in ["240.240.0.5:80", "[2001:2::5]:80"].map(|to| to.parse::<SocketAddr>().unwrap()) {
            let connector = Connector::start(Some(&group.0), to);
            let (accepted, from) = of_family(&outbound, to.ip()).accept().await.unwrap();
            assert_eq!(socket::original_destination(&accepted).unwrap(), Some(to));
            let owner = socket::owner_of(from, to).unwrap().unwrap();
            assert_eq!(owner.cgroup_id, Some(group.1.id));
            assert_eq!(owner.uid, 0);
            let link = std::fs::read_link(format!("/proc/{}/fd/3", connector.0.id())).unwrap();
            assert_eq!(link.to_str().unwrap(), format!("socket:[{}]", owner.inode));
            assert_eq!(
                cgroup::of_process(connector.0.id().cast_signed()).unwrap(),
                group.0
            );
            drop(connector);
            assert_eq!(
                socket::owner_of(from, to).unwrap(),
                None,
                "nobody holds it any more"
            );
        }

        for path in [None, Some(&*outside.0)] {
            let to = "240.240.0.5:80".parse().unwrap();
            let mut connector = Connector::start(path, to);
            drop(connector.0.stdin.take());
            let mut text = String::new();
            connector
                .0
                .stdout
                .take()
                .unwrap()
                .read_to_string(&mut text)
                .unwrap();
            assert_eq!(
                text, "",
                "nothing listens there itself, and the connection is refused"
            );
        }
    });
}

#[test]
fn a_query_never_names_the_owner_of_another_socket() {
    in_namespace(|| async {
        let (port, listeners) = loopback_listeners();
        let client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (_accepted, from) = listeners[0].accept().await.unwrap();
        let mut query = socket::OwnerQuery::open().unwrap();
        let server = client.peer_addr().unwrap();
        assert!(query.owner_of(from, server).unwrap().is_some());
        // The kernel would answer with the listener for these.
        let elsewhere: SocketAddr = "127.0.0.1:1".parse().unwrap();
        assert_eq!(query.owner_of(server, elsewhere).unwrap(), None);
        assert_eq!(query.owner_of(elsewhere, server).unwrap(), None);
        assert!(query.owner_of(from, "[::1]:1".parse().unwrap()).is_err());
    });
}

#[test]
fn the_kernel_has_the_rules_that_were_meant() {
    in_namespace(|| async {
        let Some(group) = Group::new("rules") else {
            return;
        };
        HostCgroups {
            outbound_port: 15001,
            dns_port: 15053,
            cgroups: vec![],
        }
        .install("leno")
        .unwrap();
        assert_table(
            "chain captured {
                ip daddr 127.0.0.53 udp dport 53 redirect to :15053
                ip daddr 127.0.0.53 tcp dport 53 redirect to :15053
                ip daddr 127.0.0.0/8 accept
                ip6 daddr ::1 accept
                udp dport 53 redirect to :15053
                tcp dport 53 redirect to :15053
                meta l4proto tcp redirect to :15001
            }
            chain refuse_vips {
                ip daddr 240.240.0.0/16 meta l4proto udp reject with icmpx port-unreachable
                ip6 daddr 2001:2::/48 meta l4proto udp reject with icmpx port-unreachable
                ip daddr 240.240.0.0/16 icmp type echo-request reject with icmpx admin-prohibited
                ip6 daddr 2001:2::/48 icmpv6 type echo-request reject with icmpx admin-prohibited
            }
            chain output {
                type nat hook output priority -100; policy accept;
                meta mark 0x1ee0 accept
            }
            chain refuse {
                type filter hook output priority 0; policy accept;
                meta mark 0x1ee0 accept
            }",
        );
        HostCgroups {
            outbound_port: 15001,
            dns_port: 15053,
            cgroups: vec![group.1],
        }
        .install("leno")
        .unwrap();
        let Some((_, listed)) = common::output("nft", &["-n", "list", "table", "inet", "leno"])
        else {
            return;
        };
        let level = group.1.level;
        for rule in [
            format!("socket cgroupv2 level {level} @cgroups_{level} goto captured"),
            format!(
                "ip daddr 240.240.0.0/16 socket cgroupv2 level {level} @cgroups_{level} goto refuse_vips"
            ),
            format!(
                "ip6 daddr 2001:2::/48 socket cgroupv2 level {level} @cgroups_{level} goto refuse_vips"
            ),
        ] {
            assert!(listed.contains(&rule), "{rule} in {listed}");
        }
        // The tool shows an id by its path where it finds one.
        let name = group.0.file_name().unwrap().to_str().unwrap();
        assert!(
            listed.contains(name) || listed.contains(&group.1.id.to_string()),
            "{listed}"
        );
    });
}
