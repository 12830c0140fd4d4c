//! `leno join`: spends a token, keeps the membership, starts the agent.
//!
//! The token is read from a file or standard input, never from the command line, where every user could read it.

use std::{
    fs,
    io::{self, BufRead, IsTerminal, Read},
    path::{Path, PathBuf},
};

use clap::Args;
use leno_agent::{Config, DialError, JoinError, Membership, MembershipError};
use leno_runtime::block_on_local;
use leno_types::{DnsLabel, JoinToken};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};

use super::{agent, start_log};
use crate::{
    exit::{CommandError, Outcome, chain},
    joined::Joined,
};

/// Join a mesh with a token from `leno token create`.
#[derive(Debug, Args)]
#[command(
    override_usage = "leno join [OPTIONS] --token-file <FILE>",
    after_help = "Examples:
  leno token create | ssh db1 leno join --token-file -
  leno join --token-file token --address 10.0.0.2
  leno join --token-file token --no-agent    (then leno agent, from systemd for one)"
)]
pub(crate) struct JoinArgs {
    /// The file that holds the token; - reads standard input
    #[arg(long, value_name = "FILE", required_unless_present = "bare")]
    pub(crate) token_file: Option<PathBuf>,
    /// What is given without --token-file: it is not repeated
    #[arg(hide = true)]
    bare: Vec<String>,
    /// Join only; start the agent later with leno agent
    #[arg(long)]
    pub(crate) no_agent: bool,
    #[command(flatten)]
    pub(crate) agent: agent::AgentArgs,
}

/// Where the token is. One on the command line was seen by every user of this machine.
fn token_file(args: &JoinArgs) -> Result<&Path, CommandError> {
    let file = args.token_file.as_deref().filter(|_| args.bare.is_empty());
    file.ok_or_else(|| {
        CommandError::usage("a token is not taken from the command line, where others read it").hint(
            "leno join --token-file -   (then paste it); if it was a token, make another: leno token delete ID, leno token create",
        )
    })
}

/// Joins, and runs the agent until a signal.
pub(crate) fn join(args: &JoinArgs) -> Outcome {
    let token_file = token_file(args)?;
    start_log(args.agent.log, args.agent.verbose);
    let config = args.agent.config()?;
    let failed = |error: MembershipError| CommandError::failed(chain(&error));
    // Before the token is spent.
    if args.no_agent {
        leno_agent::nobody_listens(&config.run_dir).map_err(CommandError::failed)?;
    } else {
        leno_agent::can_begin(&config).map_err(CommandError::failed)?;
    }
    let token: JoinToken = read(token_file)?
        .trim()
        .parse()
        .map_err(CommandError::refused)?;
    let previous = may_join(&config, &token)?;
    Membership::prepare(&config.data_dir).map_err(failed)?;
    let joined = block_on_local(
        "join",
        leno_agent::join(&token, &config.host, &config.addresses, previous.as_ref()),
    );
    let membership = joined.map_err(|error| refused(error, previous.as_ref()))?;
    membership.save(&config.data_dir).map_err(failed)?;
    say!(
        "✔ pin matches  ✔ joined mesh \"{}\" as host {}",
        membership.mesh,
        membership.agent
    );
    let was = previous.map(|previous| previous.agent);
    if let Some(text) = renamed(&config.host, &membership.agent, was.as_ref()) {
        say!("⚠ {text}");
    }
    if args.no_agent {
        return Ok(0);
    }
    agent::run(config, membership).map_err(|error| match error.hint.as_str() {
        "" => error
            .hint("this host has joined, and needs no token any more: leno agent starts its agent"),
        _ => error,
    })
}

/// Why a host is not called what it asked for; `None` where it is, or was called so before.
fn renamed(asked: &DnsLabel, got: &DnsLabel, was: Option<&DnsLabel>) -> Option<String> {
    (asked != got && was != Some(got)).then(|| {
        format!(
            "the name {asked} is taken: by another host, or by this one's membership before it left or was revoked (leno agent list).\n  This host is {got} from now on; leno agent revoke {asked} does not concern it"
        )
    })
}

