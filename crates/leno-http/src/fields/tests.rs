#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

fn list(fields: &Fields) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
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
    assert_eq!(fields.get("X-A").unwrap(), b"1");
    assert_eq!(fields.remove("b"), 1);
    assert_eq!(
        list(&fields),
        [("X-a".into(), "1".into()), ("x-A".into(), "3".into())]
    );
    assert_eq!(fields.remove("X-A"), 2);
    assert!(fields.is_empty());
}

#[test]
fn what_was_received_and_what_was_added_are_one_list() {
    let head = Bytes::from_static(b"Host: a\r\nAccept: x/y\r\nEmpty:\r\n");
    let part = |from: usize, to: usize| head.get(from..to).unwrap();
    let mut fields = Fields::of(&head);
    fields.push_parsed(part(9, 15), part(17, 20));
    fields.push_parsed(part(22, 27), b"");
    assert!(fields.push("added", "later"));
    assert_eq!(
        list(&fields),
        [
            ("Accept".into(), "x/y".into()),
            ("Empty".into(), String::new()),
            ("added".into(), "later".into()),
        ]
    );
    assert_eq!(fields.get_shared("accept").unwrap(), "x/y");
    assert_eq!(fields.get_shared("Added").unwrap(), "later");
    let mut copy = Fields::with_capacity(0, 0);
    for (name, value) in fields.iter() {
        copy.push_legal(name, &[value]);
    }
    assert_eq!(copy, fields);
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
        assert!(!fields.push(name, value), "{name:?} {value:?}");
    }
    assert!(fields.is_empty());
}

#[test]
fn every_byte_of_a_value_is_looked_at_wherever_it_is() {
    for byte in 0..=u8::MAX {
        for place in 0..20 {
            let mut value = [b'v'; 20];
            value[place] = byte;
            assert_eq!(is_value(&value), is_value_byte(byte), "{byte} at {place}");
        }
    }
    assert!(is_value(b"") && is_value(b"a\tb") && is_value(b"\t\t\t\t\t\t\t\t\t"));
}
