//! Which columns are shown, and how wide: everything where there is room, and what says least gives way first.
//!
//! Owns the order in which it does: the space between columns, the `sa/` of identities, latencies, the protocol. Who
//! calls whom, how often, how well, who they proved to be and why it failed stay as long as possible.

use super::{HEADER, Row};

const PROTO: usize = 2;
const P50: usize = 5;
const P99: usize = 6;
pub(super) const IDENTITY: usize = 7;
const REASON: usize = 8;

/// What gives way, step by step.
const STEPS: [Step; 6] = [
    Step::new(2, true, &[]),
    Step::new(1, true, &[]),
    Step::new(1, false, &[]),
    Step::new(1, false, &[P50]),
    Step::new(1, false, &[P50, P99]),
    Step::new(1, false, &[P50, P99, PROTO]),
];

struct Step {
    gap: usize,
    whole_identities: bool,
    without: &'static [usize],
}

impl Step {
    const fn new(gap: usize, whole_identities: bool, without: &'static [usize]) -> Self {
        Self {
            gap,
            whole_identities,
            without,
        }
    }
}

/// A table that fits, if any does.
pub(super) struct Columns {
    /// Which of [`HEADER`].
    pub(super) shown: Vec<usize>,
    pub(super) widths: Vec<usize>,
    /// Between two columns.
    pub(super) gap: usize,
    /// The header's cells, and those of each row.
    pub(super) cells: Vec<Vec<String>>,
}

/// The widest table that is not wider than this; the narrowest there is, when none is.
pub(super) fn fit(rows: &[Row], width: usize) -> Columns {
    let mut steps = STEPS.iter().map(|step| columns(rows, step));
    let fits = steps.find(|columns| columns.width() <= width);
    fits.unwrap_or_else(|| columns(rows, &STEPS[STEPS.len() - 1]))
}

fn columns(rows: &[Row], step: &Step) -> Columns {
    let failing = rows.iter().any(|row| !row.reason.is_empty());
    let shown: Vec<usize> = (0..HEADER.len())
        .filter(|column| !step.without.contains(column) && (failing || *column != REASON))
        .collect();
    let pick = |cells: [&str; 9]| -> Vec<String> {
        let cell = |column: &usize| match (*column, cells[*column]) {
            (IDENTITY, text) if !step.whole_identities => text.replace("sa/", ""),
            (_, text) => text.to_owned(),
        };
        shown.iter().map(cell).collect()
    };
    let lines = std::iter::once(HEADER).chain(rows.iter().map(Row::cells));
    let cells: Vec<Vec<String>> = lines.map(pick).collect();
    // Every sign that we or a name use is one column wide.
    let widest = |column: usize| cells.iter().map(|line| line[column].chars().count()).max();
    let widths = (0..shown.len())
        .map(|column| widest(column).unwrap_or(0))
        .collect();
    Columns {
        shown,
        widths,
        gap: step.gap,
        cells,
    }
}

impl Columns {
    fn width(&self) -> usize {
        self.widths.iter().sum::<usize>() + self.gap * self.widths.len().saturating_sub(1)
    }
}
