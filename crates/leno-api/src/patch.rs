//! JSON Patch (RFC 6902) and JSON Merge Patch (RFC 7396), as pure functions.

use serde_json::Value;

/// Operations of one JSON patch, as Kubernetes bounds them.
const MAX_OPERATIONS: usize = 10_000;
/// Growth of the document by `copy`: how large it may become, counted in values.
const MAX_VALUES: usize = 200_000;

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
    for (name, value) in patch {
        if value.is_null() {
            object.shift_remove(&name);
        } else {
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
    let mut budget = MAX_VALUES;
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
    match text("op")? {
        "add" => add(target, &path, value()?),
        "remove" => remove(target, &path).map(drop),
        "replace" => {
            *find_mut(target, &path)? = value()?;
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
            let copy = find_mut(target, &pointer(text("from")?)?)?.clone();
            *budget = budget
                .checked_sub(size(&copy))
                .ok_or_else(|| PatchError::Malformed("the patch copies too much".into()))?;
            add(target, &path, copy)
        }
        "move" => {
            let from = pointer(text("from")?)?;
            if path.len() > from.len() && path.starts_with(&from) {
                return Err(PatchError::Malformed(
                    "a value cannot be moved into itself".into(),
                ));
            }
            let moved = remove(target, &from)?;
            add(target, &path, moved)
        }
        other => Err(PatchError::Malformed(format!(
            "unknown operation \"{other}\""
        ))),
    }
}

/// How many values there are in `value`.
fn size(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(size).sum::<usize>(),
        Value::Object(object) => 1 + object.values().map(size).sum::<usize>(),
        _ => 1,
    }
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
