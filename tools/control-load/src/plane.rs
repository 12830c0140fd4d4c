//! The control plane that is measured: a process of its own, asked over its admin socket, seen through /proc.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use leno_runtime::Scope;
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};

use crate::Failure;

/// A start that takes longer has failed.
const START: Duration = Duration::from_secs(30);
/// Ticks of /proc's clock in a second.
const TICKS: f64 = 100.0;

/// A control plane.
pub(crate) struct Plane {
    child: Child,
    leno: PathBuf,
    directory: PathBuf,
    pub(crate) address: std::net::SocketAddr,
    metrics: std::net::SocketAddr,
}

/// What its process has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) rss_mb: f64,
    pub(crate) anon_mb: f64,
}

impl Plane {
    pub(crate) async fn start(leno: &Path, directory: &Path) -> Result<Self, Failure> {
        Self::start_at(leno, directory, "127.0.0.1:0").await
    }

    async fn start_at(leno: &Path, directory: &Path, listen: &str) -> Result<Self, Failure> {
        let ready = directory.join("ready");
        let log = fs::File::create(directory.join("log"))?;
        let mut child = Command::new(leno)
            .arg("control-plane")
            .args(["--listen", listen, "--metrics", "127.0.0.1:0"])
            .args(["--prefix", "127.0.0.0/8"])
            .arg("--data-dir")
            .arg(directory.join("data"))
            .arg("--admin-socket")
            .arg(directory.join("admin.sock"))
            .arg("--ready-file")
            .arg(&ready)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let began = Instant::now();
        let ready: Value = loop {
            let read = fs::read(&ready).ok();
            if let Some(read) = read.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
                break read;
            }
            let ended = child.try_wait()?.is_some();
            if ended || began.elapsed() > START {
                child.kill()?;
                child.wait()?;
                let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
                return Err(Failure::Plane(log));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let address = |text: &Value| text.as_str().and_then(|text| text.parse().ok());
        let unreadable = || Failure::Plane(format!("its ready file says {ready}"));
        Ok(Self {
            child,
            leno: leno.into(),
            directory: directory.into(),
            address: address(&ready["listen"][0]).ok_or_else(unreadable)?,
            metrics: address(&ready["metrics"]).ok_or_else(unreadable)?,
        })
    }

    /// Ends it without a word, and starts it again at the same port.
    pub(crate) async fn restart(&mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        fs::remove_file(self.directory.join("ready"))?;
        let listen = self.address.to_string();
        let new = Self::start_at(&self.leno, &self.directory, &listen).await?;
        *self = new;
        Ok(())
    }

    /// Asks the API, on a connection of its own: one that is kept is closed when it is quiet for long.
    pub(crate) async fn ask(
        &self,
        scope: &Scope,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, Failure> {
        self.admin(scope).await?.ask(method, path, body).await
    }

    async fn admin(&self, scope: &Scope) -> Result<Admin, Failure> {
        let socket = UnixStream::connect(self.directory.join("admin.sock")).await?;
        let (sender, connection) = handshake(TokioIo::new(socket)).await?;
        scope.spawn("admin", async move {
            if let Err(error) = connection.await {
                eprintln!("control-load: the admin socket: {error}");
            }
        })?;
        Ok(Admin(sender))
    }

    /// A number that it counts.
    pub(crate) async fn metric(&self, name: &str, scope: &Scope) -> Result<f64, Failure> {
        let socket = TcpStream::connect(self.metrics).await?;
        let (sender, connection) = handshake(TokioIo::new(socket)).await?;
        scope.spawn("metrics", async move {
            drop(connection.await);
        })?;
        let (_, text) = Admin(sender).text("GET", "/metrics", None).await?;
        let value = text.lines().find_map(|line| {
            let rest = line.strip_prefix(name)?;
            let rest = rest
                .strip_prefix(' ')
                .or_else(|| rest.split_once("} ").map(|of| of.1))?;
            rest.trim().parse().ok()
        });
        value.ok_or_else(|| Failure::Plane(format!("it counts no {name}")))
    }

    /// Seconds of CPU it has used.
    pub(crate) fn cpu(&self) -> Result<f64, Failure> {
        cpu_of(&self.child.id().to_string())
    }

    pub(crate) fn memory(&self) -> Result<Memory, Failure> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let mb = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kb =
                line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u32>().ok());
            f64::from(kb.unwrap_or(0)) / 1024.0
        };
        Ok(Memory {
            rss_mb: mb("VmRSS:"),
            anon_mb: mb("RssAnon:"),
        })
    }
}

/// Seconds of CPU that a process has used; `self` is this one.
pub(crate) fn cpu_of(process: &str) -> Result<f64, Failure> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // Behind the name, which may have anything in it: state is the third field, user and system time are the 14th and 15th.
    let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let fields = rest.split(' ').skip(11).take(2);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(f64::from(u32::try_from(ticks).unwrap_or(u32::MAX)) / TICKS)
}

impl Drop for Plane {
    fn drop(&mut self) {
        // One that has ended already cannot be killed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A connection to the API.
struct Admin(SendRequest<Full<Bytes>>);

impl Admin {
    async fn ask(
        &mut self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, Failure> {
        let (code, text) = self.text(method, path, body).await?;
        if !(200..300).contains(&code) {
            let text: String = text.chars().take(600).collect();
            return Err(Failure::Plane(format!("{method} {path}: {code} {text}")));
        }
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    async fn text(
        &mut self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Result<(u16, String), Failure> {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "leno")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        self.0.ready().await?;
        let response = self.0.send_request(request).await?;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await?.to_bytes();
        Ok((code, String::from_utf8_lossy(&bytes).into_owned()))
    }
}
