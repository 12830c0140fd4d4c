//! Trace headers: what is read is written back the same.
#![no_main]

use leno_telemetry::trace::{B3, Context};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(context) = Context::parse_traceparent(data) {
        let again = Context::parse_traceparent(context.traceparent().as_bytes());
        assert_eq!(
            again.map(|again| again.traceparent()),
            Some(context.traceparent())
        );
    }
    if let Some(context) = B3::parse_single(data).and_then(|b3| b3.context) {
        let again = B3::parse_single(context.b3().as_bytes()).and_then(|b3| b3.context);
        assert_eq!(
            again.map(|again| again.traceparent()),
            Some(context.traceparent())
        );
    }
});
