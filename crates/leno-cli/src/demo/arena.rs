//! The first process of the demo's PID namespace: it makes the network, starts every part, buries what ends, and goes
//! with the demo in front, whatever ended that.
//!
//! Invariant: when the lifeline is cut, everything that was started is killed and everything that was written is
//! removed, by a thread that waits for nothing else.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::exit,
    thread,
    time::{Duration, Instant},
};

use leno_config::{Kind, SplitBackend, httproute_split};
use leno_controlplane::documents::Proxy;
use leno_net::arena;
use leno_runtime::block_on_local;
use leno_types::{DnsLabel, ServiceName};
use rustix::process::{WaitOptions, WaitStatus, wait};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    network::Network,
    news::{News, Teller},
    parts::{self, Part},
    place,
    plan::{self, Host},
};
use crate::{
    client::Client,
    commands::path_of,
    context::{Context, Server},
    exit::{CommandError, Outcome},
    top, view,
};

/// Each step of the start must be done within this.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks for something to be there.
const LOOK: Duration = Duration::from_millis(5);
/// Between two looks at the logs.
const LOGS: Duration = Duration::from_secs(10);
/// Processes that were killed may still write for a moment.
const REMOVAL: Duration = Duration::from_secs(2);
/// Join tokens are spent at once.
const TOKEN_TTL: &str = "10m";

/// What tells the process that it is the arena's. No command: nobody is to be offered it.
const WORD: &str = "demo-arena";

/// What the inside of a demo is told by the demo in front.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ArenaArgs {
    /// The demo's directory.
    dir: PathBuf,
    /// The mesh's and the context's name.
    name: String,
}

/// How it is told.
pub(super) fn command_line(dir: &Path, name: &str) -> Vec<OsString> {
    let program = parts::own_path();
    let words = [
        program.as_ref(),
        WORD.as_ref(),
        dir.as_os_str(),
        name.as_ref(),
    ];
    words.map(OsStr::to_owned).to_vec()
}

impl ArenaArgs {
    /// What a command line of that form says; `None` for those that people write.
    pub(crate) fn of(line: &[OsString]) -> Option<Self> {
        match line {
            [_, word, dir, name] if word == WORD => Some(Self {
                dir: dir.into(),
                name: name.to_str()?.into(),
            }),
            _ => None,
        }
    }
}

/// Runs it until the lifeline is cut.
pub(crate) fn arena(args: &ArenaArgs) -> Outcome {
    let failed =
        |error: io::Error| CommandError::failed(format!("the arena cannot start: {error}"));
    let lifeline = arena::lifeline().map_err(failed)?;
    let (dir, name) = (args.dir.clone(), args.name.clone());
    let undertaker = thread::Builder::new().name("lifeline".into());
    let watching = undertaker.spawn(move || {
        arena::wait_for_end(&lifeline);
        end(&dir, &name);
        exit(0);
    });
    watching.map_err(failed)?;
    // The terminal's Ctrl-C is for the demo in front, which decides what ends.
    rustix::process::setsid().map_err(|error| failed(error.into()))?;
    let mut teller = Teller::connect(&place::news(&args.dir)).map_err(failed)?;
    block_on_local("arena", async {
        let mut inside = Inside::new(args);
        match inside.start(&mut teller).await {
            Ok(programs) => teller.tell(&News::Started { programs }),
            Err(Broken { part, what, log }) => teller.tell(&News::Failed { part, what, log }),
        }
        inside.stay(&mut teller).await
    })
}

/// Kills all others and removes all files.
#[expect(
    clippy::disallowed_methods,
    reason = "the last act of a process that runs nothing else"
)]
fn end(dir: &Path, name: &str) {
    drop(arena::kill_all());
    let begun = Instant::now();
    loop {
        place::remove(dir, name);
        if !dir.exists() || begun.elapsed() > REMOVAL {
            return;
        }
        thread::sleep(LOOK);
    }
}

/// Which part of the start failed.
struct Broken {
    part: String,
    what: String,
    log: String,
}

struct Inside {
    dir: PathBuf,
    name: String,
    /// By process id.
    running: BTreeMap<i32, Part>,
}

impl Inside {
    fn new(args: &ArenaArgs) -> Self {
        Self {
            dir: args.dir.clone(),
            name: args.name.clone(),
            running: BTreeMap::new(),
        }
    }

