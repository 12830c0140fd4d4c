//! DNS as captured: names of the mesh are answered here, everything else by the host's resolvers.
//!
//! A question about a mesh name never leaves the host. `cart`, `cart.NS` of one's own namespace, `cart.NS.svc` and
//! `cart.NS.svc.cluster.local` can mean nothing else, so what is unknown there does not exist; `cart.NS` of another
//! namespace looks like any domain (`example.com`), so what is known to be no service is asked outside, and so is what
//! only the host's search list made of a name. Where the control plane does not answer, that is only done with names of
//! namespaces that the mesh does not have: otherwise an outside resolver could turn mutual TLS into plaintext.

use std::{
    cell::Cell,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, RData, Record, RecordType,
        rdata::{A, AAAA},
    },
};
use leno_ir::ResourceName;
use leno_telemetry::counters::{Counter, Limit};
use leno_types::{DnsLabel, ServiceName, parse_service_host};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::{sleep, timeout},
};

use crate::{
    counters::{count, limit},
    destinations::Answer,
    pool,
    state::{Local, Shared},
};

/// Seconds an address of the mesh may be kept: a virtual address rests for an hour after its service's end.
const TTL: u32 = 10;
/// After an error of `accept`, such as too many open files, nothing is accepted for so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// The longest answer over UDP that is taken from upstream.
const LONGEST_UDP: usize = 8 * 1024;

/// What the name of a question is.
#[derive(Debug, PartialEq, Eq)]
enum Named {
    /// A service, and nothing else.
    Mesh(ServiceName),
    /// A service, or something outside.
    Perhaps(ServiceName),
    /// This host itself (RFC 6761 6.3).
    Localhost,
    /// Nothing of the mesh's.
    Outside,
}

/// Reads a name as a workload of `namespace` means it.
fn read_name(name: &str, namespace: &DnsLabel, search: &[String]) -> Named {
    let lower = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    if lower == "localhost" || lower.ends_with(".localhost") {
        return Named::Localhost;
    }
    if let Some(service) = parse_service_host(&lower, namespace) {
        let labels = lower.split('.').count();
        return if labels == 2 && service.namespace != *namespace {
            Named::Perhaps(service)
        } else {
            Named::Mesh(service)
        };
    }
    let searched = search.iter().find_map(|domain| {
        let short = lower.strip_suffix(domain.as_str())?.strip_suffix('.')?;
        parse_service_host(short, namespace)
    });
    searched.map_or(Named::Outside, Named::Perhaps)
}

/// What is said to a question.
enum Said {
    /// Addresses, maybe none.
    Addresses(Vec<IpAddr>),
    /// There is no such name.
    NoSuchName,
    /// It cannot be told now.
    Failed,
    /// Somebody else knows.
    Forward,
}

/// Serves a UDP socket until the workload's end.
pub(crate) async fn serve_udp(shared: Rc<Shared>, local: Rc<Local>, socket: UdpSocket) {
    let socket = Rc::new(socket);
    let mut buffer = vec![0; LONGEST_UDP];
    let receive = async {
        loop {
            let (length, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // An ICMP answer to something sent before shows as an error of the next call.
                Err(_) => continue,
            };
            let query = buffer.get(..length).unwrap_or_default().to_vec();
            let (shared_, local, socket) =
                (Rc::clone(&shared), Rc::clone(&local), Rc::clone(&socket));
            let work = async move {
                let Some(answer) = answer(&shared_, &local, &query, false).await else {
                    return;
                };
                if let Err(error) = socket.send_to(&answer, from).await {
                    tracing::debug!(%from, %error, "a DNS answer could not be sent");
                }
            };
            if shared.scope.spawn("dns-query", work).is_err() {
                limit(Limit::Tasks);
            }
        }
    };
    local.stop.run_until_stopped(receive).await;
}

