//! What `leno split`, `allow`, `deny` and `mtls` have in common: they write ordinary documents; `--dry-run -o yaml` shows them.

use std::io::{BufRead, IsTerminal};

use clap::Args;
use leno_types::DnsLabel;
use serde_json::{Value, json};

use super::label;
use crate::{
    client::Client,
    exit::CommandError,
    output::{Format, items},
};

/// The option that names a namespace, where it is not the usual one.
pub(super) fn option(namespace: &str, usual: &str) -> String {
    if namespace == usual {
        return String::new();
    }
    format!(" -n {namespace}")
}

/// Whom writing a document would cut off, as the control plane says it.
pub(super) async fn cuts_off(
    client: &Client,
    document: &Value,
) -> Result<Vec<String>, CommandError> {
    let batch = json!({"items": [document], "dryRun": true});
    let answer = client.post("/leno/v1/apply", &batch).await?;
    let sentences = items(&answer, "/cutsOff").filter_map(Value::as_str);
    Ok(sentences.map(str::to_owned).collect())
}

/// On a terminal, asks whether to go on, unless `unasked`.
pub(super) fn agreed(unasked: bool) -> Result<(), CommandError> {
    let asks = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if unasked || !asks {
        return Ok(());
    }
    crate::say::ask("go on? [y/N]");
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(CommandError::failed("nothing was changed").hint("--yes does not ask"))
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
