//! Documents, JSON of the API, and PEM.

use leno_config::{Kind, admit, parse_documents};
use leno_tls::{PrivateKey, TrustBundle};

/// Refused with reasons, or admitted; and what was admitted is admitted again, unchanged. The first byte is the kind.
pub(crate) fn admitted(data: &[u8]) -> bool {
    let Some((kind, text)) = data.split_first() else {
        return false;
    };
    let (Some(kind), Ok(value)) = (
        Kind::ALL.get(usize::from(*kind) % Kind::ALL.len()),
        serde_json::from_slice(text),
    ) else {
        return false;
    };
    let read = admit(*kind, value);
    match &read {
        Ok(admitted) => assert_eq!(admit(*kind, admitted.value.clone()).as_ref(), Ok(admitted)),
        Err(findings) => assert!(!findings.is_empty()),
    }
    read.is_ok()
}

/// Read, or refused with at least one reason.
pub(crate) fn documents(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let read = parse_documents("fuzz.yaml", text);
    match &read {
        Ok(documents) => documents
            .iter()
            .for_each(|document| drop(document.with_source())),
        Err(findings) => assert!(!findings.is_empty()),
    }
    read.is_ok()
}

/// Any text is refused or read.
pub(crate) fn bundle(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    drop(PrivateKey::from_pem(text));
    let domain = "fuzz.leno".parse();
    domain.is_ok_and(|domain| TrustBundle::from_pem(domain, text).is_ok())
}
