//! One worker: its mailbox, its listeners, its life.
//!
//! Life: start, serve, stop (no new connections, GOAWAY), drain, deadline, abort, a last report, `Drained`.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use leno_http::Corker;
use leno_runtime::{Scope, Stop};
use leno_telemetry::counters::{Counter, Gauge, Limit};
use leno_types::{Priority, Refusal, WorkloadUid};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::mpsc,
    time::{interval, sleep},
};

use crate::{
    CaptureSockets, Event, ListenRole, Look, Update, WorkerConfig,
    api::Command,
    counters::{count, gauge, limit, refused},
    dns, inbound,
    inbound::Arrival,
    outbound,
    outbox::Outbox,
    overload::{self, Load},
    places::{Place, Places},
    record::Record,
    state::{Local, Shared},
    why,
};

/// How often tables are swept.
const TICK: Duration = Duration::from_secs(1);
/// How often reports are made: what people see is to be no older than a second, and more than this stands between.
const REPORT: Duration = Duration::from_millis(250);
/// How long mesh connections may take to close in order once no stream is left.
const FAREWELL: Duration = Duration::from_millis(500);
/// Accepting goes on after this when the system is out of descriptors or memory.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(20);

/// A workload that leaves is looked at so often,
const LOOK: Duration = Duration::from_millis(25);
/// and has no callers left when so many looks in a row find none: who calls it learns a moment later that it leaves.
const QUIET_LOOKS: u32 = 12;

/// Runs a worker to its end.
pub(crate) async fn run(
    config: WorkerConfig,
    stop: Stop,
    mailbox: mpsc::UnboundedReceiver<Command>,
    events: mpsc::Sender<Event>,
) {
    let (corker, flushing) = Corker::new();
    let stop = stop.child();
    let shared = Rc::new(Shared {
        http: Rc::new(config.limits.http.clone()),
        corker,
        scope: Scope::new(stop.clone(), Some(config.limits.tasks)),
        background: Scope::new(Stop::new(), Some(config.limits.tasks)),
        outbox: Outbox::default(),
        mesh: RefCell::default(),
        connected: Cell::new(false),
        locals: RefCell::default(),
        destinations: Default::default(),
        clusters: Default::default(),
        acceptor: RefCell::default(),
        handshakes: Default::default(),
        silent: Default::default(),
        callers: Default::default(),
        load: Load::default(),
        record: Record::new(config.access_log, config.limits.refusals),
        outsiders: Default::default(),
        config,
    });
    let worker = Worker {
        shared: Rc::clone(&shared),
        listeners: HashMap::new(),
        early: Vec::new(),
        gauges: Gauges::default(),
    };
    let work = async {
        let grace = worker.serve(stop, mailbox).await;
        drain(&shared, grace).await;
    };
    // A task like those whose writes it flushes: only so is the end of the run queue behind them.
    let corks = Scope::new(Stop::new(), None);
    let until = corks.stop().clone();
    let flushing = async move {
        until.run_until_stopped(flushing).await;
    };
    if let Err(error) = corks.spawn("cork", flushing) {
        tracing::error!(%error, "small writes are not put together");
    }
    if let Err(error) = corks.spawn(
        "load",
        overload::watch(Rc::clone(&shared), corks.stop().clone()),
    ) {
        tracing::error!(%error, "an overload would not be noticed");
    }
    // The outbox ends when it was closed and emptied.
    tokio::join!(work, shared.outbox.run(events));
    corks.drain(FAREWELL).await;
}

/// Ends everything in order.
async fn drain(shared: &Rc<Shared>, grace: Duration) {
    let begun = Instant::now();
    let locals: Vec<Rc<Local>> = shared.locals.borrow().values().cloned().collect();
    shared.scope.drain(grace).await;
    for local in &locals {
        local.pool.retire_all();
    }
    shared.background.drain(FAREWELL).await;
    tracing::debug!(took = ?begun.elapsed(), "a worker has drained");
    if let Some(report) = shared.record.report(shared.outsiders.take(Instant::now())) {
        shared.outbox.push(report);
    }
    shared.outbox.push(Event::Drained);
    shared.outbox.close();
}

struct Worker {
    shared: Rc<Shared>,
    listeners: HashMap<ListenRole, Vec<Stop>>,
    /// Of a captured namespace until its workload is known: who comes waits in their queues, and is not let in unasked.
    early: Vec<std::net::TcpListener>,
    gauges: Gauges,
}

