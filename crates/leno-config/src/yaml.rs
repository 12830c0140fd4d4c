//! YAML 1.2 (and so JSON) to trees that know where each node stands.
//!
//! Refuses what two readers would understand differently: the booleans of YAML 1.1 (`yes`, `on`), numbers with a
//! leading zero, keys that are there twice, merge keys, tags. Invariant: what is built is bounded by the ceilings
//! below, aliases written out included, whatever the text is.

use std::{borrow::Cow, collections::HashMap};

use serde_json::{Map, Value};
use serde_saphyr::granit_parser::{
    ErrorKind, Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag, options,
};

/// Bytes of a file at most.
pub(crate) const MAX_FILE: usize = 16 << 20;
/// Bytes of a document at most, as written and with its aliases written out.
pub(crate) const MAX_DOCUMENT: usize = 1 << 20;
/// Nodes of a document at most, with its aliases written out.
const MAX_NODES: usize = 100_000;
/// Levels of a document at most.
const MAX_DEPTH: usize = 64;
/// What is wrong with a file is told this often at most.
const MAX_PROBLEMS: usize = 200;

/// A place in a file, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    /// The line.
    pub(crate) line: u32,
    /// The column, in characters.
    pub(crate) column: u32,
}

/// Something wrong at a place.
#[derive(Debug)]
pub(crate) struct Problem {
    /// Where.
    pub(crate) at: Position,
    /// What.
    pub(crate) reason: String,
}

/// A node of a document.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Where it begins.
    pub(crate) at: Position,
    /// What it holds.
    pub(crate) content: Content,
    /// Nodes in it, itself included.
    nodes: usize,
    /// Bytes of its texts.
    bytes: usize,
    /// Levels of collections in it.
    depth: usize,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// One value.
    Scalar(Value),
    /// A list.
    List(Vec<Node>),
    /// An object: each key with its place.
    Object(Vec<(String, Position, Node)>),
}

impl Node {
    fn scalar(at: Position, value: Value) -> Self {
        let bytes = value.as_str().map_or(8, str::len);
        let content = Content::Scalar(value);
        Self {
            at,
            content,
            nodes: 1,
            bytes,
            depth: 0,
        }
    }

    /// The member of an object.
    pub(crate) fn member(&self, key: &str) -> Option<(Position, &Node)> {
        match &self.content {
            Content::Object(members) => members
                .iter()
                .find(|(name, ..)| name == key)
                .map(|(_, at, node)| (*at, node)),
            Content::Scalar(_) | Content::List(_) => None,
        }
    }

    /// The text it is.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar(value) => value.as_str(),
            Content::List(_) | Content::Object(_) => None,
        }
    }

    /// The same without places.
    pub(crate) fn to_value(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(items) => items.iter().map(Self::to_value).collect(),
            Content::Object(members) => {
                let member =
                    |(key, _, node): &(String, Position, Self)| (key.clone(), node.to_value());
                Value::Object(members.iter().map(member).collect::<Map<_, _>>())
            }
        }
    }
}

