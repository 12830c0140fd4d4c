//! Programs that stay in the host's network (`leno run --network host`): captured by their cgroup.
//!
//! Owns, for each such program, its listeners on loopback, one nftables table, and the removal of both. The rules
//! outlive the agent, so that nothing escapes in clear while it is away; its successor takes them over. Another
//! program may flush them (Debian's nftables service begins with `flush ruleset`): the agent counts them once a second,
//! restores the table and says so. In between, a new connection leaves in clear: at most one second.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use leno_dataplane::{AppDial, CaptureSockets};
use leno_net::{
    NetError,
    capture::{self, HostCgroups, Installed, VIP_RANGE_V4, VIP_RANGE_V6},
    cgroup, link, socket,
};
use leno_types::WorkloadUid;
use serde::{Deserialize, Serialize};

use crate::{
    handover::{Handle, Inherited},
    hosted::{LISTEN_BACKLOG, Unfit},
    protocol::Why,
};

/// Every table's name begins so.
const TABLE_PREFIX: &str = "leno-";
/// So much of a workload's id makes its table's name.
const UID_DIGITS: usize = 12;
/// The kernel chooses a port of one family; it may be taken in the other.
const PORT_TRIES: usize = 32;

/// The ports of one program's capture, as they are written down for a successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ports {
    outbound: u16,
    dns: u16,
}

/// One program's capture.
#[derive(Debug)]
pub(crate) struct HostCapture {
    table: String,
    cgroup: PathBuf,
    rules: HostCgroups,
    installed: Option<Installed>,
}

/// What a program's capture is made of before its workload has an id.
#[derive(Debug)]
pub(crate) struct Prepared {
    cgroup: PathBuf,
    rules: HostCgroups,
}

/// Removes the rules of a workload that is not served on.
pub(crate) fn forget(uid: &str) {
    // There are none for a program in a network of its own.
    drop(capture::remove(&table(uid)));
}

fn table(uid: &str) -> String {
    let digits: String = uid.chars().take(UID_DIGITS).collect();
    format!("{TABLE_PREFIX}{digits}")
}

/// Checks that `caller` may have `cgroup` captured: it is theirs, no one else's processes are caught with it, and
/// neither are ours.
pub(crate) fn check(cgroup: &Path, caller: u32) -> Result<(), Unfit> {
    capture::exists(TABLE_PREFIX).map_err(|error| {
        let text = format!(
            "--network host needs an agent with CAP_NET_ADMIN, and this one is {error}: run the agent as root (sudo leno \
             up, sudo leno join), or leave --network host away"
        );
        Unfit::new(Why::Forbidden, text)
    })?;
    let unfit =
        |what: String| Unfit::new(Why::Invalid, format!("cgroup {}: {what}", cgroup.display()));
    let real = fs::canonicalize(cgroup).map_err(|error| unfit(error.to_string()))?;
    if real != cgroup {
        return Err(unfit("it is written with links or dots".into()));
    }
    let identity = cgroup::identify(cgroup).map_err(|error| unfit(error.to_string()))?;
    let own = cgroup::of_process(std::process::id().cast_signed());
    if identity.level == 0 || own.is_ok_and(|own| own.starts_with(cgroup)) {
        return Err(unfit("the agent itself is in it".into()));
    }
    let owner = fs::metadata(cgroup)
        .map_err(|error| unfit(error.to_string()))?
        .uid();
    if owner != caller {
        let text = format!(
            "cgroup {} belongs to user {owner}, not to {caller}",
            cgroup.display()
        );
        return Err(Unfit::new(Why::Forbidden, text));
    }
    Ok(())
}

