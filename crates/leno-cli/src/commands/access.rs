//! `leno allow` and `leno deny`: an ordinary AccessPolicy, after saying whom it cuts off and what stands in its way.

mod decision;

use clap::Args;
use leno_config::{AccessAction, Kind};
use leno_controlplane::documents::{EdgeList, Proxy, ProxyWorkload};
use leno_types::{ServiceName, TrustDomain, deployed_name};
use serde_json::Value;

use self::decision::{Plan, Wish, plan};
use super::{
    apply::apply_values,
    known::{self, Account, instead},
    label, path_of,
    shortcuts::{Common, agreed, cuts_off, option},
};
use crate::{
    client::Client,
    exit::{CommandError, Outcome},
    output::{Format, items, text},
};

/// Say who may, or may not, call a service.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  leno allow storefront cart
  leno deny shop/storefront cart --dry-run
  leno deny '*' cart")]
pub(crate) struct AccessArgs {
    /// Who calls: a service account, NAME or NAMESPACE/NAME; '*' is everybody
    caller: String,
    /// Whom: a service
    service: String,
    /// Also for a caller or a service that the mesh does not know yet, or where another policy still denies
    #[arg(long)]
    force: bool,
    /// Do not ask before callers are cut off
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    common: Common,
}

/// What the mesh is like before the policy is written.
struct Mesh {
    proxies: Vec<Proxy>,
    edges: EdgeList,
    policies: Vec<Value>,
    domain: TrustDomain,
}

/// Writes an AccessPolicy, after saying whom it cuts off.
pub(crate) async fn access(client: &Client, action: AccessAction, args: &AccessArgs) -> Outcome {
    let service = ServiceName::new(args.common.namespace(client)?, label(&args.service)?);
    let wish = Wish {
        action,
        caller: account(&args.caller, &service)?,
        service: &service,
    };
    let mesh = mesh(client).await?;
    let unknown = unknown(client, &mesh, &wish).await?;
    let only_shown =
        args.common.dry_run && matches!(args.common.output, Format::Yaml | Format::Json);
    for what in unknown {
        if !args.force && !only_shown {
            let hint = "nothing was changed; --force writes the policy all the same";
            return Err(CommandError::refused(what).hint(hint));
        }
        say!("⚠ {what}");
    }
    let ports = ports(&mesh, &service);
    let plan = plan(&wish, &mesh.policies, &mesh.domain, &ports).ok_or_else(|| {
        CommandError::refused("too many policies have the name that this one would get")
            .hint("write the document yourself: the same with --dry-run -o yaml shows it")
    })?;
    still_denied(&plan, args, only_shown)?;
    if !only_shown {
        consent(client, &plan, args).await?;
    }
    write(client, args, &service, &plan, &mesh.policies).await
}

/// Writes the policy, then takes away those that it replaces: until then they deny, as before.
/// `policies` are those that were judged: one that somebody changed since is theirs, and stays.
async fn write(
    client: &Client,
    args: &AccessArgs,
    service: &ServiceName,
    plan: &Plan,
    policies: &[Value],
) -> Outcome {
    let common = &args.common;
    let wait = !common.no_wait;
    let document = [plan.document.clone()];
    let code = apply_values(client, &document, common.dry_run, wait, common.output).await?;
    let namespace = service.namespace.as_str();
    for name in &plan.lifted {
        if common.dry_run {
            say!("accesspolicy/{name}, which leno deny wrote, would be deleted");
            continue;
        }
        let path = path_of(Kind::AccessPolicy, Some(namespace), Some(name));
        let judged = policies.iter().find(|policy| {
            policy["metadata"]["name"] == **name && policy["metadata"]["namespace"] == *namespace
        });
        let revision = judged.map_or(&Value::Null, |of| &of["metadata"]["resourceVersion"]);
        client.delete_at(&path, revision).await?;
        say!("accesspolicy/{name}, which leno deny wrote, is deleted");
    }
    if !common.dry_run && common.output == Format::Table {
        say!("undo: {}", undo(args, namespace, plan, client.namespace()));
    }
    Ok(code)
}

/// The commands after which everything is as it was: a deny that was lifted is written again.
fn undo(args: &AccessArgs, namespace: &str, plan: &Plan, usual: &str) -> String {
    let delete = delete(namespace, &plan.name, usual);
    if plan.lifted.is_empty() {
        return delete;
    }
    let caller = if args.caller == "*" {
        "'*'"
    } else {
        &args.caller
    };
    let option = option(namespace, usual);
    format!("leno deny {caller} {}{option}; {delete}", args.service)
}

/// The command that deletes a policy.
fn delete(namespace: &str, name: &str, usual: &str) -> String {
    let option = option(namespace, usual);
    format!("leno delete accesspolicy {name}{option}")
}

/// The account that a word means; `None` is everybody.
fn account(word: &str, service: &ServiceName) -> Result<Option<Account>, CommandError> {
    match word.split_once('/') {
        None if word == "*" => Ok(None),
        None => Ok(Some((service.namespace.clone(), label(word)?))),
        Some((_, "*")) => Err(CommandError {
            code: 2,
            what: format!("\"{word}\" is no service account"),
            hint: "a whole namespace is a policy of its own: from: [{namespaces: [NAME]}]".into(),
        }),
        Some((namespace, name)) => Ok(Some((label(namespace)?, label(name)?))),
    }
}

