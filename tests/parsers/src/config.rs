//! Documents, JSON of the API, and PEM.

use leno_config::{Kind, admit, parse_documents};
use leno_tls::{PrivateKey, TrustBundle};

/// Refused with reasons, or admitted; and what was admitted is admitted again, unchanged. The first byte is the kind.
pub(crate) fn admitted(data: &[u8]) {
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
}

/// Read, or refused with at least one reason.
pub(crate) fn documents(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match parse_documents("fuzz.yaml", text) {
        Ok(documents) => documents
            .iter()
            .for_each(|document| drop(document.with_source())),
        Err(findings) => assert!(!findings.is_empty()),
    }
}

/// Any text is refused or read.
pub(crate) fn bundle(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(domain) = "fuzz.leno".parse() {
        drop(TrustBundle::from_pem(domain, text));
    }
    drop(PrivateKey::from_pem(text));
}
