//! A whole mesh: the control plane on a host of its own, agents that joined with real tokens, all of the real binary.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    Host, Network, Output, Process, RunBuilder, Signal, Wire,
    process::{directory, show_file},
    wait::{until, until_ok},
};

/// Where the control plane listens, and where agents say that they are ready.
const CONTROL_PLANE_PORT: u16 = 15012;
const READINESS_PORT: u16 = 15021;
const ADMIN_PORT: u16 = 15000;
/// A process of the product is ready within this.
const STARTS: Duration = Duration::from_secs(20);

/// The `leno` binary: `LENO_BIN`, or the one built beside this test.
///
/// # Panics
/// When there is none: `cargo xtask test` builds it first.
#[must_use]
pub fn leno_binary() -> PathBuf {
    if let Some(path) = env::var_os("LENO_BIN").filter(|path| !path.is_empty()) {
        return path.into();
    }
    let test = env::current_exe().expect("this program");
    let dir = test
        .parent()
        .and_then(Path::parent)
        .expect("target/PROFILE/deps/TEST");
    let path = dir.join("leno");
    assert!(
        path.exists(),
        "{} is missing: cargo build -p leno, or run the tests with cargo xtask test",
        path.display()
    );
    path
}

/// How a mesh is to be.
pub struct MeshBuilder {
    name: String,
    options: Vec<String>,
    services: Vec<String>,
    data_dir: Option<PathBuf>,
}

/// A running mesh.
pub struct Mesh {
    /// Its hosts.
    pub network: Network,
    /// Its control plane; `None` while it is away.
    pub control_plane: Option<Process>,
    agents: BTreeMap<String, Process>,
    name: String,
    options: Vec<String>,
    services: Vec<String>,
    data_dir: PathBuf,
    host: Rc<Host>,
}

impl MeshBuilder {
    /// An option of `leno control-plane`.
    #[must_use]
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.options.push(format!("--{name}={value}"));
        self
    }

    /// Services that every host may serve.
    #[must_use]
    pub fn services(mut self, names: &[&str]) -> Self {
        self.services
            .extend(names.iter().map(|name| (*name).to_owned()));
        self
    }

    /// Where the control plane's state is.
    #[must_use]
    pub fn data_dir(mut self, dir: PathBuf) -> Self {
        self.data_dir = Some(dir);
        self
    }

    /// Starts the control plane on a host "cp".
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn start(self) -> Mesh {
        let mut network = Network::new();
        let host = network.add("cp");
        self.start_on(network, host)
    }

    /// Starts it on a host that is there.
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn start_on(self, network: Network, host: Rc<Host>) -> Mesh {
        let data_dir = self
            .data_dir
            .unwrap_or_else(|| host.disk().join(&self.name));
        let mut mesh = Mesh {
            network,
            control_plane: None,
            agents: BTreeMap::new(),
            name: self.name,
            options: self.options,
            services: self.services,
            data_dir,
            host,
        };
        mesh.write_context();
        mesh.start_control_plane();
        mesh
    }
}

impl Mesh {
    /// A mesh to be described.
    #[must_use]
    pub fn builder() -> MeshBuilder {
        Self::named("default")
    }

    /// A mesh of this name to be described.
    #[must_use]
    pub fn named(name: &str) -> MeshBuilder {
        MeshBuilder {
            name: name.into(),
            options: Vec::new(),
            services: Vec::new(),
            data_dir: None,
        }
    }

    /// A mesh with these hosts, all joined, each of which may serve each of these services.
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn with(hosts: &[&str], services: &[&str]) -> Self {
        let mut mesh = Self::builder().services(services).start();
        for host in hosts {
            mesh.join(host);
        }
        mesh
    }

    fn admin_socket(&self) -> PathBuf {
        self.data_dir.join("admin.sock")
    }

    fn config_file(&self) -> PathBuf {
        directory().join(format!("context-{}", self.name))
    }

