//! The parser `csr` of tests/parsers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    leno_parsers::csr(data);
});
