//! `leno delete`: by name, or what files say.
//!
//! Invariant: each object has its line, or its error; one that cannot be deleted does not keep the others.

use std::path::PathBuf;

use clap::Args;
use leno_config::Kind;

use super::{apply::documents, kind_of, path_of};
use crate::{
    client::{CallError, Client},
    exit::{CommandError, Outcome},
    output::{items, print, text},
};

/// What only stored objects have.
const WRITTEN: &str = "/metadata/generation";

/// Delete objects.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  leno delete httproute catalog
  leno delete accesspolicies deny-front-cart deny-all-cart
  leno delete httproute/catalog accesspolicy/deny-front-cart
  leno delete accesspolicies --all -n shop
  leno delete -f canary.yaml")]
pub(crate) struct DeleteArgs {
    /// What: KIND NAME.., or KIND/NAME..
    #[arg(value_name = "KIND[/NAME]", required_unless_present = "files")]
    objects: Vec<String>,
    /// All of this kind in the namespace that somebody wrote
    #[arg(long, conflicts_with = "files")]
    all: bool,
    /// What documents name: a file, a directory of files, or - for standard input
    #[arg(
        long = "filename",
        short = 'f',
        value_name = "PATH",
        conflicts_with = "objects"
    )]
    files: Vec<PathBuf>,
    /// The namespace
    #[arg(long, short)]
    namespace: Option<String>,
    /// What is not there is no failure
    #[arg(long)]
    ignore_not_found: bool,
}

/// One object.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    kind: Kind,
    namespace: String,
    name: String,
}

/// Deletes objects.
pub(crate) async fn delete(client: &Client, args: &DeleteArgs) -> Outcome {
    let namespace = args.namespace.as_deref().unwrap_or(client.namespace());
    let objects = if args.all {
        all(client, &args.objects, namespace).await?
    } else if args.files.is_empty() {
        named(&args.objects, namespace)?
    } else {
        let documents = documents(&args.files, namespace).map_err(|error| CommandError {
            what: error
                .what
                .replace("nothing was applied", "nothing was deleted"),
            ..error
        })?;
        let documents = documents.into_iter();
        let of = documents.map(|document| Named {
            kind: document.kind,
            namespace: document.namespace.unwrap_or_else(|| namespace.into()),
            name: document.name,
        });
        of.collect()
    };
    let mut failed: Option<CommandError> = None;
    for object in &objects {
        match delete_one(client, object, args.ignore_not_found).await {
            Ok(()) => {}
            Err(error) if objects.len() == 1 => return Err(error),
            Err(error) => {
                say!("leno: {error}");
                let first = || CommandError {
                    code: error.code,
                    ..CommandError::failed("not everything was deleted")
                };
                failed.get_or_insert_with(first);
            }
        }
    }
    failed.map_or(Ok(0), Err)
}

/// Every object of a kind in a namespace, but for what nobody wrote: that goes with its programs.
async fn all(
    client: &Client,
    words: &[String],
    namespace: &str,
) -> Result<Vec<Named>, CommandError> {
    let [kind] = words else {
        let error = CommandError::usage("--all goes with a kind alone");
        return Err(error.hint("write leno delete KIND --all"));
    };
    let kind = kind_of(kind)?;
    let list = client.get(&path_of(kind, Some(namespace), None)).await?;
    let written = items(&list, "/items").filter(|of| of.pointer(WRITTEN).is_some());
    let named = written.map(|object| Named {
        kind,
        namespace: namespace.into(),
        name: text(object, "/metadata/name").into(),
    });
    let found: Vec<Named> = named.collect();
    if found.is_empty() {
        say!(
            "nobody wrote any {} in namespace {namespace}",
            kind.plural()
        );
    }
    Ok(found)
}

async fn delete_one(
    client: &Client,
    object: &Named,
    ignore_not_found: bool,
) -> Result<(), CommandError> {
    let Named {
        kind,
        namespace,
        name,
    } = object;
    let path = path_of(*kind, Some(namespace), Some(name));
    match client.delete_object(&path).await {
        Ok(warnings) => {
            print(&format!("{}/{name} deleted", kind.singular()));
            for warning in warnings {
                say!("⚠ {warning}");
            }
        }
        Err(CallError::Refused(refusal)) if refusal.code == 404 => {
            if ignore_not_found {
                return Ok(());
            }
            let what = format!(
                "{}/{name} does not exist in namespace {namespace}",
                kind.singular()
            );
            let hint = format!("leno get {} -A shows what there is", kind.plural());
            return Err(CommandError::failed(what).hint(hint));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// `KIND NAME NAME`, or `KIND/NAME KIND/NAME`.
fn named(words: &[String], namespace: &str) -> Result<Vec<Named>, CommandError> {
    let object = |kind: Kind, name: &str| Named {
        kind,
        namespace: namespace.into(),
        name: name.into(),
    };
    let Some((first, rest)) = words.split_first() else {
        return Err(CommandError::usage("which one?").hint("write leno delete KIND NAME"));
    };
    if !first.contains('/') {
        let kind = kind_of(first)?;
        if rest.is_empty() {
            let hint = format!("write leno delete {} NAME", kind.singular());
            return Err(CommandError::usage("which one?").hint(hint));
        }
        if let Some(word) = rest.iter().find(|word| word.contains('/')) {
            let what = format!("\"{word}\" is no name");
            return Err(CommandError::usage(what).hint("write KIND NAME.., or KIND/NAME.."));
        }
        return Ok(rest.iter().map(|name| object(kind, name)).collect());
    }
    let each = words.iter().map(|word| match word.split_once('/') {
        Some((kind, name)) if !name.is_empty() => Ok(object(kind_of(kind)?, name)),
        Some(_) | None => {
            let what = format!("\"{word}\" names no object");
            Err(CommandError::usage(what).hint("write KIND NAME.., or KIND/NAME.."))
        }
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn read(words: &[&str]) -> Result<Vec<String>, CommandError> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        let shown = |of: Named| format!("{}/{}", of.kind.singular(), of.name);
        Ok(named(&words, "default")?.into_iter().map(shown).collect())
    }

    #[test]
    fn objects_are_named_as_with_kubectl() {
        assert_eq!(
            read(&["svc", "a", "b"]).unwrap(),
            ["service/a", "service/b"]
        );
        assert_eq!(
            read(&["svc/a", "httproutes/b"]).unwrap(),
            ["service/a", "httproute/b"]
        );
        for (words, why) in [
            (vec!["svc"], "which one?"),
            (vec!["svc", "svc/a"], "is no name"),
            (vec!["svc/a", "b"], "names no object"),
            (vec!["svc/"], "names no object"),
            (vec!["foo", "a"], "is no kind"),
        ] {
            let error = read(&words).unwrap_err();
            assert_eq!(error.code, 2);
            assert!(error.what.contains(why), "{error}");
        }
    }
}
