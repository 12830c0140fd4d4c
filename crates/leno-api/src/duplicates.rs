//! JSON in which a key that stands twice is an error with its path: which of the two was meant nobody can know.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Reads a JSON document. Depth is bounded by serde_json (128).
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict(None).deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// The path to here, innermost first.
#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}
type Path<'a> = Option<&'a Step<'a>>;

fn write_path(path: &Path<'_>, out: &mut String) {
    match path {
        None => {}
        Some(Step::Field(parent, name)) => {
            write_path(parent, out);
            if !out.is_empty() {
                out.push('.');
            }
            out.push_str(name);
        }
        Some(Step::Index(parent, index)) => {
            write_path(parent, out);
            out.push_str(&format!("[{index}]"));
        }
    }
}

struct Strict<'a>(Path<'a>);

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let step = Step::Index(&self.0, list.len());
            match items.next_element_seed(Strict(Some(&step)))? {
                Some(item) => list.push(item),
                None => return Ok(list.into()),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let step = Step::Field(&self.0, &name);
            let value = fields.next_value_seed(Strict(Some(&step)))?;
            if object.contains_key(&name) {
                let mut path = String::new();
                write_path(&Some(&step), &mut path);
                return Err(A::Error::custom(format_args!("duplicate field \"{path}\"")));
            }
            object.insert(name, value);
        }
        Ok(object.into())
    }
}
