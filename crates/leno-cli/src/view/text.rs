//! The rows as lines of text: for a file, a pipe or a log, and for what stays on a terminal.

use super::{Row, columns};

/// The table, a line a row and none longer than `width` if that can be, without an end of line at the end.
pub(crate) fn table(rows: &[Row], width: usize) -> String {
    let columns = columns::fit(rows, width);
    let lines = columns.cells.iter();
    let lines: Vec<String> = lines
        .map(|cells| line(cells, &columns.widths, columns.gap))
        .collect();
    lines.join("\n")
}

fn line(cells: &[String], widths: &[usize], gap: usize) -> String {
    let mut text = String::new();
    for (cell, widest) in cells.iter().zip(widths) {
        text.push_str(cell);
        let padding = widest.saturating_sub(cell.chars().count()) + gap;
        text.push_str(&" ".repeat(padding));
    }
    text.trim_end().to_owned()
}
