//! What one proxy has, by kind: endpoints as it sees them now, routes, policies.
//!
//! What it was given, the control plane says; how endpoints stand, the proxy itself.

use serde_json::Value;

use super::{Which, proxies};
use crate::{
    client::Client,
    commands::explain::{rule, state},
    exit::{CommandError, Outcome},
    output::{Format, items, print, print_table, print_value, text},
};

/// The endpoints it knows.
pub(super) async fn endpoints(client: &Client, which: &Which) -> Outcome {
    for proxy in proxies(client, which).await? {
        let host = text(&proxy, "/host");
        let path = format!("/leno/v1/proxies/{host}");
        let mut answer = client.get(&format!("{path}/endpoints")).await?;
        // One that is away, or of an earlier version, says nothing: what it was given is shown all the same.
        let live = client.get(&format!("{path}/standing")).await;
        add_standing(&mut answer, &live.unwrap_or_default());
        if is_document(which) {
            print_value(&answer, which.output)?;
            continue;
        }
        let mut rows = Vec::new();
        for resource in items(&answer, "") {
            for endpoint in items(resource, "/content/endpoints") {
                rows.push(endpoint_row(resource, endpoint));
            }
        }
        print(&format!("{host}:"));
        let header = [
            "SERVICE", "ENDPOINT", "ADDRESS", "VERSION", "HEALTH", "NOW", "IDENTITY",
        ];
        print_table(&header, &rows);
    }
    Ok(0)
}

fn endpoint_row(resource: &Value, endpoint: &Value) -> Vec<String> {
    let of = |pointer: &str| text(endpoint, pointer).to_owned();
    let addresses = items(endpoint, "/addresses").filter_map(Value::as_str);
    let now = match endpoint.pointer("/standing") {
        Some(standing) => state(standing),
        None => "-".into(),
    };
    vec![
        text(resource, "/name").into(),
        of("/name"),
        addresses.take(1).collect(),
        of("/version"),
        of("/health"),
        now,
        of("/identity"),
    ]
}

/// Writes beside each endpoint how the proxy sees it.
fn add_standing(given: &mut Value, live: &Value) {
    let standing = |uid: &str| {
        let mut all = items(live, "").flat_map(|service| items(service, "/endpoints"));
        all.find(|of| text(of, "/uid") == uid).cloned()
    };
    let resources = given.as_array_mut().into_iter().flatten();
    for resource in resources {
        let endpoints = resource.pointer_mut("/content/endpoints");
        let endpoints = endpoints.and_then(Value::as_array_mut);
        for endpoint in endpoints.into_iter().flatten() {
            let found = standing(text(endpoint, "/uid"));
            if let (Some(found), Some(map)) = (found, endpoint.as_object_mut()) {
                map.insert("standing".into(), found);
            }
        }
    }
}

/// The rules by which it routes.
pub(super) async fn routes(client: &Client, which: &Which) -> Outcome {
    let header = ["SERVICE", "RULE", "PORTS", "MATCHES", "BACKENDS"];
    let none = "no route: calls go to the services that they name";
    let of = Rules {
        pointer: "/content/routes",
        header: &header,
        none,
    };
    rules(client, which, &of, |resource, route| {
        let matches: Vec<String> = items(route, "/matches").map(matched).collect();
        let backends = items(route, "/backends").map(|of| {
            let weight = of.pointer("/weight").and_then(Value::as_u64);
            let invalid = match text(of, "/invalid") {
                "" => String::new(),
                why => format!(" ({why})"),
            };
            format!("{}={}{invalid}", text(of, "/service"), weight.unwrap_or(0))
        });
        vec![
            text(resource, "/content/service").into(),
            rule(route.pointer("/from")).unwrap_or_default(),
            list(route, "/ports"),
            if matches.is_empty() {
                "all".into()
            } else {
                matches.join(" or ")
            },
            backends.collect::<Vec<_>>().join(" "),
        ]
    })
    .await
}

