//! `leno get`.

use clap::Args;
use leno_config::{Kind, nearest};
use serde_json::{Value, json};

use super::{
    kind_of, path_of,
    watching::{Shown, watch},
};
use crate::{
    client::{CallError, Client},
    exit::{CommandError, Outcome},
    output::{Format, items, print, print_table, print_value, text},
};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// Annotations in which tools keep where an object was written, and how.
pub(super) const TOOLS_ANNOTATIONS: [&str; 3] = [
    leno_config::SOURCE_ANNOTATION,
    leno_config::SOURCE_MAP_ANNOTATION,
    "kubectl.kubernetes.io/last-applied-configuration",
];

/// An object without what the server says of it.
pub(super) fn as_written(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(map) = object.as_object_mut() {
        map.shift_remove("status");
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["uid", "resourceVersion", "generation", "creationTimestamp"] {
            metadata.shift_remove(field);
        }
    }
    object
}

/// Show objects.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  leno get services -A
  leno get httproutes,accesspolicies
  leno get httproute catalog -o yaml
  leno get workloads -l app=catalog --watch")]
pub(crate) struct GetArgs {
    /// What: services, httproutes, accesspolicies, authenticationpolicies, hostnamegenerators, endpointslices, workloads, or several with commas; or KIND/NAME
    #[arg(value_name = "KIND[/NAME]")]
    kind: Option<String>,
    /// Which; all if not given
    name: Option<String>,
    /// The namespace
    #[arg(long, short)]
    namespace: Option<String>,
    /// All namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Only those with these labels
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    selector: Option<String>,
    /// Go on and show every change
    #[arg(long, short)]
    watch: bool,
    /// How to print them
    #[arg(long, short, value_enum, default_value = "table")]
    output: Format,
}

