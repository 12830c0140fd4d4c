//! HTTP/1 by hand, byte by byte: what a test sends and gets is exactly what stands here.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    time::Duration,
};

/// A connection that is read and written by hand.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An HTTP/1 response (or, on a server's side, a request) as it came.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The start line, then each field's line, as they came.
    pub head: String,
    /// The content, framing taken off.
    pub body: Vec<u8>,
}

impl Answer {
    /// The status code of a response.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn status(&self) -> u16 {
        let code = self
            .head
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok());
        code.unwrap_or_else(|| panic!("no status in {:?}", self.head))
    }

    /// Method and target of a request.
    #[must_use]
    pub fn request(&self) -> (&str, &str) {
        let mut words = self.head.split(' ');
        (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        )
    }

    /// The first value of a field, whatever its case.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        let fields = self
            .head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'));
        let mut values = fields.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        values.next().map(|(_, value)| value.trim())
    }

    /// All values of a field in their order.
    pub fn fields<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.head.lines().skip(1).filter_map(move |line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

impl Wire {
    /// Takes a connection.
    ///
    /// # Panics
    /// When it has no timeouts to set.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        let within = Some(Duration::from_secs(20));
        stream.set_read_timeout(within).expect("a timeout");
        stream.set_write_timeout(within).expect("a timeout");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// The connection itself; what was read ahead stays here.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends bytes.
    ///
    /// # Panics
    /// When they cannot be sent.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream
            .write_all(bytes.as_ref())
            .expect("bytes are sent");
    }

    /// Sends bytes, where the peer may have gone.
    ///
    /// # Errors
    /// When they cannot be sent.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Ends our direction.
    pub fn finish(&mut self) {
        // The peer may have gone first.
        drop(self.stream.shutdown(Shutdown::Write));
    }

    /// Ends both directions by a reset, as a process that is killed with unread data does.
    ///
    /// # Panics
    /// When the system does not let us.
    pub fn reset(self) {
        let nothing = Some(Duration::ZERO);
        rustix::net::sockopt::set_socket_linger(&self.stream, nothing).expect("SO_LINGER");
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut bytes = [0; 16 * 1024];
        let count = self.stream.read(&mut bytes)?;
        self.buffer
            .extend_from_slice(bytes.get(..count).unwrap_or_default());
        Ok(count)
    }

    /// Reads until `end` has come, which is taken along.
    ///
    /// # Errors
    /// When the stream ends or breaks before.
    pub fn try_until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            let found = self
                .buffer
                .windows(end.len())
                .position(|window| window == end);
            if let Some(at) = found {
                let rest = self.buffer.split_off(at + end.len());
                return Ok(std::mem::replace(&mut self.buffer, rest));
            }
            if self.fill()? == 0 {
                let what = format!(
                    "the end came after {:?}",
                    String::from_utf8_lossy(&self.buffer)
                );
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
            }
        }
    }

    /// Reads exactly so many bytes.
    ///
    /// # Errors
    /// When the stream ends or breaks before.
    pub fn try_exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            if self.fill()? == 0 {
                let what = format!("the end came after {} of {count} bytes", self.buffer.len());
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
            }
        }
        let rest = self.buffer.split_off(count);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    /// Reads one line without its end.
    ///
    /// # Panics
    /// When none comes.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let line = self.try_until(b"\n").expect("a line");
        String::from_utf8_lossy(&line).trim_end().to_owned()
    }

    /// Reads the head of a message: everything up to the empty line, which is left out.
    ///
    /// # Errors
    /// When the stream ends or breaks before.
    pub fn try_head(&mut self) -> io::Result<String> {
        let head = self.try_until(b"\r\n\r\n")?;
        Ok(String::from_utf8_lossy(&head).trim_end().to_owned())
    }

    /// Reads the head of a message.
    ///
    /// # Panics
    /// When none comes.
    #[track_caller]
    pub fn head(&mut self) -> String {
        self.try_head().expect("the head of a message")
    }

    /// Reads whatever comes until the end.
    ///
    /// # Errors
    /// When the stream breaks.
    pub fn try_rest(&mut self) -> io::Result<Vec<u8>> {
        while self.fill()? > 0 {}
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Reads a message with its content: by length, chunked, or, for a response without either, up to the end.
    ///
    /// # Errors
    /// When the stream ends or breaks before the message does.
    pub fn try_message(&mut self) -> io::Result<Answer> {
        let mut answer = Answer {
            head: self.try_head()?,
            body: Vec::new(),
        };
        let response = answer.head.starts_with("HTTP/");
        let chunked = answer
            .field("transfer-encoding")
            .is_some_and(|value| value.to_ascii_lowercase().ends_with("chunked"));
        let length: Option<usize> = answer
            .field("content-length")
            .and_then(|text| text.parse().ok());
        let empty = response && matches!(answer.status(), 100..200 | 204 | 304);
        answer.body = if empty {
            Vec::new()
        } else if chunked {
            self.try_chunks()?
        } else if let Some(length) = length {
            self.try_exactly(length)?
        } else if response {
            self.try_rest()?
        } else {
            Vec::new()
        };
        Ok(answer)
    }

    fn try_chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.try_until(b"\r\n")?;
            let text = String::from_utf8_lossy(&line);
            let digits = text.trim_end().split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(digits, 16)
                .map_err(|error| io::Error::other(format!("{text:?}: {error}")))?;
            if size == 0 {
                // Trailers, then an empty line.
                while self.try_until(b"\r\n")? != b"\r\n" {}
                return Ok(body);
            }
            body.extend(self.try_exactly(size)?);
            self.try_exactly(2)?;
        }
    }

    /// Reads a message with its content.
    ///
    /// # Panics
    /// When none comes.
    #[track_caller]
    pub fn message(&mut self) -> Answer {
        self.try_message().expect("a whole message")
    }

    /// Sends a request as it stands and reads the answer.
    ///
    /// # Panics
    /// When none comes.
    #[track_caller]
    pub fn ask(&mut self, request: impl AsRef<[u8]>) -> Answer {
        self.send(request);
        self.message()
    }
}
