//! The tables of fields, held against the readers of documents in both directions.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{fs, path::Path};

use leno_config::{Fields, Finding, Kind, List, Shape, admit, departures, parse_documents, schema};
use serde_json::{Map, Value, json};

fn written() -> impl Iterator<Item = Kind> {
    Kind::ALL.iter().copied().filter(|kind| !kind.derived())
}

/// A value of this shape, with as much in it as the way to `inside` needs.
fn sample(shape: Shape) -> Value {
    match shape {
        Shape::Text | Shape::Anything => json!("x"),
        Shape::Time => json!("2026-05-01T12:00:00Z"),
        Shape::Word(words) => json!(words[0]),
        Shape::Number(low, _) => json!(low),
        Shape::Flag => json!(true),
        Shape::NumberOrName => json!(1),
        Shape::Texts => json!({}),
        Shape::Map(fields) => json!({"1": skeleton(fields)}),
        Shape::Object(fields) => skeleton(fields),
        Shape::List(list) => json!([sample(*list.item)]),
    }
}

/// An object of everything that it must have.
fn skeleton(fields: &Fields) -> Value {
    let needed = fields.list.iter().filter(|field| field.required);
    let map: Map<String, Value> = needed
        .map(|field| (field.name.to_owned(), sample(field.shape)))
        .collect();
    map.into()
}

/// A value that is none of this shape.
fn wrong(shape: Shape) -> Option<Value> {
    Some(match shape {
        Shape::Text | Shape::Time | Shape::Word(_) => json!({"not": "text"}),
        Shape::Number(..) | Shape::NumberOrName => json!({"not": "a number"}),
        Shape::Flag => json!("perhaps"),
        Shape::Texts | Shape::Object(_) | Shape::Map(_) => json!("no object"),
        Shape::List(_) => json!("no list"),
        Shape::Anything => return None,
    })
}

/// The findings about the field at `path` of a document in which `value` stands there.
fn findings(kind: Kind, way: &[Step], value: Value) -> Vec<Finding> {
    let mut document = skeleton(schema(kind));
    document["apiVersion"] = kind.api_version().into();
    document["kind"] = kind.kind().into();
    let mut here = &mut document;
    for step in way {
        here = match step {
            Step::Field(name, shape) => {
                let map = here.as_object_mut().unwrap();
                map.entry(*name).or_insert_with(|| sample(*shape))
            }
            Step::First(list) => {
                let items = here.as_array_mut().unwrap();
                if items.is_empty() {
                    items.push(sample(*list.item));
                }
                &mut items[0]
            }
        };
    }
    *here = value;
    let path = path(way);
    let found = admit(kind, document).err().unwrap_or_default();
    found.into_iter().filter(|f| f.field == path).collect()
}

