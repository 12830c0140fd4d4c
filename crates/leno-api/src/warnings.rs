//! Warnings: what is to be said of a write that is taken. In answers about one object as Kubernetes has it, a
//! `Warning` field with code 299 (RFC 7234 5.5), which kubectl prints; in a batch's answer beside each object.

use axum::response::Response;
use http::{HeaderName, HeaderValue};
use leno_config::Finding;
use serde_json::{Value, json};

/// Warnings that one answer has; the last then says how many more there are.
const MAX_WARNINGS: usize = 16;
/// Bytes of one.
const MAX_BYTES: usize = 512;

/// Adds them to an answer about one object: first whom it cuts off.
pub(crate) fn add(response: &mut Response, cut_off: &[String], findings: &[Finding]) {
    let name = HeaderName::from_static("warning");
    let findings = findings.iter().map(Finding::to_string);
    let mut texts: Vec<String> = cut_off.iter().cloned().chain(findings).collect();
    if texts.len() > MAX_WARNINGS {
        let rest = texts.split_off(MAX_WARNINGS - 1).len();
        texts.push(format!("and {rest} more: its status has them all"));
    }
    for text in texts {
        if let Ok(value) = HeaderValue::from_str(&field_value(&text)) {
            response.headers_mut().append(name.clone(), value);
        }
    }
}

/// `299 - "text"`: a quoted string of printable ASCII.
fn field_value(text: &str) -> String {
    let mut value = String::from("299 - \"");
    for character in text.chars().take(MAX_BYTES) {
        match character {
            '"' | '\\' => value.extend(['\\', character]),
            ' '..='~' => value.push(character),
            _ => value.push('?'),
        }
    }
    value.push('"');
    value
}

/// As they stand beside an object of a batch.
pub(crate) fn to_value(findings: &[Finding]) -> Value {
    let one = |finding: &Finding| {
        let Finding {
            field,
            reason,
            suggestion,
            ..
        } = finding;
        json!({"field": field, "message": reason, "suggestion": suggestion})
    };
    findings.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_a_quoted_string_whatever_it_says() {
        assert_eq!(
            field_value("a \"b\" \\ c\n\u{e9}"),
            r#"299 - "a \"b\" \\ c??""#
        );
        let long = field_value(&"x".repeat(2 * MAX_BYTES));
        assert_eq!(long.len(), MAX_BYTES + "299 - \"\"".len());
    }

    #[test]
    fn more_than_fit_are_counted() {
        let finding = |index: usize| Finding::new(format!("spec.rules[{index}]"), "is odd");
        let findings: Vec<Finding> = (0..20).map(finding).collect();
        let mut response = Response::default();
        add(&mut response, &["cuts off a".into()], &findings);
        let all: Vec<_> = response.headers().get_all("warning").iter().collect();
        assert_eq!(all.len(), MAX_WARNINGS);
        assert_eq!(all[0], r#"299 - "cuts off a""#);
        assert_eq!(all[1], r#"299 - "spec.rules[0]: is odd""#);
        assert_eq!(
            all[MAX_WARNINGS - 1],
            r#"299 - "and 6 more: its status has them all""#
        );
    }
}
