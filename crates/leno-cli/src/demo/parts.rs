//! The processes of the demo, each started as a person would start it by hand.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    net::IpAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use leno_types::ports;

use super::{
    place,
    plan::{self, Host, Program},
};

/// This program, wherever it was installed, and also once another is in its place.
pub(super) const LENO: &str = "/proc/self/exe";
/// So much of a log is read, and so many lines of it are shown, when its process failed.
const READ: u64 = 32 * 1024;
const TAIL: usize = 12;
/// A log that is longer starts again.
pub(super) const LONGEST_LOG: u64 = 8 * 1024 * 1024;

/// One process: what it is called, where it runs and how it is started.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) host: &'static str,
    pub(super) args: Vec<OsString>,
    /// What it reads from standard input.
    pub(super) input: Option<String>,
}

/// `leno control-plane`.
pub(super) fn control_plane(dir: &Path, mesh: &str, addresses: &[IpAddr]) -> Part {
    let data = dir.join("control-plane");
    let mut args = Args::new("control-plane");
    args.option("--data-dir", &data);
    args.option("--admin-socket", dir.join("admin.sock"));
    args.option("--mesh", mesh);
    for address in addresses {
        args.option(
            "--listen",
            std::net::SocketAddr::new(*address, ports::CONTROL_PLANE).to_string(),
        );
        args.option(
            "--advertise",
            std::net::SocketAddr::new(*address, ports::CONTROL_PLANE).to_string(),
        );
    }
    for prefix in plan::PREFIXES {
        args.option("--prefix", prefix);
    }
    Part {
        name: "control plane".into(),
        host: plan::CONTROL.name,
        args: args.0,
        input: None,
    }
}

/// `leno join`, which stays as the host's agent.
pub(super) fn agent(dir: &Path, host: &'static Host, addresses: &[IpAddr], token: String) -> Part {
    let own = host_dir(dir, host.name);
    let mut args = Args::new("join");
    args.option("--token-file", "-");
    args.option("--host", host.name);
    args.option("--data-dir", own.join("state"));
    args.option("--run-dir", &own);
    // `leno logs` shows what agents remember; nobody reads the file.
    args.option("--access-log", "/dev/null");
    for address in addresses {
        args.option("--address", address.to_string());
    }
    Part {
        name: format!("agent of {}", host.name),
        host: host.name,
        args: args.0,
        input: Some(token),
    }
}

/// `leno run` with one of the shop's programs.
pub(super) fn program(dir: &Path, program: &'static Program) -> Part {
    let mut args = Args::new("run");
    args.option("--agent", agent_socket(dir, program.host));
    args.option("--service", program.service);
    if !program.version.is_empty() {
        args.option("--version", program.version);
    }
    args.option("--port", program.port);
    if !program.publish.is_empty() {
        args.option("--publish", program.publish);
    }
    args.0.push("--".into());
    args.0.extend([own_path(), "shop".into()]);
    args.0.extend(program.shop.iter().map(OsString::from));
    Part {
        name: program.name(),
        host: program.host,
        args: args.0,
        input: None,
    }
}

/// The caller without a proxy: an ordinary program that knows an address.
pub(super) fn legacy() -> Part {
    let (host, port) = plan::PUBLISHED;
    let address = plan::hosts().find(|of| of.name == host).map(Host::v4);
    let address = address.map(|ip| std::net::SocketAddr::new(ip, port).to_string());
    let url = format!("http://{}/", address.unwrap_or_default());
    let args = ["shop", "legacy", "--url", url.as_str()]
        .map(OsString::from)
        .to_vec();
    Part {
        name: plan::LEGACY.into(),
        host: plan::OUTSIDE.name,
        args,
        input: None,
    }
}

/// Where a host's agent listens.
pub(super) fn agent_socket(dir: &Path, host: &str) -> PathBuf {
    host_dir(dir, host).join("agent.sock")
}

fn host_dir(dir: &Path, host: &str) -> PathBuf {
    dir.join("host").join(host)
}

/// Where this program is, as a list of processes shows it; if it is there still.
pub(super) fn own_path() -> OsString {
    match std::env::current_exe() {
        Ok(path) if path.is_file() => path.into(),
        Ok(_) | Err(_) => LENO.into(),
    }
}

struct Args(Vec<OsString>);

