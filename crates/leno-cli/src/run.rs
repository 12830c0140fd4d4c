//! `leno run`: starts a program as a member of the mesh.
//!
//! The program gets a network namespace with nothing but loopback, from which every way leads to the host's agent
//! (data plane, section 2). This process stays beside it: it keeps the listeners, makes sockets for the agent inside
//! the namespace, watches the program's health, passes signals on and ends with its exit code. With `--network host` the
//! program stays where it is, and the agent tells its connections by a cgroup.

mod agent;
mod ending;
mod health;
mod host;
mod names;
mod namespace;
mod signals;

use std::{
    ffi::OsString,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use leno_agent::protocol::{Port, PortError, Start};
use leno_net::{
    NetError,
    program::{self, Child, Spawn},
};
use leno_runtime::block_on_local;

use crate::exit::{CommandError, Outcome};
use agent::Place;
pub(crate) use agent::{AgentSocket, host_of};
pub(crate) use health::Check;

/// No program is shown a caller at 127.0.0.1, which it may trust as itself.
const ALONE: &str = "this host has no address but loopback, so with --preserve-source its own programs' calls are refused (UF): \
                     give it one (leno up --address), or leave --preserve-source away";
/// No rule of ours stands between the host's network and a program in it.
const IN_THE_OPEN: &str = "in the host's network whoever reaches this host calls the program directly, too: in clear, past \
                           every policy (STRICT and deny included); keep its ports closed by a firewall, or leave --network host \
                           away";
/// After so long it is said that something is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Start a program as a member of the mesh.
///
/// The program gets a network namespace of its own. From there the host's 127.0.0.1, abstract Unix sockets and UDP
/// other than DNS cannot be reached; a program that needs them runs with --network host.
///
/// At SIGTERM the program's callers are sent away first; it gets the signal when none is left, or after --drain.
/// The exit code is the program's, 128 + n when signal n ended it; 126 and 127 when it cannot be started.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  leno run --service cart --port 80:8080/http -- ./cart --listen 0.0.0.0:8080
  leno run --service cart --version v2 --port 80:8080 --check http:/healthz -- ./cart
  leno run --service web --port 80:8080 --publish 8080 -- ./web
  leno run -- curl http://cart/
An exit code of leno's own comes with a line that begins with \"leno:\"; any other is the program's.")]
pub(crate) struct RunArgs {
    /// The service it serves; without one it only calls
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// The namespace it belongs to
    #[arg(
        long,
        short,
        value_name = "NAMESPACE",
        default_value = "",
        hide_default_value = true
    )]
    namespace: String,
    /// The service account it runs as; the service's name if not given
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    service_account: String,
    /// Its version: labels the workload, and makes a service NAME-VERSION beside NAME
    #[arg(
        long,
        value_name = "VERSION",
        default_value = "",
        hide_default_value = true
    )]
    version: String,
    /// A port: `SERVICE[:PROGRAM][/PROTOCOL]`, such as 80:8080/http; protocols: http, http2, grpc, tls, tcp
    #[arg(long = "port", value_name = "PORT", value_parser = parse_port)]
    ports: Vec<Port>,
    /// A port for callers from outside the mesh: `HOST[:PROGRAM]`, such as 8080 or 80:8080
    #[arg(long, value_name = "PORT", value_parser = parse_publish)]
    publish: Vec<(u16, u16)>,
    /// When it is ready: tcp (its port accepts; the default), http:/PATH (that answers 2xx or 3xx) or none
    #[arg(long, value_name = "CHECK", default_value = "tcp", value_parser = Check::parse)]
    check: Check,
    /// Whose network: its own, or the host's (an agent of root, and cgroup v2, are needed)
    ///
    /// In the host's network what it calls is captured. What it serves is reached directly as well, at the host's
    /// addresses, in clear and past every policy: keep those ports closed by a firewall.
    #[arg(long, value_enum, default_value = "own")]
    network: NetworkArg,
    /// Let the program see its callers' addresses, not the proxy's
    ///
    /// It then has to listen for the families its callers call from. A caller on this host's loopback is seen at the
    /// host's address.
    #[arg(long)]
    preserve_source: bool,
    /// How long its callers may take to finish when it is to end
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = drain)]
    drain: Duration,
    /// The agent's socket
    #[arg(long, value_name = "PATH", env = "LENO_AGENT_SOCKET")]
    agent: Option<PathBuf>,
    /// Say nothing about the mesh
    #[arg(long, short)]
    quiet: bool,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

/// Whose network a program is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum NetworkArg {
    Own,
    Host,
}