/// Opens the listeners of a program's capture: those of a predecessor, or new ones, on its ports if they are free.
pub(crate) fn open(
    cgroup: &Path,
    before: Option<Ports>,
    inherited: &mut Inherited,
) -> Result<(CaptureSockets, Prepared), Unfit> {
    let failed = |error: io::Error| {
        Unfit::new(
            Why::Invalid,
            format!("the listeners on loopback cannot be opened: {error}"),
        )
    };
    let identity = cgroup::identify(cgroup).map_err(|error| {
        Unfit::new(
            Why::Invalid,
            format!("cgroup {}: {error}", cgroup.display()),
        )
    })?;
    let mut sockets = CaptureSockets {
        outbound: Vec::new(),
        dns_udp: Vec::new(),
        dns_tcp: Vec::new(),
        app: AppDial::Marked,
        preserve_source: false,
    };
    if let Some(ports) = before {
        sockets.outbound = inherited.take_port(Handle::Captured, ports.outbound);
        sockets.dns_tcp = inherited.take_port(Handle::Captured, ports.dns);
        sockets.dns_udp = inherited.take_udp_port(ports.dns);
    }
    let outbound = match port_of(&sockets.outbound) {
        Some(port) => port,
        None => {
            let (port, listeners) =
                on_one_port(before.map(|of| of.outbound), tcp).map_err(failed)?;
            sockets.outbound = listeners;
            port
        }
    };
    let dns = match port_of(&sockets.dns_tcp).filter(|_| !sockets.dns_udp.is_empty()) {
        Some(port) => port,
        None => {
            let (port, pairs) = on_one_port(before.map(|of| of.dns), |address| {
                let udp = socket::bind_udp(address)?;
                Ok((tcp(udp.local_addr()?)?, udp))
            })
            .map_err(failed)?;
            (sockets.dns_tcp, sockets.dns_udp) = pairs.into_iter().unzip();
            port
        }
    };
    let rules = HostCgroups {
        outbound_port: outbound,
        dns_port: dns,
        cgroups: vec![identity],
    };
    let cgroup = cgroup.to_owned();
    Ok((sockets, Prepared { cgroup, rules }))
}

/// The descriptors of a program's capture, to be kept for a successor.
pub(crate) fn descriptors(sockets: &CaptureSockets) -> Vec<(Handle, BorrowedFd<'_>)> {
    let tcp = sockets.outbound.iter().chain(&sockets.dns_tcp);
    let tcp = tcp.map(|listener| (Handle::Captured, listener.as_fd()));
    let udp = sockets
        .dns_udp
        .iter()
        .map(|socket| (Handle::CapturedUdp, socket.as_fd()));
    tcp.chain(udp).collect()
}

impl Prepared {
    /// The capture of this workload; nothing is installed yet.
    pub(crate) fn of(self, uid: WorkloadUid) -> HostCapture {
        HostCapture {
            table: table(&uid.to_string()),
            cgroup: self.cgroup,
            rules: self.rules,
            installed: None,
        }
    }
}

impl HostCapture {
    /// Its ports.
    pub(crate) fn ports(&self) -> Ports {
        Ports {
            outbound: self.rules.outbound_port,
            dns: self.rules.dns_port,
        }
    }

    /// Installs the rules: from now on nothing of the program passes the mesh by.
    pub(crate) fn install(&mut self) -> Result<(), NetError> {
        self.installed = Some(self.rules.install(&self.table)?);
        Ok(())
    }

    /// The rules, once they are installed.
    pub(crate) fn installed(&self) -> Option<&Installed> {
        self.installed.as_ref()
    }

    /// Ends what is left of the program, then removes the rules. What comes back is a cgroup that could not be
    /// removed yet: the dead leave it a moment later.
    pub(crate) fn release(self) -> Option<PathBuf> {
        // It may be gone: whoever made it removes it as well.
        drop(cgroup::kill_all(&self.cgroup));
        match capture::remove(&self.table) {
            Ok(true) => {
                tracing::debug!(table = self.table, "removed the capture rules of a program")
            }
            Ok(false) => {}
            Err(error) => {
                tracing::error!(table = self.table, %error, "the capture rules of a program stay behind")
            }
        }
        cgroup::remove(&self.cgroup).is_err().then_some(self.cgroup)
    }
}

/// Routes to virtual addresses on a host that has none: what is redirected needs a route first.
#[derive(Debug, Default)]
pub(crate) struct Routes(Vec<(IpAddr, u8)>);

