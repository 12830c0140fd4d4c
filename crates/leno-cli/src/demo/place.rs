//! The demo's own directory: everything that it writes, but for the context, is in there.
//!
//! A directory is in use as long as its lock is held, which the kernel releases however a process ends; what nobody
//! holds any more is debris and goes. Its path is short: a Unix socket's has 108 bytes.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use crate::{
    context::{self, Context, Server},
    exit::CommandError,
    places,
};

const PREFIX: &str = "demo.";
/// A longer directory leaves too little for what comes below it.
const LONGEST: usize = 56;
/// More demos than this at once are a mistake.
const MOST: usize = 64;

/// A directory and a name that belong to this demo.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) dir: PathBuf,
    pub(super) context: Context,
    /// Held until the end.
    _lock: File,
}

impl Place {
    /// Makes the directory and takes a name: `wanted`, or the first that is free of demo, demo-2 and so on. The
    /// context is written at the same moment, so that no two demos can have one name.
    pub(super) fn claim(wanted: Option<&str>) -> Result<Self, CommandError> {
        let base = base();
        let failed = |error: io::Error| {
            CommandError::failed(format!(
                "the demo's directory cannot be made in {}: {error}",
                base.display()
            ))
            .hint("XDG_RUNTIME_DIR=DIR leno demo uses another")
        };
        make_base(&base).map_err(failed)?;
        sweep(&base);
        let (dir, lock) = make(&base).map_err(failed)?;
        let names: Vec<String> = match wanted {
            Some(name) => vec![name.into()],
            None => std::iter::once("demo".to_owned())
                .chain((2..=MOST).map(|number| format!("demo-{number}")))
                .collect(),
        };
        let new = |name: &str| Context {
            name: name.into(),
            server: Server::Unix {
                socket: dir.join("admin.sock"),
                path: format!("/meshes/{name}"),
            },
            namespace: super::plan::NAMESPACE.into(),
            credentials: None,
        };
        match context::claim(&names, new, is_debris) {
            Ok(Some(context)) => Ok(Self {
                dir,
                context,
                _lock: lock,
            }),
            Ok(None) => {
                clear(&dir);
                let taken = wanted.unwrap_or("demo");
                Err(
                    CommandError::refused(format!("there is a mesh called \"{taken}\" already"))
                        .hint("choose another: leno demo --name NAME"),
                )
            }
            Err(error) => {
                clear(&dir);
                Err(error)
            }
        }
    }

    /// The context's and the mesh's name.
    pub(super) fn name(&self) -> &str {
        &self.context.name
    }
}

/// Removes what a demo wrote; whoever comes second finds nothing to do.
pub(super) fn remove(dir: &Path, name: &str) {
    if let Err(error) = context::release(name, &dir.join("admin.sock")) {
        say!("leno: {error}");
    }
    clear(dir);
}

/// The socket at which the arena tells how it goes.
pub(super) fn news(dir: &Path) -> PathBuf {
    dir.join("news.sock")
}

/// Where each process's words are kept.
pub(super) fn logs(dir: &Path) -> PathBuf {
    dir.join("log")
}

fn base() -> PathBuf {
    let usual = places::run_dir();
    if usual.as_os_str().len() <= LONGEST {
        return usual;
    }
    PathBuf::from(format!("/tmp/leno-{}", leno_net::process::user()))
}

fn make_base(base: &Path) -> io::Result<()> {
    let mode = if leno_net::process::user() == 0 {
        0o755
    } else {
        0o700
    };
    DirBuilder::new().recursive(true).mode(mode).create(base)?;
    let found = fs::symlink_metadata(base)?;
    // In a directory that everybody may write to, another could have been first.
    if found.is_dir() && found.uid() == leno_net::process::user() {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        "it belongs to somebody else",
    ))
}

fn make(base: &Path) -> io::Result<(PathBuf, File)> {
    for number in 0..MOST {
        let dir = base.join(format!("{PREFIX}{}-{number}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            // The end of another demo removed the directory that it left empty.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_base(base)?;
                continue;
            }
            made => made?,
        }
        let lock = File::create(dir.join("lock"))?;
        lock.lock()?;
        return Ok((dir, lock));
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        "too many demos of the past are in there",
    ))
}

/// Removes what demos left that ended without anybody to clean up, as by a power failure.
fn sweep(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else {
        return;
    };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if is_ours && is_abandoned(&entry.path()) {
            clear(&entry.path());
        }
    }
}

/// Whether there is a lock and nobody holds it. A directory without one may be a moment old.
fn is_abandoned(dir: &Path) -> bool {
    match File::open(dir.join("lock")) {
        Ok(lock) => !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)),
        Err(_) => false,
    }
}

/// Whether a context is of a demo that has ended.
fn is_debris(server: &Server) -> bool {
    let Server::Unix { socket, .. } = server else {
        return false;
    };
    let Some(dir) = socket.parent() else {
        return false;
    };
    let name = dir
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    name.starts_with(PREFIX) && (!dir.exists() || is_abandoned(dir))
}

/// Removes a directory, and the one it is in if that is empty then.
fn clear(dir: &Path) {
    drop(fs::remove_dir_all(dir));
    if let Some(base) = dir.parent() {
        drop(fs::remove_dir(base));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn what_nobody_holds_is_debris_and_what_is_held_is_not() {
        let base = std::env::temp_dir().join(format!("leno-place-{}", std::process::id()));
        make_base(&base).unwrap();
        let (first, held) = make(&base).unwrap();
        let (second, left) = make(&base).unwrap();
        assert_ne!(first, second);
        drop(left);
        // A program that another test starts at this moment holds what we held until it is that program.
        let begun = std::time::Instant::now();
        while second.exists() && begun.elapsed().as_secs() < 10 {
            sweep(&base);
            std::thread::yield_now();
        }
        assert!(first.exists() && !second.exists());
        let server = |dir: &Path| Server::Unix {
            socket: dir.join("admin.sock"),
            path: "/".into(),
        };
        assert!(!is_debris(&server(&first)) && is_debris(&server(&second)));
        assert!(!is_debris(&server(Path::new("/run/leno"))));
        drop(held);
        clear(&first);
        assert!(!base.exists());
    }
}
