//! Requests of the API as they go on the wire, over the control plane's socket.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde_json::Value;

/// One request, as `leno` makes it on the control plane's own machine.
///
/// # Errors
/// When there is no whole answer.
pub fn call(socket: &Path, method: &str, path: &str, body: &Value) -> io::Result<(u16, Value)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let head = format!(
        "{method} /meshes/default{path} HTTP/1.0\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "half an answer");
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(cut)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((
        status.ok_or_else(cut)?,
        serde_json::from_str(body).map_err(|_| cut())?,
    ))
}

/// A watch of a path of mesh `default`.
pub struct Watching(BufReader<UnixStream>);

impl Watching {
    /// Begins it; `path` has its query already.
    ///
    /// # Panics
    /// When it is refused.
    #[must_use]
    pub fn start(socket: &Path, path: &str) -> Self {
        let mut stream = UnixStream::connect(socket).expect("the control plane listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("a timeout");
        // Without chunks, so that each line is an event.
        let head = format!("GET /meshes/default{path} HTTP/1.0\r\nhost: localhost\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("it is sent");
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).expect("a status");
        assert!(line.contains(" 200 "), "{line}");
        while line.trim() != "" {
            line.clear();
            reader.read_line(&mut line).expect("a field");
        }
        Self(reader)
    }

    /// The next event; `None` when the watch has ended.
    ///
    /// # Panics
    /// When it is no JSON.
    pub fn event(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(serde_json::from_str(&line).expect("an event")),
        }
    }
}