const LOOPBACK_LINK: &str = "lo";

impl Routes {
    /// Adds a route for each family that lacks one.
    pub(crate) fn ensure(&mut self) {
        for (address, prefix) in vip_ranges() {
            if self.0.iter().any(|(of, _)| *of == address) || link::has_route_to(address) {
                continue;
            }
            match link::add_route((address, prefix), None, Some(LOOPBACK_LINK)) {
                Ok(()) => {
                    tracing::info!(%address, prefix, "added a route to virtual addresses: this host had none");
                    self.0.push((address, prefix));
                }
                Err(error) => {
                    tracing::warn!(%address, prefix, %error, "no route to virtual addresses can be added; programs on the host's network cannot call them")
                }
            }
        }
    }

    /// Removes what was added.
    pub(crate) fn remove(&mut self) {
        for (address, prefix) in self.0.drain(..) {
            match link::delete_route((address, prefix), None, Some(LOOPBACK_LINK)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%address, prefix, %error, "a route to virtual addresses stays behind")
                }
                Ok(()) | Err(_) => {
                    tracing::info!(%address, prefix, "removed the route to virtual addresses")
                }
            }
        }
    }

    /// What was added, as a successor is told.
    pub(crate) fn added(&self) -> &[(IpAddr, u8)] {
        &self.0
    }

    /// Those that a predecessor added.
    pub(crate) fn taken_over(added: Vec<(IpAddr, u8)>) -> Self {
        Self(
            added
                .into_iter()
                .filter(|of| vip_ranges().contains(of))
                .collect(),
        )
    }
}

fn vip_ranges() -> [(IpAddr, u8); 2] {
    [
        (IpAddr::V4(VIP_RANGE_V4.0), VIP_RANGE_V4.1),
        (IpAddr::V6(VIP_RANGE_V6.0), VIP_RANGE_V6.1),
    ]
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    socket::listen_tcp(address, LISTEN_BACKLOG)
}

fn port_of(listeners: &[TcpListener]) -> Option<u16> {
    Some(listeners.first()?.local_addr().ok()?.port())
}

/// Makes something on one port of every loopback address: on `wanted` if that is free, else on one that the kernel
/// chooses.
fn on_one_port<T: Local>(
    wanted: Option<u16>,
    make: impl Fn(SocketAddr) -> io::Result<T>,
) -> io::Result<(u16, Vec<T>)> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for port in wanted.into_iter().chain(std::iter::repeat_n(0, PORT_TRIES)) {
        let made = make((Ipv4Addr::LOCALHOST, port).into()).and_then(|first| {
            let port = first.port()?;
            let mut all = vec![first];
            if link::ipv6_enabled() {
                all.push(make((Ipv6Addr::LOCALHOST, port).into())?);
            }
            Ok((port, all))
        });
        match made {
            Ok(made) => return Ok(made),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What is bound to a port.
trait Local {
    fn port(&self) -> io::Result<u16>;
}

impl Local for TcpListener {
    fn port(&self) -> io::Result<u16> {
        Ok(self.local_addr()?.port())
    }
}

impl Local for (TcpListener, UdpSocket) {
    fn port(&self) -> io::Result<u16> {
        self.0.port()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn listeners_of_both_families_share_a_port_and_a_taken_one_is_passed_over() {
        let (port, first) = on_one_port(None, tcp).unwrap();
        assert!(
            first
                .iter()
                .all(|of| of.local_addr().unwrap().port() == port),
            "{first:?}"
        );
        let (other, second) = on_one_port(Some(port), tcp).unwrap();
        assert_ne!(other, port);
        drop((first, second));
        assert_eq!(on_one_port(Some(port), tcp).unwrap().0, port);
    }

    #[test]
    fn only_routes_to_virtual_addresses_are_taken_over() {
        let [v4, v6] = vip_ranges();
        let foreign = (IpAddr::from([0, 0, 0, 0]), 0);
        assert_eq!(Routes::taken_over(vec![v4, foreign, v6]).added(), [v4, v6]);
    }
}
