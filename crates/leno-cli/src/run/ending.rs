//! How a program ends: by itself, or because somebody asks for it, and then after its callers have gone.

use std::{io, process::ExitStatus, time::Duration};

use leno_net::program::Child;
use rustix::{process::getpgrp, termios::tcgetpgrp};
use tokio::time::{Instant, sleep_until};

use super::{
    agent::{Link, News},
    health::Checks,
    signals::{self, Passed},
};

/// SIGTERM (signal(7)).
const TERMINATE: i32 = 15;

/// Stays beside the program until it ends; its exit code.
pub(crate) async fn beside(
    child: &mut Child,
    link: &mut Link,
    signals: &mut Passed,
    mut checks: Checks,
    drain: Duration,
) -> i32 {
    // Set while callers are being sent away: when that must be over.
    let mut leaving = None;
    loop {
        let over = async {
            match leaving {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = child.exited() => return exit_code(ended),
            number = signals.next() => {
                let first = leaving.is_none();
                if number == TERMINATE && first && !drain.is_zero() && link.leave().await {
                    leaving = Some(Instant::now() + drain);
                } else {
                    leaving = None;
                    pass_on(child, number);
                }
            }
            news = link.next() => match news {
                News::Need(need) => link.supply(need).await,
                News::Idle if leaving.is_some() => {
                    leaving = None;
                    pass_on(child, TERMINATE);
                }
                News::Idle => {}
            },
            () = over => {
                leaving = None;
                pass_on(child, TERMINATE);
            }
            (healthy, detail) = checks.next() => link.health(healthy, detail).await,
        }
    }
}

fn pass_on(child: &mut Child, number: i32) {
    if signals::reaches_the_group(number) && in_front() {
        return;
    }
    if let Err(error) = child.signal(number) {
        eprintln!("leno: the signal did not reach the program: {error}");
    }
}

/// A key at the terminal reaches everybody in front of it: the program has the signal already.
fn in_front() -> bool {
    tcgetpgrp(std::io::stdin()).is_ok_and(|group| group == getpgrp())
}

fn exit_code(ended: io::Result<ExitStatus>) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    match ended {
        Ok(status) => status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
        Err(error) => {
            eprintln!("leno: the program cannot be waited for: {error}");
            1
        }
    }
}
