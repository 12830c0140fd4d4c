//! The parser `agent_discovery` of tests/parsers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    leno_parsers::agent_discovery(data);
});