    /// `leno up` writes a context for people; a control plane of its own leaves that to whoever runs it.
    fn write_context(&self) {
        let name = &self.name;
        let server = format!("unix:{}:/meshes/{name}", self.admin_socket().display());
        let context = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "clusters": [{"name": name, "cluster": {"server": server}}],
            "users": [{"name": name, "user": {}}],
        });
        fs::write(self.config_file(), context.to_string()).expect("the context is written");
    }

    /// Starts the control plane, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become so.
    pub fn start_control_plane(&mut self) {
        let ready = directory().join(format!("ready-{}", self.name));
        drop(fs::remove_file(&ready));
        let mut process = self.spawn_control_plane(&ready);
        until("the control plane is ready", STARTS, || {
            assert_eq!(
                process.ended(),
                None,
                "the control plane ended: {}",
                process.stderr()
            );
            ready.exists().then_some(())
        });
        self.control_plane = Some(process);
    }

    /// Starts the control plane without waiting.
    #[must_use]
    pub fn spawn_control_plane(&self, ready: &Path) -> Process {
        let port = CONTROL_PLANE_PORT;
        let (v4, v6) = (self.host.v4, self.host.v6);
        let mut command = Command::new(leno_binary());
        command
            .arg("control-plane")
            .arg(format!("--data-dir={}", self.data_dir.display()))
            .arg(format!("--admin-socket={}", self.admin_socket().display()))
            .arg(format!("--listen={v4}:{port}"))
            .arg(format!("--listen=[{v6}]:{port}"))
            .arg(format!("--advertise={v4}:{port}"))
            .arg(format!("--advertise=[{v6}]:{port}"))
            .arg(format!("--mesh={}", self.name))
            .arg(format!("--prefix={}", Network::V4))
            .arg(format!("--prefix={}", Network::V6))
            .arg(format!("--ready-file={}", ready.display()))
            .args(&self.options);
        self.host.spawn(&mut command)
    }

    /// Kills the control plane as a power cut would.
    ///
    /// # Panics
    /// When it is away already.
    pub fn kill_control_plane(&mut self) {
        self.control_plane.take().expect("it runs").kill();
    }

    /// Ends the control plane as a service manager does.
    ///
    /// # Panics
    /// When it is away already, or does not end.
    pub fn stop_control_plane(&mut self) {
        let mut process = self.control_plane.take().expect("it runs");
        process.signal(Signal::TERM);
        assert_eq!(process.wait(STARTS), 0, "{}", process.stderr());
    }

    /// The control plane's state is elsewhere at its next start.
    pub fn move_data_to(&mut self, dir: &Path) {
        dir.clone_into(&mut self.data_dir);
        self.write_context();
    }

    /// Runs a command of `leno` that speaks to the API.
    ///
    /// # Panics
    /// When it does not end.
    #[track_caller]
    pub fn leno(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(leno_binary());
        command
            .args(arguments)
            .env("LENO_CONFIG", self.config_file());
        self.host.run(&mut command)
    }

    /// Applies documents from a text.
    ///
    /// # Panics
    /// When the command does not end.
    #[track_caller]
    pub fn apply(&self, text: &str, more: &[&str]) -> Output {
        let file = directory().join("documents.yaml");
        fs::write(&file, text).expect("documents are written");
        let path = file.display().to_string();
        let mut arguments = vec!["apply", "-f", &path];
        arguments.extend(more);
        self.leno(&arguments)
    }

    /// A join token with these options of `leno token create`.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn token(&self, options: &[&str]) -> String {
        let mut arguments = vec!["token", "create"];
        arguments.extend(options);
        self.leno(&arguments).good().text().trim().to_owned()
    }

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

    /// A host.
    #[must_use]
    pub fn host(&self, name: &str) -> Rc<Host> {
        self.network.host(name)
    }

    /// A program to be started on a host with `leno run`.
    #[must_use]
    pub fn run<'a>(&self, host: &'a Host) -> RunBuilder<'a> {
        RunBuilder::new(host, run_dir(host).join("agent.sock"))
    }

    /// Where programs speak to the agent of a host.
    #[must_use]
    pub fn agent_socket(&self, name: &str) -> PathBuf {
        run_dir(&self.host(name)).join("agent.sock")
    }

    /// An admin page of a host's proxy, as JSON.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn admin(&self, name: &str, path: &str) -> Value {
        let (status, body) = page(&self.host(name), ADMIN_PORT, path).expect("an admin page");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
    }

    /// A document of the mesh's API: `path` begins after the mesh, such as `/leno/v1/status`.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn api(&self, path: &str) -> Value {
        let mut stream =
            UnixStream::connect(self.admin_socket()).expect("the control plane's socket");
        let request = format!(
            "GET /meshes/{}{path} HTTP/1.0\r\nhost: localhost\r\n\r\n",
            self.name
        );
        stream.write_all(request.as_bytes()).expect("a request");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        let (head, body) = text.split_once("\r\n\r\n").expect("an answer of HTTP");
        assert!(head.contains(" 200 "), "{path}: {text}");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    }

    /// The lines of a host's access log so far.
    ///
    /// # Panics
    /// When one is no JSON.
    #[must_use]
    pub fn access_log(&self, name: &str) -> Vec<Value> {
        let text =
            fs::read_to_string(self.host(name).disk().join("access.log")).unwrap_or_default();
        let whole = text
            .rfind('\n')
            .map_or("", |end| text.get(..end).unwrap_or_default());
        let line = |line: &str| serde_json::from_str(line).expect("a line of JSON");
        whole.lines().map(line).collect()
    }

    /// The metrics of a host's proxy.
    ///
    /// # Panics
    /// When there are none.
    #[must_use]
    #[track_caller]
    pub fn metrics(&self, name: &str) -> String {
        let (status, body) =
            page(&self.host(name), ADMIN_PORT, "/stats/prometheus").expect("metrics");
        assert_eq!(status, 200, "{body}");
        body
    }

    /// The sum of all series of a metric whose labels contain each of these texts.
    ///
    /// # Panics
    /// When there are no metrics.
    #[must_use]
    #[track_caller]
    pub fn metric(&self, host: &str, name: &str, labels: &[&str]) -> f64 {
        sum(&self.metrics(host), name, labels)
    }
}

