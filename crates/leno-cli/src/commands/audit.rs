//! `leno audit`: who changed what in a mesh, and who was refused.

use clap::Args;
use serde_json::Value;

use crate::{
    client::{Client, ended},
    exit::{CommandError, Outcome},
    output::{Format, print, print_json_line, text},
};

/// Show who changed what in the mesh, and who was refused; for its admins.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  leno audit --since 1h
  leno audit -f
  leno audit -o json | jq 'select(.kind == \"AccessPolicy\")'    (with what was there before, and after)")]
pub(crate) struct AuditArgs {
    /// How far back (default: all that is kept)
    #[arg(long, value_name = "DURATION")]
    since: Option<String>,
    /// Go on with what comes
    #[arg(long, short)]
    follow: bool,
    /// How to print it; json is one object a line
    #[arg(long, short, value_enum, default_value = "table")]
    output: Format,
}

/// Runs the command.
pub(crate) async fn audit(client: &Client, args: &AuditArgs) -> Outcome {
    let since = args.since.as_deref().unwrap_or_default();
    if !since.is_empty() {
        let error = |error| CommandError::usage(format!("--since: {error}"));
        leno_types::parse_duration(since).map_err(error)?;
    }
    let watch = if args.follow { "&watch=1" } else { "" };
    let path = format!("/leno/v1/audit?since={since}{watch}");
    let mut lines = client.stream(&path).await?;
    while let Some(line) = lines.next().await {
        let line = line?;
        match args.output {
            Format::Json | Format::Yaml => print_json_line(&line),
            Format::Table | Format::Wide | Format::Name => print(&sentence(&line)),
        }
    }
    if args.follow {
        return Err(ended("log"));
    }
    Ok(0)
}

/// One line for people.
fn sentence(line: &Value) -> String {
    let of = |field: &str| text(line, &format!("/{field}"));
    if let Some(missing) = line.get("missing") {
        return format!("… {missing} lines are missing here: leno audit shows them");
    }
    let place = match of("namespace") {
        "" => of("name").to_owned(),
        namespace => format!("{namespace}/{}", of("name")),
    };
    let outcome = match of("outcome") {
        "done" => format!("revision {}", line.get("revision").unwrap_or(&Value::Null)),
        "refused" => format!(
            "refused {}: {}",
            line.get("code").unwrap_or(&Value::Null),
            of("message")
        ),
        other => other.to_owned(),
    };
    format!(
        "{}  {} ({})  {} {} {place}  {outcome}",
        of("time"),
        of("who"),
        of("from"),
        of("verb"),
        of("kind"),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_says_when_who_what_and_what_came_of_it() {
        let mut line = json!({
            "time": "2026-11-21T10:00:00.000Z", "who": "ann", "from": "10.0.0.1", "verb": "created",
            "kind": "Service", "namespace": "shop", "name": "cart", "outcome": "done", "revision": 7,
        });
        let said =
            "2026-11-21T10:00:00.000Z  ann (10.0.0.1)  created Service shop/cart  revision 7";
        assert_eq!(sentence(&line), said);
        line["outcome"] = json!("refused");
        line["code"] = json!(403);
        line["message"] = json!("no");
        assert!(sentence(&line).ends_with("refused 403: no"));
    }
}
