//! The demo's live view, and what it offers to try.

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use leno_runtime::Signals;

use super::{NewsLines, news::News, place};
use crate::{
    client::Client,
    exit::CommandError,
    output::{print, print_document},
    top,
    view::{self, Key, Page, Screen, Try},
};

/// The time that the numbers are of: short, so that what people try shows at once.
const WINDOW: Duration = Duration::from_secs(3);
/// Between two pictures on a terminal, and between two tables elsewhere.
const LIVE: Duration = Duration::from_millis(500);
const PLAIN: Duration = Duration::from_secs(5);
const FIRST: Duration = Duration::from_secs(2);
/// What happened is remembered so far.
const NOTES: usize = 3;

/// The view from readiness to the end.
pub(super) struct Show<'s> {
    pub(super) client: &'s Client,
    pub(super) title: String,
    pub(super) tries: Vec<Try>,
    pub(super) until: Option<Instant>,
}

impl Show<'_> {
    /// Shows until a signal, a key or the time ends it.
    pub(super) async fn run(
        &mut self,
        signals: &mut Signals,
        news: &mut NewsLines,
    ) -> Result<(), CommandError> {
        let failed = |error: io::Error| {
            CommandError::failed(format!("the terminal cannot be used: {error}"))
        };
        let mut screen = Screen::open().map_err(failed)?;
        if screen.is_none() {
            print(&self.title);
            self.tries
                .iter()
                .for_each(|of| print(&format!("try: {}   # {}", of.command, of.shows)));
        }
        // The first table comes when there are numbers: what agents reported of a second comes after its end.
        let mut tick = match screen {
            Some(_) => tokio::time::interval(LIVE),
            None => tokio::time::interval_at((Instant::now() + FIRST).into(), PLAIN),
        };
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let end = self.until.map(tokio::time::Instant::from_std);
        let mut notes: Vec<String> = Vec::new();
        let mut last = Page::default();
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                _ = signals.next_end() => break,
                () = time(end) => break,
                Key::Quit = key(&mut screen) => break,
                line = news.next_line() => match parse(line)? {
                    News::Ended { part, code, .. } => {
                        // Its number may be another process's by now.
                        self.tries.retain(|of| of.shows != away(&part));
                        notes.push(format!("{part} ended with code {code}"));
                        notes.drain(..notes.len().saturating_sub(NOTES));
                    }
                    News::Step { .. } | News::Started { .. } | News::Failed { .. } => continue,
                },
            }
            // Asked while the mesh is at work: a control plane that is away is part of the picture.
            match top::picture(self.client, WINDOW).await {
                Ok(page) => last = page,
                Err(error) => notes = vec![error.what],
            }
            self.finish(&mut last, &notes);
            match &mut screen {
                Some(screen) => screen
                    .draw(|frame| view::draw(frame, &last))
                    .map_err(failed)?,
                None => print_document(&plain(&last)),
            }
        }
        if screen.take().is_some() {
            // The other screen is gone; what was seen last stays.
            print_document(&format!(
                "{}\n{}",
                self.title,
                view::table(&last.rows, view::width())
            ));
        } else if let Ok(page) = top::picture(self.client, WINDOW).await {
            print_document(&plain(&page));
        }
        Ok(())
    }

    fn finish(&self, page: &mut Page, notes: &[String]) {
        page.title.clone_from(&self.title);
        page.notes = notes.to_vec();
        page.tries.clone_from(&self.tries);
        page.footer = "q or Ctrl-C ends everything and leaves nothing behind".into();
    }
}

fn plain(page: &Page) -> String {
    let mut text = format!("\n{}", view::table(&page.rows, view::width()));
    for note in &page.notes {
        text.push('\n');
        text.push_str(note);
    }
    text
}

