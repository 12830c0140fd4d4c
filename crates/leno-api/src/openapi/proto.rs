//! A Swagger 2.0 document as protobuf: `openapi.v2.Document` of gnostic's `OpenAPIv2.proto`, in which kubectl up to
//! 1.26 wants it, and without which it refuses to apply.
//!
//! Only what [`super::swagger`] writes has a place here. Field numbers are those of that file, beside each line.

use serde_json::{Map, Value};

/// A message that grows.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn key(&mut self, field: u64, wire: u64) {
        self.varint(field << 3 | wire);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.key(field, 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, field: u64, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    fn message(&mut self, field: u64, message: &Self) {
        self.bytes(field, &message.0);
    }

    fn number(&mut self, field: u64, number: u64) {
        self.key(field, 0);
        self.varint(number);
    }

    fn double(&mut self, field: u64, number: f64) {
        self.key(field, 1);
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    /// The text of a member that there may be.
    fn text_of(&mut self, field: u64, value: &Value, name: &str) {
        if let Some(text) = value.get(name).and_then(Value::as_str) {
            self.text(field, text);
        }
    }

    /// `x-..` members, as `NamedAny`.
    fn extensions(&mut self, field: u64, value: &Value) {
        let members = value.as_object().into_iter().flatten();
        for (name, value) in members.filter(|(name, _)| name.starts_with("x-")) {
            self.message(field, &named(name, &any(value)));
        }
    }
}

/// `NamedSchema`, `NamedPathItem`, `NamedAny`, ..: all have a name and a value.
fn named(name: &str, value: &Message) -> Message {
    let mut message = Message::default();
    message.text(1, name);
    message.message(2, value);
    message
}

/// `Any`: its YAML, of which JSON is a part.
fn any(value: &Value) -> Message {
    let mut message = Message::default();
    message.text(2, &format!("{value}\n"));
    message
}

fn members<'v>(value: &'v Value, name: &str) -> impl Iterator<Item = (&'v String, &'v Value)> {
    let map = value.get(name).and_then(Value::as_object);
    map.into_iter().flat_map(Map::iter)
}

fn items<'v>(value: &'v Value, name: &str) -> impl Iterator<Item = &'v Value> {
    let list = value.get(name).and_then(Value::as_array);
    list.into_iter().flatten()
}

/// `Document`.
pub(super) fn document(swagger: &Value) -> Vec<u8> {
    let mut document = Message::default();
    document.text_of(1, swagger, "swagger");
    if let Some(info) = swagger.get("info") {
        let mut message = Message::default();
        message.text_of(1, info, "title");
        message.text_of(2, info, "version");
        document.message(2, &message);
    }
    let mut paths = Message::default();
    for (name, item) in members(swagger, "paths") {
        paths.message(2, &named(name, &path_item(item)));
    }
    document.message(8, &paths);
    let mut definitions = Message::default();
    for (name, value) in members(swagger, "definitions") {
        definitions.message(1, &named(name, &schema(value)));
    }
    document.message(9, &definitions);
    document.0
}

/// `PathItem`.
fn path_item(item: &Value) -> Message {
    let mut message = Message::default();
    for (field, method) in [
        (2, "get"),
        (3, "put"),
        (4, "post"),
        (5, "delete"),
        (8, "patch"),
    ] {
        if let Some(of) = item.get(method) {
            message.message(field, &operation(of));
        }
    }
    for of in items(item, "parameters") {
        message.message(9, &parameter(of));
    }
    message
}

/// `Operation`.
fn operation(of: &Value) -> Message {
    let mut message = Message::default();
    message.text_of(5, of, "operationId");
    for of in items(of, "parameters") {
        message.message(8, &parameter(of));
    }
    let mut responses = Message::default();
    for (code, response) in members(of, "responses") {
        let (mut inner, mut value) = (Message::default(), Message::default());
        inner.text_of(1, response, "description");
        value.message(1, &inner); // ResponseValue.response
        responses.message(1, &named(code, &value));
    }
    message.message(9, &responses);
    message.extensions(13, of);
    message
}

/// `ParametersItem.parameter.non_body_parameter`, of a query or of a path.
fn parameter(of: &Value) -> Message {
    let mut inner = Message::default();
    if of.get("required") == Some(&Value::Bool(true)) {
        inner.number(1, 1);
    }
    inner.text_of(2, of, "in");
    inner.text_of(4, of, "name");
    let in_path = of.get("in").is_some_and(|place| place == "path");
    // PathParameterSubSchema has its type one field before QueryParameterSubSchema, which may also be empty.
    inner.text_of(if in_path { 5 } else { 6 }, of, "type");
    let (mut non_body, mut parameter, mut item) =
        (Message::default(), Message::default(), Message::default());
    non_body.message(if in_path { 4 } else { 3 }, &inner);
    parameter.message(2, &non_body);
    item.message(1, &parameter);
    item
}

/// `Schema`.
fn schema(of: &Value) -> Message {
    let mut message = Message::default();
    message.text_of(1, of, "$ref");
    message.text_of(2, of, "format");
    message.text_of(4, of, "description");
    if let Some(maximum) = of.get("maximum").and_then(Value::as_f64) {
        message.double(7, maximum);
    }
    if let Some(minimum) = of.get("minimum").and_then(Value::as_f64) {
        message.double(9, minimum);
    }
    if let Some(max) = of.get("maxItems").and_then(Value::as_u64) {
        message.number(14, max);
    }
    for name in items(of, "required").filter_map(Value::as_str) {
        message.text(19, name);
    }
    for word in items(of, "enum") {
        message.message(20, &any(word));
    }
    if let Some(further) = of.get("additionalProperties") {
        let mut item = Message::default();
        item.message(1, &schema(further));
        message.message(21, &item);
    }
    if let Some(kind) = of.get("type").and_then(Value::as_str) {
        let mut item = Message::default();
        item.text(1, kind);
        message.message(22, &item);
    }
    if let Some(of) = of.get("items") {
        let mut item = Message::default();
        item.message(1, &schema(of));
        message.message(23, &item);
    }
    if of.get("properties").is_some() {
        let mut properties = Message::default();
        for (name, value) in members(of, "properties") {
            properties.message(1, &named(name, &schema(value)));
        }
        message.message(25, &properties);
    }
    message.extensions(31, of);
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_and_texts_are_as_protobuf_writes_them() {
        let mut message = Message::default();
        message.number(14, 300);
        message.text(1, "a");
        message.double(9, 1.0);
        let wanted = [
            0x70, 0xac, 0x02, 0x0a, 1, b'a', 0x49, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f,
        ];
        assert_eq!(message.0, wanted);
    }

    #[test]
    fn a_reference_is_its_first_field() {
        let reference = schema(&json!({"$ref": "#/definitions/x"}));
        assert_eq!(reference.0.first(), Some(&0x0a));
        assert!(reference.0.ends_with(b"#/definitions/x"));
    }
}
