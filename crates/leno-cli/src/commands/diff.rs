//! `leno diff`: what applying documents would change, by the control plane's own word.
//!
//! Invariant: nothing is written; the control plane is asked what it would keep, so its defaults and its refusals show.

use std::{io::IsTerminal, path::PathBuf};

use clap::Args;
use http::Method;
use leno_config::Document;
use serde_json::Value;

use super::{
    apply::documents,
    changed_lines::{Line, unified},
    objects::{TOOLS_ANNOTATIONS, as_written},
    path_of,
};
use crate::{
    client::{CallError, Client},
    exit::{CommandError, Outcome},
    output::{print, shown_as_yaml},
};

/// The exit code that says that something differs.
const DIFFERS: u8 = 1;

/// Show what applying documents would change.
#[derive(Debug, Args)]
#[command(
    after_help = "Exits with 0 where nothing would change, and with 1 where something would.

Examples:
  leno diff -f canary.yaml
  leno diff -f mesh/ -n shop"
)]
pub(crate) struct DiffArgs {
    /// A file, a directory of files, or - for standard input
    #[arg(long = "filename", short = 'f', value_name = "PATH", required = true)]
    files: Vec<PathBuf>,
    /// The namespace of documents that name none
    #[arg(long, short)]
    namespace: Option<String>,
}

/// Shows what would change.
pub(crate) async fn diff(client: &Client, args: &DiffArgs) -> Outcome {
    let namespace = args.namespace.as_deref().unwrap_or(client.namespace());
    let mut differs = false;
    for document in documents(&args.files, namespace)? {
        differs |= diff_one(client, &document).await?;
    }
    Ok(if differs { DIFFERS } else { 0 })
}

async fn diff_one(client: &Client, document: &Document) -> Result<bool, CommandError> {
    let namespace = document.namespace.as_deref();
    let one = path_of(document.kind, namespace, Some(&document.name));
    let before = match client.get(&one).await {
        // A service of what runs is not one that somebody wrote.
        Ok(live) if !is_derived(&live) => Some(live),
        Ok(_) => None,
        Err(CallError::Refused(refusal)) if refusal.code == 404 => None,
        Err(error) => return Err(error.into()),
    };
    let (method, path) = match before {
        Some(_) => (Method::PUT, one),
        None => (Method::POST, path_of(document.kind, namespace, None)),
    };
    let body = document.with_source();
    let after = client
        .call(
            method,
            &format!("{path}?dryRun=All"),
            Some(("application/json", &body)),
        )
        .await;
    let after = after.map_err(|error| match error {
        CallError::Refused(refusal) => {
            let place = format!("{}:{}", document.file, document.line);
            CommandError::refused(format!("{place}: {}", refusal.message))
        }
        other => other.into(),
    })?;
    let text = |value: &Value| shown_as_yaml(&compared(value));
    let old = before.as_ref().map(text).transpose()?.unwrap_or_default();
    let new = text(&after)?;
    let parts = unified(&old, &new);
    if parts.is_empty() {
        return Ok(false);
    }
    let name = format!("{}/{}", document.kind.singular(), document.name);
    let namespace = namespace.unwrap_or("default");
    print(&format!("--- {name} in {namespace}, as it is"));
    print(&format!(
        "+++ {name} in {namespace}, as {}:{} would have it",
        document.file, document.line
    ));
    let paint = Paint::for_output();
    for (head, lines) in parts {
        if let Some(head) = head {
            print(&head);
        }
        for line in lines {
            paint.line(line);
        }
    }
    Ok(true)
}

fn is_derived(object: &Value) -> bool {
    object
        .pointer("/metadata/labels")
        .and_then(|labels| labels.get("leno.dev/derived"))
        .is_some()
}

/// An object without what changes by itself, or says where it was written.
fn compared(object: &Value) -> Value {
    let mut object = as_written(object);
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
        return object;
    };
    if let Some(annotations) = metadata
        .get_mut("annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.retain(|name, _| !TOOLS_ANNOTATIONS.contains(&name.as_str()));
        if annotations.is_empty() {
            metadata.shift_remove("annotations");
        }
    }
    object
}

/// Colours, where a person sees them.
struct Paint(bool);

impl Paint {
    fn for_output() -> Self {
        Self(std::io::stdout().is_terminal() && !crate::places::no_colour())
    }

    fn line(&self, line: Line<'_>) {
        let (mark, colour, text) = match line {
            Line::Same(text) => (' ', "", text),
            Line::Old(text) => ('-', crate::output::RED, text),
            Line::New(text) => ('+', crate::output::GREEN, text),
        };
        if self.0 && !colour.is_empty() {
            crate::output::print_coloured(colour, &format!("{mark}{text}"));
        } else {
            print(&format!("{mark}{text}"));
        }
    }
}
