//! `leno split`, and what it has in common with `allow` and `deny`: they write ordinary documents; `--dry-run -o yaml`
//! shows them.

use clap::Args;
use leno_config::{Kind, SplitBackend, httproute_split};
use leno_types::{DnsLabel, ServiceName};

use super::{apply::apply_values, label, path_of};
use crate::{
    client::Client,
    exit::{CommandError, Outcome},
    output::{Format, items},
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

#[derive(Debug, Args)]
pub(super) struct Common {
    /// The namespace
    #[arg(long, short)]
    pub(super) namespace: Option<String>,
    /// Say what would happen, and change nothing; with -o yaml, show the document
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do not wait until every proxy that it concerns runs it
    #[arg(long)]
    pub(super) no_wait: bool,
    /// How to print what happened
    #[arg(long, short, value_enum, default_value = "table")]
    pub(super) output: Format,
}

impl Common {
    pub(super) fn namespace(&self, client: &Client) -> Result<DnsLabel, CommandError> {
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
