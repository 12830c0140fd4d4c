//! The access log: one JSON line for each request or connection.
//!
//! Names are those of Istio's default JSON access log where one fits. What a peer wrote is escaped and cut at
//! [`MAX_TEXT`]; bytes that are no UTF-8 become U+FFFD.
//! Invariant: an entry is one line, of valid JSON, however its texts look.

use std::{
    io::Write,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use leno_types::{Identity, Refusal};

use crate::{Protocol, Reporter};

/// Bytes of each text a peer wrote that go into a line.
pub const MAX_TEXT: usize = 1_024;

/// Bytes of lines a worker keeps when nobody takes them; further lines are dropped and counted.
pub const MAX_BUFFER: usize = 1024 * 1024;

/// One request, or one connection of bytes.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// When it began.
    pub start_time: SystemTime,
    /// Who writes this.
    pub reporter: Reporter,
    /// The workload on whose side that was.
    pub workload: Option<&'a str>,
    /// Its namespace.
    pub namespace: Option<&'a str>,
    /// What was spoken.
    pub protocol: Protocol,
    /// The request's method.
    pub method: Option<&'a [u8]>,
    /// Its path and query.
    pub path: Option<&'a [u8]>,
    /// Its host.
    pub authority: Option<&'a [u8]>,
    /// Its `user-agent`.
    pub user_agent: Option<&'a [u8]>,
    /// Its `x-request-id`.
    pub request_id: Option<&'a [u8]>,
    /// Its trace.
    pub trace_id: Option<crate::trace::TraceId>,
    /// The response's status; 0 when there was none.
    pub response_code: u16,
    /// The gRPC status.
    pub grpc_status: Option<u8>,
    /// Why the mesh refused it.
    pub refusal: Option<Refusal>,
    /// Which refusal it is, among those of the proxy's admin page.
    pub refusal_id: Option<&'a str>,
    /// The rule that decided, as `object field`.
    pub rule: Option<&'a str>,
    /// The version of the configuration by which it was decided, as `leno proxy status` shows it.
    pub config_version: Option<&'a str>,
    /// Bytes received from the caller.
    pub bytes_received: u64,
    /// Bytes sent to the caller.
    pub bytes_sent: u64,
    /// How long it took.
    pub duration: Duration,
    /// To the response's first byte.
    pub first_byte: Option<Duration>,
    /// The caller's address.
    pub downstream_remote_address: Option<SocketAddr>,
    /// The address it called.
    pub downstream_local_address: Option<SocketAddr>,
    /// The endpoint that served.
    pub upstream_host: Option<SocketAddr>,
    /// The service called.
    pub destination_service: Option<&'a str>,
    /// The route taken.
    pub route_name: Option<&'a str>,
    /// Who called.
    pub source_identity: Option<&'a Identity>,
    /// Who served.
    pub destination_identity: Option<&'a Identity>,
    /// Whether it went over mutual TLS.
    pub mtls: bool,
}

impl Entry<'_> {
    /// Appends the entry as one line.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Self {
            start_time,
            reporter,
            workload,
            namespace,
            protocol,
            method,
            path,
            authority,
            user_agent,
            request_id,
            trace_id,
            response_code,
            grpc_status,
            refusal,
            refusal_id,
            rule,
            config_version,
            bytes_received,
            bytes_sent,
            duration,
            first_byte,
            downstream_remote_address,
            downstream_local_address,
            upstream_host,
            destination_service,
            route_name,
            source_identity,
            destination_identity,
            mtls,
        } = self;
        let mut line = Line { out, first: true };
        line.bare_text("start_time", format_args!("{}", Rfc3339(*start_time)));
        line.bare_text("reporter", format_args!("{}", reporter.as_str()));
        line.text("workload", workload.map(str::as_bytes));
        line.text("namespace", namespace.map(str::as_bytes));
        line.bare_text("protocol", format_args!("{}", protocol.as_str()));
        line.text("method", *method);
        line.text("path", *path);
        line.text("authority", *authority);
        line.number("response_code", *response_code);
        line.optional("grpc_status", *grpc_status);
        line.bare_text(
            "response_flags",
            format_args!("{}", refusal.map_or("-", Refusal::code)),
        );
        line.text(
            "response_code_details",
            refusal.map(|refusal| refusal.text().as_bytes()),
        );
        line.text("refusal_id", refusal_id.map(str::as_bytes));
        line.text("rule", rule.map(str::as_bytes));
        line.text("config_version", config_version.map(str::as_bytes));
        line.number("bytes_received", *bytes_received);
        line.number("bytes_sent", *bytes_sent);
        line.number("duration", duration.as_millis());
        line.optional(
            "upstream_service_time",
            first_byte.map(|time| time.as_millis()),
        );
        line.text("user_agent", *user_agent);
        line.text("request_id", *request_id);
        line.address("upstream_host", *upstream_host);
        line.address("downstream_local_address", *downstream_local_address);
        line.address("downstream_remote_address", *downstream_remote_address);
        line.text(
            "destination_service",
            destination_service.map(str::as_bytes),
        );
        line.text("route_name", route_name.map(str::as_bytes));
        line.text(
            "source_identity",
            source_identity.map(|id| id.as_str().as_bytes()),
        );
        line.text(
            "destination_identity",
            destination_identity.map(|id| id.as_str().as_bytes()),
        );
        line.bare_text(
            "connection_security_policy",
            format_args!("{}", if *mtls { "mutual_tls" } else { "none" }),
        );
        if let Some(trace) = trace_id {
            line.bare_text("trace_id", format_args!("{trace}"));
        }
        out.extend_from_slice(b"}\n");
    }
}

