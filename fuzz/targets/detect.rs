//! What a connection speaks, by its first bytes: never a panic, and no change of mind.
#![no_main]

use leno_http::detect::{HelloError, Sniff, sni, sniff};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let whole = sniff(data);
    if matches!(whole, Sniff::Tls(_)) {
        assert!(sni(data).is_ok());
    }
    if sni(data) == Err(HelloError::NotTls) {
        assert!(!matches!(whole, Sniff::Tls(_)));
    }
    // What was told from fewer bytes holds with more.
    let early = sniff(&data[..data.len() / 2]);
    if !matches!(early, Sniff::NeedMore) {
        assert_eq!(early, whole);
    }
});
