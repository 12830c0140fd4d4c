#![allow(clippy::unwrap_used, reason = "a test may panic")]
//! Examples of the specifications, what is not allowed, and bytes of strangers.

use proptest::prelude::*;

use super::*;

const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn the_example_of_the_specification_is_read_and_written() {
    let context = Context::parse_traceparent(GOOD.as_bytes()).unwrap();
    assert!(context.sampled);
    assert_eq!(context.traceparent(), *GOOD.as_bytes());
}

#[test]
fn a_later_version_is_read_as_far_as_ours_goes_and_flags_we_do_not_know_are_dropped() {
    let later = format!("cc{}-what-is-this", &GOOD[2..]);
    assert_eq!(
        Context::parse_traceparent(later.as_bytes())
            .unwrap()
            .traceparent(),
        *GOOD.as_bytes()
    );
    let flags = format!("{}ff", &GOOD[..53]);
    assert_eq!(
        Context::parse_traceparent(flags.as_bytes())
            .unwrap()
            .traceparent(),
        *GOOD.as_bytes()
    );
}

#[test]
fn what_is_malformed_is_no_context() {
    let bad = [
        String::new(),
        GOOD.to_uppercase(),
        format!("ff{}", &GOOD[2..]),
        format!("{GOOD}-"),
        format!("{GOOD}-00"),
        format!(" {GOOD}"),
        GOOD[..54].to_owned(),
        GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
        GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
        GOOD.replace('-', "_"),
        GOOD.replace("4bf9", "4bé"),
    ];
    for value in bad {
        assert_eq!(
            Context::parse_traceparent(value.as_bytes()),
            None,
            "{value}"
        );
    }
}

#[test]
fn a_request_belongs_to_the_trace_of_its_traceparent_or_else_of_its_b3_headers() {
    fn of(fields: &[(&str, &str)]) -> Option<String> {
        let value = |name: &str| fields.iter().find(|(of, _)| *of == name);
        TraceId::of_request(|name| value(name).map(|(_, value)| value.as_bytes()))
            .map(|trace| trace.to_string())
    }
    let long = "4bf92f3577b34da6a3ce929d0e0e4736";
    let single = format!("{long}-00f067aa0ba902b7-1-05e3ac9a4f6e3b90");
    assert_eq!(of(&[("traceparent", GOOD)]).as_deref(), Some(long));
    assert_eq!(of(&[("b3", &single)]).as_deref(), Some(long));
    assert_eq!(
        of(&[("b3", "0"), ("x-b3-traceid", long)]).as_deref(),
        Some(long)
    );
    assert_eq!(
        of(&[
            ("traceparent", "broken"),
            ("x-b3-traceid", "a3ce929d0e0e4736")
        ])
        .as_deref(),
        Some("0000000000000000a3ce929d0e0e4736")
    );
    let both = [("traceparent", GOOD), ("x-b3-traceid", "a3ce929d0e0e4736")];
    assert_eq!(of(&both).as_deref(), Some(long));
    for bad in [
        "",
        "0",
        "d",
        "-",
        "x",
        &long[1..],
        &long.to_uppercase(),
        &"0".repeat(32),
    ] {
        assert_eq!(of(&[("b3", bad), ("x-b3-traceid", bad)]), None, "{bad}");
    }
    assert_eq!(of(&[]), None);
}

#[test]
fn a_new_trace_has_ids_even_when_randomness_is_all_zero() {
    let context = Context::new([0; 24], true);
    assert_eq!(
        Context::parse_traceparent(&context.traceparent()),
        Some(context)
    );
}

proptest! {
    #[test]
    fn every_context_survives_its_header(random: [u8; 24], sampled: bool) {
        let context = Context::new(random, sampled);
        prop_assert_eq!(Context::parse_traceparent(&context.traceparent()), Some(context));
    }

    #[test]
    fn bytes_of_strangers_panic_nobody(bytes in prop::collection::vec(any::<u8>(), 0..80), near in "[0-9a-f-]{50,60}") {
        for bytes in [bytes.as_slice(), near.as_bytes()] {
            if let Some(context) = Context::parse_traceparent(bytes) {
                prop_assert!(bytes.starts_with(&context.traceparent()[3..35]) || bytes.len() >= 55);
            }
            let trace = TraceId::of_request(|name| (name != "traceparent").then_some(bytes));
            prop_assert!(trace.is_none_or(|trace| trace.to_string() != "0".repeat(32)));
        }
    }
}
