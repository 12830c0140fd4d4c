//! `leno proxy status`: every proxy with what it runs, and what is wrong with it.
//!
//! Owns the words for a proxy's state. Invariant: whatever is wrong with one has a line below the table that says what to
//! do.

use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Which, proxies};
use crate::{
    client::Client,
    exit::Outcome,
    output::{Format, items, print, print_table, print_value, text},
    run::humanize,
};

const HEADER: [&str; 7] = [
    "HOST",
    "STATE",
    "SINCE",
    "VERSION",
    "CONFIG",
    "PSS",
    "WORKLOADS",
];

/// Shows it.
pub(crate) async fn status(client: &Client, which: &Which) -> Outcome {
    let proxies = proxies(client, which).await?;
    if matches!(which.output, Format::Json | Format::Yaml) {
        print_value(&Value::Array(proxies), which.output)?;
        return Ok(0);
    }
    let now = OffsetDateTime::now_utc();
    let rows: Vec<Vec<String>> = proxies.iter().map(|proxy| row(proxy, now)).collect();
    print_table(&HEADER, &rows);
    let lines: Vec<String> = proxies.iter().flat_map(wrong).collect();
    if !lines.is_empty() {
        print("");
    }
    lines.iter().for_each(|line| print(line));
    Ok(0)
}

fn row(proxy: &Value, now: OffsetDateTime) -> Vec<String> {
    let workloads: Vec<&str> = items(proxy, "/workloads")
        .map(|workload| text(workload, "/name"))
        .collect();
    let version = match (text(proxy, "/version"), text(proxy, "/skew")) {
        ("", _) => "-".to_owned(),
        (version, "" | "same") => version.to_owned(),
        (version, skew) => format!("{version} ({skew})"),
    };
    vec![
        text(proxy, "/host").into(),
        state(proxy),
        since(text(proxy, "/since"), now),
        version,
        configuration(proxy),
        memory(proxy),
        workloads.join(","),
    ]
}

/// Its state in a few words. What a later control plane calls it is shown as it comes.
fn state(proxy: &Value) -> String {
    let count = |pointer: &str| items(proxy, pointer).count();
    match text(proxy, "/state") {
        "in-sync" => "✔ in sync".into(),
        "behind" => match number(proxy, "/pending") {
            None | Some(0) => "⏳ behind".into(),
            Some(pending) => format!("⏳ behind by {pending}"),
        },
        "refuses" => format!("⚠ refuses {}", count("/nacks")),
        "denies" => "⚠ too old".into(),
        "away" => "✘ away".into(),
        "stopped" => "- stopped".into(),
        other => other.into(),
    }
}

fn since(text: &str, now: OffsetDateTime) -> String {
    match OffsetDateTime::parse(text, &Rfc3339) {
        Ok(at) => humanize(u64::try_from((now - at).whole_seconds()).unwrap_or(0)),
        // Before the control plane's own start nothing is known of it.
        Err(_) => "-".into(),
    }
}

/// The revision it acknowledged, and the newest where that is another.
fn configuration(proxy: &Value) -> String {
    let newest = number(proxy, "/revision").unwrap_or(0);
    match number(proxy, "/acked") {
        Some(acked) if acked == newest => acked.to_string(),
        Some(acked) => format!("{acked} of {newest}"),
        None => "-".into(),
    }
}

fn memory(proxy: &Value) -> String {
    match number(proxy, "/pss_bytes") {
        None | Some(0) => "-".into(),
        Some(bytes) => format!("{:.1} MB", megabytes(bytes)),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "memory in megabytes with one digit"
)]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn number(proxy: &Value, pointer: &str) -> Option<u64> {
    proxy.pointer(pointer)?.as_u64()
}

/// What is wrong with one, and what to do.
fn wrong(proxy: &Value) -> Vec<String> {
    let host = text(proxy, "/host");
    let mut lines = Vec::new();
    for nack in items(proxy, "/nacks") {
        lines.push(format!(
            "⚠ {host} refuses {} {}: {}; what it had before runs on",
            text(nack, "/type"),
            text(nack, "/resource"),
            text(nack, "/reason")
        ));
    }
    for missing in items(proxy, "/missing") {
        let workloads: Vec<&str> = items(missing, "/workloads")
            .filter_map(Value::as_str)
            .collect();
        lines.push(format!(
            "⚠ {host} does not know {} and lets nobody in to {}: update Leno there",
            text(missing, "/feature"),
            workloads.join(", ")
        ));
    }
    let version = text(proxy, "/version");
    match text(proxy, "/skew") {
        "older" => lines.push(format!("⚠ {host} runs Leno {version}, a version older than the control plane: it works; update it")),
        "newer" => lines.push(format!("⚠ {host} runs Leno {version}, a version newer than the control plane: it works; update the control plane")),
        "unsupported" => lines.push(format!("✘ {host} runs Leno {version}, further from the control plane's version than is supported: update the older of the two")),
        _ => {}
    }
    if text(proxy, "/state") == "away" {
        lines.push(format!(
            "✘ {host} is away: is the host up, does its agent run (leno agent), does it reach the control plane's port 15012?"
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::json;

    use super::*;

    fn now() -> OffsetDateTime {
        OffsetDateTime::parse("2026-11-21T12:00:00Z", &Rfc3339).unwrap()
    }

    #[test]
    fn a_proxy_that_is_well_has_a_row_and_no_more() {
        let proxy = json!({"host": "b", "state": "in-sync", "since": "2026-11-21T11:59:00Z", "version": "0.1.0",
            "skew": "same", "revision": 7, "acked": 7, "pss_bytes": 8_000_000, "workloads": [{"name": "cart-11aa"}]});
        assert_eq!(
            row(&proxy, now()),
            ["b", "✔ in sync", "60s", "0.1.0", "7", "8.0 MB", "cart-11aa"]
        );
        assert!(wrong(&proxy).is_empty());
    }

    #[test]
    fn what_is_wrong_with_a_proxy_is_told_with_what_to_do() {
        let refuses = json!({"host": "b", "state": "refuses", "version": "0.0.1", "skew": "older", "revision": 9,
            "acked": 7, "nacks": [{"type": "Destination", "resource": "svc/shop/cart", "reason": "path_regex"}]});
        assert_eq!(
            row(&refuses, now())[1..5],
            ["⚠ refuses 1", "-", "0.0.1 (older)", "7 of 9"]
        );
        let lines = wrong(&refuses);
        assert!(lines[0].contains("refuses Destination svc/shop/cart: path_regex"));
        assert!(lines[1].contains("older than the control plane"));
        let denies = json!({"host": "c", "state": "denies",
            "missing": [{"feature": "access/v2", "workloads": ["cart-1", "cart-2"]}]});
        assert!(wrong(&denies)[0].contains("access/v2 and lets nobody in to cart-1, cart-2"));
        let away = json!({"host": "d", "state": "away", "since": ""});
        assert_eq!(row(&away, now())[1..5], ["✘ away", "-", "-", "-"]);
        assert!(wrong(&away)[0].contains("15012"));
        let stopped = json!({"host": "e", "state": "stopped", "since": "2026-11-21T11:00:00Z"});
        assert_eq!(row(&stopped, now())[1..3], ["- stopped", "60m"]);
        assert!(wrong(&stopped).is_empty(), "as somebody wanted it");
    }
}
