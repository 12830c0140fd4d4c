//! Trace headers: what is read is written back the same.
#![no_main]

use leno_telemetry::trace::{Context, TraceId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(context) = Context::parse_traceparent(data) {
        let again = Context::parse_traceparent(context.traceparent().as_bytes());
        assert_eq!(again, Some(context));
    }
    for header in ["b3", "x-b3-traceid"] {
        let Some(trace) = TraceId::of_request(|name| (name == header).then_some(data)) else {
            continue;
        };
        let written = trace.to_string();
        let again = TraceId::of_request(|name| (name == header).then_some(written.as_bytes()));
        assert_eq!(again, Some(trace));
    }
});