/// Gauges that are looked at, not counted.
#[derive(Default)]
struct Gauges {
    destinations: i64,
    workloads: i64,
}

impl Worker {
    /// Serves until the stop; gives the grace of the drain.
    async fn serve(
        mut self,
        stop: Stop,
        mut mailbox: mpsc::UnboundedReceiver<Command>,
    ) -> Duration {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut report = interval(REPORT);
        report.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let grace = self.shared.config.drain_grace;
        let stopping = stop.cancelled();
        tokio::pin!(stopping);
        loop {
            tokio::select! {
                biased;
                command = mailbox.recv() => match command {
                    Some(Command::Update(update)) => self.update(update),
                    Some(Command::Drain(grace)) => return grace,
                    // Nobody can tell this worker anything any more.
                    None => return grace,
                },
                () = &mut stopping => return grace,
                _ = tick.tick() => self.tick(),
                _ = report.tick() => self.report(),
            }
        }
    }

    fn update(&mut self, update: Update) {
        count(Counter::ConfigUpdates);
        let shared = &self.shared;
        match update {
            Update::Mesh(mesh) => {
                shared.mesh.replace(Some(Rc::new(mesh)));
            }
            Update::Workload(own) => {
                shared.local(own.uid).describe(*own);
                for listener in std::mem::take(&mut self.early) {
                    self.listen(ListenRole::Inbound, listener);
                }
            }
            Update::WorkloadGone(uid) => self.gone(uid),
            Update::WorkloadLeaving(uid) => self.leaving(uid),
            Update::Certificate {
                uid,
                certificate,
                bundle,
            } => {
                count(Counter::CertificateRotations);
                if let Err(error) = shared.certify(uid, certificate, bundle) {
                    count(Counter::ConfigRejections);
                    tracing::error!(%uid, %error, "a certificate cannot be served with");
                }
            }
            Update::Capture { uid, sockets } => self.capture(uid, sockets),
            Update::AppSockets { uid, v6, sockets } => {
                let ceiling = shared.config.limits.app_sockets;
                shared.local(uid).app.stock(v6, sockets, ceiling);
            }
            Update::Listen { role, listener } => {
                let described = |local: &Rc<Local>| local.info().is_some();
                if role == ListenRole::Inbound && !shared.locals.borrow().values().any(described) {
                    self.early.push(listener);
                } else {
                    self.listen(role, listener);
                }
            }
            Update::Unlisten(role) => {
                if role == ListenRole::Inbound {
                    self.early.clear();
                }
                for stop in self.listeners.remove(&role).unwrap_or_default() {
                    stop.trigger();
                }
            }
            Update::Destination {
                name,
                aliases,
                answer,
            } => shared.destinations.answer(name, aliases, answer),
            Update::Endpoints { service, answer } => {
                shared.clusters.answer(&service, answer.as_ref());
            }
            Update::Look(look) => self.look(look),
            Update::LogAll(all) => shared.record.log_all(all),
            Update::ConfigVersion(version) => shared.record.use_config(version),
            Update::ControlPlane { connected } => {
                shared.connected.set(connected);
                if !connected {
                    shared.destinations.wake_pending();
                    shared.clusters.wake_pending();
                }
            }
        }
    }

    /// A workload's listeners close, its connections drain, its streams end after their grace.
    fn gone(&mut self, uid: WorkloadUid) {
        self.listeners.retain(|role, stops| {
            let own = matches!(role, ListenRole::Published { uid: of, .. } | ListenRole::Outbound { uid: of } if *of == uid);
            if own {
                stops.iter().for_each(Stop::trigger);
            }
            !own
        });
        let Some(local) = self.shared.remove(uid) else {
            return;
        };
        local.stop.trigger();
        let grace = self.shared.config.drain_grace;
        let stop = self.shared.background.stop().clone();
        let end = async move {
            stop.run_until_stopped(sleep(grace)).await;
            local.end_streams();
            local.pool.retire_all();
        };
        if self.shared.background.spawn("workload-end", end).is_err() {
            limit(Limit::Tasks);
        }
    }

