//! What came out: one table, one JSON document.

use std::{fs, process::Command};

use serde_json::{Value, json};

use super::{load::Load, measure::Cpu};
use crate::tool::root;

/// One turn of one system.
pub(super) struct Outcome {
    pub(super) load: Load,
    pub(super) cpu: Cpu,
}

/// The memory of one proxy.
#[derive(Clone, Copy, Default)]
pub(super) struct Memory {
    pub(super) pss_mb: f64,
    pub(super) rss_anon_mb: f64,
}

/// One system in one shape.
pub(super) struct Row {
    pub(super) shape: &'static str,
    pub(super) system: String,
    pub(super) turns: Vec<Outcome>,
    pub(super) memory: Memory,
    pub(super) syscalls: Option<f64>,
}

/// The range of a few numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Range {
    min: f64,
    median: f64,
    max: f64,
}

impl Range {
    fn of(numbers: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = numbers.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let half = sorted.len() / 2;
        let upper = *sorted.get(half)?;
        let median = match sorted.len() % 2 {
            0 => f64::midpoint(*sorted.get(half - 1)?, upper),
            _ => upper,
        };
        Some(Self { min, median, max })
    }

    fn json(self) -> Value {
        json!({"min": rounded(self.min), "median": rounded(self.median), "max": rounded(self.max)})
    }
}

/// Three digits behind the point say more than there is to say.
fn rounded(number: f64) -> f64 {
    (number * 1_000.0).round() / 1_000.0
}

impl Row {
    pub(super) fn new(shape: &'static str, system: &str) -> Self {
        Self {
            shape,
            system: system.to_owned(),
            turns: Vec::new(),
            memory: Memory::default(),
            syscalls: None,
        }
    }

    fn cpu(&self) -> Option<Range> {
        Range::of(self.turns.iter().map(cost))
    }

    fn median(&self, of: impl Fn(&Outcome) -> Option<f64>) -> Option<f64> {
        Range::of(self.turns.iter().filter_map(of)).map(|range| range.median)
    }

    fn user(&self) -> Option<f64> {
        self.median(|turn| Some(turn.cpu.user / turn.load.requests.max(1) as f64))
    }

    fn sum(&self, of: impl Fn(&Load) -> u64) -> u64 {
        self.turns.iter().map(|turn| of(&turn.load)).sum()
    }

    /// The ratios to another system's turns, round by round.
    fn ratio(&self, other: &Row) -> Option<Range> {
        Range::of(
            self.turns
                .iter()
                .zip(&other.turns)
                .map(|(ours, theirs)| cost(ours) / cost(theirs)),
        )
    }
}

/// Microseconds of processor time for a request.
fn cost(turn: &Outcome) -> f64 {
    turn.cpu.per_request(turn.load.requests)
}

const HEADING: &str = "CPU is user and system time of both proxies together; memory is one proxy's. Ratios compare \
turns of the same round: median (least to most).

| shape | system | CPU µs/request | of it user | CPU to HAProxy | CPU to Envoy | syscalls/request | p50 ms | p99 ms | PSS MB | RssAnon MB | requests | failures |
|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|
";

/// Where the table stands in a page.
const MARK: &str = "<!-- measured -->\n";
const END: &str = "<!-- end of what was measured -->\n";

/// The whole.
pub(super) struct Report {
    pub(super) rows: Vec<Row>,
    /// Of each system: name and number.
    pub(super) versions: Vec<String>,
    pub(super) missing: Vec<String>,
    pub(super) rounds: usize,
    pub(super) seconds: u64,
}

impl Report {
    fn ratio(&self, row: &Row, system: &str) -> Option<Range> {
        let other = self
            .rows
            .iter()
            .find(|other| other.shape == row.shape && other.system == system)?;
        row.ratio(other)
    }

