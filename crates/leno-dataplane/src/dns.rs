//! DNS as captured: names of the mesh are answered here, everything else by the host's resolvers.
//!
//! A question about a mesh name never leaves the host. `cart`, `cart.NS` of one's own namespace, `cart.NS.svc` and
//! `cart.NS.svc.cluster.local` can mean nothing else, so what is unknown there does not exist; `cart.NS` of another
//! namespace looks like any domain (`example.com`), so what is known to be no service is asked outside, and so is what
//! only the host's search list made of a name. Where the control plane does not answer, that is only done with names of
//! namespaces that the mesh does not have: otherwise an outside resolver could turn mutual TLS into plaintext.

mod outside;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::Rc,
    time::{Duration, Instant},
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
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::{sleep, timeout},
};

use self::outside::forward;
use crate::{
    counters::{count, limit},
    destinations::Answer,
    places::Place,
    state::{Local, Shared},
};

/// Seconds an address of the mesh may be kept: a virtual address rests for an hour after its service's end.
const TTL: u32 = 10;
/// Addresses in the answer about a headless service, chosen at random among more: all of them fit into 512 bytes
/// (RFC 1035 4.2.1), whatever the client can read.
const MAX_ENDPOINTS: usize = 8;
/// After an error of `accept`, such as too many open files, nothing is accepted for so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// The longest answer over UDP that is taken from upstream.
const LONGEST_UDP: usize = 8 * 1024;

/// What the name of a question is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Named {
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
pub(crate) fn read_name(name: &str, namespace: &DnsLabel, search: &[String]) -> Named {
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
    /// The control plane may know of this service; whether the name can be nothing else.
    Ask(ServiceName, bool),
    /// Somebody else knows.
    Forward,
}

/// Serves a UDP socket until the workload's end. What is known is answered at once: only a question that must wait takes
/// a task, and one workload may have so many of those.
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
            let query = buffer.get(..length).unwrap_or_default();
            match look(&shared, &local, query) {
                Some(Looked::Answer(answer)) => send(&socket, &answer, from).await,
                Some(Looked::Wait(waiting)) => {
                    let (shared_, socket) = (Rc::clone(&shared), Rc::clone(&socket));
                    let work = async move {
                        if let Some(answer) = waiting.answer(&shared_, false).await {
                            send(&socket, &answer, from).await;
                        }
                    };
                    if shared.scope.spawn("dns-query", work).is_err() {
                        limit(Limit::Tasks);
                    }
                }
                None => {}
            }
        }
    };
    local.stop.run_until_stopped(receive).await;
}

async fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(answer, to).await {
        tracing::debug!(%to, %error, "a DNS answer could not be sent");
    }
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
            let Some(place) = local.places.dns_connections.take() else {
                continue;
            };
            let (shared_, local) = (Rc::clone(&shared), Rc::clone(&local));
            let work = async move {
                let _place = place;
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
        let answer = match look(shared, local, &query?) {
            Some(Looked::Answer(answer)) => Some(answer),
            Some(Looked::Wait(waiting)) => waiting.answer(shared, true).await,
            None => None,
        };
        let Some(answer) = answer else {
            return Ok(());
        };
        write_message(&mut stream, &answer).await?;
    }
}

pub(crate) async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
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

/// What a query came to at once.
enum Looked {
    Answer(Vec<u8>),
    Wait(Box<Waiting>),
}

/// A question that the control plane or a resolver must be asked about, and its place among those of its workload.
struct Waiting {
    message: Message,
    query: Vec<u8>,
    /// A service to ask the control plane about, and whether the name can be nothing else.
    service: Option<(ServiceName, bool)>,
    family: Family,
    _place: Place,
}

/// Reads one query: it and its question, or what is answered at once; `None` when it is none.
pub(crate) fn read_query(query: &[u8]) -> Option<Result<(Message, Query), Vec<u8>>> {
    let Ok(message) = Message::from_vec(query) else {
        tracing::debug!("a DNS query is malformed");
        return None;
    };
    if message.metadata.message_type != MessageType::Query {
        return None;
    }
    let code = match message.queries.as_slice() {
        [question] if message.metadata.op_code == OpCode::Query => {
            let question = question.clone();
            return Some(Ok((message, question)));
        }
        // One question or none of ours (RFC 9619): names of the mesh among several would leave the host.
        _ if message.metadata.op_code == OpCode::Query => ResponseCode::FormErr,
        _ => ResponseCode::NotImp,
    };
    respond(&message, code, &[]).map(Err)
}

/// Looks at one query; `None` when it is none.
fn look(shared: &Shared, local: &Local, query: &[u8]) -> Option<Looked> {
    count(Counter::DnsQueries);
    let (message, question) = match read_query(query)? {
        Ok(read) => read,
        Err(answer) => return Some(Looked::Answer(answer)),
    };
    let family = Family::of(&question, shared.config.ipv6);
    let said = say(shared, local, &question, family);
    let service = match said {
        Said::Ask(service, certain) => Some((service, certain)),
        Said::Forward => None,
        said => return reply(&message, said).map(Looked::Answer),
    };
    let Some(place) = local.places.dns_queries.take() else {
        return respond(&message, ResponseCode::ServFail, &[]).map(Looked::Answer);
    };
    Some(Looked::Wait(Box::new(Waiting {
        query: query.to_vec(),
        service,
        family,
        message,
        _place: place,
    })))
}