    /// A workload's callers are sent away; says when none is left.
    fn leaving(&self, uid: WorkloadUid) {
        let Some(local) = self.shared.known_local(uid) else {
            return self.shared.outbox.push(Event::WorkloadIdle(uid));
        };
        local.send_callers_away();
        let shared = Rc::clone(&self.shared);
        let watch = async move {
            let mut quiet = 0;
            while quiet < QUIET_LOOKS && !local.stop.is_stopping() {
                sleep(LOOK).await;
                quiet = if local.app.is_unused() { quiet + 1 } else { 0 };
            }
            shared.outbox.push(Event::WorkloadIdle(uid));
        };
        if self
            .shared
            .background
            .spawn("workload-leaving", watch)
            .is_err()
        {
            limit(Limit::Tasks);
        }
    }

    fn capture(&mut self, uid: WorkloadUid, sockets: CaptureSockets) {
        let local = self.shared.local(uid);
        local.app.set_dial(sockets.app, sockets.preserve_source);
        for listener in sockets.outbound {
            self.accept_outbound(&local, local.stop.clone(), listener);
        }
        for socket in sockets.dns_udp {
            match UdpSocket::from_std(socket) {
                Ok(socket) => {
                    let serving =
                        dns::serve_udp(Rc::clone(&self.shared), Rc::clone(&local), socket);
                    self.spawn("dns-udp", serving);
                }
                Err(error) => rejected("a DNS socket", &error),
            }
        }
        for listener in sockets.dns_tcp {
            match TcpListener::from_std(listener) {
                Ok(listener) => {
                    let serving =
                        dns::serve_tcp(Rc::clone(&self.shared), Rc::clone(&local), listener);
                    self.spawn("dns-tcp", serving);
                }
                Err(error) => rejected("a DNS listener", &error),
            }
        }
    }

    fn listen(&mut self, role: ListenRole, listener: std::net::TcpListener) {
        let stop = match role {
            ListenRole::Published { uid, .. } | ListenRole::Outbound { uid } => {
                self.shared.local(uid).stop.child()
            }
            ListenRole::Hbone | ListenRole::Inbound => self.shared.scope.stop().child(),
        };
        self.listeners.entry(role).or_default().push(stop.clone());
        let shared = Rc::clone(&self.shared);
        match role {
            ListenRole::Hbone => {
                let names = ("accept-hbone", "mesh-inbound");
                let gate = (Priority::High, None);
                self.accept(names, stop, listener, gate, move |stream, from, _| {
                    inbound::serve(Rc::clone(&shared), stream, from)
                });
            }
            ListenRole::Published { uid, port } => {
                let local = self.shared.local(uid);
                let places = Some(local.places.published.clone());
                let names = ("accept-published", "published");
                let gate = (Priority::Default, places);
                self.accept(names, stop, listener, gate, move |stream, from, place| {
                    let arrival = Arrival::Published(Rc::clone(&local), port);
                    inbound::serve_plain(Rc::clone(&shared), arrival, stream, from, place)
                });
            }
            ListenRole::Inbound => {
                let names = ("accept-inbound", "inbound");
                let gate = (Priority::Default, None);
                self.accept(names, stop, listener, gate, move |stream, from, place| {
                    let arrival = Arrival::Captured;
                    inbound::serve_plain(Rc::clone(&shared), arrival, stream, from, place)
                });
            }
            ListenRole::Outbound { uid } => {
                let local = self.shared.local(uid);
                self.accept_outbound(&local, stop, listener);
            }
        }
    }

    fn accept_outbound(&self, local: &Rc<Local>, stop: Stop, listener: std::net::TcpListener) {
        let (shared, local) = (Rc::clone(&self.shared), Rc::clone(local));
        let places = Some(local.places.outbound.clone());
        let names = ("accept-outbound", "outbound");
        let gate = (Priority::High, places);
        self.accept(names, stop, listener, gate, move |stream, from, place| {
            outbound::serve(Rc::clone(&shared), Rc::clone(&local), stream, from, place)
        });
    }

