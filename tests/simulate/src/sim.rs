//! What all parts of one simulated world share: chance, what has happened, and what was found to be wrong.
//!
//! Invariant: everything that happens is in the trace, in order; equal traces mean equal worlds.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    rc::Rc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::dice::Dice;

/// Events that are shown of a world that failed.
const SHOWN: usize = 120;
/// When every world begins.
pub(crate) const EPOCH: Duration = Duration::from_secs(1_750_000_000);

/// What is shared. Clones are the same.
#[derive(Clone)]
pub(crate) struct Sim(Rc<Inner>);

struct Inner {
    dice: RefCell<Dice>,
    start: Instant,
    hash: RefCell<DefaultHasher>,
    events: Cell<u64>,
    last: RefCell<VecDeque<String>>,
    wrong: RefCell<Option<String>>,
    counts: RefCell<BTreeMap<&'static str, u64>>,
}

impl Sim {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Rc::new(Inner {
            dice: RefCell::new(Dice::new(seed)),
            start: Instant::now(),
            hash: RefCell::new(DefaultHasher::new()),
            events: Cell::new(0),
            last: RefCell::default(),
            wrong: RefCell::default(),
            counts: RefCell::default(),
        }))
    }

    /// Throws the dice.
    pub(crate) fn dice<T>(&self, throw: impl FnOnce(&mut Dice) -> T) -> T {
        throw(&mut self.0.dice.borrow_mut())
    }

    /// Time since the world began.
    pub(crate) fn now(&self) -> Duration {
        self.0.start.elapsed()
    }

    /// Something happened.
    pub(crate) fn event(&self, kind: &'static str, what: &str) {
        let line = format!("{:>9.3} {kind} {what}", self.now().as_secs_f64());
        line.hash(&mut *self.0.hash.borrow_mut());
        self.0.events.set(self.0.events.get() + 1);
        *self.0.counts.borrow_mut().entry(kind).or_default() += 1;
        let mut last = self.0.last.borrow_mut();
        last.push_back(line);
        if last.len() > SHOWN {
            last.pop_front();
        }
    }

    /// Something was looked at so many times. It is no event.
    pub(crate) fn count(&self, kind: &'static str, times: u64) {
        *self.0.counts.borrow_mut().entry(kind).or_default() += times;
    }

    /// Something is wrong; the first counts.
    pub(crate) fn wrong(&self, what: impl Into<String>) {
        let what = what.into();
        self.event("WRONG", &what);
        self.0.wrong.borrow_mut().get_or_insert(what);
    }

    pub(crate) fn is_wrong(&self) -> bool {
        self.0.wrong.borrow().is_some()
    }

    /// What came of it all.
    pub(crate) fn outcome(&self, seed: u64, steps: u64) -> Outcome {
        Outcome {
            seed,
            steps,
            hash: self.0.hash.borrow().finish(),
            events: self.0.events.get(),
            counts: self.0.counts.borrow().clone(),
            wrong: self.0.wrong.borrow().clone(),
            last: self.0.last.borrow().iter().cloned().collect(),
        }
    }
}

/// The wall clock of a world, which goes with its time.
pub(crate) fn wall(start: Instant) -> SystemTime {
    SystemTime::UNIX_EPOCH + EPOCH + start.elapsed()
}

/// What came of one world.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// How many steps it had.
    pub steps: u64,
    /// Of everything that happened, in order.
    pub hash: u64,
    /// How much happened.
    pub events: u64,
    /// Of which kind.
    pub counts: BTreeMap<&'static str, u64>,
    /// What was found to be wrong.
    pub wrong: Option<String>,
    /// The last events.
    pub last: Vec<String>,
}

impl Outcome {
    /// Of a world that did not come to an end.
    pub(crate) fn of_panic(seed: u64, steps: u64) -> Self {
        Self {
            seed,
            steps,
            hash: 0,
            events: 0,
            counts: BTreeMap::new(),
            wrong: None,
            last: Vec::new(),
        }
    }
}
