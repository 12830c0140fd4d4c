//! A whole mesh: the control plane on a host of its own, agents that joined with real tokens, all of the real binary.

mod agents;
mod pages;

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
    time::Duration,
};

use serde_json::json;

use crate::{Host, Network, Output, Process, Signal, process::directory, wait::until};

/// Where the control plane listens.
const CONTROL_PLANE_PORT: u16 = 15012;
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
    environment: Vec<(String, OsString)>,
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
    environment: Vec<(String, OsString)>,
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

    /// A variable of the control plane's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
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
            environment: self.environment,
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
            environment: Vec::new(),
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

    /// The file of contexts that its commands use.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
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
            .args(&self.options)
            .envs(self.environment.iter().cloned());
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
        self.host.run(&mut self.command(arguments))
    }

    /// Starts a command of leno that goes on, such as one that follows something.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    #[track_caller]
    pub fn spawn_leno(&self, arguments: &[&str]) -> Process {
        self.host.spawn(&mut self.command(arguments))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(leno_binary());
        command
            .args(arguments)
            .env("LENO_CONFIG", self.config_file());
        command
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

    /// A host.
    #[must_use]
    pub fn host(&self, name: &str) -> Rc<Host> {
        self.network.host(name)
    }
}