impl Waiting {
    /// The answer, once it is known.
    async fn answer(self, shared: &Shared, tcp: bool) -> Option<Vec<u8>> {
        if let Some((service, certain)) = self.service {
            let asked = ResourceName::Service(service.clone());
            let found = shared.destinations.find(shared, &asked).await;
            let answer = found.as_ref().map(|entry| entry.answer());
            let mut said = means(shared, &service, certain, self.family, answer.ok());
            if let Said::Ask(..) = said
                && shared
                    .clusters
                    .find(shared, &service, Instant::now())
                    .await
                    .is_ok()
            {
                said = headless(shared, &service, certain, self.family);
            }
            if !matches!(said, Said::Forward) {
                return reply(&self.message, said);
            }
        }
        forward(shared, &self.message, &self.query, tcp).await
    }
}

fn reply(message: &Message, said: Said) -> Option<Vec<u8>> {
    match said {
        Said::Addresses(addresses) => {
            count(Counter::DnsMeshAnswers);
            respond(message, ResponseCode::NoError, &addresses)
        }
        Said::NoSuchName => {
            count(Counter::DnsMeshAnswers);
            respond(message, ResponseCode::NXDomain, &[])
        }
        Said::Failed | Said::Ask(..) | Said::Forward => {
            respond(message, ResponseCode::ServFail, &[])
        }
    }
}

/// Which addresses a question is about.
#[derive(Clone, Copy)]
struct Family {
    v4: bool,
    v6: bool,
}

impl Family {
    fn of(question: &Query, ipv6: bool) -> Self {
        // The mesh's names are of one class; asked for in another they must not leave the host either.
        let ours = question.query_class() == DNSClass::IN;
        let kind = question.query_type();
        Self {
            v4: ours && matches!(kind, RecordType::A | RecordType::ANY),
            v6: ours && ipv6 && matches!(kind, RecordType::AAAA | RecordType::ANY),
        }
    }

    fn has(self, address: &IpAddr) -> bool {
        if address.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// What can be said without asking anybody.
fn say(shared: &Shared, local: &Local, question: &Query, family: Family) -> Said {
    let Some(info) = local.info() else {
        return Said::Failed;
    };
    let name = question.name().to_ascii();
    let namespace = &info.own.namespace;
    let (service, certain) = match read_name(&name, namespace, &shared.config.dns_search) {
        Named::Outside => return Said::Forward,
        Named::Localhost => {
            let own = [
                IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(Ipv6Addr::LOCALHOST),
            ];
            return Said::Addresses(own.into_iter().filter(|ip| family.has(ip)).collect());
        }
        Named::Mesh(service) => (service, true),
        Named::Perhaps(service) => (service, false),
    };
    let asked = ResourceName::Service(service.clone());
    match shared.destinations.known(shared, &asked, Instant::now()) {
        Some(entry) => means(shared, &service, certain, family, Some(entry.answer())),
        None => Said::Ask(service, certain),
    }
}

/// What an answer about a service, or none in time, means for its name.
fn means(
    shared: &Shared,
    service: &ServiceName,
    certain: bool,
    family: Family,
    answer: Option<Answer>,
) -> Said {
    match answer {
        Some(Answer::Service(view)) => {
            if view.service.vips.is_empty() {
                return headless(shared, service, certain, family);
            }
            // Who asks for a name is about to call it.
            shared.clusters.prefetch(shared, service);
            let vips = view.service.vips.iter().copied();
            Said::Addresses(vips.filter(|ip| family.has(ip)).collect())
        }
        Some(_) if certain => Said::NoSuchName,
        None if certain || shared.has_namespace(&service.namespace) => Said::Failed,
        Some(_) | None => Said::Forward,
    }
}

/// A service without virtual addresses stands for its endpoints: whoever calls chooses among theirs.
fn headless(shared: &Shared, service: &ServiceName, certain: bool, family: Family) -> Said {
    match shared.clusters.known(shared, service, Instant::now()) {
        Some(cluster) => {
            // What the mesh does not claim would be called in clear.
            let mesh = shared.mesh.borrow();
            let claimed = |ip: &IpAddr| mesh.as_ref().is_some_and(|mesh| mesh.claims(*ip));
            let fit = cluster.addresses().into_iter().filter(claimed);
            let some = fit.filter(|ip| family.has(ip)).take(MAX_ENDPOINTS);
            Said::Addresses(some.collect())
        }
        None => Said::Ask(service.clone(), certain),
    }
}

pub(crate) fn respond(
    query: &Message,
    code: ResponseCode,
    addresses: &[IpAddr],
) -> Option<Vec<u8>> {
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
}
