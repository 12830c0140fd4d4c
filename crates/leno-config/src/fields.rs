//! Walking a document field by field: what is unknown, what has the wrong type, what is missing, and the path of each.
//!
//! Invariant: every field of a document is either read by somebody or a finding.

use std::{fmt::Display, str::FromStr};

use serde_json::{Map, Value};

use crate::{
    Admitted, Finding, Kind, Resource, access_policy, authentication_policy, hostname_generator,
    httproute, meta, nearest,
    path::member_path,
    schema::{Fields, schema},
    service,
};

/// A document with more mistakes than this is told about the first ones only.
const MAX_FINDINGS: usize = 100;

/// Characters of a reason that quotes the document.
const MAX_REASON: usize = 256;

/// Everything found wrong so far.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    list: Vec<Finding>,
    more: usize,
}

impl Findings {
    /// Notes a finding.
    pub(crate) fn add(&mut self, finding: Finding) {
        if self.list.len() < MAX_FINDINGS {
            self.list.push(finding);
        } else {
            self.more += 1;
        }
    }

    /// Notes what is wrong with a field.
    pub(crate) fn note(&mut self, field: &str, reason: impl Into<String>) {
        self.add(Finding::new(field, reason));
    }

    /// How many there are: to tell whether a step found any.
    pub(crate) fn count(&self) -> usize {
        self.list.len() + self.more
    }

    fn finish(mut self) -> Vec<Finding> {
        if self.more > 0 {
            let reason = format!("{} more findings are not shown", self.more);
            self.list.push(Finding::new("", reason));
        }
        self.list
    }
}

/// An object of a document, at its path. Its null fields are gone: null means absent, as in the Kubernetes API.
pub(crate) struct Object<'v> {
    map: &'v mut Map<String, Value>,
    path: String,
}

impl<'v> Object<'v> {
    /// The object at `path`; another type is a finding.
    pub(crate) fn at(value: &'v mut Value, path: &str, findings: &mut Findings) -> Option<Self> {
        let found = type_of(value);
        if let Value::Object(map) = value {
            map.retain(|_, value| !value.is_null());
            let path = path.into();
            return Some(Self { map, path });
        }
        findings.note(path, format!("must be an object, is {found}"));
        None
    }

    /// The path of one of its fields.
    pub(crate) fn path(&self, key: &str) -> String {
        member_path(&self.path, key)
    }

    /// Makes a finding of every field that its table has not, or that Leno cannot honour.
    pub(crate) fn only(&self, known: &Fields, findings: &mut Findings) {
        for (key, value) in self.map.iter() {
            match known.get(key) {
                Some(field) if field.refused && !is_empty(value) => {
                    findings.note(&self.path(key), field.doc);
                }
                Some(_) => {}
                None => {
                    // What will not be shown need not be guessed at.
                    let near = match findings.count() < MAX_FINDINGS {
                        true => nearest(key, &known.names()),
                        false => None,
                    };
                    let finding = Finding::unknown_field(self.path(key));
                    findings.add(finding.with_suggestion(near));
                }
            }
        }
    }

    /// Whether the field is there.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// Sets a field that is not there.
    pub(crate) fn default(&mut self, key: &str, value: impl Into<Value>) {
        if !self.map.contains_key(key) {
            self.map.insert(key.into(), value.into());
        }
    }

