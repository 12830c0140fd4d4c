//! Documents as files hold them: which kind each is, where it begins, which line each field is on.
//!
//! Invariant: either every document of a file is right, or none is given.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    Admitted, Finding, Kind, SOURCE_ANNOTATION, SOURCE_MAP_ANNOTATION, admit, instead_of, nearest,
    path::{self, member_path},
    yaml::{self, Content, Node, Position, Problem},
};

/// Fields of a document whose lines are kept.
const MAX_LINES: usize = 20_000;
/// Bytes of their paths together.
const MAX_PATHS: usize = 4 << 20;
/// Bytes of [`SOURCE_MAP_ANNOTATION`] at most.
const MAX_SOURCE_MAP: usize = 4096;
/// Documents of a file at most.
const MAX_DOCUMENTS: usize = 10_000;
/// What is wrong with a file is told this often at most.
const MAX_FINDINGS: usize = 200;

/// One document of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Its kind.
    pub kind: Kind,
    /// As written, without defaults.
    pub value: Value,
    /// The namespace it names.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// The file.
    pub file: String,
    /// The line where it begins, from 1.
    pub line: u32,
    /// The line of each field, by path (`spec.rules[0].backendRefs[1].weight`).
    pub lines: BTreeMap<String, u32>,
    /// The column of each field.
    pub columns: BTreeMap<String, u32>,
}

impl Document {
    /// The line and column of a field, or of the nearest field around it that is there.
    #[must_use]
    pub fn locate(&self, field: &str) -> Option<(u32, u32)> {
        let mut at = field;
        loop {
            if let (Some(line), Some(column)) = (self.lines.get(at), self.columns.get(at)) {
                return Some((*line, *column));
            }
            at = path::outer(at)?;
        }
    }

    /// A finding of the server about this document, with its place in the file.
    #[must_use]
    pub fn placed(&self, mut finding: Finding) -> Finding {
        let place = self.locate(&finding.field);
        finding.file = Some(self.file.clone());
        finding.line = Some(place.map_or(self.line, |(line, _)| line));
        finding.column = place.map(|(_, column)| column);
        finding
    }

    /// The document as `leno apply` sends it: with annotations that say where it and its rules were written (CP9).
    #[must_use]
    pub fn with_source(&self) -> Value {
        let mut value = self.value.clone();
        let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
        let Some(metadata) = metadata else {
            return value;
        };
        let annotations = metadata
            .entry("annotations")
            .or_insert_with(|| Value::Object(serde_json::Map::new()));
        if annotations.is_null() {
            *annotations = Value::Object(serde_json::Map::new());
        }
        if let Some(annotations) = annotations.as_object_mut() {
            let source = format!("{}:{}", self.file, self.line);
            annotations.insert(SOURCE_ANNOTATION.into(), source.into());
            annotations.remove(SOURCE_MAP_ANNOTATION);
            let map = self.source_map();
            if !map.is_empty() {
                annotations.insert(SOURCE_MAP_ANNOTATION.into(), map.into());
            }
        }
        value
    }

    /// The lines of what provenance names: rules first, then what they hold, as far as the annotation reaches.
    fn source_map(&self) -> String {
        let wanted = |field: &str| {
            let rest = field.strip_prefix("spec.rules[")?.strip_suffix(']')?;
            match rest.split_once("].") {
                None => (!rest.contains('.')).then_some(0),
                Some((_, member)) => {
                    let list = member.split_once('[').map(|(list, _)| list);
                    let known = matches!(list, Some("backendRefs" | "from"));
                    (known && !member.contains(']')).then_some(1)
                }
            }
        };
        let mut fields: Vec<(u8, u32, &str)> = self
            .lines
            .iter()
            .filter_map(|(field, line)| Some((wanted(field)?, *line, field.as_str())))
            .collect();
        fields.sort_unstable();
        let mut map = String::new();
        for (_, line, field) in fields {
            let pair = format!("{field}={line}");
            if map.len() + pair.len() >= MAX_SOURCE_MAP {
                break;
            }
            if !map.is_empty() {
                map.push(' ');
            }
            map.push_str(&pair);
        }
        map
    }
}