impl Args {
    fn new(command: &str) -> Self {
        Self(vec![command.into()])
    }

    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.extend([name.into(), value.into()]);
    }
}

impl Part {
    /// Starts it in the network where the calling thread is; its process id. Whoever started it waits for it.
    #[expect(
        clippy::disallowed_methods,
        reason = "the environment is passed on, not read"
    )]
    pub(super) fn start(&self, dir: &Path) -> io::Result<i32> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log(dir))?;
        let mut command = Command::new(LENO);
        command
            .arg0("leno")
            .args(&self.args)
            .stdout(log.try_clone()?)
            .stderr(log);
        command.stdin(if self.input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        });
        // What the caller's own commands are told is not for these.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LENO_") {
                command.env_remove(name);
            }
        }
        let mut child = command.spawn()?;
        if let (Some(mut to), Some(input)) = (child.stdin.take(), &self.input) {
            // One that ends before it read is heard of as ended.
            drop(to.write_all(input.as_bytes()));
        }
        Ok(child.id().cast_signed())
    }

    /// The end of what it said.
    pub(super) fn tail(&self, dir: &Path) -> String {
        let read = || -> io::Result<String> {
            let mut log = File::open(self.log(dir))?;
            let length = log.metadata()?.len();
            log.seek(SeekFrom::Start(length.saturating_sub(READ)))?;
            let mut bytes = Vec::new();
            log.take(READ).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        last_lines(&read().unwrap_or_default())
    }

    fn log(&self, dir: &Path) -> PathBuf {
        place::logs(dir).join(format!("{}.log", self.name.replace(' ', "-")))
    }
}

/// The last lines of a log, without stack traces: the message stands above them.
fn last_lines(log: &str) -> String {
    let mut in_trace = false;
    let told = log.lines().filter(|line| {
        in_trace = line.starts_with("stack backtrace:") || (in_trace && line.starts_with(' '));
        !in_trace
    });
    let told: Vec<&str> = told.collect();
    let first = told.len().saturating_sub(TAIL);
    told.iter()
        .skip(first)
        .copied()
        .collect::<Vec<_>>()
        .join("\n")
}

/// Empties each log that has become too long.
pub(super) fn shorten_logs(dir: &Path) {
    for entry in fs::read_dir(place::logs(dir))
        .into_iter()
        .flatten()
        .flatten()
    {
        if entry.metadata().is_ok_and(|file| file.len() > LONGEST_LOG) {
            // The writer appends, and so goes on at the new end.
            drop(
                OpenOptions::new()
                    .write(true)
                    .truncate(true)
                    .open(entry.path()),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_part_is_a_command_line_that_people_could_write() {
        let dir = Path::new("/run/leno/demo.1-0");
        let addresses = [plan::CONTROL.v4(), plan::CONTROL.v6()];
        let mut parts = vec![control_plane(dir, "demo", &addresses)];
        for host in &plan::MEMBERS {
            parts.push(agent(
                dir,
                host,
                &[host.v4(), host.v6()],
                "leno_jt1_x".into(),
            ));
            parts.extend(host.programs().map(|of| program(dir, of)));
        }
        assert_eq!(parts.len(), 1 + plan::MEMBERS.len() + plan::PROGRAMS.len());
        for part in parts {
            let words = std::iter::once("leno".into()).chain(part.args.clone());
            let parsed = crate::Cli::command().try_get_matches_from(words);
            assert!(parsed.is_ok(), "{}: {:?}", part.name, parsed.err());
        }
        assert_eq!(legacy().args.last().unwrap(), "http://10.77.1.1:8080/");
    }

    #[test]
    fn a_panic_is_told_by_its_message() {
        let log = "one\npanicked at x:\nbad\nstack backtrace:\n   0: a\n      at b\nnote: more\n";
        assert_eq!(last_lines(log), "one\npanicked at x:\nbad\nnote: more");
        assert_eq!(last_lines(&"line\n".repeat(40)).lines().count(), TAIL);
        assert_eq!(last_lines(""), "");
    }

    #[test]
    fn sockets_are_short_enough_below_the_longest_directory() {
        let dir = PathBuf::from(format!("/{}/demo.4194304-63", "x".repeat(55)));
        for host in &plan::MEMBERS {
            assert!(agent_socket(&dir, host.name).as_os_str().len() < 108);
        }
    }
}
