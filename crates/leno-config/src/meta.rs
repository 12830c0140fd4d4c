//! `metadata`: what every object has.

use std::collections::BTreeMap;

use leno_types::DnsLabel;

use crate::{
    Meta, SOURCE_ANNOTATION,
    fields::{Findings, Object, text_of},
    path::member_path,
    schema::META,
};

/// What a label says at most (Kubernetes).
const MAX_LABEL_VALUE: usize = 63;
/// Labels of an object at most.
const MAX_LABELS: usize = 256;
/// Bytes of all annotations of an object at most (Kubernetes).
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Reads `metadata`; `None` when it has no name that could be used.
pub(crate) fn read(root: &mut Object<'_>, findings: &mut Findings) -> Option<Meta> {
    let mut meta = root.required_object("metadata", findings)?;
    meta.only(&META, findings);
    meta.default("namespace", "default");
    let namespace: Option<DnsLabel> = meta.required_parsed("namespace", findings);
    let name: Option<DnsLabel> = meta.required_parsed("name", findings);
    let labels = labels(&meta, "labels", findings);
    let annotations = annotations(&meta, findings);
    let generation = match meta.has("generation") {
        true => meta.number("generation", 0..=u64::MAX, findings)?,
        false => 0,
    };
    let uid = meta.text("uid", findings).unwrap_or_default().to_owned();
    meta.text("resourceVersion", findings);
    let creation = meta.text("creationTimestamp", findings).map(str::to_owned);
    if let Some(text) = &creation
        && !is_timestamp(text)
    {
        let reason = "must be a time such as 2026-05-01T12:00:00Z; the server sets it";
        findings.note("metadata.creationTimestamp", reason);
    }
    Some(Meta {
        namespace: namespace?,
        name: name?,
        uid,
        generation,
        source: annotations.get(SOURCE_ANNOTATION).cloned(),
        labels,
        annotations,
        creation,
    })
}

/// Reads a map of labels: `metadata.labels`, or a selector.
pub(crate) fn labels(
    object: &Object<'_>,
    key: &str,
    findings: &mut Findings,
) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let path = object.path(key);
    for (name, value) in object.entries(key, findings) {
        if labels.len() >= MAX_LABELS {
            findings.note(&path, format!("at most {MAX_LABELS} labels are allowed"));
            break;
        }
        let at = member_path(&path, name);
        if !is_qualified(name) {
            let reason = "is no label: write letters, digits, '-', '_' and '.', at most 63, after an optional prefix/";
            findings.note(&at, reason);
        }
        let Some(text) = text_of(value, &at, findings) else {
            continue;
        };
        if !text.is_empty() && !is_label_word(text) {
            let reason = "is no value of a label: write letters, digits, '-', '_' and '.', at most 63, beginning and \
                          ending with a letter or digit";
            findings.note(&at, reason);
        }
        labels.insert(name.to_owned(), text.to_owned());
    }
    labels
}

fn annotations(meta: &Object<'_>, findings: &mut Findings) -> BTreeMap<String, String> {
    let mut annotations = BTreeMap::new();
    let mut size = 0_usize;
    for (name, value) in meta.entries("annotations", findings) {
        let at = member_path("metadata.annotations", name);
        if !is_qualified(name) {
            findings.note(&at, "is no name of an annotation");
        }
        let Some(text) = text_of(value, &at, findings) else {
            continue;
        };
        size = size.saturating_add(name.len()).saturating_add(text.len());
        annotations.insert(name.to_owned(), text.to_owned());
    }
    if size > MAX_ANNOTATIONS {
        let reason = format!("are {size} bytes together, at most {MAX_ANNOTATIONS} are allowed");
        findings.note("metadata.annotations", reason);
    }
    annotations
}

/// `name` or `prefix/name`, where the prefix is a DNS name.
pub(crate) fn is_qualified(text: &str) -> bool {
    match text.split_once('/') {
        None => is_label_word(text),
        Some((prefix, name)) => {
            let dns = |label: &str| label.parse::<DnsLabel>().is_ok();
            prefix.len() <= 253 && prefix.split('.').all(dns) && is_label_word(name)
        }
    }
}

fn is_label_word(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    bytes.len() <= MAX_LABEL_VALUE
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(inner)
}

/// RFC 3339 in UTC with whole seconds, the one form in which the Kubernetes API writes times.
fn is_timestamp(text: &str) -> bool {
    let shape = b"0000-00-00T00:00:00Z";
    text.len() == shape.len()
        && text.bytes().zip(shape).all(|(byte, shape)| match shape {
            b'0' => byte.is_ascii_digit(),
            other => byte == *other,
        })
}
