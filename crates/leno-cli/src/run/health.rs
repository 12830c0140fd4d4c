//! Whether the program is fit to be called, asked from beside it: inside its namespace, where callers cannot be.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use leno_agent::protocol::Port;
use leno_net::socket;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::Place;

/// Until it is fit for the first time it is asked often, so that it is called soon.
const EAGER: Duration = Duration::from_millis(50);
const INTERVAL: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(2);
/// So many failures in a row make it unfit; one success makes it fit again.
const FAILURES: u32 = 2;
/// So much of an answer is read.
const MAX_ANSWER: usize = 4_096;

/// Where a program may listen.
#[derive(Clone, Debug)]
struct Addresses {
    of: Vec<IpAddr>,
    /// Whether a connection must be marked to pass the capture.
    mark: bool,
}

/// When a program counts as fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// Its first port accepts.
    Tcp,
    /// A GET of this path on its first port answers 2xx or 3xx.
    Http(String),
    /// Always.
    None,
}

impl Check {
    /// Reads `tcp`, `http:/PATH` or `none`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "none" => Ok(Self::None),
            _ => match text.strip_prefix("http:") {
                Some(path)
                    if path.starts_with('/')
                        && path.bytes().all(|byte| byte.is_ascii_graphic()) =>
                {
                    Ok(Self::Http(path.into()))
                }
                _ => Err("a check is tcp, http:/PATH or none".into()),
            },
        }
    }
}

/// Asks again and again.
pub(crate) struct Checks {
    check: Check,
    port: Option<u16>,
    /// Every port that the program said it serves.
    all: Vec<u16>,
    addresses: Addresses,
    told: Option<bool>,
    failures: u32,
    waited: bool,
}

impl Checks {
    pub(crate) fn new(check: Check, ports: &[Port], place: &Place, host: &[IpAddr]) -> Self {
        let first = |v6: bool| host.iter().find(|ip| ip.is_ipv6() == v6).copied();
        let mut of: Vec<IpAddr> = first(false).into_iter().chain(first(true)).collect();
        let own = matches!(place, Place::Namespace(_));
        if own {
            of.insert(0, Ipv4Addr::LOCALHOST.into());
            of.push(Ipv6Addr::LOCALHOST.into());
        }
        Self {
            check,
            addresses: Addresses { of, mark: own },
            port: ports.first().map(|port| port.workload_port),
            all: ports.iter().map(|port| port.workload_port).collect(),
            told: None,
            failures: 0,
            waited: true,
        }
    }

    /// Waits for the next change of the answer. Dropping it in between only delays the question.
    pub(crate) async fn next(&mut self) -> (bool, String) {
        let Some(port) = self.port.filter(|_| self.check != Check::None) else {
            if self.told.replace(true).is_none() {
                return (true, "not checked".into());
            }
            return std::future::pending().await;
        };
        loop {
            if !std::mem::replace(&mut self.waited, true) {
                tokio::time::sleep(if self.told == Some(true) {
                    INTERVAL
                } else {
                    EAGER
                })
                .await;
            }
            let asked = timeout(TIMEOUT, ask(&self.check, &self.addresses, port))
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            self.waited = false;
            let (healthy, detail) = match asked {
                Ok(()) => (true, "passes".to_owned()),
                Err(error) => (false, error.to_string()),
            };
            self.failures = if healthy { 0 } else { self.failures + 1 };
            let changed = self.told != Some(healthy)
                && (healthy || self.failures >= FAILURES || self.told.is_none());
            if changed {
                self.told = Some(healthy);
                return (healthy, detail);
            }
        }
    }

    /// Its ports on which nothing accepts.
    pub(crate) fn silent(&self) -> impl Future<Output = Vec<u16>> + use<> {
        let asked = self.check != Check::None;
        let (ports, addresses) = (self.all.clone(), self.addresses.clone());
        async move {
            let mut silent = Vec::new();
            for port in ports.into_iter().filter(|_| asked) {
                let accepts = timeout(TIMEOUT, connect(&addresses, port)).await;
                if !matches!(accepts, Ok(Ok(_))) {
                    silent.push(port);
                }
            }
            silent
        }
    }
}

async fn ask(check: &Check, addresses: &Addresses, port: u16) -> io::Result<()> {
    let mut stream = connect(addresses, port).await?;
    match check {
        Check::Tcp | Check::None => Ok(()),
        Check::Http(path) => ask_http(&mut stream, path).await,
    }
}

/// Connects where the program listens: on one of the addresses at which its callers' proxy will look for it.
async fn connect(addresses: &Addresses, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for ip in &addresses.of {
        let made = socket::stream_socket(ip.is_ipv6(), addresses.mark);
        let connected = match made {
            Ok(descriptor) => socket::connect(descriptor, SocketAddr::new(*ip, port)).await,
            Err(error) => Err(error),
        };
        match connected {
            Ok(stream) => return Ok(stream),
            // The first says best what is wrong with it.
            Err(error) if ip == addresses.of.first().unwrap_or(ip) => last = error,
            Err(_) => {}
        }
    }
    Err(last)
}

async fn ask_http(stream: &mut TcpStream, path: &str) -> io::Result<()> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nuser-agent: leno\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(256);
    while answer.len() < MAX_ANSWER && !answer.contains(&b'\n') {
        if stream.read_buf(&mut answer).await? == 0 {
            break;
        }
    }
    let line = answer
        .split(|byte| *byte == b'\r' || *byte == b'\n')
        .next()
        .unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let status: u16 = line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0);
    if (200..400).contains(&status) {
        return Ok(());
    }
    Err(io::Error::other(format!("GET {path} answered \"{line}\"")))
}
