//! `leno apply`: all documents of a batch, or none.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use leno_config::{Document, Finding, Kind, admit, parse_documents};
use serde_json::{Value, json};

use super::path_of;
use crate::{
    client::{CallError, Client},
    exit::{CommandError, Outcome},
    output::{Format, items, print, print_value, text},
};

/// So long `--wait` waits at most.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
/// A batch is read up to here.
const MAX_INPUT: u64 = 16 * 1024 * 1024;

/// Apply documents: all of them, or none.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// A file, a directory of files, or - for standard input
    #[arg(long = "filename", short = 'f', value_name = "PATH", required = true)]
    files: Vec<PathBuf>,
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
    let namespace = args.namespace.as_deref().unwrap_or(client.namespace());
    let documents = documents(&args.files, namespace)?;
    if documents.is_empty() {
        return Err(CommandError::failed(
            "there is no document in what was given",
        ));
    }
    apply_documents(client, &documents, args.dry_run, args.wait, args.output).await
}

/// Applies documents that were read or made.
async fn apply_documents(
    client: &Client,
    documents: &[Document],
    dry_run: bool,
    wait: bool,
    format: Format,
) -> Outcome {
    let values: Vec<Value> = documents.iter().map(Document::with_source).collect();
    let answer = match client
        .post(
            "/leno/v1/apply",
            &json!({"items": values, "dryRun": dry_run}),
        )
        .await
    {
        Ok(answer) => answer,
        Err(CallError::Refused(refusal)) => return Err(placed(documents, refusal)),
        Err(error) => return Err(error.into()),
    };
    report(client, &answer, dry_run, wait, format).await
}

/// Applies documents that a command wrote itself.
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
    report(client, &answer, dry_run, wait, format).await
}

async fn report(
    client: &Client,
    answer: &Value,
    dry_run: bool,
    wait: bool,
    format: Format,
) -> Outcome {
    if matches!(format, Format::Json | Format::Yaml) {
        print_value(answer, format)?;
    }
    for item in items(answer, "/items") {
        let kind = Kind::from_type(text(item, "/apiVersion"), text(item, "/kind"));
        let shown = kind.map_or_else(
            || text(item, "/kind").to_lowercase(),
            |kind| kind.singular().to_owned(),
        );
        let name = format!("{shown}/{}", text(item, "/name"));
        let result = if dry_run {
            format!("{} (dry run)", text(item, "/result"))
        } else {
            text(item, "/result").to_owned()
        };
        let programmed = match kind {
            Some(kind) if wait && !dry_run => {
                format!("   {}", programmed(client, kind, item).await?)
            }
            Some(_) | None => String::new(),
        };
        match format {
            Format::Table | Format::Wide => print(&format!("{name} {result}{programmed}")),
            Format::Name => print(&name),
            Format::Json | Format::Yaml => {}
        }
    }
    Ok(0)
}

/// Waits until the proxies run an object; what to say of it.
async fn programmed(client: &Client, kind: Kind, item: &Value) -> Result<String, CommandError> {
    let begun = Instant::now();
    let path = path_of(
        kind,
        Some(text(item, "/namespace")),
        Some(text(item, "/name")),
    );
    let generation = item.get("generation").and_then(Value::as_u64).unwrap_or(0);
    loop {
        let object = client.get(&path).await?;
        let conditions = conditions(&object, generation);
        let find = |name: &str| {
            conditions
                .iter()
                .find(|condition| text(condition, "/type") == name)
        };
        let failed = ["Accepted", "ResolvedRefs"]
            .iter()
            .find_map(|name| find(name).filter(|of| text(of, "/status") == "False"));
        if let Some(condition) = failed {
            let what = format!(
                "{}/{}: {}",
                kind.singular(),
                text(item, "/name"),
                text(condition, "/message")
            );
            return Err(CommandError::refused(what).hint(format!(
                "it is stored, but not in force: {}",
                text(condition, "/reason")
            )));
        }
        // Of a moment ago: nobody has looked at it yet.
        let unseen = conditions.is_empty() && matches!(kind, Kind::HttpRoute | Kind::AccessPolicy);
        let Some(condition) = find("Programmed") else {
            if unseen && begun.elapsed() < PATIENCE {
                tokio::time::sleep(POLL).await;
                continue;
            }
            return Ok("accepted ✔".into());
        };
        if text(condition, "/status") == "True" {
            return Ok(format!(
                "accepted ✔   programmed {}, {:.1} s",
                text(condition, "/message"),
                begun.elapsed().as_secs_f64()
            ));
        }
        if begun.elapsed() > PATIENCE {
            let what = format!(
                "{}/{} is not in force everywhere after {} s: {}",
                kind.singular(),
                text(item, "/name"),
                PATIENCE.as_secs(),
                text(condition, "/message")
            );
            return Err(CommandError::failed(what)
                .hint("leno proxy status shows which proxies are away or refuse it"));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The conditions of this generation, wherever the kind keeps them.
fn conditions(object: &Value, generation: u64) -> Vec<Value> {
    let own = items(object, "/status/conditions");
    let parents = items(object, "/status/parents").flat_map(|parent| items(parent, "/conditions"));
    let observed = |condition: &&Value| {
        condition
            .get("observedGeneration")
            .and_then(Value::as_u64)
            .is_none_or(|observed| observed >= generation)
    };
    own.chain(parents).filter(observed).cloned().collect()
}

/// Reads every document of every file; everything that is wrong with any is told at once.
fn documents(files: &[PathBuf], namespace: &str) -> Result<Vec<Document>, CommandError> {
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
