//! JSON Patch (RFC 6902) and JSON Merge Patch (RFC 7396), as pure functions.

use serde_json::Value;

/// Operations of one JSON patch, as Kubernetes bounds them.
const MAX_OPERATIONS: usize = 10_000;
/// Bytes that `copy` and `move` may handle in all, so that neither size nor work grows with their repetition.
const MAX_BYTES: usize = 8 << 20;
/// What a value costs beside its text.
const VALUE_BYTES: usize = 32;
/// How deep a document may be: what can be parsed again, and what recursion over it can stand.
const MAX_DEPTH: usize = 127;

/// Why a patch cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PatchError {
    /// The patch itself is wrong.
    #[error("{0}")]
    Malformed(String),
    /// The object is not as the patch wants it.
    #[error("{0}")]
    Unfit(String),
}

/// RFC 7396: objects are merged, `null` deletes, anything else replaces.
pub(crate) fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Some(object) = target.as_object_mut() else {
        return;
    };
    // All at once: one that is taken out by itself moves all that stand behind it.
    object.retain(|name, _| !patch.get(name).is_some_and(Value::is_null));
    for (name, value) in patch {
        if !value.is_null() {
            merge(object.entry(name).or_insert(Value::Null), value);
        }
    }
}

/// RFC 6902: all operations, or an error and a target that must be thrown away.
pub(crate) fn json(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let Some(operations) = patch.as_array() else {
        return Err(PatchError::Malformed(
            "a JSON patch is a list of operations".into(),
        ));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::Malformed(format!(
            "a JSON patch has at most {MAX_OPERATIONS} operations"
        )));
    }
    let mut budget = MAX_BYTES;
    for (index, operation) in operations.iter().enumerate() {
        operate(target, operation, &mut budget).map_err(|error| match error {
            PatchError::Malformed(text) => {
                PatchError::Malformed(format!("operation {index}: {text}"))
            }
            PatchError::Unfit(text) => PatchError::Unfit(format!("operation {index}: {text}")),
        })?;
    }
    Ok(())
}

fn operate(target: &mut Value, operation: &Value, budget: &mut usize) -> Result<(), PatchError> {
    let text = |name: &str| {
        operation
            .get(name)
            .and_then(Value::as_str)
            .ok_or_else(|| PatchError::Malformed(format!("\"{name}\" is missing or no string")))
    };
    let value = || {
        operation
            .get("value")
            .cloned()
            .ok_or_else(|| PatchError::Malformed("\"value\" is missing".into()))
    };
    let path = pointer(text("path")?)?;
    let op = text("op")?;
    if matches!(op, "add" | "copy" | "move" | "remove") {
        let behind = behind(target, &path);
        *budget = budget.checked_sub(behind).ok_or_else(too_much)?;
    }
    match op {
        "add" => add(target, &path, value()?),
        "remove" => remove(target, &path).map(drop),
        "replace" => {
            let value = value()?;
            fits(&path, &value)?;
            *find_mut(target, &path)? = value;
            Ok(())
        }
        "test" => {
            if find_mut(target, &path)? == &value()? {
                Ok(())
            } else {
                Err(PatchError::Unfit(format!(
                    "the test of {} failed",
                    text("path")?
                )))
            }
        }
        "copy" => {
            let copied = find_mut(target, &pointer(text("from")?)?)?;
            // Before it is copied: what is too much is never made.
            charge(budget, copied)?;
            let copy = copied.clone();
            add(target, &path, copy)
        }
        "move" => {
            let from = pointer(text("from")?)?;
            if path.len() > from.len() && path.starts_with(&from) {
                return Err(PatchError::Malformed(
                    "a value cannot be moved into itself".into(),
                ));
            }
            let gap = behind(target, &from);
            *budget = budget.checked_sub(gap).ok_or_else(too_much)?;
            let moved = remove(target, &from)?;
            charge(budget, &moved)?;
            add(target, &path, moved)
        }
        other => Err(PatchError::Malformed(format!(
            "unknown operation \"{other}\""
        ))),
    }
}

