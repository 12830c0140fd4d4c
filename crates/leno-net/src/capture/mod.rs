//! Redirects a namespace's, or some programs', connections to Leno: one atomic nftables batch for IPv4 and IPv6.

mod nft;
mod rules;
mod source;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::NetError;
use crate::netlink::{self, Batch, Netlink};
use nft::{Made, Start};
pub use source::SourceAddresses;

const CAPABILITY: &str = "CAP_NET_ADMIN";

/// The most cgroups of one table.
pub const MAX_CGROUPS: usize = 1024;

/// The most excluded ports in one direction, Leno's own included.
pub const MAX_PORTS: usize = 1024;

/// The most excluded networks.
pub const MAX_CIDRS: usize = 128;

/// The most excluded users.
pub const MAX_USERS: usize = 128;

/// The firewall mark of Leno's own sockets, which no capture touches.
pub const MARK: u32 = 0x1e_e0;

/// The mark of Leno's own sockets that speak to a program from its caller's address ([`SourceAddresses`]).
pub const SOURCE_MARK: u32 = 0x1e_e1;

/// The IPv4 range of virtual service addresses.
pub const VIP_RANGE_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(240, 240, 0, 0), 16);

/// The IPv6 range of virtual service addresses.
pub const VIP_RANGE_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0), 48);

/// A namespace that holds one program and nothing else (`leno run`): all its TCP goes to `outbound_port` and its DNS to
/// `dns_port`, both on loopback; other UDP and pings beyond loopback are rejected at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnNamespace {
    /// Where Leno takes TCP connections going out.
    pub outbound_port: u16,
    /// Where Leno answers DNS, UDP and TCP.
    pub dns_port: u16,
}

/// A pod's or container's namespace, with a network of its own: TCP out, TCP in and DNS are captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WholeNamespace {
    /// Where Leno takes TCP connections going out, on loopback.
    pub outbound_port: u16,
    /// Where Leno takes TCP connections coming in, on every address.
    pub inbound_port: u16,
    /// Where Leno answers DNS, UDP and TCP, on loopback.
    pub dns_port: u16,
    /// Ports whose connections coming in are left alone. Leno's own always are.
    pub excluded_inbound_ports: Vec<u16>,
    /// Destination ports whose connections going out are left alone.
    pub excluded_outbound_ports: Vec<u16>,
    /// Destinations whose connections going out are left alone.
    pub excluded_outbound_cidrs: Vec<(IpAddr, u8)>,
    /// Users whose connections going out are left alone, their DNS included.
    pub excluded_outbound_users: Vec<u32>,
}

/// A cgroup (v2), as the kernel matches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cgroup {
    /// How deep below the root of the hierarchy; a child of the root has 1.
    pub level: u32,
    /// The inode of its directory.
    pub id: u64,
}

/// Programs on the host's network, told by their cgroups: TCP out and DNS are captured, UDP and pings to virtual
/// addresses rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCgroups {
    /// Where Leno takes TCP connections going out, on loopback.
    pub outbound_port: u16,
    /// Where Leno answers DNS, UDP and TCP, on loopback.
    pub dns_port: u16,
    /// Whose connections.
    pub cgroups: Vec<Cgroup>,
}

/// A table that was installed.
#[derive(Debug)]
pub struct Installed {
    table: String,
    rules: usize,
    /// What installs it again.
    replacement: Batch,
}

impl Installed {
    /// Installs it again where rules of it are gone: somebody else removed or emptied it. True when somebody had.
    ///
    /// Rules are counted, not compared: this notices `nft flush ruleset`, not an attack by who may change rules.
    pub fn restore(&self) -> Result<bool, NetError> {
        let what = || format!("look for nftables table {}", self.table);
        let listed = self
            .listed()
            .map_err(|error| NetError::step(what(), CAPABILITY, error))?;
        if listed == self.rules {
            return Ok(false);
        }
        let result = open().and_then(|mut netlink| netlink.send(&self.replacement));
        result.map_err(|error| refused(&self.table, error))?;
        Ok(true)
    }

