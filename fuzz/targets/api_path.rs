//! The parser `api_path` of tests/parsers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    leno_parsers::api_path(data);
});
