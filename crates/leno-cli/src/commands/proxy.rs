//! `leno proxy`: what a proxy has, as the control plane sent it and the proxy acknowledged it.

mod status;
mod views;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::logs::{LogsArgs, logs};
use crate::{
    client::Client,
    exit::{CommandError, Outcome},
    output::{Format, items, print, print_table, print_value, text},
};

pub(crate) use status::status as proxy_status;

/// Look into one proxy, or at all.
#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    #[command(subcommand)]
    command: ProxyCommand,
}

#[derive(Debug, Subcommand)]
enum ProxyCommand {
    /// All proxies: connected or away since when, what they acknowledged, refuse, or are too old for
    Status(Which),
    /// What a proxy was given, with versions and whether it acknowledged them
    #[command(alias = "all")]
    Config(Which),
    /// The certificates it holds
    #[command(aliases = ["secret", "secrets", "certificate"])]
    Certs(Which),
    /// The endpoints it knows, with how it sees them now: ejected, not reached, failures
    #[command(aliases = ["endpoint", "ep"])]
    Endpoints(Which),
    /// The rules by which it routes, each with where it was written
    #[command(alias = "route")]
    Routes(Which),
    /// Who may call its programs: the rules in force, each with where it was written
    #[command(alias = "policy")]
    Policies(Which),
    /// Its access log; the same as leno logs HOST
    Logs(LogsArgs),
}

/// All proxies, as leno proxy status shows them
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The host; all if not given
    host: Option<String>,
    /// How to print it
    #[arg(long, short, value_enum, default_value = "table")]
    output: Format,
}

/// Runs the command.
pub(crate) async fn proxy(client: &Client, args: &ProxyArgs) -> Outcome {
    match &args.command {
        ProxyCommand::Status(which) => proxy_status(client, which).await,
        ProxyCommand::Config(which) => config(client, which).await,
        ProxyCommand::Certs(which) => certs(client, which).await,
        ProxyCommand::Endpoints(which) => views::endpoints(client, which).await,
        ProxyCommand::Routes(which) => views::routes(client, which).await,
        ProxyCommand::Policies(which) => views::policies(client, which).await,
        ProxyCommand::Logs(args) => logs(client, args).await,
    }
}

async fn proxies(client: &Client, which: &Which) -> Result<Vec<Value>, CommandError> {
    let all = client.get("/leno/v1/proxies").await?;
    let wanted = |proxy: &&Value| {
        which
            .host
            .as_deref()
            .is_none_or(|host| text(proxy, "/host") == host || serves(proxy, host))
    };
    let found: Vec<Value> = items(&all, "").filter(wanted).cloned().collect();
    if let (Some(host), true) = (&which.host, found.is_empty()) {
        let known: Vec<&str> = items(&all, "").map(|proxy| text(proxy, "/host")).collect();
        return Err(
            CommandError::failed(format!("there is no proxy on a host \"{host}\""))
                .hint(format!("there are: {}", known.join(", "))),
        );
    }
    Ok(found)
}

/// Whether a proxy hosts a workload of this name or service.
fn serves(proxy: &Value, name: &str) -> bool {
    items(proxy, "/workloads").any(|workload| {
        let service = text(workload, "/service");
        text(workload, "/name") == name
            || service == name
            || service.rsplit('/').next() == Some(name)
    })
}

async fn config(client: &Client, which: &Which) -> Outcome {
    for proxy in proxies(client, which).await? {
        let host = text(&proxy, "/host");
        let answer = client
            .get(&format!("/leno/v1/proxies/{host}/config"))
            .await?;
        if matches!(which.output, Format::Json | Format::Yaml) {
            print_value(&answer, which.output)?;
            continue;
        }
        let row = |resource: &Value| {
            let aliases: Vec<&str> = items(resource, "/aliases")
                .filter_map(Value::as_str)
                .collect();
            let of = |pointer: &str| text(resource, pointer).to_owned();
            vec![
                of("/type"),
                of("/name"),
                of("/state"),
                of("/version"),
                aliases.join(","),
            ]
        };
        print(&format!("{host}:"));
        let rows: Vec<Vec<String>> = items(&answer, "").map(row).collect();
        print_table(&["TYPE", "NAME", "STATE", "VERSION", "ASKED AS"], &rows);
    }
    Ok(0)
}

async fn certs(client: &Client, which: &Which) -> Outcome {
    let proxies = proxies(client, which).await?;
    if matches!(which.output, Format::Json | Format::Yaml) {
        let mut all = Vec::new();
        for proxy in &proxies {
            for certificate in items(proxy, "/certificates") {
                let mut certificate = certificate.clone();
                if let Some(map) = certificate.as_object_mut() {
                    map.insert("host".into(), text(proxy, "/host").into());
                }
                all.push(certificate);
            }
        }
        print_value(&Value::Array(all), which.output)?;
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = proxies
        .iter()
        .flat_map(|proxy| {
            let of = |certificate: &Value, pointer: &str| text(certificate, pointer).to_owned();
            let row = |certificate: &Value| {
                vec![
                    text(proxy, "/host").into(),
                    of(certificate, "/identity"),
                    of(certificate, "/serial"),
                    of(certificate, "/not_after"),
                ]
            };
            items(proxy, "/certificates").map(row).collect::<Vec<_>>()
        })
        .collect();
    print_table(&["HOST", "IDENTITY", "SERIAL", "NOT AFTER"], &rows);
    Ok(0)
}
