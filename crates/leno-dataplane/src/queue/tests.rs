#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{future::Future, pin::pin, task::Poll, time::Duration};

use tokio::time::sleep;

use super::*;

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.unwrap().block_on(test);
}

fn queue(places: usize, waiting: usize) -> Queue {
    let limits = Limits {
        app_queue: waiting,
        ..Limits::default()
    };
    Queue::new(&limits, places)
}

fn asks(priority: Priority, caller: u64) -> Asks {
    Asks { priority, caller }
}

/// Looks once whether something is done.
async fn poll<T>(of: &mut std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    std::future::poll_fn(|cx| Poll::Ready(of.as_mut().poll(cx))).await
}

#[test]
fn a_place_goes_on_to_who_waits_also_past_one_that_is_gone_before_it_knew() {
    run(async {
        let queue = queue(1, 10);
        let place = queue.begin_calm(1).unwrap();
        assert!(queue.begin_calm(1).is_none());
        let mut second = pin!(queue.begin(80, asks(Priority::Default, 1)));
        assert!(poll(&mut second).await.is_pending());
        {
            let mut first = Box::pin(queue.begin(80, asks(Priority::High, 1)));
            assert!(poll(&mut first.as_mut()).await.is_pending());
            // It is let in, and never looks.
            drop(place);
        }
        let place = second.await.unwrap();
        assert_eq!(queue.0.borrow().open(), 1);
        drop(place);
        assert_eq!(queue.0.borrow().open(), 0);
        assert!(queue.begin_calm(1).is_some());
    });
}

#[test]
fn who_waits_too_long_is_refused_and_who_is_gone_leaves_no_trace() {
    run(async {
        let queue = queue(1, 10);
        let place = queue.begin_calm(1).unwrap();
        {
            let mut gone = Box::pin(queue.begin(80, asks(Priority::Default, 1)));
            assert!(poll(&mut gone.as_mut()).await.is_pending());
            assert_eq!(queue.0.borrow().waiting(), 1);
        }
        assert_eq!(queue.0.borrow().waiting(), 0);
        let since = tokio::time::Instant::now();
        let late = queue.begin(80, asks(Priority::Default, 1)).await;
        assert!(matches!(late, Err(AppError::Overflow { port: 80 })));
        assert!(since.elapsed() >= Limits::default().queue_timeout);
        assert_eq!(queue.0.borrow().waiting(), 0);
        drop(place);
    });
}

#[test]
fn what_is_less_important_is_told_that_it_had_to_go() {
    run(async {
        let queue = queue(1, 1);
        let place = queue.begin_calm(1).unwrap();
        let mut low = pin!(queue.begin(80, asks(Priority::Low, 1)));
        assert!(poll(&mut low).await.is_pending());
        let mut first = pin!(queue.begin(80, asks(Priority::Default, 2)));
        assert!(poll(&mut first).await.is_pending());
        let Poll::Ready(Err(error)) = poll(&mut low).await else {
            panic!("it still waits");
        };
        assert!(matches!(
            error,
            AppError::Shed {
                priority: "low",
                ..
            }
        ));
        // Nobody is more important, and there is no room.
        let full = queue.begin(80, asks(Priority::Default, 2)).await;
        assert!(matches!(full, Err(AppError::Overflow { .. })));
        drop(place);
        assert!(poll(&mut first).await.is_ready());
    });
}

#[test]
fn places_that_are_found_to_be_fewer_or_more_are_kept_to() {
    run(async {
        let queue = queue(10, 10);
        queue.set_places(1);
        let place = queue.begin_calm(1).unwrap();
        let mut second = pin!(queue.begin(80, asks(Priority::Low, 1)));
        assert!(poll(&mut second).await.is_pending());
        queue.set_places(usize::MAX);
        sleep(Duration::from_millis(1)).await;
        assert!(poll(&mut second).await.is_ready());
        drop(place);
    });
}
