//! `leno apply`: all documents of a batch, or none.

mod report;

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use clap::Args;
use leno_config::{Document, Finding, admit, parse_documents};
use serde_json::{Value, json};

use self::report::{Asked, report};
use crate::{
    client::{CallError, Client},
    exit::{CommandError, Outcome},
    output::{Format, print_value},
};

/// A batch is read up to here.
const MAX_INPUT: u64 = 16 * 1024 * 1024;

/// Apply documents: all of them, or none.
#[derive(Debug, Args)]
#[command(
    override_usage = "leno apply [OPTIONS] --filename <PATH>",
    after_help = "Examples:
  leno apply -f canary.yaml --dry-run
  leno apply -f canary.yaml --wait
  leno apply -f mesh/ -n shop"
)]
pub(crate) struct ApplyArgs {
    /// A file, a directory of files, or - for standard input
    #[arg(
        long = "filename",
        short = 'f',
        value_name = "PATH",
        required_unless_present = "bare"
    )]
    files: Vec<PathBuf>,
    /// What is given without -f
    #[arg(hide = true)]
    bare: Vec<PathBuf>,
    /// The namespace of documents that name none
    #[arg(long, short)]
    namespace: Option<String>,
    /// Say what would happen, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Wait until every proxy that it concerns runs it
    #[arg(long)]
    wait: bool,
    /// How to print what happened
    #[arg(long, short, value_enum, default_value = "table")]
    output: Format,
}

/// Reads, checks and applies.
pub(crate) async fn apply(client: &Client, args: &ApplyArgs) -> Outcome {
    named(args)?;
    let namespace = args.namespace.as_deref().unwrap_or(client.namespace());
    let documents = documents(&args.files, namespace)?;
    if documents.is_empty() {
        return Err(CommandError::failed(
            "there is no document in what was given",
        ));
    }
    let asked = Asked {
        dry_run: args.dry_run,
        wait: args.wait,
        told: false,
        format: args.output,
    };
    apply_documents(client, &documents, &asked).await
}

/// Documents are named with -f, as everywhere: a word alone is an object's name elsewhere.
fn named(args: &ApplyArgs) -> Result<(), CommandError> {
    if let Some(file) = args.bare.first() {
        return Err(
            CommandError::usage(format!("{} is given without -f", file.display()))
                .hint(format!("leno apply -f {}", file.display())),
        );
    }
    Ok(())
}

/// Applies documents that were read or made.
async fn apply_documents(client: &Client, documents: &[Document], asked: &Asked) -> Outcome {
    let values: Vec<Value> = documents.iter().map(Document::with_source).collect();
    let answer = match client
        .post(
            "/leno/v1/apply",
            &json!({"items": values, "dryRun": asked.dry_run}),
        )
        .await
    {
        Ok(answer) => answer,
        Err(CallError::Refused(refusal)) => return Err(placed(documents, refusal)),
        Err(error) => return Err(error.into()),
    };
    let place = |item: usize, finding| match documents.get(item) {
        Some(document) => document.placed(finding),
        None => finding,
    };
    report(client, &answer, asked, place).await
}

/// Applies documents that a command wrote itself, after it has told whom they cut off.
pub(super) async fn apply_values(
    client: &Client,
    values: &[Value],
    dry_run: bool,
    wait: bool,
    format: Format,
) -> Outcome {
    if dry_run && matches!(format, Format::Yaml | Format::Json) {
        for value in values {
            print_value(value, format)?;
        }
        return Ok(0);
    }
    let answer = client
        .post(
            "/leno/v1/apply",
            &json!({"items": values, "dryRun": dry_run}),
        )
        .await?;
    let asked = Asked {
        dry_run,
        wait,
        told: true,
        format,
    };
    report(client, &answer, &asked, |_, finding| finding).await
}

/// Reads every document of every file; everything that is wrong with any is told at once.
pub(super) fn documents(files: &[PathBuf], namespace: &str) -> Result<Vec<Document>, CommandError> {
    let (mut documents, mut findings) = (Vec::new(), Vec::new());
    for path in expand(files)? {
        let name = path.display().to_string();
        match parse_documents(&name, &read(&path)?) {
            Ok(of) => documents.extend(of),
            Err(of) => findings.extend(of),
        }
    }
    for document in &mut documents {
        if document.namespace.is_none()
            && let Some(metadata) = document
                .value
                .get_mut("metadata")
                .and_then(Value::as_object_mut)
        {
            metadata.insert("namespace".into(), namespace.into());
            document.namespace = Some(namespace.into());
        }
        if let Err(of) = admit(document.kind, document.value.clone()) {
            findings.extend(of.into_iter().map(|finding| document.placed(finding)));
        }
    }
    if findings.is_empty() {
        Ok(documents)
    } else {
        Err(wrong(&findings))
    }
}

fn wrong(findings: &[Finding]) -> CommandError {
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    let what = match findings.len() {
        1 => "a document is wrong; nothing was applied".to_owned(),
        n => format!("{n} things are wrong; nothing was applied"),
    };
    CommandError::refused(what).hint(lines.join("\n  "))
}

/// What the control plane found, with the places in the files.
fn placed(documents: &[Document], refusal: crate::client::Refusal) -> CommandError {
    let finding = |(field, message): &(String, String)| {
        let (item, rest) = field
            .strip_prefix("items[")
            .and_then(|rest| rest.split_once(']'))?;
        let document = documents.get(item.parse::<usize>().ok()?)?;
        Some(document.placed(Finding::new(rest.trim_start_matches('.'), message.clone())))
    };
    let findings: Vec<Finding> = refusal.causes.iter().filter_map(finding).collect();
    if findings.is_empty() {
        CallError::Refused(refusal).into()
    } else {
        wrong(&findings)
    }
}

fn expand(files: &[PathBuf]) -> Result<Vec<PathBuf>, CommandError> {
    let mut all = Vec::new();
    for path in files {
        if !path.is_dir() {
            all.push(path.clone());
            continue;
        }
        let entries = fs::read_dir(path).map_err(|error| unreadable(path, &error))?;
        let mut inside: Vec<PathBuf> = entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .collect();
        inside.retain(|path| {
            path.extension()
                .is_some_and(|kind| kind == "yaml" || kind == "yml" || kind == "json")
        });
        inside.sort();
        all.extend(inside);
    }
    Ok(all)
}

fn read(path: &Path) -> Result<String, CommandError> {
    let mut content = String::new();
    let done = if path == Path::new("-") {
        io::stdin()
            .lock()
            .take(MAX_INPUT)
            .read_to_string(&mut content)
    } else {
        fs::File::open(path).and_then(|file| file.take(MAX_INPUT).read_to_string(&mut content))
    };
    done.map_err(|error| unreadable(path, &error))?;
    if content.len() as u64 == MAX_INPUT {
        return Err(CommandError::refused(format!(
            "{} is larger than {MAX_INPUT} bytes",
            path.display()
        )));
    }
    Ok(content)
}

fn unreadable(path: &Path, error: &io::Error) -> CommandError {
    CommandError::failed(format!("{} cannot be read: {error}", path.display()))
}
