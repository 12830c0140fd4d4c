//! The short-lived tasks of one worker of the data path: one for each connection or stream.
//!
//! Owns how many are open and, by name, which. Never keeps what a task returned, so an ended task costs nothing.
//! Invariant: `open` counts exactly the tasks that were started and have not yet been dropped.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::{Stop, panics};

/// The scope's ceiling is reached; the task was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{ceiling} tasks are open, which is the ceiling; {task} was not started")]
pub struct Full {
    /// The task that found no room.
    pub task: &'static str,
    /// How many may be open.
    pub ceiling: usize,
}

/// Starts and counts the tasks of one worker. Clones are the same scope, on the same thread.
#[derive(Clone, Debug)]
pub struct Scope(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    stop: Stop,
    aborted: Cell<bool>,
    aborting: Notify,
    ceiling: usize,
    open: Cell<usize>,
    refused: Cell<u64>,
    /// Open tasks by name. As long as there are names in the source.
    names: RefCell<Vec<(&'static str, usize)>>,
    empty: Notify,
}

impl Scope {
    /// An empty scope. Its tasks listen to `stop`, which [`drain`](Self::drain) triggers; at most `ceiling` are open.
    #[must_use]
    pub fn new(stop: Stop, ceiling: Option<usize>) -> Self {
        Self(Rc::new(Inner {
            stop,
            aborted: Cell::new(false),
            aborting: Notify::new(),
            ceiling: ceiling.unwrap_or(usize::MAX),
            open: Cell::new(0),
            refused: Cell::new(0),
            names: RefCell::default(),
            empty: Notify::new(),
        }))
    }

    /// The stop of this scope's tasks.
    #[must_use]
    pub fn stop(&self) -> &Stop {
        &self.0.stop
    }

    /// How many tasks are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.0.open.get()
    }

    /// How many tasks the ceiling has refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.0.refused.get()
    }

    /// Starts `work`; its panic is logged and counted, and ends nothing else.
    ///
    /// # Errors
    /// [`Full`] at the ceiling, and `work` is dropped.
    ///
    /// # Panics
    /// Outside [`block_on_local`](crate::block_on_local), a local runtime or a `LocalSet`.
    pub fn spawn(
        &self,
        name: &'static str,
        work: impl Future<Output = ()> + 'static,
    ) -> Result<(), Full> {
        if self.open() >= self.0.ceiling {
            self.0.refused.set(self.0.refused.get().saturating_add(1));
            return Err(Full {
                task: name,
                ceiling: self.0.ceiling,
            });
        }
        // On the heap at once: an async block would hold what it captured twice, and again for each layer around it.
        let mut work = Box::pin(work);
        let open = Open::enter(Rc::clone(&self.0), name);
        #[expect(
            clippy::disallowed_methods,
            reason = "this is where tasks get their owner"
        )]
        spawn_local(async move {
            let mut aborting = pin!(open.scope.aborting.notified());
            let mut registered = false;
            let caught = poll_fn(|context| {
                let was_registered = std::mem::replace(&mut registered, true);
                if open.scope.aborted.get()
                    || (!was_registered && aborting.as_mut().poll(context).is_ready())
                {
                    return Poll::Ready(Ok(()));
                }
                // Nothing of `work` is looked at after a panic, so nothing broken can be seen.
                match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
                    Ok(poll) => poll.map(Ok),
                    Err(payload) => Poll::Ready(Err(payload)),
                }
            })
            .await;
            // Before `open`: an empty scope has freed what its tasks held.
            drop(work);
            if let Err(payload) = caught {
                panics::report(open.name, panics::message(&*payload));
            }
        });
        Ok(())
    }

    /// Asks all tasks to end, waits for as long as `grace`, then aborts the rest and says which. Returns how many those were.
    pub async fn drain(&self, grace: Duration) -> usize {
        self.0.stop.trigger();
        if timeout(grace, self.emptied()).await.is_ok() {
            return 0;
        }
        let aborted = self.open();
        for (task, open) in self.0.names.borrow().iter().filter(|(_, open)| *open > 0) {
            tracing::warn!(task, open, ?grace, "grace period over, tasks aborted");
        }
        self.0.aborted.set(true);
        self.0.aborting.notify_waiters();
        self.emptied().await;
        aborted
    }

    async fn emptied(&self) {
        while self.open() > 0 {
            // One thread: nothing can come between the look and the wait.
            self.0.empty.notified().await;
        }
    }
}

/// One open task; whatever way it ends, this is dropped.
struct Open {
    scope: Rc<Inner>,
    name: &'static str,
}

impl Open {
    fn enter(scope: Rc<Inner>, name: &'static str) -> Self {
        scope.open.set(scope.open.get() + 1);
        {
            let mut names = scope.names.borrow_mut();
            match names.iter_mut().find(|(known, _)| *known == name) {
                Some((_, open)) => *open += 1,
                None => names.push((name, 1)),
            }
        }
        Self { scope, name }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some((_, open)) = self
            .scope
            .names
            .borrow_mut()
            .iter_mut()
            .find(|(known, _)| *known == self.name)
        {
            *open = open.saturating_sub(1);
        }
        self.scope.open.set(self.scope.open.get().saturating_sub(1));
        if self.scope.open.get() == 0 {
            self.scope.empty.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests;
