//! Proxies in one process: a client's bytes on one end, an application's on the other.
#![allow(clippy::disallowed_methods, reason = "a test ends with its tasks")]
#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "a test may panic; not every test uses all"
)]

use std::{cell::RefCell, rc::Rc, time::Duration};

use leno_http::{
    Cancel, Corked, Corker, Incoming, Limits, RelayOptions, Relayed, ResponseHead, Unsent,
    Upstream, client, relay, server,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
    task::spawn_local,
};

/// Runs a test on one thread, and ends it when it hangs.
pub fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let local = tokio::task::LocalSet::new();
    runtime.block_on(local.run_until(async {
        tokio::time::timeout(Duration::from_secs(30), test)
            .await
            .expect("the test hangs")
    }))
}

/// As [`run`], by a clock that stands still while there is work: not for sockets.
pub fn run_paused<F: Future>(test: F) -> F::Output {
    run(async {
        tokio::time::pause();
        test.await
    })
}

/// What lies between the client's proxy and the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// Nothing: the application is the upstream, over HTTP/1.
    Direct,
    /// HTTP/2 to a second proxy.
    Http2,
    /// The same, corked.
    Corked,
}

pub const HOPS: [Hop; 3] = [Hop::Direct, Hop::Http2, Hop::Corked];

pub struct Mesh {
    pub limits: Rc<Limits>,
    pub timeout: Option<Duration>,
    pub idle: Option<Duration>,
    pub cancel: Cancel,
    hop: Hop,
    between: RefCell<Option<client::H2>>,
    pool: RefCell<Option<client::H1>>,
    apps: mpsc::UnboundedSender<DuplexStream>,
    done: mpsc::UnboundedSender<Relayed>,
    corker: Corker,
}

pub struct Ends {
    pub mesh: Rc<Mesh>,
    /// Connections to the application.
    pub apps: mpsc::UnboundedReceiver<DuplexStream>,
    /// What the client's proxy says of each exchange.
    pub done: mpsc::UnboundedReceiver<Relayed>,
}

pub fn mesh(hop: Hop) -> Ends {
    mesh_with(hop, |_| {})
}

pub fn mesh_with(hop: Hop, set: impl FnOnce(&mut Mesh)) -> Ends {
    let (apps, app_ends) = mpsc::unbounded_channel();
    let (done, done_end) = mpsc::unbounded_channel();
    let (corker, flusher) = Corker::new();
    spawn_local(flusher);
    let mut mesh = Mesh {
        limits: Rc::default(),
        timeout: None,
        idle: None,
        cancel: Cancel::new(),
        hop,
        between: RefCell::default(),
        pool: RefCell::default(),
        apps,
        done,
        corker,
    };
    set(&mut mesh);
    Ends {
        mesh: Rc::new(mesh),
        apps: app_ends,
        done: done_end,
    }
}

impl Mesh {
    /// A client that speaks HTTP/1: its end of the connection.
    pub fn http1_client(self: &Rc<Self>) -> DuplexStream {
        let (client, server) = duplex(64 * 1024);
        let mesh = self.clone();
        spawn_local(async move {
            let mut connection = server::H1::new(server, bytes::Bytes::new(), mesh.limits.clone());
            while let Ok(Some(incoming)) = connection.next().await {
                mesh.outbound(incoming).await;
            }
        });
        client
    }

    /// A client that speaks HTTP/2, by the h2 crate.
    pub async fn http2_client(self: &Rc<Self>) -> h2::client::SendRequest<bytes::Bytes> {
        let (client, server) = duplex(64 * 1024);
        let mesh = self.clone();
        spawn_local(async move {
            let limits = mesh.limits.clone();
            let mut connection = server::H2::handshake(server, limits, bytes::Bytes::new())
                .await
                .unwrap();
            while let Some(Ok(incoming)) = connection.next().await {
                let mesh = mesh.clone();
                spawn_local(async move { mesh.outbound(incoming).await });
            }
        });
        // Its own window must not be what stalls: that of the proxies is what is looked at.
        let (send, connection) = h2::client::Builder::new()
            .initial_connection_window_size(1 << 24)
            .handshake(client)
            .await
            .unwrap();
        spawn_local(async move {
            connection.await.ok();
        });
        send.ready().await.unwrap()
    }

