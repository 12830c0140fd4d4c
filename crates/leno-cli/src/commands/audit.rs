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
    let mut any = args.follow || matches!(args.output, Format::Json | Format::Yaml);
    while let Some(line) = lines.next().await {
        let line = line?;
        any = true;
        match args.output {
            Format::Json | Format::Yaml => print_json_line(&line),
            Format::Table | Format::Wide | Format::Name => print(&sentence(&line)),
        }
    }
    if args.follow {
        return Err(ended("log"));
    }
    if !any {
        say!("there are none: nothing was changed or refused since then, as far as is kept");
    }
    Ok(0)
}

/// What somebody tried who was refused, of the request that they made: what it was about is not always read.
fn tried(line: &Value) -> String {
    let of = |field: &str| text(line, &format!("/{field}"));
    let verb = match of("verb") {
        "post" => "create",
        "put" => "replace",
        "patch" => "change",
        other => other,
    };
    match of("kind") {
        "batch" => "tried to apply documents".into(),
        "path" => {
            let path = of("name");
            let last = path.rsplit_once("/leno/v1/").map_or(path, |(_, last)| last);
            let (what, name) = last.split_once('/').unwrap_or((last, ""));
            let what = match what {
                "local-user" | "users" => "User",
                "local-agent" | "agents" => "Agent",
                "tokens" => "Token",
                "" => "Mesh",
                other => other,
            };
            format!("tried to {verb} {what} {name}")
                .trim_end()
                .to_owned()
        }
        kind => format!("tried to {verb} {kind} {}", place(line))
            .trim_end()
            .to_owned(),
    }
}

/// `namespace/name`, or the name of what has no namespace.
fn place(line: &Value) -> String {
    let name = text(line, "/name");
    match text(line, "/namespace") {
        "" => name.to_owned(),
        namespace => format!("{namespace}/{name}"),
    }
}

/// One line for people.
fn sentence(line: &Value) -> String {
    let of = |field: &str| text(line, &format!("/{field}"));
    if let Some(missing) = line.get("missing") {
        return format!("… {missing} lines are missing here: leno audit shows them");
    }
    let what = match of("outcome") {
        "refused" => tried(line),
        _ => {
            let role = text(line, "/after/role");
            let role = if role.is_empty() {
                String::new()
            } else {
                format!(" as {role}")
            };
            format!("{} {} {}{role}", of("verb"), of("kind"), place(line))
        }
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
        "{}  {} ({})  {what}  {outcome}",
        of("time"),
        of("who"),
        of("from"),
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
        (line["outcome"], line["verb"]) = (json!("refused"), json!("put"));
        line["code"] = json!(403);
        line["message"] = json!("no");
        assert!(sentence(&line).ends_with("tried to replace Service shop/cart  refused 403: no"));
        let tried = |verb: &str, kind: &str, name: &str| {
            tried(&json!({"verb": verb, "kind": kind, "name": name}))
        };
        assert_eq!(tried("post", "batch", ""), "tried to apply documents");
        let users = "/meshes/shop/leno/v1/users/bob";
        assert_eq!(tried("delete", "path", users), "tried to delete User bob");
        let mut line = json!({
            "time": "t", "who": "ann", "from": "f", "verb": "created", "kind": "User", "name": "bob",
            "outcome": "done", "revision": 8, "after": {"role": "viewer"},
        });
        assert!(sentence(&line).contains("created User bob as viewer  revision 8"));
        line["after"] = json!(null);
        assert!(sentence(&line).contains("created User bob  revision 8"));
    }
}
