//! The Prometheus text format (version 0.0.4): names, labels, numbers.
//!
//! Invariant: whatever a label's value is, it stays within its quotes.

use std::fmt::{Display, Write};

/// Istio's (Envoy's) default buckets, for milliseconds and for bytes alike: dashboards know them.
pub(crate) const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// A histogram over [`BOUNDS`] of whole numbers, `UNITS` of which are one of what is written. Counts are of each bucket
/// alone; they are summed up when written. Integers, so that the order of merging makes no difference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Buckets<const UNITS: u32> {
    counts: [u64; BOUNDS.len()],
    beyond: u64,
    sum: u64,
}

/// Microseconds, written as milliseconds.
pub(crate) type Milliseconds = Buckets<1_000>;

/// Bytes.
pub(crate) type Bytes = Buckets<1>;

impl<const UNITS: u32> Buckets<UNITS> {
    pub(crate) fn record(&mut self, value: u64) {
        let scaled = Self::scaled(value);
        let at = BOUNDS.partition_point(|bound| *bound < scaled);
        let count = self.counts.get_mut(at).unwrap_or(&mut self.beyond);
        *count = count.saturating_add(1);
        self.sum = self.sum.saturating_add(value);
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "the bounds are far wider apart than the lost bits"
    )]
    fn scaled(value: u64) -> f64 {
        value as f64 / f64::from(UNITS)
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count = count.saturating_add(more);
        }
        self.beyond = self.beyond.saturating_add(other.beyond);
        self.sum = self.sum.saturating_add(other.sum);
    }

    pub(crate) fn sum(&self) -> u64 {
        self.sum
    }

    fn write(&self, out: &mut String, name: &str, labels: &str) {
        let mut total = 0_u64;
        for (bound, count) in BOUNDS.iter().zip(self.counts) {
            total = total.saturating_add(count);
            append(
                out,
                format_args!("{name}_bucket{{{labels},le=\"{bound}\"}} {total}\n"),
            );
        }
        total = total.saturating_add(self.beyond);
        append(
            out,
            format_args!("{name}_bucket{{{labels},le=\"+Inf\"}} {total}\n"),
        );
        append(
            out,
            format_args!("{name}_sum{{{labels}}} {}\n", Self::scaled(self.sum)),
        );
        append(out, format_args!("{name}_count{{{labels}}} {total}\n"));
    }
}

/// The kind of a metric.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The two lines that begin a metric.
pub(crate) fn header(out: &mut String, name: &str, kind: Kind, help: &str) {
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    append(
        out,
        format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"),
    );
}

/// One value; `labels` as [`Labels`] makes them, or nothing.
pub(crate) fn sample(out: &mut String, name: &str, labels: &str, value: impl Display) {
    if labels.is_empty() {
        append(out, format_args!("{name} {value}\n"));
    } else {
        append(out, format_args!("{name}{{{labels}}} {value}\n"));
    }
}

/// A whole metric of counters.
pub(crate) fn counters<'a>(
    out: &mut String,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (&'a str, u64)>,
) {
    header(out, name, Kind::Counter, help);
    values.for_each(|(labels, value)| sample(out, name, labels, value));
}

/// A whole metric of histograms.
pub(crate) fn histograms<'a, const UNITS: u32>(
    out: &mut String,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (&'a str, &'a Buckets<UNITS>)>,
) {
    header(out, name, Kind::Histogram, help);
    values.for_each(|(labels, buckets)| buckets.write(out, name, labels));
}

/// Label pairs, escaped.
#[derive(Default)]
pub(crate) struct Labels(String);

impl Labels {
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(name);
        self.0.push_str("=\"");
        for character in value.chars() {
            match character {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                other => self.0.push(other),
            }
        }
        self.0.push('"');
        self
    }

    pub(crate) fn finish(self) -> String {
        self.0
    }
}

fn append(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text)
        .expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_break_out_of_its_quotes() {
        let labels = Labels::default()
            .with("a", "x\"} 1\nevil{\\")
            .with("b", "")
            .finish();
        assert_eq!(labels, r#"a="x\"} 1\nevil{\\",b="""#);
    }

    #[test]
    fn a_value_on_a_bound_is_within_it() {
        let mut buckets = Milliseconds::default();
        for micros in [0, 500, 501, 3_600_000_000, u64::MAX / 2] {
            buckets.record(micros);
        }
        let mut out = String::new();
        buckets.write(&mut out, "m", "l=\"1\"");
        let count = |le: &str| {
            let line = out
                .lines()
                .find(|line| line.contains(&format!("le=\"{le}\"")));
            line.and_then(|line| line.rsplit(' ').next())
                .map(str::to_owned)
        };
        assert_eq!(count("0.5").as_deref(), Some("2"));
        assert_eq!(count("1").as_deref(), Some("3"));
        assert_eq!(count("3600000").as_deref(), Some("4"));
        assert_eq!(count("+Inf").as_deref(), Some("5"));
    }
}