async fn mesh(client: &Client) -> Result<Mesh, CommandError> {
    let status = client.get("/leno/v1/status").await?;
    let domain = text(&status, "/trust_domain").parse();
    let policies = client.get(&path_of(Kind::AccessPolicy, None, None)).await?;
    Ok(Mesh {
        proxies: known::proxies(client).await?,
        edges: known::recent(client).await?,
        policies: items(&policies, "/items").cloned().collect(),
        domain: domain.map_err(CommandError::failed)?,
    })
}

/// Names that nobody has.
async fn unknown(
    client: &Client,
    mesh: &Mesh,
    wish: &Wish<'_>,
) -> Result<Vec<String>, CommandError> {
    let mut found = Vec::new();
    let (namespace, name) = (&wish.service.namespace, &wish.service.name);
    let services = known::services(client).await?;
    if !services.contains(wish.service) {
        let there: Vec<_> = services
            .iter()
            .map(|of| (&of.namespace, &of.name))
            .collect();
        let instead = instead(name.as_str(), namespace, &there);
        found.push(format!(
            "there is no service {name} in namespace {namespace}; {instead}"
        ));
    }
    if let Some((namespace, name)) = &wish.caller {
        let accounts = known::accounts(client, &mesh.proxies, &mesh.edges).await;
        if !accounts.contains(&(namespace.clone(), name.clone())) {
            let there: Vec<_> = accounts.iter().map(|(of, name)| (of, name)).collect();
            let instead = match account_of(mesh, name.as_str()) {
                Some((of, account)) => {
                    format!("the program {name} runs as {of}/{account}: name that")
                }
                None => instead(name.as_str(), namespace, &there),
            };
            found.push(format!(
                "no program runs as service account {namespace}/{name}, and none called of late; {instead}"
            ));
        }
    }
    Ok(found)
}

/// The programs that are registered for a service.
fn workloads<'m>(mesh: &'m Mesh, service: &ServiceName) -> impl Iterator<Item = &'m ProxyWorkload> {
    let all = mesh.proxies.iter().flat_map(|proxy| &proxy.workloads);
    all.filter(|workload| {
        workload.service.as_deref() == Some(service.name.as_str())
            && workload.namespace == service.namespace.as_str()
    })
}

/// The programs' ports of a service; rules name those.
fn ports(mesh: &Mesh, service: &ServiceName) -> Vec<u16> {
    let mut ports: Vec<u16> = workloads(mesh, service)
        .flat_map(|workload| &workload.ports)
        .filter_map(|port| {
            let port = port
                .rsplit_once(':')
                .map_or(port.as_str(), |(_, port)| port);
            port.split('/').next()?.parse().ok()
        })
        .collect();
    ports.sort_unstable();
    ports.dedup();
    if ports.is_empty() {
        // Of an applied service, or one that does not run: what is for any port.
        ports.push(0);
    }
    ports
}

/// Under which account a program of this name runs, or ran when it called of late.
fn account_of(mesh: &Mesh, name: &str) -> Option<Account> {
    let calls = mesh.edges.edges.iter();
    let calls = calls.filter(|edge| edge.source == name);
    let called = calls.filter_map(|edge| edge.source_identity.as_deref());
    let all = mesh.proxies.iter().flat_map(|proxy| &proxy.workloads);
    let of_name = |workload: &&ProxyWorkload| deployed_name(&workload.name) == name;
    let running = all.filter(of_name).map(|of| of.identity.as_str());
    called.chain(running).find_map(known::account)
}

/// An allow that does nothing because something denies is no success.
fn still_denied(plan: &Plan, args: &AccessArgs, only_shown: bool) -> Result<(), CommandError> {
    if plan.denying.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = plan
        .denying
        .iter()
        .map(|(namespace, name)| format!("{namespace}/{name}"))
        .collect();
    let who = if args.caller == "*" {
        "everybody"
    } else {
        &args.caller
    };
    let what = format!(
        "deny beats allow: {} still denies {who} at {}",
        names.join(", "),
        args.service
    );
    if args.force || only_shown {
        say!("⚠ {what}");
        return Ok(());
    }
    let commands: Vec<String> = plan
        .denying
        .iter()
        .map(|(namespace, name)| delete(namespace, name, ""))
        .collect();
    Err(CommandError::refused(what).hint(format!(
        "nothing was changed; first {}, or write the allow for later with --force",
        commands.join("; ")
    )))
}

/// Says who is cut off; on a terminal, asks. A deny that is lifted keeps nobody in.
async fn consent(client: &Client, plan: &Plan, args: &AccessArgs) -> Result<(), CommandError> {
    let cut_off = cuts_off(client, &plan.document).await?;
    if cut_off.is_empty() {
        return Ok(());
    }
    for sentence in cut_off {
        say!("⚠ {sentence}");
    }
    agreed(args.yes || args.common.dry_run)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_programs_name_leads_to_its_account() {
        let workload = ProxyWorkload {
            name: "curl-9f2c".into(),
            identity: "spiffe://d.leno/ns/default/sa/default".into(),
            ..ProxyWorkload::default()
        };
        let proxy = Proxy {
            workloads: vec![workload],
            ..Proxy::default()
        };
        let mesh = Mesh {
            proxies: vec![proxy],
            edges: EdgeList::default(),
            policies: Vec::new(),
            domain: "d.leno".parse().unwrap(),
        };
        let label = |text: &str| text.parse().unwrap();
        let found = Some((label("default"), label("default")));
        assert_eq!(account_of(&mesh, "curl"), found);
        assert_eq!(account_of(&mesh, "cur"), None);
    }
}
