//! The live picture: what it is of, a table of edges, the workloads, and what to try next.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Cell, Paragraph, Row as TableRow, Table, Wrap},
};

use super::{Replicas, Row, State, columns};

/// Something to try, and what it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Try {
    pub(crate) command: String,
    pub(crate) shows: String,
}

/// Everything in one picture.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    /// What it is of.
    pub(crate) title: String,
    pub(crate) rows: Vec<Row>,
    pub(crate) replicas: Vec<Replicas>,
    /// What happened, the newest last.
    pub(crate) notes: Vec<String>,
    pub(crate) tries: Vec<Try>,
    /// How to leave.
    pub(crate) footer: String,
}

const GOOD: Style = Style::new().fg(Color::Green);
const WARNING: Style = Style::new().fg(Color::Yellow);
const BAD: Style = Style::new().fg(Color::Red);
const FAINT: Style = Style::new().fg(Color::DarkGray);
const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);

/// Draws the picture over the whole frame. On a small terminal what there is to try gives way first, and then what
/// happened, so that the traffic is seen as long as possible.
pub(crate) fn draw(frame: &mut Frame<'_>, page: &Page) {
    let width = frame.area().width.max(1);
    let workloads = workloads(&page.replicas);
    let tries = tries(&page.tries, width.into());
    let mut left = frame.area().height;
    let mut take = |lines: u16| {
        let taken = lines.min(left);
        left -= taken;
        Constraint::Length(taken)
    };
    let footer = take(1);
    let title = take(2);
    let edges = take(size(page.rows.len()).saturating_add(2));
    let replicas = take(if page.replicas.is_empty() {
        0
    } else {
        lines(&workloads, width).saturating_add(1)
    });
    let notes = take(size(page.notes.len()).saturating_add(u16::from(!page.notes.is_empty())));
    let try_next = take(size(tries.len()));
    let heights = [
        title,
        edges,
        replicas,
        notes,
        try_next,
        footer,
        Constraint::Min(0),
    ];
    let [title, edges, replicas, notes, try_next, footer, _] =
        Layout::vertical(heights).areas(frame.area());
    frame.render_widget(
        Paragraph::new(Line::styled(page.title.as_str(), STRONG)),
        title,
    );
    table(frame, edges, &page.rows);
    frame.render_widget(
        Paragraph::new(workloads).wrap(Wrap { trim: true }),
        replicas,
    );
    let said: Vec<Line<'_>> = page
        .notes
        .iter()
        .map(|note| Line::styled(note.as_str(), WARNING))
        .collect();
    frame.render_widget(Paragraph::new(said), notes);
    frame.render_widget(Paragraph::new(tries), try_next);
    frame.render_widget(
        Paragraph::new(Line::styled(page.footer.as_str(), FAINT)),
        footer,
    );
}

fn table(frame: &mut Frame<'_>, area: Rect, rows: &[Row]) {
    let columns = columns::fit(rows, area.width.into());
    let mut lines = columns.cells.into_iter();
    let header = TableRow::new(lines.next().unwrap_or_default()).style(FAINT);
    let body = rows.iter().zip(lines).map(|(row, cells)| {
        let (line, proof) = styles(row.state);
        let cell = |(text, column): (String, &usize)| {
            let of_identity = *column == columns::IDENTITY;
            Cell::new(text).style(if of_identity { proof } else { line })
        };
        TableRow::new(cells.into_iter().zip(&columns.shown).map(cell))
    });
    let widths = columns.widths.iter().map(|width| size(*width));
    let table = Table::new(body, widths.map(Constraint::Length))
        .header(header)
        .column_spacing(size(columns.gap));
    frame.render_widget(table, area);
}

/// Of a row, and of what it says of identities.
fn styles(state: State) -> (Style, Style) {
    match state {
        State::Fine => (Style::new(), GOOD),
        State::Plaintext => (Style::new(), WARNING),
        State::Failing => (BAD, BAD),
        State::Quiet => (FAINT, FAINT),
    }
}

fn workloads(replicas: &[Replicas]) -> Line<'_> {
    let mut spans = Vec::new();
    for Replicas { name, healthy, all } in replicas {
        if !spans.is_empty() {
            spans.push(Span::raw("   "));
        }
        let (healthy, away) = (*healthy, all.saturating_sub(*healthy));
        spans.push(Span::styled(format!("{name}\u{a0}"), FAINT));
        spans.push(Span::styled("●".repeat(healthy), GOOD));
        spans.push(Span::styled("○".repeat(away), BAD));
    }
    Line::from(spans)
}

/// How many lines a text may take: breaking between words can need one more than the plain quotient.
fn lines(text: &Line<'_>, width: u16) -> u16 {
    match size(text.width()).div_ceil(width) {
        0 | 1 => 1,
        more => more.saturating_add(1),
    }
}

/// A line each, in two columns where there is room; what something shows gets a line of its own where it needs one.
fn tries(tries: &[Try], width: usize) -> Vec<Line<'_>> {
    if tries.is_empty() {
        return Vec::new();
    }
    let size = |text: &str| text.chars().count();
    let widest = tries.iter().map(|of| size(&of.command)).max().unwrap_or(0);
    let columns = tries.iter().all(|of| widest + size(&of.shows) + 5 <= width);
    let mut lines = vec![Line::styled("Try, in another terminal:", STRONG)];
    for of in tries {
        let command = Span::styled(of.command.as_str(), Style::new().fg(Color::Cyan));
        let shows = |before: usize| Span::styled(" ".repeat(before) + &of.shows, FAINT);
        let after = if columns {
            widest - size(&of.command) + 3
        } else {
            3
        };
        if 2 + size(&of.command) + after + size(&of.shows) <= width {
            lines.push(Line::from(vec![Span::raw("  "), command, shows(after)]));
        } else {
            lines.push(Line::from(vec![Span::raw("  "), command]));
            lines.push(Line::from(shows(6)));
        }
    }
    lines.push(Line::default());
    lines
}

fn size(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}