#[derive(Clone, Copy)]
enum Step {
    Field(&'static str, Shape),
    First(List),
}

fn path(way: &[Step]) -> String {
    let mut path = String::new();
    for step in way {
        match step {
            Step::Field(name, _) if path.is_empty() => path.push_str(name),
            Step::Field(name, _) => path.push_str(&format!(".{name}")),
            Step::First(_) => path.push_str("[0]"),
        }
    }
    path
}

/// Every way to an object of a kind that people write.
fn objects(shape: Shape, way: &mut Vec<Step>, visit: &mut impl FnMut(&'static Fields, &[Step])) {
    match shape {
        Shape::Object(fields) => {
            visit(fields, way);
            for field in fields.list.iter().filter(|field| field.name != "status") {
                way.push(Step::Field(field.name, field.shape));
                objects(field.shape, way, visit);
                way.pop();
            }
        }
        Shape::Map(fields) => {
            way.push(Step::Field("1", Shape::Object(fields)));
            objects(Shape::Object(fields), way, visit);
            way.pop();
        }
        Shape::List(list) => {
            way.push(Step::First(list));
            objects(*list.item, way, visit);
            way.pop();
        }
        _ => {}
    }
}

fn each_object(mut visit: impl FnMut(Kind, &'static Fields, &[Step])) {
    for kind in written() {
        let root = Shape::Object(schema(kind));
        objects(root, &mut Vec::new(), &mut |fields, way| {
            visit(kind, fields, way)
        });
    }
}

#[test]
fn every_field_of_a_table_is_read_and_its_type_checked() {
    // Accepted as they come and not kept, for `kubectl get -o yaml | leno apply -f -`.
    let unread = ["status", "selfLink"];
    let mut seen = 0;
    each_object(|kind, fields, way| {
        for field in fields.list.iter().filter(|f| !unread.contains(&f.name)) {
            let mut way = way.to_vec();
            way.push(Step::Field(field.name, field.shape));
            if field.refused {
                let found = findings(kind, &way, json!("something"));
                assert_eq!(found[0].reason, field.doc, "{kind} {}", path(&way));
                let found = findings(kind, &way, json!(""));
                assert!(found.is_empty(), "{kind} {}", path(&way));
            } else if let Some(value) = wrong(field.shape)
                && field.name != "managedFields"
            {
                let found = findings(kind, &way, value);
                assert!(!found.is_empty(), "{kind} {} is not read", path(&way));
            }
            seen += 1;
        }
    });
    assert!(seen > 100, "{seen}");
}

#[test]
fn what_is_in_no_table_is_refused_everywhere() {
    let mut seen = 0;
    each_object(|kind, _, way| {
        let mut way = way.to_vec();
        way.push(Step::Field("zzz", Shape::Anything));
        let found = findings(kind, &way, json!("x"));
        assert_eq!(found.len(), 1, "{kind} {}", path(&way));
        assert_eq!(found[0].reason, "unknown field");
        seen += 1;
    });
    assert!(seen > 20, "{seen}");
}

#[test]
fn words_and_bounds_of_the_tables_are_those_of_the_readers() {
    let mut seen = 0;
    each_object(|kind, fields, way| {
        for field in fields.list.iter().filter(|field| !field.refused) {
            let mut way = way.to_vec();
            way.push(Step::Field(field.name, field.shape));
            let refused = |value: Value| !findings(kind, &way, value).is_empty();
            match field.shape {
                Shape::Word(words) => {
                    assert!(refused(json!("Nonsense")), "{kind} {}", path(&way));
                    for word in words {
                        assert!(!refused(json!(word)), "{kind} {} {word}", path(&way));
                    }
                }
                Shape::Number(low, high) if high < u64::MAX => {
                    assert!(!refused(json!(low)) && !refused(json!(high)));
                    assert!(refused(json!(high + 1)), "{kind} {}", path(&way));
                    assert!(low == 0 || refused(json!(low - 1)));
                }
                Shape::List(list) if list.max < usize::MAX => {
                    let many = vec![sample(*list.item); list.max + 1];
                    let found = findings(kind, &way, many.into());
                    let limit = format!("at most {} are allowed", list.max);
                    let told = found.iter().any(|finding| finding.reason.contains(&limit));
                    assert!(told, "{kind} {}: {found:?}", path(&way));
                }
                _ => continue,
            }
            seen += 1;
        }
    });
    assert!(seen > 25, "{seen}");
}

#[test]
fn whatever_is_accepted_is_what_the_tables_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/documents");
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "golden") {
            continue;
        }
        for document in parse_documents("file", &fs::read_to_string(&path).unwrap()).unwrap() {
            let admitted = admit(document.kind, document.value).unwrap();
            let mut value = admitted.value;
            // What is refused is accepted where it is empty, whatever type that is.
            assert_eq!(
                departures(document.kind, &value),
                Vec::<String>::new(),
                "{}",
                path.display()
            );
            value["spec"]["zzz"] = json!(1);
            assert_eq!(departures(document.kind, &value).len(), 1);
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}
