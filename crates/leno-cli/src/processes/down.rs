//! `leno down`: ends the `leno up` of this machine, and with `--purge` removes what it kept.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use super::up::{background, running};
use crate::{
    context,
    exit::{CommandError, Outcome},
    places,
};

/// It drains and ends within this.
const PATIENCE: Duration = Duration::from_secs(30);

/// End the mesh that leno up started on this machine.
#[derive(Debug, Args)]
pub(crate) struct DownArgs {
    /// Where its state is
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Also remove its state: the mesh's documents, its CA with all keys, the host's membership, the context
    #[arg(long)]
    purge: bool,
}

/// Ends it, and says what was removed.
pub(crate) fn down(args: &DownArgs) -> Outcome {
    let data_dir = args.data_dir.clone().unwrap_or_else(places::data_dir);
    let failed = |error: io::Error| {
        let what = format!("{}: {error}", data_dir.display());
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                CommandError::permission(what).hint("sudo leno down ends root's")
            }
            _ => CommandError::failed(what),
        }
    };
    if args.purge {
        nobody_is_left(&data_dir)?;
    }
    match running::find(&data_dir).map_err(failed)? {
        Some(note) => {
            end(note.pid)?;
            say!(
                "✔ ended leno up (pid {}), with its rules, namespaces and sockets",
                note.pid
            );
        }
        None => {
            say!("no leno up runs with {}", data_dir.display());
            if let Some(elsewhere) = of_the_context(&data_dir) {
                say!(
                    "  that of your context: leno down --data-dir {}",
                    elsewhere.display()
                );
            }
            let roots = Path::new(places::ROOTS_DATA);
            if data_dir != roots && roots.exists() {
                say!("  sudo leno down ends root's, with {}", roots.display());
            }
        }
    }
    if args.purge {
        purge(&data_dir)?;
    }
    Ok(0)
}

/// The data directory of the `leno up` that the current context leads to, if it is another and it runs.
fn of_the_context(data_dir: &Path) -> Option<PathBuf> {
    let context = context::load(None).ok()?;
    let up = context.server.state_elsewhere()?.parent()?;
    let runs = matches!(running::find(up), Ok(Some(_)));
    (up != data_dir && runs).then(|| up.to_owned())
}

/// Refuses while programs run whose rules on this host nobody would take away any more.
fn nobody_is_left(data_dir: &Path) -> Result<(), CommandError> {
    let run_dir = running::read(data_dir).map_or_else(places::run_dir, |note| note.run_dir);
    let programs = leno_agent::on_host_network(&run_dir);
    if programs.is_empty() {
        return Ok(());
    }
    let what = format!(
        "on the host's network still run {}: without this mesh's state nobody could take away the rules that capture them",
        programs.join(", ")
    );
    Err(CommandError::refused(what)
        .hint("end them first (their leno run; while leno up runs, so that it cleans up behind them), then leno down --purge"))
}

fn end(pid: u32) -> Result<(), CommandError> {
    let Some(process) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Err(CommandError::failed(format!("{pid} is no process")));
    };
    // Of the process itself: its number may be another's by the time it is asked for again.
    let watched = match pidfd_open(process, PidfdFlags::NONBLOCK) {
        Ok(watched) => watched,
        Err(Errno::SRCH) => return Ok(()),
        Err(error) => return Err(CommandError::failed(format!("pid {pid}: {error}"))),
    };
    match pidfd_send_signal(&watched, Signal::TERM) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(Errno::PERM) => {
            let what = format!("leno up (pid {pid}) belongs to another user");
            return Err(CommandError::permission(what).hint("sudo leno down ends it"));
        }
        Err(error) => return Err(CommandError::failed(format!("pid {pid}: {error}"))),
    }
    let patience = Timespec::try_from(PATIENCE).map_err(CommandError::failed)?;
    let mut ended = [PollFd::new(&watched, PollFlags::IN)];
    let answers = poll(&mut ended, Some(&patience)).map_err(CommandError::failed)?;
    if answers == 0 {
        let what = format!(
            "leno up (pid {pid}) has not ended after {} s",
            PATIENCE.as_secs()
        );
        return Err(CommandError::failed(what).hint(format!("kill -9 {pid} ends it at once")));
    }
    Ok(())
}

/// What `leno restore` kept of the control plane's state before.
fn replaced_states(data_dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data_dir).into_iter().flatten().flatten();
    let kept = entries.filter(|entry| {
        let name = entry.file_name();
        name.to_string_lossy()
            .starts_with("control-plane.before-restore-")
    });
    kept.map(|entry| entry.path()).collect()
}

/// Removes exactly what `leno up` and `leno restore` made.
fn purge(data_dir: &Path) -> Result<(), CommandError> {
    let run_dir = running::read(data_dir).map_or_else(places::run_dir, |note| note.run_dir);
    let control_plane = data_dir.join(places::CONTROL_PLANE);
    for name in context::release_socket(&control_plane.join("admin.sock"))? {
        say!("✔ removed context {name}");
    }
    let directories = [control_plane, data_dir.join("agent")];
    let kept = leno_agent::KEPT_FILES.map(|name| run_dir.join(name));
    let files = [running::file(data_dir), background::log_file(data_dir)];
    let replaced = replaced_states(data_dir);
    for path in directories
        .into_iter()
        .chain(replaced)
        .chain(kept)
        .chain(files)
    {
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        match removed {
            Ok(()) => say!("✔ removed {}", path.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(CommandError::failed(format!(
                    "{} cannot be removed: {error}",
                    path.display()
                )));
            }
        }
    }
    // Only when nothing else is in them.
    drop(fs::remove_dir(run_dir));
    drop(fs::remove_dir(data_dir));
    Ok(())
}
