//! Strategic merge patch for Service: a merge patch that knows that `spec.ports` is keyed by `port`.
//!
//! `kubectl apply` sends a *changed* Service in this form. Directives: `$patch` (replace, delete, merge),
//! `$setElementOrder/LIST`, `$deleteFromPrimitiveList/LIST`, `$retainKeys`; another one is an error, not a field.
//! The merge keys are those of the `patchMergeKey` tags in Kubernetes' `core/v1` types.

use serde_json::{Map, Value};

use crate::patch::PatchError;

/// How a list of a Service is merged.
#[derive(Clone, Copy)]
enum ListRule {
    /// Objects, the same when this field is.
    ByKey(&'static str),
    /// Values, as a set.
    Set,
}

/// The lists that are merged; any other is replaced.
fn rule(path: &[&str]) -> Option<ListRule> {
    match path {
        ["spec", "ports"] => Some(ListRule::ByKey("port")),
        ["metadata", "ownerReferences"] => Some(ListRule::ByKey("uid")),
        ["metadata", "finalizers"] => Some(ListRule::Set),
        _ => None,
    }
}

/// Comparisons that one list may take: what is merged by key is looked for one by one.
const MAX_COMPARED: usize = 1_000_000;

const SET_ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

/// Applies `patch` to a Service.
pub(crate) fn service(target: &mut Value, patch: Value) -> Result<(), PatchError> {
    let Value::Object(patch) = patch else {
        return Err(malformed("a strategic merge patch is an object"));
    };
    object(target, patch, &[])
}

fn bounded(these: usize, those: usize) -> Result<(), PatchError> {
    if these.saturating_mul(those) > MAX_COMPARED {
        return Err(malformed(
            "the patch has lists that are too long to be merged",
        ));
    }
    Ok(())
}

fn malformed(text: impl Into<String>) -> PatchError {
    PatchError::Malformed(text.into())
}

fn object(
    target: &mut Value,
    mut patch: Map<String, Value>,
    path: &[&str],
) -> Result<(), PatchError> {
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(here) = target.as_object_mut() else {
        return Ok(());
    };
    match patch
        .shift_remove("$patch")
        .as_ref()
        .map(|value| value.as_str())
    {
        None | Some(Some("merge")) => {}
        Some(Some("replace")) => here.clear(),
        Some(Some("delete")) => {
            here.clear();
            return Ok(());
        }
        Some(_) => return Err(malformed("$patch is replace, delete or merge")),
    }
    if let Some(retain) = patch.shift_remove("$retainKeys") {
        let retain = strings(&retain)?;
        bounded(here.len(), retain.len())?;
        here.retain(|name, _| retain.contains(&name.as_str()));
    }
    // All at once: one that is taken out by itself moves all that stand behind it.
    here.retain(|name, _| !patch.get(name).is_some_and(takes_out));
    let mut orders = Vec::new();
    for (name, value) in patch {
        if takes_out(&value) && !name.starts_with('$') {
            continue;
        }
        if let Some(list) = name.strip_prefix(SET_ORDER) {
            orders.push((list.to_owned(), value));
        } else if let Some(list) = name.strip_prefix(DELETE_FROM) {
            let gone = value
                .as_array()
                .ok_or_else(|| malformed(format!("{name} is a list")))?;
            if let Some(Value::Array(list)) = here.get_mut(list) {
                bounded(list.len(), gone.len())?;
                list.retain(|item| !gone.contains(item));
            }
        } else if name.starts_with('$') {
            return Err(malformed(format!("the directive {name} is not known")));
        } else {
            field(here, name, value, path)?;
        }
    }
    for (name, order) in orders {
        let inner: Vec<&str> = path.iter().copied().chain([name.as_str()]).collect();
        let rule = rule(&inner).ok_or_else(|| malformed(format!("{name} has no merge order")))?;
        let order = order
            .as_array()
            .ok_or_else(|| malformed(format!("{SET_ORDER}{name} is a list")))?;
        if let Some(Value::Array(list)) = here.get_mut(&name) {
            bounded(list.len(), order.len())?;
            reorder(list, order, rule);
        }
    }
    Ok(())
}

/// Whether the member goes for which a patch has this.
fn takes_out(value: &Value) -> bool {
    value.is_null() || value.get("$patch").is_some_and(|value| value == "delete")
}

fn field(
    here: &mut Map<String, Value>,
    name: String,
    value: Value,
    path: &[&str],
) -> Result<(), PatchError> {
    let inner: Vec<&str> = path.iter().copied().chain([name.as_str()]).collect();
    match value {
        Value::Object(patch) => {
            let mut merged = here.get(&name).cloned().unwrap_or_default();
            object(&mut merged, patch, &inner)?;
            here.insert(name, merged);
        }
        Value::Array(items) => match rule(&inner) {
            Some(rule) => {
                let mut list = match here.get(&name) {
                    Some(Value::Array(list)) => list.clone(),
                    _ => Vec::new(),
                };
                self::list(&mut list, items, rule, &inner)?;
                here.insert(name, list.into());
            }
            None => {
                here.insert(name, items.into());
            }
        },
        other => {
            here.insert(name, other);
        }
    }
    Ok(())
}

fn list(
    list: &mut Vec<Value>,
    items: Vec<Value>,
    rule: ListRule,
    path: &[&str],
) -> Result<(), PatchError> {
    bounded(list.len() + items.len(), items.len())?;
    let key = match rule {
        ListRule::Set => {
            for item in items {
                if !list.contains(&item) {
                    list.push(item);
                }
            }
            return Ok(());
        }
        ListRule::ByKey(key) => key,
    };
    if items
        .iter()
        .any(|item| item.get("$patch").is_some_and(|value| value == "replace"))
    {
        list.clear();
    }
    for item in items {
        let Value::Object(patch) = item else {
            return Err(malformed(format!("{} holds objects", path.join("."))));
        };
        let directive = patch.get("$patch").and_then(Value::as_str);
        if directive == Some("replace") {
            continue; // the marker itself; the elements stand beside it
        }
        let Some(identity) = patch.get(key).cloned() else {
            return Err(malformed(format!(
                "an element of {} has no {key}",
                path.join(".")
            )));
        };
        let same = |item: &Value| item.get(key) == Some(&identity);
        if directive == Some("delete") {
            list.retain(|item| !same(item));
            continue;
        }
        match list.iter_mut().find(|item| same(item)) {
            Some(item) => object(item, patch, &[])?,
            None => {
                let mut item = Value::Null;
                object(&mut item, patch, &[])?;
                list.push(item);
            }
        }
    }
    Ok(())
}

/// Elements named in `order` come in that order; each other one stays behind the element it stood behind.
fn reorder(list: &mut Vec<Value>, order: &[Value], rule: ListRule) {
    let place = |item: &Value| match rule {
        ListRule::Set => order.iter().position(|o| o == item),
        ListRule::ByKey(key) => {
            let identity = item.get(key)?;
            order.iter().position(|o| o.get(key) == Some(identity))
        }
    };
    let mut last = 0;
    let mut placed: Vec<(usize, Value)> = std::mem::take(list)
        .into_iter()
        .map(|item| {
            last = place(&item).unwrap_or(last);
            (last, item)
        })
        .collect();
    placed.sort_by_key(|(place, _)| *place); // stable
    list.extend(placed.into_iter().map(|(_, item)| item));
}

fn strings(value: &Value) -> Result<Vec<&str>, PatchError> {
    value
        .as_array()
        .and_then(|list| list.iter().map(Value::as_str).collect())
        .ok_or_else(|| malformed("$retainKeys is a list of names"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patched(patch: Value) -> Value {
        let mut target = json!({
            "metadata": {"labels": {"a": "1", "b": "2"}, "finalizers": ["x", "y"]},
            "spec": {
                "type": "ClusterIP",
                "selector": {"app": "cart"},
                "ports": [{"name": "http", "port": 80, "targetPort": 8080}, {"name": "admin", "port": 81}],
            },
        });
        service(&mut target, patch).expect("applies");
        target
    }

    #[test]
    fn ports_are_merged_by_port() {
        let ports = patched(
            json!({"spec": {"ports": [{"port": 81, "name": "ops"}, {"port": 82}]}}),
        )["spec"]["ports"]
            .clone();
        assert_eq!(
            ports,
            json!([{"name": "http", "port": 80, "targetPort": 8080}, {"name": "ops", "port": 81}, {"port": 82}])
        );
        let ports = patched(json!({"spec": {"ports": [{"port": 80, "$patch": "delete"}]}}))["spec"]
            ["ports"]
            .clone();
        assert_eq!(ports, json!([{"name": "admin", "port": 81}]));
        let ports = patched(json!({"spec": {"ports": [{"$patch": "replace"}, {"port": 9}]}}))["spec"]["ports"].clone();
        assert_eq!(ports, json!([{"port": 9}]));
        let order = json!({"spec": {"ports": [{"port": 79}], "$setElementOrder/ports": [{"port": 81}, {"port": 79}, {"port": 80}]}});
        let ports = patched(order)["spec"]["ports"].clone();
        let numbers: Vec<_> = ports
            .as_array()
            .expect("a list")
            .iter()
            .map(|port| port["port"].clone())
            .collect();
        assert_eq!(numbers, [81, 79, 80]);
    }

    #[test]
    fn lists_that_would_be_compared_for_minutes_are_refused() {
        let ports: Vec<Value> = (0..60_000).map(|port| json!({"port": port})).collect();
        for patch in [
            json!({"spec": {"ports": ports}}),
            json!({"metadata": {"finalizers": vec!["x"; 60_000]}}),
        ] {
            let refused = service(&mut json!({}), patch).expect_err("too long");
            assert!(refused.to_string().contains("too long"), "{refused}");
        }
    }

    #[test]
    fn directives_replace_delete_and_retain() {
        let replaced =
            patched(json!({"spec": {"selector": {"$patch": "replace", "app": "basket"}}}));
        assert_eq!(replaced["spec"]["selector"], json!({"app": "basket"}));
        let deleted = patched(json!({"spec": {"selector": {"$patch": "delete"}, "type": null}}));
        assert!(deleted["spec"].get("selector").is_none() && deleted["spec"].get("type").is_none());
        let retained = patched(json!({"metadata": {"labels": {"$retainKeys": ["b"], "b": "3"}}}));
        assert_eq!(retained["metadata"]["labels"], json!({"b": "3"}));
        let list = patched(
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x"], "finalizers": ["z", "y"]}}),
        );
        assert_eq!(list["metadata"]["finalizers"], json!(["y", "z"]));
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for patch in [
            json!([]),
            json!({"$patch": "grow"}),
            json!({"spec": {"$other/ports": []}}),
            json!({"spec": {"ports": [{"name": "no port"}]}}),
            json!({"spec": {"ports": ["text"]}}),
            json!({"spec": {"$setElementOrder/selector": []}}),
            json!({"spec": {"$setElementOrder/ports": 1}}),
            json!({"spec": {"$retainKeys": [1]}}),
        ] {
            assert!(
                service(&mut json!({"spec": {"ports": []}}), patch.clone()).is_err(),
                "{patch}"
            );
        }
    }
}
