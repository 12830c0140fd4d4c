//! The parser `documents` of tests/parsers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    leno_parsers::documents(data);
});
