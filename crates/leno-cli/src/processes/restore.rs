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

use crate::{
    exit::{CommandError, Outcome, chain},
    places,
};

/// Put a control plane's state back from a backup, while none runs there.
///
/// What was there is kept under another name. Members keep their places; watches begin anew; join tokens of the backup
/// count no more; hosts that joined since the backup join again.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The file that leno backup wrote; - is standard input
    file: PathBuf,
    /// The control plane's data directory (default: that of leno up's control plane)
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Restores, and says what is different from before.
pub(crate) fn restore(args: &RestoreArgs) -> Outcome {
    let default = || places::data_dir().join("control-plane");
    let data_dir = args.data_dir.clone().unwrap_or_else(default);
    let archive: Box<dyn Read> =
        if args.file == Path::new("-") {
            Box::new(io::stdin().lock())
        } else {
            let file = File::open(&args.file);
            Box::new(file.map_err(|error| {
                CommandError::failed(format!("{}: {error}", args.file.display()))
            })?)
        };
    let restoring = backup::restore(archive, &data_dir, SystemTime::now());
    let restored = block_on_local("restore", restoring).map_err(|error| match error {
        RestoreError::Runs(_) => CommandError::refused(error),
        error => CommandError::failed(chain(&error)).hint("nothing was changed"),
    })?;
    tell(&restored, &data_dir);
    Ok(0)
}

fn tell(restored: &Restored, data_dir: &Path) {
    let meshes = restored.meshes.join(", ");
    eprintln!(
        "✔ restored {meshes} to {} as of {}",
        data_dir.display(),
        restored.created
    );
    if restored.tokens_ended > 0 {
        eprintln!(
            "  {} join tokens of the backup count no more: leno token create makes new ones",
            restored.tokens_ended
        );
    }
    if restored.people_ended > 0 {
        eprintln!(
            "  {} people of the backup may do nothing yet: leno user create gives each a new certificate",
            restored.people_ended
        );
    }
    if restored.still_revoked > 0 {
        eprintln!(
            "  {} hosts that were revoked since then stay so",
            restored.still_revoked
        );
    } else if restored.replaced.is_none() {
        eprintln!(
            "  hosts revoked since then count again: leno agent list, leno agent revoke HOST"
        );
    }
    if let Some(replaced) = &restored.replaced {
        eprintln!(
            "  what was there is in {}: remove it when all is well",
            replaced.display()
        );
    }
    eprintln!("Start it again:  leno up  (or leno control-plane)");
}
