//! Documents as people write them: read, or refused with at least one reason.
#![no_main]

use leno_config::parse_documents;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match parse_documents("fuzz.yaml", text) {
        Ok(documents) => documents
            .iter()
            .for_each(|document| drop(document.with_source())),
        Err(findings) => assert!(!findings.is_empty()),
    }
});
