//! The latest lines of the access log, for `leno logs`; and who follows them.
//!
//! Invariant: at most [`MAX_BYTES`] of lines and [`MAX_FOLLOWERS`] who follow; what is forgotten, or not told to one who
//! follows too slowly, is counted. Nothing here is on the data path: lines come in bulk, long after their requests.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use serde_json::Value;

/// Bytes of lines that are kept; the oldest make room.
const MAX_BYTES: usize = 1 << 20;
/// Who may follow at once.
const MAX_FOLLOWERS: usize = 16;
/// Lines that one who follows is told at once; of more it is told how many there were.
const MAX_AT_ONCE: usize = 500;
/// The longest list.
pub(crate) const MAX_LINES: usize = 2_000;

/// Which lines somebody wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// `NAMESPACE/NAME` of workloads; none: all.
    pub(crate) workloads: Vec<String>,
    /// Only what failed or was refused.
    pub(crate) errors: bool,
}

impl Wanted {
    fn takes(&self, line: &[u8]) -> bool {
        if self.workloads.is_empty() && !self.errors {
            return true;
        }
        let Ok(line) = serde_json::from_slice::<Value>(line) else {
            return false;
        };
        let text = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or_default();
        let of = format!("{}/{}", text("namespace"), text("workload"));
        let ours = self.workloads.is_empty() || self.workloads.contains(&of);
        ours && (!self.errors || is_failure(&line))
    }
}

fn is_failure(line: &Value) -> bool {
    let flags = line.get("response_flags").and_then(Value::as_str);
    let code = line.get("response_code").and_then(Value::as_u64);
    let grpc = line.get("grpc_status").and_then(Value::as_u64);
    flags.is_some_and(|flags| flags != "-")
        || code.is_some_and(|code| code >= 500)
        || grpc.is_some_and(|status| status != 0)
}

/// Lines that are told, and how many more there were.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) lines: Vec<Vec<u8>>,
    pub(crate) more: u64,
}

#[derive(Default)]
pub(crate) struct Lines {
    /// As they came, at most a second's each.
    kept: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    forgotten: u64,
    followers: Vec<(u64, Wanted)>,
}

impl Lines {
    /// Takes lines in; gives what each follower is told of them.
    pub(crate) fn take(&mut self, now: Instant, log: Vec<u8>) -> Vec<(u64, Told)> {
        if log.is_empty() {
            return Vec::new();
        }
        let told = self.followers.iter().filter_map(|(question, wanted)| {
            let mut told = Told::default();
            for line in split(&log).filter(|line| wanted.takes(line)) {
                if told.lines.len() < MAX_AT_ONCE {
                    told.lines.push(line.to_vec());
                } else {
                    told.more += 1;
                }
            }
            (!told.lines.is_empty()).then_some((*question, told))
        });
        let told = told.collect();
        self.bytes += log.len();
        self.kept.push_back((now, log));
        while self.bytes > MAX_BYTES
            && let Some((_, oldest)) = self.kept.pop_front()
        {
            self.bytes -= oldest.len();
            self.forgotten += split(&oldest).count() as u64;
        }
        told
    }

    /// The newest `most` of those that came since, in order.
    pub(crate) fn since(
        &self,
        now: Instant,
        since: Duration,
        most: usize,
        wanted: &Wanted,
    ) -> Told {
        let recent = self
            .kept
            .iter()
            .filter(|(at, _)| now.saturating_duration_since(*at) <= since);
        let lines = recent.flat_map(|(_, log)| split(log));
        let mut lines: Vec<&[u8]> = lines.filter(|line| wanted.takes(line)).collect();
        let more = lines.len().saturating_sub(most.min(MAX_LINES));
        lines.drain(..more);
        Told {
            lines: lines.into_iter().map(<[u8]>::to_vec).collect(),
            more: more as u64,
        }
    }

    /// Somebody follows from now on; `false`: too many do.
    pub(crate) fn follow(&mut self, question: u64, wanted: Wanted) -> bool {
        let room = self.followers.len() < MAX_FOLLOWERS;
        if room {
            self.followers.push((question, wanted));
        }
        room
    }

    /// Somebody follows no more.
    pub(crate) fn stop(&mut self, question: u64) {
        self.followers.retain(|(of, _)| *of != question);
    }

    /// Nobody does: whoever asked is gone.
    pub(crate) fn stop_all(&mut self) {
        self.followers.clear();
    }

    /// Whether somebody follows who wants to see what goes well.
    pub(crate) fn wants_all(&self) -> bool {
        self.followers.iter().any(|(_, wanted)| !wanted.errors)
    }

    /// Lines that had to make room.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

fn split(log: &[u8]) -> impl Iterator<Item = &[u8]> {
    log.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[u8] =
        b"{\"workload\":\"web\",\"namespace\":\"shop\",\"response_code\":200,\"response_flags\":\"-\"}\n";
    const BAD: &[u8] =
        b"{\"workload\":\"cart\",\"namespace\":\"shop\",\"response_code\":503,\"response_flags\":\"UF\"}\n";

    fn wanted(workload: &str, errors: bool) -> Wanted {
        Wanted {
            workloads: vec![workload.into()],
            errors,
        }
    }

    #[test]
    fn lines_are_found_by_workload_age_and_failure() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        lines.take(now, [GOOD, BAD].concat());
        let later = now + Duration::from_secs(60);
        lines.take(later, GOOD.to_vec());
        let found = |since, wanted: &Wanted| {
            let told = lines.since(later, Duration::from_secs(since), 10, wanted);
            told.lines.len()
        };
        assert_eq!(found(100, &Wanted::default()), 3);
        assert_eq!(found(10, &Wanted::default()), 1);
        assert_eq!(found(100, &wanted("shop/web", false)), 2);
        assert_eq!(found(100, &wanted("shop/web", true)), 0);
        assert_eq!(found(100, &wanted("shop/cart", true)), 1);
        assert_eq!(found(100, &wanted("else/cart", true)), 0);
        let newest = lines.since(later, Duration::from_secs(100), 1, &Wanted::default());
        assert_eq!((newest.lines.len(), newest.more), (1, 2));
    }

    #[test]
    fn no_more_is_kept_than_the_ceiling_and_what_is_forgotten_is_counted() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        let second = GOOD.repeat(1_000);
        for _ in 0..100 {
            lines.take(now, second.clone());
        }
        assert!(lines.bytes <= MAX_BYTES);
        let kept: usize = lines.kept.iter().map(|(_, log)| split(log).count()).sum();
        assert_eq!(lines.forgotten() + kept as u64, 100_000);
    }

    #[test]
    fn who_follows_is_told_what_it_wants_and_how_much_more_there_was() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        assert!(lines.follow(1, wanted("shop/cart", true)));
        assert!(!lines.wants_all());
        assert!(lines.follow(2, Wanted::default()));
        assert!(lines.wants_all());
        let told = lines.take(now, [GOOD.repeat(MAX_AT_ONCE + 7), BAD.to_vec()].concat());
        let counts: Vec<(u64, usize, u64)> = told
            .iter()
            .map(|(question, told)| (*question, told.lines.len(), told.more))
            .collect();
        assert_eq!(counts, [(1, 1, 0), (2, MAX_AT_ONCE, 8)]);
        lines.stop(2);
        assert!(lines.take(now, GOOD.to_vec()).is_empty());
        for question in 3.. {
            if !lines.follow(question, Wanted::default()) {
                break;
            }
        }
        assert_eq!(lines.followers.len(), MAX_FOLLOWERS);
    }
}
