//! `leno check`: is the mesh healthy, and what to do if not.

mod conntrack;
mod mesh;
mod objects;

use clap::Args;
use serde_json::{Value, json};

use crate::{
    client::Client,
    context,
    exit::Outcome,
    joined::Joined,
    output::{Shape, print, print_value},
};

/// Check that the mesh is healthy, and say what to do if not.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// How to print it
    #[arg(long, short, value_enum, default_value = "table")]
    output: Shape,
}

/// One thing that was looked at.
#[derive(Debug)]
struct Finding {
    category: &'static str,
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

fn well(category: &'static str, what: impl Into<String>) -> Finding {
    Finding {
        category,
        what: what.into(),
        state: State::Well,
    }
}

fn told(category: &'static str, what: impl Into<String>, why: impl Into<String>) -> Finding {
    Finding {
        category,
        what: what.into(),
        state: State::Told(why.into()),
    }
}

fn ill(
    category: &'static str,
    what: impl Into<String>,
    why: impl Into<String>,
    hint: impl Into<String>,
) -> Finding {
    Finding {
        category,
        what: what.into(),
        state: State::Ill {
            why: why.into(),
            hint: hint.into(),
        },
    }
}

/// Runs every check; exit code 3 when one found something.
pub(crate) async fn check(name: Option<&str>, args: &CheckArgs) -> Outcome {
    let mut findings = this_host();
    match context::load(name) {
        Ok(context) => {
            findings.push(well("api", format!("context \"{}\"", context.name)));
            mesh::mesh(&Client::new(context), &mut findings).await;
        }
        Err(error) => findings.push(match Joined::here() {
            Some(joined) => well("api", format!("{joined}; there is no context here")),
            None => ill("api", "no context is here", error.what, error.hint),
        }),
    }
    show(&findings, args.output)?;
    let ill = findings.iter().any(Finding::is_trouble);
    Ok(if ill { 3 } else { 0 })
}

fn show(findings: &[Finding], shape: Shape) -> Result<(), crate::exit::CommandError> {
    if shape != Shape::Table {
        return print_value(&findings.iter().map(document).collect(), shape.into());
    }
    let mut category = "";
    for finding in findings {
        if finding.category != category {
            let gap = if category.is_empty() { "" } else { "\n" };
            category = finding.category;
            print(&format!("{gap}{category}\n{}", "-".repeat(category.len())));
        }
        let what = &finding.what;
        print(&match &finding.state {
            State::Well => format!("✔ {what}"),
            State::Told(why) => format!("⚠ {what}\n    {why}"),
            State::Ill { why, hint } => format!("✘ {what}\n    {why}\n    {hint}"),
        });
    }
    let count =
        |of: fn(&State) -> bool| findings.iter().filter(|finding| of(&finding.state)).count();
    let ill = count(|state| matches!(state, State::Ill { .. }));
    let told = count(|state| matches!(state, State::Told(_)));
    print(&match (ill, told) {
        (0, 0) => "\n✔ all is well".into(),
        (0, told) => format!("\n✔ all is well; to be known: {told} ⚠"),
        (ill, _) => format!("\n✘ not as it should be: {ill} of {}", findings.len()),
    });
    Ok(())
}

fn document(finding: &Finding) -> Value {
    let (level, problem, hint) = match &finding.state {
        State::Well => ("well", None, None),
        State::Told(why) => ("warning", Some(why), None),
        State::Ill { why, hint } => ("error", Some(why), Some(hint)),
    };
    json!({"category": finding.category, "check": finding.what, "ok": !finding.is_trouble(), "level": level,
        "problem": problem, "hint": hint})
}

/// What programs need of this machine.
fn this_host() -> Vec<Finding> {
    let namespaces = "programs can be given a network namespace";
    let root = leno_net::netns::has_admin_capability();
    let allowed = std::fs::read_to_string("/proc/sys/user/max_user_namespaces")
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok())
        .unwrap_or(0);
    let mut findings = vec![if root || allowed > 0 {
        well("this host", namespaces)
    } else {
        ill(
            "this host",
            "programs cannot be given a network namespace",
            "user namespaces are forbidden (user.max_user_namespaces is 0)",
            "as root: sysctl -w user.max_user_namespaces=10000; or run leno as root",
        )
    }];
    findings.push(if leno_net::link::ipv6_enabled() {
        well("this host", "IPv4 and IPv6")
    } else {
        well(
            "this host",
            "IPv4 only: IPv6 is switched off, names have no AAAA",
        )
    });
    findings.extend(conntrack::finding());
    let agents = crate::places::agent_sockets();
    let agent = agents
        .iter()
        .find(|path| std::os::unix::net::UnixStream::connect(path).is_ok());
    findings.push(match agent {
        Some(path) => well(
            "this host",
            format!("the agent answers at {}", path.display()),
        ),
        None => match Joined::here() {
            Some(joined) => ill(
                "this host",
                "its agent answers",
                joined.to_string(),
                "leno agent starts it",
            ),
            None => well(
                "this host",
                "no agent runs here: programs here are in no mesh",
            ),
        },
    });
    findings
}