async fn time(end: Option<tokio::time::Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

async fn key(screen: &mut Option<Screen>) -> Key {
    match screen {
        Some(screen) => screen.key().await,
        None => std::future::pending().await,
    }
}

/// What the arena says; when it says nothing any more, it has ended.
pub(super) fn parse(line: io::Result<Option<String>>) -> Result<News, CommandError> {
    let line = line.ok().flatten();
    let news = line.and_then(|line| serde_json::from_str(&line).ok());
    news.ok_or_else(|| {
        CommandError::failed("the demo's own init process ended")
            .hint("was it killed? nothing of it is left; start it again")
    })
}

/// What there is to try.
pub(super) fn tries(context: &str, programs: &[(String, i32)]) -> Vec<Try> {
    let leno = command();
    let of = |command: String, shows: &str| Try {
        command,
        shows: shows.into(),
    };
    let replica = programs
        .iter()
        .rfind(|(name, _)| name.starts_with("cart on"));
    let mut tries = vec![of(
        format!("{leno} --context {context} split catalog v1=0 v2=100"),
        "shift the catalog to v2",
    )];
    if let Some((name, pid)) = replica {
        let sudo = if is_sudo() { "sudo " } else { "" };
        tries.push(of(format!("{sudo}kill {pid}"), &away(name)));
    }
    tries.push(of(
        format!("{leno} --context {context} proxy certs web"),
        "see what host web holds (the storefront's)",
    ));
    tries.push(of(
        format!("{leno} --context {context} deny storefront cart"),
        "forbid a caller",
    ));
    tries
}

fn away(replica: &str) -> String {
    format!("take {replica} away: no call fails")
}

/// How this program was called, so that it can be called again from any directory.
fn command() -> String {
    let called = std::env::args().next().unwrap_or_default();
    let whole = std::path::absolute(&called).ok();
    let whole = whole.and_then(|path| path.to_str().map(str::to_owned));
    let name = match whole {
        Some(path) if called.contains('/') && !path.contains(char::is_whitespace) => path,
        _ => "leno".into(),
    };
    if is_sudo() {
        format!("sudo {name}")
    } else {
        name
    }
}

/// Whether the contexts are those of root, whom a person became for this command only.
#[expect(
    clippy::disallowed_methods,
    reason = "sudo says who called it in no other way"
)]
fn is_sudo() -> bool {
    std::env::var_os("SUDO_UID").is_some() && leno_net::process::user() == 0
}

/// The programs' processes as this process sees them. The arena counts its processes for itself.
pub(super) fn pids(arena: i32, started: Vec<(String, i32)>) -> Vec<(String, i32)> {
    let inner: BTreeMap<i32, i32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            Some((inner_pid(&status, arena)?, pid))
        })
        .collect();
    started
        .into_iter()
        .filter_map(|(name, pid)| Some((name, *inner.get(&pid)?)))
        .collect()
}

/// A process's number in its own PID namespace, if it is a child of `parent` (proc_pid_status(5)).
fn inner_pid(status: &str, parent: i32) -> Option<i32> {
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    if field("PPid")?.parse() != Ok(parent) {
        return None;
    }
    field("NSpid")?.split_whitespace().next_back()?.parse().ok()
}

/// The last line of each log: who says what is wrong when nothing ended and yet nothing flows.
pub(super) fn complaints(dir: &Path) -> String {
    let mut lines = Vec::new();
    for entry in fs::read_dir(place::logs(dir))
        .into_iter()
        .flatten()
        .flatten()
    {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        if let Some(line) = text.lines().next_back() {
            let name = entry.file_name().to_string_lossy().into_owned();
            lines.push(format!("{name}: {line}"));
        }
    }
    lines.sort();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_process_is_known_by_its_number_inside() {
        let status = "Name:\tleno\nPid:\t4711\nPPid:\t4700\nNSpid:\t4711\t13\n";
        assert_eq!(inner_pid(status, 4700), Some(13));
        assert_eq!(inner_pid(status, 4701), None);
        assert_eq!(inner_pid("", 1), None);
    }

    #[test]
    fn three_things_can_be_tried_and_each_is_a_command() {
        let programs = [
            ("cart on cart-1".into(), 7),
            ("cart on cart-2".into(), 9),
            ("x".into(), 1),
        ];
        let tries = tries("demo-2", &programs);
        let words: Vec<&str> = tries.iter().map(|of| of.command.as_str()).collect();
        assert!(words.iter().any(|of| of.ends_with("kill 9")), "{words:?}");
        for of in words.iter().filter(|of| !of.contains("kill")) {
            let line = of
                .split_whitespace()
                .skip_while(|word| *word != "--context");
            let parsed =
                <crate::Cli as clap::Parser>::try_parse_from(std::iter::once("leno").chain(line));
            assert!(parsed.is_ok(), "{of}: {:?}", parsed.err());
            assert!(of.contains("--context demo-2 "));
        }
    }

    #[test]
    fn an_arena_that_ended_is_an_error_and_not_silence() {
        assert!(parse(Ok(None)).is_err() && parse(Ok(Some("{".into()))).is_err());
        let news = News::Ended {
            part: "cart".into(),
            code: 0,
            log: String::new(),
        };
        assert_eq!(
            parse(Ok(Some(serde_json::to_string(&news).unwrap()))).unwrap(),
            news
        );
    }
}