    async fn outbound(self: &Rc<Self>, incoming: Incoming<'_>) {
        let upstream = match self.hop {
            Hop::Direct => Upstream::H1(self.dial()),
            Hop::Http2 | Hop::Corked => Upstream::H2(self.between().await),
        };
        let relayed = self.carry(incoming, upstream, self.cancel.clone()).await;
        match relayed {
            Ok(mut relayed) => {
                if let Some(connection) = relayed.reusable.take() {
                    self.pool.replace(Some(connection));
                }
                self.done.send(relayed).ok();
            }
            Err(unsent) => {
                let Unsent { incoming, .. } = unsent;
                incoming
                    .reply
                    .refuse(leno_types::Refusal::NoHealthyUpstream, &[], "")
                    .await
                    .ok();
            }
        }
    }

    pub async fn carry<'c>(
        &self,
        incoming: Incoming<'c>,
        upstream: Upstream,
        cancel: Cancel,
    ) -> Result<Relayed, Unsent<'c>> {
        let mut edit = |_: &mut ResponseHead| {};
        let options = RelayOptions {
            request_timeout: self.timeout,
            idle_timeout: self.idle,
            on_response: &mut edit,
            declined: &|head| head.fields.contains("x-declined"),
            cancel: &cancel,
        };
        relay(incoming, upstream, options).await
    }

    fn dial(&self) -> client::H1 {
        if let Some(connection) = self.pool.take().filter(client::H1::is_reusable) {
            return connection;
        }
        let (ours, app) = duplex(64 * 1024);
        self.apps.send(app).unwrap();
        client::H1::new(ours, self.limits.clone())
    }

    async fn between(self: &Rc<Self>) -> client::H2 {
        if let Some(connection) = &*self.between.borrow() {
            return connection.clone();
        }
        let (ours, theirs) = duplex(64 * 1024);
        let mesh = self.clone();
        let connection = if self.hop == Hop::Corked {
            let theirs = Corked::new(theirs, &self.corker);
            spawn_local(async move { mesh.inbound(theirs).await });
            let ours = Corked::new(ours, &self.corker);
            let (connection, driver) = client::H2::handshake(ours, self.limits.clone())
                .await
                .unwrap();
            spawn_local(driver);
            connection
        } else {
            spawn_local(async move { mesh.inbound(theirs).await });
            let (connection, driver) = client::H2::handshake(ours, self.limits.clone())
                .await
                .unwrap();
            spawn_local(driver);
            connection
        };
        self.between.replace(Some(connection.clone()));
        connection
    }

    async fn inbound<IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static>(
        self: Rc<Self>,
        io: IO,
    ) {
        let mut connection = server::H2::handshake(io, self.limits.clone(), bytes::Bytes::new())
            .await
            .unwrap();
        while let Some(Ok(incoming)) = connection.next().await {
            let mesh = self.clone();
            spawn_local(async move {
                let upstream = Upstream::H1(mesh.dial());
                let relayed = mesh.carry(incoming, upstream, Cancel::new()).await;
                if let Ok(Some(connection)) = relayed.map(|relayed| relayed.reusable) {
                    mesh.pool.replace(Some(connection));
                }
            });
        }
    }
}

/// Writes all of `bytes`.
pub async fn send(io: &mut DuplexStream, bytes: impl AsRef<[u8]>) {
    io.write_all(bytes.as_ref()).await.unwrap();
}

/// Reads a head.
pub async fn head(io: &mut DuplexStream) -> String {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        let byte = io.read_u8().await.unwrap_or_else(|error| {
            panic!("{error} after {:?}", String::from_utf8_lossy(&read));
        });
        read.push(byte);
    }
    String::from_utf8(read).unwrap()
}

/// Reads exactly `bytes`.
pub async fn expect(io: &mut DuplexStream, bytes: &str) {
    let mut read = vec![0; bytes.len()];
    io.read_exact(&mut read).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&read), bytes);
}

/// Reads to the end.
pub async fn rest(io: &mut DuplexStream) -> String {
    let mut read = Vec::new();
    io.read_to_end(&mut read).await.unwrap();
    String::from_utf8_lossy(&read).into_owned()
}
