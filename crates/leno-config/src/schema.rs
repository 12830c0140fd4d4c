//! What documents may hold, as tables: the name, type, bounds and meaning of each field.
//!
//! One source for three readers: the validators ask it which fields there are, OpenAPI publishes it, and
//! `kubectl explain` shows its words. Decides nothing about values beyond their type.
//! Invariant: every object of a document is read against its table, so what is accepted is published, and no more.

pub(crate) mod access_policy;
pub(crate) mod authentication_policy;
mod common;
mod derived;
pub(crate) mod hostname_generator;
pub(crate) mod httproute;
pub(crate) mod service;

use serde_json::Value;

use crate::{Kind, path::member_path};

pub(crate) use common::META;

/// The fields of an object, in the order in which they are shown.
#[derive(Debug)]
pub struct Fields {
    /// What the object is.
    pub doc: &'static str,
    /// Its fields.
    pub list: &'static [Field],
}

/// One field.
#[derive(Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub doc: &'static str,
    /// What it holds.
    pub shape: Shape,
    /// Whether it must be there.
    pub required: bool,
    /// A field of the API that Leno cannot honour: accepted only where it is empty, and `doc` says why.
    pub refused: bool,
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// Text.
    Text,
    /// A time as RFC 3339 writes it.
    Time,
    /// One of a few words.
    Word(&'static [&'static str]),
    /// A whole number from one to another, both included.
    Number(u64, u64),
    /// Yes or no.
    Flag,
    /// A number, or a name.
    NumberOrName,
    /// Names and values of one's own.
    Texts,
    /// An object.
    Object(&'static Fields),
    /// Names of one's own, each with such an object.
    Map(&'static Fields),
    /// A list.
    List(List),
    /// Whatever it is, nobody here reads it.
    Anything,
}

/// The members of a list.
#[derive(Clone, Copy, Debug)]
pub struct List {
    /// What each is.
    pub item: &'static Shape,
    /// How many there may be.
    pub max: usize,
    /// How two such lists become one.
    pub merge: Merge,
}

/// How a patch and a list become one.
#[derive(Clone, Copy, Debug)]
pub enum Merge {
    /// The new one replaces the old one.
    Atomic,
    /// Its members are a set.
    Set,
    /// A member is the same where these fields are; the first of them is the key of a strategic merge patch.
    Keys(&'static [&'static str]),
}

impl Fields {
    /// The field of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'static Field> {
        self.list.iter().find(|field| field.name == name)
    }

    /// The names of those that can be honoured.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        let honoured = self.list.iter().filter(|field| !field.refused);
        honoured.map(|field| field.name).collect()
    }
}

const fn field(name: &'static str, shape: Shape, doc: &'static str) -> Field {
    Field {
        name,
        doc,
        shape,
        required: false,
        refused: false,
    }
}

const fn required(name: &'static str, shape: Shape, doc: &'static str) -> Field {
    Field {
        name,
        doc,
        shape,
        required: true,
        refused: false,
    }
}

/// A field that the API has and Leno cannot honour, with the reason and what to do instead.
const fn refused(name: &'static str, why: &'static str) -> Field {
    Field {
        name,
        doc: why,
        shape: Shape::Anything,
        required: false,
        refused: true,
    }
}

/// A list, which a patch replaces as a whole.
const fn list(item: &'static Shape, max: usize) -> Shape {
    merged(item, max, Merge::Atomic)
}

/// A list that nobody writes: it has as many members as there are.
const fn every(item: &'static Shape) -> Shape {
    list(item, usize::MAX)
}

const fn merged(item: &'static Shape, max: usize, merge: Merge) -> Shape {
    Shape::List(List { item, max, merge })
}

/// The table of whole objects of a kind, from `apiVersion` to `status`.
#[must_use]
pub fn schema(kind: Kind) -> &'static Fields {
    match kind {
        Kind::Service => &service::ROOT,
        Kind::HttpRoute => &httproute::ROOT,
        Kind::AccessPolicy => &access_policy::ROOT,
        Kind::AuthenticationPolicy => &authentication_policy::ROOT,
        Kind::HostnameGenerator => &hostname_generator::ROOT,
        Kind::EndpointSlice => &derived::ENDPOINT_SLICE,
        Kind::Workload => &derived::WORKLOAD,
    }
}

/// Takes away every field that the table of its kind has not, and says which: for callers who ask for that.
pub fn prune(kind: Kind, object: &mut Value) -> Vec<String> {
    let mut gone = Vec::new();
    without_unknown(Shape::Object(schema(kind)), object, "", &mut gone);
    gone
}

fn without_unknown(shape: Shape, value: &mut Value, path: &str, gone: &mut Vec<String>) {
    match (shape, value) {
        (Shape::Object(fields), Value::Object(map)) => map.retain(|name, value| {
            let path = member_path(path, name);
            let Some(field) = fields.get(name) else {
                gone.push(path);
                return false;
            };
            without_unknown(field.shape, value, &path, gone);
            true
        }),
        (Shape::List(list), Value::Array(items)) => {
            for (index, item) in items.iter_mut().enumerate() {
                without_unknown(*list.item, item, &format!("{path}[{index}]"), gone);
            }
        }
        _ => {}
    }
}

/// Where an object is not what the table of its kind says: a field that is not there, or of another type. For tests
/// of what the control plane itself makes; documents are read by [`crate::admit`].
#[must_use]
pub fn departures(kind: Kind, object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    depart(Shape::Object(schema(kind)), object, "", &mut found);
    found
}

fn depart(shape: Shape, value: &Value, path: &str, found: &mut Vec<String>) {
    let fits = match shape {
        Shape::Anything => true,
        // Null means absent.
        _ if value.is_null() => true,
        Shape::Text | Shape::Time => value.is_string(),
        Shape::Word(words) => value.as_str().is_some_and(|word| words.contains(&word)),
        Shape::Number(low, high) => value.as_u64().is_some_and(|n| (low..=high).contains(&n)),
        Shape::Flag => value.is_boolean(),
        Shape::NumberOrName => value.is_u64() || value.is_string(),
        Shape::Texts => value
            .as_object()
            .is_some_and(|map| map.values().all(Value::is_string)),
        Shape::Object(_) | Shape::Map(_) => value.is_object(),
        Shape::List(_) => value.is_array(),
    };
    if !fits {
        found.push(format!("{path} is {value}, not {shape:?}"));
    }
    match (shape, value) {
        (Shape::Object(fields), Value::Object(map)) => {
            for (name, value) in map {
                let path = member_path(path, name);
                match fields.get(name) {
                    Some(field) => depart(field.shape, value, &path, found),
                    None => found.push(format!("{path} is in no table")),
                }
            }
            let missing = fields.list.iter().filter(|field| field.required);
            let missing = missing.filter(|field| !map.contains_key(field.name));
            found.extend(missing.map(|field| format!("{path} has no {}", field.name)));
        }
        (Shape::Map(fields), Value::Object(map)) => {
            for (name, value) in map {
                depart(
                    Shape::Object(fields),
                    value,
                    &member_path(path, name),
                    found,
                );
            }
        }
        (Shape::List(list), Value::Array(items)) => {
            if items.len() > list.max {
                found.push(format!("{path} has {} members", items.len()));
            }
            for (index, item) in items.iter().enumerate() {
                depart(*list.item, item, &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}
