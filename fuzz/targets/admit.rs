//! JSON as clients send it: refused with reasons, or admitted; and what was admitted is admitted again, unchanged.
#![no_main]

use leno_config::{Kind, admit};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((kind, text)) = data.split_first() else {
        return;
    };
    let (Some(kind), Ok(value)) = (
        Kind::ALL.get(usize::from(*kind) % Kind::ALL.len()),
        serde_json::from_slice(text),
    ) else {
        return;
    };
    match admit(*kind, value) {
        Ok(admitted) => assert_eq!(admit(*kind, admitted.value.clone()), Ok(admitted)),
        Err(findings) => assert!(!findings.is_empty()),
    }
});
