//! How many are left: plain TCP where the server speaks first, as MySQL and SMTP do, and its client.
//!
//! ```text
//! server: 220 stock leno-demo-payload
//! client: QUERY lamp leno-demo-payload
//! server: 250 lamp 17 leno-demo-payload
//! client: QUIT leno-demo-payload
//! server: 221 bye leno-demo-payload
//! ```

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cli::Origin;
use crate::net::{CallError, Listeners, dial, within};
use crate::{PAYLOAD, Stop};

const MAX_LINE: u64 = 512;
const BUFFER: usize = 1024;
/// How long a client may say nothing.
const IDLE: Duration = Duration::from_secs(60);
const STOCK: [(&str, u32); 4] = [("lamp", 17), ("chair", 4), ("table", 2), ("clock", 31)];

pub(crate) async fn run(listeners: Listeners, stop: &Stop) {
    listeners
        .serve(stop, |socket| {
            let stop = stop.clone();
            // A client that goes away ends its own connection only.
            async move { drop(session(socket, &stop).await) }
        })
        .await;
}

async fn session(socket: TcpStream, stop: &Stop) -> io::Result<()> {
    let mut stream = BufStream::with_capacity(BUFFER, BUFFER, socket);
    say(&mut stream, "220 stock").await?;
    loop {
        // Between two questions is where a server may end.
        let Some(line) = stop
            .run_until_cancelled(timeout(IDLE, hear(&mut stream)))
            .await
        else {
            return say(&mut stream, "421 closing").await;
        };
        let line = line.map_err(io::Error::from)??;
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next()) {
            (Some("QUERY"), Some(item)) => match STOCK.iter().find(|(name, _)| *name == item) {
                Some((name, left)) => say(&mut stream, &format!("250 {name} {left}")).await?,
                None => say(&mut stream, "550 no such item").await?,
            },
            (Some("QUIT"), _) => return say(&mut stream, "221 bye").await,
            (None, _) => return Ok(()),
            _ => say(&mut stream, "500 QUERY item, or QUIT").await?,
        }
    }
}

/// Connects, asks how many of `item` are left, and takes leave.
pub(crate) async fn query(origin: &Origin, item: &str) -> Result<u32, CallError> {
    within(async {
        let socket = dial(origin).await?;
        conversation(socket, item)
            .await
            .map_err(CallError::broken)?
    })
    .await
}

async fn conversation(socket: TcpStream, item: &str) -> io::Result<Result<u32, CallError>> {
    let mut stream = BufStream::with_capacity(BUFFER, BUFFER, socket);
    let greeting = hear_answer(&mut stream).await?;
    if !greeting.starts_with("220 ") {
        return Ok(Err(CallError::Strange(greeting)));
    }
    say(&mut stream, &format!("QUERY {item}")).await?;
    let answer = hear_answer(&mut stream).await?;
    say(&mut stream, "QUIT").await?;
    hear_answer(&mut stream).await?;
    let words: Vec<_> = answer.split_ascii_whitespace().collect();
    Ok(match words.as_slice() {
        ["250", name, left, ..] if *name == item => left
            .parse()
            .map_err(|_not_a_number| CallError::Strange(answer)),
        _ => Err(CallError::Strange(answer)),
    })
}

async fn say(stream: &mut BufStream<TcpStream>, words: &str) -> io::Result<()> {
    stream
        .write_all(format!("{words} {PAYLOAD}\r\n").as_bytes())
        .await?;
    stream.flush().await
}

/// One line; a server that ends without one has broken the conversation.
async fn hear_answer(stream: &mut BufStream<TcpStream>) -> io::Result<String> {
    match hear(stream).await? {
        line if line.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
        line => Ok(line),
    }
}

/// One line without its end; empty where the peer has ended.
async fn hear(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<String> {
    let mut line = Vec::new();
    stream.take(MAX_LINE).read_until(b'\n', &mut line).await?;
    if !line.is_empty() && !line.ends_with(b"\n") {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a line was cut short or too long",
        ));
    }
    String::from_utf8(line)
        .map(|line| line.trim_end().to_owned())
        .map_err(|error| io::Error::other(error.utf8_error()))
}
