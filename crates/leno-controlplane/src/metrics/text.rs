//! Prometheus text, as it is exposed on `/metrics`.

use std::fmt::Write as _;

use leno_telemetry::LatencyHistogram;

/// Upper bounds of the buckets, seconds.
const BOUNDS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// Prometheus text: the lines of one metric stand together under its head, whatever order they come in.
#[derive(Default)]
pub(super) struct Text(Vec<Group>);

pub(super) struct Group {
    name: String,
    text: String,
}

impl Text {
    fn group(&mut self, name: &str, help: &str, kind: &str) -> &mut Group {
        let at = self.0.iter().position(|group| group.name == name);
        let at = at.unwrap_or_else(|| {
            self.0.push(Group {
                name: name.to_owned(),
                text: format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"),
            });
            self.0.len() - 1
        });
        self.0.get_mut(at).expect("it was found, or is the last")
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, labels: &str, value: u64) {
        self.group(name, help, "counter").line("", labels, value);
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, labels: &str, value: f64) {
        self.group(name, help, "gauge").line("", labels, value);
    }

    pub(super) fn histogram(
        &mut self,
        name: &str,
        help: &str,
        labels: &str,
        of: &LatencyHistogram,
        sum: f64,
    ) {
        let group = self.group(name, help, "histogram");
        let comma = if labels.is_empty() { "" } else { "," };
        for bound in BOUNDS {
            let below = of
                .buckets()
                .filter(|(middle, _)| middle.as_secs_f64() <= bound);
            let count: u64 = below.map(|(_, count)| count).sum();
            group.line("_bucket", &format!("{labels}{comma}le=\"{bound}\""), count);
        }
        group.line(
            "_bucket",
            &format!("{labels}{comma}le=\"+Inf\""),
            of.count(),
        );
        group.line("_sum", labels, sum);
        group.line("_count", labels, of.count());
    }

    pub(super) fn into_string(self) -> String {
        self.0.into_iter().map(|group| group.text).collect()
    }
}

impl Group {
    fn line(&mut self, suffix: &str, labels: &str, value: impl std::fmt::Display) {
        let Self { name, text } = self;
        let outcome = if labels.is_empty() {
            writeln!(text, "{name}{suffix} {value}")
        } else {
            writeln!(text, "{name}{suffix}{{{labels}}} {value}")
        };
        outcome.expect("writing to a string cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_one_metric_stand_together_for_all_meshes() {
        let mut out = Text::default();
        for mesh in ["mesh=\"a\"", "mesh=\"b\""] {
            out.counter("leno_x_total", "X.", mesh, 1);
            out.gauge("leno_y", "Y.", mesh, 2.0);
            out.histogram("leno_z", "Z.", mesh, &LatencyHistogram::default(), 0.0);
        }
        let text = out.into_string();
        let mut families: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split(['{', ' ']).next())
            .map(|name| name.trim_end_matches("_bucket"))
            .map(|name| name.trim_end_matches("_sum").trim_end_matches("_count"))
            .collect();
        families.dedup();
        assert_eq!(families, ["leno_x_total", "leno_y", "leno_z"], "{text}");
        assert_eq!(text.matches("# TYPE leno_z histogram\n").count(), 1);
    }
}
