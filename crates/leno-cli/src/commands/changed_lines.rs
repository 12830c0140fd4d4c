//! What differs between two texts, as `diff -u` shows it.
//!
//! Pure. Texts are documents, so the quadratic way is quick enough; beyond [`MAX_CELLS`] everything between what is
//! equal at both ends counts as changed.

const CONTEXT: usize = 3;
/// Cells of the table that finds the longest common part.
const MAX_CELLS: usize = 4 << 20;

/// One line of two texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line<'t> {
    Same(&'t str),
    Old(&'t str),
    New(&'t str),
}

/// The lines to show: with three lines around each change, each part under its `@@`. None when nothing differs.
pub(super) fn unified<'t>(old: &'t str, new: &'t str) -> Vec<(Option<String>, Vec<Line<'t>>)> {
    let lines = aligned(
        &old.lines().collect::<Vec<_>>(),
        &new.lines().collect::<Vec<_>>(),
    );
    let is_change = |line: &Line<'_>| !matches!(line, Line::Same(_));
    let changes: Vec<usize> = (0..lines.len())
        .filter(|index| lines.get(*index).is_some_and(is_change))
        .collect();
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for change in changes {
        let (from, to) = (
            change.saturating_sub(CONTEXT),
            (change + CONTEXT + 1).min(lines.len()),
        );
        match parts.last_mut() {
            Some((_, end)) if from <= *end => *end = to,
            _ => parts.push((from, to)),
        }
    }
    let count = |lines: &[Line<'_>]| {
        let old = lines.iter().filter(|line| !matches!(line, Line::New(_)));
        let new = lines.iter().filter(|line| !matches!(line, Line::Old(_)));
        (old.count(), new.count())
    };
    let shown = |(from, to): (usize, usize)| {
        let before = count(lines.get(..from).unwrap_or_default());
        let part = lines.get(from..to).unwrap_or_default();
        let (old, new) = count(part);
        let head = format!("@@ -{},{old} +{},{new} @@", before.0 + 1, before.1 + 1);
        (Some(head), part.to_vec())
    };
    parts.into_iter().map(shown).collect()
}

fn aligned<'t>(old: &[&'t str], new: &[&'t str]) -> Vec<Line<'t>> {
    let start = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old_rest, new_rest) = (
        old.get(start..).unwrap_or_default(),
        new.get(start..).unwrap_or_default(),
    );
    let backwards = old_rest.iter().rev().zip(new_rest.iter().rev());
    let end = backwards.take_while(|(a, b)| a == b).count();
    let old_middle = old_rest.get(..old_rest.len() - end).unwrap_or_default();
    let new_middle = new_rest.get(..new_rest.len() - end).unwrap_or_default();
    let mut lines: Vec<Line<'t>> = old
        .iter()
        .take(start)
        .map(|line| Line::Same(line))
        .collect();
    lines.extend(middle(old_middle, new_middle));
    let same = old
        .iter()
        .skip(old.len() - end)
        .map(|line| Line::Same(line));
    lines.extend(same);
    lines
}

fn middle<'t>(old: &[&'t str], new: &[&'t str]) -> Vec<Line<'t>> {
    if old.len().saturating_mul(new.len()) > MAX_CELLS {
        let gone = old.iter().map(|line| Line::Old(line));
        return gone.chain(new.iter().map(|line| Line::New(line))).collect();
    }
    // common[i][j]: how many lines the rest of old from i and of new from j have in common.
    let mut common = vec![vec![0_u32; new.len() + 1]; old.len() + 1];
    let at = |common: &[Vec<u32>], i: usize, j: usize| {
        let row = common.get(i).map(Vec::as_slice).unwrap_or_default();
        row.get(j).copied().unwrap_or(0)
    };
    for (i, left) in old.iter().enumerate().rev() {
        for (j, right) in new.iter().enumerate().rev() {
            let best = if left == right {
                at(&common, i + 1, j + 1) + 1
            } else {
                at(&common, i + 1, j).max(at(&common, i, j + 1))
            };
            if let Some(cell) = common.get_mut(i).and_then(|row| row.get_mut(j)) {
                *cell = best;
            }
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::new();
    loop {
        match (old.get(i), new.get(j)) {
            (Some(left), Some(right)) if left == right => {
                lines.push(Line::Same(left));
                (i, j) = (i + 1, j + 1);
            }
            (Some(left), right)
                if right.is_none() || at(&common, i + 1, j) >= at(&common, i, j + 1) =>
            {
                lines.push(Line::Old(left));
                i += 1;
            }
            (_, Some(right)) => {
                lines.push(Line::New(right));
                j += 1;
            }
            (Some(_), None) | (None, None) => return lines,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn shown(old: &str, new: &str) -> String {
        let mut text = String::new();
        for (head, lines) in unified(old, new) {
            text.push_str(&head.unwrap_or_default());
            text.push('\n');
            for line in lines {
                let (mark, line) = match line {
                    Line::Same(line) => (' ', line),
                    Line::Old(line) => ('-', line),
                    Line::New(line) => ('+', line),
                };
                text.push_str(&format!("{mark}{line}\n"));
            }
        }
        text
    }

    #[test]
    fn what_differs_is_shown_with_what_is_around_it() {
        assert_eq!(shown("a\nb\n", "a\nb\n"), "");
        assert_eq!(
            shown("a\nb\nc\n", "a\nx\nc\n"),
            "@@ -1,3 +1,3 @@\n a\n-b\n+x\n c\n"
        );
        assert_eq!(shown("", "a\nb\n"), "@@ -1,0 +1,2 @@\n+a\n+b\n");
        let old: String = (0..20).map(|n| format!("{n}\n")).collect();
        let new = old.replace("\n2\n", "\ntwo\n").replace("\n17\n", "\n");
        let text = shown(&old, &new);
        assert_eq!(text.matches("@@ -").count(), 2, "{text}");
        assert!(text.contains("@@ -15,6 +15,5 @@"), "{text}");
    }

    #[test]
    fn texts_that_are_too_long_to_compare_are_wholly_changed() {
        let old: String = (0..3_000).map(|n| format!("a{n}\n")).collect();
        let new: String = (0..3_000).map(|n| format!("b{n}\n")).collect();
        let (_, lines) = unified(&old, &new).pop().unwrap();
        assert_eq!(lines.len(), 6_000);
    }
}
