//! Texts that agents say of themselves, as they are kept and shown to people: one line, of a bounded length.
//!
//! Whoever is let in may still lie in what it says; it must not write lines, colours or directions of writing of its own
//! into what others read in a terminal.

use leno_types::is_hidden;

/// At most `most` characters, of which those that do not stand for themselves are replaced.
pub(crate) fn one_line(text: &str, most: usize) -> String {
    let harmless = |c| if is_hidden(c) { '?' } else { c };
    text.chars().take(most).map(harmless).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_says_is_one_line_in_one_direction() {
        let said = "0.1.0\n✔ all is well\u{1b}[2J\u{202e}gnp\u{2028}\tä";
        assert_eq!(one_line(said, 64), "0.1.0?✔ all is well?[2J?gnp??ä");
        assert_eq!(one_line(said, 5), "0.1.0");
    }
}
