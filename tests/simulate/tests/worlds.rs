//! Two hundred worlds, and that a world is the same each time.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use leno_simulate::{Ground, STEPS, run};

/// Worlds that are lived through by every run of the tests.
const WORLDS: u64 = 200;

#[test]
fn whatever_fails_what_must_hold_holds() {
    let (ground, next) = (Ground::new().unwrap(), AtomicU64::new(1));
    let total = Mutex::new(BTreeMap::<&str, u64>::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > WORLDS {
                        return;
                    }
                    let outcome = run(&ground, seed, STEPS);
                    for (kind, count) in &outcome.counts {
                        *total.lock().unwrap().entry(kind).or_default() += count;
                    }
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
    // Worlds in which nothing happens, or nothing is looked at, prove nothing.
    let total = total.into_inner().unwrap();
    for (kind, least) in [
        ("crash", 2 * WORLDS),
        ("cut", 2 * WORLDS),
        ("disk", 2 * WORLDS),
        ("acked", 5 * WORLDS),
        ("founded", WORLDS / 2),
        ("dissolved", WORLDS / 4),
        ("seen", 30 * WORLDS),
        ("compared", 15 * WORLDS),
        ("remembered", 10 * WORLDS),
        ("ghost", WORLDS),
        ("ghost held", WORLDS / 20),
    ] {
        let count = total.get(kind).copied().unwrap_or(0);
        assert!(count > least, "{count} {kind} in {WORLDS} worlds");
    }
}

#[test]
fn the_same_seed_gives_the_same_world() {
    let ground = Ground::new().unwrap();
    for seed in [3, 77] {
        let (one, other) = (run(&ground, seed, STEPS), run(&ground, seed, STEPS));
        assert_eq!(one.last, other.last);
        assert_eq!((one.hash, one.events), (other.hash, other.events));
        assert_ne!(one.hash, run(&ground, seed + 1, STEPS).hash);
    }
}
