//! What processes used, as the kernel counts it: processor time, memory, system calls.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use super::{arena, report::Memory};
use crate::tool::has;

/// The kernel's unit of time in `/proc` (proc(5), `sysconf(_SC_CLK_TCK)`): 100 on every machine that Linux runs on today.
const TICK_US: f64 = 10_000.0;

/// `roots` and all processes that descend from them.
pub(super) fn with_descendants(roots: &[u32]) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let id = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok());
        if let Some(id) = id
            && let Some(parent) =
                stat(id).and_then(|of| of.first().and_then(|text| text.parse().ok()))
        {
            children.entry(parent).or_default().push(id);
        }
    }
    let mut found = roots.to_vec();
    let mut at = 0;
    while let Some(id) = found.get(at) {
        found.extend(children.remove(id).unwrap_or_default());
        at += 1;
    }
    found
}

/// The fields of `/proc/ID/stat` from the parent's id on (the program's name may hold anything).
fn stat(id: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().skip(1).map(str::to_owned).collect())
}

/// Processor time, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cpu {
    pub(super) user: f64,
    pub(super) system: f64,
}

impl Cpu {
    /// What these processes have used so far, together.
    pub(super) fn of(ids: &[u32]) -> Self {
        let mut sum = Self::default();
        for fields in ids.iter().filter_map(|&id| stat(id)) {
            let ticks = |at: usize| {
                fields
                    .get(at)
                    .and_then(|text| text.parse::<f64>().ok())
                    .unwrap_or(0.0)
            };
            // utime and stime are fields 14 and 15, the parent's id is field 4.
            sum.user += ticks(10) * TICK_US;
            sum.system += ticks(11) * TICK_US;
        }
        sum
    }

    pub(super) fn since(self, before: Self) -> Self {
        Self {
            user: self.user - before.user,
            system: self.system - before.system,
        }
    }

    pub(super) fn per_request(self, requests: u64) -> f64 {
        (self.user + self.system) / requests.max(1) as f64
    }
}

/// The memory of one of `instances` proxies, on average.
pub(super) fn memory(ids: &[u32], instances: usize) -> Memory {
    let sum = |file: &str, field: &str| -> f64 {
        let of = |id: &u32| {
            let text = fs::read_to_string(format!("/proc/{id}/{file}")).unwrap_or_default();
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(field))
                .unwrap_or_default();
            line.trim()
                .trim_end_matches(" kB")
                .parse::<f64>()
                .unwrap_or(0.0)
        };
        ids.iter().map(of).sum::<f64>() / 1_024.0 / instances.max(1) as f64
    };
    Memory {
        pss_mb: sum("smaps_rollup", "Pss:"),
        rss_anon_mb: sum("status", "RssAnon:"),
    }
}

/// A count of system calls that is under way: by perf, which hardly disturbs, else by strace, else not at all.
pub(super) enum Syscalls {
    Perf(Child),
    Strace(Child),
    None,
}

impl Syscalls {
    pub(super) fn count(ids: &[u32]) -> Self {
        let list: Vec<String> = ids.iter().map(u32::to_string).collect();
        let spawn = |command: &mut Command| {
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .ok()
        };
        if has("perf") && Path::new("/sys/kernel/tracing/events/raw_syscalls").exists() {
            let mut perf = Command::new("perf");
            perf.args([
                "stat",
                "-x",
                ";",
                "-e",
                "raw_syscalls:sys_enter",
                "-p",
                &list.join(","),
            ]);
            if let Some(child) = spawn(&mut perf) {
                // perf does not say when it has begun.
                thread::sleep(Duration::from_millis(300));
                return Self::Perf(child);
            }
        }
        if has("strace") {
            let mut strace = Command::new("strace");
            strace.args(["-c", "-f", "-q"]);
            for id in &list {
                strace.args(["-p", id]);
            }
            if let Some(child) = spawn(&mut strace) {
                thread::sleep(Duration::from_millis(300));
                return Self::Strace(child);
            }
        }
        Self::None
    }

    /// Ends the count: calls for each of so many requests.
    pub(super) fn finish(self, requests: u64) -> Option<f64> {
        let (child, total): (Child, fn(&str) -> Option<f64>) = match self {
            Self::Perf(child) => (child, perf_total),
            Self::Strace(child) => (child, strace_total),
            Self::None => return None,
        };
        // Asked by id to end: both print what they counted then.
        arena::system(&["kill", "-INT", &child.id().to_string()]).ok()?;
        let output = child.wait_with_output().ok()?;
        let calls = total(&String::from_utf8_lossy(&output.stderr))?;
        (calls > 0.0).then(|| calls / requests.max(1) as f64)
    }
}

/// `COUNT;UNIT;EVENT;..`
fn perf_total(text: &str) -> Option<f64> {
    let line = text
        .lines()
        .find(|line| line.contains("raw_syscalls:sys_enter"))?;
    line.split(';').next()?.parse().ok()
}

/// `100.00 SECONDS USECS CALLS ERRORS total`
fn strace_total(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.ends_with(" total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}
