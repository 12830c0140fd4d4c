//! Ports and their callers in clear, for people.

use std::collections::BTreeMap;

use leno_controlplane::documents::{MtlsCaller, MtlsList, MtlsPort};

use crate::output::{print, print_table};

/// Callers that one cell names.
const NAMED: usize = 4;

/// `web:8080`, by service where the port has one.
pub(crate) fn place(port: &MtlsPort) -> String {
    // Of a version's service and the service itself the shorter is what people call it.
    let service = port.services.iter().min_by_key(|name| name.len());
    let name = service.unwrap_or(&port.workload);
    format!("{}/{name}:{}", port.namespace, port.port)
}

/// Who came in clear to a port that takes plaintext now; a line each. Who was refused there, when it did not, may have
/// come back since: only to be connected is no call.
pub(crate) fn callers(port: &MtlsPort) -> Vec<String> {
    let all = port.callers.iter();
    all.map(|of| {
        format!(
            "{} → {}: {}",
            who(of),
            place(port),
            did(of.calls, of.refused)
        )
    })
    .collect()
}

fn who(caller: &MtlsCaller) -> String {
    match &caller.host {
        Some(host) => format!("{} (host {host})", caller.address),
        None => caller.address.to_string(),
    }
}

fn did(calls: u64, refused: u64) -> String {
    let served = match calls {
        0 if refused > 0 => return format!("{refused} refused"),
        0 => "connected".into(),
        1 => "1 call".into(),
        more => format!("{more} calls"),
    };
    match refused {
        0 => served,
        more => format!("{served}, {more} refused"),
    }
}

/// Replicas of one service whose ports do the same are a line.
pub(super) fn table(list: &MtlsList) {
    type Line = (String, String, String, String);
    let mut lines: BTreeMap<Line, Vec<&MtlsCaller>> = BTreeMap::new();
    for port in &list.ports {
        let published = port.published.map_or("-".into(), |port| port.to_string());
        let policy = port.policy.clone().unwrap_or_else(|| "-".into());
        let key = (place(port), published, port.mode.clone(), policy);
        lines.entry(key).or_default().extend(&port.callers);
    }
    if lines.is_empty() {
        return print("no program serves a port");
    }
    let rows: Vec<Vec<String>> = lines
        .into_iter()
        .map(|((place, published, mode, policy), callers)| {
            vec![place, published, mode, policy, summed(&callers)]
        })
        .collect();
    let header = [
        "SERVICE",
        "PUBLISHED",
        "MODE",
        "POLICY",
        "PLAINTEXT CALLERS, 10 MIN",
    ];
    print_table(&header, &rows);
}

/// The same caller at several replicas is one.
fn summed(callers: &[&MtlsCaller]) -> String {
    let mut by: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for caller in callers {
        let sum = by.entry(who(caller)).or_default();
        sum.0 = sum.0.saturating_add(caller.calls);
        sum.1 = sum.1.saturating_add(caller.refused);
    }
    if by.is_empty() {
        return "-".into();
    }
    let more = by.len().saturating_sub(NAMED);
    let shown = by.into_iter().take(NAMED);
    let mut texts: Vec<String> = shown
        .map(|(who, (calls, refused))| format!("{who}: {}", did(calls, refused)))
        .collect();
    if more > 0 {
        texts.push(format!("and {more} more"));
    }
    texts.join("; ")
}
