//! How answers are printed: a table for people, JSON or YAML with stable names for programs.

use std::{
    borrow::Cow,
    fs::{File, Permissions},
    io::{self, Write},
    os::{fd::AsFd, unix::fs::PermissionsExt},
};

use clap::ValueEnum;
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
            serde_json::to_string_pretty(value).map_err(CommandError::failed)?
        }
    };
    print(text.trim_end());
    Ok(())
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
    let text = harmless(text);
    drop(writeln!(
        io::stdout().lock(),
        "\u{1b}[{colour}m{text}\u{1b}[0m"
    ));
}

/// Prints text to standard output, and no character that commands a terminal: some of it others wrote. A reader that
/// went away ends the printing, not the command.
pub(crate) fn print(text: &str) {
    drop(writeln!(io::stdout().lock(), "{}", harmless(text)));
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

fn harmless(text: &str) -> Cow<'_, str> {
    let commands = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if text.contains(commands) {
        text.replace(commands, "?").into()
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
    use super::harmless;

    #[test]
    fn what_others_wrote_does_not_command_the_terminal() {
        assert_eq!(harmless("a\u{1b}[2J\u{9b}b\tc\nd → ✔"), "a?[2J?b\tc\nd → ✔");
    }
}