/// Reads every document of a file, YAML or JSON, `List`s too, and checks each as the server does.
///
/// # Errors
/// Everything that is wrong in any of them, in the order of the file.
pub fn parse_documents(file: &str, text: &str) -> Result<Vec<Document>, Vec<Finding>> {
    let (nodes, problems) = yaml::read(text);
    let mut reader = Reader {
        file,
        documents: Vec::new(),
        findings: problems
            .into_iter()
            .map(|problem| place(file, problem))
            .collect(),
    };
    for node in &nodes {
        reader.root(node);
    }
    let Reader {
        documents,
        mut findings,
        ..
    } = reader;
    if findings.is_empty() {
        return Ok(documents);
    }
    findings.sort_by_key(|finding| (finding.line, finding.column));
    let more = findings.len().saturating_sub(MAX_FINDINGS);
    if more > 0 {
        findings.truncate(MAX_FINDINGS);
        findings.push(Finding {
            file: Some(file.into()),
            ..Finding::new("", format!("{more} more findings are not shown"))
        });
    }
    Err(findings)
}

fn place(file: &str, problem: Problem) -> Finding {
    Finding {
        file: Some(file.into()),
        line: Some(problem.at.line),
        column: Some(problem.at.column),
        ..Finding::new("", problem.reason)
    }
}

struct Reader<'a> {
    file: &'a str,
    documents: Vec<Document>,
    findings: Vec<Finding>,
}

