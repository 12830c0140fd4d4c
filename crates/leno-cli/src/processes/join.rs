//! `leno join`: spends a token, keeps the membership, starts the agent.
//!
//! The token is read from a file or standard input, never from the command line, where every user could read it.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use clap::Args;
use leno_agent::{DialError, JoinError, Membership, MembershipError};
use leno_runtime::block_on_local;
use leno_types::JoinToken;

use super::{agent, start_log};
use crate::exit::{CommandError, Outcome, chain};

/// Join a mesh with a token from `leno token create`.
#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// The file that holds the token; - reads standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: PathBuf,
    /// Join only; start the agent later with leno agent
    #[arg(long)]
    pub(crate) no_agent: bool,
    #[command(flatten)]
    pub(crate) agent: agent::AgentArgs,
}

/// Joins, and runs the agent until a signal.
pub(crate) fn join(args: &JoinArgs) -> Outcome {
    start_log(args.agent.log, args.agent.verbose);
    let token: JoinToken = read(&args.token_file)?
        .trim()
        .parse()
        .map_err(CommandError::refused)?;
    let config = args.agent.config()?;
    let failed = |error: leno_agent::MembershipError| CommandError::failed(chain(&error));
    let previous = match Membership::load(&config.data_dir) {
        Ok(Some(old)) if old.mesh != token.mesh => {
            let what = format!("this host is a member of mesh \"{}\" already", old.mesh);
            return Err(CommandError::refused(what).hint(format!(
                "leave it first: end its agent, and remove {}",
                config.data_dir.display()
            )));
        }
        Ok(previous) => previous,
        Err(error @ MembershipError::Io { .. }) => return Err(failed(error)),
        // Joining again is what these say to do.
        Err(error @ (MembershipError::Damaged { .. } | MembershipError::Certificate(_))) => {
            tracing::warn!(
                error = chain(&error),
                "the membership of before is replaced"
            );
            None
        }
    };
    // While an agent runs here, another membership would only be in its way.
    if !args.no_agent {
        leno_agent::may_listen(&config).map_err(CommandError::failed)?;
    }
    Membership::prepare(&config.data_dir).map_err(failed)?;
    let joined = block_on_local(
        "join",
        leno_agent::join(&token, &config.host, &config.addresses, previous.as_ref()),
    );
    let membership = joined.map_err(refused)?;
    membership.save(&config.data_dir).map_err(failed)?;
    eprintln!(
        "✔ pin matches  ✔ joined mesh \"{}\" as host {}",
        membership.mesh, membership.agent
    );
    if args.no_agent {
        return Ok(0);
    }
    agent::run(config, membership)
}

fn refused(error: JoinError) -> CommandError {
    match error {
        JoinError::Dial(error @ (DialError::Unreachable { .. } | DialError::Transport { .. })) => {
            CommandError::unreachable(chain(&error))
        }
        error => CommandError::refused(chain(&error)),
    }
}

/// At most so much is read: a token is shorter.
const MAX_TOKEN: u64 = 64 * 1024;

fn read(path: &Path) -> Result<String, CommandError> {
    let mut text = String::new();
    let done = if path == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(MAX_TOKEN)
            .read_to_string(&mut text)
    } else {
        fs::File::open(path).and_then(|file| file.take(MAX_TOKEN).read_to_string(&mut text))
    };
    done.map_err(|error| {
        CommandError::failed(format!(
            "the token cannot be read from {}: {error}",
            path.display()
        ))
    })?;
    Ok(text)
}
