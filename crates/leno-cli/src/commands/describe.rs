//! `leno describe`: one object, or all of a kind, with what became of it and what belongs to it.
//!
//! Only what the API tells is shown; nothing is worked out here that the control plane would decide.

use clap::Args;
use leno_config::Kind;
use serde_json::Value;

use super::{
    objects::{TOOLS_ANNOTATIONS, missing, split_name},
    path_of,
};
use crate::{
    client::Client,
    exit::{CommandError, Outcome},
    output::{items, print, print_table, shown_as_yaml, text},
};

/// Show an object with what became of it and what belongs to it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  leno describe service catalog
  leno describe httproute/catalog
  leno describe workloads -n shop")]
pub(crate) struct DescribeArgs {
    /// What: KIND NAME, KIND/NAME, or KIND for all of them
    #[arg(value_name = "KIND[/NAME]")]
    kind: String,
    /// Which; all if not given
    name: Option<String>,
    /// The namespace
    #[arg(long, short)]
    namespace: Option<String>,
}

/// Describes objects.
pub(crate) async fn describe(client: &Client, args: &DescribeArgs) -> Outcome {
    let (kind, name) = split_name(&args.kind, args.name.as_deref())?;
    let namespace = args.namespace.as_deref().unwrap_or(client.namespace());
    let path = path_of(kind, Some(namespace), name);
    let answer = match client.get(&path).await {
        Ok(answer) => answer,
        Err(error) => return Err(missing(client, error, (kind, Some(namespace), name)).await),
    };
    if name.is_some() {
        return describe_one(client, kind, &answer).await.map(|()| 0);
    }
    let mut first = true;
    for object in items(&answer, "/items") {
        if !std::mem::take(&mut first) {
            print("");
            print("");
        }
        describe_one(client, kind, object).await?;
    }
    if first {
        say!("there are none in this namespace");
    }
    Ok(0)
}

async fn describe_one(client: &Client, kind: Kind, object: &Value) -> Result<(), CommandError> {
    let namespace = text(object, "/metadata/namespace");
    let name = text(object, "/metadata/name");
    let line = |label: &str, value: &str| print(&format!("{:<14}{value}", format!("{label}:")));
    line("Name", name);
    line("Namespace", namespace);
    line("Kind", kind.kind());
    line("Labels", &pairs(object.pointer("/metadata/labels"), &[]));
    let annotations = object.pointer("/metadata/annotations");
    let annotations = pairs(annotations, &TOOLS_ANNOTATIONS);
    line("Annotations", &annotations);
    let annotation = |name: &str| {
        let all = object.pointer("/metadata/annotations")?;
        all.get(name).and_then(Value::as_str)
    };
    if let Some(source) = annotation(leno_config::SOURCE_ANNOTATION) {
        line("Written at", source);
    }
    line("Created", text(object, "/metadata/creationTimestamp"));
    for (field, value) in object.as_object().into_iter().flatten() {
        let is_content = !matches!(
            field.as_str(),
            "apiVersion" | "kind" | "metadata" | "status"
        );
        if is_content && kind != Kind::EndpointSlice {
            section(field, value)?;
        }
    }
    if kind == Kind::EndpointSlice {
        endpoints(std::slice::from_ref(object));
    }
    status(object)?;
    if kind == Kind::Service {
        belongings(client, namespace, name).await?;
    }
    Ok(())
}

/// `a=b, c=d`.
fn pairs(map: Option<&Value>, hidden: &[&str]) -> String {
    let map = map.and_then(Value::as_object).into_iter().flatten();
    let shown: Vec<String> = map
        .filter(|(name, _)| !hidden.contains(&name.as_str()))
        .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
        .collect();
    match shown.is_empty() {
        true => "<none>".into(),
        false => shown.join(", "),
    }
}

fn section(name: &str, value: &Value) -> Result<(), CommandError> {
    let mut title: String = name.into();
    if let Some(first) = title.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    print(&format!("{title}:"));
    for line in shown_as_yaml(&without_nulls(value))?.lines() {
        print(&format!("  {line}"));
    }
    Ok(())
}

