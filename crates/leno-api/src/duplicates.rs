//! JSON in which a key that stands twice is an error with its path: which of the two was meant nobody can know. So is
//! what consists of more than [`MAX_VALUES`]: small ones without end take much longer to work on than their bytes say.

use std::{cell::Cell, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Values of one body, lists and objects included: 4,096 objects of a batch may have 122 each.
const MAX_VALUES: usize = 500_000;

/// Why a document is not read.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(crate) struct Unread {
    error: serde_json::Error,
    /// It is a key that stands twice, and nothing else so far.
    pub(crate) twice: bool,
}

impl From<serde_json::Error> for Unread {
    fn from(error: serde_json::Error) -> Self {
        Self {
            error,
            twice: false,
        }
    }
}

/// Reads a JSON document. Depth is bounded by serde_json (128).
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, Unread> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let (left, twice) = (Cell::new(MAX_VALUES), Cell::new(false));
    let strict = Strict {
        path: None,
        left: &left,
        twice: &twice,
    };
    let read = strict.deserialize(&mut reader);
    let read = read.and_then(|value| reader.end().map(|()| value));
    read.map_err(|error| Unread {
        error,
        twice: twice.get(),
    })
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

struct Strict<'a> {
    path: Path<'a>,
    /// How many values there may still be.
    left: &'a Cell<usize>,
    twice: &'a Cell<bool>,
}

impl<'a> Strict<'a> {
    fn at(&self, step: &'a Step<'a>) -> Strict<'a> {
        Strict {
            path: Some(step),
            left: self.left,
            twice: self.twice,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let left = self.left.get().checked_sub(1).ok_or_else(|| {
            D::Error::custom(format_args!("it has more than {MAX_VALUES} values"))
        })?;
        self.left.set(left);
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
            let step = Step::Index(&self.path, list.len());
            match items.next_element_seed(self.at(&step))? {
                Some(item) => list.push(item),
                None => return Ok(list.into()),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let step = Step::Field(&self.path, &name);
            let value = fields.next_value_seed(self.at(&step))?;
            if object.contains_key(&name) {
                self.twice.set(true);
                let mut path = String::new();
                write_path(&Some(&step), &mut path);
                return Err(A::Error::custom(format_args!("duplicate field \"{path}\"")));
            }
            object.insert(name, value);
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_body_of_very_many_small_values_is_refused_before_all_are_there() {
        let many = |count: usize| format!("[{}0]", "0,".repeat(count - 2));
        assert!(parse(many(MAX_VALUES).as_bytes()).is_ok());
        let refused = parse(many(MAX_VALUES + 1).as_bytes()).unwrap_err();
        assert!(
            refused.to_string().contains("more than 500000 values"),
            "{refused}"
        );
        assert!(!refused.twice, "and not read leniently instead");
        assert!(parse(br#"{"a":1,"a":2}"#).unwrap_err().twice);
    }
}
