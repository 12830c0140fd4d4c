//! The rows as lines of text, for a file, a pipe or a log.

use super::{Row, columns};

/// The table, a line a row, without an end of line at the end.
pub(crate) fn table(rows: &[Row]) -> String {
    let columns = columns::fit(rows, usize::MAX);
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
