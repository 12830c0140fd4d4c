//! Two hosts, each a network namespace with a processor of its own, and the processes within them.
//!
//! The run is the first process of a PID namespace: whatever it leaves behind ends with it.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::tool::Failure;

/// Which host a process is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// The load and the caller's proxy.
    A,
    /// The backend and its proxy.
    B,
}

impl Host {
    pub(super) fn name(self) -> &'static str {
        match self {
            Host::A => "a",
            Host::B => "b",
        }
    }

    pub(super) fn address(self) -> &'static str {
        match self {
            Host::A => "10.77.0.1",
            Host::B => "10.77.0.2",
        }
    }
}

/// The hosts, and where files are.
pub(super) struct Arena {
    pub(super) dir: PathBuf,
    processors: Vec<String>,
}

impl Arena {
    /// Makes both hosts and the link between them.
    pub(super) fn make(dir: &Path) -> Result<Self, Failure> {
        // Names of namespaces and sockets of our own, which nobody else sees.
        system(&["mount", "-t", "tmpfs", "tmpfs", "/run"])?;
        for host in [Host::A, Host::B] {
            system(&["ip", "netns", "add", host.name()])?;
        }
        system(&[
            "ip", "-n", "a", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0",
            "netns", "b",
        ])?;
        for host in [Host::A, Host::B] {
            let address = format!("{}/24", host.address());
            system(&[
                "ip",
                "-n",
                host.name(),
                "address",
                "add",
                &address,
                "dev",
                "eth0",
            ])?;
            for device in ["lo", "eth0"] {
                system(&["ip", "-n", host.name(), "link", "set", device, "up"])?;
            }
            // A new connection for each request would otherwise run out of ports, for whichever system is fastest first.
            for (name, value) in [("ip_local_port_range", "2048 65000"), ("tcp_tw_reuse", "1")] {
                let write = format!("echo {value} > /proc/sys/net/ipv4/{name}");
                system(&["ip", "netns", "exec", host.name(), "sh", "-c", &write])?;
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            processors: processors(),
        })
    }

    /// A command on a host, pinned: what belongs to a proxy on the host's own processor, what belongs to the load or
    /// the backend on another where there are enough, otherwise on the same: two machines of one processor each.
    pub(super) fn command(&self, host: Host, proxy: bool, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", host.name()]);
        let at = usize::from(host == Host::B) + if proxy { 0 } else { 2 };
        let count = match self.processors.len() {
            many @ 4.. => many,
            some => some.min(2),
        };
        if let Some(processor) = at.checked_rem(count).and_then(|at| self.processors.get(at)) {
            command.args(["taskset", "-c", processor]);
        }
        command.arg(program);
        command
    }

    /// Starts a process; its output goes to a file called `name`.
    pub(super) fn start(&self, mut command: Command, name: &str) -> Result<Process, Failure> {
        let path = self.dir.join(format!("{name}.log"));
        let log = File::create(&path).map_err(|error| Failure::Io(path.clone(), error))?;
        let second = log
            .try_clone()
            .map_err(|error| Failure::Io(path.clone(), error))?;
        command.stdin(Stdio::null()).stdout(second).stderr(log);
        let child = command
            .spawn()
            .map_err(|error| Failure::Start(name.into(), error))?;
        Ok(Process { child, log: path })
    }
}

/// A process that ends with its owner.
pub(super) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Why it is not there any more, if so.
    pub(super) fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(format!("{status}: {}", self.last_words()))
    }

    /// The end of what it said.
    pub(super) fn last_words(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Ends a child; one that has ended already is as good.
pub(super) fn end(child: &mut Child) {
    drop(child.kill());
    drop(child.wait());
}

/// The processors that this process may use.
fn processors() -> Vec<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .unwrap_or_default()
        .trim();
    let mut found = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
            found.extend((first..=last).map(|processor| processor.to_string()));
        }
    }
    found
}

/// Runs a small command to its end.
pub(super) fn system(words: &[&str]) -> Result<String, Failure> {
    let (program, args) = words.split_first().unwrap_or((&"true", &[]));
    let output = Command::new(program)
        .args(args)
        .output()
        .map_err(|error| not_here(program, error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::Found(format!(
        "{}: {}",
        words.join(" "),
        said.trim()
    )))
}

fn not_here(program: &str, error: io::Error) -> Failure {
    Failure::Start(program.into(), error)
}