    fn listed(&self) -> io::Result<usize> {
        let request = nft::list_rules(&self.table);
        let mut netlink = open()?;
        loop {
            let mut rules = 0;
            let outcome = netlink.ask(&request, |answer| {
                rules += usize::from(nft::is_rule_of(&self.table, answer));
            });
            match outcome {
                // Somebody changed rules meanwhile.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return outcome.map(|()| rules),
            }
        }
    }
}

impl OwnNamespace {
    /// Installs it as table `inet TABLE`, replacing one of that name, in one step.
    pub fn install(&self, table: &str) -> Result<Installed, NetError> {
        install(table, |start| self.batch(table, start))
    }
}

impl WholeNamespace {
    /// Installs it as table `inet TABLE`, replacing one of that name, in one step.
    pub fn install(&self, table: &str) -> Result<Installed, NetError> {
        install(table, |start| self.batch(table, start))
    }
}

impl HostCgroups {
    /// Installs it as table `inet TABLE`, replacing one of that name, in one step.
    pub fn install(&self, table: &str) -> Result<Installed, NetError> {
        install(table, |start| self.batch(table, start))
    }
}

/// Removes table `inet TABLE`; true when there was one.
pub fn remove(table: &str) -> Result<bool, NetError> {
    let batch = nft::Table::delete(table).finish().batch;
    found(open().and_then(|mut netlink| netlink.send(&batch)), || {
        format!("remove nftables table {table}")
    })
}

/// Whether there is a table `inet TABLE`.
pub fn exists(table: &str) -> Result<bool, NetError> {
    let request = nft::get(table);
    found(
        open().and_then(|mut netlink| netlink.ask(&request, |_| {})),
        || format!("look for nftables table {table}"),
    )
}

/// The base chains of the machine's input, in the calling thread's network namespace, that drop what none of their rules
/// lets in, as nft names them: `inet filter input`. Rules are not judged, and neither are chains that end with a rule.
///
/// # Errors
///
/// `CAP_NET_ADMIN` is missing, or the kernel has no nf_tables.
pub fn closed_inputs() -> Result<Vec<String>, NetError> {
    let mut closed = Vec::new();
    let asked = open().and_then(|mut netlink| {
        netlink.ask(&nft::list_chains(), |answer| {
            // `NFPROTO_*` as nft writes them; bridges and devices have no programs' input.
            let named = nft::closed_input(answer).and_then(|(family, table, chain)| {
                let family = match family {
                    1 => "inet",
                    2 => "ip",
                    10 => "ip6",
                    _ => return None,
                };
                Some(format!("{family} {table} {chain}"))
            });
            closed.extend(named);
        })
    });
    let what = || "list the firewall's chains".to_owned();
    asked.map_err(|error| NetError::step(what(), CAPABILITY, error))?;
    Ok(closed)
}

fn open() -> io::Result<Netlink> {
    Netlink::open(netlink::NETFILTER)
}

fn install(
    table: &str,
    batch: impl Fn(Start) -> Result<Made, NetError>,
) -> Result<Installed, NetError> {
    let (new, replacement) = (batch(Start::New)?.batch, batch(Start::Replace)?);
    let result = open().and_then(|mut netlink| match netlink.send(&new) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            netlink.send(&replacement.batch)
        }
        result => result,
    });
    result.map_err(|error| refused(table, error))?;
    tracing::debug!(table, bytes = new.len(), "capture rules installed");
    Ok(Installed {
        table: table.to_owned(),
        rules: replacement.rules,
        replacement: replacement.batch,
    })
}

/// Why the kernel did not take a table.
fn refused(table: &str, error: io::Error) -> NetError {
    let what = format!("capture connections with nftables table {table}");
    match netlink::errno(&error) {
        // A chain type or expression whose module is missing is "not found", and so are a missing protocol or family.
        Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT) => {
            NetError::Unsupported {
                what,
                advice: "it needs nf_tables with nft_chain_nat, nft_redir, nft_reject_inet, nft_ct (with connection marks and zones where source addresses are preserved), for a whole namespace nft_fib_inet and, for programs on the host's network, nft_socket",
                source: error,
            }
        }
        _ => NetError::step(what, CAPABILITY, error),
    }
}

fn found(result: io::Result<()>, what: impl FnOnce() -> String) -> Result<bool, NetError> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(NetError::step(what(), CAPABILITY, error)),
    }
}
