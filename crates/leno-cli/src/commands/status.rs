//! `leno status`: the mesh at a glance.

use clap::Args;
use serde_json::Value;

use super::failing::failing;
use crate::{
    client::Client,
    exit::Outcome,
    output::{Shape, items, print, print_table, print_value, text},
};

/// Show the mesh at a glance.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// How to print it
    #[arg(long, short, value_enum, default_value = "table")]
    output: Shape,
}

/// Shows it.
pub(crate) async fn status(client: &Client, args: &StatusArgs) -> Outcome {
    let mut status = client.get("/leno/v1/status").await?;
    let proxies = client.get("/leno/v1/proxies").await?;
    if args.output != Shape::Table {
        if let Some(map) = status.as_object_mut() {
            map.insert("proxies".into(), proxies);
        }
        print_value(&status, args.output.into())?;
        return Ok(0);
    }
    let number = |pointer: &str| status.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    print(&format!(
        "mesh {}   trust domain {}   control plane {}",
        text(&status, "/mesh"),
        text(&status, "/trust_domain"),
        text(&status, "/version")
    ));
    print(&format!(
        "proxies {} connected, {} away, {} in sync   services {}   intermediate until {}",
        number("/proxies_connected"),
        number("/proxies_disconnected"),
        number("/proxies_in_sync"),
        number("/services"),
        text(&status, "/intermediate_not_after"),
    ));
    let rows: Vec<Vec<String>> = items(&proxies, "").flat_map(rows).collect();
    if !rows.is_empty() {
        print("");
        print_table(
            &[
                "WORKLOAD",
                "NAMESPACE",
                "SERVICE",
                "VERSION",
                "HOST",
                "HEALTH",
                "IDENTITY",
            ],
            &rows,
        );
    }
    for finding in items(&status, "/findings").filter_map(Value::as_str) {
        print(&format!("⚠ {finding}"));
    }
    let failing = failing(client).await?;
    for of in &failing {
        print(&format!("⚠ {}: {}", of.edge, of.what));
        if let Some(last) = &of.last {
            print(&format!("    {} (leno explain {})", last.cause, last.id));
        }
    }
    if failing.iter().any(|of| of.trouble) {
        print("leno check says what is wrong, and what to do");
    }
    Ok(0)
}

/// A line for each workload of a proxy.
fn rows(proxy: &Value) -> impl Iterator<Item = Vec<String>> {
    let away = proxy.get("connected").and_then(Value::as_bool) != Some(true);
    items(proxy, "/workloads").map(move |workload| {
        let of = |pointer: &str| match text(workload, pointer) {
            "" => "-".to_owned(),
            text => text.to_owned(),
        };
        let health = match text(workload, "/health") {
            // What was known of it before its host went away.
            known if away => format!("away (was {known})"),
            known => known.to_owned(),
        };
        vec![
            of("/name"),
            of("/namespace"),
            of("/service"),
            of("/version"),
            text(proxy, "/host").to_owned(),
            health,
            of("/identity"),
        ]
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::json;

    use super::*;

    #[test]
    fn a_workload_of_an_away_host_is_not_called_healthy() {
        let workload = json!({"name": "cart-11aa", "namespace": "default", "service": null, "version": "v2",
            "health": "healthy", "identity": "spiffe://d/ns/default/sa/cart"});
        let proxy = |connected| json!({"host": "b", "connected": connected, "workloads": [workload.clone()]});
        let shown = |connected| rows(&proxy(connected)).next().unwrap();
        assert_eq!(shown(true)[2..6], ["-", "v2", "b", "healthy"]);
        assert_eq!(shown(false)[5], "away (was healthy)");
    }
}
