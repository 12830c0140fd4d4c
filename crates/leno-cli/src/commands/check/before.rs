//! `leno check --pre`: what would be in the way of an agent or a control plane that is not here yet.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
    path::Path,
};

use leno_types::ports;

use super::{Check, Finding, ill, told, well};
use crate::joined::Joined;

/// What Leno listens on outside programs' namespaces, who does, and which option of theirs chooses another.
const LISTENERS: [(u16, &str); 6] = [
    (ports::HBONE, "--hbone-port"),
    (
        ports::CONTROL_PLANE,
        "--listen (of the control plane alone)",
    ),
    (ports::CONTROL_PLANE_METRICS, "--control-plane-metrics"),
    (ports::METRICS, "--metrics"),
    (ports::READINESS, "--readiness"),
    (ports::ADMIN, "--admin"),
];

/// What processes of Leno are called.
const PROGRAM: &str = "leno";

/// Everything that can be looked at.
pub(super) fn findings() -> Vec<Finding> {
    let mut findings = vec![membership(Joined::here()), ports_are_free(), firewall()];
    if Path::new("/sys/class/net/docker0").exists() {
        findings.push(told(
            Check::Docker,
            "Docker is here",
            "programs in its containers are in networks of their own, which leno run does not enter: \
             run leno-proxy in a container's network (docs/reference/leno-proxy.md)",
        ));
    }
    findings
}

/// One host is in one mesh at a time.
fn membership(joined: Option<Joined>) -> Finding {
    match joined {
        None => well(Check::Membership, "this host is in no mesh of others"),
        Some(joined) => told(
            Check::Membership,
            "this host is in a mesh already",
            format!("{joined}; leno leave gives that up"),
        ),
    }
}

/// Every taken port in one finding: whoever holds one often holds several.
fn ports_are_free() -> Finding {
    let free = |port| match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
        Err(error) => error.kind() != io::ErrorKind::AddrInUse,
        Ok(_) => true,
    };
    let taken = LISTENERS.iter().filter(|(port, _)| !free(*port));
    let taken: Vec<Taken> = taken
        .map(|(port, option)| Taken {
            port: *port,
            option,
            holder: leno_net::process::owner_of_port(*port),
        })
        .collect();
    judge_ports(&taken)
}

struct Taken {
    port: u16,
    option: &'static str,
    holder: Option<(i32, String)>,
}

fn judge_ports(taken: &[Taken]) -> Finding {
    if taken.is_empty() {
        return well(Check::Ports, "Leno's ports are free");
    }
    let told = taken.iter().map(|taken| match &taken.holder {
        Some((pid, program)) => format!("{} by {program} (pid {pid})", taken.port),
        None => format!("{} by another user's program", taken.port),
    });
    let options: Vec<&str> = taken.iter().map(|taken| taken.option).collect();
    let why = format!("taken: {}", told.collect::<Vec<_>>().join(", "));
    let ours = |taken: &Taken| matches!(&taken.holder, Some((_, program)) if program == PROGRAM);
    if taken.iter().all(ours) {
        let hint = format!(
            "leno check, without --pre, looks at it; a second mesh needs ports of its own: {}",
            options.join(", ")
        );
        return ill(Check::Ports, "a mesh of Leno runs here already", why, hint);
    }
    let hint = format!("end it, or choose another port with {}", options.join(", "));
    ill(Check::Ports, "ports of Leno are taken", why, hint)
}

fn firewall() -> Finding {
    let closed = leno_net::capture::closed_inputs();
    judge_firewall(closed.map_err(|error| error.to_string()))
}

/// A firewall may let the ports in by a rule: that it is there is worth knowing, and no fault.
fn judge_firewall(closed: Result<Vec<String>, String>) -> Finding {
    let reach = format!(
        "other hosts must reach {}/tcp on every host, and {}/tcp on the control plane's",
        ports::HBONE,
        ports::CONTROL_PLANE
    );
    match closed {
        Err(error) => told(
            Check::Firewall,
            "the firewall was not looked at",
            format!("{error}; {reach}"),
        ),
        Ok(closed) => match closed.first() {
            None => well(
                Check::Firewall,
                "no firewall drops by default what comes in",
            ),
            Some(chain) => told(
                Check::Firewall,
                "a firewall drops what no rule of it lets in",
                format!(
                    "{}; {reach}: nft insert rule {chain} tcp dport '{{ {}, {} }}' accept",
                    closed.join(", "),
                    ports::HBONE,
                    ports::CONTROL_PLANE
                ),
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_trouble_with_its_holder_and_the_option() {
        let taken = |holder| Taken {
            port: 15008,
            option: "--hbone-port",
            holder,
        };
        let finding = judge_ports(&[taken(Some((7, "envoy".into())))]);
        let shown = format!("{finding:?}");
        assert!(finding.is_trouble());
        assert!(shown.contains("15008 by envoy (pid 7)"), "{shown}");
        assert!(shown.contains("--hbone-port"), "{shown}");
        let shown = format!("{:?}", judge_ports(&[taken(None)]));
        assert!(shown.contains("another user's program"), "{shown}");
        assert!(!judge_ports(&[]).is_trouble());
    }

    #[test]
    fn a_closed_firewall_is_told_with_the_rule_that_opens_it() {
        let shown = format!("{:?}", judge_firewall(Ok(vec!["inet filter input".into()])));
        let rule = "nft insert rule inet filter input tcp dport '{ 15008, 15012 }' accept";
        assert!(shown.contains(rule), "{shown}");
        let open = format!("{:?}", judge_firewall(Ok(Vec::new())));
        assert!(open.contains("Well"), "{open}");
        let unseen = format!(
            "{:?}",
            judge_firewall(Err("CAP_NET_ADMIN is missing".into()))
        );
        assert!(unseen.contains("15008/tcp"), "{unseen}");
    }
}