fn charge(budget: &mut usize, value: &Value) -> Result<(), PatchError> {
    *budget = budget.checked_sub(size(value)).ok_or_else(too_much)?;
    Ok(())
}

fn too_much() -> PatchError {
    PatchError::Malformed("the patch copies or moves too much".into())
}

/// How many members of a list stand behind this place: each is moved when one is put there or taken away.
fn behind(target: &mut Value, path: &[String]) -> usize {
    let Some((last, parents)) = path.split_last() else {
        return 0;
    };
    match find_mut(target, parents) {
        Ok(Value::Array(list)) => list.len().saturating_sub(index(last).unwrap_or(list.len())),
        // Taking a member out of an object closes the gap, too.
        Ok(Value::Object(map)) => map.len(),
        _ => 0,
    }
}

/// Whether `value` at `path` keeps the document within its depth.
fn fits(path: &[String], value: &Value) -> Result<(), PatchError> {
    if path.len() + depth(value) > MAX_DEPTH {
        return Err(PatchError::Malformed(format!(
            "the patch makes the object deeper than {MAX_DEPTH} levels"
        )));
    }
    Ok(())
}

fn depth(value: &Value) -> usize {
    let inner = match value {
        Value::Array(list) => list.iter().map(depth).max(),
        Value::Object(object) => object.values().map(depth).max(),
        _ => return 0,
    };
    1 + inner.unwrap_or(0)
}

/// About how many bytes `value` needs.
fn size(value: &Value) -> usize {
    let inner = match value {
        Value::Array(list) => list.iter().map(size).sum(),
        Value::Object(object) => object
            .iter()
            .map(|(name, value)| VALUE_BYTES + name.len() + size(value))
            .sum(),
        Value::String(text) => text.len(),
        _ => 0,
    };
    VALUE_BYTES + inner
}

/// RFC 6901.
fn pointer(text: &str) -> Result<Vec<String>, PatchError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let rest = text
        .strip_prefix('/')
        .ok_or_else(|| PatchError::Malformed(format!("\"{text}\" is no JSON pointer")))?;
    Ok(rest
        .split('/')
        .map(|part| part.replace("~1", "/").replace("~0", "~"))
        .collect())
}

fn missing(path: &[String]) -> PatchError {
    PatchError::Unfit(format!("there is no /{}", path.join("/")))
}

/// RFC 6901 section 4: digits without a leading zero.
fn index(part: &str) -> Option<usize> {
    if part.len() > 1 && part.starts_with('0') || !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    part.parse().ok()
}

fn find_mut<'a>(target: &'a mut Value, path: &[String]) -> Result<&'a mut Value, PatchError> {
    let mut here = target;
    for part in path {
        here = match here {
            Value::Object(object) => object.get_mut(part),
            Value::Array(list) => index(part).and_then(|index| list.get_mut(index)),
            _ => None,
        }
        .ok_or_else(|| missing(path))?;
    }
    Ok(here)
}

fn add(target: &mut Value, path: &[String], value: Value) -> Result<(), PatchError> {
    fits(path, &value)?;
    let Some((last, parents)) = path.split_last() else {
        *target = value;
        return Ok(());
    };
    match find_mut(target, parents)? {
        Value::Object(object) => {
            object.insert(last.clone(), value);
        }
        Value::Array(list) if last == "-" => list.push(value),
        Value::Array(list) => {
            let index = index(last)
                .filter(|index| *index <= list.len())
                .ok_or_else(|| missing(path))?;
            list.insert(index, value);
        }
        _ => return Err(missing(path)),
    }
    Ok(())
}

