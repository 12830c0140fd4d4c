//! Files that hold secrets: written whole or not at all, readable by their owner only, in directories that nobody else
//! can have prepared.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Write permission of the group and of everybody.
const OTHERS_WRITE: u32 = 0o022;
/// Everybody may write, and nobody remove what another wrote: inode(7).
const STICKY: u32 = 0o1000;

/// Makes a directory, and those above it, for its owner alone.
pub(crate) fn private_dir(path: &Path) -> io::Result<()> {
    own_dir(path, 0o700)
}

/// Makes a directory that everybody may look into, for the socket that everybody may connect to.
pub(crate) fn open_dir(path: &Path) -> io::Result<()> {
    own_dir(path, 0o755)
}

/// Below a directory like /tmp anybody can make one first: with links in it that lead elsewhere, or with a socket at
/// which another listens. One that is there must be this user's or root's, with nothing of others in it; this user's is
/// closed to the writing of others.
fn own_dir(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)?;
    let found = fs::symlink_metadata(path)?;
    let own = leno_net::process::user();
    let refused = |text: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    if !found.is_dir() || ![own, 0].contains(&found.uid()) {
        return refused(format!(
            "it is not a directory of this user's own (it is user {}'s): remove it, or name another directory",
            found.uid()
        ));
    }
    if found.mode() & OTHERS_WRITE == 0 {
        return Ok(());
    }
    let owners = owners_in(path)?;
    // A tmpfs that was mounted for us is sticky and empty; /tmp is neither ours to use nor to close.
    let shared = found.mode() & STICKY != 0 && found.uid() == own && !owners.is_empty();
    if shared || owners.iter().any(|owner| ![own, 0].contains(owner)) {
        let text = format!(
            "others may write to {}: name a directory below it",
            path.display()
        );
        return refused(text);
    }
    if found.uid() == own {
        fs::set_permissions(path, fs::Permissions::from_mode(found.mode() & 0o7755))?;
    }
    Ok(())
}

/// Whose the entries of a directory are.
fn owners_in(path: &Path) -> io::Result<Vec<u32>> {
    let owner = |entry: io::Result<fs::DirEntry>| Ok(entry?.metadata()?.uid());
    fs::read_dir(path)?.map(owner).collect()
}

/// Replaces a file's content in one step, mode 0600: a crash leaves the old content or the new.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary(path);
    write_synced(&temporary, content)?;
    fs::rename(&temporary, path)
}

/// The same for what a reboot may cost: a crash of this process leaves the old content or the new, a power cut perhaps
/// neither. Waits for no disk, so that who answers others may call it.
pub(crate) fn write_private_unsynced(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary(path);
    write(&temporary, content, |_| Ok(()))?;
    fs::rename(&temporary, path)
}

/// Whether [`write_private`] could write so many bytes; leaves nothing behind.
pub(crate) fn try_private(path: &Path, length: usize) -> io::Result<()> {
    let temporary = temporary(path);
    write_synced(&temporary, &vec![b' '; length])?;
    fs::remove_file(&temporary)
}

fn temporary(path: &Path) -> PathBuf {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    temporary.into()
}

fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    write(path, content, fs::File::sync_all)
}

/// Half a file is worth nothing, and takes the place that a full disk lacks. What a crash left there goes: the file is
/// always made anew, and never the one that a link leads to.
fn write(
    path: &Path,
    content: &[u8],
    end: impl FnOnce(&fs::File) -> io::Result<()>,
) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let written = file.write_all(content).and_then(|()| end(&file));
    written.inspect_err(|_| drop(fs::remove_file(path)))
}

/// The content of a file; `None` when there is none.
pub(crate) fn read_optional(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_directory_that_others_may_write_is_closed_and_a_link_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let (dir, link) = (place.path().join("run"), place.path().join("link"));
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        open_dir(&dir).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o755);
        symlink(&dir, &link).unwrap();
        let refused = open_dir(&link).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_directory_of_everybodys_like_tmp_is_refused_and_left_as_it_is() {
        let place = tempfile::tempdir().unwrap();
        let shared = place.path().join("tmp");
        fs::create_dir(&shared).unwrap();
        fs::write(shared.join("somebodys"), "").unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
        let refused = open_dir(&shared).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert!(refused.to_string().contains("below it"), "{refused}");
        assert_eq!(fs::metadata(&shared).unwrap().mode() & 0o7777, 0o1777);
        private_dir(&shared.join("agent")).unwrap();
        // A mount for us alone looks the same but for what is in it.
        let fresh = place.path().join("fresh");
        fs::create_dir(&fresh).unwrap();
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o1777)).unwrap();
        open_dir(&fresh).unwrap();
        assert_eq!(fs::metadata(&fresh).unwrap().mode() & 0o7777, 0o1755);
    }

    #[test]
    fn what_is_written_never_follows_a_link_that_was_there_first() {
        let place = tempfile::tempdir().unwrap();
        let (file, precious) = (place.path().join("owner"), place.path().join("precious"));
        fs::write(&precious, "mine").unwrap();
        symlink(&precious, temporary(&file)).unwrap();
        write_private(&file, b"new").unwrap();
        assert_eq!(fs::read(&precious).unwrap(), b"mine");
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert!(fs::symlink_metadata(&file).unwrap().is_file());
    }
}
