//! What this host says of itself where nobody says otherwise: its name, its addresses, its resolvers.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

/// So many resolvers are asked (resolv.conf(5)).
const MAX_RESOLVERS: usize = 3;
/// So many search domains are looked at (resolv.conf(5)).
const MAX_SEARCH: usize = 6;

/// This host's name as one label: up to the first dot, in lower case, other characters as hyphens.
#[must_use]
pub fn name() -> String {
    label(&std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default())
}

/// This host's addresses that others can reach, those of version 4 first: not loopback, not link-local. A host
/// without a network has 127.0.0.1.
///
/// # Errors
/// When the kernel does not say.
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    let found = leno_net::link::addresses().map_err(io::Error::other)?;
    let reachable = |ip: &IpAddr| match ip {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    };
    let mut addresses: Vec<IpAddr> = found
        .into_iter()
        .filter(|of| !of.loopback)
        .map(|of| of.ip)
        .filter(reachable)
        .collect();
    addresses.sort_by_key(IpAddr::is_ipv6);
    if addresses.is_empty() {
        addresses.push(Ipv4Addr::LOCALHOST.into());
    }
    Ok(addresses)
}

/// The resolvers and search domains of `/etc/resolv.conf`.
#[must_use]
pub fn resolvers() -> (Vec<SocketAddr>, Vec<String>) {
    read_resolvers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

fn label(hostname: &str) -> String {
    let first = hostname.trim().split('.').next().unwrap_or_default();
    let label: String = first
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(63)
        .collect();
    let label = label.trim_matches('-');
    if label.is_empty() {
        "host".into()
    } else {
        label.into()
    }
}

fn read_resolvers(text: &str) -> (Vec<SocketAddr>, Vec<String>) {
    let (mut servers, mut search) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                servers.extend(address.map(|ip| SocketAddr::new(ip, 53)));
            }
            Some("search" | "domain") => {
                search = words.map(str::to_owned).take(MAX_SEARCH).collect();
            }
            Some(_) | None => {}
        }
    }
    servers.truncate(MAX_RESOLVERS);
    (servers, search)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostname_becomes_a_label() {
        assert_eq!(label("Web_1.example.com\n"), "web-1");
        assert_eq!(label("-.x"), "host");
        assert_eq!(label(""), "host");
    }

    #[test]
    fn resolvers_are_read_as_the_system_reads_them() {
        let text = "# a comment\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver ::1\nsearch a.example b\n";
        let (servers, search) = read_resolvers(text);
        let expected: Vec<SocketAddr> = ["10.0.0.1:53", "[::1]:53"]
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect();
        assert_eq!(servers, expected);
        assert_eq!(search, ["a.example", "b"]);
    }
}
