//! `leno check`: is the mesh healthy, and what to do if not.

mod agent;
mod before;
mod catalogue;
mod conntrack;
mod contexts;
mod control_plane;
mod host;
mod mesh;
mod objects;
mod plaintext;

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

pub(super) use self::catalogue::Check;
use crate::{
    context,
    exit::{CommandError, Outcome},
    output::{Shape, print, print_value},
    places::{self, CONTROL_PLANE},
    run::AgentSocket,
};

/// Where every check has a paragraph.
const PAGE: &str = "docs/reference/check.md";

/// Check that the mesh is healthy, and say what to do if not.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Look at this machine only, before a mesh or an agent is here: namespaces, ports, firewall
    #[arg(long)]
    pre: bool,
    /// How to print it
    #[arg(long, short, value_enum, default_value = "table")]
    output: Shape,
}

/// One thing that was looked at.
#[derive(Debug)]
struct Finding {
    check: Check,
    what: String,
    state: State,
}

#[derive(Debug)]
enum State {
    Well,
    /// Worth knowing, and perhaps as somebody wants it.
    Told(String),
    /// What is wrong, and what to do.
    Ill {
        why: String,
        hint: String,
    },
}

impl Finding {
    fn is_trouble(&self) -> bool {
        matches!(self.state, State::Ill { .. })
    }
}

fn well(check: Check, what: impl Into<String>) -> Finding {
    Finding {
        check,
        what: what.into(),
        state: State::Well,
    }
}

fn told(check: Check, what: impl Into<String>, why: impl Into<String>) -> Finding {
    Finding {
        check,
        what: what.into(),
        state: State::Told(why.into()),
    }
}

fn ill(
    check: Check,
    what: impl Into<String>,
    why: impl Into<String>,
    hint: impl Into<String>,
) -> Finding {
    Finding {
        check,
        what: what.into(),
        state: State::Ill {
            why: why.into(),
            hint: hint.into(),
        },
    }
}

/// Runs every check; exit code 3 when one found something.
pub(crate) async fn check(name: Option<&str>, args: &CheckArgs) -> Outcome {
    if args.pre {
        let mut findings = host::findings(&places::data_dir(), &places::run_dir());
        findings.extend(before::findings());
        return end(findings, args.output);
    }
    let (data_dir, run_dir) = in_use(name);
    let mut findings = host::findings(&data_dir, &run_dir);
    findings.extend(agent::findings(&data_dir));
    if let Some(client) = contexts::findings(name, &mut findings) {
        mesh::mesh(&client, &mut findings).await;
    }
    end(findings, args.output)
}

/// Where the mesh of a context, and the agent of this host, keep what they keep: elsewhere than usually, if they were
/// told so.
fn in_use(name: Option<&str>) -> (PathBuf, PathBuf) {
    let context = context::load(name).ok();
    let state = context.as_ref().and_then(|of| of.server.state_elsewhere());
    let data_dir = match state {
        // Below that of leno up, which has the agent's beside it.
        Some(state) => match state.parent().filter(|_| state.ends_with(CONTROL_PLANE)) {
            Some(up) => up.to_owned(),
            None => state.to_owned(),
        },
        None => places::data_dir(),
    };
    let agent = AgentSocket::connect(None).ok();
    let run_dir = agent.and_then(|agent| agent.path().parent().map(Path::to_owned));
    (data_dir, run_dir.unwrap_or_else(places::run_dir))
}

fn end(mut findings: Vec<Finding>, shape: Shape) -> Outcome {
    together(&mut findings);
    show(&findings, shape)?;
    let ill = findings.iter().any(Finding::is_trouble);
    Ok(if ill { 3 } else { 0 })
}

/// Puts those of a category together, in the order in which categories came up.
fn together(findings: &mut [Finding]) {
    let mut order: Vec<&str> = Vec::new();
    for finding in findings.iter() {
        let category = finding.check.category();
        if !order.contains(&category) {
            order.push(category);
        }
    }
    findings.sort_by_key(|of| order.iter().position(|known| *known == of.check.category()));
}

fn show(findings: &[Finding], shape: Shape) -> Result<(), CommandError> {
    if shape != Shape::Table {
        return print_value(&findings.iter().map(document).collect(), shape.into());
    }
    let mut category = "";
    for finding in findings {
        if finding.check.category() != category {
            if !category.is_empty() {
                print("");
            }
            category = finding.check.category();
            print(category);
            print(&"-".repeat(category.len()));
        }
        let (sign, why, hint) = match &finding.state {
            State::Well => ('✔', None, None),
            State::Told(why) => ('⚠', Some(why), None),
            State::Ill { why, hint } => ('✘', Some(why), Some(hint)),
        };
        print(&format!("{sign} {}", finding.what));
        let page = why.map(|_| format!("leno explain {}", finding.check.id()));
        // What is wrong with each field is a line of its own.
        let why = why.map(|why| why.replace("; spec.", "\nspec."));
        let said = why.as_deref().unwrap_or_default().lines();
        for line in said.chain(
            [hint.map(String::as_str), page.as_deref()]
                .into_iter()
                .flatten(),
        ) {
            print(&format!("    {line}"));
        }
    }
    let count =
        |of: fn(&State) -> bool| findings.iter().filter(|finding| of(&finding.state)).count();
    let ill = count(|state| matches!(state, State::Ill { .. }));
    let told = count(|state| matches!(state, State::Told(_)));
    print("");
    print(&match (ill, told) {
        (0, 0) => "✔ all is well".into(),
        (0, told) => format!("✔ nothing is broken; {told} ⚠ to look at"),
        (ill, _) => format!("✘ not as it should be: {ill} of {}", findings.len()),
    });
    Ok(())
}

/// Where more is said of a check.
fn page(finding: &Finding) -> String {
    format!("{PAGE}#{}", finding.check.id())
}

fn document(finding: &Finding) -> Value {
    let (level, problem, hint) = match &finding.state {
        State::Well => ("well", None, None),
        State::Told(why) => ("warning", Some(why), None),
        State::Ill { why, hint } => ("error", Some(why), Some(hint)),
    };
    json!({"id": finding.check.id(), "category": finding.check.category(), "check": finding.what,
        "ok": !finding.is_trouble(), "level": level, "problem": problem, "hint": hint, "page": page(finding)})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_category_is_shown_once() {
        let mut findings = vec![
            well(Check::ControlPlaneAnswers, "a"),
            well(Check::WorkloadReady, "b"),
            well(Check::ControlPlaneAway, "c"),
        ];
        together(&mut findings);
        let order: Vec<&str> = findings.iter().map(|of| of.what.as_str()).collect();
        assert_eq!(order, ["a", "c", "b"]);
    }
}