fn remove(target: &mut Value, path: &[String]) -> Result<Value, PatchError> {
    let Some((last, parents)) = path.split_last() else {
        return Ok(target.take());
    };
    match find_mut(target, parents)? {
        Value::Object(object) => object.shift_remove(last),
        Value::Array(list) => index(last)
            .filter(|index| *index < list.len())
            .map(|index| list.remove(index)),
        _ => None,
    }
    .ok_or_else(|| missing(path))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use serde_json::json;

    #[test]
    fn merge_patches_do_what_appendix_a_of_rfc_7396_says() {
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (
                json!({"a": "b"}),
                json!({"b": "c"}),
                json!({"a": "b", "b": "c"}),
            ),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (
                json!({"a": "b", "b": "c"}),
                json!({"a": null}),
                json!({"b": "c"}),
            ),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (
                json!({"a": [{"b": "c"}]}),
                json!({"a": [1]}),
                json!({"a": [1]}),
            ),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a": "b"}), json!(["c"]), json!(["c"])),
            (json!({"a": "foo"}), json!(null), json!(null)),
            (json!({"a": "foo"}), json!("bar"), json!("bar")),
            (
                json!({"e": null}),
                json!({"a": 1}),
                json!({"e": null, "a": 1}),
            ),
            (
                json!([1, 2]),
                json!({"a": "b", "c": null}),
                json!({"a": "b"}),
            ),
            (
                json!({}),
                json!({"a": {"bb": {"ccc": null}}}),
                json!({"a": {"bb": {}}}),
            ),
        ] {
            let mut merged = target.clone();
            merge(&mut merged, patch.clone());
            assert_eq!(merged, result, "{target} with {patch}");
        }
    }

    #[test]
    fn many_members_are_taken_out_at_once() {
        /// One by one, so many take two hundred times as long as to be made; all at once they take less.
        const MEMBERS: u32 = 10_000;
        const LIMIT: f64 = 10.0;
        type Take = fn(&mut Value, Value) -> Result<(), PatchError>;
        let merged: Take = |target, patch| {
            merge(target, patch);
            Ok(())
        };
        let names = |value: &Value| -> Value {
            let member = |number: u32| (format!("a{number}"), value.clone());
            Value::Object((0..MEMBERS).map(member).collect())
        };
        let delete = json!({"$patch": "delete"});
        let cases: [(Take, &Value); 3] = [
            (merged, &Value::Null),
            (crate::strategic::service, &Value::Null),
            (crate::strategic::service, &delete),
        ];
        for (take, gone) in cases {
            // Against the time in which the two are made, and the best of some tries, so that no load of the machine counts.
            let ratio = |_| {
                let began = Instant::now();
                let (mut target, patch) = (names(&json!({})), names(gone));
                let made = began.elapsed();
                take(&mut target, patch).expect("it fits");
                let taken = began.elapsed() - made;
                assert_eq!(target, json!({}));
                taken.as_secs_f64() / made.as_secs_f64()
            };
            let ratios: Vec<f64> = (0..5).map(ratio).collect();
            assert!(ratios.iter().any(|ratio| *ratio < LIMIT), "{ratios:?}");
        }
    }

    #[test]
    fn json_patches_do_what_appendix_a_of_rfc_6902_says() {
        for (target, patch, result) in [
            (
                json!({"foo": "bar"}),
                json!([{"op": "add", "path": "/baz", "value": "qux"}]),
                json!({"baz": "qux", "foo": "bar"}),
            ),
            (
                json!({"foo": ["bar", "baz"]}),
                json!([{"op": "add", "path": "/foo/1", "value": "qux"}]),
                json!({"foo": ["bar", "qux", "baz"]}),
            ),
            (
                json!({"baz": "qux", "foo": "bar"}),
                json!([{"op": "remove", "path": "/baz"}]),
                json!({"foo": "bar"}),
            ),
            (
                json!({"foo": ["bar", "qux", "baz"]}),
                json!([{"op": "remove", "path": "/foo/1"}]),
                json!({"foo": ["bar", "baz"]}),
            ),
            (
                json!({"baz": "qux"}),
                json!([{"op": "replace", "path": "/baz", "value": "boo"}]),
                json!({"baz": "boo"}),
            ),
            (
                json!({"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}}),
                json!([{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}]),
                json!({"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}}),
            ),
            (
                json!({"foo": ["all", "grass", "cows", "eat"]}),
                json!([{"op": "move", "from": "/foo/1", "path": "/foo/3"}]),
                json!({"foo": ["all", "cows", "eat", "grass"]}),
            ),
            (
                json!({"baz": "qux"}),
                json!([{"op": "test", "path": "/baz", "value": "qux"}]),
                json!({"baz": "qux"}),
            ),
            (
                json!({"foo": "bar"}),
                json!([{"op": "add", "path": "/child", "value": {"grandchild": {}}}]),
                json!({"foo": "bar", "child": {"grandchild": {}}}),
            ),
            (
                json!({"foo": "bar"}),
                json!([{"op": "add", "path": "/baz", "value": "qux", "xyz": 123}]),
                json!({"foo": "bar", "baz": "qux"}),
            ),
            (
                json!({"/": 9, "~1": 10}),
                json!([{"op": "test", "path": "/~01", "value": 10}]),
                json!({"/": 9, "~1": 10}),
            ),
            (
                json!({"foo": ["bar"]}),
                json!([{"op": "add", "path": "/foo/-", "value": ["abc", "def"]}]),
                json!({"foo": ["bar", ["abc", "def"]]}),
            ),
        ] {
            let mut patched = target.clone();
            json(&mut patched, &patch).expect("the RFC's example applies");
            assert_eq!(patched, result, "{target} with {patch}");
        }
    }

    #[test]
    fn json_patches_that_do_not_fit_are_errors() {
        for patch in [
            json!([{"op": "test", "path": "/baz", "value": "bar"}]),
            json!([{"op": "add", "path": "/baz/bat", "value": "qux"}]),
            json!([{"op": "test", "path": "/~01", "value": "10"}]),
            json!([{"op": "remove", "path": "/list/01"}]),
            json!([{"op": "remove", "path": "/list/9"}]),
            json!([{"op": "remove", "path": "/list/-"}]),
            json!([{"op": "add", "path": "/list/3", "value": 1}]),
            json!([{"op": "move", "from": "/list", "path": "/list/0"}]),
            json!([{"op": "copy", "path": "/x"}]),
        ] {
            let mut target = json!({"foo": "bar", "list": [1, 2]});
            assert!(json(&mut target, &patch).is_err(), "{patch}");
        }
    }

    #[test]
    fn neither_size_nor_depth_grows_without_end() {
        let message = |operation: Value, times: usize| {
            let mut target = json!({"a": [1, 2, 3]});
            let patch = Value::Array(vec![operation; times]);
            match json(&mut target, &patch) {
                Err(PatchError::Malformed(text)) => text,
                other => panic!("{other:?}"),
            }
        };
        let double = json!({"op": "copy", "from": "/a", "path": "/a/-"});
        assert!(message(double, 64).ends_with("copies or moves too much"));
        let deepen = json!({"op": "copy", "from": "", "path": "/x"});
        assert!(message(deepen, 200).contains("deeper than"));
        let test = json!({"op": "test", "path": "/a/0", "value": 1});
        assert!(message(test, MAX_OPERATIONS + 1).contains("at most"));
        let mut chains: Vec<_> = (0..2_000)
            .flat_map(|n| {
                let (from, into) = (format!("/k{n}"), format!("/k{}/b/b/b/b/c", n + 1));
                let chain = json!({"b": {"b": {"b": {"b": {}}}}});
                [
                    json!({"op": "add", "path": format!("/k{}", n + 1), "value": chain}),
                    json!({"op": "move", "from": from, "path": into}),
                ]
            })
            .collect();
        chains.insert(0, json!({"op": "add", "path": "/k0", "value": 1}));
        let error = json(&mut json!({}), &Value::Array(chains));
        assert!(matches!(error, Err(PatchError::Malformed(text)) if text.contains("deeper than")));
    }
}
