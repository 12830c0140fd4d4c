//! The host's resolvers, which are asked what is not the mesh's.

use std::{io, net::SocketAddr, time::Duration};

use hickory_proto::op::{Message, ResponseCode};
use leno_telemetry::counters::Counter;
use tokio::{net::UdpSocket, time::timeout};

use super::{LONGEST_UDP, read_message, respond, write_message};
use crate::{counters::count, pool, state::Shared};

/// Asks the host's resolvers in order; SERVFAIL when none answers.
pub(super) async fn forward(
    shared: &Shared,
    message: &Message,
    query: &[u8],
    tcp: bool,
) -> Option<Vec<u8>> {
    let limits = &shared.config.limits;
    let mark = shared.config.mark;
    for upstream in &shared.config.dns_upstreams {
        let asked = async {
            if tcp {
                ask_tcp(*upstream, mark, limits.dns_timeout, query).await
            } else {
                ask_udp(*upstream, mark, query).await
            }
        };
        match timeout(limits.dns_timeout, asked).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => tracing::debug!(%upstream, %error, "a DNS resolver failed"),
            Err(_) => tracing::debug!(%upstream, "a DNS resolver did not answer in time"),
        }
    }
    count(Counter::DnsFailures);
    respond(message, ResponseCode::ServFail, &[])
}

/// From a port of its own for each query (RFC 5452 4.5); an answer that is to something else is not taken.
async fn ask_udp(upstream: SocketAddr, mark: bool, query: &[u8]) -> io::Result<Vec<u8>> {
    let socket = leno_net::socket::datagram_socket(upstream.is_ipv6(), mark)?;
    let socket = UdpSocket::from_std(socket.into())?;
    socket.connect(upstream).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; LONGEST_UDP];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..length).unwrap_or_default();
        if answers(query, answer) {
            return Ok(answer.to_vec());
        }
    }
}

async fn ask_tcp(
    upstream: SocketAddr,
    mark: bool,
    limit: Duration,
    query: &[u8],
) -> io::Result<Vec<u8>> {
    let mut stream = pool::dial(upstream, mark, limit).await?;
    write_message(&mut stream, query).await?;
    let answer = read_message(&mut stream).await?;
    if answers(query, &answer) {
        Ok(answer)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the answer is to another question",
        ))
    }
}

/// Whether `answer` is a response with the query's id.
fn answers(query: &[u8], answer: &[u8]) -> bool {
    let is_response = answer.get(2).is_some_and(|flags| flags & 0x80 != 0);
    is_response && query.get(..2).is_some() && query.get(..2) == answer.get(..2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_another_question_is_none() {
        assert!(answers(&[1, 2, 0], &[1, 2, 0x80]));
        for other in [&[1, 2, 0][..], &[1, 3, 0x80], &[1, 2], &[]] {
            assert!(!answers(&[1, 2, 0], other));
        }
        assert!(!answers(&[], &[1, 2, 0x80]));
    }
}
