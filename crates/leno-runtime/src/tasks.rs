//! The long-lived tasks of one thread, and what their end means.
//!
//! Invariant: nothing ends unseen. A critical task that ends before the stop, or panics at any time, is the reason
//! [`Tasks::run`] returns; every other panic is logged and counted; what did not end in time is aborted by name.

use std::collections::HashMap;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::timeout;

use crate::{Stop, panics};

/// A critical task ended that should not have; everything was stopped for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the task {task} ended before it was asked to, so everything was stopped; its reason is in the log above"
)]
pub struct Fatal {
    /// Which task.
    pub task: &'static str,
}

/// Owns named tasks of one current-thread runtime. Dropping it aborts them.
#[derive(Debug)]
pub struct Tasks {
    stop: Stop,
    set: JoinSet<Ended>,
    running: HashMap<Id, Task>,
}

#[derive(Clone, Copy, Debug)]
struct Task {
    name: &'static str,
    critical: bool,
}

/// Whether a task, as it ended, had been asked to.
#[derive(Clone, Copy, Debug)]
enum Ended {
    Asked,
    Early,
}

impl Tasks {
    /// No tasks yet; `stop` is what they listen to, and what a fatal end triggers.
    #[must_use]
    pub fn new(stop: Stop) -> Self {
        Self {
            stop,
            set: JoinSet::new(),
            running: HashMap::new(),
        }
    }

    /// The stop of these tasks.
    #[must_use]
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Starts `work`, without which nothing else makes sense: ending before the stop, or panicking, stops all.
    ///
    /// # Panics
    /// Outside [`block_on_local`](crate::block_on_local), a local runtime or a `LocalSet`.
    pub fn spawn_critical(&mut self, name: &'static str, work: impl Future<Output = ()> + 'static) {
        self.start(
            Task {
                name,
                critical: true,
            },
            work,
        );
    }

    /// Starts `work`, which may end when it likes; its panic is logged and counted, and the rest goes on.
    ///
    /// # Panics
    /// As [`spawn_critical`](Self::spawn_critical).
    pub fn spawn(&mut self, name: &'static str, work: impl Future<Output = ()> + 'static) {
        self.start(
            Task {
                name,
                critical: false,
            },
            work,
        );
    }

    fn start(&mut self, task: Task, work: impl Future<Output = ()> + 'static) {
        let stop = self.stop.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "this is where tasks get their owner"
        )]
        let handle = self.set.spawn_local(async move {
            work.await;
            if stop.is_stopping() {
                Ended::Asked
            } else {
                Ended::Early
            }
        });
        self.running.insert(handle.id(), task);
    }

    /// Waits for the stop or a fatal end, which triggers the stop; then lets the tasks end for as long as `grace`, and
    /// aborts what is left.
    ///
    /// # Errors
    /// The first critical task that ended by itself or panicked.
    pub async fn run(mut self, grace: Duration) -> Result<(), Fatal> {
        let mut outcome = self.watch().await;
        self.stop.trigger();
        if timeout(grace, self.drain(&mut outcome)).await.is_err() {
            for Task { name, .. } in self.running.values() {
                tracing::warn!(task = name, ?grace, "grace period over, task aborted");
            }
        }
        self.set.shutdown().await;
        outcome
    }

    /// Takes note of what ends, until the stop or a fatal end.
    async fn watch(&mut self) -> Result<(), Fatal> {
        loop {
            tokio::select! {
                biased;
                Some(joined) = self.set.join_next_with_id() => self.note(joined)?,
                () = self.stop.cancelled() => return Ok(()),
            }
        }
    }

    async fn drain(&mut self, outcome: &mut Result<(), Fatal>) {
        while let Some(joined) = self.set.join_next_with_id().await {
            *outcome = outcome.and(self.note(joined));
        }
    }

    /// What one end means.
    fn note(&mut self, joined: Result<(Id, Ended), JoinError>) -> Result<(), Fatal> {
        let (id, ended) = match joined {
            Ok((id, ended)) => (id, Ok(ended)),
            Err(error) => (error.id(), Err(error)),
        };
        // Each task is noted as it starts, so this is always found.
        let Some(Task { name, critical }) = self.running.remove(&id) else {
            return Ok(());
        };
        let fatal = match ended {
            Ok(Ended::Asked) => false,
            Ok(Ended::Early) if critical => {
                tracing::error!(task = name, "critical task ended by itself");
                true
            }
            Ok(Ended::Early) => false,
            Err(error) => {
                if let Ok(payload) = error.try_into_panic() {
                    panics::report(name, panics::message(&*payload));
                }
                critical
            }
        };
        if fatal {
            Err(Fatal { task: name })
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