/// One worker's lines, taken in bulk.
#[derive(Debug, Default)]
pub struct Buffer {
    lines: Vec<u8>,
    dropped: u64,
}

impl Buffer {
    /// Adds a line, or drops it when the buffer is full.
    pub fn push(&mut self, entry: &Entry<'_>) {
        let before = self.lines.len();
        if before < MAX_BUFFER {
            entry.write(&mut self.lines);
        }
        if before >= MAX_BUFFER || self.lines.len() > MAX_BUFFER {
            self.lines.truncate(before);
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    /// All lines so far; the memory of an idle worker is given back with them.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.lines)
    }

    /// How many lines were dropped since this was last asked.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

/// A JSON object being written.
struct Line<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl Line<'_> {
    fn name(&mut self, name: &str) {
        self.out
            .extend_from_slice(if self.first { b"{\"" } else { b",\"" });
        self.first = false;
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    /// A text that is known to need no escaping.
    fn bare_text(&mut self, name: &str, value: std::fmt::Arguments<'_>) {
        self.name(name);
        self.out.push(b'"');
        self.out
            .write_fmt(value)
            .expect("writing to memory cannot fail");
        self.out.push(b'"');
    }

    fn number(&mut self, name: &str, value: impl std::fmt::Display) {
        self.name(name);
        write!(self.out, "{value}").expect("writing to memory cannot fail");
    }

    fn optional(&mut self, name: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.number(name, value);
        }
    }

    fn address(&mut self, name: &str, value: Option<SocketAddr>) {
        if let Some(address) = value {
            self.bare_text(name, format_args!("{address}"));
        }
    }

    fn text(&mut self, name: &str, value: Option<&[u8]>) {
        let Some(value) = value else { return };
        self.name(name);
        self.out.push(b'"');
        let kept = value.get(..MAX_TEXT).unwrap_or(value);
        for chunk in kept.utf8_chunks() {
            chunk
                .valid()
                .chars()
                .for_each(|character| escape(self.out, character));
            if !chunk.invalid().is_empty() {
                self.out.extend_from_slice("\u{fffd}".as_bytes());
            }
        }
        if kept.len() < value.len() {
            self.out.extend_from_slice("…".as_bytes());
        }
        self.out.push(b'"');
    }
}

/// RFC 8259 7, and beyond it what a terminal or a viewer would act upon: controls of both kinds, line separators,
/// marks that turn the direction of writing.
fn escape(out: &mut Vec<u8>, character: char) {
    match character {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => escape_code(out, character),
        control if control.is_control() => escape_code(out, control),
        other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

fn escape_code(out: &mut Vec<u8>, character: char) {
    write!(out, "\\u{:04x}", u32::from(character)).expect("writing to memory cannot fail");
}

/// A time in UTC to the millisecond, as Istio writes it.
struct Rfc3339(SystemTime);

impl std::fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let since = self
            .0
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or(0);
        let time = time::OffsetDateTime::from_unix_timestamp(seconds)
            .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
        let (date, millis) = (time.date(), since.subsec_millis());
        write!(
            f,
            "{:04}-{:02}-{:02}T",
            date.year(),
            u8::from(date.month()),
            date.day()
        )?;
        write!(
            f,
            "{:02}:{:02}:{:02}.{millis:03}Z",
            time.hour(),
            time.minute(),
            time.second()
        )
    }
}

#[cfg(test)]
mod tests;
