#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

fn list(fields: &Fields) -> Vec<(String, String)> {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    fields
        .iter()
        .map(|(name, value)| (text(name), text(value)))
        .collect()
}

#[test]
fn order_case_and_duplicates_stay_and_lookups_ignore_case() {
    let mut fields = Fields::new();
    for (name, value) in [("X-a", "1"), ("B", "2"), ("x-A", "3")] {
        assert!(fields.push(name, value));
    }
    assert_eq!(fields.get("X-A").unwrap(), "1");
    assert_eq!(fields.get_all("x-a").collect::<Vec<_>>(), ["1", "3"]);
    assert!(fields.set("X-A", "4"));
    assert_eq!(
        list(&fields),
        [("X-a".into(), "4".into()), ("B".into(), "2".into())]
    );
    assert!(fields.set("C", "5"));
    assert_eq!(fields.remove("b"), 1);
    assert_eq!(fields.len(), 2);
}

#[test]
fn what_would_end_a_line_is_not_taken() {
    let mut fields = Fields::new();
    for (name, value) in [
        ("a", "b\r\nc: d"),
        ("a\r\n", "b"),
        ("", "b"),
        ("a b", "c"),
        ("a:", "c"),
        ("a", "\0"),
    ] {
        assert!(
            !fields.push(name, value) && !fields.set(name, value),
            "{name:?} {value:?}"
        );
    }
    assert!(fields.is_empty());
}