    /// Starts everything, each part as soon as what it needs is there; the programs and their processes.
    async fn start(&mut self, teller: &mut Teller) -> Result<Vec<(String, i32)>, Broken> {
        let network = |error: io::Error| Broken::new("the network", error);
        fs::create_dir_all(place::logs(&self.dir))
            .map_err(|error| Broken::new("the logs", error))?;
        let mut net = Network::new().map_err(network)?;
        net.add(&plan::CONTROL).map_err(network)?;
        step(teller, "control plane");
        let addresses = net.addresses(&plan::CONTROL);
        self.spawn(
            &net,
            parts::control_plane(&self.dir, &self.name, &addresses),
        )?;
        // It makes its keys and its store meanwhile.
        for host in plan::hosts().skip(1) {
            net.add(host).map_err(network)?;
        }
        let client = self.client();
        self.until("control plane", async || {
            self.dir.join("admin.sock").exists()
        })
        .await?;
        step(teller, "agents");
        for host in &plan::MEMBERS {
            let token = self.token(&client, host).await?;
            let addresses = net.addresses(host);
            self.spawn(&net, parts::agent(&self.dir, host, &addresses, token))?;
        }
        step(teller, "programs");
        let mut started = Vec::new();
        for program in &plan::PROGRAMS {
            let socket = parts::agent_socket(&self.dir, program.host);
            let agent = format!("agent of {}", program.host);
            self.until(&agent, async || UnixStream::connect(&socket).is_ok())
                .await?;
            self.fit(&client, &program.edge_name()).await?;
            if plan::called_by(&program.edge_name()).any(|called| called.starts_with(plan::SPLIT.0))
            {
                self.split(&client).await?;
            }
            let pid = self.spawn(&net, parts::program(&self.dir, program))?;
            started.push((program.name(), pid));
        }
        self.fit(&client, plan::LEGACY).await?;
        let pid = self.spawn(&net, parts::legacy())?;
        started.push((plan::LEGACY.into(), pid));
        Ok(started)
    }

    /// Waits until all that `caller` calls is fit to be called: a shop opens when everything is in its place.
    async fn fit(&self, client: &Client, caller: &str) -> Result<(), Broken> {
        for called in plan::called_by(caller) {
            let fit = async || {
                let proxies: Vec<Proxy> = top::ask(client, top::PROXIES).await.unwrap_or_default();
                let replicas = view::replicas(&proxies);
                replicas.iter().any(|of| {
                    of.name == called && of.healthy == of.all && of.all == plan::replicas(called)
                })
            };
            self.until(called, fit).await?;
        }
        Ok(())
    }

    fn spawn(&mut self, net: &Network, part: Part) -> Result<i32, Broken> {
        let started = net.on(part.host, || part.start(&self.dir));
        let pid = started.map_err(|error| Broken::new(&part.name, error))?;
        self.running.insert(pid, part);
        Ok(pid)
    }

