#![allow(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;

use super::*;

fn fields(names: &[&str]) -> Fields {
    let mut fields = Fields::new();
    for name in names {
        assert!(fields.push(name, "v"));
    }
    fields
}

fn restored(names: &[&str]) -> Vec<String> {
    let described = describe(&fields(names));
    let mut restore = Restore::new(described.as_deref());
    names
        .iter()
        .map(|name| {
            let mut out = BytesMut::new();
            restore.write(name.to_ascii_lowercase().as_bytes(), &mut out);
            String::from_utf8(out.to_vec()).unwrap()
        })
        .collect()
}

#[test]
fn usual_heads_need_no_field() {
    assert_eq!(
        describe(&fields(&[
            "User-Agent",
            "Accept",
            "ETag",
            "WWW-Authenticate",
            "X-1"
        ])),
        None
    );
    for length in 0..64 {
        assert!(irregular_of(length).iter().all(|own| own.len() == length));
    }
    // What the mesh itself adds costs no description.
    let own = ["traceparent", "x-leno-to", "x-leno-from"];
    assert_eq!(describe(&fields(&own)), None);
    assert_eq!(
        restored(&["traceparent", "Accept"]),
        ["traceparent", "Accept"]
    );
    assert_eq!(
        restored(&["Traceparent", "accept"]),
        ["Traceparent", "accept"]
    );
    assert_eq!(describe(&fields(&["user-agent", "accept"])).unwrap(), "-");
    assert_eq!(
        describe(&fields(&["Accept", "X-CaSe", "Set-Cookie"])).unwrap(),
        "X-CaSe"
    );
}

#[test]
fn every_occurrence_gets_its_own_case() {
    for names in [
        &["X-a", "x-A", "X-A", "Accept"][..],
        &["Set-Cookie", "SET-COOKIE", "SET-COOKIE", "Set-Cookie"],
        &["etag", "ETAG", "a", "b", "C"],
        &["a", "A-b", "A-B", "a-b"],
    ] {
        assert_eq!(restored(names), names);
    }
}

#[test]
fn a_hostile_description_changes_nothing_but_case() {
    for hostile in ["a\r\nb: c", ",,,", "-", "x y", "\u{7f}", "Evil"] {
        let mut out = BytesMut::new();
        Restore::new(Some(hostile.as_bytes())).write(b"a-b", &mut out);
        assert!(out.eq_ignore_ascii_case(b"a-b"), "{hostile:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_head_survives(names in prop::collection::vec("[aAbB][aB-]{0,3}", 0..12)) {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        prop_assert_eq!(restored(&names), names);
    }
}
