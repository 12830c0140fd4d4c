//! What `leno split`, `allow` and `deny` have in common: they write ordinary documents; `--dry-run -o yaml` shows them.

use clap::Args;
use leno_types::DnsLabel;

use super::label;
use crate::{client::Client, exit::CommandError, output::Format};

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
