//! Lines in a file that is set aside when it is full, of which so many are kept.
//!
//! Owns the files `NAME.ndjson`, `NAME.ndjson.1`, .. of a directory, 0600, the highest number the oldest. Refuses to
//! lose a line that the disk did not take: it waits, up to a ceiling that is its user's to hold.
//! Invariant: what is in a file are whole lines, in the order in which they came.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Read, Take, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Lines of one kind.
#[derive(Debug)]
pub(super) struct Lines {
    path: PathBuf,
    /// Bytes of one file.
    most: u64,
    /// Files, with the one that is written.
    files: u32,
    open: Option<(File, u64)>,
    waiting: VecDeque<String>,
}

impl Lines {
    pub(super) fn new(path: PathBuf, most: u64, files: u32) -> Self {
        Self {
            path,
            most,
            files,
            open: None,
            waiting: VecDeque::new(),
        }
    }

    /// Lines that are not on the disk yet.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// One more line, which ends with a line feed.
    pub(super) fn push(&mut self, line: String) {
        self.waiting.push_back(line);
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// What the system says; what it did not take waits on.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while let Some(line) = self.waiting.front() {
            let bytes = line.len() as u64;
            if self
                .open
                .as_ref()
                .is_some_and(|(_, size)| *size > 0 && size + bytes > self.most)
            {
                self.open = None;
                self.set_aside()?;
            }
            let (file, size) = match &mut self.open {
                Some(open) => open,
                None => self.open.insert(open(&self.path)?),
            };
            if let Err(error) = file.write_all(line.as_bytes()) {
                // Half a line would spoil the next one as well.
                drop(file.set_len(*size));
                self.open = None;
                return Err(error);
            }
            *size += bytes;
            self.waiting.pop_front();
        }
        Ok(())
    }

    fn set_aside(&self) -> io::Result<()> {
        for number in (0..self.files.saturating_sub(1)).rev() {
            match fs::rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// What is in the files now, oldest first: whatever is written or set aside later changes nothing of it.
    pub(super) fn written(&self) -> Vec<Take<File>> {
        let numbers = (0..self.files).rev();
        let open = numbers.filter_map(|number| File::open(self.numbered(number)).ok());
        open.filter_map(|file| {
            let bytes = file.metadata().ok()?.len();
            Some(file.take(bytes))
        })
        .collect()
    }

    fn numbered(&self, number: u32) -> PathBuf {
        if number == 0 {
            return self.path.clone();
        }
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

/// Opens a file for more lines; half a line at its end, which a power cut left, goes.
fn open(path: &Path) -> io::Result<(File, u64)> {
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
    }
    let there = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let whole = there
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    if whole < there.len() {
        file.set_len(whole as u64)?;
    }
    Ok((file, whole as u64))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn all(lines: &Lines) -> String {
        let mut text = String::new();
        for mut part in lines.written() {
            part.read_to_string(&mut text).unwrap();
        }
        text
    }

    #[test]
    fn what_is_read_is_neither_lost_nor_doubled_by_what_is_set_aside_meanwhile() {
        let directory = tempfile::tempdir().unwrap();
        let mut lines = Lines::new(directory.path().join("changes.ndjson"), 10, 3);
        let write = |lines: &mut Lines, number: u32| {
            lines.push(format!("{number}234\n"));
            lines.flush().unwrap();
        };
        (0..5).for_each(|number| write(&mut lines, number));
        let reading = lines.written();
        (5..9).for_each(|number| write(&mut lines, number));
        let mut text = String::new();
        for mut part in reading {
            part.read_to_string(&mut text).unwrap();
        }
        assert_eq!(text, "0234\n1234\n2234\n3234\n4234\n");
    }

    #[test]
    fn files_are_set_aside_when_full_and_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/changes.ndjson");
        let mut lines = Lines::new(path.clone(), 10, 3);
        for number in 0..8 {
            lines.push(format!("{number}234\n"));
            lines.flush().unwrap();
        }
        // Two of five bytes to a file, three files.
        assert_eq!(all(&lines), "2234\n3234\n4234\n5234\n6234\n7234\n");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 3);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // A line larger than a file has one of its own.
        lines.push("a line that is long\n".into());
        lines.flush().unwrap();
        assert!(all(&lines).ends_with("7234\na line that is long\n"));
    }

    #[test]
    fn half_a_line_that_a_power_cut_left_is_taken_away() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("changes.ndjson");
        fs::write(&path, "whole\nhal").unwrap();
        let mut lines = Lines::new(path, 1_000, 2);
        lines.push("next\n".into());
        lines.flush().unwrap();
        assert_eq!(all(&lines), "whole\nnext\n");
    }

    #[test]
    fn what_cannot_be_written_waits() {
        let directory = tempfile::tempdir().unwrap();
        let blocked = directory.path().join("a");
        fs::write(&blocked, "no directory").unwrap();
        let mut lines = Lines::new(blocked.join("changes.ndjson"), 1_000, 2);
        lines.push("one\n".into());
        assert!(lines.flush().is_err());
        assert_eq!(lines.waiting(), 1);
        fs::remove_file(&blocked).unwrap();
        lines.push("two\n".into());
        lines.flush().unwrap();
        assert_eq!(all(&lines), "one\ntwo\n");
    }
}
