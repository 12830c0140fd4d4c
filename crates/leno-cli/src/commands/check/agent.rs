//! The agent of this host: whether it answers, stands well with its control plane, and keeps its membership fresh.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use leno_agent::{Membership, protocol::Host};

use super::{Check, Finding, ill, well};
use crate::{
    exit::{CommandError, PERMISSION, UNREACHABLE},
    joined::Joined,
    places,
    run::{AgentSocket, humanize},
};

/// An agent's certificate lasts 30 days and is renewed daily: with less left than this, it was not for two weeks.
const NOT_RENEWED: Duration = Duration::from_secs(16 * 86_400);

/// Whether there is one, and how it stands.
pub(super) fn findings(data_dir: &Path) -> Vec<Finding> {
    let mut findings = standing();
    findings.extend(certificate(data_dir));
    findings
}

fn standing() -> Vec<Finding> {
    let wrong = |error: CommandError| {
        let what = "its agent does not answer";
        vec![ill(Check::AgentAnswers, what, error.what, error.hint)]
    };
    let socket = match AgentSocket::connect(None) {
        Ok(socket) => socket,
        Err(error) if error.code == UNREACHABLE => {
            return vec![match Joined::here() {
                Some(joined) => ill(
                    Check::AgentAnswers,
                    "its agent does not answer",
                    joined.to_string(),
                    "leno agent starts it",
                ),
                None => nobody(&places::agent_sockets()),
            }];
        }
        Err(error) => return wrong(error),
    };
    let answers = format!("the agent answers at {}", socket.path().display());
    match socket.host() {
        Ok(host) => {
            let left = host
                .good_until
                .map(|end| left_until(end, SystemTime::now()));
            let mut found = vec![well(Check::AgentAnswers, answers), judge(host)];
            found.extend(left.map(away));
            found
        }
        // It says nothing to who may not run programs here; that it does is an answer.
        Err(error) if error.code == PERMISSION => vec![well(Check::AgentAnswers, answers)],
        Err(error) => wrong(error),
    }
}

/// No agent answers at any of these. One that ends takes its socket away: a socket is left of one that was killed.
fn nobody(sockets: &[PathBuf]) -> Finding {
    match sockets.iter().find(|socket| socket.exists()) {
        Some(left) => ill(
            Check::AgentAnswers,
            "the agent of this host has ended without cleaning up",
            format!(
                "nobody listens at {}, which it left; programs here cannot call or be called until it is back",
                left.display()
            ),
            "leno up, or leno agent, as before: it finds the programs that still run",
        ),
        None => well(
            Check::AgentAnswers,
            "no agent runs here: programs here are in no mesh",
        ),
    }
}

fn judge(host: Host) -> Finding {
    match host.trouble {
        None => well(
            Check::AgentConnected,
            format!(
                "it is connected to the control plane of mesh {}, as {}",
                host.mesh, host.name
            ),
        ),
        Some(trouble) => ill(
            Check::AgentConnected,
            "its agent is not connected to the control plane",
            trouble.what,
            trouble.hint,
        ),
    }
}

fn left_until(end: u64, now: SystemTime) -> u64 {
    let now = now.duration_since(SystemTime::UNIX_EPOCH);
    end.saturating_sub(now.unwrap_or_default().as_secs())
}

/// Its programs have certificates that are good for `left` more seconds.
fn away(left: u64) -> Finding {
    if left == 0 {
        return ill(
            Check::AgentAway,
            "a program here has a certificate that has ended",
            "nobody is called with it, and it serves nobody",
            "once the agent reaches its control plane it gets another: what is above says what keeps it",
        );
    }
    well(
        Check::AgentAway,
        format!(
            "its programs go on without a control plane for {}",
            humanize(left)
        ),
    )
}

/// Of the membership on the disk, for who may read it.
fn certificate(data_dir: &Path) -> Option<Finding> {
    let membership = Membership::load(&data_dir.join("agent")).ok()??;
    let left = membership
        .certificate
        .not_after()
        .duration_since(SystemTime::now());
    Some(judge_certificate(left.unwrap_or_default()))
}

fn judge_certificate(left: Duration) -> Finding {
    let time = humanize(left.as_secs());
    if left < NOT_RENEWED {
        return ill(
            Check::AgentCertificate,
            "its agent's certificate is not renewed",
            format!(
                "it ends in {time}, and would have been renewed daily; then this host is in the mesh no more"
            ),
            "does the agent run, and reach its control plane? its log says why not",
        );
    }
    well(
        Check::AgentCertificate,
        format!("its agent's certificate is good for {time}, and renewed daily"),
    )
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
            good_until: None,
        };
        let revoked = Trouble {
            what: "this host is a member of the mesh no more".into(),
            hint: "leno leave".into(),
            lasting: true,
        };
        let finding = judge(host(Some(revoked)));
        assert!(finding.is_trouble());
        let shown = format!("{finding:?}");
        assert!(
            shown.contains("no more") && shown.contains("leno leave"),
            "{shown}"
        );
        assert!(!judge(host(None)).is_trouble());
    }

    #[test]
    fn what_a_killed_agent_left_is_trouble_and_none_at_all_is_not() {
        assert!(nobody(&["/proc/self/exe".into()]).is_trouble());
        assert!(!nobody(&["/nonexistent/agent.sock".into()]).is_trouble());
    }

    #[test]
    fn for_how_long_programs_go_on_is_said_until_it_is_over() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let found = away(left_until(4_600, now));
        assert!(found.what.ends_with("for 60m"), "{}", found.what);
        assert!(away(left_until(1_000, now)).is_trouble());
        assert!(away(left_until(10, now)).is_trouble());
    }

    #[test]
    fn a_certificate_that_was_not_renewed_for_weeks_is_trouble() {
        let days = |days: u64| judge_certificate(Duration::from_secs(days * 86_400)).is_trouble();
        assert_eq!(
            (days(29), days(17), days(15), days(0)),
            (false, false, true, true)
        );
    }
}
