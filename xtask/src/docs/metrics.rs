//! Reads names of metrics and what they mean out of Rust source, as text.
//!
//! Owns the three forms in which the project writes them: a closed set (leno-telemetry), counters of a thread
//! (leno-http), and a name beside its help. Invariant: a name without a meaning is an error, never an empty cell.

use super::source::documented;

/// A name and what it means.
#[derive(Debug, PartialEq, Eq)]
struct Metric {
    name: String,
    help: String,
}

/// The members of `closed_set! { NAME { .. } }`: `/// meaning`, then `Variant = "name",`.
pub(super) fn set(code: &str, name: &str) -> Result<String, String> {
    let head = format!("    {name} {{\n");
    let body =
        between(code, &head, "\n    }\n").ok_or_else(|| format!("there is no set {name}"))?;
    let members = documented(body, |line| {
        let (_, value) = line.split_once(" = \"")?;
        Some((value.strip_suffix("\",")?.to_owned(), String::new()))
    });
    table(members.into_iter().map(|item| Metric {
        name: item.name,
        help: item.doc,
    }))
}

/// The members of `counters! { .. }`: `/// meaning`, then `name,`.
pub(super) fn events(code: &str) -> Result<String, String> {
    let body = between(code, "\ncounters! {\n", "\n}\n").ok_or("there are no counters")?;
    let members = documented(body, |line| {
        Some((line.strip_suffix(',')?.to_owned(), String::new()))
    });
    table(members.into_iter().map(|item| Metric {
        name: item.name,
        help: item.doc,
    }))
}

/// Every text that is a metric's name, with the text after it, which is its help.
pub(super) fn named(code: &str) -> Result<String, String> {
    let shipped = code.split("#[cfg(test)]").next().unwrap_or_default();
    let mut found: Vec<Metric> = Vec::new();
    let mut texts = literals(shipped).into_iter();
    while let Some(name) = texts.next() {
        let word = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        let of_ours = name.starts_with("leno_") || name.starts_with("istio_");
        if of_ours && name.bytes().all(word) {
            let help = texts.next().unwrap_or_default();
            found.push(Metric { name, help });
        }
    }
    table(found.into_iter())
}

fn table(metrics: impl Iterator<Item = Metric>) -> Result<String, String> {
    let mut text = "| name | what it says |\n|---|---|\n".to_owned();
    let head = text.len();
    for Metric { name, help } in metrics {
        if help.is_empty() {
            return Err(format!("{name} says nothing of itself"));
        }
        text.push_str(&format!("| `{name}` | {help} |\n"));
    }
    if text.len() == head {
        return Err("there is no metric".into());
    }
    Ok(text)
}

fn between<'a>(code: &'a str, from: &str, to: &str) -> Option<&'a str> {
    let (_, rest) = code.split_once(from)?;
    rest.split_once(to).map(|(body, _)| body)
}

/// The texts between quotes, comments passed over.
fn literals(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in code.lines() {
        let mut rest = line;
        while let Some((before, after)) = rest.split_once('"') {
            if before.contains("//") {
                break;
            }
            let mut text = String::new();
            let mut characters = after.char_indices();
            let end = loop {
                match characters.next() {
                    Some((at, '"')) => break at + 1,
                    Some((_, '\\')) => text.extend(characters.next().map(|(_, escaped)| escaped)),
                    Some((_, character)) => text.push(character),
                    None => break after.len(),
                }
            };
            found.push(text);
            rest = after.get(end..).unwrap_or_default();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "| name | what it says |\n|---|---|\n";

    #[test]
    fn a_closed_set_is_its_names_and_its_doc_comments() {
        let code = "closed_set! {\n    /// All.\n    Kind {\n        /// One.\n        A = \"leno_a\",\n    }\n}\n";
        assert_eq!(
            set(code, "Kind"),
            Ok(format!("{HEAD}| `leno_a` | One. |\n"))
        );
        assert!(set(code, "Other").is_err());
        let mute = "    Kind {\n        A = \"leno_a\",\n    }\n";
        assert!(set(mute, "Kind").is_err());
    }

    #[test]
    fn a_name_beside_its_help_is_found_wherever_lines_break() {
        let code = "f(\"leno_a\", \"Says \\\"a\\\".\"); // \"leno_no\"\nf(\n  \"leno_b_total\",\n  \"B.\",\n  \"x\",\n);\n";
        let expected = format!("{HEAD}| `leno_a` | Says \"a\". |\n| `leno_b_total` | B. |\n");
        assert_eq!(named(code), Ok(expected));
        assert!(named("let a = \"b\";").is_err());
    }

    #[test]
    fn the_counters_of_a_thread_are_fields() {
        let code = "\ncounters! {\n    /// Bad ones.\n    bad,\n}\n";
        assert_eq!(events(code), Ok(format!("{HEAD}| `bad` | Bad ones. |\n")));
    }
}
