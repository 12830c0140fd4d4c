//! What became of documents: a line for each, what is to be said of it, and with `--wait` whether it is in force.
//!
//! Invariant: every object has its line, whatever is wrong with another; what is wrong is told at the end, with what it
//! means for requests, in the control plane's words.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use leno_config::{Finding, Kind};
use leno_controlplane::documents::Proxy;
use serde_json::Value;

use crate::{
    client::Client,
    commands::{known, path_of},
    exit::{CommandError, Outcome},
    output::{Format, items, print, print_value, text},
};

/// So long `--wait` waits at most.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
/// Proxies that one line names.
const NAMED: usize = 5;

/// How documents are applied, and how that is told.
pub(super) struct Asked {
    pub(super) dry_run: bool,
    pub(super) wait: bool,
    /// Whom they cut off was told before they were written.
    pub(super) told: bool,
    pub(super) format: Format,
}

/// What is known of one object after waiting.
enum Force {
    /// The proxies concerned run it, to the letter.
    Whole(String),
    /// It is stored, and something of it leads nowhere.
    Partly(String, CommandError),
    /// Some proxies did not take it, or not in time.
    Late(CommandError),
}

/// Tells what the API answered to a batch; `place` finds a field in the files.
pub(super) async fn report(
    client: &Client,
    answer: &Value,
    asked: &Asked,
    place: impl Fn(usize, Finding) -> Finding,
) -> Outcome {
    if matches!(asked.format, Format::Json | Format::Yaml) {
        print_value(answer, asked.format)?;
    }
    if !asked.told {
        for sentence in items(answer, "/cutsOff").filter_map(Value::as_str) {
            say!("⚠ {sentence}");
        }
    }
    let mut failures = Vec::new();
    for (index, item) in items(answer, "/items").enumerate() {
        let kind = Kind::from_type(text(item, "/apiVersion"), text(item, "/kind"));
        let shown = kind.map_or_else(
            || text(item, "/kind").to_lowercase(),
            |kind| kind.singular().to_owned(),
        );
        let name = format!("{shown}/{}", text(item, "/name"));
        let warnings = items(item, "/warnings").map(|warning| place(index, finding(warning)));
        let warnings: Vec<Finding> = warnings.collect();
        let mut line = format!("{name} {}", text(item, "/result"));
        if asked.dry_run {
            line.push_str(" (dry run)");
        }
        if let (Some(kind), true, false) = (kind, asked.wait, asked.dry_run) {
            match force(client, kind, item, &warnings).await? {
                Force::Whole(text) => line = format!("{line}   {text}"),
                Force::Partly(text, error) => {
                    line = format!("{line}   {text}");
                    failures.push(error);
                }
                Force::Late(error) => {
                    line.push_str("   not programmed everywhere ✘");
                    failures.push(error);
                }
            }
        }
        match asked.format {
            Format::Table | Format::Wide => print(&line),
            Format::Name => print(&name),
            Format::Json | Format::Yaml => {}
        }
        // Who waits is told of the same in the end, as it then is.
        if asked.dry_run || !asked.wait {
            for warning in warnings {
                say!("⚠ {warning}");
            }
        }
    }
    if asked.wait
        && !asked.dry_run
        && let Some(absent) = absent(&known::proxies(client).await?)
    {
        say!("⚠ {absent}");
    }
    outcome(failures)
}

/// What is to be said of proxies that nobody can tell anything now: "everywhere" is without them.
fn absent(proxies: &[Proxy]) -> Option<String> {
    let absent = |proxy: &&Proxy| !proxy.connected;
    let names: Vec<&str> = (proxies.iter().filter(absent))
        .map(|proxy| proxy.host.as_str())
        .collect();
    let more = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named = names.get(..NAMED).unwrap_or(&names).join(", ");
    (!names.is_empty()).then(|| {
        format!("without {named}{more}, not connected: what they had is theirs until they are back (leno proxy status)")
    })
}

fn finding(warning: &Value) -> Finding {
    let suggestion = text(warning, "/suggestion");
    Finding::new(text(warning, "/field"), text(warning, "/message"))
        .with_suggestion((!suggestion.is_empty()).then(|| suggestion.to_owned()))
}

/// All failures as one; the first says what kind it is.
fn outcome(failures: Vec<CommandError>) -> Outcome {
    let mut failures = failures.into_iter();
    let Some(mut first) = failures.next() else {
        return Ok(0);
    };
    for other in failures {
        first.hint = format!("{}\n{other}", first.hint);
    }
    Err(first)
}