/// Who may call its programs.
pub(super) async fn policies(client: &Client, which: &Which) -> Outcome {
    let header = [
        "WORKLOAD",
        "ACTION",
        "PRINCIPALS",
        "NAMESPACES",
        "PORTS",
        "RULE",
    ];
    let of = Rules {
        pointer: "/content/access",
        header: &header,
        none: "no policy for its programs: every member may call them",
    };
    rules(client, which, &of, |resource, access| {
        vec![
            text(resource, "/content/name").into(),
            text(access, "/action").into(),
            list(access, "/principals"),
            list(access, "/namespaces"),
            list(access, "/ports"),
            rule(access.pointer("/from")).unwrap_or_default(),
        ]
    })
    .await
}

/// Rules that resources carry in a list.
struct Rules<'a> {
    pointer: &'a str,
    header: &'a [&'a str],
    /// What it means that there are none.
    none: &'a str,
}

/// A row for each member of a list that some resources have.
async fn rules(
    client: &Client,
    which: &Which,
    of: &Rules<'_>,
    row: impl Fn(&Value, &Value) -> Vec<String>,
) -> Result<u8, CommandError> {
    let pointer = of.pointer;
    let mut documents = Vec::new();
    for proxy in proxies(client, which).await? {
        let host = text(&proxy, "/host");
        let answer = client
            .get(&format!("/leno/v1/proxies/{host}/config"))
            .await?;
        let having: Vec<&Value> = items(&answer, "")
            .filter(|resource| items(resource, pointer).next().is_some())
            .collect();
        if is_document(which) {
            documents.extend(having.into_iter().cloned());
            continue;
        }
        let rows: Vec<Vec<String>> = having
            .iter()
            .flat_map(|resource| items(resource, pointer).map(|rule| row(resource, rule)))
            .collect();
        if rows.is_empty() {
            print(&format!("{host}: {}", of.none));
            continue;
        }
        print(&format!("{host}:"));
        print_table(of.header, &rows);
    }
    if is_document(which) {
        print_value(&Value::Array(documents), which.output)?;
    }
    Ok(0)
}

fn is_document(which: &Which) -> bool {
    matches!(which.output, Format::Json | Format::Yaml)
}

fn list(value: &Value, pointer: &str) -> String {
    let texts: Vec<String> = items(value, pointer)
        .map(|of| {
            of.as_str()
                .map_or_else(|| of.to_string(), ToOwned::to_owned)
        })
        .collect();
    if texts.is_empty() {
        "*".into()
    } else {
        texts.join(",")
    }
}

/// A match in words: method, path, fields.
fn matched(of: &Value) -> String {
    let mut words: Vec<String> = [text(of, "/method"), text(of, "/path")]
        .into_iter()
        .filter(|word| !word.is_empty())
        .map(ToOwned::to_owned)
        .collect();
    for fields in ["/headers", "/query"] {
        words.extend(
            items(of, fields)
                .filter_map(Value::as_str)
                .map(ToOwned::to_owned),
        );
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_proxy_sees_stands_beside_what_it_was_given() {
        let mut given = json!([{"name": "svc/default/cart", "content": {"endpoints": [
            {"uid": "u", "name": "cart-1", "health": "healthy", "addresses": ["10.0.0.2"]}, {"uid": "v", "health": "healthy"}]}}]);
        let live = json!([{"service": "default/cart", "endpoints": [
            {"uid": "u", "health": "healthy", "ejected": {"since_ms": 1000, "left_ms": 2000, "failures": 5, "fault": "503"}}]}]);
        add_standing(&mut given, &live);
        let rows: Vec<Vec<String>> = items(&given, "/0/content/endpoints")
            .map(|endpoint| endpoint_row(&given[0], endpoint))
            .collect();
        assert!(rows[0][5].contains("5 consecutive 503"), "{rows:?}");
        assert_eq!(rows[1][5], "-");
        add_standing(&mut json!({"odd": 1}), &json!(7));
    }
}
