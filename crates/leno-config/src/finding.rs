//! What is wrong with a document, and where: made for people.

use std::fmt;

const UNKNOWN_FIELD: &str = "unknown field";

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The file, where one is known.
    pub file: Option<String>,
    /// The line, from 1.
    pub line: Option<u32>,
    /// The column, from 1.
    pub column: Option<u32>,
    /// The field, such as `spec.rules[0].backendRefs[1].weight`; empty for the whole document.
    pub field: String,
    /// What is wrong with it, and what to do.
    pub reason: String,
    /// The nearest name that would be valid.
    pub suggestion: Option<String>,
}

impl Finding {
    /// A finding about a field; its place is filled in by whoever knows the file.
    #[must_use]
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            file: None,
            line: None,
            column: None,
            field: field.into(),
            reason: reason.into(),
            suggestion: None,
        }
    }

    /// A field that no table has.
    pub(crate) fn unknown_field(field: impl Into<String>) -> Self {
        Self::new(field, UNKNOWN_FIELD)
    }

    /// Whether it is about a field that no table has.
    #[must_use]
    pub fn is_unknown_field(&self) -> bool {
        self.reason == UNKNOWN_FIELD
    }

    /// The same with the nearest valid name.
    #[must_use]
    pub fn with_suggestion(mut self, suggestion: Option<String>) -> Self {
        self.suggestion = suggestion;
        self
    }
}

impl fmt::Display for Finding {
    /// `shop.yaml:14:7 spec.rules[0].backendRef: unknown field; did you mean backendRefs?`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            f.write_str(file)?;
            if let Some(line) = self.line {
                write!(f, ":{line}")?;
                if let Some(column) = self.column {
                    write!(f, ":{column}")?;
                }
            }
            f.write_str(if self.field.is_empty() { ": " } else { " " })?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.reason)?;
        if let Some(suggestion) = &self.suggestion {
            write!(f, "; did you mean {suggestion}?")?;
        }
        Ok(())
    }
}

/// The member of `valid` that `word` is most likely meant to be; `None` when nothing is near.
#[must_use]
pub fn nearest(word: &str, valid: &[&str]) -> Option<String> {
    // Longer words are no misspelling of ours, and the distance below is quadratic.
    if word.is_empty() || word.len() > 64 {
        return None;
    }
    let lower = word.to_ascii_lowercase();
    let near = valid.iter().filter_map(|candidate| {
        let allowed = (candidate.len().max(word.len()) / 3).max(1);
        // Most of many names are told apart by their length alone.
        if candidate.len().abs_diff(word.len()) > allowed {
            return None;
        }
        let distance = distance(&lower, &candidate.to_ascii_lowercase());
        (distance <= allowed).then_some((distance, *candidate))
    });
    near.min().map(|(_, best)| best.to_owned())
}

/// Levenshtein's distance, one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut before = i + 1;
        if let Some(first) = row.first_mut() {
            *first = before;
        }
        for (right, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let substituted = diagonal + usize::from(left != *right);
            diagonal = *cell;
            before = substituted.min(before + 1).min(diagonal + 1);
            *cell = before;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_near() {
        let valid = ["matches", "backendRefs", "filters", "timeouts", "name"];
        assert_eq!(
            nearest("backendRef", &valid).as_deref(),
            Some("backendRefs")
        );
        assert_eq!(nearest("backends", &valid).as_deref(), Some("backendRefs"));
        assert_eq!(nearest("match", &valid).as_deref(), Some("matches"));
        assert_eq!(nearest("TimeOut", &valid).as_deref(), Some("timeouts"));
        assert_eq!(nearest("zzz", &valid), None);
        assert_eq!(nearest("", &valid), None);
        assert_eq!(nearest(&"n".repeat(100), &valid), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn a_finding_reads_as_editors_expect() {
        let mut finding = Finding::new("spec.rules[0].backendRef", "unknown field")
            .with_suggestion(Some("backendRefs".into()));
        assert_eq!(
            finding.to_string(),
            "spec.rules[0].backendRef: unknown field; did you mean backendRefs?"
        );
        finding.file = Some("shop.yaml".into());
        finding.line = Some(14);
        finding.column = Some(7);
        assert_eq!(
            finding.to_string(),
            "shop.yaml:14:7 spec.rules[0].backendRef: unknown field; did you mean backendRefs?"
        );
    }
}