/// Waits until the proxies run an object. `told` is what was said of it when it was written.
async fn force(
    client: &Client,
    kind: Kind,
    item: &Value,
    told: &[Finding],
) -> Result<Force, CommandError> {
    let begun = Instant::now();
    let (namespace, name) = (text(item, "/namespace"), text(item, "/name"));
    let path = path_of(kind, Some(namespace), Some(name));
    let generation = item.get("generation").and_then(Value::as_u64).unwrap_or(0);
    let named = format!("{}/{name}", kind.singular());
    loop {
        let object = client.get(&path).await?;
        let conditions = conditions(&object, generation);
        let late = begun.elapsed() > PATIENCE;
        // Of a moment ago: nobody has looked at it yet.
        let judged_by_mesh = matches!(
            kind,
            Kind::HttpRoute
                | Kind::AccessPolicy
                | Kind::AuthenticationPolicy
                | Kind::HostnameGenerator
        );
        let unseen = conditions.is_empty() && judged_by_mesh;
        match conditions.iter().find(|condition| is_behind(condition)) {
            // A proxy that refuses it will not take it by waiting.
            Some(condition) if is_refused(condition) => {
                let what = format!("{named} is not in force: {}", text(condition, "/message"));
                let hint =
                    "leno proxy status shows what each proxy refuses; what it had before runs on";
                return Ok(Force::Late(CommandError::refused(what).hint(hint)));
            }
            Some(condition) if late => {
                let what = format!(
                    "{named} is not in force everywhere after {} s: {}",
                    PATIENCE.as_secs(),
                    text(condition, "/message")
                );
                let hint = "leno proxy status shows which proxies are away or refuse it";
                return Ok(Force::Late(CommandError::failed(what).hint(hint)));
            }
            None if late || !unseen => {
                return Ok(judged(&conditions, &named, begun.elapsed(), told));
            }
            Some(_) | None => tokio::time::sleep(POLL).await,
        }
    }
}

/// What the conditions of an object say, once there is nothing left to wait for.
fn judged(conditions: &[Value], name: &str, took: Duration, told: &[Finding]) -> Force {
    let of = |of: &'static str| conditions.iter().filter(move |is| text(is, "/type") == of);
    let accepted = of("Accepted").any(holds) || of("Accepted").next().is_none();
    let line = match of("Programmed").find(|condition| holds(condition)) {
        Some(condition) => format!(
            "accepted ✔   programmed {}, {:.1} s",
            text(condition, "/message"),
            took.as_secs_f64()
        ),
        None if accepted => "accepted ✔".to_owned(),
        None => "accepted by no service ✘".to_owned(),
    };
    let refused = of("Accepted")
        .chain(of("ResolvedRefs"))
        .chain(of("Generated"));
    let messages: BTreeSet<&str> = refused
        .filter(|condition| !holds(condition))
        .map(|condition| text(condition, "/message"))
        .collect();
    if messages.is_empty() {
        return Force::Whole(line);
    }
    let what = if of("Generated").any(|condition| !holds(condition)) {
        format!("{name} is in force as far as it goes: not every service has its name")
    } else if accepted {
        format!("{name} is in force as far as it goes: what it refers to is not there")
    } else {
        format!("{name} is stored, and no service takes it")
    };
    let lines: Vec<String> = if told.is_empty() {
        messages.into_iter().map(ToOwned::to_owned).collect()
    } else {
        told.iter().map(ToString::to_string).collect()
    };
    Force::Partly(line, CommandError::refused(what).hint(lines.join("\n  ")))
}

fn holds(condition: &Value) -> bool {
    text(condition, "/status") == "True"
}

/// Whether proxies are yet to run it; what is not accepted they will never run.
fn is_behind(condition: &Value) -> bool {
    text(condition, "/type") == "Programmed"
        && !holds(condition)
        && text(condition, "/reason") != "Invalid"
}

/// Whether a proxy said no to it, or denies instead of what it says.
fn is_refused(condition: &Value) -> bool {
    matches!(text(condition, "/reason"), "Rejected" | "NotUnderstood")
}

/// The conditions of this generation, wherever the kind keeps them.
fn conditions(object: &Value, generation: u64) -> Vec<Value> {
    let own = items(object, "/status/conditions");
    let parents = items(object, "/status/parents").flat_map(|parent| items(parent, "/conditions"));
    let observed = |condition: &&Value| {
        condition
            .get("observedGeneration")
            .and_then(Value::as_u64)
            .is_none_or(|observed| observed >= generation)
    };
    own.chain(parents).filter(observed).cloned().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn who_is_not_connected_is_named_and_not_too_many_of_them() {
        let proxy = |number: usize| Proxy {
            host: format!("h{number}"),
            connected: number == 0,
            ..Proxy::default()
        };
        let proxies: Vec<Proxy> = (0..9).map(proxy).collect();
        assert_eq!(absent(&proxies[..1]), None);
        let one = absent(&proxies[..2]).unwrap();
        assert!(one.starts_with("without h1, not connected"), "{one}");
        let many = absent(&proxies).unwrap();
        assert!(
            many.starts_with("without h1, h2, h3, h4, h5 and 3 more,"),
            "{many}"
        );
    }
}
