//! `leno demo`: a shop on ten hosts, in a mesh made of nothing but the product's own commands.
//!
//! This process stays in front: it makes the arena (namespaces that end with it, however it ends), waits until traffic
//! flows, and shows it. The hosts, the control plane and the programs are the arena's ([`mod@arena`]); what they are is in
//! [`plan`].

mod arena;
mod network;
mod news;
mod parts;
mod place;
mod plan;
mod report;
mod show;

use std::{
    ffi::OsString,
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use leno_controlplane::documents::{EdgeList, Proxy};
use leno_net::{NetError, arena::Arena, netns};
use leno_runtime::{Signals, block_on_local};
use leno_types::MeshName;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    net::{UnixListener, UnixStream},
};

pub(crate) use arena::{ArenaArgs, arena};

use self::{news::News, place::Place, report::Report};
use crate::{
    client::Client,
    exit::{CommandError, Outcome, chain},
    output::{print, print_document},
    places, processes, top,
};

/// All traffic must flow within this.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two questions whether it does.
const LOOK: Duration = Duration::from_millis(50);

/// See a mesh at work: a shop on ten hosts, on this machine. Ctrl-C ends it and leaves nothing behind.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// End by itself after so long; exit code 0 only if every edge carried traffic
    #[arg(long = "for", value_name = "DURATION", value_parser = processes::duration)]
    lasts: Option<Duration>,
    /// How to show it; json is one document at the end
    #[arg(
        long,
        short,
        value_enum,
        default_value = "text",
        requires_if("json", "lasts")
    )]
    output: DemoFormat,
    /// The name of its mesh and context (default: demo, or the next that is free)
    #[arg(long)]
    name: Option<MeshName>,
}

/// The form of what the demo shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DemoFormat {
    Text,
    Json,
}

/// Runs it until it is ended. Must be called while the process has one thread.
pub(crate) fn demo(args: &DemoArgs) -> Outcome {
    let begun = Instant::now();
    let place = Place::claim(args.name.as_ref().map(MeshName::as_str))?;
    let ended = run(args, begun, &place);
    // The arena's first process has done this already, unless it was killed itself.
    place::remove(&place.dir, place.name());
    if ended.is_ok() && args.output == DemoFormat::Text {
        print("✔ ended, nothing left behind");
    }
    ended
}

fn run(args: &DemoArgs, begun: Instant, place: &Place) -> Outcome {
    let listening = std::os::unix::net::UnixListener::bind(place::news(&place.dir));
    let listening = listening.and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    let listener = listening.map_err(|error| {
        CommandError::failed(format!("no socket in {}: {error}", place.dir.display()))
    })?;
    let arena = spawn(place)?;
    let shown = block_on_local("demo", async {
        let signals = Signals::new().map_err(CommandError::failed)?;
        let listener = UnixListener::from_std(listener).map_err(CommandError::failed)?;
        let mut front = Front {
            args,
            begun,
            place,
            arena: &arena,
            signals,
        };
        front.run(listener).await
    });
    let ended = arena.end();
    ended.map_err(|error| {
        CommandError::failed(format!(
            "the demo's processes cannot be waited for: {error}"
        ))
    })?;
    shown
}

/// Makes the arena, with the whole environment of this process.
#[expect(
    clippy::disallowed_methods,
    reason = "the environment is passed on, not read"
)]
fn spawn(place: &Place) -> Result<Arena, CommandError> {
    let mut env: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    // In there an ordinary user is root, whose places are others.
    env.retain(|(name, _)| name != "LENO_CONFIG");
    env.push(("LENO_CONFIG".into(), places::config_file().into()));
    let line = arena::command_line(&place.dir, place.name());
    let spawned = leno_net::arena::spawn_init(&line, &env, !netns::has_admin_capability());
    spawned.map_err(|error| match &error {
        NetError::UserNamespace { .. }
        | NetError::Permission { .. }
        | NetError::Unsupported { .. } => CommandError::permission(chain(&error)),
        _ => CommandError::failed(chain(&error)),
    })
}

type NewsLines = Lines<BufReader<UnixStream>>;

/// The demo in front of its arena.
struct Front<'d> {
    args: &'d DemoArgs,
    begun: Instant,
    place: &'d Place,
    arena: &'d Arena,
    signals: Signals,
}

/// A shop in which all traffic flows.
struct Ready {
    ready_ms: u64,
    /// What the programs are called and their processes, as this process sees them.
    programs: Vec<(String, i32)>,
}