/// Serves a TCP listener until the workload's end (RFC 7766).
pub(crate) async fn serve_tcp(shared: Rc<Shared>, local: Rc<Local>, listener: TcpListener) {
    let accept = async {
        loop {
            let Ok((stream, from)) = listener.accept().await else {
                // Out of descriptors: who waits is served when there are some.
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            if shared.dns_connections.get() >= shared.config.limits.dns_connections {
                limit(Limit::DnsConnections);
                continue;
            }
            let (shared_, local) = (Rc::clone(&shared), Rc::clone(&local));
            let work = async move {
                let _place = Place::take(&shared_.dns_connections);
                if let Err(error) = connection(&shared_, &local, stream).await {
                    tracing::trace!(%from, %error, "a DNS connection ended");
                }
            };
            if shared.scope.spawn("dns-connection", work).is_err() {
                limit(Limit::Tasks);
            }
        }
    };
    local.stop.run_until_stopped(accept).await;
}

async fn connection(shared: &Shared, local: &Local, mut stream: TcpStream) -> io::Result<()> {
    let idle = shared.config.limits.dns_timeout * 5;
    loop {
        let Ok(query) = timeout(idle, read_message(&mut stream)).await else {
            return Ok(());
        };
        let Some(answer) = answer(shared, local, &query?, true).await else {
            return Ok(());
        };
        write_message(&mut stream, &answer).await?;
    }
}

async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = Vec::with_capacity(message.len() + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

/// The answer to one query; `None` when it is none, or there is no room for it.
async fn answer(shared: &Shared, local: &Local, query: &[u8], tcp: bool) -> Option<Vec<u8>> {
    count(Counter::DnsQueries);
    let Ok(message) = Message::from_vec(query) else {
        tracing::debug!("a DNS query is malformed");
        return None;
    };
    if message.metadata.message_type != MessageType::Query {
        return None;
    }
    let said = match message.queries.as_slice() {
        [question] if message.metadata.op_code == OpCode::Query => {
            say(shared, local, question).await
        }
        // One question or none of ours (RFC 9619): names of the mesh among several would leave the host.
        _ => {
            let code = if message.metadata.op_code == OpCode::Query {
                ResponseCode::FormErr
            } else {
                ResponseCode::NotImp
            };
            return respond(&message, code, &[]);
        }
    };
    match said {
        Said::Forward => forward(shared, &message, query, tcp).await,
        Said::Addresses(addresses) => {
            count(Counter::DnsMeshAnswers);
            respond(&message, ResponseCode::NoError, &addresses)
        }
        Said::NoSuchName => {
            count(Counter::DnsMeshAnswers);
            respond(&message, ResponseCode::NXDomain, &[])
        }
        Said::Failed => respond(&message, ResponseCode::ServFail, &[]),
    }
}

async fn say(shared: &Shared, local: &Local, question: &Query) -> Said {
    let Some(info) = local.info() else {
        return Said::Failed;
    };
    let name = question.name().to_ascii();
    let namespace = &info.own.namespace;
    let of_internet = question.query_class() == DNSClass::IN;
    let family = |address: &IpAddr| match question.query_type() {
        // The mesh's names are of one class; asked for in another they must not leave the host either.
        _ if !of_internet => false,
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6() && shared.config.ipv6,
        RecordType::ANY => address.is_ipv4() || shared.config.ipv6,
        _ => false,
    };
    let (service, certain) = match read_name(&name, namespace, &shared.config.dns_search) {
        Named::Outside => return Said::Forward,
        Named::Localhost => {
            let own = [
                IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(Ipv6Addr::LOCALHOST),
            ];
            return Said::Addresses(own.into_iter().filter(family).collect());
        }
        Named::Mesh(service) => (service, true),
        Named::Perhaps(service) => (service, false),
    };
    let asked = ResourceName::Service(service.clone());
    let found = shared.destinations.find(shared, &asked).await;
    match found.map(|entry| entry.answer()) {
        Ok(Answer::Service(view)) => {
            // Who asks for a name is about to call it.
            shared.clusters.prefetch(shared, &service);
            let vips = view.service.vips.iter().copied().filter(family);
            Said::Addresses(vips.collect())
        }
        Ok(_) if certain => Said::NoSuchName,
        Err(_) if certain || shared.has_namespace(&service.namespace) => Said::Failed,
        Ok(_) | Err(_) => Said::Forward,
    }
}

fn respond(query: &Message, code: ResponseCode, addresses: &[IpAddr]) -> Option<Vec<u8>> {
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.metadata.response_code = code;
    for question in &query.queries {
        answer.add_query(question.clone());
        for address in addresses {
            let data = match address {
                IpAddr::V4(v4) => RData::A(A(*v4)),
                IpAddr::V6(v6) => RData::AAAA(AAAA(*v6)),
            };
            answer.add_answer(Record::from_rdata(question.name().clone(), TTL, data));
        }
    }
    answer.to_vec().ok()
}

/// One more of something bounded, while it lives.
struct Place<'c>(&'c Cell<usize>);

impl<'c> Place<'c> {
    fn take(cell: &'c Cell<usize>) -> Self {
        cell.set(cell.get() + 1);
        Self(cell)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Asks the host's resolvers in order; SERVFAIL when none answers.
async fn forward(shared: &Shared, message: &Message, query: &[u8], tcp: bool) -> Option<Vec<u8>> {
    let limits = &shared.config.limits;
    if shared.dns_queries.get() >= limits.dns_queries {
        limit(Limit::DnsQueries);
        return respond(message, ResponseCode::ServFail, &[]);
    }
    let _place = Place::take(&shared.dns_queries);
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
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_name_is_the_meshs_only_where_it_can_mean_nothing_else() {
        let here: DnsLabel = "shop".parse().unwrap();
        let search = ["corp.example".to_owned()];
        let read = |name: &str| read_name(name, &here, &search);
        let service = |text: &str| text.parse::<ServiceName>().unwrap();
        for name in ["cart", "CART.", "cart.shop", "cart.shop.svc.cluster.local."] {
            assert_eq!(read(name), Named::Mesh(service("shop/cart")), "{name}");
        }
        assert_eq!(read("cart.bank.svc"), Named::Mesh(service("bank/cart")));
        assert_eq!(read("example.com."), Named::Perhaps(service("com/example")));
        assert_eq!(
            read("cart.corp.example"),
            Named::Perhaps(service("shop/cart"))
        );
        assert_eq!(read("www.example.com"), Named::Outside);
        assert_eq!(read("localhost."), Named::Localhost);
        assert_eq!(read("."), Named::Outside);
    }

    #[test]
    fn an_answer_to_another_question_is_none() {
        assert!(answers(&[1, 2, 0], &[1, 2, 0x80]));
        for other in [&[1, 2, 0][..], &[1, 3, 0x80], &[1, 2], &[]] {
            assert!(!answers(&[1, 2, 0], other));
        }
        assert!(!answers(&[], &[1, 2, 0x80]));
    }
}
