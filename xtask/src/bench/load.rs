//! The load: wrk, started through a shell that stays, so that what it costs to join a mesh is not part of a turn.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use super::arena;
use crate::tool::Failure;

/// One kind of traffic.
pub(super) struct Shape {
    pub(super) name: &'static str,
    pub(super) connections: usize,
    /// Beyond the URL: header or script, by name in the project's `bench/`.
    pub(super) extra: Extra,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Extra {
    None,
    /// A connection for each request.
    Close,
    /// 1 MiB each way, in turn.
    BothWays,
}

/// What there is; the first is what the others are judged beside.
pub(super) const SHAPES: &[Shape] = &[
    Shape {
        name: "h1-16",
        connections: 16,
        extra: Extra::None,
    },
    Shape {
        name: "h1-1",
        connections: 1,
        extra: Extra::None,
    },
    Shape {
        name: "h1-256",
        connections: 256,
        extra: Extra::None,
    },
    Shape {
        name: "h1-close",
        connections: 16,
        extra: Extra::Close,
    },
    Shape {
        name: "body-1m",
        connections: 4,
        extra: Extra::BothWays,
    },
];

/// What a turn gave, as wrk says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Load {
    pub(super) requests: u64,
    /// Answers other than 2xx and 3xx.
    pub(super) refused: u64,
    /// Connections that were not made or broke, and timeouts.
    pub(super) errors: u64,
    pub(super) p50_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
}

/// A shell where the caller is.
pub(super) struct Session {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

const END: &str = "--end-of-command--";

impl Session {
    /// Starts `command`, which must be a shell that reads from standard input.
    pub(super) fn start(mut command: Command) -> Result<Self, Failure> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let failed = |error| Failure::Start("the load's shell".into(), error);
        let mut child = command.spawn().map_err(failed)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Failure::Found("the load's shell has no pipes".into()));
        };
        let (sender, lines) = mpsc::channel();
        // Ends with the pipe.
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            input,
            lines,
        })
    }

    /// Runs a command line to its end: what it said.
    pub(super) fn run(&mut self, line: &str, patience: Duration) -> Result<String, Failure> {
        let failed = |what: &str| Failure::Found(format!("{line}: {what}"));
        writeln!(self.input, "{line} 2>&1; echo; echo {END} $?")
            .and_then(|()| self.input.flush())
            .map_err(|error| failed(&error.to_string()))?;
        let until = Instant::now() + patience;
        let mut said = String::new();
        loop {
            match self
                .lines
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(text) => match text.strip_prefix(END) {
                    Some(code) if code.trim() == "0" => return Ok(said),
                    Some(code) => return Err(failed(&format!("exit code{code}: {said}"))),
                    None => said.extend([text.as_str(), "\n"]),
                },
                Err(RecvTimeoutError::Timeout) => return Err(failed("does not end")),
                Err(RecvTimeoutError::Disconnected) => return Err(failed("the shell has ended")),
            }
        }
    }

    /// One turn of a shape.
    pub(super) fn load(
        &mut self,
        shape: &Shape,
        url: &str,
        turn: Duration,
        scripts: &str,
    ) -> Result<Load, Failure> {
        let (path, extra) = match shape.extra {
            Extra::None => ("/1k", String::new()),
            Extra::Close => ("/1k", "-H 'Connection: close'".to_owned()),
            Extra::BothWays => ("/1m", format!("-s {scripts}/both-ways.lua")),
        };
        let line = format!(
            "wrk -t1 -c{} -d{}s --timeout 10s --latency {extra} {url}{path}",
            shape.connections,
            turn.as_secs()
        );
        let said = self.run(&line, turn + Duration::from_secs(30))?;
        read(&said).ok_or_else(|| Failure::Found(format!("wrk is not understood: {said}")))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        arena::end(&mut self.child);
    }
}

/// Reads what wrk prints.
fn read(text: &str) -> Option<Load> {
    let mut load = Load::default();
    let mut counted = false;
    for line in text.lines().map(str::trim) {
        if let Some((requests, _)) = line.split_once(" requests in ") {
            load.requests = requests.trim().parse().ok()?;
            counted = true;
        } else if let Some(errors) = line.strip_prefix("Socket errors:") {
            let numbers = errors
                .split([',', ' '])
                .filter_map(|word| word.parse::<u64>().ok());
            load.errors = numbers.sum();
        } else if let Some(refused) = line.strip_prefix("Non-2xx or 3xx responses:") {
            load.refused = refused.trim().parse().ok()?;
        } else if let Some(time) = line.strip_prefix("50%") {
            load.p50_ms = milliseconds(time.trim());
        } else if let Some(time) = line.strip_prefix("99%") {
            load.p99_ms = milliseconds(time.trim());
        }
    }
    counted.then_some(load)
}

/// `381.00us`, `1.02ms`, `1.20s`, `1.00m`
fn milliseconds(text: &str) -> Option<f64> {
    let at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at_checked(at)?;
    let factor = match unit {
        "us" => 0.001,
        "ms" => 1.0,
        "s" => 1_000.0,
        "m" => 60_000.0,
        _ => return None,
    };
    number.parse::<f64>().ok().map(|number| number * factor)
}

/// Asks until `url` is answered with 200, for half a minute: `--probe`, run where the caller is.
pub(super) fn probe(url: &str) -> Result<(), Failure> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let last = match ask(authority, path) {
            Ok(answer) if answer.starts_with("HTTP/1.1 200") => return Ok(()),
            Ok(answer) => answer,
            Err(error) => error.to_string(),
        };
        if Instant::now() >= until {
            return Err(Failure::Found(format!(
                "{url} is not answered with 200: {last}"
            )));
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn ask(authority: &str, path: &str) -> std::io::Result<String> {
    let name = if authority.contains(':') {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    };
    let address = name.to_socket_addrs()?.next();
    let address = address.ok_or_else(|| std::io::Error::other(format!("{name} has no address")))?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.take(4_096).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).chars().take(300).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_prints_is_read() {
        let text = "Running 2s test @ http://web/1k\n  1 threads and 16 connections\n  Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency   401.33us   99.50us   4.00ms   90.50%\n  Latency Distribution\n     50%  381.00us\n     75%  420.00us\n     90%  500.00us\n     99%    1.02ms\n  79121 requests in 2.00s, 90.01MB read\n  Socket errors: connect 0, read 3, write 0, timeout 2\n  Non-2xx or 3xx responses: 5\nRequests/sec:  39560.00\n";
        let load = read(text);
        let expected = Load {
            requests: 79_121,
            refused: 5,
            errors: 5,
            p50_ms: Some(0.381),
            p99_ms: Some(1.02),
        };
        assert_eq!(load, Some(expected));
        assert_eq!(read("unable to connect to web:http"), None);
    }
}
