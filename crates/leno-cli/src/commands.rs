//! Commands that speak to the API.

mod access;
mod agent;
mod apply;
mod audit;
mod backup;
mod changed_lines;
mod check;
mod delete;
mod describe;
mod diff;
mod edit;
mod explain;
mod failing;
mod known;
mod logs;
mod mesh;
mod mtls;
mod objects;
mod person;
mod proxy;
mod shortcuts;
mod split;
mod status;
mod token;
mod watching;

pub(crate) use access::{AccessArgs, access};
pub(crate) use agent::{AgentCommandArgs, agent};
pub(crate) use apply::{ApplyArgs, apply};
pub(crate) use audit::{AuditArgs, audit};
pub(crate) use backup::{BackupArgs, backup};
pub(crate) use check::{CheckArgs, check};
pub(crate) use delete::{DeleteArgs, delete};
pub(crate) use describe::{DescribeArgs, describe};
pub(crate) use diff::{DiffArgs, diff};
pub(crate) use edit::{EditArgs, edit};
pub(crate) use explain::{ExplainArgs, explain};
pub(crate) use logs::{LogsArgs, logs};
pub(crate) use mesh::{MeshArgs, mesh};
pub(crate) use mtls::{MtlsArgs, mtls};
pub(crate) use objects::{GetArgs, get};
pub(crate) use person::{ContextArgs, UserArgs, certified, contexts, user};
pub(crate) use proxy::{ProxyArgs, Which, proxy, proxy_status};
pub(crate) use split::{SplitArgs, split};
pub(crate) use status::{StatusArgs, status};
pub(crate) use token::{TokenArgs, token};

use leno_config::Kind;
use leno_types::DnsLabel;

use crate::{client::Client, context, exit::CommandError};

/// The client of the context that a command line names.
pub(crate) fn client(name: Option<&str>) -> Result<Client, CommandError> {
    Ok(Client::new(context::load(name)?))
}

/// The path of a kind's objects, below the mesh.
pub(crate) fn path_of(kind: Kind, namespace: Option<&str>, name: Option<&str>) -> String {
    let group = if kind.group().is_empty() {
        format!("/api/{}", kind.version())
    } else {
        format!("/apis/{}", kind.api_version())
    };
    let namespace = namespace
        .map(|namespace| format!("/namespaces/{namespace}"))
        .unwrap_or_default();
    let name = name.map(|name| format!("/{name}")).unwrap_or_default();
    format!("{group}{namespace}/{}{name}", kind.plural())
}

/// The kind that a word means.
fn kind_of(word: &str) -> Result<Kind, CommandError> {
    Kind::from_name(word).ok_or_else(|| {
        let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.plural()).collect();
        CommandError {
            code: 2,
            what: format!("\"{word}\" is no kind"),
            hint: match leno_config::instead_of(word) {
                Some(instead) => instead.to_owned(),
                None => format!("there are {}", known.join(", ")),
            },
        }
    })
}

/// A name on the command line.
fn label(text: &str) -> Result<DnsLabel, CommandError> {
    text.parse().map_err(|error| CommandError {
        code: 2,
        what: format!("{error}"),
        hint: String::new(),
    })
}