/// Every document of a text that could be read, and everything wrong with the text.
pub(crate) fn read(text: &str) -> (Vec<Node>, Vec<Problem>) {
    let mut reader = Reader::default();
    if text.len() > MAX_FILE {
        let start = Position { line: 1, column: 1 };
        let reason = format!(
            "the file has {} bytes, at most {MAX_FILE} are read",
            text.len()
        );
        reader.problem(start, reason);
        return (Vec::new(), reader.problems);
    }
    let options = options! {
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parser = Parser::new_from_str_with_options(text, options);
    while let Some(next) = parser.next_event() {
        match next {
            Ok((event, span)) => reader.take(event, span),
            Err(error) => {
                reader.problem(position(error.marker()), reason(&error));
                if !reader.resume(&mut parser) {
                    break;
                }
            }
        }
        if reader.problems.len() >= MAX_PROBLEMS {
            break;
        }
    }
    (reader.documents, reader.problems)
}

fn reason(error: &ScanError) -> String {
    match error.kind() {
        ErrorKind::RecursionLimitExceeded => too_deep(),
        _ => error.info(),
    }
}

fn too_deep() -> String {
    format!("the document has more than {MAX_DEPTH} levels")
}

fn position(marker: &serde_saphyr::granit_parser::Marker) -> Position {
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Position {
        line: number(marker.line().max(1)),
        column: number(marker.col().saturating_add(1)),
    }
}

/// A collection that has not ended yet.
struct Open {
    node: Node,
    anchor: usize,
    /// The key whose value comes next; for an object only.
    key: Option<(String, Position)>,
    /// Keys so far and their lines.
    keys: HashMap<String, u32>,
}

#[derive(Default)]
struct Reader {
    documents: Vec<Node>,
    problems: Vec<Problem>,
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    bytes: usize,
    began: usize,
    deepest: usize,
    /// The rest of this document is passed over: it is too large or could not be read.
    skipping: bool,
}

impl Reader {
    fn problem(&mut self, at: Position, reason: impl Into<String>) {
        let reason = reason.into();
        self.problems.push(Problem { at, reason });
    }

    /// After an error: on to the next document. `false` when there is none.
    fn resume<'t>(&mut self, parser: &mut Parser<'t, StrInput<'t>>) -> bool {
        self.begin(0);
        match parser.proceed_next_document() {
            Ok(more) => more,
            Err(error) => {
                self.problem(position(error.marker()), reason(&error));
                false
            }
        }
    }

    fn begin(&mut self, index: usize) {
        self.open.clear();
        self.root = None;
        self.anchors.clear();
        self.nodes = 0;
        self.bytes = 0;
        self.began = index;
        self.deepest = 0;
        self.skipping = false;
    }

    fn take(&mut self, event: Event<'_>, span: Span) {
        let at = position(&span.start);
        match event {
            Event::DocumentStart(..) => self.begin(span.start.index()),
            Event::DocumentEnd => self.end(),
            _ if self.skipping => {}
            Event::Scalar(text, style, anchor, tag) => {
                let node = self.scalar(at, &text, style, tag.as_deref());
                self.complete(node, anchor);
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.collection(at, Content::List(Vec::new()), anchor, tag, "seq");
            }
            Event::MappingStart(_, anchor, tag) => {
                self.collection(at, Content::Object(Vec::new()), anchor, tag, "map");
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    self.complete(open.node, open.anchor);
                }
            }
            Event::Alias(anchor) => match self.anchors.get(&anchor).cloned() {
                Some(node) => {
                    self.nodes = self.nodes.saturating_add(node.nodes);
                    self.bytes = self.bytes.saturating_add(node.bytes);
                    self.complete(Node { at, ..node }, 0);
                }
                None => {
                    self.problem(at, "the alias stands within what it names");
                    self.complete(Node::scalar(at, Value::Null), 0);
                }
            },
            _ => {}
        }
        if !self.skipping {
            let written = span.start.index().saturating_sub(self.began);
            self.limit(at, written);
        }
    }

    fn limit(&mut self, at: Position, written: usize) {
        let reason = if written > MAX_DOCUMENT || self.bytes > MAX_DOCUMENT {
            format!("the document is larger than {MAX_DOCUMENT} bytes")
        } else if self.nodes > MAX_NODES {
            format!("the document has more than {MAX_NODES} values")
        } else if self.deepest > MAX_DEPTH {
            too_deep()
        } else {
            return;
        };
        self.problem(at, reason);
        self.open.clear();
        self.anchors.clear();
        self.root = None;
        self.skipping = true;
    }

    fn end(&mut self) {
        if let Some(root) = self.root.take() {
            self.documents.push(root);
        }
        self.begin(0);
    }

    fn collection(
        &mut self,
        at: Position,
        content: Content,
        anchor: usize,
        tag: Option<Cow<'_, Tag>>,
        natural: &str,
    ) {
        if tag.is_some_and(|tag| tag.core_suffix() != Some(natural)) {
            self.problem(at, "tags have no meaning here");
        }
        let node = Node {
            at,
            content,
            nodes: 1,
            bytes: 0,
            depth: 1,
        };
        let keys = HashMap::new();
        self.nodes = self.nodes.saturating_add(1);
        self.open.push(Open {
            node,
            anchor,
            key: None,
            keys,
        });
    }

    /// Puts a node that is whole where it belongs.
    fn complete(&mut self, node: Node, anchor: usize) {
        if anchor != 0 && !self.skipping {
            // The copy counts, or anchors inside anchors would cost the square of what is written.
            self.nodes = self.nodes.saturating_add(node.nodes);
            self.bytes = self.bytes.saturating_add(node.bytes);
            self.anchors.insert(anchor, node.clone());
        }
        let (nodes, bytes, depth) = (node.nodes, node.bytes, node.depth);
        self.deepest = self.deepest.max(self.open.len().saturating_add(depth));
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return;
        };
        open.node.nodes = open.node.nodes.saturating_add(nodes);
        open.node.bytes = open.node.bytes.saturating_add(bytes);
        open.node.depth = open.node.depth.max(depth.saturating_add(1));
        let mut wrong = None;
        match (&mut open.node.content, open.key.take()) {
            (Content::List(items), _) => items.push(node),
            (Content::Object(members), Some((key, at))) => match open.keys.get(&key) {
                None => {
                    open.keys.insert(key.clone(), at.line);
                    members.push((key, at, node));
                }
                Some(line) => {
                    let shown: String = key.chars().take(64).collect();
                    wrong = Some((
                        at,
                        format!("the key \"{shown}\" is there twice, first on line {line}"),
                    ));
                }
            },
            (Content::Object(_), None) => {
                let at = node.at;
                let key = match node.content {
                    Content::Scalar(Value::String(text)) if text == "<<" => {
                        wrong = Some((
                            at,
                            "merge keys are not supported: write the fields out".to_owned(),
                        ));
                        text
                    }
                    Content::Scalar(Value::String(text)) => text,
                    Content::Scalar(other) => {
                        wrong = Some((
                            at,
                            format!("the key {other} must be text: put it in quotes"),
                        ));
                        other.to_string()
                    }
                    Content::List(_) | Content::Object(_) => {
                        wrong = Some((at, "a key must be text".to_owned()));
                        String::new()
                    }
                };
                open.key = Some((key, at));
            }
            (Content::Scalar(_), _) => {}
        }
        if let Some((at, reason)) = wrong {
            self.problem(at, reason);
        }
    }

    fn scalar(&mut self, at: Position, text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Node {
        self.nodes = self.nodes.saturating_add(1);
        self.bytes = self.bytes.saturating_add(text.len());
        let verbatim = match tag {
            None => style != ScalarStyle::Plain,
            Some(tag) if tag.core_suffix() == Some("str") => true,
            Some(tag) => {
                let reason = format!("the tag {} has no meaning here", tag.original());
                self.problem(at, reason.chars().take(128).collect::<String>());
                true
            }
        };
        if verbatim {
            return Node::scalar(at, Value::String(text.into()));
        }
        let value = resolve(text).unwrap_or_else(|reason| {
            self.problem(at, reason);
            Value::String(text.into())
        });
        Node::scalar(at, value)
    }
}

