//! Why a port cannot be listened on, whose it is, and what to do about it.

use std::{io, net::SocketAddr};

/// For people; `instead` says how another port is chosen.
pub(crate) fn why(address: SocketAddr, error: &io::Error, instead: &str) -> String {
    let holder = leno_net::process::owner_of_port(address.port());
    told(address, error, holder, instead)
}

fn told(
    address: SocketAddr,
    error: &io::Error,
    holder: Option<(i32, String)>,
    instead: &str,
) -> String {
    let port = address.port();
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let holder = match holder {
                Some((pid, _)) if u32::try_from(pid) == Ok(std::process::id()) => {
                    return format!(
                        "port {port} is this agent's own already, for itself or for a program that it publishes there \
                         (leno proxy config): {instead}"
                    );
                }
                Some((pid, program)) => format!("{program} (pid {pid})"),
                None => format!("another user's program at {address}"),
            };
            format!("port {port} is taken by {holder}: end it, or {instead}")
        }
        // ip(7): below net.ipv4.ip_unprivileged_port_start.
        io::ErrorKind::PermissionDenied => format!(
            "port {port} needs an agent of root: {instead}, from 1024 on; or as root: \
             sysctl -w net.ipv4.ip_unprivileged_port_start={port}"
        ),
        _ => format!("port {port}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_the_way_of_a_port_is_said_once_with_the_next_step() {
        let address = SocketAddr::from(([10, 0, 0, 2], 80));
        let text = |kind: io::ErrorKind, holder| {
            let error = io::Error::new(kind, format!("cannot listen on {address}: as it is"));
            told(address, &error, holder, "publish another port")
        };
        assert_eq!(
            text(io::ErrorKind::AddrInUse, Some((7, "httpd".into()))),
            "port 80 is taken by httpd (pid 7): end it, or publish another port"
        );
        let own = i32::try_from(std::process::id()).ok();
        let own = text(
            io::ErrorKind::AddrInUse,
            own.map(|pid| (pid, "leno".into())),
        );
        assert!(!own.contains("end it"), "{own}");
        let unseen = text(io::ErrorKind::AddrInUse, None);
        assert!(unseen.contains("another user's program"), "{unseen}");
        let denied = text(io::ErrorKind::PermissionDenied, None);
        assert!(denied.contains("ip_unprivileged_port_start=80"), "{denied}");
        let other = text(io::ErrorKind::AddrNotAvailable, None);
        assert_eq!(other, "port 80: cannot listen on 10.0.0.2:80: as it is");
    }
}
