//! `leno explain`: why something was refused, from the caller to the endpoint, as it was then and as it stands now.
//!
//! Owns what people are told of it, and what to do next. What happened, the proxies remember.

mod chain;
mod next;
mod pages;
mod since;

use clap::Args;
use leno_runtime::block_on_local;
use leno_types::{Refusal, deployed_name};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    client::Client,
    exit::{CommandError, Outcome},
    output::{Shape, items, one_line, print, print_table, print_value, text},
    run::humanize,
};

use pages::Topic;

pub(super) use chain::{cause, rule, state};

/// Where the list is.
pub(super) const REFUSALS: &str = "/leno/v1/refusals";
/// Where an id without an answer leads.
const LIST_HINT: &str = "leno explain lists the refusals that are remembered; the access log (leno logs) has older ones in a line each";

/// Say why something was refused, and what to do: from the caller to the endpoint, then and now; or what a code means.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  leno explain                     the latest refusals: who was refused what, and why
  leno explain 00c0ffee00c0ffee    one of them: x-leno-refused in the answer says its id
  leno explain 00c0                an id may be cut short
  leno explain RBAC                what a reason's code means, and what to do
  leno explain host-disk           what a check looks at (leno check), and what to do")]
pub(crate) struct ExplainArgs {
    /// A refusal's id, or its beginning; a reason's code; a check's name. Without one the latest refusals are listed
    #[arg(value_name = "ID|CODE", value_parser = pages::Words, hide_possible_values = true)]
    word: Option<String>,
    /// How to print it
    #[arg(long, short, value_enum, default_value = "table")]
    output: Shape,
}

/// Runs the command. A page is there without a mesh.
pub(crate) fn explain(context: Option<&str>, args: &ExplainArgs) -> Outcome {
    if let Some(topic) = args.word.as_deref().and_then(Topic::of) {
        return page(topic, args.output);
    }
    let id = args.word.as_deref().map(id).transpose()?;
    let client = super::client(context)?;
    let explained = async {
        match id {
            Some(id) => one(&client, id, args.output).await,
            None => list(&client, args.output).await,
        }
    };
    block_on_local("explain", explained)
}

/// A refusal's id, as it is copied out of a header: `id=..`.
fn id(word: &str) -> Result<&str, CommandError> {
    let id = word.trim().trim_start_matches("id=");
    if !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(id);
    }
    let near = Topic::nearest(id);
    let near = near.map_or(String::new(), |near| format!("; did you mean {near}?"));
    let what = format!(
        "\"{id}\" is no refusal's id (16 hexadecimal digits, or the first of them), and no code{near}"
    );
    Err(CommandError::usage(what).hint(LIST_HINT))
}

fn page(topic: Topic, shape: Shape) -> Outcome {
    if shape != Shape::Table {
        print_value(&topic.document(), shape.into())?;
        return Ok(0);
    }
    for line in topic.lines() {
        print(&line);
    }
    Ok(0)
}

async fn one(client: &Client, id: &str, shape: Shape) -> Outcome {
    let answer = client.get(&format!("{REFUSALS}/{id}")).await;
    let answer = answer.map_err(|error| CommandError::from(error).hint(LIST_HINT))?;
    let mut found = items(&answer, "/refusals");
    let (Some(refusal), more) = (found.next(), found.collect::<Vec<_>>()) else {
        return Err(CommandError::failed(format!("nothing is known of {id}")).hint(LIST_HINT));
    };
    if !more.is_empty() {
        let ids = items(&answer, "/refusals").map(|of| text(of, "/id"));
        return Err(
            CommandError::usage(format!("{id} is the beginning of several ids"))
                .hint(ids.collect::<Vec<_>>().join("\n  ")),
        );
    }
    let mut refusal = refusal.clone();
    since::note(client, &mut refusal).await;
    let refusal = &refusal;
    let steps = next::steps(refusal);
    if shape != Shape::Table {
        let mut document = refusal.clone();
        document["next"] = json!(steps);
        print_value(&document, shape.into())?;
        return Ok(0);
    }
    for line in chain::lines(refusal, OffsetDateTime::now_utc()) {
        print(&line);
    }
    for (number, step) in steps.iter().enumerate() {
        let begin = if number == 0 { "Next:" } else { "     " };
        print(&format!("{begin} {step}"));
    }
    silent(&answer);
    Ok(0)
}

/// Proxies that said nothing may know more.
fn silent(answer: &Value) {
    let silent: Vec<&str> = items(answer, "/silent").filter_map(Value::as_str).collect();
    if !silent.is_empty() {
        say!("⚠ did not answer: {}", one_line(&silent.join(", ")));
    }
}

async fn list(client: &Client, shape: Shape) -> Outcome {
    let answer = client.get(REFUSALS).await?;
    if shape != Shape::Table {
        print_value(&answer, shape.into())?;
        return Ok(0);
    }
    let now = OffsetDateTime::now_utc();
    let rows: Vec<Vec<String>> = items(&answer, "/refusals")
        .map(|refusal| {
            let of = |pointer: &str| text(refusal, pointer).to_owned();
            let count = refusal.pointer("/count").and_then(Value::as_u64);
            vec![
                ago(text(refusal, "/at"), now),
                from(refusal),
                of("/to"),
                of("/reason"),
                count.unwrap_or(0).to_string(),
                of("/host"),
                of("/id"),
                decided(refusal),
            ]
        })
        .collect();
    if rows.is_empty() {
        let asked = answer.pointer("/asked").and_then(Value::as_u64);
        print(&format!(
            "✔ nothing was refused, as far as {} proxies remember",
            asked.unwrap_or(0)
        ));
    } else {
        print_table(
            &[
                "LAST",
                "FROM",
                "TO",
                "WHY",
                "COUNT",
                "BY",
                "ID",
                "RULE OR DETAIL",
            ],
            &rows,
        );
        print("Next: leno explain ID, or leno explain CODE: what a code below WHY means");
    }
    silent(&answer);
    Ok(0)
}

/// Whom policies call the caller; and its program, where that is called otherwise and its host says it.
fn from(refusal: &Value) -> String {
    let (caller, program) = (text(refusal, "/caller"), text(refusal, "/program"));
    let account = caller.rsplit('/').next().unwrap_or(caller);
    match program.is_empty() || [account, caller].contains(&deployed_name(program)) {
        true => caller.to_owned(),
        false => format!("{caller} ({program})"),
    }
}

/// The rule; and what it met, where it is not the rule that refuses.
fn decided(refusal: &Value) -> String {
    let detail = text(refusal, "/detail");
    match chain::rule(refusal.pointer("/rule")) {
        Some(rule) if text(refusal, "/reason") == Refusal::Denied.code() || detail.is_empty() => {
            rule
        }
        Some(rule) => format!("{rule}: {detail}"),
        None => detail.to_owned(),
    }
}

/// How long ago something was.
fn ago(at: &str, now: OffsetDateTime) -> String {
    match OffsetDateTime::parse(at, &Rfc3339) {
        Ok(at) => {
            let seconds = u64::try_from((now - at).whole_seconds()).unwrap_or(0);
            format!("{} ago", humanize(seconds))
        }
        Err(_) => "-".into(),
    }
}