    /// Accepts until the stop; each connection is a task of its own. One that there is no place for is reset, and so is
    /// what an overload leaves no room for: of callers from outside those of default priority and less, of members all
    /// (what is cheaper, their requests, was refused before).
    fn accept<Work: Future<Output = ()> + 'static>(
        &self,
        (name, task): (&'static str, &'static str),
        stop: Stop,
        listener: std::net::TcpListener,
        (priority, places): (Priority, Option<Places>),
        serve: impl Fn(TcpStream, SocketAddr, Option<Place>) -> Work + 'static,
    ) {
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return rejected(name, &error),
        };
        let shared = Rc::clone(&self.shared);
        let accepting = async move {
            loop {
                match listener.accept().await {
                    Ok((stream, from)) => {
                        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                        if shared.load.refuses(|| priority).is_some() {
                            refused(Refusal::Overload);
                            outbound::reset(&stream);
                            continue;
                        }
                        let place = places.as_ref().map(Places::take);
                        if matches!(place, Some(None)) {
                            refused(Refusal::Overflow);
                            outbound::reset(&stream);
                            continue;
                        }
                        let work = serve(stream, from, place.flatten());
                        if shared.scope.spawn(task, work).is_err() {
                            limit(Limit::Tasks);
                        }
                    }
                    Err(error) if is_of_one_connection(&error) => {}
                    Err(error) => {
                        tracing::warn!(task, %error, "no connection can be accepted at present");
                        sleep(ACCEPT_BACKOFF).await;
                    }
                }
            }
        };
        self.spawn(name, async move {
            stop.run_until_stopped(accepting).await;
        });
    }

    fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + 'static) {
        if let Err(error) = self.shared.scope.spawn(name, work) {
            limit(Limit::Tasks);
            tracing::error!(%error, "a listener was not started");
        }
    }

    /// Once a second: sweeps.
    fn tick(&mut self) {
        let shared = &self.shared;
        let now = Instant::now();
        shared.destinations.sweep(shared, now);
        shared.clusters.sweep(shared, now);
        for local in shared.locals.borrow().values() {
            local.sweep();
            local.pool.sweep(shared, now);
            local.app.sweep(shared, now);
        }
        self.gauges.look(shared);
    }

    /// Answers how it stands. What happened before is told before, so that whoever asks sees it.
    fn look(&self, look: Look) {
        /// Services of one answer.
        const SERVICES: usize = 64;
        /// Endpoints of each.
        const ENDPOINTS: usize = 64;
        let shared = &self.shared;
        if let Some(report) = shared.record.report(shared.outsiders.take(Instant::now())) {
            shared.outbox.push(report);
        }
        let services = if look.all {
            shared.clusters.names()
        } else {
            look.services
        };
        let now = Instant::now();
        let answer = services.into_iter().filter_map(|service| {
            let cluster = shared.clusters.look(&service)?;
            let (endpoints, more) = why::endpoints(&cluster, 0, &[], now, ENDPOINTS);
            Some((service, endpoints, more))
        });
        shared.outbox.push(Event::Looked {
            question: look.question,
            services: answer.take(SERVICES).collect(),
        });
    }

    /// A report, where there is something to tell and the last one was taken.
    fn report(&self) {
        let shared = &self.shared;
        if !shared.outbox.is_empty() {
            return;
        }
        let outsiders = shared.outsiders.take(Instant::now());
        if let Some(report) = shared.record.report(outsiders) {
            shared.outbox.push(report);
        }
    }
}

impl Gauges {
    fn look(&mut self, shared: &Shared) {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let destinations = count(shared.destinations.len());
        let workloads = count(shared.locals.borrow().len());
        for (which, last, now) in [
            (
                Gauge::KnownDestinations,
                &mut self.destinations,
                destinations,
            ),
            (Gauge::Workloads, &mut self.workloads, workloads),
        ] {
            if now != *last {
                gauge(which, now - *last);
                *last = now;
            }
        }
    }
}

/// Errors of accept(2) that concern only the connection that was to be accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

fn rejected(what: &str, error: &io::Error) {
    count(Counter::ConfigRejections);
    tracing::error!(%error, "{what} that was handed over cannot be used");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of what such a function makes.
    fn size<A, B, C, R>(_: fn(A, B, C, SocketAddr, Option<Place>) -> R) -> usize {
        size_of::<R>()
    }

    fn size_of_peers<A, B, R>(_: fn(A, B, SocketAddr) -> R) -> usize {
        size_of::<R>()
    }

    #[test]
    fn a_connection_that_waits_for_its_first_byte_is_small() {
        for (what, bytes, most) in [
            ("published", size(inbound::serve_plain), 3_072),
            ("captured", size(outbound::serve), 4_096),
            ("mesh", size_of_peers(inbound::serve), 6_144),
        ] {
            assert!(bytes <= most, "{what}: {bytes} bytes");
        }
    }
}
