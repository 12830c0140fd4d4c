//! Requests of the API as they go on the wire, over the control plane's socket.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde_json::Value;

/// No answer here takes longer.
const LONG: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Its header fields in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: String,
}

impl Reply {
    /// The values of a header field.
    #[must_use]
    pub fn header(&self, name: &str) -> Vec<&str> {
        let ours = self.headers.iter().filter(|(of, _)| of == name);
        ours.map(|(_, value)| value.as_str()).collect()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// It is cut short.
    pub fn json(&self) -> io::Result<Value> {
        serde_json::from_str(&self.body).map_err(|_| cut())
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "half an answer")
}

/// Makes one request, whose path is whole, and reads the answer to its end.
///
/// # Errors
/// There is no answer, or half of one.
pub fn request(
    socket: &Path,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Reply> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LONG))?;
    let mut head = format!("{method} {path} HTTP/1.0\r\nhost: localhost\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() || method != "GET" {
        head += &format!("content-length: {}\r\n", body.len());
    }
    stream.write_all(head.as_bytes())?;
    stream.write_all(b"\r\n")?;
    stream.write_all(body)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(cut)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let field = |line: &str| {
        line.split_once(": ")
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
    };
    Ok(Reply {
        status: status.and_then(|code| code.parse().ok()).ok_or_else(cut)?,
        headers: lines.filter_map(field).collect(),
        body: body.to_owned(),
    })
}

/// One request of JSON about mesh `default`, as `leno` makes it on the control plane's own machine.
///
/// # Errors
/// When there is no whole answer.
pub fn call(socket: &Path, method: &str, path: &str, body: &Value) -> io::Result<(u16, Value)> {
    let path = format!("/meshes/default{path}");
    let text = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let content = [("content-type", "application/json")];
    let reply = request(socket, method, &path, &content, text.as_bytes())?;
    Ok((reply.status, reply.json()?))
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
