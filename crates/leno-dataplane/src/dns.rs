//! DNS as captured: names of the mesh are answered here, everything else by the host's resolvers.
//!
//! A question about a mesh name never leaves the host. What can mean nothing else and is unknown does not exist, and so is
//! `cart.NS` of a namespace that the mesh has; what looks like any domain and is known to be no service is asked outside.
//! Where the control plane does not answer, that is only done with names that are below no namespace and no domain of the
//! mesh's: otherwise an outside resolver could turn mutual TLS into plaintext.

mod names;
mod outside;

use std::{
    collections::VecDeque,
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
use leno_telemetry::counters::{Counter, Limit};
use leno_types::{HostName, ServiceName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::{sleep, timeout},
};

pub(crate) use self::names::read_name;
use self::{
    names::{Meaning, Named, Reading},
    outside::forward,
};
use crate::{
    counters::{count, limit, limits},
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

/// What is said to a question.
enum Said {
    /// Addresses, maybe none.
    Addresses(Vec<IpAddr>),
    /// There is no such name.
    NoSuchName,
    /// It cannot be told now.
    Failed,
    /// The control plane is to be asked.
    Ask,
    /// The name means this service.
    Is(ServiceName),
    /// The mesh has no such name: what else it may mean is tried, and at last somebody else is asked.
    NotOurs,
}

/// Serves a UDP socket until the workload's end. What is known is answered at once: only a question that must wait takes
/// a task, and one workload may have so many of those.
pub(crate) async fn serve_udp(shared: Rc<Shared>, local: Rc<Local>, socket: UdpSocket) {
    let socket = Rc::new(socket);
    let mut inbox = Inbox::of(&socket, shared.config.limits.dns_inbox);
    let mut buffer = vec![0; LONGEST_UDP];
    let receive = async {
        loop {
            let (length, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // An ICMP answer to something sent before shows as an error of the next call.
                Err(_) => continue,
            };
            inbox.count_lost(&socket);
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

/// What waits to be read of a socket: a program's thread pool may ask hundreds of names at the same instant.
struct Inbox {
    /// How many queries the kernel had thrown away when last asked.
    lost: u32,
}

impl Inbox {
    fn of(socket: &UdpSocket, bytes: usize) -> Self {
        if let Err(error) = leno_net::socket::widen_inbox(socket, bytes) {
            tracing::debug!(%error, "a DNS socket keeps the inbox it has");
        }
        // What a predecessor's socket lost is not counted again.
        let lost = leno_net::socket::dropped_messages(socket).unwrap_or(0);
        Self { lost }
    }

    fn count_lost(&mut self, socket: &UdpSocket) {
        let Ok(lost) = leno_net::socket::dropped_messages(socket) else {
            return;
        };
        let more = lost.wrapping_sub(self.lost);
        self.lost = lost;
        if more > 0 {
            limits(Limit::DnsInbox, more.into());
        }
    }
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
    /// What its name may mean, as far as that is not known.
    meanings: VecDeque<Meaning>,
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
    let mut meanings = VecDeque::new();
    match say(shared, local, &question, family, &mut meanings) {
        Said::Ask | Said::NotOurs => {}
        said => return reply(&message, said).map(Looked::Answer),
    }
    let Some(place) = local.places.dns_queries.take() else {
        return respond(&message, ResponseCode::ServFail, &[]).map(Looked::Answer);
    };
    Some(Looked::Wait(Box::new(Waiting {
        query: query.to_vec(),
        meanings,
        family,
        message,
        _place: place,
    })))
}

impl Waiting {
    /// The answer, once it is known.
    async fn answer(mut self, shared: &Shared, tcp: bool) -> Option<Vec<u8>> {
        while let Some(meaning) = self.meanings.front() {
            let found = shared.destinations.find(shared, &meaning.asked()).await;
            let answer = found.as_ref().map(|entry| entry.answer());
            let mut said = means(shared, meaning, self.family, answer.ok());
            if let (Said::Ask, Meaning::Service(service, _)) = (&said, meaning)
                && shared
                    .clusters
                    .find(shared, service, Instant::now())
                    .await
                    .is_ok()
            {
                said = headless(shared, service, self.family);
            }
            match said {
                Said::NotOurs => drop(self.meanings.pop_front()),
                Said::Is(service) => is_given(&mut self.meanings, service),
                said => return reply(&self.message, said),
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
        Said::Failed | Said::Ask | Said::Is(_) | Said::NotOurs => {
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

/// What can be said without asking anybody; otherwise `meanings` are what the name may mean.
fn say(
    shared: &Shared,
    local: &Local,
    question: &Query,
    family: Family,
    meanings: &mut VecDeque<Meaning>,
) -> Said {
    let Some(info) = local.info() else {
        return Said::Failed;
    };
    let name = question.name().to_ascii();
    let may_name = |name: &HostName| {
        let mesh = shared.mesh.borrow();
        mesh.as_ref().is_some_and(|mesh| mesh.may_name(name))
    };
    let search = &shared.config.dns_search;
    match read_name(&name, &info.own.namespace, search, may_name) {
        Named::Perhaps(some) => *meanings = some,
        Named::Localhost => {
            let own = [
                IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(Ipv6Addr::LOCALHOST),
            ];
            return Said::Addresses(own.into_iter().filter(|ip| family.has(ip)).collect());
        }
    }
    while let Some(meaning) = meanings.front() {
        let now = Instant::now();
        let Some(entry) = shared.destinations.known(shared, &meaning.asked(), now) else {
            return Said::Ask;
        };
        match means(shared, meaning, family, Some(entry.answer())) {
            Said::NotOurs => drop(meanings.pop_front()),
            Said::Is(service) => is_given(meanings, service),
            said => return said,
        }
    }
    Said::NotOurs
}

/// The first meaning is this service.
fn is_given(meanings: &mut VecDeque<Meaning>, service: ServiceName) {
    meanings.pop_front();
    meanings.push_front(Meaning::Service(service, Reading::Given));
}

/// What an answer about a meaning, or none in time, means for its name.
fn means(shared: &Shared, meaning: &Meaning, family: Family, answer: Option<Answer>) -> Said {
    let (service, reading) = match (meaning, answer) {
        (Meaning::Hostname(_), Some(Answer::Hostname(service))) => return Said::Is(service),
        (Meaning::Hostname(_), Some(_)) => return Said::NotOurs,
        (Meaning::Hostname(_), None) => return Said::Failed,
        (Meaning::Service(service, _), Some(Answer::Service(view))) => {
            if view.service.headless {
                return headless(shared, service, family);
            }
            if view.service.vips.is_empty() {
                return Said::Failed;
            }
            // Who asks for a name is about to call it.
            shared.clusters.prefetch(shared, service);
            let vips = view.service.vips.iter().copied();
            return Said::Addresses(vips.filter(|ip| family.has(ip)).collect());
        }
        (Meaning::Service(service, reading), Some(_)) => {
            let ours = match reading {
                Reading::Certain => true,
                Reading::Namespace => shared.has_namespace(&service.namespace),
                Reading::Searched => false,
                // It has just ended, and its name has not yet.
                Reading::Given => return Said::Failed,
            };
            return match ours {
                true => Said::NoSuchName,
                false => Said::NotOurs,
            };
        }
        (Meaning::Service(service, reading), None) => (service, *reading),
    };
    match reading {
        Reading::Certain | Reading::Given => Said::Failed,
        Reading::Namespace | Reading::Searched if shared.has_namespace(&service.namespace) => {
            Said::Failed
        }
        Reading::Namespace | Reading::Searched => Said::NotOurs,
    }
}

/// A headless service stands for its endpoints: whoever calls chooses among theirs.
fn headless(shared: &Shared, service: &ServiceName, family: Family) -> Said {
    match shared.clusters.known(shared, service, Instant::now()) {
        Some(cluster) => {
            // What the mesh does not claim would be called in clear.
            let mesh = shared.mesh.borrow();
            let claimed = |ip: &IpAddr| mesh.as_ref().is_some_and(|mesh| mesh.claims(*ip));
            let fit = cluster.addresses().into_iter().filter(claimed);
            let some = fit.filter(|ip| family.has(ip)).take(MAX_ENDPOINTS);
            Said::Addresses(some.collect())
        }
        None => Said::Ask,
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
