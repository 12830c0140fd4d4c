//! Leno's pair as a user starts it: a control plane, a host that joins by token on each side, and `leno run` for the
//! backend and for the load, whose traffic is captured as anybody's.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use super::{Plan, System, appears, find, write};
use crate::{
    bench::{
        arena::{Host, Process},
        load::Session,
    },
    tool::Failure,
};

/// Where a mesh keeps its things.
struct Mesh<'a> {
    plan: &'a Plan<'a>,
    binary: &'a Path,
    dir: std::path::PathBuf,
    name: &'a str,
    /// Added to each port, so that several meshes fit on the same hosts.
    offset: u16,
}

impl<'a> Plan<'a> {
    /// Leno on both hosts, from this binary.
    pub(in crate::bench) fn leno(
        &self,
        name: &str,
        binary: &Path,
        offset: u16,
    ) -> Result<System<'a>, Failure> {
        let dir = self.arena.dir.join(name);
        fs::create_dir_all(&dir).map_err(|error| Failure::Io(dir.clone(), error))?;
        let binary = fs::canonicalize(binary).map_err(|error| Failure::Io(binary.into(), error))?;
        let mesh = Mesh {
            plan: self,
            binary: &binary,
            dir,
            name,
            offset,
        };
        let mut others = vec![mesh.control_plane()?];
        let proxies = vec![mesh.agent(Host::B)?, mesh.agent(Host::A)?];
        others.push(mesh.backend()?);
        let session = mesh.session()?;
        let mut system = System {
            name: name.into(),
            instances: proxies.len(),
            program: binary.clone(),
            arena: self.arena,
            url: "http://web".into(),
            session,
            proxies,
            others,
        };
        system.wait()?;
        mesh.leno(&[
            "apply",
            "--wait",
            "-f",
            &self.file("leno.yaml").to_string_lossy(),
        ])?;
        system.wait()?;
        Ok(system)
    }
}

impl Mesh<'_> {
    fn path(&self, name: &str) -> String {
        self.dir.join(name).to_string_lossy().into_owned()
    }

    /// The control plane, on the backend's host; the context by which commands find it.
    fn control_plane(&self) -> Result<Process, Failure> {
        let mut command = self.plan.arena.command(Host::B, false, self.binary);
        let (address, ready) = (
            format!("{}:{}", Host::B.address(), 15_012 + self.offset),
            self.path("ready"),
        );
        let socket = self.path("api.sock");
        command.args([
            "control-plane",
            "--metrics",
            "none",
            "--data-dir",
            &self.path("control-plane"),
        ]);
        command.args(["--listen", &address, "--advertise", &address]);
        command.args(["--admin-socket", &socket, "--ready-file", &ready]);
        let mut process = self
            .plan
            .arena
            .start(command, &format!("{}-control-plane", self.name))?;
        appears(Path::new(&ready), &mut process)?;
        let server = format!("unix:{socket}:/meshes/default");
        let context = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "default",
            "contexts": [{"name": "default", "context": {"cluster": "default", "user": "default"}}],
            "clusters": [{"name": "default", "cluster": {"server": server}}],
            "users": [],
        });
        write(&self.dir.join("config"), &context.to_string())?;
        Ok(process)
    }

    /// Runs one of Leno's commands to its end.
    fn leno(&self, args: &[&str]) -> Result<String, Failure> {
        let mut command = Command::new(self.binary);
        command
            .args(args)
            .env("LENO_CONFIG", self.dir.join("config"))
            .stdin(Stdio::null());
        let output = command
            .output()
            .map_err(|error| Failure::Start("leno".into(), error))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Failure::Found(format!(
            "leno {}: {}",
            args.join(" "),
            said.trim()
        )))
    }

    /// An agent that joined by a token; its data plane has one worker.
    fn agent(&self, host: Host) -> Result<Process, Failure> {
        let service = match host {
            Host::A => "load",
            Host::B => "web",
        };
        let token = self.leno(&["token", "create", "--service", service])?;
        let file = self.path(&format!("token-{service}"));
        write(Path::new(&file), &token)?;
        let [data, run] = ["data", "run"].map(|what| self.path(&format!("{what}-{}", host.name())));
        let mut command = self.plan.arena.command(host, true, self.binary);
        command.args([
            "join",
            "--token-file",
            &file,
            "--host",
            host.name(),
            "--address",
            host.address(),
        ]);
        command.args(["--data-dir", &data, "--run-dir", &run]);
        let port = |port: u16| format!("127.0.0.1:{}", port + self.offset);
        command.args(["--hbone-port", &(15_008 + self.offset).to_string()]);
        command.args([
            "--admin",
            &port(15_000),
            "--metrics",
            &port(15_020),
            "--readiness",
            &port(15_021),
        ]);
        let mut process = self
            .plan
            .arena
            .start(command, &format!("{}-{}", self.name, host.name()))?;
        appears(&Path::new(&run).join("agent.sock"), &mut process)?;
        Ok(process)
    }

    /// `leno run` on a host.
    fn run(&self, host: Host) -> Command {
        let mut command = self.plan.arena.command(host, false, self.binary);
        let socket = self.path(&format!("run-{}/agent.sock", host.name()));
        command.args(["run", "--quiet", "--agent", &socket]);
        command
    }

    fn backend(&self) -> Result<Process, Failure> {
        let mut command = self.run(Host::B);
        command.args(["--service", "web", "--port", "80:8080/http", "--"]);
        command
            .arg(find("nginx", "apt-get install nginx-light")?)
            .arg("-c");
        command.arg(
            self.plan
                .backend(&format!("{}-backend", self.name), "8080")?,
        );
        self.plan
            .arena
            .start(command, &format!("{}-backend", self.name))
    }

    fn session(&self) -> Result<Session, Failure> {
        let mut command = self.run(Host::A);
        command.args(["--service", "load", "--", "sh"]);
        Session::start(command)
    }
}
