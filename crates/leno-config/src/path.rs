//! Paths of fields: `spec.rules[0].matches`, `metadata.labels[leno.dev/service]`.

/// Characters of a key that a path shows at most.
const SHOWN: usize = 64;

/// The path of a member. A key that is no plain word stands in brackets.
pub(crate) fn member_path(path: &str, key: &str) -> String {
    let shown: String = key.chars().take(SHOWN).collect();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !shown.is_empty() && shown.bytes().all(plain) {
        if path.is_empty() {
            shown
        } else {
            format!("{path}.{shown}")
        }
    } else {
        let shown: String = shown
            .chars()
            .map(|c| if c.is_control() { '\u{fffd}' } else { c })
            .collect();
        format!("{path}[{shown}]")
    }
}

/// The path of what a field is in; `None` for a field of the document itself.
pub(crate) fn outer(path: &str) -> Option<&str> {
    let end = match path.strip_suffix(']') {
        Some(_) => path.rfind('['),
        None => path.rfind('.'),
    };
    end.and_then(|end| path.get(..end))
}
