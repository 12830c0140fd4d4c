//! `leno mesh`: one more mesh on a control plane, or one less. Each has a context of its own.

use std::io::{self, BufRead, IsTerminal};

use clap::{Args, Subcommand};
use leno_controlplane::documents::{MeshInfo, MeshRequest};
use leno_types::{DnsLabel, TrustDomain};

use super::known;
use crate::{
    client::{CallError, Client, understood},
    context::{self, Context},
    exit::{CommandError, Outcome},
    output::{Format, items, print, print_table, print_value, text},
};

/// Make, list and remove meshes of a control plane; nothing crosses from one to another.
#[derive(Debug, Args)]
pub(crate) struct MeshArgs {
    #[command(subcommand)]
    command: MeshCommand,
}

#[derive(Debug, Subcommand)]
enum MeshCommand {
    /// Make a mesh with a certificate authority of its own, and write a context for it; on the control plane's machine
    #[command(after_help = "Examples:
  leno mesh create shop
  leno mesh create shop --trust-domain shop.example --prefix 10.1.0.0/16
  leno --context shop token create --service cart")]
    Create {
        /// Its name, and that of the context
        name: DnsLabel,
        /// Its trust domain (default: NAME.leno)
        #[arg(long, value_name = "DOMAIN")]
        trust_domain: Option<TrustDomain>,
        /// A network of its members, never called in clear; several by the option again
        #[arg(long = "prefix", value_name = "CIDR")]
        prefixes: Vec<String>,
    },
    /// Show the meshes that you have a role in
    List {
        /// How to print them
        #[arg(long, short, value_enum, default_value = "table")]
        output: Format,
    },
    /// Remove a mesh: its documents, tokens and members' records, and its certificate authority with all keys
    Delete {
        /// Its name
        name: DnsLabel,
        /// Also one that has objects, or hosts that are connected: they lose it
        #[arg(long)]
        purge: bool,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

const MESHES: &str = "/meshes";

/// Runs the command.
pub(crate) async fn mesh(client: &Client, args: &MeshArgs) -> Outcome {
    match &args.command {
        MeshCommand::Create {
            name,
            trust_domain,
            prefixes,
        } => {
            let request = MeshRequest {
                name: name.to_string(),
                trust_domain: trust_domain.as_ref().map(TrustDomain::to_string),
                prefixes: prefixes.clone(),
            };
            create(client, &request).await
        }
        MeshCommand::List { output } => list(client, *output).await,
        MeshCommand::Delete { name, purge, yes } => delete(client, name, *purge, *yes).await,
    }
}

async fn create(client: &Client, request: &MeshRequest) -> Outcome {
    let wanted = Context {
        name: request.name.clone(),
        namespace: "default".into(),
        ..client.context_of(&request.name)
    };
    // Looked at first: a mesh without a way to it would be a riddle.
    let taken = context::load(Some(&wanted.name)).ok();
    if let Some(taken) = taken.filter(|taken| taken.server != wanted.server) {
        let what = format!(
            "there is a context \"{}\" already, of {}",
            taken.name,
            taken.server.text()
        );
        let hint = format!("remove that: leno context delete {}", taken.name);
        return Err(CommandError::refused(what).hint(hint));
    }
    let body = serde_json::to_value(request).map_err(CommandError::failed)?;
    let made: MeshInfo = understood(
        client
            .call_above(http::Method::POST, MESHES, Some(&body))
            .await?,
    )?;
    context::save(&wanted, false)?;
    print(&format!(
        "mesh {} made, trust domain {}",
        made.name, made.trust_domain
    ));
    say!(
        "✔ context \"{name}\" written\nTry: leno --context {name} token create --service NAME  |  leno context use {name}",
        name = made.name
    );
    Ok(0)
}

async fn list(client: &Client, format: Format) -> Outcome {
    let answer = client.call_above(http::Method::GET, MESHES, None).await?;
    if matches!(format, Format::Json | Format::Yaml) {
        print_value(&answer, format)?;
        return Ok(0);
    }
    let meshes: Vec<MeshInfo> = understood(answer)?;
    let row = |mesh: MeshInfo| {
        let agents = format!("{} of {}", mesh.agents_connected, mesh.agents);
        vec![
            mesh.name,
            mesh.trust_domain,
            mesh.state,
            agents,
            mesh.objects.to_string(),
            mesh.tokens.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = meshes.into_iter().map(row).collect();
    let header = [
        "NAME",
        "TRUST-DOMAIN",
        "STATE",
        "CONNECTED",
        "OBJECTS",
        "TOKENS",
    ];
    print_table(&header, &rows);
    Ok(0)
}

async fn delete(client: &Client, name: &DnsLabel, purge: bool, yes: bool) -> Outcome {
    let path = format!("{MESHES}/{name}");
    if !yes {
        let there: MeshInfo = understood(client.call_above(http::Method::GET, &path, None).await?)?;
        say!(
            "removes mesh {name}: {} objects, {} tokens, {} hosts ({} connected), and its certificate authority; none of it comes back",
            there.objects,
            there.tokens,
            there.agents,
            there.agents_connected
        );
        if !is_meant(name)? {
            return Err(CommandError::failed("nothing was removed"));
        }
    }
    let query = if purge { "?purge=true" } else { "" };
    let removed = client
        .call_above(http::Method::DELETE, &format!("{path}{query}"), None)
        .await;
    let removed: MeshInfo = match removed {
        Ok(answer) => understood(answer)?,
        Err(CallError::Refused(refusal)) if refusal.code == 404 => {
            return Err(no_mesh(client, name, refusal.message).await);
        }
        Err(CallError::Refused(refusal)) if refusal.code == 409 && !purge => {
            let hint = format!("leno mesh delete {name} --purge removes it with all that is in it");
            return Err(CommandError::refused(refusal.message).hint(hint));
        }
        Err(error) => return Err(error.into()),
    };
    context::release_server(&client.context_of(name.as_str()).server)?;
    print(&format!(
        "mesh {name} removed: {} objects, {} tokens, {} hosts, its certificate authority",
        removed.objects, removed.tokens, removed.agents
    ));
    Ok(0)
}

/// There is none of this name: perhaps of another.
async fn no_mesh(client: &Client, name: &DnsLabel, what: String) -> CommandError {
    let there = client.call_above(http::Method::GET, MESHES, None).await;
    let there = there.unwrap_or_default();
    let names: Vec<&str> = items(&there, "").map(|mesh| text(mesh, "/name")).collect();
    CommandError::failed(what).hint(known::meant(name.as_str(), &names))
}

/// Asks the person at the terminal; where there is none, nothing is meant that is not said.
fn is_meant(name: &DnsLabel) -> Result<bool, CommandError> {
    if !io::stdin().is_terminal() {
        let what = "a mesh is removed by somebody at a terminal, or with --yes";
        return Err(CommandError::usage(what));
    }
    crate::say::ask("Type its name to remove it:");
    let mut line = String::new();
    io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(CommandError::failed)?;
    Ok(line.trim() == name.as_str())
}
