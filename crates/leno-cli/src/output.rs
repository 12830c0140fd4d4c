//! How answers are printed: a table for people, JSON or YAML with stable names for programs.

use std::{
    borrow::Cow,
    fs::{File, Permissions},
    io::{self, Write},
    os::{fd::AsFd, unix::fs::PermissionsExt},
};

use clap::ValueEnum;
use leno_types::is_hidden;
use serde_json::Value;

use crate::exit::CommandError;

/// The form of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// More columns.
    Wide,
    Json,
    Yaml,
    /// `kind/name` only.
    Name,
}

/// The form of an answer that is no list of objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    #[default]
    Table,
    Json,
    Yaml,
}

impl From<Shape> for Format {
    fn from(shape: Shape) -> Self {
        match shape {
            Shape::Table => Self::Table,
            Shape::Json => Self::Json,
            Shape::Yaml => Self::Yaml,
        }
    }
}

/// Prints a value as JSON or YAML.
pub(crate) fn print_value(value: &Value, format: Format) -> Result<(), CommandError> {
    let text = match format {
        Format::Yaml => serde_saphyr::to_string(value).map_err(CommandError::failed)?,
        Format::Json | Format::Table | Format::Wide | Format::Name => {
            escaped(&serde_json::to_string_pretty(value).map_err(CommandError::failed)?)
        }
    };
    print_document(&text);
    Ok(())
}

/// Prints a value as JSON in one line.
pub(crate) fn print_json_line(value: &Value) {
    print_document(&escaped(&value.to_string()));
}

/// JSON in which what commands a terminal or turns a line around is escaped: the same value to who reads it (RFC 8259
/// section 7).
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c == '\n' || !is_hidden(c) {
            text.push(c);
        } else {
            let units = &mut [0; 2];
            let units = c.encode_utf16(units).iter();
            units.for_each(|unit| text.push_str(&format!("\\u{unit:04x}")));
        }
    }
    text
}

/// A value as YAML.
pub(crate) fn shown_as_yaml(value: &Value) -> Result<String, CommandError> {
    serde_saphyr::to_string(value).map_err(CommandError::failed)
}

/// What is gone, on a terminal.
pub(crate) const RED: &str = "31";
/// What is new.
pub(crate) const GREEN: &str = "32";

/// As [`print()`], in a colour: for terminals only.
pub(crate) fn print_coloured(colour: &str, text: &str) {
    let text = one_line(text);
    drop(writeln!(
        io::stdout().lock(),
        "\u{1b}[{colour}m{text}\u{1b}[0m"
    ));
}

/// Prints one line to standard output, and it stays one: some of its words are others', who must not write lines,
/// commands to the terminal or directions of writing of their own. A reader that went away ends the printing, not the
/// command.
pub(crate) fn print(line: &str) {
    drop(writeln!(io::stdout().lock(), "{}", one_line(line)));
}

/// Prints why a command failed: what, and in lines of its own what to do.
pub(crate) fn print_error(error: &CommandError) {
    let lines = error.to_string();
    let mut err = io::stderr().lock();
    let mut begin = "leno: ";
    for line in lines.lines() {
        drop(writeln!(err, "{begin}{}", one_line(line)));
        begin = "";
    }
}

/// Prints a document as it is, lines and all, but for what commands a terminal.
pub(crate) fn print_document(text: &str) {
    let commands = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    let text = replaced(text.trim_end(), commands);
    drop(writeln!(io::stdout().lock(), "{text}"));
}

/// What is printed next nobody else may know: a file that the shell made for it was made for everybody, and is closed.
/// Somebody else's file is theirs to close.
pub(crate) fn secret_follows() {
    if let Err(error) = close_to_others() {
        say!("⚠ standard output is a file that others may read: close it to them ({error})");
    }
}

fn close_to_others() -> io::Result<()> {
    let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let found = file.metadata()?;
    if !found.is_file() || found.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    file.set_permissions(Permissions::from_mode(0o600))
}

/// What others say, as a part of a line of ours.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    replaced(text, is_hidden)
}

fn replaced(text: &str, these: fn(char) -> bool) -> Cow<'_, str> {
    if text.contains(these) {
        text.replace(these, "?").into()
    } else {
        text.into()
    }
}

/// Prints rows in columns, each as wide as its widest cell.
pub(crate) fn print_table(header: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String]| {
        let mut text = String::new();
        for (index, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            text.push_str(cell);
            if index + 1 < cells.len() {
                text.push_str(&" ".repeat(width.saturating_sub(cell.chars().count()) + 3));
            }
        }
        text
    };
    let header: Vec<String> = header.iter().map(ToString::to_string).collect();
    print(&line(&header));
    rows.iter().for_each(|row| print(&line(row)));
}

/// The text at a pointer; empty when there is none.
pub(crate) fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The items of a list; none when it is none.
pub(crate) fn items<'v>(value: &'v Value, pointer: &str) -> impl Iterator<Item = &'v Value> {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn what_others_wrote_stays_within_its_line() {
        let forged = "a\u{1b}[2J\u{9b}b\tc\n✔ all is well\u{202e}gnp\u{2028}\u{feff} → ä";
        assert_eq!(one_line(forged), "a?[2J?b?c?✔ all is well?gnp?? → ä");
    }

    #[test]
    fn json_says_the_same_without_what_commands_a_terminal() {
        let value =
            serde_json::json!({"a": "\u{1b}[2J\u{9b}\u{202e}\u{2028}\u{e0041}\n👩\u{200d}🚀"});
        let text = escaped(&serde_json::to_string_pretty(&value).unwrap());
        assert_eq!(text.lines().count(), 3);
        assert!(!text.chars().any(|c| c != '\n' && is_hidden(c)), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
