//! The parser `h1_request` of tests/parsers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    leno_parsers::h1_request(data);
});