    /// The table, as `docs/benchmarks.md` holds it.
    pub(super) fn text(&self) -> String {
        let machine = machine();
        let say = |field: &str| match machine.get(field) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        };
        let mut text = format!(
            "{} processors ({}), {} MB of memory, Linux {}. Commit {}; {}. {} rounds of {} s, one after the other in turn.\n\n",
            say("processors"),
            say("cpu"),
            say("memory_mb"),
            say("kernel"),
            commit(),
            self.versions.join(", "),
            self.rounds,
            self.seconds
        );
        text.push_str(HEADING);
        for row in &self.rows {
            text.push_str(&self.line(row));
        }
        for reason in &self.missing {
            text.push_str(&format!("\n{reason}\n"));
        }
        text
    }

    fn line(&self, row: &Row) -> String {
        let range = |range: Option<Range>, digits: usize| match range {
            Some(Range { min, median, max }) => {
                format!("{median:.digits$} ({min:.digits$} to {max:.digits$})")
            }
            None => "-".into(),
        };
        let number = |number: Option<f64>, digits: usize| match number {
            Some(number) => format!("{number:.digits$}"),
            None => "-".into(),
        };
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {:.1} | {:.1} | {} | {} |\n",
            row.shape,
            row.system,
            range(row.cpu(), 1),
            number(row.user(), 1),
            range(self.ratio(row, "haproxy"), 2),
            range(self.ratio(row, "envoy"), 2),
            number(row.syscalls, 1),
            number(row.median(|turn| turn.load.p50_ms), 2),
            number(row.median(|turn| turn.load.p99_ms), 2),
            row.memory.pss_mb,
            row.memory.rss_anon_mb,
            row.sum(|load| load.requests),
            row.sum(Load::failures),
        )
    }

    /// A page with the table between its two marks; `None` when it lacks them.
    pub(super) fn fill(&self, page: &str) -> Option<String> {
        let (before, rest) = page.split_once(MARK)?;
        let (_, after) = rest.split_once(END)?;
        Some(format!("{before}{MARK}\n{}\n{END}{after}", self.text()))
    }

    /// The document of `-o json`.
    pub(super) fn json(&self) -> Value {
        let row = |row: &Row| {
            let range = |range: Option<Range>| range.map(Range::json);
            json!({
                "shape": row.shape,
                "system": row.system,
                "requests": row.sum(|load| load.requests),
                "failures": row.sum(Load::failures),
                "cpu_us_per_request": range(row.cpu()),
                "user_us_per_request": row.user().map(rounded),
                "syscalls_per_request": row.syscalls.map(rounded),
                "p50_ms": row.median(|turn| turn.load.p50_ms).map(rounded),
                "p99_ms": row.median(|turn| turn.load.p99_ms).map(rounded),
                "pss_mb": rounded(row.memory.pss_mb),
                "rss_anon_mb": rounded(row.memory.rss_anon_mb),
                "cpu_ratio_to_haproxy": range(self.ratio(row, "haproxy")),
                "cpu_ratio_to_envoy": range(self.ratio(row, "envoy")),
            })
        };
        json!({
            "machine": machine(),
            "commit": commit(),
            "versions": self.versions,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "not_measured": self.missing,
        })
    }
}

fn machine() -> Value {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|rest| rest.trim_start_matches([' ', '\t', ':']))
        .unwrap_or("unknown processor");
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .unwrap_or_default();
    let kilobytes: u64 = memory.trim().trim_end_matches(" kB").parse().unwrap_or(0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "cpu": model,
        "processors": std::thread::available_parallelism().map_or(1, usize::from),
        "memory_mb": kilobytes / 1_024,
        // The release without what a distributor adds.
        "kernel": kernel.trim().split('-').next(),
    })
}

/// The commit, marked where the tree differs from it.
fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git")
            .args(args)
            .current_dir(root())
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".into();
    };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => commit,
        Some(_) | None => format!("{commit}-dirty"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_its_median_in_the_middle() {
        let range = Range {
            min: 1.0,
            median: 2.0,
            max: 9.0,
        };
        assert_eq!(Range::of([9.0, 1.0, 2.0]), Some(range));
        assert_eq!(Range::of([4.0, 2.0]).map(|range| range.median), Some(3.0));
        assert_eq!(Range::of([]), None);
    }

    #[test]
    fn a_page_keeps_all_but_the_table_between_its_marks() {
        let report = Report {
            rows: vec![Row::new("h1-16", "leno")],
            versions: vec!["leno 1.2".into()],
            missing: Vec::new(),
            rounds: 5,
            seconds: 5,
        };
        let page = format!("before\n{MARK}old\n{END}after\n");
        let filled = report.fill(&page).unwrap_or_default();
        assert!(filled.starts_with(&format!("before\n{MARK}")));
        assert!(filled.ends_with(&format!("\n{END}after\n")));
        assert!(filled.contains("| h1-16 | leno |") && filled.contains("leno 1.2"));
        assert!(!filled.contains("old"));
        assert_eq!(report.fill("no marks"), None);
    }

    #[test]
    fn a_ratio_compares_the_turns_of_one_round() {
        let row = |costs: &[f64]| {
            let mut row = Row::new("h1-16", "any");
            for &user in costs {
                let load = Load {
                    requests: 1,
                    ..Load::default()
                };
                row.turns.push(Outcome {
                    load,
                    cpu: Cpu { user, system: 0.0 },
                });
            }
            row
        };
        // A noisy second round weighs on both.
        let ratio = row(&[10.0, 40.0]).ratio(&row(&[20.0, 80.0]));
        assert_eq!(
            ratio,
            Some(Range {
                min: 0.5,
                median: 0.5,
                max: 0.5
            })
        );
    }
}
