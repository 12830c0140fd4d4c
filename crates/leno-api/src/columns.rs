//! Tables, as `kubectl get` shows them: for each kind its columns, for each object its cells.

use std::time::SystemTime;

use leno_config::Kind;
use serde_json::{Value, json};

use crate::{object, query::Include};

struct Column {
    name: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    priority: u8,
    description: &'static str,
    cell: fn(&Value, SystemTime) -> String,
}

const fn column(
    name: &'static str,
    priority: u8,
    description: &'static str,
    cell: fn(&Value, SystemTime) -> String,
) -> Column {
    Column {
        name,
        priority,
        description,
        cell,
    }
}

const NAME: Column = column(
    "Name",
    0,
    "The name, unique in its namespace.",
    |object, _| object::meta_text(object, "name").into(),
);
const AGE: Column = column("Age", 0, "The time since it was created.", |object, now| {
    object::age(object::meta_text(object, "creationTimestamp"), now)
});

const SERVICE: &[Column] = &[
    NAME,
    column("Type", 0, "How it is reached.", |object, _| {
        text(object, "/spec/type").unwrap_or("ClusterIP").into()
    }),
    column("Cluster-IP", 0, "Its address in the mesh.", |object, _| {
        let ips = texts(object.pointer("/spec/clusterIPs"));
        text(object, "/spec/clusterIP")
            .map(Into::into)
            .or_else(|| ips.into_iter().next())
            .unwrap_or_else(none)
    }),
    column("External-IP", 0, "Its address outside.", |object, _| {
        joined(texts(object.pointer("/spec/externalIPs")))
    }),
    column("Port(s)", 0, "Its ports.", |object, _| {
        joined(each(object.pointer("/spec/ports"), |port| {
            let protocol = port
                .get("protocol")
                .and_then(Value::as_str)
                .unwrap_or("TCP");
            format!("{}/{protocol}", plain(port.get("port")))
        }))
    }),
    AGE,
    column(
        "Selector",
        1,
        "Which workloads answer for it.",
        |object, _| {
            let pairs = object.pointer("/spec/selector").and_then(Value::as_object);
            joined(
                pairs
                    .into_iter()
                    .flatten()
                    .map(|(key, value)| format!("{key}={}", plain(Some(value))))
                    .collect(),
            )
        },
    ),
    column("Hostnames", 1, "Its further names.", |object, _| {
        joined(each(object.pointer("/status/addresses"), |address| {
            plain(address.get("hostname"))
        }))
    }),
];

const ENDPOINT_SLICE: &[Column] = &[
    NAME,
    column(
        "AddressType",
        0,
        "The family of its addresses.",
        |object, _| text(object, "/addressType").map_or_else(none, Into::into),
    ),
    column("Ports", 0, "The ports of its endpoints.", |object, _| {
        joined(each(object.get("ports"), |port| plain(port.get("port"))))
    }),
    column(
        "Endpoints",
        0,
        "The addresses of its endpoints.",
        |object, _| {
            joined(each(object.get("endpoints"), |endpoint| {
                texts(endpoint.get("addresses")).join(",")
            }))
        },
    ),
    AGE,
];

const HTTP_ROUTE: &[Column] = &[
    NAME,
    column("Services", 0, "Whose requests it is for.", |object, _| {
        joined(each(object.pointer("/spec/parentRefs"), |parent| {
            let name = plain(parent.get("name"));
            match parent.get("port") {
                Some(port) => format!("{name}:{port}"),
                None => name,
            }
        }))
    }),
    column(
        "Backends",
        0,
        "Where each rule sends them, with weights.",
        |object, _| {
            let rules = each(object.pointer("/spec/rules"), backends);
            shortened(rules, "; ")
        },
    ),
    STATUS,
    column("Hostnames", 1, "The host names it is for.", |object, _| {
        joined(texts(object.pointer("/spec/hostnames")))
    }),
    ACCEPTED,
    PROGRAMMED,
    AGE,
];

const STATUS: Column = column(
    "Status",
    0,
    "Whether it is in force; otherwise why not.",
    |object, _| status(object),
);
const ACCEPTED: Column = column("Accepted", 1, "Whether the mesh took it.", |object, _| {
    condition(object, "Accepted")
});
const PROGRAMMED: Column = column(
    "Programmed",
    1,
    "Whether the proxies run it.",
    |object, _| condition(object, "Programmed"),
);

const ACCESS_POLICY: &[Column] = &[
    NAME,
    column("Action", 0, "What its rules do.", |object, _| {
        text(object, "/spec/action").unwrap_or("Allow").into()
    }),
    column("Targets", 0, "What it protects.", |object, _| {
        joined(targets(object))
    }),
    column("Callers", 0, "Whom its rules mean.", |object, _| {
        let rules = object.pointer("/spec/rules").and_then(Value::as_array);
        let callers: Vec<String> = rules.into_iter().flatten().flat_map(callers).collect();
        match callers.is_empty() {
            true => "nobody".into(),
            false => joined(callers),
        }
    }),
    STATUS,
    PROGRAMMED,
    AGE,
];

