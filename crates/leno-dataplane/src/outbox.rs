//! What waits to be taken by the agent.
//!
//! Bounded by construction: subscriptions by the ceiling on discoveries, one report and one demand for sockets at a
//! time; [`Outbox::is_congested`] stops new discoveries when the agent does not listen.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
};

use tokio::sync::{Notify, mpsc};

use crate::Event;

/// Events on their way out.
#[derive(Default)]
pub(crate) struct Outbox {
    waiting: RefCell<VecDeque<Event>>,
    more: Notify,
    closed: Cell<bool>,
}

impl Outbox {
    /// Puts an event in line.
    pub(crate) fn push(&self, event: Event) {
        self.waiting.borrow_mut().push_back(event);
        self.more.notify_one();
    }

    /// Whether so much waits that nothing further should be asked.
    pub(crate) fn is_congested(&self, ceiling: usize) -> bool {
        self.waiting.borrow().len() >= ceiling
    }

    /// Whether everything was taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// Nothing comes any more: [`Self::run`] ends when all was sent.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.more.notify_one();
    }

    /// Sends what is in line until [`Self::close`]; also ends when nobody listens any more.
    pub(crate) async fn run(&self, to: mpsc::Sender<Event>) {
        loop {
            let next = self.waiting.borrow_mut().pop_front();
            match next {
                Some(event) => {
                    if to.send(event).await.is_err() {
                        return;
                    }
                }
                None if self.closed.get() => return,
                None => self.more.notified().await,
            }
        }
    }
}
