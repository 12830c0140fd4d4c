//! `leno mtls`: which ports take plaintext, who uses it, and an ordinary AuthenticationPolicy that ends or allows it, after
//! saying whom it cuts off.

mod decision;
mod show;

use clap::{Args, Subcommand};
use leno_config::{Kind, MtlsMode};
use leno_controlplane::documents::MtlsList;
use leno_types::{DnsLabel, ServiceName};
use serde_json::Value;

use self::decision::{Decided, Plan, Scope, Wish, plan};
use super::{
    apply::apply_values,
    known::{self, instead},
    label, path_of,
    shortcuts::{Common, agreed, cuts_off, option},
};
use crate::{
    client::Client,
    exit::{CommandError, Outcome},
    output::{Format, items, print_value},
    top::ask,
};

pub(super) use show::{callers, place};

/// Where the page is.
const PAGE: &str = "/leno/v1/mtls";

/// Say which ports take mutual TLS only, and see who calls in plaintext
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:
  leno mtls
  leno mtls strict
  leno mtls strict web
  leno mtls permissive web --port 9090
  leno mtls strict -n shop --dry-run -o yaml")]
pub(crate) struct MtlsArgs {
    #[command(subcommand)]
    command: Option<MtlsCommand>,
    /// Ports of this namespace only
    #[arg(long, short)]
    namespace: Option<String>,
    /// How to print it
    #[arg(long, short, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum MtlsCommand {
    /// Refuse plaintext from outside the mesh: everywhere, in a namespace (-n), or at a service
    Strict(ModeArgs),
    /// Let plaintext in at published ports
    Permissive(ModeArgs),
}

#[derive(Debug, Args)]
struct ModeArgs {
    /// The service; without one the namespace that -n names, or the whole mesh
    service: Option<String>,
    /// Only this port at which the service's program listens; may be repeated
    #[arg(long = "port", value_name = "PORT", requires = "service", value_parser = clap::value_parser!(u16).range(1..))]
    ports: Vec<u16>,
    /// Do not ask before callers are cut off
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    common: Common,
}

/// Runs the command.
pub(crate) async fn mtls(client: &Client, args: &MtlsArgs) -> Outcome {
    match &args.command {
        None => status(client, args).await,
        Some(MtlsCommand::Strict(args)) => set(client, MtlsMode::Strict, args).await,
        Some(MtlsCommand::Permissive(args)) => set(client, MtlsMode::Permissive, args).await,
    }
}

/// What every port does, and who calls it in clear.
pub(super) async fn list(client: &Client) -> Result<MtlsList, CommandError> {
    ask(client, PAGE).await
}

async fn status(client: &Client, args: &MtlsArgs) -> Outcome {
    let mut list = list(client).await?;
    if let Some(namespace) = &args.namespace {
        let namespace = label(namespace)?;
        list.ports
            .retain(|port| port.namespace == namespace.as_str());
    }
    if matches!(args.output, Format::Json | Format::Yaml) {
        let value = serde_json::to_value(&list).map_err(CommandError::failed)?;
        print_value(&value, args.output)?;
    } else {
        show::table(&list);
    }
    Ok(0)
}

async fn set(client: &Client, mode: MtlsMode, args: &ModeArgs) -> Outcome {
    let home = args.common.namespace(client)?;
    let scope = match (&args.service, &args.common.namespace) {
        (Some(service), _) => Scope::Service(ServiceName::new(home.clone(), label(service)?)),
        (None, Some(_)) => Scope::Namespace(home.clone()),
        (None, None) => Scope::Mesh,
    };
    let wish = Wish {
        mode,
        scope: &scope,
        home: &home,
        ports: &args.ports,
    };
    let list = list(client).await?;
    if let Scope::Service(service) = &scope {
        exists(client, service).await?;
    }
    let policies = client
        .get(&path_of(Kind::AuthenticationPolicy, None, None))
        .await?;
    let policies: Vec<Value> = items(&policies, "/items").cloned().collect();
    let plan = match plan(&wish, &policies, &list.ports) {
        Ok(plan) => plan,
        Err(Decided {
            policy,
            source,
            why,
        }) => {
            let place = source
                .map(|source| format!(" ({source})"))
                .unwrap_or_default();
            return Err(CommandError::refused(format!(
                "AuthenticationPolicy {policy}{place} {why}"
            ))
            .hint(format!("nothing was changed; {}", see(&policy))));
        }
    };
    write(client, args, &plan, &home).await
}

/// The command that shows a policy of this name.
fn see(policy: &str) -> String {
    let (namespace, name) = policy.split_once('/').unwrap_or(("default", policy));
    format!("change or delete that one: leno get authn {name} -n {namespace} -o yaml shows it")
}

async fn exists(client: &Client, service: &ServiceName) -> Result<(), CommandError> {
    let services = known::services(client).await?;
    if services.contains(service) {
        return Ok(());
    }
    let there: Vec<_> = services
        .iter()
        .map(|of| (&of.namespace, &of.name))
        .collect();
    let instead = instead(service.name.as_str(), &service.namespace, &there);
    let (name, namespace) = (&service.name, &service.namespace);
    Err(CommandError::refused(format!(
        "there is no service {name} in namespace {namespace}; {instead}"
    )))
}

/// Says what comes of it, asks where somebody loses by it, and writes the policy.
async fn write(client: &Client, args: &ModeArgs, plan: &Plan, home: &DnsLabel) -> Outcome {
    let common = &args.common;
    let only_shown = common.dry_run && matches!(common.output, Format::Yaml | Format::Json);
    if !only_shown {
        for stays in &plan.stays {
            say!("⚠ {stays}");
        }
        let cut_off = cuts_off(client, &plan.document).await?;
        if !cut_off.is_empty() {
            for sentence in cut_off {
                say!("⚠ {sentence}");
            }
            say!("a caller stays by becoming a member: leno run -- PROGRAM");
            agreed(args.yes || common.dry_run)?;
        }
    }
    let document = [plan.document.clone()];
    let wait = !common.no_wait;
    let code = apply_values(client, &document, common.dry_run, wait, common.output).await?;
    if !common.dry_run && common.output == Format::Table {
        let option = option(home.as_str(), client.namespace());
        say!("undo: {}", plan.undo(&option));
    }
    Ok(code)
}
