//! Programs in the mesh: `leno run`, as a user starts it, and ways into the program's own network.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use leno_net::netns::NetNs;

use crate::{
    Host, Output, Process, Signal, Wire,
    host::{run_in, spawn_in, words_to_command},
    mesh::leno_binary,
};

/// A program joins within this.
const STARTS: Duration = Duration::from_secs(15);
const LONG: Duration = Duration::from_secs(60);

/// How a program is to be started.
pub struct RunBuilder<'a> {
    host: &'a Host,
    arguments: Vec<String>,
    program: Vec<String>,
    socket: PathBuf,
    user: Option<u32>,
    environment: Vec<(String, String)>,
}

/// A program in the mesh. Without one of its own it is a placeholder, in whose network the test itself connects,
/// listens and runs commands: to Leno they are the program.
pub struct Member {
    /// The service, or "caller".
    pub name: String,
    /// `leno run`.
    pub process: Process,
    namespace: NetNs,
}

/// Connects as a program does, from any thread.
pub struct Connector {
    namespace: NetNs,
}

impl Connector {
    /// Connects to a name and port as the program would.
    ///
    /// # Errors
    /// When no address takes it.
    pub fn connect(&self, host: &str, port: u16) -> io::Result<Wire> {
        self.namespace
            .within(|| TcpStream::connect((host, port)))
            .map(Wire::new)
    }
}

impl<'a> RunBuilder<'a> {
    pub(crate) fn new(host: &'a Host, socket: PathBuf) -> Self {
        Self {
            host,
            arguments: Vec::new(),
            program: Vec::new(),
            socket,
            user: None,
            environment: Vec::new(),
        }
    }

