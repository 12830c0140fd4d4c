#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::future::pending;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::{Full, Scope};
use crate::{Stop, panics_total};

const GRACE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "local", start_paused = true)]
async fn drain_lets_open_tasks_finish_then_aborts_the_rest() {
    let scope = Scope::new(Stop::new(), None);
    let (done, finished) = oneshot::channel();
    let stop = scope.stop().clone();
    let polite = async move {
        stop.cancelled().await;
        sleep(Duration::from_secs(1)).await;
        done.send(()).unwrap();
    };
    scope.spawn("polite", polite).unwrap();
    scope.spawn("deaf", pending()).unwrap();
    scope.spawn("deaf", pending()).unwrap();
    let start = Instant::now();
    assert_eq!(scope.drain(GRACE).await, 2);
    assert_eq!(start.elapsed(), GRACE);
    assert_eq!(scope.open(), 0);
    assert_eq!(finished.await, Ok(()));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn drain_ends_as_soon_as_the_last_task_has() {
    let scope = Scope::new(Stop::new(), None);
    scope.spawn("short", sleep(Duration::from_secs(1))).unwrap();
    scope
        .spawn("longer", sleep(Duration::from_secs(2)))
        .unwrap();
    let start = Instant::now();
    assert_eq!(scope.drain(GRACE).await, 0);
    assert_eq!(start.elapsed(), Duration::from_secs(2));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_ceiling_refuses_and_counts_and_an_ended_task_makes_room() {
    let scope = Scope::new(Stop::new(), Some(1));
    let (end, ended) = oneshot::channel::<()>();
    scope
        .spawn("first", async move { assert!(ended.await.is_ok()) })
        .unwrap();
    assert_eq!(
        scope.spawn("second", async {}),
        Err(Full {
            task: "second",
            ceiling: 1
        })
    );
    assert_eq!((scope.open(), scope.refused()), (1, 1));
    end.send(()).unwrap();
    scope.emptied().await;
    assert_eq!(scope.spawn("second", async {}), Ok(()));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_panic_is_counted_and_leaves_the_others_open() {
    let before = panics_total();
    let scope = Scope::new(Stop::new(), None);
    scope
        .spawn("broken", async { panic!("by design") })
        .unwrap();
    scope
        .spawn("steady", sleep(Duration::from_secs(1)))
        .unwrap();
    assert_eq!(scope.drain(GRACE).await, 0);
    assert!(panics_total() > before);
}
