//! Characters by which a text that somebody else wrote could be shown as what it is not.

/// Whether a character is none to see: a control, a soft hyphen, a mark without width, a direction of writing, the end of
/// a line or paragraph. What others say is shown to people without them.
#[must_use]
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_a_terminal_or_turns_a_text_round_is_hidden_and_letters_are_not() {
        assert!(
            "\n\t\u{1b}\u{7f}\u{9b}\u{200d}\u{2028}\u{202e}\u{feff}"
                .chars()
                .all(is_hidden)
        );
        assert!(!"aä日✔ \u{1f980}".chars().any(is_hidden));
    }
}
