//! `leno check`: is the mesh healthy, and what to do if not.

mod before;
mod conntrack;
mod mesh;
mod objects;

use clap::Args;
use leno_agent::protocol::Host;
use serde_json::{Value, json};

use crate::{
    client::Client,
    context,
    exit::{CommandError, Outcome, PERMISSION, UNREACHABLE},
    joined::Joined,
    output::{Shape, print, print_value},
    run::AgentSocket,
};

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
    if args.pre {
        findings.extend(before::findings());
        return end(&findings, args.output);
    }
    findings.push(agent());
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
    end(&findings, args.output)
}

fn end(findings: &[Finding], shape: Shape) -> Outcome {
    show(findings, shape)?;
    let ill = findings.iter().any(Finding::is_trouble);
    Ok(if ill { 3 } else { 0 })
}

fn show(findings: &[Finding], shape: Shape) -> Result<(), CommandError> {
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
    let namespaces = "programs can be given a network namespace (no way to the host's 127.0.0.1: --network host)";
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
    findings
}

/// Of the agent here: whether there is one, and how it stands with its control plane.
fn agent() -> Finding {
    let here = "this host";
    let wrong =
        |error: CommandError| ill(here, "its agent does not answer", error.what, error.hint);
    let socket = match AgentSocket::connect(None) {
        Ok(socket) => socket,
        Err(error) if error.code == UNREACHABLE => {
            return match Joined::here() {
                Some(joined) => ill(
                    here,
                    "its agent does not answer",
                    joined.to_string(),
                    "leno agent starts it",
                ),
                None => well(here, "no agent runs here: programs here are in no mesh"),
            };
        }
        Err(error) => return wrong(error),
    };
    let answers = format!("the agent answers at {}", socket.path().display());
    match socket.host() {
        Ok(host) => judge(answers, host),
        // It says nothing to who may not run programs here; that it does is an answer.
        Err(error) if error.code == PERMISSION => well(here, answers),
        Err(error) => wrong(error),
    }
}

fn judge(answers: String, host: Host) -> Finding {
    match host.trouble {
        None => well("this host", answers),
        Some(trouble) => ill(
            "this host",
            "its agent is not connected to the control plane",
            trouble.what,
            trouble.hint,
        ),
    }
}

#[cfg(test)]
mod tests {
    use leno_agent::protocol::Trouble;

    use super::*;

    #[test]
    fn an_agent_without_a_session_is_trouble_with_the_agents_own_next_step() {
        let host = |trouble| Host {
            name: "b".into(),
            mesh: "default".into(),
            addresses: Vec::new(),
            connected: false,
            trouble,
        };
        let revoked = Trouble {
            what: "this host is a member of the mesh no more".into(),
            hint: "leno leave".into(),
        };
        let finding = judge("the agent answers".into(), host(Some(revoked)));
        assert!(finding.is_trouble());
        let shown = format!("{finding:?}");
        assert!(
            shown.contains("no more") && shown.contains("leno leave"),
            "{shown}"
        );
        assert!(!judge("the agent answers".into(), host(None)).is_trouble());
    }
}
