//! How a command ends: its exit code, and the error that people read.
//!
//! | code | meaning |
//! |--:|---|
//! | 0 | done |
//! | 1 | it failed; the last line on standard error says what to do |
//! | 2 | the command line is wrong |
//! | 3 | a check found something wrong |
//! | 4 | a permission is missing; the message names it and how to give it |
//! | 5 | the agent or the control plane cannot be reached |
//! | 6 | refused: a document, a token or a program was not accepted |
//! | n | `leno run`: the program's own, 128 + signal when one ended it |

use std::fmt;

/// A permission is missing.
pub(crate) const PERMISSION: u8 = 4;
/// The agent or the control plane cannot be reached.
pub(crate) const UNREACHABLE: u8 = 5;

/// Why a command failed: what, then what to do about it.
#[derive(Debug)]
pub(crate) struct CommandError {
    /// The exit code, as listed above.
    pub(crate) code: u8,
    /// What happened.
    pub(crate) what: String,
    /// The next step; may be empty.
    pub(crate) hint: String,
}

/// What every command ends with.
pub(crate) type Outcome = Result<u8, CommandError>;

impl CommandError {
    /// A failure without a better place.
    pub(crate) fn failed(what: impl fmt::Display) -> Self {
        Self::new(1, what)
    }

    /// The command line is wrong.
    pub(crate) fn usage(what: impl fmt::Display) -> Self {
        Self::new(2, what)
    }

    /// A permission is missing.
    pub(crate) fn permission(what: impl fmt::Display) -> Self {
        Self::new(PERMISSION, what)
    }

    /// Somebody cannot be reached.
    pub(crate) fn unreachable(what: impl fmt::Display) -> Self {
        Self::new(UNREACHABLE, what)
    }

    /// Something was not accepted.
    pub(crate) fn refused(what: impl fmt::Display) -> Self {
        Self::new(6, what)
    }

    fn new(code: u8, what: impl fmt::Display) -> Self {
        Self {
            code,
            what: what.to_string(),
            hint: String::new(),
        }
    }

    /// The same, with what to do next.
    #[must_use]
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: hint.into(),
            ..self
        }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if !self.hint.is_empty() {
            write!(f, "\n  {}", self.hint)?;
        }
        Ok(())
    }
}

/// A chain of errors in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
