#![allow(clippy::unwrap_used, reason = "a test may panic")]
//! Examples of the specifications, what is not allowed, and bytes of strangers.

use proptest::prelude::*;

use super::*;

const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn the_example_of_the_specification_is_read_and_written() {
    let context = Context::parse_traceparent(GOOD.as_bytes()).unwrap();
    assert!(context.sampled);
    assert_eq!(context.traceparent(), GOOD);
    assert_eq!(
        context.b3(),
        "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1"
    );
    let child = context.child([7; 8]);
    assert_eq!(
        child.traceparent(),
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0707070707070707-01"
    );
}

#[test]
fn a_later_version_is_read_as_far_as_ours_goes_and_flags_we_do_not_know_are_dropped() {
    let later = format!("cc{}-what-is-this", &GOOD[2..]);
    assert_eq!(
        Context::parse_traceparent(later.as_bytes())
            .unwrap()
            .traceparent(),
        GOOD
    );
    let flags = format!("{}ff", &GOOD[..53]);
    assert_eq!(
        Context::parse_traceparent(flags.as_bytes())
            .unwrap()
            .traceparent(),
        GOOD
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
fn b3_comes_in_one_header_or_several_long_or_short() {
    let context = |sampled| {
        Context::parse_traceparent(GOOD.as_bytes()).map(|context| Context { sampled, ..context })
    };
    let single = |value: &str| B3::parse_single(value.as_bytes());
    let ids = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";
    assert_eq!(
        single(ids),
        Some(B3 {
            context: context(false),
            sampled: None
        })
    );
    assert_eq!(
        single(&format!("{ids}-1")),
        Some(B3 {
            context: context(true),
            sampled: Some(true)
        })
    );
    assert_eq!(
        single(&format!("{ids}-d-05e3ac9a4f6e3b90")),
        Some(B3 {
            context: context(true),
            sampled: Some(true)
        })
    );
    assert_eq!(
        single("0"),
        Some(B3 {
            context: None,
            sampled: Some(false)
        })
    );
    let short = single("a3ce929d0e0e4736-00f067aa0ba902b7-1")
        .unwrap()
        .context
        .unwrap();
    assert_eq!(short.trace.to_string(), "0000000000000000a3ce929d0e0e4736");
    for bad in [
        "",
        "2",
        "-",
        ids.trim_end_matches('7'),
        &format!("{ids}-x"),
        &format!("{ids}-1-2"),
        &format!("{ids}-1-05e3ac9a4f6e3b90-"),
    ] {
        assert_eq!(single(bad), None, "{bad}");
    }

    let (trace, span) = ids
        .split_once('-')
        .map(|(a, b)| (Some(a.as_bytes()), Some(b.as_bytes())))
        .unwrap();
    let expected = Some(B3 {
        context: context(true),
        sampled: Some(true),
    });
    assert_eq!(B3::parse_multi(trace, span, Some(b"1"), None), expected);
    assert_eq!(B3::parse_multi(trace, span, None, Some(b"1")), expected);
    assert_eq!(
        B3::parse_multi(None, None, Some(b"0"), None),
        Some(B3 {
            context: None,
            sampled: Some(false)
        })
    );
    assert_eq!(B3::parse_multi(trace, None, None, None), None);
    assert_eq!(B3::parse_multi(trace, span, Some(b"yes"), None), None);
    assert_eq!(B3::parse_multi(None, None, None, None), None);
}

#[test]
fn a_new_trace_has_ids_even_when_randomness_is_all_zero() {
    let context = Context::new([0; 24], true);
    assert_eq!(
        Context::parse_traceparent(context.traceparent().as_bytes()),
        Some(context)
    );
    assert_ne!(context.child([0; 8]).span.to_string(), "0".repeat(16));
}

proptest! {
    #[test]
    fn every_context_survives_both_formats(random: [u8; 24], sampled: bool) {
        let context = Context::new(random, sampled);
        prop_assert_eq!(Context::parse_traceparent(context.traceparent().as_bytes()), Some(context));
        prop_assert_eq!(B3::parse_single(context.b3().as_bytes()).unwrap().context, Some(context));
    }

    #[test]
    fn bytes_of_strangers_panic_nobody(bytes in prop::collection::vec(any::<u8>(), 0..80), near in "[0-9a-f-]{50,60}") {
        for bytes in [bytes.as_slice(), near.as_bytes()] {
            if let Some(context) = Context::parse_traceparent(bytes) {
                prop_assert!(bytes.starts_with(&context.traceparent().as_bytes()[3..35]) || bytes.len() >= 55);
            }
            if let Some(B3 { context: Some(context), .. }) = B3::parse_single(bytes) {
                prop_assert!(Context::parse_traceparent(context.traceparent().as_bytes()).is_some());
            }
            prop_assert_eq!(B3::parse_multi(Some(bytes), None, None, None), None);
            prop_assert_eq!(B3::parse_multi(Some(bytes), Some(bytes), Some(bytes), Some(bytes)), None);
        }
    }
}
