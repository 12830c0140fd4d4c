//! `leno logs`: the access logs of the proxies beside a service, a workload or a host.
//!
//! A proxy keeps its latest lines in memory. Without an access log of its own it writes only lines of what failed, until
//! somebody follows.

use clap::{Args, ValueEnum};
use leno_types::Refusal;
use serde_json::Value;

use super::known;
use crate::{
    client::{CallError, Client, ended},
    exit::{CommandError, Outcome},
    output::{one_line, print, print_json_line, text},
};

/// Show the access log of a service, a workload or a host: what its proxies let through, and what they refused.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  leno logs cart --since 1m       what was asked of cart, or by it, in the last minute
  leno logs cart -f               and what is asked from now on
  leno logs shop/cart --errors    only what failed or was refused")]
pub(crate) struct LogsArgs {
    /// A service, a workload, or a host; NAMESPACE/NAME where several have the name
    of: String,
    /// Only those of this namespace
    #[arg(long, short)]
    namespace: Option<String>,
    /// How far back
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    since: String,
    /// The latest so many lines of each host
    #[arg(long, value_name = "COUNT", default_value_t = 200)]
    tail: u32,
    /// Go on with what comes
    #[arg(long, short)]
    follow: bool,
    /// Only what failed or was refused
    #[arg(long)]
    errors: bool,
    /// How to print it
    #[arg(long, short, value_enum, default_value = "text")]
    output: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// A short line each.
    #[default]
    Text,
    /// All that there is, as JSON.
    Json,
}

/// Runs the command.
pub(crate) async fn logs(client: &Client, args: &LogsArgs) -> Outcome {
    let lines = client.stream(&path(args)?).await;
    let mut lines = match lines {
        Err(CallError::Refused(refusal)) if refusal.code == 404 => {
            let there = known::places(client).await?;
            let there: Vec<&str> = there.iter().map(String::as_str).collect();
            return Err(CommandError::failed(refusal.message).hint(known::meant(&args.of, &there)));
        }
        lines => lines?,
    };
    let mut shown = 0_u64;
    let mut told = false;
    while let Some(line) = lines.next().await {
        let line = line?;
        if line.get("start_time").is_some() {
            shown += 1;
            match args.output {
                LogFormat::Json => print_json_line(&line),
                LogFormat::Text => print(&short(&line)),
            }
        } else if let Some(note) = note(&line, &mut told) {
            say!("⚠ {}", one_line(&note));
        }
    }
    if args.follow {
        return Err(ended("log"));
    }
    if shown == 0 {
        say!(
            "no line of the last {} is kept; -f shows what comes",
            args.since
        );
    }
    Ok(0)
}

fn path(args: &LogsArgs) -> Result<String, CommandError> {
    let plain = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-./_".contains(&b))
    };
    let namespace = args.namespace.as_deref().unwrap_or_default();
    if !plain(&args.of) || !plain(namespace) || !plain(&args.since) {
        return Err(CommandError::usage(format!(
            "\"{}\" is no name of a service, a workload or a host",
            args.of
        )));
    }
    Ok(format!(
        "/leno/v1/logs?of={}&namespace={namespace}&since={}&limit={}&follow={}&errors={}",
        args.of, args.since, args.tail, args.follow, args.errors
    ))
}

/// What else a host says: that it has no complete log, that it is silent, how much more there was.
fn note(line: &Value, told: &mut bool) -> Option<String> {
    let host = text(line, "/host");
    if let Some(more) = line.get("more").and_then(Value::as_u64) {
        return Some(format!("{more} more lines are not shown"));
    }
    if line.get("silent").is_some() {
        return Some(format!("the proxy of {host} does not answer"));
    }
    let partial = line.get("kept").and_then(Value::as_bool) == Some(false);
    if partial && !std::mem::replace(told, true) {
        return Some(format!(
            "{host} has no access log (--access-log FILE): of what was, only failures are kept"
        ));
    }
    None
}

/// `12:01:02.123 a web → default/cart GET /x 200 3 ms`.
fn short(line: &Value) -> String {
    let of = |pointer: &str| text(line, pointer);
    let time = of("/start_time")
        .split_once('T')
        .map_or("", |(_, time)| time);
    let code = line
        .get("response_code")
        .and_then(Value::as_u64)
        .unwrap_or(0);
    let milliseconds = line.get("duration").and_then(Value::as_u64).unwrap_or(0);
    let other = |identity: &str| {
        identity
            .rsplit_once("/sa/")
            .map(|(_, account)| account.to_owned())
    };
    let outbound = of("/reporter") == "source";
    let (from, to) = if outbound {
        (
            of("/workload").to_owned(),
            or(of("/destination_service"), of("/downstream_local_address")),
        )
    } else {
        let caller = other(of("/source_identity"));
        let caller = caller.unwrap_or_else(|| of("/downstream_remote_address").to_owned());
        (caller, or(of("/workload"), of("/destination_service")))
    };
    let mut words = vec![
        time.trim_end_matches('Z').to_owned(),
        of("/host").to_owned(),
        format!("{from} → {to}"),
    ];
    match of("/method") {
        "" => words.push(of("/protocol").to_owned()),
        method => words.push(format!("{method} {}", of("/path"))),
    }
    // gRPC says how it went in a status of its own, behind a 200.
    match line.get("grpc_status").and_then(Value::as_u64) {
        Some(status) => words.push(format!("{code} grpc {status}")),
        None if code == 200 && of("/response_flags").parse::<Refusal>().is_ok() => {
            words.push("200 grpc refused".into());
        }
        None if code > 0 => words.push(code.to_string()),
        None => {}
    }
    words.push(format!("{milliseconds} ms"));
    if of("/response_flags") != "-" {
        words.push(of("/response_flags").to_owned());
    }
    words.extend(
        [of("/refusal_id"), of("/rule")]
            .into_iter()
            .filter(|word| !word.is_empty())
            .map(|word| word.replace(" spec.", " ")),
    );
    words.join("  ")
}

fn or(first: &str, second: &str) -> String {
    if first.is_empty() { second } else { first }.to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_says_who_asked_whom_for_what_and_how_it_ended() {
        let line = json!({"start_time": "2026-11-01T12:01:02.123Z", "host": "a", "reporter": "source", "workload": "web-1",
            "protocol": "http/1.1", "method": "GET", "path": "/x", "response_code": 503, "duration": 3,
            "response_flags": "UF", "refusal_id": "00c0ffee00c0ffee", "destination_service": "default/cart"});
        assert_eq!(
            short(&line),
            "12:01:02.123  a  web-1 → default/cart  GET /x  503  3 ms  UF  00c0ffee00c0ffee"
        );
        let line = json!({"start_time": "2026-11-01T12:01:02.123Z", "host": "b", "reporter": "destination", "workload": "cart-1",
            "protocol": "tcp", "response_code": 0, "duration": 3, "response_flags": "-",
            "source_identity": "spiffe://d/ns/default/sa/web"});
        assert_eq!(short(&line), "12:01:02.123  b  web → cart-1  tcp  3 ms");
    }

    #[test]
    fn a_host_without_a_whole_log_is_told_of_once() {
        let mut told = false;
        let head = json!({"host": "a", "kept": false, "complete": false});
        assert!(note(&head, &mut told).is_some_and(|note| note.contains("--access-log")));
        assert!(note(&head, &mut told).is_none());
        assert!(note(&json!({"more": 7}), &mut told).is_some_and(|note| note.contains('7')));
    }
}
