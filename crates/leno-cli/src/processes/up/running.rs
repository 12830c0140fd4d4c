//! Which `leno up` runs here: a file in its data directory that is locked as long as it lives, and says who it is.
//!
//! Invariant: what nobody holds the lock of means nothing, however its process ended.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{exit::CommandError, places};

const FILE: &str = "up.lock";
/// Somebody who only looks holds the lock for a moment.
const LOOKS: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(10);
/// A longer note is none of ours.
const LONGEST: u64 = 4096;

/// What a `leno up` says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) pid: u32,
    /// The mesh's and the context's name.
    pub(crate) mesh: String,
    /// Where others reach the control plane.
    pub(crate) control_plane: String,
    /// Where its sockets are.
    pub(crate) run_dir: PathBuf,
    /// Whether programs may start.
    pub(crate) ready: bool,
    /// What keeps the agent from its control plane all the same; empty for nothing.
    #[serde(default)]
    pub(crate) trouble: String,
    /// What to do about it.
    #[serde(default)]
    pub(crate) hint: String,
}

/// The lock of a `leno up` that runs.
#[derive(Debug)]
pub(crate) struct Running(File);

impl Running {
    /// Takes the lock, unless another has it: that one's note is the error's text.
    pub(crate) async fn claim(data_dir: &Path, note: &Note) -> Result<Self, CommandError> {
        let path = data_dir.join(FILE);
        let failed = |error: io::Error| {
            CommandError::failed(format!("{} cannot be used: {error}", path.display())).hint(
                "give another place with --data-dir, or its owner's rights (sudo leno up is root's)",
            )
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data_dir)
            .map_err(failed)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        let begun = Instant::now();
        while let Err(error) = file.try_lock() {
            match error {
                TryLockError::Error(error) => return Err(failed(error)),
                TryLockError::WouldBlock => {}
            }
            if let Some(other) = read(data_dir)
                && Path::new("/proc").join(other.pid.to_string()).exists()
                && begun.elapsed() > LOOKS
            {
                return Err(other.runs_already(data_dir));
            }
            tokio::time::sleep(LOOK).await;
        }
        let mut running = Self(file);
        running.tell(note).map_err(failed)?;
        Ok(running)
    }

    /// Replaces the note.
    pub(crate) fn tell(&mut self, note: &Note) -> io::Result<()> {
        let text = serde_json::to_vec(note)?;
        self.0.set_len(0)?;
        self.0.seek(SeekFrom::Start(0))?;
        self.0.write_all(&text)
    }
}

impl Note {
    pub(crate) fn runs_already(&self, data_dir: &Path) -> CommandError {
        let what = format!(
            "leno up runs here already (pid {}, mesh \"{}\")",
            self.pid, self.mesh
        );
        CommandError::failed(what).hint(format!(
            "use it: leno status, {}leno run -- PROGRAM; end it: leno down{}\n  a second mesh on this machine needs a --data-dir, a --run-dir and ports of its own",
            places::agent_of(&self.run_dir),
            places::data_of(data_dir),
        ))
    }
}

/// What the file says, whether anybody holds its lock or not.
pub(crate) fn read(data_dir: &Path) -> Option<Note> {
    let mut text = String::new();
    let file = File::open(data_dir.join(FILE)).ok()?;
    file.take(LONGEST).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// The `leno up` that runs with this data directory.
pub(crate) fn find(data_dir: &Path) -> io::Result<Option<Note>> {
    let file = match File::open(data_dir.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(read(data_dir)),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Where the lock is.
pub(crate) fn file(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[tokio::test]
    async fn one_runs_at_a_time_and_the_second_is_told_of_the_first() {
        let dir = std::env::temp_dir().join(format!("leno-up-{}", std::process::id()));
        let mut note = Note {
            pid: std::process::id(),
            mesh: "default".into(),
            ..Note::default()
        };
        assert_eq!(find(&dir).unwrap(), None);
        let mut first = Running::claim(&dir, &note).await.unwrap();
        let error = Running::claim(&dir, &note).await.unwrap_err();
        assert!(error.what.contains("runs here already (pid"), "{error}");
        assert!(error.hint.contains("leno down"), "{error}");
        note.ready = true;
        first.tell(&note).unwrap();
        assert_eq!(find(&dir).unwrap().as_ref(), Some(&note));
        drop(first);
        // The note of one that was killed is left, and means nothing.
        assert_eq!(find(&dir).unwrap(), None);
        assert_eq!(read(&dir).as_ref(), Some(&note));
        drop(Running::claim(&dir, &note).await.unwrap());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