const AUTHENTICATION_POLICY: &[Column] = &[
    NAME,
    column(
        "Mode",
        0,
        "What its workloads do with plaintext.",
        |object, _| text(object, "/spec/mtls/mode").map_or_else(none, Into::into),
    ),
    column(
        "Ports",
        0,
        "Ports with a mode of their own.",
        |object, _| {
            let levels = object.pointer("/spec/portLevelMtls");
            let levels = levels.and_then(Value::as_object).into_iter().flatten();
            joined(
                levels
                    .map(|(port, level)| format!("{port}={}", plain(level.get("mode"))))
                    .collect(),
            )
        },
    ),
    column("Targets", 0, "What it is for.", |object, _| {
        let labels = object.pointer("/spec/selector/matchLabels");
        let labels = labels.and_then(Value::as_object).into_iter().flatten();
        let labels = labels.map(|(key, value)| format!("{key}={}", plain(Some(value))));
        joined(targets(object).into_iter().chain(labels).collect())
    }),
    STATUS,
    PROGRAMMED,
    AGE,
];

const HOSTNAME_GENERATOR: &[Column] = &[
    NAME,
    column("Template", 0, "What the names are like.", |object, _| {
        text(object, "/spec/template").map_or_else(none, Into::into)
    }),
    column("Services", 0, "Which services get one.", |object, _| {
        let service = object.pointer("/spec/selector/service");
        let of = |key: &str| service.and_then(|service| service.get(key));
        let labels = of("matchLabels").and_then(Value::as_object);
        let labels = labels.into_iter().flatten();
        let mut parts: Vec<String> = labels
            .map(|(key, value)| format!("{key}={}", plain(Some(value))))
            .collect();
        parts.extend(each(of("namespaces"), |name| {
            format!("{}/*", plain(Some(name)))
        }));
        match parts.is_empty() {
            true => "all".into(),
            false => joined(parts),
        }
    }),
    column(
        "Names",
        0,
        "How many services have their name.",
        |object, _| {
            let count = |pointer| object.pointer(pointer).map(|count| plain(Some(count)));
            match (count("/status/names"), count("/status/services")) {
                (Some(names), Some(services)) => format!("{names}/{services}"),
                _ => none(),
            }
        },
    ),
    STATUS,
    PROGRAMMED,
    AGE,
];

const WORKLOAD: &[Column] = &[
    NAME,
    column("Service-Account", 0, "Its identity.", |object, _| {
        text(object, "/spec/serviceAccount").map_or_else(none, Into::into)
    }),
    column("Host", 0, "The host it runs on.", |object, _| {
        text(object, "/spec/host").map_or_else(none, Into::into)
    }),
    column("Address", 0, "Its addresses.", |object, _| {
        let many = texts(object.pointer("/spec/addresses"));
        match text(object, "/spec/address") {
            Some(one) if many.is_empty() => one.into(),
            _ => joined(many),
        }
    }),
    column("Health", 0, "Whether it is healthy.", |object, _| {
        text(object, "/status/health").map_or_else(none, Into::into)
    }),
    AGE,
    column("Service", 1, "The service it is of.", |object, _| {
        text(object, "/spec/service").map_or_else(none, Into::into)
    }),
    column("Version", 1, "Its version.", |object, _| {
        text(object, "/spec/version").map_or_else(none, Into::into)
    }),
    column("Port(s)", 1, "Where it listens.", |object, _| {
        let ports = object.pointer("/spec/ports").and_then(Value::as_array);
        let ports = ports.into_iter().flatten();
        joined(
            ports
                .filter_map(|port| Some(port.get("port")?.to_string()))
                .collect(),
        )
    }),
];

const fn columns(kind: Kind) -> &'static [Column] {
    match kind {
        Kind::Service => SERVICE,
        Kind::EndpointSlice => ENDPOINT_SLICE,
        Kind::HttpRoute => HTTP_ROUTE,
        Kind::AccessPolicy => ACCESS_POLICY,
        Kind::AuthenticationPolicy => AUTHENTICATION_POLICY,
        Kind::HostnameGenerator => HOSTNAME_GENERATOR,
        Kind::Workload => WORKLOAD,
    }
}

/// How a table is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    /// `meta.k8s.io/v1` or `/v1beta1`.
    pub(crate) version: &'static str,
    pub(crate) include: Include,
    pub(crate) now: SystemTime,
}

/// A `Table` of one object; `metadata` is that of the list.
pub(crate) fn table(kind: Kind, object: &Value, metadata: &Value, style: Style) -> Value {
    let mut table = head(kind, metadata, style);
    if let Some(table) = table.as_object_mut() {
        table.insert("rows".into(), json!([row(kind, object, style)]));
    }
    table
}

/// A `Table` but for its rows.
pub(crate) fn head(kind: Kind, metadata: &Value, style: Style) -> Value {
    let definitions: Vec<_> = columns(kind)
        .iter()
        .map(|column| {
            json!({
                "name": column.name,
                "type": "string",
                "format": if column.name == "Name" { "name" } else { "" },
                "description": column.description,
                "priority": column.priority,
            })
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": style.version,
        "metadata": metadata,
        "columnDefinitions": definitions,
    })
}