/// Before the token is spent: a host is in one mesh. Who joins that mesh again stays who it was, by the membership
/// that this gives.
fn may_join(config: &Config, token: &JoinToken) -> Result<Option<Membership>, CommandError> {
    match Membership::load(&config.data_dir) {
        Ok(Some(old)) if old.mesh != token.mesh => {
            let what = format!("{} already", Joined::of(&old));
            Err(CommandError::refused(what)
                .hint("leave that mesh first: leno leave; the token is not spent"))
        }
        Ok(previous) => Ok(previous),
        Err(error @ MembershipError::Io { .. }) => Err(CommandError::failed(chain(&error))),
        // Joining again is what these say to do.
        Err(error @ (MembershipError::Damaged { .. } | MembershipError::Certificate(_))) => {
            tracing::warn!(
                error = chain(&error),
                "the membership of before is replaced"
            );
            Ok(None)
        }
    }
}

fn refused(error: JoinError, previous: Option<&Membership>) -> CommandError {
    let refused = match error {
        JoinError::Dial(error @ (DialError::Unreachable { .. } | DialError::Transport { .. })) => {
            return CommandError::unreachable(chain(&error));
        }
        error => CommandError::refused(chain(&error)),
    };
    match previous.map(Joined::of) {
        // A token that this very host spent, more often than not.
        Some(joined) => refused.hint(format!(
            "{joined}: leno agent starts its agent, without a token, unless it was revoked"
        )),
        None => refused,
    }
}

/// At most so much is read: a token is shorter.
const MAX_TOKEN: u64 = 64 * 1024;

fn read(path: &Path) -> Result<String, CommandError> {
    let mut text = String::new();
    let done = if path != Path::new("-") {
        fs::File::open(path).and_then(|file| file.take(MAX_TOKEN).read_to_string(&mut text))
    } else if io::stdin().is_terminal() {
        ask(&mut text)
    } else {
        io::stdin().lock().take(MAX_TOKEN).read_to_string(&mut text)
    };
    done.map_err(|error| {
        if error.kind() == io::ErrorKind::Interrupted {
            return CommandError::failed("nothing was changed");
        }
        CommandError::failed(format!(
            "the token cannot be read from {}: {error}",
            path.display()
        ))
    })?;
    Ok(text)
}

/// Ctrl-C, as the terminal gives it to who takes no signals from it.
const INTERRUPT: u8 = 3;

/// Reads one line from the terminal, which shows none of it: a token is a secret. Ctrl-C ends the line as Enter does, and
/// not this process: it would leave the terminal silent.
fn ask(text: &mut String) -> io::Result<usize> {
    let input = io::stdin();
    crate::say::ask("Paste the token and press Enter:");
    let before = tcgetattr(&input)?;
    let mut silent = before.clone();
    silent
        .local_modes
        .remove(LocalModes::ECHO | LocalModes::ISIG);
    silent.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
    // A line of the terminal's own editing ends at 4095 bytes (termios(3)), which no token reaches.
    tcsetattr(&input, OptionalActions::Flush, &silent)?;
    let read = input.lock().fill_buf().map(<[u8]>::to_vec);
    tcsetattr(&input, OptionalActions::Now, &before)?;
    say!();
    let line = read?;
    if line.last() == Some(&INTERRUPT) {
        return Err(io::ErrorKind::Interrupted.into());
    }
    text.push_str(&String::from_utf8_lossy(&line));
    Ok(line.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn another_name_than_asked_for_is_told_with_its_reason_when_it_is_new() {
        let name = |text: &str| text.parse::<DnsLabel>().unwrap();
        let (b, other) = (name("b"), name("b-4d73"));
        let told = renamed(&b, &other, None).unwrap();
        assert!(
            told.contains("b is taken") && told.contains("b-4d73"),
            "{told}"
        );
        assert!(renamed(&b, &other, Some(&b)).is_some());
        assert_eq!(renamed(&b, &other, Some(&other)), None);
        assert_eq!(renamed(&b, &b, None), None);
    }
}