    /// Waits until something is there, or a part has ended.
    async fn until(&self, what: &str, is_there: impl AsyncFn() -> bool) -> Result<(), Broken> {
        let begun = Instant::now();
        while !is_there().await {
            if let Some((part, code)) = self.ended() {
                return Err(self.broken(part, format!("ended with code {code}")));
            }
            if begun.elapsed() > PATIENCE {
                let part = self.running.values().find(|part| part.name == what);
                let waited = format!("is not ready after {} s", PATIENCE.as_secs());
                return Err(part.map_or_else(
                    || Broken::new(what, io::Error::other(waited.clone())),
                    |part| self.broken(part, waited.clone()),
                ));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// A part that has ended, if one has.
    fn ended(&self) -> Option<(&Part, i32)> {
        let (pid, code) = bury()?;
        Some((self.running.get(&pid)?, code))
    }

    fn broken(&self, part: &Part, what: String) -> Broken {
        Broken {
            part: part.name.clone(),
            what,
            log: part.tail(&self.dir),
        }
    }

    fn client(&self) -> Client {
        Client::new(Context {
            name: self.name.clone(),
            server: Server::Unix {
                socket: self.dir.join("admin.sock"),
                path: format!("/meshes/{}", self.name),
            },
            namespace: plan::NAMESPACE.into(),
            credentials: None,
        })
    }

    /// Applies the shop's route, as `leno split` writes it.
    async fn split(&self, client: &Client) -> Result<(), Broken> {
        let (service, port, shares) = plan::SPLIT;
        let failed = |error: &dyn std::fmt::Display| {
            Broken::new("the route", io::Error::other(error.to_string()))
        };
        let label = |text: &str| text.parse::<DnsLabel>().map_err(|error| failed(&error));
        let name = ServiceName::new(label(plan::NAMESPACE)?, label(service)?);
        let mut backends = Vec::new();
        for (version, weight) in shares {
            let service = label(&format!("{service}-{version}"))?;
            backends.push(SplitBackend {
                service,
                port,
                weight,
            });
        }
        let document = httproute_split(&name, None, &backends);
        let path = path_of(Kind::HttpRoute, Some(plan::NAMESPACE), None);
        let applied = client.post(&path, &document).await;
        applied
            .map(drop)
            .map_err(|error| failed(&CommandError::from(error)))
    }

    /// A token for one host and its services, as `leno token create` asks for it.
    async fn token(&self, client: &Client, host: &Host) -> Result<String, Broken> {
        let services: Vec<&str> = host.programs().map(|program| program.service).collect();
        let request = json!({
            "namespace": plan::NAMESPACE, "services": services, "ttl": TOKEN_TTL, "uses": 1
        });
        let begun = Instant::now();
        loop {
            let answer = client.post("/leno/v1/tokens", &request).await;
            let error = match answer {
                Ok(answer) => {
                    let token = answer.get("token").and_then(|token| token.as_str());
                    return match token {
                        Some(token) => Ok(token.to_owned()),
                        None => Err(Broken::new("a token", io::Error::other("none was given"))),
                    };
                }
                // Its socket is there a moment before it is listened to.
                Err(error) => CommandError::from(error),
            };
            if let Some((part, code)) = self.ended() {
                return Err(self.broken(part, format!("ended with code {code}")));
            }
            if error.code != UNREACHABLE || begun.elapsed() > PATIENCE {
                return Err(Broken::new("a token", io::Error::other(error.to_string())));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Stays, buries what ends and says so.
    async fn stay(&mut self, teller: &mut Teller) -> Outcome {
        let failed =
            |error: io::Error| CommandError::failed(format!("the arena cannot go on: {error}"));
        let mut children = signal(SignalKind::child()).map_err(failed)?;
        let mut logs = tokio::time::interval(LOGS);
        loop {
            while let Some((pid, code)) = bury() {
                if let Some(part) = self.running.remove(&pid) {
                    let log = part.tail(&self.dir);
                    teller.tell(&News::Ended {
                        part: part.name,
                        code,
                        log,
                    });
                }
            }
            tokio::select! {
                _ = children.recv() => {}
                _ = logs.tick() => parts::shorten_logs(&self.dir),
            }
        }
    }
}

/// The exit code of an API that was not reached.
const UNREACHABLE: u8 = 5;

impl Broken {
    fn new(part: &str, error: io::Error) -> Self {
        Self {
            part: part.into(),
            what: error.to_string(),
            log: String::new(),
        }
    }
}

/// A child that has ended, ours or one that lost its parent, and its exit code.
fn bury() -> Option<(i32, i32)> {
    let (pid, status) = wait(WaitOptions::NOHANG).ok()??;
    Some((pid.as_raw_nonzero().get(), exit_code(status)))
}

fn exit_code(status: WaitStatus) -> i32 {
    status
        .exit_status()
        .unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or_default())
}

fn step(teller: &mut Teller, text: &str) {
    teller.tell(&News::Step { text: text.into() });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inside_is_told_by_a_line_that_no_person_is_offered() {
        let line = command_line(Path::new("/tmp/demo"), "demo-2");
        let told = ArenaArgs {
            dir: "/tmp/demo".into(),
            name: "demo-2".into(),
        };
        assert_eq!(ArenaArgs::of(&line), Some(told));
        assert_eq!(ArenaArgs::of(&["leno".into(), "demo".into()]), None);
        let misspelt = <crate::Cli as clap::Parser>::try_parse_from(["leno", "demoo"]);
        let said = misspelt.err().map(|error| error.to_string());
        let said = said.unwrap_or_default();
        assert!(said.contains("demo") && !said.contains(WORD), "{said}");
    }
}