/// The row of an object.
pub(crate) fn row(kind: Kind, object: &Value, style: Style) -> Value {
    let columns = columns(kind).iter();
    let cells: Vec<_> = columns
        .map(|column| (column.cell)(object, style.now))
        .collect();
    match style.include {
        Include::None => json!({"cells": cells}),
        Include::Metadata => json!({"cells": cells, "object": partial(object)}),
        Include::Object => json!({"cells": cells, "object": object}),
    }
}

/// The `PartialObjectMetadata` of an object.
pub(crate) fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}

/// What the members of `targetRefs` name.
fn targets(object: &Value) -> Vec<String> {
    each(object.pointer("/spec/targetRefs"), |target| {
        let kind = plain(target.get("kind")).to_ascii_lowercase();
        match target.get("name").and_then(Value::as_str) {
            Some(name) => format!("{kind}/{name}"),
            None => kind,
        }
    })
}

fn none() -> String {
    "<none>".into()
}

fn text<'a>(object: &'a Value, pointer: &str) -> Option<&'a str> {
    object.pointer(pointer).and_then(Value::as_str)
}

/// A text without its quotes, anything else as JSON.
fn plain(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

fn each(list: Option<&Value>, show: impl Fn(&Value) -> String) -> Vec<String> {
    let list = list.and_then(Value::as_array);
    list.into_iter().flatten().map(show).collect()
}

fn texts(list: Option<&Value>) -> Vec<String> {
    each(list, |value| plain(Some(value)))
}

/// `a=95,b=5`; a weight only where there is a choice.
fn backends(rule: &Value) -> String {
    let list = rule.get("backendRefs").and_then(Value::as_array);
    let Some(list) = list.filter(|list| !list.is_empty()) else {
        return "(the service itself)".into();
    };
    let one = |backend: &Value| {
        let name = plain(backend.get("name"));
        match backend.get("weight").and_then(Value::as_u64) {
            Some(weight) if list.len() > 1 => format!("{name}={weight}"),
            _ => name,
        }
    };
    list.iter().map(one).collect::<Vec<_>>().join(",")
}

/// Whom a rule of a policy means.
fn callers(rule: &Value) -> Vec<String> {
    let Some(from) = rule.get("from").and_then(Value::as_array) else {
        return vec!["everybody".into()];
    };
    let of = |source: &Value| {
        let accounts = texts(source.get("serviceAccounts"));
        let principals = texts(source.get("principals"));
        let namespaces = each(source.get("namespaces"), |name| {
            format!("{}/*", plain(Some(name)))
        });
        [accounts, principals, namespaces].concat()
    };
    from.iter().flat_map(of).collect()
}

/// At most three, as `kubectl` has it for endpoints: a row stays a row.
fn joined(list: Vec<String>) -> String {
    shortened(list, ",")
}

fn shortened(list: Vec<String>, between: &str) -> String {
    const SHOWN: usize = 3;
    if list.is_empty() {
        return none();
    }
    let rest = list.len().saturating_sub(SHOWN);
    let mut text = list
        .into_iter()
        .take(SHOWN)
        .collect::<Vec<_>>()
        .join(between);
    if rest > 0 {
        text.push_str(&format!(" + {rest} more..."));
    }
    text
}

/// The conditions of an object, its own and those of its parents.
fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    let own = object.pointer("/status/conditions").into_iter();
    let parents = object.pointer("/status/parents").and_then(Value::as_array);
    let parents = parents
        .into_iter()
        .flatten()
        .filter_map(|parent| parent.get("conditions"));
    own.chain(parents).filter_map(Value::as_array).flatten()
}

/// The status of a condition, of the object's own or of every parent's.
fn condition(object: &Value, name: &str) -> String {
    let found: Vec<_> = conditions(object)
        .filter(|condition| condition.get("type").is_some_and(|kind| kind == name))
        .map(|condition| plain(condition.get("status")))
        .collect();
    let worst = found
        .iter()
        .find(|status| *status != "True")
        .or(found.first());
    worst.map_or_else(|| "Unknown".into(), Clone::clone)
}

/// The reason of the first condition that does not hold; `Programmed` when all do.
fn status(object: &Value) -> String {
    let mut failing: Vec<(usize, String)> = conditions(object)
        .filter(|condition| condition.get("status").is_some_and(|is| is == "False"))
        .filter_map(|condition| {
            let kind = condition.get("type").and_then(Value::as_str)?;
            let order = ["Accepted", "ResolvedRefs", "Generated", "Programmed"];
            let at = order
                .iter()
                .position(|of| *of == kind)
                .unwrap_or(order.len());
            Some((at, plain(condition.get("reason"))))
        })
        .collect();
    failing.sort();
    let reason = failing.into_iter().next().map(|(_, reason)| reason);
    reason.unwrap_or_else(|| match conditions(object).next() {
        Some(_) => "Programmed".into(),
        None => "Unknown".into(),
    })
}
