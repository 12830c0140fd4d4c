//! `leno edit`: one object in a person's own editor.
//!
//! Invariant: what somebody else changed meanwhile is never overwritten, and what was typed is never lost.

use std::{
    env, fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use clap::Args;
use http::Method;
use leno_config::{Kind, parse_documents};
use serde_json::Value;

use super::{
    objects::{as_written, missing, split_name},
    path_of,
};
use crate::{
    client::{CallError, Client},
    exit::{CommandError, Outcome},
    output::{print, shown_as_yaml},
};

/// Change an object in an editor.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  leno edit httproute catalog
  EDITOR=nano leno edit accesspolicy/cart -n shop")]
pub(crate) struct EditArgs {
    /// What: KIND NAME, or KIND/NAME
    #[arg(value_name = "KIND[/NAME]")]
    kind: String,
    /// Which
    name: Option<String>,
    /// The namespace
    #[arg(long, short)]
    namespace: Option<String>,
    /// The editor, with its arguments
    #[arg(long, value_name = "PROGRAM", env = "EDITOR", default_value = "vi")]
    editor: String,
}

/// Lets a person change an object.
pub(crate) async fn edit(client: &Client, args: &EditArgs) -> Outcome {
    let (kind, name) = split_name(&args.kind, args.name.as_deref())?;
    let Some(name) = name else {
        return Err(CommandError::usage("which one?").hint("leno edit KIND NAME"));
    };
    if kind.derived() {
        let what = format!("{} are made from what runs", kind.plural());
        return Err(CommandError::refused(what).hint("they cannot be written"));
    }
    let namespace = args.namespace.as_deref().unwrap_or(client.namespace());
    let path = path_of(kind, Some(namespace), Some(name));
    let live = match client.get(&path).await {
        Ok(live) => live,
        Err(error) => {
            return Err(missing(client, error, (kind, Some(namespace), Some(name))).await);
        }
    };
    let before = shown_as_yaml(&as_written(&live))?;
    let file = temporary(kind, name, &before)?;
    let edited = edit_file(&args.editor, &file);
    let after = fs::read_to_string(&file).unwrap_or_default();
    if edited.is_err() && after == before {
        // Nothing was typed that could be lost.
        drop(fs::remove_file(&file));
    }
    edited?;
    if after == before {
        drop(fs::remove_file(&file));
        print(&format!("{}/{name} unchanged", kind.singular()));
        return Ok(0);
    }
    let kept = || {
        let file = file.display();
        format!("mend it, then: leno apply -f {file}\n  what you wrote is in {file}")
    };
    let mut object = parsed(&file, &after).map_err(|error| {
        let hint = format!("{}\n  {}", error.hint, kept());
        error.hint(hint)
    })?;
    // The version that was edited: whoever wrote meanwhile is not overwritten.
    if let (Some(metadata), Some(version)) = (
        object.get_mut("metadata").and_then(Value::as_object_mut),
        live.pointer("/metadata/resourceVersion"),
    ) {
        metadata.insert("resourceVersion".into(), version.clone());
    }
    let sent = client.call(Method::PUT, &path, Some(("application/json", &object)));
    match sent.await {
        Ok(_) => {
            drop(fs::remove_file(&file));
            print(&format!("{}/{name} configured", kind.singular()));
            Ok(0)
        }
        Err(CallError::Refused(refusal)) => {
            Err(CommandError::refused(refusal.message).hint(kept()))
        }
        Err(error) => Err(CommandError::from(error).hint(kept())),
    }
}

/// A file that nobody else reads, and nobody could have laid there.
fn temporary(kind: Kind, name: &str, text: &str) -> Result<PathBuf, CommandError> {
    let failed = |error| CommandError::failed(format!("a file to edit cannot be made: {error}"));
    for number in 0..1_000_u32 {
        let file = format!(
            "leno-{}-{name}-{}-{number}.yaml",
            kind.singular(),
            std::process::id()
        );
        let path = env::temp_dir().join(file);
        let made = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        match made {
            Ok(mut file) => {
                file.write_all(text.as_bytes()).map_err(failed)?;
                return Ok(path);
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(CommandError::failed("a file to edit cannot be made"))
}

/// Runs the editor, which may have arguments, until it ends.
fn edit_file(editor: &str, file: &Path) -> Result<(), CommandError> {
    let mut words = editor.split_whitespace();
    let status = Command::new(words.next().unwrap_or("vi"))
        .args(words)
        .arg(file)
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(
            CommandError::failed(format!("{editor} ended with {status}")).hint(format!(
                "nothing was changed; what was written, if anything, is in {}",
                file.display()
            )),
        ),
        Err(error) => Err(
            CommandError::failed(format!("{editor} cannot be run: {error}"))
                .hint("EDITOR names another one"),
        ),
    }
}

fn parsed(file: &Path, text: &str) -> Result<Value, CommandError> {
    let wrong = |lines: Vec<String>| {
        CommandError::refused("the document is wrong; nothing was changed").hint(lines.join("\n  "))
    };
    let name = file.display().to_string();
    let documents = parse_documents(&name, text)
        .map_err(|findings| wrong(findings.iter().map(ToString::to_string).collect()))?;
    let [document] = documents.as_slice() else {
        return Err(wrong(vec!["there must be one document in the file".into()]));
    };
    Ok(document.value.clone())
}
