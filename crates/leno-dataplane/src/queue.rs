//! The line for one port of a program: who waits sleeps, and is woken when it is let in or has to go.
//!
//! Who is next is leno-balance's to decide. Invariant: a place is held by exactly one [`Open`], also while its holder
//! has not noticed yet that it was let in; whatever way it ends, the next one is let in.

use std::{cell::Cell, cell::RefCell, rc::Rc, time::Instant};

use leno_balance::{Line, LineLimits, Queued, Ticket};
use leno_telemetry::counters::Limit;
use leno_types::{Priority, Signal};
use tokio::{sync::Notify, time::timeout_at};

use crate::{
    Limits,
    app::AppError,
    counters::{limit, shed},
};

/// Who asks for a place, and how important it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asks {
    pub(crate) priority: Priority,
    /// The same for everything of one caller.
    pub(crate) caller: u64,
}

/// Places, and who waits for one.
pub(crate) struct Queue(RefCell<Line<Rc<Turn>>>);

/// One that waits.
struct Turn {
    state: Cell<State>,
    changed: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waits,
    LetIn,
    /// Pushed out, or what holds its place now is another.
    Gone,
}

/// A place; free for the next one when it is dropped.
pub(crate) struct Open<'q> {
    queue: &'q Queue,
    caller: u64,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.queue.0.borrow_mut().end(self.caller);
        self.queue.let_in();
    }
}

/// A place in the line. Dropped without a word it was given up.
struct Waiting<'q> {
    queue: &'q Queue,
    turn: Rc<Turn>,
    ticket: Ticket,
    caller: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        match self.turn.state.get() {
            State::Waits => drop(self.queue.0.borrow_mut().leave(self.ticket)),
            // Let in, and gone before it knew.
            State::LetIn => drop(self.queue.open(self.caller)),
            State::Gone => {}
        }
    }
}

impl Turn {
    fn become_(&self, state: State) {
        self.state.set(state);
        self.changed.notify_one();
    }
}

impl Queue {
    /// So many places.
    pub(crate) fn new(limits: &Limits, places: usize) -> Self {
        Self(RefCell::new(Line::new(LineLimits {
            places,
            waiting: limits.app_queue,
            patience: limits.queue_timeout,
            standing_patience: limits.standing_queue_timeout,
        })))
    }

    /// A place, while many are free: it does not matter for whom.
    pub(crate) fn begin_calm(&self, caller: u64) -> Option<Open<'_>> {
        let free = self.0.borrow_mut().begin_calm(caller);
        free.then(|| self.open(caller))
    }

    /// A place, at once or after a wait in line.
    ///
    /// # Errors
    /// [`AppError::Overflow`] where nobody else would get one either, [`AppError::Shed`] where others would.
    pub(crate) async fn begin(&self, port: u16, asks: Asks) -> Result<Open<'_>, AppError> {
        if self.0.borrow_mut().begin(asks.priority, asks.caller) {
            return Ok(self.open(asks.caller));
        }
        let turn = Rc::new(Turn {
            state: Cell::new(State::Waits),
            changed: Notify::new(),
        });
        let Asks { priority, caller } = asks;
        let overflow = || {
            limit(Limit::AppQueue);
            shed(priority, Signal::App);
            AppError::Overflow { port }
        };
        let margin = || {
            shed(priority, Signal::App);
            let priority = priority.as_str();
            AppError::Shed { port, priority }
        };
        let queued = self
            .0
            .borrow_mut()
            .wait(priority, caller, Instant::now(), Rc::clone(&turn));
        let (ticket, until) = match queued {
            Queued::Waits {
                ticket,
                until,
                pushed_out,
            } => {
                if let Some(other) = pushed_out {
                    other.become_(State::Gone);
                }
                (ticket, until)
            }
            Queued::Full => return Err(overflow()),
            Queued::Margin => return Err(margin()),
        };
        limit(Limit::AppConnections);
        let queue = self;
        let waiting = Waiting {
            queue,
            turn,
            ticket,
            caller,
        };
        // In time or not: what it became counts.
        match timeout_at(until.into(), waiting.turn.changed.notified()).await {
            Ok(()) | Err(_) => {}
        }
        match waiting.turn.state.get() {
            State::LetIn => {
                // Its place goes on in what is returned.
                waiting.turn.state.set(State::Gone);
                Ok(self.open(caller))
            }
            State::Gone => Err(margin()),
            State::Waits => Err(overflow()),
        }
    }

    /// Time passes: once a second.
    pub(crate) fn tick(&self) {
        self.0.borrow_mut().tick();
        self.let_in();
    }

    /// The program takes another number of requests at the same time than was thought.
    pub(crate) fn set_places(&self, places: usize) {
        self.0.borrow_mut().set_places(places);
        self.let_in();
    }

    fn open(&self, caller: u64) -> Open<'_> {
        let queue = self;
        Open { queue, caller }
    }

    fn let_in(&self) {
        let mut line = self.0.borrow_mut();
        while let Some(next) = line.let_in() {
            next.become_(State::LetIn);
        }
    }
}

#[cfg(test)]
mod tests;
