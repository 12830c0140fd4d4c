//! `leno up --detach`: the same command in a session of its own, waited for until programs may start.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::{
        fs::{DirBuilderExt, OpenOptionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::running;
use crate::{
    exit::{CommandError, Outcome},
    places,
};

/// It is ready within this, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);
/// So much of its log is read when it failed.
const READ: u64 = 16 * 1024;
/// A longer log begins anew at the next start.
const LONGEST_LOG: u64 = 16 * 1024 * 1024;

/// What the second process is told, beside the words of the first.
pub(crate) const IN_BACKGROUND: &str = "--in-background";

/// Starts it, waits until it is ready, and leaves it.
pub(crate) async fn detach(data_dir: &Path) -> Outcome {
    if let Ok(Some(other)) = running::find(data_dir) {
        return Err(other.runs_already(data_dir));
    }
    let log = log_file(data_dir);
    let failed = |error: io::Error| {
        CommandError::failed(format!("{} cannot be used: {error}", log.display()))
    };
    let (file, begins) = open_log(data_dir, &log).map_err(failed)?;
    let mut child = spawn(file).map_err(|error| {
        CommandError::failed(format!(
            "leno up cannot be started in the background: {error}"
        ))
    })?;
    let begun = Instant::now();
    loop {
        if let Some(note) = running::read(data_dir)
            && note.pid == child.id()
            && note.ready
        {
            if !note.trouble.is_empty() {
                let what = format!(
                    "leno up runs in the background (pid {}), but its agent is not in the mesh: {}",
                    note.pid, note.trouble
                );
                return Err(CommandError::failed(what).hint(note.hint));
            }
            say!(
                "✔ control plane https://{}   ✔ context \"{}\" written   ✔ agent ready\n✔ it runs in the background (pid {}), and logs to {}\nTry: {}leno run -- curl -sS http://NAME/  |  leno token create --service NAME  |  leno down{}",
                note.control_plane,
                note.mesh,
                note.pid,
                log.display(),
                places::agent_of(&note.run_dir),
                places::data_of(data_dir)
            );
            return Ok(0);
        }
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => {
                let code = status.code().and_then(|code| u8::try_from(code).ok());
                let said = said(&log, begins);
                return Err(CommandError {
                    code: code.filter(|code| *code != 0).unwrap_or(1),
                    ..said
                });
            }
            Err(error) => return Err(CommandError::failed(error)),
        }
        if begun.elapsed() > PATIENCE {
            // It may yet become ready: whoever waits for it is told where to look.
            let what = format!(
                "leno up (pid {}) is not ready after {} s",
                child.id(),
                PATIENCE.as_secs()
            );
            let hint = format!(
                "read {}; leno down{} ends it",
                log.display(),
                places::data_of(data_dir)
            );
            return Err(CommandError::failed(what).hint(hint));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Where it writes its log.
pub(crate) fn log_file(data_dir: &Path) -> PathBuf {
    data_dir.join("up.log")
}

fn open_log(data_dir: &Path, path: &Path) -> io::Result<(File, u64)> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)?;
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    if file.metadata()?.len() > LONGEST_LOG {
        file.set_len(0)?;
    }
    let begins = file.metadata()?.len();
    Ok((file, begins))
}

/// The same words again, but for the one that asked for this.
fn spawn(log: File) -> io::Result<Child> {
    let words = std::env::args_os()
        .skip(1)
        .filter(|word| word != "--detach");
    Command::new("/proc/self/exe")
        .arg0("leno")
        .args(words)
        .arg(IN_BACKGROUND)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
}

/// The error at the end of what it said since it was started.
fn said(log: &Path, begins: u64) -> CommandError {
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(begins.max(length.saturating_sub(READ))))?;
        let mut bytes = Vec::new();
        file.take(READ).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let error = text
        .rfind("leno: ")
        .and_then(|at| text.get(at + "leno: ".len()..))
        .map(str::trim_end)
        .filter(|error| !error.is_empty());
    match error {
        Some(error) => CommandError::failed(error),
        None => CommandError::failed("leno up ended before it was ready")
            .hint(format!("read {}", log.display())),
    }
}
