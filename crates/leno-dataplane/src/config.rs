//! What a worker is told once: its place, its ceilings and its deadlines.

use std::{io, net::SocketAddr, time::Duration};

use leno_net::room::Room;
use leno_types::ports;
use tokio::net::TcpStream;

/// Says where an accepted connection was going before it was captured; `None`: to the listener itself.
pub type OriginalDestination = fn(&TcpStream) -> io::Result<Option<SocketAddr>>;

/// What a worker is told once.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The port peers are told to reach this host's proxy at.
    pub hbone_port: u16,
    /// Ceilings and deadlines.
    pub limits: Limits,
    /// Where names that are not the mesh's are asked; in order.
    pub dns_upstreams: Vec<SocketAddr>,
    /// The host's search domains: `cart.corp.example` means `cart` where `corp.example` is one.
    pub dns_search: Vec<String>,
    /// Whether addresses of version 6 can be reached from here; otherwise AAAA is answered empty.
    pub ipv6: bool,
    /// How long streams live on after the certificate they began under was renewed.
    pub stream_grace: Duration,
    /// How long a drain by the stop given to [`crate::start`] may take.
    pub drain_grace: Duration,
    /// Whether a line is written for each request and connection.
    pub access_log: bool,
    /// Whether sockets that leave this host's namespace are marked, so that capture leaves them alone. Needs
    /// `CAP_NET_ADMIN`; without capture in this namespace no mark is due.
    pub mark: bool,
    /// Where an accepted connection was going; the kernel knows.
    pub original_destination: OriginalDestination,
    /// What memory this process has and could still get.
    pub memory: fn() -> Option<Room>,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            hbone_port: ports::HBONE,
            limits: Limits::default(),
            dns_upstreams: Vec::new(),
            dns_search: Vec::new(),
            ipv6: true,
            stream_grace: Duration::from_secs(24 * 3600),
            drain_grace: Duration::from_secs(20),
            access_log: false,
            mark: false,
            original_destination: leno_net::socket::original_destination,
            memory: leno_net::room::room,
        }
    }
}

/// Every ceiling and deadline of a worker. What meets one is refused or closed, and counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of messages and HTTP/2 connections.
    pub http: leno_http::Limits,
    /// Tasks open at once: connections, streams, queries.
    pub tasks: usize,
    /// How late the worker may come to what is ready to run, all of the last half second.
    pub lag: Duration,
    /// Destinations and services known at once; the least recently used goes first.
    pub destinations: usize,
    /// Destinations asked for and not answered yet.
    pub discoveries: usize,
    /// How long a destination waits for its answer (CP7).
    pub discovery_timeout: Duration,
    /// A destination not used for so long is unsubscribed (CP8).
    pub destination_idle: Duration,
    /// To the TCP connection with a peer or an application.
    pub connect_timeout: Duration,
    /// Handshakes open at once; the oldest is closed for a new one.
    pub handshakes: usize,
    /// Connections from outside the mesh on which neither side has said anything; the oldest is closed for a new one.
    pub silent_connections: usize,
    /// Captured connections of one workload, and HTTP/2 streams on them; above it they are reset. A quarter of the
    /// tasks: its neighbours keep theirs.
    pub outbound_connections: usize,
    /// The same of connections from outside the mesh to one workload.
    pub published_connections: usize,
    /// HTTP/2 streams within CONNECT streams of peers (HBONE) to one workload.
    pub tunnelled_streams: usize,
    /// Names under which metrics tell the workloads of one caller's identity apart; further ones are shown by its
    /// service account.
    pub caller_names: usize,
    /// Mesh connections to one workload from one workload.
    pub connections_per_peer: usize,
    /// A mesh connection is replaced when it is so old.
    pub connection_age: Duration,
    /// A mesh connection without a stream is closed after this.
    pub connection_idle: Duration,
    /// How long a request waits for room on a connection.
    pub queue_timeout: Duration,
    /// HTTP/1 connections to one port of an application.
    pub app_connections: usize,
    /// Requests that wait for one of those, or for their turn among HTTP/2's.
    pub app_queue: usize,
    /// How long a request waits for one of those once their line has not been empty for `queue_timeout`.
    pub standing_queue_timeout: Duration,
    /// HTTP/1 connections to an application kept for the next request: as many as may be open, or a busy program is
    /// dialled again for every other request. Those not needed any more go by their age.
    pub app_idle_connections: usize,
    /// For how long they are kept.
    pub app_idle: Duration,
    /// HTTP/2 connections to one port of an application, from one address.
    pub app_h2_connections: usize,
    /// Requests open at once to one port of an application over HTTP/2, where it allows as many.
    pub app_streams: usize,
    /// Callers' addresses from which connections to one port of an application are kept and shared, where those are
    /// preserved. The one not used for longest makes room; where all are in use, a further one's serve one exchange.
    pub app_sources: usize,
    /// Unconnected sockets in stock for one workload and address family.
    pub app_sockets: usize,
    /// How long a dial waits for a socket to come.
    pub socket_timeout: Duration,
    /// Tries of one request, the first included.
    pub tries: usize,
    /// Without a byte either way a stream of bytes ends.
    pub stream_idle: Duration,
    /// Without a byte either way an exchange ends after its response head.
    pub exchange_idle: Duration,
    /// How long the first byte of a connection that is refused anyway is waited for, to refuse in its protocol.
    pub refusal_wait: Duration,
    /// How long a client of a port known to speak HTTP may be silent before the other side is asked as well.
    pub detect_patience: Duration,
    /// DNS queries of one workload that wait for the control plane or a resolver; above it they are answered SERVFAIL.
    pub dns_queries: usize,
    /// Bytes of DNS queries that may wait to be read, on each socket; a short query counts for some 400, and without
    /// privilege on the host it is as much as `net.core.rmem_max` permits. Above it they are lost, and counted.
    pub dns_inbox: usize,
    /// How long one upstream of DNS may take.
    pub dns_timeout: Duration,
    /// DNS connections of one workload over TCP.
    pub dns_connections: usize,
    /// Events not yet taken by the agent.
    pub events: usize,
    /// Refusals remembered between two reports; the oldest of whoever has most of them makes room.
    pub refusals: usize,
}

