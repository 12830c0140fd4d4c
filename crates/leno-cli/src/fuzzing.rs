//! What the fuzz targets call (tests/parsers): readers of what people write that are nobody else's to call.
//! Each takes any bytes, says whether anything could be read out of them, and panics where that is not what must hold of it.

use clap::Parser;

use crate::{Cli, context};

/// A command line, an argument a line: taken, or refused with a text for people.
pub fn command_line(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let arguments = std::iter::once("leno").chain(text.lines());
    let read = Cli::try_parse_from(arguments);
    if let Err(error) = &read {
        assert!(!error.to_string().is_empty());
    }
    read.is_ok()
}

/// A file of contexts: refused with a text for people, or its current context, which survives the way to another user.
pub fn contexts(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let read = context::of_text(text, "the input");
    match &read {
        Ok(read) => {
            let exported = context::export(read).expect("a context can be written");
            let again = context::of_text(&exported, "the input").expect("what was written is read");
            assert_eq!(&again, read);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    read.is_ok()
}
