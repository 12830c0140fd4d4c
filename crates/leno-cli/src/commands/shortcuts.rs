//! `leno split`, `allow` and `deny`: they write ordinary documents; `--dry-run -o yaml` shows them.

use clap::Args;
use leno_config::{AccessAction, Kind, SplitBackend, access_policy, httproute_split};
use leno_types::{DnsLabel, ServiceName};
use serde_json::Value;

use super::{apply::apply_values, label, path_of};
use crate::{
    client::Client,
    exit::{CommandError, Outcome},
    output::{Format, items, text},
};

/// Split a service's requests between its versions.
#[derive(Debug, Args)]
pub(crate) struct SplitArgs {
    /// The service
    service: String,
    /// Shares by version, such as v1=95 v2=5
    #[arg(required = true, value_name = "VERSION=WEIGHT")]
    shares: Vec<String>,
    /// Its port (default: every port it has)
    #[arg(long)]
    port: Option<u16>,
    #[command(flatten)]
    common: Common,
}

/// Say who may, or may not, call a service.
#[derive(Debug, Args)]
pub(crate) struct AccessArgs {
    /// Who calls: a service account, NAME or NAMESPACE/NAME; '*' is everybody
    caller: String,
    /// Whom: a service
    service: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Common {
    /// The namespace
    #[arg(long, short)]
    namespace: Option<String>,
    /// Say what would happen, and change nothing; with -o yaml, show the document
    #[arg(long)]
    dry_run: bool,
    /// Do not wait until every proxy that it concerns runs it
    #[arg(long)]
    no_wait: bool,
    /// How to print what happened
    #[arg(long, short, value_enum, default_value = "table")]
    output: Format,
}

impl Common {
    fn namespace(&self, client: &Client) -> Result<DnsLabel, CommandError> {
        label(self.namespace.as_deref().unwrap_or(client.namespace()))
    }
}

/// Writes an HTTPRoute named as the service.
pub(crate) async fn split(client: &Client, args: &SplitArgs) -> Outcome {
    let service = ServiceName::new(args.common.namespace(client)?, label(&args.service)?);
    let ports = ports(client, &service).await?;
    let port = args.port.or_else(|| ports.first().copied()).unwrap_or(80);
    if !ports.is_empty() && !ports.contains(&port) {
        return Err(
            CommandError::failed(format!("service {} has no port {port}", service.name))
                .hint(format!("it has {ports:?}")),
        );
    }
    let mut backends = Vec::new();
    for share in &args.shares {
        let usage = || CommandError {
            code: 2,
            what: format!("\"{share}\" is no share"),
            hint: "write VERSION=WEIGHT, such as v2=5".into(),
        };
        let (version, weight) = share.split_once('=').ok_or_else(usage)?;
        let weight: u32 = weight.trim_end_matches('%').parse().map_err(|_| usage())?;
        backends.push(SplitBackend {
            service: label(&format!("{}-{version}", service.name))?,
            port,
            weight,
        });
    }
    for backend in &backends {
        let name = ServiceName::new(service.namespace.clone(), backend.service.clone());
        if self::ports(client, &name).await?.is_empty() {
            let what = format!(
                "there is no service {} in namespace {}",
                backend.service, service.namespace
            );
            return Err(CommandError::failed(what).hint(
                "start that version first: leno run --service NAME --version VERSION -- PROGRAM",
            ));
        }
    }
    let document = httproute_split(&service, args.port, &backends);
    apply_values(
        client,
        &[document],
        args.common.dry_run,
        !args.common.no_wait,
        args.common.output,
    )
    .await
}

/// A service's ports; none when there is no such service.
async fn ports(client: &Client, service: &ServiceName) -> Result<Vec<u16>, CommandError> {
    let path = path_of(
        Kind::Service,
        Some(service.namespace.as_str()),
        Some(service.name.as_str()),
    );
    match client.get(&path).await {
        Ok(object) => Ok(items(&object, "/spec/ports")
            .filter_map(|port| port.get("port")?.as_u64()?.try_into().ok())
            .collect()),
        Err(crate::client::CallError::Refused(refusal)) if refusal.code == 404 => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// Writes an AccessPolicy, after saying whom it cuts off.
pub(crate) async fn access(client: &Client, action: AccessAction, args: &AccessArgs) -> Outcome {
    let service = ServiceName::new(args.common.namespace(client)?, label(&args.service)?);
    let (namespace, caller) = match args.caller.split_once('/') {
        Some((namespace, caller)) => (label(namespace)?, caller),
        None => (service.namespace.clone(), args.caller.as_str()),
    };
    let callers = match caller {
        "*" => Vec::new(),
        name => vec![(namespace, label(name)?)],
    };
    warn(client, action, &service, callers.first()).await?;
    let verb = match action {
        AccessAction::Allow => "allow",
        AccessAction::Deny => "deny",
    };
    let who = if caller == "*" { "all" } else { caller };
    let name = label(&format!("{verb}-{who}-{}", service.name))?;
    let document = match (action, callers.is_empty()) {
        (AccessAction::Allow, true) => everybody(&name, &service, action),
        (AccessAction::Deny, true) => access_policy(&name, &service, AccessAction::Allow, &[]),
        (_, false) => access_policy(&name, &service, action, &callers),
    };
    apply_values(
        client,
        &[document],
        args.common.dry_run,
        !args.common.no_wait,
        args.common.output,
    )
    .await
}

/// A policy about every peer that proved who it is.
fn everybody(name: &DnsLabel, service: &ServiceName, action: AccessAction) -> Value {
    let mut document = access_policy(name, service, action, &[]);
    if let Some(rules) = document.pointer_mut("/spec/rules") {
        *rules = serde_json::json!([{"from": [{"principals": ["*"]}]}]);
    }
    document
}

/// Who calls the service today and will not be able to any more.
async fn warn(
    client: &Client,
    action: AccessAction,
    service: &ServiceName,
    caller: Option<&(DnsLabel, DnsLabel)>,
) -> Result<(), CommandError> {
    let edges = client.get("/leno/v1/telemetry/edges?window=600s").await?;
    let account = caller.map(|(namespace, name)| format!("/ns/{namespace}/sa/{name}"));
    let called = |edge: &&Value| {
        let destination = text(edge, "/destination");
        let versioned = destination
            .strip_prefix(service.name.as_str())
            .is_some_and(|rest| rest.starts_with('-'));
        destination == service.name.as_str() || versioned
    };
    let mut cut: Vec<&str> = Vec::new();
    for edge in items(&edges, "/edges").filter(called) {
        let is_caller = account
            .as_ref()
            .is_some_and(|account| text(edge, "/source_identity").ends_with(account.as_str()));
        let off = match (action, caller) {
            (AccessAction::Deny, Some(_)) => is_caller,
            (AccessAction::Deny, None) => true,
            (AccessAction::Allow, Some(_)) => !is_caller,
            (AccessAction::Allow, None) => text(edge, "/source_identity").is_empty(),
        };
        let source = text(edge, "/source");
        if off && !cut.contains(&source) {
            cut.push(source);
        }
    }
    if !cut.is_empty() {
        eprintln!(
            "cuts off, of those who called {} in the last ten minutes: {}",
            service.name,
            cut.join(", ")
        );
    }
    Ok(())
}
