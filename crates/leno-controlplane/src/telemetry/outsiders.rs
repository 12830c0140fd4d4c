//! Who calls from outside the mesh, in clear: by workload, port and address, for ten minutes.
//!
//! Invariant: at most [`MAX_OUTSIDERS`] callers, of each a slot a minute; who is beyond is counted.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::Duration,
};

use leno_types::WorkloadUid;
use leno_wire::agent as wire;

use super::LONGEST;

/// Callers of one mesh that are told apart.
pub const MAX_OUTSIDERS: usize = 4_096;
/// Callers of one report.
const MAX_REPORTED: usize = 1_024;
const SLOT: u64 = 60;

/// The workload called, its program's port, and from where.
pub type Caller = (WorkloadUid, u16, IpAddr);

/// What a caller did in ten minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// What went on to the program.
    pub calls: u64,
    /// What was refused because it came in clear.
    pub refused: u64,
    /// How long ago it was seen.
    pub ago: Duration,
}

/// Callers from outside the mesh.
#[derive(Debug, Default)]
pub struct Outsiders(BTreeMap<Caller, Row>);

#[derive(Debug, Default)]
struct Row {
    last: Duration,
    /// Which minute, and what was told in it.
    slots: VecDeque<(u64, u64, u64)>,
}

impl Outsiders {
    /// Takes in what an agent saw at the workloads that are `its`. Gives how many were beyond a ceiling, and how many
    /// could not be read or were not its to tell.
    pub fn record(
        &mut self,
        told: &[wire::Outsider],
        its: impl Fn(&WorkloadUid) -> bool,
        now: Duration,
    ) -> (u64, u64) {
        let mut dropped = told.len().saturating_sub(MAX_REPORTED) as u64;
        let mut malformed = 0;
        for one in told.iter().take(MAX_REPORTED) {
            let Some(caller) = caller(one).filter(|(workload, ..)| its(workload)) else {
                malformed += 1;
                continue;
            };
            if self.0.len() >= MAX_OUTSIDERS && !self.0.contains_key(&caller) {
                self.0.retain(|_, row| row.last + LONGEST > now);
                if self.0.len() >= MAX_OUTSIDERS {
                    dropped += 1;
                    continue;
                }
            }
            self.0.entry(caller).or_default().add(one, now);
        }
        (dropped, malformed)
    }

    /// The callers of the last ten minutes.
    pub fn recent(&self, now: Duration) -> impl Iterator<Item = (&Caller, Calls)> {
        let recent = self
            .0
            .iter()
            .filter(move |(_, row)| row.last + LONGEST > now);
        recent.map(move |(caller, row)| (caller, row.calls(now)))
    }
}

impl Row {
    fn add(&mut self, told: &wire::Outsider, now: Duration) {
        self.last = now;
        let minute = now.as_secs() / SLOT;
        self.slots.retain(|(of, ..)| is_recent(*of, minute));
        if self.slots.back().is_none_or(|(of, ..)| *of < minute) {
            self.slots.push_back((minute, 0, 0));
        }
        if let Some((_, calls, refused)) = self.slots.back_mut() {
            *calls = calls.saturating_add(told.calls);
            *refused = refused.saturating_add(told.refused);
        }
    }

    fn calls(&self, now: Duration) -> Calls {
        let minute = now.as_secs() / SLOT;
        let mut sum = Calls {
            ago: now.saturating_sub(self.last),
            ..Calls::default()
        };
        for (_, calls, refused) in self.slots.iter().filter(|of| is_recent(of.0, minute)) {
            sum.calls = sum.calls.saturating_add(*calls);
            sum.refused = sum.refused.saturating_add(*refused);
        }
        sum
    }
}

fn is_recent(slot: u64, minute: u64) -> bool {
    slot + LONGEST.as_secs() / SLOT > minute
}

fn caller(told: &wire::Outsider) -> Option<Caller> {
    Some((
        told.workload.parse().ok()?,
        u16::try_from(told.port).ok()?,
        told.address.parse().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn told(workload: u8, last: u32, calls: u64, refused: u64) -> wire::Outsider {
        wire::Outsider {
            workload: WorkloadUid::from_bytes([workload; 16]).to_string(),
            port: 8080,
            address: Ipv4Addr::from(0x0a00_0000 + last).to_string(),
            calls,
            refused,
        }
    }

    fn minute(number: u64) -> Duration {
        Duration::from_secs(number * SLOT)
    }

    #[test]
    fn ten_minutes_are_summed_and_who_was_not_seen_since_is_forgotten() {
        let mut outsiders = Outsiders::default();
        let all = |_: &WorkloadUid| true;
        for number in 0..20 {
            outsiders.record(&[told(1, 1, 2, 1)], all, minute(number));
        }
        // Connected, and silent.
        outsiders.record(&[told(1, 2, 0, 0)], all, minute(19));
        let now = minute(19) + Duration::from_secs(7);
        let found: Vec<Calls> = outsiders.recent(now).map(|(_, calls)| calls).collect();
        let ago = Duration::from_secs(7);
        let of = |calls, refused| Calls {
            calls,
            refused,
            ago,
        };
        assert_eq!(found, [of(20, 10), of(0, 0)]);
        assert_eq!(outsiders.recent(minute(29)).count(), 0);
    }

    #[test]
    fn what_is_not_the_agents_to_tell_or_cannot_be_read_is_counted_and_left_out() {
        let mut outsiders = Outsiders::default();
        let its = |workload: &WorkloadUid| *workload == WorkloadUid::from_bytes([1; 16]);
        let broken = wire::Outsider {
            address: "nowhere".into(),
            ..told(1, 1, 1, 0)
        };
        let port = wire::Outsider {
            port: 70_000,
            ..told(1, 1, 1, 0)
        };
        let all = [told(1, 1, 1, 0), told(2, 1, 1, 0), broken, port];
        assert_eq!(outsiders.record(&all, its, minute(0)), (0, 3));
        assert_eq!(outsiders.recent(minute(0)).count(), 1);
    }

    #[test]
    fn callers_without_number_meet_a_ceiling_that_is_counted_and_makes_room_with_time() {
        let mut outsiders = Outsiders::default();
        let all = |_: &WorkloadUid| true;
        let mut dropped = 0;
        for batch in 0..5_u32 {
            let told: Vec<_> = (0..1_025)
                .map(|last| told(1, batch * 2_000 + last, 1, 0))
                .collect();
            dropped += outsiders.record(&told, all, minute(0)).0;
        }
        assert_eq!(outsiders.recent(minute(0)).count(), MAX_OUTSIDERS);
        assert_eq!(dropped, 5 * 1_025 - MAX_OUTSIDERS as u64);
        assert_eq!(outsiders.record(&[told(2, 1, 1, 0)], all, minute(10)).0, 0);
        assert_eq!(outsiders.recent(minute(10)).count(), 1);
    }
}
