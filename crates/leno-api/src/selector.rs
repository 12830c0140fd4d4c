//! Label and field selectors.
//!
//! Labels as Kubernetes has them: `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`, `!a`, joined by commas.
//! Fields: `metadata.name` and `metadata.namespace`; any other is refused, not ignored.

use serde_json::Value;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

/// Which objects are meant.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<(Field, bool, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Name,
    Namespace,
}

/// Requirements that one request may have.
const MAX: usize = 64;

impl Selector {
    /// Adds the requirements of a `labelSelector`.
    pub(crate) fn add_labels(&mut self, text: &str) -> Result<(), String> {
        for part in split(text) {
            let part = part.trim();
            if !part.is_empty() {
                self.labels.push(requirement(part)?);
            }
        }
        self.bounded()
    }

    /// Adds the requirements of a `fieldSelector`.
    pub(crate) fn add_fields(&mut self, text: &str) -> Result<(), String> {
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (field, equal, value) = if let Some((field, value)) = part.split_once("!=") {
                (field, false, value)
            } else if let Some((field, value)) = part.split_once("==") {
                (field, true, value)
            } else if let Some((field, value)) = part.split_once('=') {
                (field, true, value)
            } else {
                return Err(format!("\"{part}\" is no requirement"));
            };
            let field = match field.trim() {
                "metadata.name" => Field::Name,
                "metadata.namespace" => Field::Namespace,
                other => return Err(format!("field label not supported: {other}")),
            };
            self.fields.push((field, equal, value.trim().into()));
        }
        self.bounded()
    }

    fn bounded(&self) -> Result<(), String> {
        if self.labels.len() + self.fields.len() > MAX {
            return Err(format!("more than {MAX} requirements"));
        }
        Ok(())
    }

    /// Whether everything is meant.
    pub(crate) const fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether `object` is meant.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
        let fields = self.fields.iter().all(|(field, equal, value)| {
            let found = match field {
                Field::Name => text("/metadata/name"),
                Field::Namespace => text("/metadata/namespace"),
            };
            (found.unwrap_or_default() == value) == *equal
        });
        let labels = object.pointer("/metadata/labels");
        let label = |key: &str| {
            labels
                .and_then(|labels| labels.get(key))
                .and_then(Value::as_str)
        };
        let has = |values: &[String], key: &str| {
            label(key).is_some_and(|found| values.iter().any(|value| value == found))
        };
        fields
            && self.labels.iter().all(|requirement| match requirement {
                Requirement::In(key, values) => has(values, key),
                Requirement::NotIn(key, values) => !has(values, key),
                Requirement::Exists(key) => label(key).is_some(),
                Requirement::Absent(key) => label(key).is_none(),
            })
    }
}

/// Splits at commas outside parentheses.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_u32;
    text.split(move |c| {
        match c {
            '(' => depth = depth.saturating_add(1),
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
}

fn requirement(text: &str) -> Result<Requirement, String> {
    if let Some(key) = text.strip_prefix('!') {
        return Ok(Requirement::Absent(label_key(key)?));
    }
    if let Some((key, value)) = text.split_once("!=") {
        return Ok(Requirement::NotIn(
            label_key(key)?,
            vec![label_value(value)?],
        ));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(Requirement::In(label_key(key)?, vec![label_value(value)?]));
    }
    let Some((key, rest)) = text.split_once(char::is_whitespace) else {
        return Ok(Requirement::Exists(label_key(text)?));
    };
    let rest = rest.trim();
    let (not, list) = match (rest.strip_prefix("notin"), rest.strip_prefix("in")) {
        (Some(list), _) => (true, list),
        (None, Some(list)) => (false, list),
        (None, None) => return Err(format!("\"{text}\" is no requirement")),
    };
    let values = list
        .trim()
        .strip_prefix('(')
        .and_then(|list| list.strip_suffix(')'))
        .ok_or_else(|| format!("\"{text}\": values stand in parentheses"))?
        .split(',')
        .map(label_value)
        .collect::<Result<Vec<_>, _>>()?;
    let key = label_key(key)?;
    Ok(if not {
        Requirement::NotIn(key, values)
    } else {
        Requirement::In(key, values)
    })
}

fn label_key(text: &str) -> Result<String, String> {
    let text = text.trim();
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if text.is_empty() || text.len() > 317 || !text.chars().all(legal) {
        return Err(format!("\"{text}\" is no label key"));
    }
    Ok(text.into())
}

fn label_value(text: &str) -> Result<String, String> {
    let text = text.trim();
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.len() > 63 || !text.chars().all(legal) {
        return Err(format!("\"{text}\" is no label value"));
    }
    Ok(text.into())
}