    /// The field as an object.
    pub(crate) fn object(&mut self, key: &str, findings: &mut Findings) -> Option<Object<'_>> {
        let path = self.path(key);
        let value = self.map.get_mut(key)?;
        Object::at(value, &path, findings)
    }

    /// The field as an object that must be there.
    pub(crate) fn required_object(
        &mut self,
        key: &str,
        findings: &mut Findings,
    ) -> Option<Object<'_>> {
        if !self.has(key) {
            findings.note(&self.path(key), "is required");
        }
        self.object(key, findings)
    }

    /// The members of a list with their paths; none when it is not there. Longer than `max` is a finding.
    pub(crate) fn list(
        &mut self,
        key: &str,
        max: usize,
        findings: &mut Findings,
    ) -> Vec<(String, &mut Value)> {
        let path = self.path(key);
        let Some(value) = self.map.get_mut(key) else {
            return Vec::new();
        };
        let found = type_of(value);
        let Value::Array(items) = value else {
            findings.note(&path, format!("must be a list, is {found}"));
            return Vec::new();
        };
        if items.len() > max {
            let reason = format!("has {} entries, at most {max} are allowed", items.len());
            findings.note(&path, reason);
        }
        let members = items.iter_mut().take(max).enumerate();
        members
            .map(|(index, item)| (format!("{path}[{index}]"), item))
            .collect()
    }

    /// The members of a list of texts, parsed.
    pub(crate) fn parsed_list<T>(
        &mut self,
        key: &str,
        max: usize,
        findings: &mut Findings,
    ) -> Vec<T>
    where
        T: FromStr<Err: Display>,
    {
        let mut parsed = Vec::new();
        for (path, value) in self.list(key, max, findings) {
            let text = text_of(value, &path, findings);
            parsed.extend(text.and_then(|text| parse_text(text, &path, findings)));
        }
        parsed
    }

    /// The field as text.
    pub(crate) fn text(&self, key: &str, findings: &mut Findings) -> Option<&str> {
        let value = self.map.get(key)?;
        text_of(value, &self.path(key), findings)
    }

    /// The field as text that must be there.
    pub(crate) fn required_text(&self, key: &str, findings: &mut Findings) -> Option<&str> {
        self.required(key, findings)?;
        self.text(key, findings)
    }

    /// The field, parsed from text.
    pub(crate) fn parsed<T>(&self, key: &str, findings: &mut Findings) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        let text = self.text(key, findings)?;
        parse_text(text, &self.path(key), findings)
    }

    /// The field, parsed from text that must be there.
    pub(crate) fn required_parsed<T>(&self, key: &str, findings: &mut Findings) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        self.required(key, findings)?;
        self.parsed(key, findings)
    }

    /// The field as one of a few words.
    pub(crate) fn word(
        &self,
        key: &str,
        words: &[&'static str],
        findings: &mut Findings,
    ) -> Option<&'static str> {
        let text = self.text(key, findings)?;
        let found = words.iter().copied().find(|word| *word == text);
        if found.is_none() {
            let shown: String = text.chars().take(64).collect();
            let reason = format!("\"{shown}\" is not one of {}", words.join(", "));
            let finding = Finding::new(self.path(key), reason);
            findings.add(finding.with_suggestion(nearest(text, words)));
        }
        found
    }

    /// The field as a whole number of a range.
    pub(crate) fn number(
        &self,
        key: &str,
        range: std::ops::RangeInclusive<u64>,
        findings: &mut Findings,
    ) -> Option<u64> {
        let value = self.map.get(key)?;
        number_of(value, range, &self.path(key), findings)
    }

    /// The field as a port.
    pub(crate) fn port(&self, key: &str, findings: &mut Findings) -> Option<u16> {
        self.number(key, 1..=65_535, findings)
            .and_then(|number| u16::try_from(number).ok())
    }

    /// The field as a port that must be there.
    pub(crate) fn required_port(&self, key: &str, findings: &mut Findings) -> Option<u16> {
        self.required(key, findings)?;
        self.port(key, findings)
    }

    /// The field as it is.
    pub(crate) fn raw(&self, key: &str) -> Option<&Value> {
        self.map.get(key)
    }

    /// The names of its fields.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.map.keys().cloned().collect()
    }

    /// The names and values of a field whose members are the user's own.
    pub(crate) fn entries(&self, key: &str, findings: &mut Findings) -> Vec<(&str, &Value)> {
        match self.map.get(key) {
            None => Vec::new(),
            Some(Value::Object(map)) => map.iter().map(|(k, v)| (k.as_str(), v)).collect(),
            Some(other) => {
                let reason = format!("must be an object, is {}", type_of(other));
                findings.note(&self.path(key), reason);
                Vec::new()
            }
        }
    }

    fn required(&self, key: &str, findings: &mut Findings) -> Option<()> {
        if !self.has(key) {
            findings.note(&self.path(key), "is required");
            return None;
        }
        Some(())
    }
}

