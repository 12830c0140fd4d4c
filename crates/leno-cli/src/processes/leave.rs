//! `leno leave`: this host is a member no more.

use std::{fs, io, path::PathBuf};

use clap::Args;
use leno_agent::{KEPT_FILES, Membership};

use crate::{
    exit::{CommandError, Outcome},
    places,
};

/// Give up this host's membership, so that it can join another mesh, or the same with another token.
#[derive(Debug, Args)]
pub(crate) struct LeaveArgs {
    /// Where the host's membership is kept
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where the agent's socket is
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
}

/// Removes what `leno join` kept, and says what it was and whom it concerns. While the agent runs, it is told to be ended
/// first.
pub(crate) fn leave(args: &LeaveArgs) -> Outcome {
    let data_dir = args
        .data_dir
        .clone()
        .unwrap_or_else(|| places::data_dir().join("agent"));
    let run_dir = args.run_dir.clone().unwrap_or_else(places::run_dir);
    leno_agent::nobody_listens(&run_dir).map_err(|error| {
        CommandError::refused(error).hint("its programs would lose the mesh: end them, then it")
    })?;
    let programs = leno_agent::served(&run_dir);
    let kept = KEPT_FILES.map(|name| run_dir.join(name));
    let mut removed = 0;
    for path in std::iter::once(Membership::file(&data_dir)).chain(kept) {
        match fs::remove_file(&path) {
            Ok(()) => say!("✔ removed {}", path.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let what = format!("{}: {error}", path.display());
                return Err(CommandError::permission(what).hint("sudo leno leave"));
            }
            Err(error) => return Err(CommandError::failed(format!("{}: {error}", path.display()))),
        }
        removed += 1;
    }
    if removed == 0 {
        say!(
            "this host is a member of no mesh (nothing in {})",
            data_dir.display()
        );
    }
    if !programs.is_empty() {
        say!(
            "⚠ in no mesh from now on, where they still run: {}\n  nobody calls them, and their own calls get no answer: end them, or join a mesh, whose agent here takes them in",
            programs.join(", ")
        );
    }
    Ok(0)
}
