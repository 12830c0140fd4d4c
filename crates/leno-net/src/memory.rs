//! Whether what is written to a directory stays in memory.

use std::{io, path::Path};

/// Magic numbers of statfs(2).
const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58f6;

/// Whether a directory's files are in memory (tmpfs, ramfs), so that what is written there is on no disk, and gone
/// after a reboot.
///
/// # Errors
/// When it cannot be asked.
pub fn is_in_memory(directory: &Path) -> io::Result<bool> {
    let kind = rustix::fs::statfs(directory)?.f_type;
    // Its sign and width differ between architectures; the numbers have 32 bits.
    let kind = kind as u64 & 0xffff_ffff;
    Ok(matches!(kind, TMPFS | RAMFS))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn what_is_no_tmpfs_is_told_apart() {
        assert!(!is_in_memory(Path::new("/proc")).unwrap());
        assert!(is_in_memory(Path::new("/no/such/directory")).is_err());
    }
}
