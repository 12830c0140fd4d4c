//! How loaded this worker is, and what it refuses then.
//!
//! A task of its own looks ten times a second: at its own lateness, at the number of tasks, and once a second at the
//! process's memory. Everything else reads what it found. Who is refused is leno-balance's to decide.

use std::{
    cell::Cell,
    hash::{BuildHasher, Hash, RandomState},
    net::{IpAddr, Ipv6Addr},
    rc::Rc,
    time::{Duration, Instant},
};

use leno_balance::{Lag, Pressure, memory_percent, percent};
use leno_http::{RequestHead, urgency};
use leno_runtime::Stop;
use leno_telemetry::counters::Gauge;
use leno_types::{Priority, Refusal, Signal};
use tokio::time::sleep_until;

use crate::{
    counters::{gauge, shed},
    outbound::Denial,
    state::Shared,
};

/// How often the worker looks at itself.
const LOOK: Duration = Duration::from_millis(100);
/// At its memory after so many looks.
const MEMORY_LOOKS: u32 = 10;
/// From this urgency on a request is one that can wait (RFC 9218 4.1: 3 is the default, 7 is background).
const BACKGROUND: u8 = 5;

/// How loaded this worker is.
#[derive(Default)]
pub(crate) struct Load {
    pressure: Cell<Pressure>,
    /// Not to be foreseen by callers, who could look like one another.
    hasher: RandomState,
}

impl Load {
    /// Whether something of this priority is refused, and by which signal; counted. While all is calm nobody asks how
    /// important it is.
    pub(crate) fn refuses(&self, priority: impl FnOnce() -> Priority) -> Option<Signal> {
        let pressure = self.pressure.get();
        if pressure.is_calm() {
            return None;
        }
        let priority = priority();
        let signal = pressure.refuses(priority)?;
        shed(priority, signal);
        Some(signal)
    }

    /// The same, as it is told.
    pub(crate) fn denies(&self, priority: impl FnOnce() -> Priority) -> Option<Denial> {
        let mut known = Priority::Default;
        let signal = self.refuses(|| {
            known = priority();
            known
        })?;
        let (signal, priority) = (signal.as_str(), known.as_str());
        let why =
            format!("this proxy has too much to do ({signal}): {priority} priority is refused");
        Some(Denial::new(Refusal::Overload, why))
    }

    /// By which one caller is told from others.
    pub(crate) fn key(&self, caller: &impl Hash) -> u64 {
        self.hasher.hash_one(caller)
    }
}

/// What one caller outside the mesh may have of addresses: all of version 6 that share a network of 64 bits are one's
/// own to use (RFC 4291 2.5.1).
pub(crate) fn neighbourhood(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

/// What a request says of its own importance: only that it can wait is believed.
pub(crate) fn priority_of(head: &RequestHead) -> Priority {
    match urgency(&head.fields) {
        Some(BACKGROUND..) => Priority::Low,
        Some(_) | None => Priority::Default,
    }
}

/// What a refused caller is told: to come again, and when. gRPC clients read it where gRPC's proposal A6 has it.
pub(crate) fn come_again(reason: Refusal, grpc: bool) -> &'static [(&'static str, &'static str)] {
    match (reason, grpc) {
        (Refusal::Overload | Refusal::Overflow, false) => &[("retry-after", "1")],
        (Refusal::Overload | Refusal::Overflow, true) => &[("grpc-retry-pushback-ms", "1000")],
        _ => &[],
    }
}

/// Looks at the load until the stop. To be a task like those it measures: its turn comes when theirs does.
pub(crate) async fn watch(shared: Rc<Shared>, stop: Stop) {
    stop.run_until_stopped(look(&shared)).await;
}

async fn look(shared: &Shared) {
    let limits = &shared.config.limits;
    let (mut lag, mut memory) = (Lag::default(), 0);
    let mut told = (0, 0);
    for looks in 0_u32.. {
        let due = Instant::now() + LOOK;
        sleep_until(due.into()).await;
        lag.observe(Instant::now().saturating_duration_since(due));
        if looks % MEMORY_LOOKS == 0 {
            memory = (shared.config.memory)()
                .map_or(0, |memory| memory_percent(memory.own, memory.free));
        }
        let standing = lag.standing();
        shared.load.pressure.set(Pressure {
            tasks: percent(shared.scope.open() as u64, limits.tasks as u64),
            lag: percent(micros(standing), micros(limits.lag)),
            memory,
        });
        let now = (shown(standing), i64::from(memory));
        for (which, last, now) in [(Gauge::Lag, told.0, now.0), (Gauge::Memory, told.1, now.1)] {
            if now != last {
                gauge(which, now - last);
            }
        }
        told = now;
    }
}

/// In steps: a worker that has nothing to do must not have something to report because of that.
fn shown(lag: Duration) -> i64 {
    const STEP: u128 = 10;
    i64::try_from(lag.as_millis() / STEP * STEP).unwrap_or(i64::MAX)
}

fn micros(of: Duration) -> u64 {
    u64::try_from(of.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn the_addresses_of_one_network_of_version_6_are_one_callers() {
        let of = |text: &str| neighbourhood(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:0:0:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn a_worker_with_nothing_to_do_has_nothing_to_report() {
        let of = |micros| shown(Duration::from_micros(micros));
        assert_eq!([of(0), of(1_900), of(9_999)], [0; 3]);
        assert_eq!((of(10_000), of(123_456)), (10, 120));
    }

    #[test]
    fn a_request_is_believed_only_that_it_can_wait() {
        for (said, priority) in [
            ("u=0", Priority::Default),
            ("u=4", Priority::Default),
            ("u=5", Priority::Low),
            ("u=7, i", Priority::Low),
            ("background", Priority::Default),
        ] {
            let mut head = RequestHead::connect("app:80".to_owned());
            assert!(head.fields.push("priority", said));
            assert_eq!(priority_of(&head), priority, "{said}");
        }
    }
}
