//! `leno status`: the mesh at a glance.

use clap::Args;
use serde_json::Value;

use crate::{
    client::Client,
    exit::Outcome,
    output::{Format, items, print, print_table, print_value, text},
};

/// Show the mesh at a glance.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// How to print it
    #[arg(long, short, value_enum, default_value = "table")]
    output: Format,
}

/// Shows it.
pub(crate) async fn status(client: &Client, args: &StatusArgs) -> Outcome {
    let mut status = client.get("/leno/v1/status").await?;
    let proxies = client.get("/leno/v1/proxies").await?;
    if matches!(args.output, Format::Json | Format::Yaml) {
        if let Some(map) = status.as_object_mut() {
            map.insert("proxies".into(), proxies);
        }
        print_value(&status, args.output)?;
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
    let mut rows = Vec::new();
    for proxy in items(&proxies, "") {
        for workload in items(proxy, "/workloads") {
            let of = |pointer: &str| text(workload, pointer).to_owned();
            let service = if of("/service").is_empty() {
                "-".into()
            } else {
                of("/service")
            };
            let host = text(proxy, "/host").to_owned();
            rows.push(vec![
                of("/name"),
                of("/namespace"),
                service,
                host,
                of("/health"),
                of("/identity"),
            ]);
        }
    }
    if !rows.is_empty() {
        print("");
        print_table(
            &[
                "WORKLOAD",
                "NAMESPACE",
                "SERVICE",
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
    Ok(0)
}
