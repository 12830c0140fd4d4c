#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::Cell;
use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Fatal, Tasks};
use crate::{Stop, panics_total};

const GRACE: Duration = Duration::from_secs(5);

/// Sets its flag when dropped.
struct Dropped(Rc<Cell<bool>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_critical_task_that_ends_by_itself_stops_all_and_is_named() {
    let stop = Stop::new();
    let mut tasks = Tasks::new(stop.clone());
    let finished = Rc::new(Cell::new(false));
    let (listener, flag) = (stop.clone(), Rc::clone(&finished));
    tasks.spawn_critical("steady", async move {
        listener.cancelled().await;
        sleep(Duration::from_secs(1)).await;
        flag.set(true);
    });
    tasks.spawn_critical("short", async {});
    assert_eq!(tasks.run(GRACE).await, Err(Fatal { task: "short" }));
    assert!(stop.is_stopping());
    assert!(finished.get(), "the other task was let finish");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_critical_task_that_panics_stops_all_also_while_draining() {
    let mut tasks = Tasks::new(Stop::new());
    tasks.spawn_critical("broken", async { panic!("by design") });
    assert_eq!(tasks.run(GRACE).await, Err(Fatal { task: "broken" }));

    let stop = Stop::new();
    let mut tasks = Tasks::new(stop.clone());
    tasks.spawn_critical("broken late", async move {
        stop.cancelled().await;
        panic!("by design")
    });
    tasks.stop().trigger();
    assert_eq!(
        tasks.run(GRACE).await,
        Err(Fatal {
            task: "broken late"
        })
    );
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_ordinary_task_may_end_or_panic_and_the_rest_goes_on() {
    let before = panics_total();
    let stop = Stop::new();
    let mut tasks = Tasks::new(stop.clone());
    tasks.spawn("ends", async {});
    tasks.spawn("panics", async { panic!("by design") });
    let (start, later) = (Instant::now(), stop.clone());
    tasks.spawn("stopper", async move {
        sleep(Duration::from_secs(60)).await;
        later.trigger();
    });
    assert_eq!(tasks.run(GRACE).await, Ok(()));
    assert_eq!(start.elapsed(), Duration::from_secs(60));
    assert!(panics_total() > before);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn what_does_not_end_within_the_grace_is_aborted_then_and_not_before() {
    let stop = Stop::new();
    let mut tasks = Tasks::new(stop.clone());
    let aborted = Rc::new(Cell::new(false));
    let guard = Dropped(Rc::clone(&aborted));
    tasks.spawn_critical("deaf", async move {
        let _guard = guard;
        pending::<()>().await;
    });
    stop.trigger();
    let start = Instant::now();
    assert_eq!(tasks.run(GRACE).await, Ok(()));
    assert_eq!(start.elapsed(), GRACE);
    assert!(aborted.get());
}