impl Limits {
    /// Ceilings that a process can keep which may have so many open files: what one workload, or whoever is at its
    /// handshake, may take leaves some to the neighbours. Says whether that is less than otherwise.
    #[must_use]
    pub fn within_open_files(mut self, files: u64) -> (Self, bool) {
        let part = |of: u64| usize::try_from(files / of).unwrap_or(usize::MAX).max(1);
        let before = self.clone();
        // Two each: the caller's, and what it leads to.
        for ceiling in [
            &mut self.outbound_connections,
            &mut self.published_connections,
            &mut self.tunnelled_streams,
        ] {
            *ceiling = (*ceiling).min(part(8));
        }
        // A name asked outside takes a socket of its own.
        for ceiling in [
            &mut self.handshakes,
            &mut self.silent_connections,
            &mut self.dns_queries,
        ] {
            *ceiling = (*ceiling).min(part(16));
        }
        let less = self != before;
        (self, less)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            http: leno_http::Limits::default(),
            tasks: 65_536,
            lag: Duration::from_millis(200),
            destinations: 4_096,
            discoveries: 1_024,
            discovery_timeout: Duration::from_secs(2),
            destination_idle: Duration::from_secs(600),
            connect_timeout: Duration::from_secs(1),
            handshakes: 1_024,
            silent_connections: 1_024,
            outbound_connections: 16_384,
            published_connections: 16_384,
            tunnelled_streams: 16_384,
            caller_names: 128,
            connections_per_peer: 16,
            connection_age: Duration::from_secs(3_600),
            connection_idle: Duration::from_secs(300),
            queue_timeout: Duration::from_secs(5),
            app_connections: 512,
            app_queue: 1_024,
            standing_queue_timeout: Duration::from_millis(500),
            app_idle_connections: 512,
            app_idle: Duration::from_secs(30),
            app_h2_connections: 4,
            app_streams: 1_024,
            app_sources: 512,
            app_sockets: 32,
            socket_timeout: Duration::from_secs(2),
            tries: 3,
            stream_idle: Duration::from_secs(2 * 3600),
            exchange_idle: Duration::from_secs(3600),
            refusal_wait: Duration::from_secs(1),
            detect_patience: Duration::from_millis(300),
            dns_queries: 1_024,
            dns_inbox: 1024 * 1024,
            dns_timeout: Duration::from_secs(2),
            dns_connections: 64,
            events: 1_024,
            refusals: 128,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_workload_may_take_more_than_a_quarter_of_the_files_that_may_be_open() {
        let all = || Limits::default();
        assert_eq!(all().within_open_files(1 << 20), (all(), false));
        assert_eq!(all().within_open_files(u64::MAX), (all(), false));
        for files in [0, 64, 1_024, 4_096, 20_000] {
            let (limits, less) = all().within_open_files(files);
            assert!(less);
            let each = [
                limits.outbound_connections,
                limits.published_connections,
                limits.tunnelled_streams,
            ];
            let most = (files / 4).max(2);
            assert!(
                each.iter()
                    .all(|each| *each as u64 * 2 <= most && *each > 0)
            );
            assert!(limits.handshakes as u64 <= (files / 16).max(1) && limits.handshakes > 0);
            assert!(limits.silent_connections > 0);
            assert!(limits.dns_queries as u64 <= (files / 16).max(1) && limits.dns_queries > 0);
        }
    }
}