fn sum(text: &str, name: &str, labels: &[&str]) -> f64 {
    let value = |line: &str| -> Option<f64> {
        let rest = line.strip_prefix(name)?;
        if !rest.starts_with(['{', ' ']) || !labels.iter().all(|label| rest.contains(label)) {
            return None;
        }
        rest.rsplit(' ').next()?.parse().ok()
    };
    text.lines().filter_map(value).sum()
}

/// Where a host's agent keeps what does not outlive a reboot.
fn run_dir(host: &Host) -> PathBuf {
    host.run_dir()
}

fn agent_arguments<'a>(command: &'a mut Command, host: &Host) -> &'a mut Command {
    let access_log = host.disk().join("access.log");
    show_file(format!("{}: access log", host.name), access_log.clone());
    command
        .arg(format!("--data-dir={}", host.disk().join("data").display()))
        .arg(format!("--run-dir={}", run_dir(host).display()))
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

/// A page of an agent: status and content.
fn page(host: &Host, port: u16, path: &str) -> io::Result<(u16, String)> {
    let stream = host.connect(([127, 0, 0, 1], port).into())?;
    let mut wire = Wire::new(stream);
    wire.try_send(format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    ))?;
    let answer = wire.try_message()?;
    Ok((
        answer.status(),
        String::from_utf8_lossy(&answer.body).into_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn series_are_added_by_name_and_labels() {
        let text = "# TYPE a counter\na{x=\"1\",y=\"2\"} 3\na{x=\"1\"} 4\nab{x=\"1\"} 9\nb 5\n";
        assert_eq!(sum(text, "a", &["x=\"1\""]), 7.0);
        assert_eq!(sum(text, "a", &["y=\"2\""]), 3.0);
        assert_eq!(sum(text, "b", &[]), 5.0);
        assert_eq!(sum(text, "c", &[]), 0.0);
    }
}