/// What a plain scalar means (the core schema of YAML 1.2.2, 10.3.2).
fn resolve(text: &str) -> Result<Value, String> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" => return Ok(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Value::Bool(false)),
        _ => {}
    }
    let ambiguous = ["yes", "no", "on", "off", "y", "n"];
    if text.len() <= 3 && ambiguous.iter().any(|word| word.eq_ignore_ascii_case(text)) {
        return Err(format!(
            "{text} is a boolean to some readers of YAML and text to others: write true, false or \"{text}\""
        ));
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return Ok(Value::String(text.into()));
    }
    if !unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        return whole(text, unsigned);
    }
    let radix = |prefix, radix| {
        let digits: &str = text.strip_prefix(prefix)?;
        let plain = !digits.starts_with('+');
        plain.then(|| u64::from_str_radix(digits, radix).ok())?
    };
    if let Some(number) = radix("0x", 16).or_else(|| radix("0o", 8)) {
        return Ok(number.into());
    }
    if matches!(
        unsigned,
        ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN"
    ) {
        return Err(format!("{text} is no number of JSON"));
    }
    let numeric =
        |byte: u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-');
    if unsigned.bytes().all(numeric)
        && let Ok(number) = text.parse::<f64>()
    {
        let number = serde_json::Number::from_f64(number);
        return number
            .map(Value::Number)
            .ok_or_else(|| format!("{text} is out of range"));
    }
    Ok(Value::String(text.into()))
}

fn whole(text: &str, digits: &str) -> Result<Value, String> {
    if digits.len() > 1 && digits.starts_with('0') {
        return Err(format!(
            "{text} is octal to some readers of YAML and decimal to others: drop the zero, or put it in quotes"
        ));
    }
    let number = match text.strip_prefix('-') {
        Some(_) => text.parse::<i64>().map(Value::from),
        None => digits.parse::<u64>().map(Value::from),
    };
    number.map_err(|_| {
        format!(
            "{} is out of range",
            text.chars().take(32).collect::<String>()
        )
    })
}
