//! The rows as lines of text, for a file, a pipe or a log.

use super::{HEADER, Row};

/// The table, a line a row, without an end of line at the end.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut widths = HEADER.map(width);
    for row in rows {
        for (widest, cell) in widths.iter_mut().zip(row.cells()) {
            *widest = (*widest).max(width(cell));
        }
    }
    let lines = std::iter::once(HEADER).chain(rows.iter().map(Row::cells));
    let lines: Vec<String> = lines.map(|cells| line(&cells, &widths)).collect();
    lines.join("\n")
}

fn line(cells: &[&str], widths: &[usize]) -> String {
    let mut text = String::new();
    for (cell, widest) in cells.iter().zip(widths) {
        text.push_str(cell);
        text.push_str(&" ".repeat(widest.saturating_sub(width(cell)) + 2));
    }
    text.trim_end().to_owned()
}

/// Every sign that we or a name use is one column wide.
fn width(text: &str) -> usize {
    text.chars().count()
}
