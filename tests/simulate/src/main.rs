//! `cargo xtask simulate`: many worlds, each from its seed; of the first that fails, what happened, and how to see it again.
#![allow(
    clippy::disallowed_methods,
    reason = "a tool of its own: its threads end before it does"
)]

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write, stderr},
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use leno_simulate::{Ground, Outcome, STEPS, run};

/// Lives worlds through: a control plane, its store, agents and people, with faults; and looks at what must hold.
#[derive(Clone, Copy, Debug, Parser)]
#[command(name = "cargo xtask simulate")]
struct Arguments {
    /// How many worlds
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The seed of the first
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How much befalls each
    #[arg(long, default_value_t = STEPS)]
    steps: u64,
    /// Show the last events of each world and the digest of all, although nothing is wrong
    #[arg(long)]
    trace: bool,
}

/// What came of all worlds.
#[derive(Default)]
struct Total {
    worlds: u64,
    events: u64,
    counts: BTreeMap<&'static str, u64>,
    failed: Vec<Outcome>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let began = Instant::now();
    let ground = match Ground::new() {
        Ok(ground) => ground,
        Err(error) => {
            eprintln!("the worlds have no ground to stand on: {error}");
            return ExitCode::FAILURE;
        }
    };
    let total = live_all(&ground, arguments, began);
    let counts: Vec<String> = total
        .counts
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    println!(
        "{} worlds of {} steps in {:.1} s, {} events: {}",
        total.worlds,
        arguments.steps,
        began.elapsed().as_secs_f64(),
        total.events,
        counts.join(", ")
    );
    let Some(first) = total.failed.first() else {
        println!("all that must hold held");
        return ExitCode::SUCCESS;
    };
    let shortest = shortened(&ground, first);
    println!("{} worlds failed; the first of them:", total.failed.len());
    for line in &shortest.last {
        println!("  {line}");
    }
    let seeds: Vec<String> = total.failed.iter().map(|of| of.seed.to_string()).collect();
    println!("failed seeds: {}", seeds.join(" "));
    let wrong = shortest.wrong.as_deref().unwrap_or_default();
    println!("seed {}: {wrong}", shortest.seed);
    println!(
        "see it again: cargo xtask simulate --seeds 1 --seed {} --steps {}",
        shortest.seed, shortest.steps
    );
    ExitCode::FAILURE
}

/// The same world with as few steps as it fails with.
fn shortened(ground: &Ground, failed: &Outcome) -> Outcome {
    let mut shorter = (1..failed.steps).map(|steps| run(ground, failed.seed, steps));
    shorter
        .find(|outcome| outcome.wrong.is_some())
        .unwrap_or_else(|| failed.clone())
}

fn live_all(ground: &Ground, arguments: Arguments, began: Instant) -> Total {
    let next = AtomicU64::new(0);
    let total = Mutex::new(Total::default());
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= arguments.seeds {
                        return;
                    }
                    let seed = arguments.seed.wrapping_add(index);
                    take(&total, run(ground, seed, arguments.steps), arguments);
                }
            });
        }
        scope.spawn(|| progress(&total, arguments.seeds, began));
    });
    let mut total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    total.failed.sort_by_key(|outcome| outcome.seed);
    total
}

fn take(total: &Mutex<Total>, outcome: Outcome, arguments: Arguments) {
    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
    total.worlds += 1;
    total.events += outcome.events;
    for (kind, count) in &outcome.counts {
        *total.counts.entry(kind).or_default() += count;
    }
    if arguments.trace {
        for line in &outcome.last {
            println!("  {line}");
        }
        println!("seed {} digest {:016x}", outcome.seed, outcome.hash);
    }
    if outcome.wrong.is_some() {
        total.failed.push(outcome);
    }
}

/// Says on a terminal how far it is.
fn progress(total: &Mutex<Total>, seeds: u64, began: Instant) {
    if !stderr().is_terminal() {
        return;
    }
    loop {
        thread::sleep(Duration::from_millis(200));
        let (worlds, failed) = {
            let total = total.lock().unwrap_or_else(PoisonError::into_inner);
            (total.worlds, total.failed.len())
        };
        let seconds = began.elapsed().as_secs();
        let line = format!("\r{worlds} of {seeds} worlds, {failed} failed, {seconds} s ");
        let mut stderr = stderr();
        // A terminal that is gone is told nothing.
        drop(
            stderr
                .write_all(line.as_bytes())
                .and_then(|()| stderr.flush()),
        );
        if worlds >= seeds {
            eprintln!();
            return;
        }
    }
}