/// A field that is null says nothing to people.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let said = fields.iter().filter(|(_, value)| !value.is_null());
            let said = said.map(|(name, value)| (name.clone(), without_nulls(value)));
            Value::Object(said.collect())
        }
        Value::Array(list) => list.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

/// Conditions as a table; what else a status says below it.
fn status(object: &Value) -> Result<(), CommandError> {
    let row = |parent: &str, condition: &Value| {
        let of = |pointer| text(condition, pointer).to_owned();
        vec![
            parent.to_owned(),
            of("/type"),
            of("/status"),
            of("/reason"),
            of("/lastTransitionTime"),
            of("/message"),
        ]
    };
    let mut rows: Vec<Vec<String>> = items(object, "/status/conditions")
        .map(|condition| row("-", condition))
        .collect();
    for parent in items(object, "/status/parents") {
        let name = format!("service/{}", text(parent, "/parentRef/name"));
        rows.extend(items(parent, "/conditions").map(|condition| row(&name, condition)));
    }
    if !rows.is_empty() {
        print("Conditions:");
        let header = ["PARENT", "TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"];
        print_table(&header, &rows);
    }
    let mut rest = object.get("status").cloned().unwrap_or_default();
    if let Some(rest) = rest.as_object_mut() {
        for shown in ["conditions", "parents"] {
            rest.shift_remove(shown);
        }
        rest.retain(|_, value| !matches!(value, Value::Object(map) if map.is_empty()));
    }
    match rest.as_object() {
        Some(map) if !map.is_empty() => section("status", &rest),
        _ => Ok(()),
    }
}

/// What belongs to a service: who answers, which routes and policies are for it.
async fn belongings(client: &Client, namespace: &str, name: &str) -> Result<(), CommandError> {
    let selector = format!("?labelSelector=kubernetes.io%2Fservice-name%3D{name}");
    let path = path_of(Kind::EndpointSlice, Some(namespace), None);
    let slices = client.get(&format!("{path}{selector}")).await?;
    let slices: Vec<Value> = items(&slices, "/items").cloned().collect();
    endpoints(&slices);
    for (kind, title, references) in [
        (Kind::HttpRoute, "Routes", "/spec/parentRefs"),
        (Kind::AccessPolicy, "Policies", "/spec/targetRefs"),
        (Kind::AuthenticationPolicy, "Plaintext", "/spec/targetRefs"),
    ] {
        let all = client.get(&path_of(kind, Some(namespace), None)).await?;
        let is_of = |object: &&Value| {
            items(object, references).any(|of| {
                let whole = matches!(text(of, "/kind"), "Namespace" | "Mesh");
                whole || (text(of, "/kind") == "Service" && text(of, "/name") == name)
            })
        };
        let names: Vec<String> = items(&all, "/items")
            .filter(is_of)
            .map(|object| format!("{}/{}", kind.singular(), text(object, "/metadata/name")))
            .collect();
        let shown = match names.is_empty() {
            true => "<none>".into(),
            false => names.join(", "),
        };
        print(&format!("{:<14}{shown}", format!("{title}:")));
    }
    Ok(())
}

fn endpoints(slices: &[Value]) {
    let mut rows = Vec::new();
    for slice in slices {
        let ports: Vec<String> = items(slice, "/ports")
            .filter_map(|port| port.get("port").map(ToString::to_string))
            .collect();
        for endpoint in items(slice, "/endpoints") {
            let addresses: Vec<&str> = items(endpoint, "/addresses")
                .filter_map(Value::as_str)
                .collect();
            let ready = endpoint.pointer("/conditions/ready") == Some(&Value::Bool(true));
            rows.push(vec![
                addresses.join(","),
                ports.join(","),
                if ready { "yes" } else { "no" }.to_owned(),
                text(endpoint, "/targetRef/name").to_owned(),
            ]);
        }
    }
    if rows.is_empty() {
        print("Endpoints:    <none>");
        return;
    }
    print("Endpoints:");
    print_table(&["ADDRESS", "PORTS", "READY", "WORKLOAD"], &rows);
}
