//! What the arena tells the demo in front: one JSON object a line, over a socket in the demo's directory.

use std::{
    io::{self, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use serde::{Deserialize, Serialize};

/// Something that happened in the arena.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum News {
    /// How far the start is.
    Step { text: String },
    /// All programs were started. What each is called and its process, as the arena counts them.
    Started { programs: Vec<(String, i32)> },
    /// A process ended.
    Ended {
        part: String,
        code: i32,
        log: String,
    },
    /// The start failed.
    Failed {
        part: String,
        what: String,
        log: String,
    },
}

/// The arena's end of the socket.
pub(super) struct Teller(UnixStream);

impl Teller {
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        UnixStream::connect(path).map(Self)
    }

    /// Tells. When nobody listens any more, the lifeline has been cut as well.
    pub(super) fn tell(&mut self, news: &News) {
        if let Ok(mut line) = serde_json::to_vec(news) {
            line.push(b'\n');
            drop(self.0.write_all(&line));
        }
    }
}
