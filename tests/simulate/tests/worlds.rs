//! Two hundred worlds, and that a world is the same each time.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicU64, Ordering};

use leno_simulate::{STEPS, run};

/// Worlds that are lived through by every run of the tests.
const WORLDS: u64 = 200;

#[test]
fn whatever_fails_what_must_hold_holds() {
    let next = AtomicU64::new(1);
    let (faults, writes) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > WORLDS {
                        return;
                    }
                    let outcome = run(seed, STEPS);
                    let count = |kind| outcome.counts.get(kind).copied().unwrap_or(0);
                    faults.fetch_add(count("crash") + count("cut") + count("disk"), Ordering::Relaxed);
                    writes.fetch_add(count("acked"), Ordering::Relaxed);
                    if let Some(wrong) = &outcome.wrong {
                        panic!(
                            "{wrong}\n{}\nsee it again: cargo xtask simulate --seeds 1 --seed {seed}",
                            outcome.last.join("\n")
                        );
                    }
                }
            });
        }
    });
    // Worlds in which nothing happens prove nothing.
    assert!(faults.into_inner() > 5 * WORLDS);
    assert!(writes.into_inner() > 5 * WORLDS);
}

#[test]
fn the_same_seed_gives_the_same_world() {
    for seed in [3, 77] {
        let (one, other) = (run(seed, STEPS), run(seed, STEPS));
        assert_eq!(one.last, other.last);
        assert_eq!((one.hash, one.events), (other.hash, other.events));
        assert_ne!(one.hash, run(seed + 1, STEPS).hash);
    }
}
