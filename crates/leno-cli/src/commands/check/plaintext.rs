//! What `leno check` says of callers in plaintext: those that are refused, and those that still enter a strict mesh.

use leno_controlplane::documents::{MtlsList, MtlsPort};

use super::{Check, Finding, told, well};
use crate::commands::mtls::{callers, place};

/// Of the last ten minutes.
pub(super) fn plaintext(list: &MtlsList) -> Vec<Finding> {
    let strict = |port: &MtlsPort| port.mode == "STRICT";
    let is_strict = list
        .ports
        .iter()
        .any(|port| port.scope == "mesh" && strict(port));
    let mut found = Vec::new();
    for port in &list.ports {
        let refused: u64 = port.callers.iter().map(|of| of.refused).sum();
        if strict(port) && refused > 0 {
            let addresses: Vec<String> = port
                .callers
                .iter()
                .filter(|of| of.refused > 0)
                .map(|of| of.address.to_string())
                .collect();
            found.push(told(
                Check::PlaintextCallers,
                format!("{} refuses callers in plaintext", place(port)),
                format!(
                    "{refused} calls in ten minutes, from {}; by AuthenticationPolicy {}",
                    addresses.join(", "),
                    port.policy.as_deref().unwrap_or("-")
                ),
            ));
        }
        let served = callers(port);
        if is_strict && !strict(port) && !served.is_empty() {
            found.push(told(
                Check::PlaintextCallers,
                format!(
                    "plaintext enters at {}, in a mesh that is strict",
                    place(port)
                ),
                format!(
                    "{}; by AuthenticationPolicy {}",
                    served.join("; "),
                    port.policy.as_deref().unwrap_or("-")
                ),
            ));
        }
    }
    if found.is_empty() {
        let what = "nobody calls in plaintext where the mesh takes mutual TLS only";
        found.push(well(Check::PlaintextCallers, what));
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use leno_controlplane::documents::MtlsCaller;

    use super::*;

    fn port(mode: &str, scope: &str, calls: u64, refused: u64) -> MtlsPort {
        MtlsPort {
            namespace: "shop".into(),
            services: vec!["web".into()],
            port: 8080,
            mode: mode.into(),
            scope: scope.into(),
            policy: Some("shop/some".into()),
            callers: vec![MtlsCaller {
                address: "10.0.0.9".parse().unwrap(),
                host: None,
                calls,
                refused,
                seconds_ago: 1,
            }],
            ..MtlsPort::default()
        }
    }

    fn told_of(ports: Vec<MtlsPort>) -> Vec<String> {
        let found = plaintext(&MtlsList { ports });
        found.into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn plaintext_is_told_where_it_is_refused_and_where_it_enters_a_strict_mesh() {
        let open = || port("PERMISSIVE", "workload", 3, 0);
        let none = "nobody calls in plaintext where the mesh takes mutual TLS only";
        assert_eq!(told_of(vec![open()]), [none]);
        let refusing = port("STRICT", "mesh", 0, 4);
        assert_eq!(
            told_of(vec![refusing, open()]),
            [
                "shop/web:8080 refuses callers in plaintext",
                "plaintext enters at shop/web:8080, in a mesh that is strict",
            ]
        );
    }
}