/// Runs the command to its end. Must be called while the process has one thread: namespaces belong to threads.
pub(crate) fn run(args: RunArgs) -> Outcome {
    let begun = Instant::now();
    let start = start_message(&args)?;
    if let Some(program) = args.program.first() {
        program::look_for(program).map_err(|error| not_started(&error))?;
    }
    let socket = AgentSocket::connect(args.agent.as_deref())?;
    let host = socket.host()?;
    let place = match args.network {
        NetworkArg::Own => Place::Namespace(namespace::enter(&host.addresses)?),
        NetworkArg::Host => Place::Host(host::make()?),
    };
    let deaf = match args.network {
        NetworkArg::Own => names::ask_by_dns(),
        NetworkArg::Host => host::deaf_resolver().or_else(names::asks_past_dns),
    };
    if let Some(text) = deaf {
        say!("leno: {text}");
    }
    if args.network == NetworkArg::Host && args.service.is_some() {
        say!("⚠ {IN_THE_OPEN}");
    }
    let alone = host.addresses.iter().all(IpAddr::is_loopback);
    if args.preserve_source && args.service.is_some() && alone {
        say!("⚠ {ALONE}");
    }
    block_on_local("run", async move {
        let mut link = patiently(agent::Link::start(socket, start, place), args.quiet).await?;
        let started = link.started().clone();
        if !args.quiet {
            let lasts = humanize(started.certificate_seconds);
            say!(
                "✔ {} ({lasts})  ✔ proxy ready {:.1} s  ▶ {}",
                started.identity,
                begun.elapsed().as_secs_f64(),
                args.program
                    .first()
                    .map(|name| name.to_string_lossy())
                    .unwrap_or_default()
            );
        }
        let mut signals = signals::Passed::new()
            .map_err(|error| CommandError::failed(format!("signals cannot be watched: {error}")))?;
        let mut child = link.place().start(|| spawn(&args.program))?;
        let checks = health::Checks::new(
            args.check.clone(),
            link.ports(),
            link.place(),
            &host.addresses,
        );
        let code = ending::Beside::new(args.drain, args.quiet)
            .stay(&mut child, &mut link, &mut signals, checks)
            .await;
        link.place().clean_up().await;
        link.exited(code).await;
        Ok(u8::try_from(code & 0xff).unwrap_or(1))
    })
}

/// Says what is waited for, when it takes longer than an agent that is connected does.
async fn patiently<T>(work: impl Future<Output = T>, quiet: bool) -> T {
    tokio::pin!(work);
    tokio::select! {
        done = &mut work => return done,
        () = tokio::time::sleep(PATIENCE) => {}
    }
    if !quiet {
        say!("waiting for the control plane to admit the program …");
    }
    work.await
}

fn spawn(argv: &[OsString]) -> Result<Child, CommandError> {
    let secrets = ["LENO_TOKEN", "LENO_JOIN_TOKEN", "LENO_LIFELINE_FD"];
    let spawn = Spawn {
        argv: argv.to_vec(),
        env_remove: secrets.map(str::to_owned).to_vec(),
        env_set: Vec::new(),
        uid_gid: None,
        drop_capabilities: true,
    };
    program::spawn(&spawn).map_err(|error| not_started(&error))
}

fn not_started(error: &NetError) -> CommandError {
    CommandError {
        // As shells have it.
        code: match error {
            NetError::ProgramNotFound { .. } => 127,
            _ => 126,
        },
        what: crate::exit::chain(error),
        hint: String::new(),
    }
}

fn start_message(args: &RunArgs) -> Result<Start, CommandError> {
    let mut ports = args.ports.clone();
    for (host, workload) in &args.publish {
        match ports
            .iter_mut()
            .find(|port| port.workload_port == *workload)
        {
            Some(port) => port.published = Some(*host),
            None => ports.push(Port {
                service_port: 0,
                workload_port: *workload,
                app_protocol: None,
                published: Some(*host),
            }),
        }
    }
    if args.service.is_none() && !args.ports.is_empty() {
        return Err(CommandError {
            code: 2,
            what: "--port needs --service".into(),
            hint: "write --service NAME: the name that others call".into(),
        });
    }
    let program = args.program.first().map(|name| {
        PathBuf::from(name)
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    });
    Ok(Start {
        uid: None,
        namespace: args.namespace.clone(),
        service: args.service.clone().unwrap_or_default(),
        service_account: args.service_account.clone(),
        version: args.version.clone(),
        program: program.unwrap_or_default(),
        ports,
        network: leno_agent::protocol::Network::Own,
        preserve_source: args.preserve_source,
        sockets: Vec::new(),
    })
}

/// A duration; 0 does not wait.
fn drain(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    crate::processes::duration(text)
}

/// `SERVICE[:PROGRAM][/PROTOCOL]`
fn parse_port(text: &str) -> Result<Port, String> {
    text.parse().map_err(|error: PortError| error.to_string())
}

/// `HOST[:PROGRAM]`
fn parse_publish(text: &str) -> Result<(u16, u16), String> {
    let (host, workload) = text.split_once(':').unwrap_or((text, text));
    Ok((number(host)?, number(workload)?))
}

fn number(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("\"{text}\" is no port: 1 to 65535")),
        Ok(port) => Ok(port),
    }
}

pub(crate) fn humanize(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        // An hour short of a day is what is left of a day a moment after issuing.
        _ => format!("{}h", seconds.div_ceil(3_600)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_containers_write_them() {
        let port = parse_port("80:8080/http").expect("valid");
        assert_eq!(
            (
                port.service_port,
                port.workload_port,
                port.app_protocol.as_deref()
            ),
            (80, 8080, Some("http"))
        );
        let port = parse_port("5432").expect("valid");
        assert_eq!(
            (port.service_port, port.workload_port, port.app_protocol),
            (5432, 5432, None)
        );
        for bad in [
            "",
            "0",
            "80:",
            ":80",
            "80:0",
            "80:8080/x",
            "70000",
            "80:80:80",
        ] {
            assert!(parse_port(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_publish("80:8080"), Ok((80, 8080)));
    }
}
