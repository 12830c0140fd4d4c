//! `leno agent list` and `leno agent revoke`.

use clap::{Args, Subcommand};
use leno_config::nearest;
use leno_controlplane::documents::AgentInfo;
use leno_types::DnsLabel;

use crate::{
    client::{CallError, Client},
    exit::{CommandError, Outcome},
    output::{Format, print, print_table, print_value},
    processes::AgentArgs,
    top::ask,
};

const AGENTS: &str = "/leno/v1/agents";

/// Run a host's agent; the host must have joined a mesh.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct AgentCommandArgs {
    #[command(subcommand)]
    pub(crate) command: Option<AgentCommand>,
    #[command(flatten)]
    pub(crate) run: AgentArgs,
}

/// What is done about agents from elsewhere.
#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Show the hosts that are members of the mesh, connected or not
    List {
        /// How to print them
        #[arg(long, short, value_enum, default_value = "table")]
        output: Format,
    },
    /// Let a host's membership count no more: nobody calls its programs, and it comes back with a new token only
    Revoke {
        /// Its name, as leno agent list shows it
        host: DnsLabel,
    },
}

/// Runs the command.
pub(crate) async fn agent(client: &Client, command: &AgentCommand) -> Outcome {
    match command {
        AgentCommand::List { output } => list(client, *output).await,
        AgentCommand::Revoke { host } => revoke(client, host).await,
    }
}

async fn list(client: &Client, format: Format) -> Outcome {
    if matches!(format, Format::Json | Format::Yaml) {
        print_value(&client.get(AGENTS).await?, format)?;
        return Ok(0);
    }
    let agents: Vec<AgentInfo> = ask(client, AGENTS).await?;
    let row = |agent: AgentInfo| vec![agent.name, agent.state, agent.joined, agent.token];
    let rows: Vec<Vec<String>> = agents.into_iter().map(row).collect();
    print_table(&["NAME", "STATE", "JOINED", "TOKEN"], &rows);
    Ok(0)
}

async fn revoke(client: &Client, host: &DnsLabel) -> Outcome {
    match client.delete(&format!("{AGENTS}/{host}")).await {
        Ok(_) => {}
        Err(CallError::Refused(refusal)) if refusal.code == 404 => {
            return Err(unknown(client, host, refusal.message).await);
        }
        Err(error) => return Err(error.into()),
    }
    print(&format!("{host} is a member no more"));
    say!(
        "nobody calls its programs any more; what it holds of certificates ends by itself (after 24 h, if not set otherwise).\na new token lets it in again:  leno token create"
    );
    Ok(0)
}

async fn unknown(client: &Client, host: &DnsLabel, message: String) -> CommandError {
    let error = CommandError::refused(message);
    let Ok(agents) = ask::<Vec<AgentInfo>>(client, AGENTS).await else {
        return error;
    };
    let names: Vec<&str> = agents.iter().map(|agent| agent.name.as_str()).collect();
    let near = nearest(host.as_str(), &names);
    error.hint(match near {
        Some(near) => format!("did you mean \"{near}\"? All of them: leno agent list"),
        None => "all of them: leno agent list".into(),
    })
}
