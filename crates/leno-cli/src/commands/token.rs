//! `leno token`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::{
    client::{CallError, Client},
    exit::{CommandError, Outcome},
    output::{Format, items, print, print_table, print_value, secret_follows, text},
};

/// Make, list and revoke join tokens.
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token with which a host joins; it is shown once
    Create(CreateArgs),
    /// Show the tokens, without their secrets
    List {
        /// How to print them
        #[arg(long, short, value_enum, default_value = "table")]
        output: Format,
    },
    /// Revoke a token
    #[command(visible_alias = "revoke")]
    Delete {
        /// Its id
        id: String,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  leno token create --service cart
  leno token create --service cart,catalog --uses 3 --ttl 24h
  leno token create    (a host whose programs only call)")]
struct CreateArgs {
    /// A service that the host's programs may serve; several by commas, or by the option again
    #[arg(long = "service", value_name = "NAME", value_delimiter = ',')]
    services: Vec<String>,
    /// The namespace they live in
    #[arg(long, short)]
    namespace: Option<String>,
    /// The service account they run as (default: the service's name)
    #[arg(long, value_name = "NAME")]
    service_account: Option<String>,
    /// How long the token may be used
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    ttl: String,
    /// How many hosts may use it
    #[arg(long, default_value_t = 1)]
    uses: u32,
    /// The network that the hosts must be in
    #[arg(long)]
    cidr: Option<String>,
    /// How to print it
    #[arg(long, short, value_enum, default_value = "table")]
    output: Format,
}

/// Runs the command.
pub(crate) async fn token(client: &Client, args: &TokenArgs) -> Outcome {
    match &args.command {
        TokenCommand::Create(args) => create(client, args).await,
        TokenCommand::List { output } => list(client, *output).await,
        TokenCommand::Delete { id } => {
            match client.delete(&format!("/leno/v1/tokens/{id}")).await {
                Ok(_) => print(&format!("token {id} revoked")),
                Err(CallError::Refused(refusal)) if refusal.code == 404 => {
                    return Err(CommandError::failed(format!("there is no token {id}"))
                        .hint("leno token list shows them"));
                }
                Err(error) => return Err(error.into()),
            }
            Ok(0)
        }
    }
}

async fn create(client: &Client, args: &CreateArgs) -> Outcome {
    let mut request = json!({
        "namespace": args.namespace.as_deref().unwrap_or(client.namespace()),
        "services": args.services,
        "ttl": args.ttl,
        "uses": args.uses,
    });
    let optional = [
        ("serviceAccount", &args.service_account),
        ("cidr", &args.cidr),
    ];
    for (name, value) in optional {
        if let (Some(value), Some(map)) = (value, request.as_object_mut()) {
            map.insert(name.into(), Value::String(value.clone()));
        }
    }
    let answer = client.post("/leno/v1/tokens", &request).await?;
    secret_follows();
    match args.output {
        Format::Json | Format::Yaml => print_value(&answer, args.output)?,
        Format::Table | Format::Wide | Format::Name => {
            let serves = match args.services.as_slice() {
                [] => "its programs may call, and serve nothing (--service NAME lets them)".into(),
                services => format!("its programs may call, and serve {}", services.join(", ")),
            };
            say!("a host that joins with it: {serves}");
            say!("on the other host:  sudo leno join --token-file -     (paste)");
            say!("revoke it:  leno token delete {}", text(&answer, "/id"));
            print(text(&answer, "/token"));
        }
    }
    Ok(0)
}

async fn list(client: &Client, format: Format) -> Outcome {
    let answer = client.get("/leno/v1/tokens").await?;
    if matches!(format, Format::Json | Format::Yaml) {
        print_value(&answer, format)?;
        return Ok(0);
    }
    let list = if answer.is_array() {
        items(&answer, "")
    } else {
        items(&answer, "/items")
    };
    let row = |token: &Value| {
        let services: Vec<&str> = items(token, "/scope/services")
            .filter_map(Value::as_str)
            .collect();
        let services = if services.is_empty() {
            "(calls only)".into()
        } else {
            services.join(",")
        };
        let of = |pointer: &str| text(token, pointer).to_owned();
        let hosts: Vec<&str> = items(token, "/redeemed_by")
            .filter_map(Value::as_str)
            .collect();
        let uses = token.get("uses").and_then(Value::as_u64).unwrap_or(0);
        let used = format!("{} of {uses}", hosts.len());
        let or_dash = |text: String| match text.is_empty() {
            true => "-".to_owned(),
            false => text,
        };
        vec![
            of("/id"),
            of("/state"),
            of("/scope/namespace"),
            services,
            used,
            or_dash(hosts.join(",")),
            or_dash(of("/scope/cidr")),
            of("/expires"),
        ]
    };
    let rows: Vec<Vec<String>> = list.map(row).collect();
    let header = [
        "ID",
        "STATE",
        "NAMESPACE",
        "SERVICES",
        "USED",
        "HOSTS",
        "CIDR",
        "EXPIRES",
    ];
    if rows.is_empty() {
        say!("there are none: leno token create makes one");
        return Ok(0);
    }
    print_table(&header, &rows);
    Ok(0)
}
