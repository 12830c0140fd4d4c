//! Threads that run local tasks: one runtime each, nothing shared, no `Send` asked of what they run.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

use crate::panics;

/// Helper threads one runtime may hold, for name look-ups and files. Further such work waits its turn.
const MAX_BLOCKING_THREADS: usize = 8;

/// How long the end waits for such helpers: a name look-up that hangs must not hold up a process that stops.
const HELPER_GRACE: Duration = Duration::from_secs(1);

/// Runs `work` to its end on this thread, with a runtime of its own on which `spawn_local` works; its helper threads
/// carry `name`. Tasks that still run when `work` ends are dropped; helper threads are waited for one second at most.
///
/// # Panics
/// When called within a runtime, and when the operating system refuses what a runtime needs (file descriptors).
pub fn block_on_local<F: Future>(name: &str, work: F) -> F::Output {
    let runtime = runtime(name);
    let output = runtime.block_on(work);
    runtime.shutdown_timeout(HELPER_GRACE);
    output
}

/// Starts a thread called `name` that runs, on a runtime of its own, the future that `make` makes there.
///
/// A panic is logged and counted, and is the error that joining the thread returns.
///
/// # Panics
/// When the operating system refuses a thread.
pub fn spawn_thread_local<Make, Work>(name: &str, make: Make) -> JoinHandle<Work::Output>
where
    Make: FnOnce() -> Work + Send + 'static,
    Work: Future<Output: Send + 'static>,
{
    let owned = name.to_owned();
    let body = move || {
        // What unwinds is the whole thread: nothing of it is used after, so nothing broken can be seen.
        let ended = catch_unwind(AssertUnwindSafe(|| {
            block_on_local(&owned, async { make().await })
        }));
        ended.unwrap_or_else(|payload| {
            panics::report(&owned, panics::message(&*payload));
            resume_unwind(payload)
        })
    };
    match thread::Builder::new().name(name.to_owned()).spawn(body) {
        Ok(handle) => handle,
        Err(error) => panic!("cannot start the thread {name}: {error}"),
    }
}

fn runtime(name: &str) -> LocalRuntime {
    let built = Builder::new_current_thread()
        .enable_all()
        .thread_name(name)
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .build_local(LocalOptions::default());
    match built {
        Ok(runtime) => runtime,
        Err(error) => panic!("cannot start the runtime of {name}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::rc::Rc;

    use super::{block_on_local, spawn_thread_local};
    use crate::panics_total;

    #[test]
    fn local_tasks_run_on_the_thread_that_blocks() {
        let answer = block_on_local("test", async {
            let shared = Rc::new(41);
            tokio::task::spawn_local(async move { *shared + 1 })
                .await
                .unwrap()
        });
        assert_eq!(answer, 42);
    }

    #[test]
    fn a_helper_that_hangs_does_not_hold_up_the_end() {
        let (release, released) = std::sync::mpsc::channel::<()>();
        block_on_local("test", async {
            let (started, starting) = tokio::sync::oneshot::channel();
            tokio::task::spawn_blocking(move || {
                started.send(()).unwrap();
                assert!(released.recv().is_ok());
            });
            starting.await.unwrap();
        });
        // Only now may the helper end; a join without bound would never have come here.
        release.send(()).unwrap();
    }

    #[test]
    fn a_thread_runs_under_its_name_and_returns_what_its_future_returns() {
        let handle = spawn_thread_local("worker-0", || async {
            let local = Rc::new(std::thread::current().name().map(str::to_owned));
            tokio::task::spawn_local(async move { (*local).clone() })
                .await
                .unwrap()
        });
        assert_eq!(handle.join().unwrap().as_deref(), Some("worker-0"));
    }

    #[test]
    fn a_panic_of_a_thread_is_counted_and_is_what_joining_returns() {
        let before = panics_total();
        let handle = spawn_thread_local("worker-1", || async { panic!("by design") });
        assert!(handle.join().is_err());
        assert!(panics_total() > before);
    }
}