/// `null`, `""`, `[]`, `{}`, `0` and `false`: what the API means by "not set".
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_u64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// What a value is, in a sentence; a scalar is shown.
pub(crate) fn type_of(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(bool) => format!("the boolean {bool}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => {
            let shown: String = text.chars().take(64).collect();
            format!("the text \"{shown}\"")
        }
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    }
}

/// A value that must be text.
pub(crate) fn text_of<'v>(
    value: &'v Value,
    path: &str,
    findings: &mut Findings,
) -> Option<&'v str> {
    match value {
        Value::String(text) => Some(text),
        Value::Number(_) | Value::Bool(_) => {
            let reason = format!("must be text, is {}: put it in quotes", type_of(value));
            findings.note(path, reason);
            None
        }
        other => {
            findings.note(path, format!("must be text, is {}", type_of(other)));
            None
        }
    }
}

/// A value that must be a whole number of a range.
pub(crate) fn number_of(
    value: &Value,
    range: std::ops::RangeInclusive<u64>,
    path: &str,
    findings: &mut Findings,
) -> Option<u64> {
    let found = value.as_u64().filter(|number| range.contains(number));
    if found.is_none() {
        let (low, high) = (range.start(), range.end());
        let is = type_of(value);
        findings.note(
            path,
            format!("must be a number from {low} to {high}, is {is}"),
        );
    }
    found
}

/// Text that must parse.
pub(crate) fn parse_text<T>(text: &str, path: &str, findings: &mut Findings) -> Option<T>
where
    T: FromStr<Err: Display>,
{
    match text.parse() {
        Ok(parsed) => Some(parsed),
        Err(error) => {
            let reason: String = error.to_string().chars().take(MAX_REASON).collect();
            findings.note(path, reason);
            None
        }
    }
}

/// See [`crate::admit`].
pub(crate) fn admit(kind: Kind, mut value: Value) -> Result<Admitted, Vec<Finding>> {
    let mut findings = Findings::default();
    let written = value.clone();
    let resource = read(kind, &mut value, &mut findings);
    let findings = findings.finish();
    match resource {
        Some(resource) if findings.is_empty() => {
            let value = kept(kind, value, written);
            Ok(Admitted { value, resource })
        }
        Some(_) | None if !findings.is_empty() => Err(findings),
        _ => Err(vec![Finding::new("", "the document cannot be read")]),
    }
}

/// What is stored of a document. Clients merge a Service's ports by their number; any other list they compare whole
/// with what they applied, so a default within one would make every `kubectl apply` a change.
fn kept(kind: Kind, mut read: Value, mut written: Value) -> Value {
    if kind == Kind::Service {
        return read;
    }
    without_nulls(&mut written);
    if let (Some(to), Some(from)) = (written.get_mut("metadata"), read.get_mut("metadata")) {
        *to = from.take();
    }
    written
}

/// Null means absent. Depth is bounded by the readers of JSON and YAML.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

fn read(kind: Kind, value: &mut Value, findings: &mut Findings) -> Option<Resource> {
    let mut root = Object::at(value, "", findings)?;
    if kind.derived() {
        let reason = format!("a {kind} is derived by the control plane and cannot be written");
        findings.note("kind", reason);
        return None;
    }
    root.only(schema(kind), findings);
    for (key, wanted) in [
        ("apiVersion", kind.api_version()),
        ("kind", kind.kind().to_owned()),
    ] {
        if let Some(found) = root.required_text(key, findings)
            && found != wanted
        {
            let shown: String = found.chars().take(64).collect();
            let reason = format!("must be \"{wanted}\" here, is \"{shown}\"");
            findings.note(key, reason);
        }
    }
    let meta = meta::read(&mut root, findings);
    match kind {
        Kind::Service => service::read(meta, &mut root, findings).map(Resource::Service),
        Kind::HttpRoute => httproute::read(meta, &mut root, findings).map(Resource::HttpRoute),
        Kind::AccessPolicy => {
            access_policy::read(meta, &mut root, findings).map(Resource::AccessPolicy)
        }
        Kind::AuthenticationPolicy => authentication_policy::read(meta, &mut root, findings)
            .map(Resource::AuthenticationPolicy),
        Kind::HostnameGenerator => {
            hostname_generator::read(meta, &mut root, findings).map(Resource::HostnameGenerator)
        }
        Kind::EndpointSlice | Kind::Workload => None,
    }
}
