//! What is said to people beside the answer: on standard error, for as long as somebody hears it.
//!
//! Invariant: nobody's end, and no full disk behind a redirection, ends the process that says something.

use std::{
    fmt::Arguments,
    io::{self, Write},
};

/// Like `eprintln!`, which panics where standard error cannot be written to.
macro_rules! say {
    () => { $crate::say::line(format_args!("")) };
    ($($words:tt)*) => { $crate::say::line(format_args!($($words)*)) };
}

/// One line; where nobody hears it, it is lost.
pub(crate) fn line(words: Arguments<'_>) {
    drop(writeln!(io::stderr().lock(), "{words}"));
}

/// A question, which is answered in its own line.
pub(crate) fn ask(question: &str) {
    let mut err = io::stderr().lock();
    drop(write!(err, "{question} ").and_then(|()| err.flush()));
}
