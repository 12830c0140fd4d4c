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

/// Programs begin to listen sooner; of one that does not, people are told.
const SOON: Duration = Duration::from_secs(3);

/// What is done beside a program until its end.
pub(crate) struct Beside {
    drain: Duration,
    quiet: bool,
    /// Set while callers are being sent away: when that must be over.
    leaving: Option<Instant>,
    /// When people are told of ports on which nothing accepts.
    look: Option<Instant>,
    /// Whether the program was sent a signal that may be its end.
    ended_by_us: bool,
}

impl Beside {
    pub(crate) fn new(drain: Duration, quiet: bool) -> Self {
        Self {
            drain,
            quiet,
            leaving: None,
            look: (!quiet).then(|| Instant::now() + SOON),
            ended_by_us: false,
        }
    }

    /// Stays until the program ends; its exit code.
    pub(crate) async fn stay(
        mut self,
        child: &mut Child,
        link: &mut Link,
        signals: &mut Passed,
        mut checks: Checks,
    ) -> i32 {
        loop {
            let (over, look, silent) = (at(self.leaving), at(self.look), checks.silent());
            tokio::select! {
                ended = child.exited() => return self.exit_code(ended),
                number = signals.next() => {
                    let first = self.leaving.is_none();
                    if number == TERMINATE && first && !self.drain.is_zero() && link.leave().await {
                        self.leaving = Some(Instant::now() + self.drain);
                    } else {
                        self.leaving = None;
                        self.pass_on(child, number);
                    }
                }
                news = link.next() => match news {
                    News::Need(need) => link.supply(need).await,
                    News::Idle if self.leaving.is_some() => {
                        self.leaving = None;
                        self.pass_on(child, TERMINATE);
                    }
                    News::Idle => {}
                },
                () = over => {
                    self.leaving = None;
                    self.pass_on(child, TERMINATE);
                }
                silent = async { look.await; silent.await } => {
                    self.look = None;
                    if !silent.is_empty() {
                        say!("{}", not_accepting(&silent));
                    }
                }
                (healthy, detail) = checks.next() => link.health(healthy, detail).await,
            }
        }
    }

    fn pass_on(&mut self, child: &mut Child, number: i32) {
        self.ended_by_us = true;
        pass_on(child, number);
    }

    fn exit_code(&self, ended: io::Result<ExitStatus>) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        match ended {
            Ok(status) => status.code().unwrap_or_else(|| {
                let signal = status.signal().unwrap_or(0);
                // Nobody else says it: a shell sees an exit code only.
                if !self.quiet && !self.ended_by_us {
                    say!("leno: signal {signal} ended the program");
                }
                128 + signal
            }),
            Err(error) => {
                say!("leno: the program cannot be waited for: {error}");
                1
            }
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn not_accepting(ports: &[u16]) -> String {
    let names: Vec<String> = ports.iter().map(u16::to_string).collect();
    let of = if ports.len() == 1 { "port" } else { "ports" };
    format!(
        "⚠ nothing accepts on {of} {} of the program yet: its callers get 503 (UH) until something does",
        names.join(", ")
    )
}

fn pass_on(child: &mut Child, number: i32) {
    if signals::reaches_the_group(number) && in_front() {
        return;
    }
    if let Err(error) = child.signal(number) {
        say!("leno: the signal did not reach the program: {error}");
    }
}

/// A key at the terminal reaches everybody in front of it: the program has the signal already.
fn in_front() -> bool {
    tcgetpgrp(std::io::stdin()).is_ok_and(|group| group == getpgrp())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_signal_is_the_exit_code_of_shells() {
        let beside = Beside::new(Duration::ZERO, true);
        let ended = |raw| beside.exit_code(Ok(ExitStatus::from_raw(raw)));
        assert_eq!((ended(9), ended(3 << 8)), (137, 3));
    }

    #[test]
    fn ports_that_are_silent_are_named() {
        assert!(not_accepting(&[9_999]).contains("on port 9999 of the program"));
        assert!(not_accepting(&[80, 81]).contains("on ports 80, 81 of"));
    }
}