impl Reader<'_> {
    fn wrong(&mut self, at: Position, field: &str, reason: impl Into<String>) -> &mut Finding {
        self.findings.push(Finding {
            file: Some(self.file.into()),
            line: Some(at.line),
            column: Some(at.column),
            ..Finding::new(field, reason)
        });
        let last = self.findings.len().saturating_sub(1);
        &mut self.findings[last]
    }

    /// A document of the file: nothing, an object or a list of objects.
    fn root(&mut self, node: &Node) {
        match &node.content {
            Content::Scalar(Value::Null) => {}
            Content::Object(_) => match list_items(node) {
                None => self.object(node),
                Some(Content::List(items)) => {
                    for item in items {
                        self.object(item);
                    }
                }
                Some(_) => {
                    self.wrong(node.at, "items", "must be a list");
                }
            },
            Content::Scalar(_) | Content::List(_) => {
                self.wrong(
                    node.at,
                    "",
                    "a document is an object with apiVersion, kind, metadata and spec",
                );
            }
        }
    }

    fn object(&mut self, node: &Node) {
        if self.documents.len() >= MAX_DOCUMENTS {
            self.wrong(
                node.at,
                "",
                format!("a file has at most {MAX_DOCUMENTS} documents"),
            );
            return;
        }
        let Some(kind) = self.kind(node) else {
            return;
        };
        let mut places = Places::default();
        places.walk(node, String::new());
        let mut document = Document {
            kind,
            value: node.to_value(),
            namespace: None,
            name: String::new(),
            file: self.file.into(),
            line: node.at.line,
            lines: places.lines,
            columns: places.columns,
        };
        match admit(kind, document.value.clone()) {
            Ok(Admitted { resource, .. }) => {
                let named = document.value.pointer("/metadata/namespace");
                document.namespace = named.and_then(Value::as_str).map(str::to_owned);
                document.name = resource.meta().name.to_string();
                self.once(&document, &resource.meta().namespace.to_string());
                self.documents.push(document);
            }
            Err(findings) => {
                let placed = findings.into_iter().map(|finding| document.placed(finding));
                self.findings.extend(placed);
            }
        }
    }

    /// The same object twice in a file is a mistake: which one would hold?
    fn once(&mut self, document: &Document, namespace: &str) {
        let same = |other: &&Document| {
            other.kind == document.kind
                && other.name == document.name
                && other.namespace.as_deref().unwrap_or("default") == namespace
        };
        let Some(first) = self.documents.iter().find(same).map(|other| other.line) else {
            return;
        };
        let at = Position {
            line: document.line,
            column: 1,
        };
        let (kind, name) = (document.kind, &document.name);
        let reason = format!("{kind} {namespace}/{name} is there twice, first on line {first}");
        self.wrong(at, "metadata.name", reason);
    }

    fn kind(&mut self, node: &Node) -> Option<Kind> {
        if !matches!(node.content, Content::Object(_)) {
            self.wrong(
                node.at,
                "",
                "must be an object with apiVersion, kind, metadata and spec",
            );
            return None;
        }
        let mut words = [None, None];
        for (word, key) in words.iter_mut().zip(["apiVersion", "kind"]) {
            match node.member(key) {
                None => {
                    self.wrong(node.at, key, "is required");
                }
                Some((at, member)) => {
                    *word = member.text().map(|text| (at, text));
                    if word.is_none() {
                        self.wrong(at, key, "must be text");
                    }
                }
            }
        }
        let [Some((version_at, version)), Some((kind_at, word))] = words else {
            return None;
        };
        let found = Kind::from_type(version, word);
        if found.is_none() {
            self.unknown_kind((version_at, version), (kind_at, word));
        }
        found
    }

    fn unknown_kind(&mut self, version: (Position, &str), kind: (Position, &str)) {
        let same = |of: &&Kind| of.kind().eq_ignore_ascii_case(kind.1);
        if let Some(known) = Kind::ALL.iter().find(same) {
            if known.kind() != kind.1 {
                self.wrong(kind.0, "kind", "unknown kind").suggestion = Some(known.kind().into());
                return;
            }
            let reason = format!("{known} has no version \"{}\"", shorten(version.1));
            self.wrong(version.0, "apiVersion", reason).suggestion = Some(known.api_version());
            return;
        }
        let written = Kind::ALL.iter().filter(|kind| !kind.derived());
        let kinds: Vec<&str> = written.map(|kind| kind.kind()).collect();
        let unknown = format!("unknown kind \"{}\"", shorten(kind.1));
        let near = nearest(kind.1, &kinds);
        let reason = match (instead_of(kind.1), &near) {
            (Some(instead), _) => format!("{unknown}: {instead}"),
            (None, Some(_)) => unknown,
            (None, None) => format!("{unknown}; there are {}", kinds.join(", ")),
        };
        let suggestion = near.filter(|_| instead_of(kind.1).is_none());
        self.wrong(kind.0, "kind", reason).suggestion = suggestion;
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}

/// What `items` of a `List` (or `HTTPRouteList`, ..) holds; `None` when the node is no list.
fn list_items(node: &Node) -> Option<&Content> {
    let (_, kind) = node.member("kind")?;
    let of = kind.text()?.strip_suffix("List")?;
    let known = of.is_empty() || Kind::ALL.iter().any(|kind| kind.kind() == of);
    let (_, items) = node.member("items")?;
    known.then_some(&items.content)
}

#[derive(Default)]
struct Places {
    lines: BTreeMap<String, u32>,
    columns: BTreeMap<String, u32>,
    bytes: usize,
}

impl Places {
    fn add(&mut self, path: &str, at: Position) -> bool {
        self.bytes = self.bytes.saturating_add(path.len());
        if self.lines.len() >= MAX_LINES || self.bytes > MAX_PATHS {
            return false;
        }
        self.lines.insert(path.to_owned(), at.line);
        self.columns.insert(path.to_owned(), at.column);
        true
    }

    /// Depth is bounded by the reader of YAML.
    fn walk(&mut self, node: &Node, path: String) {
        match &node.content {
            Content::Scalar(_) => {}
            Content::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    let path = format!("{path}[{index}]");
                    if self.add(&path, item.at) {
                        self.walk(item, path);
                    }
                }
            }
            Content::Object(members) => {
                for (key, at, member) in members {
                    let path = member_path(&path, key);
                    if self.add(&path, *at) {
                        self.walk(member, path);
                    }
                }
            }
        }
    }
}