impl Front<'_> {
    async fn run(&mut self, listener: UnixListener) -> Outcome {
        let client = Client::new(self.place.context.clone());
        let Some((ready, mut news)) = self.start(&client, listener).await? else {
            return Ok(0);
        };
        say_progress("");
        let title = format!(
            "✔ {} hosts, {} programs, {} of them in the mesh, mTLS on   {:.1} s",
            plan::hosts().count(),
            plan::program_count(),
            plan::PROGRAMS.len(),
            Duration::from_millis(ready.ready_ms).as_secs_f64()
        );
        let until = self.args.lasts.map(|lasts| Instant::now() + lasts);
        if self.args.output == DemoFormat::Json {
            say!("{title}");
            return self.document(&client, &ready, &mut news, until).await;
        }
        let tries = show::tries(self.place.name(), &ready.programs);
        let mut show = show::Show {
            client: &client,
            title,
            tries,
            until,
        };
        show.run(&mut self.signals, &mut news).await?;
        if self.args.lasts.is_some() {
            self.verdict(&client).await
        } else {
            Ok(0)
        }
    }

    /// Waits until traffic flows; `None` when a signal came first.
    async fn start(
        &mut self,
        client: &Client,
        listener: UnixListener,
    ) -> Result<Option<(Ready, NewsLines)>, CommandError> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = self.signals.next_end() => return Ok(None),
            () = tokio::time::sleep_until(deadline) => {
                return Err(CommandError::failed("the arena did not start"));
            }
        };
        let (stream, _) = accepted.map_err(CommandError::failed)?;
        let mut news = BufReader::new(stream).lines();
        let mut programs = None;
        let mut look = tokio::time::interval(LOOK);
        let mut lacking = String::new();
        loop {
            tokio::select! {
                line = news.next_line() => match show::parse(line)? {
                    News::Step { text } => say_progress(&format!("starting: {text} …")),
                    News::Started { programs: started } => {
                        say_progress("waiting for traffic …");
                        programs = Some(show::pids(self.arena.pid, started));
                    }
                    News::Failed { part, what, log } => return Err(self.failed(&part, &what, &log)),
                    News::Ended { part, code, log } => {
                        let what = format!("ended with code {code}");
                        return Err(self.failed(&part, &what, &log));
                    }
                },
                _ = look.tick(), if programs.is_some() => {
                    let edges = edges(client).await;
                    let missing = edges.as_deref().map(report::missing);
                    if let (Ok([]), Some(programs)) = (missing.as_deref(), &mut programs) {
                        let ready_ms = self.begun.elapsed().as_millis();
                        let ready_ms = u64::try_from(ready_ms).unwrap_or(u64::MAX);
                        let programs = std::mem::take(programs);
                        return Ok(Some((Ready { ready_ms, programs }, news)));
                    }
                    lacking = match missing {
                        Ok(missing) => report::name_missing(&missing),
                        Err(error) => error.to_string(),
                    };
                }
                _ = self.signals.next_end() => return Ok(None),
                () = tokio::time::sleep_until(deadline) => {
                    let what = format!("no traffic within {} s: {lacking}", PATIENCE.as_secs());
                    return Err(self.failed("the shop", &what, &show::complaints(&self.place.dir)));
                }
            }
        }
    }

    fn failed(&self, part: &str, what: &str, log: &str) -> CommandError {
        say_progress("");
        let log = log.trim_end();
        let error = CommandError::failed(format!("the demo did not start: {part}: {what}"));
        if log.is_empty() {
            error
        } else {
            error.hint(log.replace('\n', "\n  "))
        }
    }

    /// Waits for the end, and prints the document.
    async fn document(
        &mut self,
        client: &Client,
        ready: &Ready,
        news: &mut NewsLines,
        until: Option<Instant>,
    ) -> Outcome {
        let end = tokio::time::sleep_until(until.unwrap_or_else(Instant::now).into());
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => break,
                signal = self.signals.next_end() => {
                    return Err(CommandError::failed(format!("{signal} ended the demo before its time")));
                }
                line = news.next_line() => {
                    if let News::Ended { part, code, .. } = show::parse(line)? {
                        say!("leno: {part} ended with code {code}");
                    }
                }
            }
        }
        let status: Value = top::ask(client, "/leno/v1/status").await?;
        let domain = status
            .get("trust_domain")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let proxies: Vec<Proxy> = top::ask(client, top::PROXIES).await?;
        let edges = edges(client).await?;
        let verdict = verdict(&edges);
        let report = Report::new(
            self.place.name(),
            domain.into(),
            ready.ready_ms,
            edges,
            proxies,
        );
        print_document(&serde_json::to_string_pretty(&report).map_err(CommandError::failed)?);
        verdict
    }

    async fn verdict(&self, client: &Client) -> Outcome {
        verdict(&edges(client).await?)
    }
}

/// Every edge since the start.
async fn edges(client: &Client) -> Result<Vec<leno_controlplane::documents::Edge>, CommandError> {
    let totals: EdgeList = top::ask(client, top::TOTALS).await?;
    Ok(totals.edges)
}

fn verdict(edges: &[leno_controlplane::documents::Edge]) -> Outcome {
    match report::missing(edges).as_slice() {
        [] => Ok(0),
        missing => {
            say!("leno: without traffic: {}", report::name_missing(missing));
            Ok(3)
        }
    }
}

/// One line that is overwritten, where a person looks at it.
fn say_progress(text: &str) {
    let mut out = io::stderr().lock();
    if out.is_terminal() {
        drop(write!(out, "\r\x1b[K{text}"));
        drop(out.flush());
    }
}