/// Shows objects.
pub(crate) async fn get(client: &Client, args: &GetArgs) -> Outcome {
    let Some(word) = args.kind.as_deref() else {
        let kinds: Vec<&str> = Kind::ALL.iter().map(|kind| kind.plural()).collect();
        let hint = format!("there are {}; leno get KIND", kinds.join(", "));
        return Err(CommandError::usage("which kind?").hint(hint));
    };
    if !word.contains(',') {
        let (kind, name) = split_name(word, args.name.as_deref())?;
        return get_kind(client, args, kind, name).await;
    }
    let kinds: Vec<Kind> = word.split(',').map(kind_of).collect::<Result<_, _>>()?;
    if args.watch || args.name.is_some() {
        let what = "several kinds are neither watched nor looked up by a name";
        return Err(CommandError::usage(what).hint("name one kind"));
    }
    if matches!(args.output, Format::Json | Format::Yaml) {
        let mut all = Vec::new();
        for kind in kinds {
            let list = client.get(&path(client, args, kind, None)).await?;
            all.extend(items(&list, "/items").cloned());
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": all});
        print_value(&list, args.output)?;
        return Ok(0);
    }
    for (index, kind) in kinds.into_iter().enumerate() {
        if index > 0 && args.output != Format::Name {
            print("");
        }
        get_kind(client, args, kind, None).await?;
    }
    Ok(0)
}

/// The path of what is asked for, with its selector.
fn path(client: &Client, args: &GetArgs, kind: Kind, name: Option<&str>) -> String {
    let namespace = args.namespace.as_deref().unwrap_or(client.namespace());
    let namespace = (!args.all_namespaces).then_some(namespace);
    let path = path_of(kind, namespace, name);
    match &args.selector {
        Some(selector) => format!("{path}?labelSelector={}", percent(selector)),
        None => path,
    }
}

async fn get_kind(client: &Client, args: &GetArgs, kind: Kind, name: Option<&str>) -> Outcome {
    let namespace = args.namespace.as_deref().unwrap_or(client.namespace());
    let namespace = (!args.all_namespaces).then_some(namespace);
    let selector = args
        .selector
        .as_deref()
        .map(|selector| format!("labelSelector={}", percent(selector)));
    if args.watch {
        let path = path_of(kind, namespace, None);
        let field = name.map(|name| {
            format!(
                "fieldSelector={}",
                percent(&format!("metadata.name={name}"))
            )
        });
        let query: Vec<String> = [Some("watch=1".to_owned()), selector, field]
            .into_iter()
            .flatten()
            .collect();
        let shown = Shown {
            format: args.output,
            namespaces: args.all_namespaces,
        };
        return watch(client, &format!("{path}?{}", query.join("&")), shown).await;
    }
    let path = path(client, args, kind, name);
    let answer = match args.output {
        Format::Table | Format::Wide => client.get_as(&path, TABLE).await,
        Format::Json | Format::Yaml | Format::Name => client.get(&path).await,
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Err(missing(client, error, (kind, namespace, name)).await),
    };
    match args.output {
        Format::Json | Format::Yaml => print_value(&answer, args.output)?,
        Format::Name => {
            let single = std::slice::from_ref(&answer);
            let all = answer
                .get("items")
                .and_then(Value::as_array)
                .map_or(single, Vec::as_slice);
            all.iter().for_each(|object| {
                print(&format!(
                    "{}/{}",
                    kind.singular(),
                    text(object, "/metadata/name")
                ))
            });
        }
        Format::Table | Format::Wide => table(&answer, args)?,
    }
    Ok(0)
}

/// Where to look for what is not there.
pub(super) async fn missing(
    client: &Client,
    error: CallError,
    (kind, namespace, name): (Kind, Option<&str>, Option<&str>),
) -> CommandError {
    let is_missing = matches!(&error, CallError::Refused(refusal) if refusal.code == 404);
    let error = CommandError::from(error);
    if !is_missing {
        return error;
    }
    let all = format!("leno get {} -A shows what there is", kind.plural());
    let there = client.get(&path_of(kind, namespace, None)).await;
    let there = there.unwrap_or_default();
    let names: Vec<&str> = items(&there, "/items")
        .map(|object| text(object, "/metadata/name"))
        .collect();
    match name.and_then(|name| nearest(name, &names)) {
        Some(near) => error.hint(format!("did you mean {near}? {all}")),
        None => error.hint(all),
    }
}

fn table(answer: &Value, args: &GetArgs) -> Result<(), CommandError> {
    let wide = args.output == Format::Wide;
    let columns: Vec<(usize, &str)> = items(answer, "/columnDefinitions")
        .enumerate()
        .filter(|(_, column)| {
            wide || column.get("priority").and_then(Value::as_u64).unwrap_or(0) == 0
        })
        .map(|(index, column)| (index, text(column, "/name")))
        .collect();
    let cell = |cell: Option<&Value>| match cell {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => "-".into(),
        Some(other) => other.to_string(),
    };
    let rows: Vec<Vec<String>> = items(answer, "/rows")
        .map(|row| {
            let namespace = args
                .all_namespaces
                .then(|| text(row, "/object/metadata/namespace").to_owned());
            let cells = columns
                .iter()
                .map(|(index, _)| cell(row.get("cells").and_then(|cells| cells.get(index))));
            namespace.into_iter().chain(cells).collect()
        })
        .collect();
    if rows.is_empty() {
        say!(
            "there are none{}",
            if args.all_namespaces {
                ""
            } else {
                " in this namespace (-A shows all)"
            }
        );
        return Ok(());
    }
    let upper: Vec<String> = columns
        .iter()
        .map(|(_, name)| name.to_uppercase())
        .collect();
    let header: Vec<&str> = args
        .all_namespaces
        .then_some("NAMESPACE")
        .into_iter()
        .chain(upper.iter().map(String::as_str))
        .collect();
    print_table(&header, &rows);
    Ok(())
}

/// A kind and a name, from `KIND NAME` or `KIND/NAME`.
pub(super) fn split_name<'a>(
    kind: &'a str,
    name: Option<&'a str>,
) -> Result<(Kind, Option<&'a str>), CommandError> {
    match (kind.split_once('/'), name) {
        (Some(_), Some(_)) => Err(CommandError {
            code: 2,
            what: "the name is given twice".into(),
            hint: "write KIND NAME or KIND/NAME".into(),
        }),
        (Some((kind, name)), None) => Ok((kind_of(kind)?, Some(name))),
        (None, name) => Ok((kind_of(kind)?, name)),
    }
}

/// Percent-encodes a query value (RFC 3986 2.1).
fn percent(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    text.bytes()
        .map(|byte| {
            if keep(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}
