//! `leno restore`: a control plane's state from a backup, while none runs.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::Args;
use leno_controlplane::backup::{self, RestoreError, Restored};
use leno_runtime::block_on_local;

use super::up::running;
use crate::{
    exit::{CommandError, Outcome, chain},
    places::{self, CONTROL_PLANE},
};

/// Put a control plane's state back from a backup, while none runs there.
///
/// What was there is kept under another name. Members keep their places; watches begin anew; join tokens of the backup
/// count no more; hosts that joined since the backup join again.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The file that leno backup wrote; - is standard input
    file: PathBuf,
    /// The data directory of leno up or of leno control-plane (default: leno up's)
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Restores, and says what is different from before.
pub(crate) fn restore(args: &RestoreArgs) -> Outcome {
    let place = Place::of(args.data_dir.as_deref());
    let archive: Box<dyn Read> =
        if args.file == Path::new("-") {
            Box::new(io::stdin().lock())
        } else {
            let file = File::open(&args.file);
            Box::new(file.map_err(|error| {
                CommandError::failed(format!("{}: {error}", args.file.display()))
            })?)
        };
    let restoring = backup::restore(archive, &place.state, SystemTime::now());
    let restored = block_on_local("restore", restoring).map_err(|error| match error {
        RestoreError::Runs(_) => CommandError::refused(error),
        error => CommandError::failed(chain(&error)).hint("nothing was changed"),
    })?;
    tell(&restored, &place);
    Ok(0)
}

/// Where a control plane's state is, and who starts it there.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    state: PathBuf,
    start: String,
}

impl Place {
    /// `leno up` keeps its control plane's state in a directory of its own below the one it is given.
    fn of(given: Option<&Path>) -> Self {
        let Some(given) = given else {
            return Self {
                state: places::data_dir().join(CONTROL_PLANE),
                start: "leno up  (or leno control-plane)".into(),
            };
        };
        let (state, below) = if is_of_up(given) {
            (given.join(CONTROL_PLANE), Some(given))
        } else {
            let parent = given.parent().filter(|parent| is_of_up(parent));
            (given.to_owned(), parent)
        };
        let start = match below {
            Some(data_dir) => format!("leno up --data-dir {}", data_dir.display()),
            None => format!("leno control-plane --data-dir {}", state.display()),
        };
        Self { state, start }
    }
}

fn is_of_up(directory: &Path) -> bool {
    running::file(directory).exists() || directory.join(CONTROL_PLANE).exists()
}

fn tell(restored: &Restored, place: &Place) {
    let meshes = restored.meshes.join(", ");
    say!(
        "✔ restored {meshes} to {} as of {}",
        place.state.display(),
        restored.created
    );
    if restored.tokens_ended > 0 {
        say!(
            "  {} join tokens of the backup count no more: leno token create makes new ones",
            restored.tokens_ended
        );
    }
    if restored.people_ended > 0 {
        say!(
            "  {} people of the backup may do nothing yet: leno user create gives each a new certificate",
            restored.people_ended
        );
    }
    if restored.still_revoked > 0 {
        say!(
            "  {} hosts that were revoked since then stay so",
            restored.still_revoked
        );
    } else if restored.replaced.is_none() {
        say!("  hosts revoked since then count again: leno agent list, leno agent revoke HOST");
    }
    if restored.joined_again > 0 {
        say!(
            "  {} hosts that joined again since then keep what they were given then",
            restored.joined_again
        );
    }
    if !restored.revived.is_empty() {
        say!(
            "⚠ removed since then (or removed and made anew), and now again what they were, with all their members: {} (leno mesh delete)",
            restored.revived.join(", ")
        );
    }
    if let Some(replaced) = &restored.replaced {
        say!(
            "  what was there is in {}: remove it when all is well",
            replaced.display()
        );
    }
    say!("Start it again, as before:  {}", place.start);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::fs;

    use super::*;

    #[test]
    fn the_directory_that_leno_up_was_given_means_its_control_planes() {
        let directory = std::env::temp_dir().join(format!("leno-place-{}", std::process::id()));
        let own = Place {
            start: format!("leno control-plane --data-dir {}", directory.display()),
            state: directory.clone(),
        };
        assert_eq!(Place::of(Some(&directory)), own, "nothing is there yet");
        let state = directory.join(CONTROL_PLANE);
        fs::create_dir_all(&state).unwrap();
        let ups = Place {
            start: format!("leno up --data-dir {}", directory.display()),
            state: state.clone(),
        };
        assert_eq!(Place::of(Some(&directory)), ups);
        assert_eq!(Place::of(Some(&state)), ups, "either is understood");
        fs::remove_dir_all(&directory).unwrap();
    }
}
