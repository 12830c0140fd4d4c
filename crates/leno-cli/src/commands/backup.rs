//! `leno backup`: the control plane's whole state in one file, while it runs.

use std::{
    fs::{self, OpenOptions},
    io::{self, IsTerminal, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use clap::Args;

use crate::{
    client::{Client, Download},
    exit::{CommandError, Outcome},
};

/// Write the control plane's whole state to a file: documents, tokens, members, and every mesh's CA with its keys.
///
/// It is made while the control plane runs, on its own machine. Whoever has the file can be anyone in the mesh: it is
/// written 0600, and to be kept as a key is.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  leno backup mesh.tar
  leno backup - | age -r RECIPIENT > mesh.tar.age")]
pub(crate) struct BackupArgs {
    /// The file; - is standard output
    file: PathBuf,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
}

/// Writes it, and says how to take it back.
pub(crate) async fn backup(client: &Client, args: &BackupArgs) -> Outcome {
    let to_stdout = args.file == Path::new("-");
    if to_stdout && io::stdout().is_terminal() {
        return Err(CommandError::usage("a backup is no text for a terminal")
            .hint("name a file, or pipe it into another program"));
    }
    if !to_stdout && !args.force && args.file.exists() {
        let what = format!("{} is there already", args.file.display());
        return Err(CommandError::refused(what).hint("choose another name, or --force"));
    }
    let download = client.download_above("/leno/v1/backup").await?;
    if to_stdout {
        copy(download, &mut io::stdout().lock()).await?;
        return Ok(0);
    }
    let bytes = save(download, &args.file).await?;
    let file = args.file.display();
    say!("✔ backed up to {file} ({} kB)", bytes.div_ceil(1_000));
    say!("  it holds the CA's keys: whoever has it can be anyone in the mesh");
    let place = client.state_elsewhere();
    let place = place.map_or(String::new(), |place| {
        format!(" --data-dir {}", place.display())
    });
    say!("Take it back, with the control plane ended:  leno restore {file}{place}");
    Ok(0)
}

/// Under another name until it is whole and on the disk.
async fn save(download: Download, path: &Path) -> Result<u64, CommandError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let failed = |error: io::Error| CommandError::failed(format!("{}: {error}", path.display()));
    drop(fs::remove_file(&new));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .map_err(failed)?;
    let copied = copy(download, &mut file).await;
    let done = match copied {
        Ok(bytes) => file
            .sync_all()
            .and_then(|()| fs::rename(&new, path))
            .map_err(failed)
            .map(|()| bytes),
        Err(error) => Err(error),
    };
    if done.is_err() {
        drop(fs::remove_file(&new));
    }
    done
}

async fn copy(mut download: Download, out: &mut impl Write) -> Result<u64, CommandError> {
    let mut bytes = 0;
    while let Some(chunk) = download.next().await {
        let chunk = chunk.map_err(|error| {
            CommandError::failed(format!(
                "the backup is cut short: {}",
                CommandError::from(error).what
            ))
            .hint("the control plane's log says why")
        })?;
        out.write_all(&chunk).map_err(|error| {
            CommandError::failed(format!("the backup cannot be written: {error}"))
        })?;
        bytes += chunk.len() as u64;
    }
    out.flush()
        .map_err(|error| CommandError::failed(format!("the backup cannot be written: {error}")))?;
    Ok(bytes)
}