    /// An option of `leno run`.
    #[must_use]
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.arguments.push(format!("--{name}={value}"));
        self
    }

    /// The service it serves.
    #[must_use]
    pub fn service(self, name: &str) -> Self {
        self.option("service", name)
    }

    /// A port as `leno run --port` takes it.
    #[must_use]
    pub fn port(self, port: &str) -> Self {
        self.option("port", port)
    }

    /// The service account of a program that only calls.
    #[must_use]
    pub fn account(self, name: &str) -> Self {
        self.option("service-account", name)
    }

    /// Its version.
    #[must_use]
    pub fn version(self, version: &str) -> Self {
        self.option("version", version)
    }

    /// It sees its callers' addresses.
    #[must_use]
    pub fn preserve_source(mut self) -> Self {
        self.arguments.push("--preserve-source".into());
        self
    }

    /// An ordinary user who starts it.
    #[must_use]
    pub fn user(mut self, uid: u32) -> Self {
        self.user = Some(uid);
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The program.
    #[must_use]
    pub fn program<T: Into<String>>(mut self, words: impl IntoIterator<Item = T>) -> Self {
        self.program = words.into_iter().map(Into::into).collect();
        self
    }

    fn command(&self) -> Command {
        let mut command = match self.user {
            None => Command::new(leno_binary()),
            Some(uid) => {
                let setpriv = crate::program("setpriv").expect("setpriv is installed");
                let mut command = Command::new(setpriv);
                command
                    .args([format!("--reuid={uid}"), format!("--regid={uid}")])
                    .args(["--clear-groups", "--bounding-set=-all", "--inh-caps=-all"])
                    .arg(leno_binary());
                command
            }
        };
        command.arg("run").args(&self.arguments).arg("--");
        if self.program.is_empty() {
            command.args(["sleep", "infinity"]);
        } else {
            command.args(&self.program);
        }
        command.env("LENO_AGENT_SOCKET", &self.socket);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts it, and waits until its proxy is ready and it runs.
    ///
    /// # Panics
    /// When that does not happen.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> Member {
        let mut process = self.host.spawn(&mut self.command());
        process.says("▶", STARTS);
        let namespace = NetNs::of_pid(process.pid()).expect("the program's network namespace");
        let service = self
            .arguments
            .iter()
            .find_map(|argument| argument.strip_prefix("--service="));
        Member {
            name: format!("{}/{}", self.host.name, service.unwrap_or("caller")),
            process,
            namespace,
        }
    }

    /// Starts it without waiting for anything.
    ///
    /// # Panics
    /// When `leno` cannot be started.
    #[must_use]
    #[track_caller]
    pub fn spawn(self) -> Process {
        self.host.spawn(&mut self.command())
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it does not end.
    #[track_caller]
    pub fn to_end(self) -> Output {
        self.host.run(&mut self.command())
    }
}

impl Member {
    /// Starts a command in the program's network, as one of its children would be.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn spawn(&self, command: &mut Command) -> Process {
        spawn_in(&self.name, &self.namespace, command)
    }

    /// Runs a command in the program's network to its end.
    ///
    /// # Panics
    /// When it cannot be started or does not end.
    #[track_caller]
    pub fn run(&self, command: &mut Command) -> Output {
        run_in(&self.name, &self.namespace, command, LONG)
    }

    /// Runs a command given as words.
    ///
    /// # Panics
    /// When it cannot be started or does not end.
    #[track_caller]
    pub fn exec(&self, words: &[&str]) -> Output {
        self.run(&mut words_to_command(words))
    }

    /// `curl` with these arguments, errors shown, no more than 20 s.
    ///
    /// # Panics
    /// When curl cannot be started or does not end.
    #[track_caller]
    pub fn curl(&self, arguments: &[&str]) -> Output {
        let mut words = vec!["curl", "-sS", "--max-time", "20"];
        words.extend(arguments);
        self.exec(&words)
    }

    /// A way to connect as the program does from another thread.
    ///
    /// # Panics
    /// When the program is gone.
    #[must_use]
    pub fn connector(&self) -> Connector {
        let namespace = NetNs::of_pid(self.process.pid());
        Connector {
            namespace: namespace.expect("the program's network namespace"),
        }
    }

    /// Runs `f` in the program's network namespace.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn within<T>(&self, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.namespace.within(f)
    }

    /// Looks a name up as the program would.
    ///
    /// # Errors
    /// When there is none.
    pub fn look_up(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        Ok(self.within(|| (name, 0).to_socket_addrs())?.collect())
    }

    /// Connects to a name and port as the program would.
    ///
    /// # Errors
    /// When no address takes it.
    pub fn try_connect(&self, host: &str, port: u16) -> io::Result<Wire> {
        self.within(|| TcpStream::connect((host, port)))
            .map(Wire::new)
    }

    /// Connects to a name and port as the program would.
    ///
    /// # Panics
    /// When no address takes it.
    #[must_use]
    #[track_caller]
    pub fn connect(&self, host: &str, port: u16) -> Wire {
        let connected = self.try_connect(host, port);
        connected.unwrap_or_else(|error| panic!("{} to {host}:{port}: {error}", self.name))
    }

    /// Listens on every IPv4 address of the program's network.
    ///
    /// # Panics
    /// When it cannot.
    #[must_use]
    #[track_caller]
    pub fn listen(&self, port: u16) -> TcpListener {
        self.listen_on(([0, 0, 0, 0], port).into())
    }

    /// Listens on one address of the program's network.
    ///
    /// # Panics
    /// When it cannot.
    #[must_use]
    #[track_caller]
    pub fn listen_on(&self, address: SocketAddr) -> TcpListener {
        let listener = self.within(|| TcpListener::bind(address));
        listener.unwrap_or_else(|error| panic!("{} cannot listen on {address}: {error}", self.name))
    }

    /// Ends it as a service manager does; its exit code.
    ///
    /// # Panics
    /// When it does not end.
    #[track_caller]
    pub fn stop(mut self) -> i32 {
        self.process.signal(Signal::TERM);
        self.process.wait(Duration::from_secs(20))
    }
}
