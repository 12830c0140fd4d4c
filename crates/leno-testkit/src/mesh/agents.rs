//! The agents of a mesh: hosts join it, and programs start on them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
};

use super::{Mesh, STARTS, leno_binary, pages::page};
use crate::{Host, Process, RunBuilder, process::show_file, wait::until_ok};

/// Where agents say that they are ready.
const READINESS_PORT: u16 = 15021;

impl Mesh {
    /// Joins a new host with a token for all services of this mesh, and waits until its agent is ready.
    ///
    /// # Panics
    /// When it does not become so.
    #[track_caller]
    pub fn join(&mut self, name: &str) -> Rc<Host> {
        self.join_with(name, &[])
    }

    /// The same with further options of `leno join`.
    ///
    /// # Panics
    /// When it does not become ready.
    #[track_caller]
    pub fn join_with(&mut self, name: &str, more: &[&str]) -> Rc<Host> {
        let host = self.network.add(name);
        self.join_host(&host, more);
        host
    }

    /// The same for a new host that has IPv6 only.
    ///
    /// # Panics
    /// When it does not become ready.
    #[track_caller]
    pub fn join_ipv6_only(&mut self, name: &str) -> Rc<Host> {
        let host = self.network.add_ipv6_only(name);
        self.join_host(&host, &[]);
        host
    }

    /// The same on a host that is there.
    ///
    /// # Panics
    /// When it does not become ready.
    #[track_caller]
    pub fn join_existing(&mut self, host: &Host) {
        self.join_host(host, &[]);
    }

    #[track_caller]
    fn join_host(&mut self, host: &Host, more: &[&str]) {
        let services: Vec<String> = self
            .services
            .iter()
            .map(|of| format!("--service={of}"))
            .collect();
        let options: Vec<&str> = services.iter().map(String::as_str).collect();
        let token = self.token(&options);
        let process = self.spawn_join(host, &token, more);
        self.agents.insert(host.name.clone(), process);
        self.wait_ready(&host.name);
    }

    /// `leno join` with a token, not waited for.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    #[track_caller]
    pub fn spawn_join(&self, host: &Host, token: &str, more: &[&str]) -> Process {
        host.spawn(self.join_command(host, token).args(more))
    }

    /// The command of `leno join`.
    ///
    /// # Panics
    /// When the token cannot be written for it.
    #[must_use]
    pub fn join_command(&self, host: &Host, token: &str) -> Command {
        let file = host.disk().join("token");
        fs::write(&file, format!("{token}\n")).expect("the token is written");
        let mut command = Command::new(leno_binary());
        command
            .arg("join")
            .arg(format!("--token-file={}", file.display()));
        agent_arguments(&mut command, host);
        command
    }

    /// Starts the agent of a host that joined before, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become so.
    #[track_caller]
    pub fn start_agent(&mut self, name: &str) {
        self.spawn_agent(name);
        self.wait_ready(name);
    }

    /// The same without waiting.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn spawn_agent(&mut self, name: &str) {
        let host = self.network.host(name);
        let mut command = Command::new(leno_binary());
        command.arg("agent");
        let process = host.spawn(agent_arguments(&mut command, &host));
        self.agents.insert(name.to_owned(), process);
    }

    /// An agent of a host that joined, with a run directory of its own; not waited for.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    #[track_caller]
    pub fn spawn_agent_at(&self, host: &Host, run_dir: &Path) -> Process {
        let mut command = Command::new(leno_binary());
        command
            .arg("agent")
            .arg(format!("--data-dir={}", host.disk().join("data").display()))
            .arg(format!("--run-dir={}", run_dir.display()))
            .arg(format!("--host={}", host.name))
            .arg(format!("--address={}", host.v4));
        host.spawn(&mut command)
    }

    /// The agent of a host.
    ///
    /// # Panics
    /// When it has none.
    pub fn agent(&mut self, name: &str) -> &mut Process {
        self.agents.get_mut(name).expect("an agent on this host")
    }

    /// Ends the agent of a host at once.
    pub fn kill_agent(&mut self, name: &str) {
        if let Some(mut agent) = self.agents.remove(name) {
            agent.kill();
        }
    }

    /// Waits until a host's agent says that programs may start.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn wait_ready(&mut self, name: &str) {
        let host = self.network.host(name);
        let agent = self.agents.get_mut(name).expect("an agent on this host");
        until_ok(&format!("the agent of {name} is ready"), STARTS, || {
            assert_eq!(agent.ended(), None, "the agent ended: {}", agent.stderr());
            let ready = page(&host, READINESS_PORT, "/healthz/ready")?;
            match ready.0 {
                200 => Ok(()),
                status => Err(io::Error::other(format!("{status}: {}", ready.1))),
            }
        });
    }

    /// Makes it right again that a host's agent process is ours: one that was started by hand.
    pub fn adopt_agent(&mut self, name: &str, process: Process) {
        self.agents.insert(name.to_owned(), process);
    }

    /// A program to be started on a host with `leno run`.
    #[must_use]
    pub fn run<'a>(&self, host: &'a Host) -> RunBuilder<'a> {
        RunBuilder::new(host, host.run_dir().join("agent.sock"))
    }

    /// Where programs speak to the agent of a host.
    #[must_use]
    pub fn agent_socket(&self, name: &str) -> PathBuf {
        self.host(name).run_dir().join("agent.sock")
    }
}

fn agent_arguments<'a>(command: &'a mut Command, host: &Host) -> &'a mut Command {
    let access_log = host.disk().join("access.log");
    show_file(format!("{}: access log", host.name), access_log.clone());
    command
        .arg(format!("--data-dir={}", host.disk().join("data").display()))
        .arg(format!("--run-dir={}", host.run_dir().display()))
        .arg(format!("--host={}", host.name))
        .args(
            host.addresses()
                .iter()
                .map(|address| format!("--address={address}")),
        )
        .arg(format!("--access-log={}", access_log.display()))
        // Nobody answers there: no test asks for names of the world.
        .arg("--dns=127.0.0.1:9")
}
