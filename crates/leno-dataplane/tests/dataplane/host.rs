//! Hosts of a test: a worker each on an address of its own (127.0.0.x), with the agent's side of the seam played here.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::{LazyLock, Mutex},
    time::{Duration, SystemTime},
};

use leno_dataplane::{
    AppDial, CaptureSockets, Event, ListenRole, Outsider, RefusalRecord, Update, WorkerConfig,
    start,
};
use leno_ir::{
    AccessRule, Destination, Endpoint, EndpointPort, Endpoints, Health, Hostname, Mesh, Mtls,
    OwnWorkload, ResourceName, Route, Service, ServicePort, ServicePortRef, WorkloadPort,
};
use leno_runtime::Stop;
use leno_telemetry::{Totals, counters::Counters};
use leno_tls::{
    Alpn, Connected, Connector, PrivateKey, TrustBundle, WorkloadCertificate,
    ca::{Csr, Intermediate, RootAuthority, Usage},
};
use leno_types::{AppProtocol, HostName, Identity, ServiceName, TrustDomain, WorkloadUid};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::{Notify, mpsc},
};

/// Where test connections were going: there is no redirect here.
static ORIGINAL: LazyLock<Mutex<HashMap<SocketAddr, SocketAddr>>> = LazyLock::new(Mutex::default);

pub fn original_destination(stream: &TcpStream) -> std::io::Result<Option<SocketAddr>> {
    let from = stream.peer_addr()?;
    Ok(ORIGINAL.lock().unwrap().get(&from).copied())
}

/// A mesh: its authority, and what its control plane would say.
pub struct World {
    root: RootAuthority,
    authority: Intermediate,
    pub domain: TrustDomain,
    pub services: RefCell<HashMap<ServiceName, Service>>,
    pub endpoints: RefCell<HashMap<ServiceName, Vec<Endpoint>>>,
    pub hosts: RefCell<HashMap<IpAddr, leno_ir::Host>>,
    hostnames: RefCell<HashMap<HostName, ServiceName>>,
    senders: RefCell<Vec<mpsc::UnboundedSender<Update>>>,
    generation: Cell<u64>,
    next: Cell<u8>,
}

/// One host with its worker.
pub struct Host {
    pub world: Rc<World>,
    pub ip: IpAddr,
    pub hbone_port: u16,
    pub updates: mpsc::UnboundedSender<Update>,
    pub seen: Rc<Seen>,
    pub stop: Stop,
}

/// What a worker told.
#[derive(Default)]
pub struct Seen {
    pub totals: RefCell<Totals>,
    pub counters: RefCell<Counters>,
    pub refusals: RefCell<Vec<RefusalRecord>>,
    pub outsiders: RefCell<Vec<Outsider>>,
    pub log: RefCell<Vec<u8>>,
    pub asked: RefCell<Vec<ResourceName>>,
    pub forgotten: RefCell<Vec<ResourceName>>,
    pub silent: Cell<bool>,
    pub drained: Cell<bool>,
    changed: Notify,
}

/// A workload of a host.
#[derive(Clone)]
pub struct Workload {
    pub own: OwnWorkload,
    pub endpoint: Endpoint,
}

impl World {
    pub fn new() -> Rc<Self> {
        let domain: TrustDomain = "test.leno".parse().unwrap();
        let now = SystemTime::now();
        let root = RootAuthority::generate(&domain, now).unwrap();
        let authority = root
            .issue_intermediate(now, Duration::from_secs(24 * 3600))
            .unwrap();
        Rc::new(Self {
            root,
            authority,
            domain,
            services: RefCell::default(),
            endpoints: RefCell::default(),
            hosts: RefCell::default(),
            hostnames: RefCell::default(),
            senders: RefCell::default(),
            generation: Cell::new(0),
            next: Cell::new(1),
        })
    }

    pub fn bundle(&self) -> TrustBundle {
        TrustBundle::from_pem(self.domain.clone(), &self.root.cert_pem()).unwrap()
    }

    pub fn mesh(&self) -> Mesh {
        Mesh {
            name: "test".parse().unwrap(),
            trust_domain: self.domain.clone(),
            trust_bundle: self.root.cert_pem(),
            prefixes: vec![
                "10.77.0.0/16".parse().unwrap(),
                "127.7.0.0/16".parse().unwrap(),
            ],
            addresses: Vec::new(),
            vip_v4: "240.240.0.0/16".parse().unwrap(),
            vip_v6: "2001:2::/48".parse().unwrap(),
            namespaces: ["shop", "bank"].map(|name| name.parse().unwrap()).into(),
            domains: ["mesh.local".parse().unwrap()].into(),
        }
    }

    pub fn identity(&self, account: &str) -> Identity {
        let (namespace, account) = ("shop".parse().unwrap(), account.parse().unwrap());
        Identity::workload(&self.domain, &namespace, &account)
    }

    pub fn certificate(
        &self,
        uid: WorkloadUid,
        identity: &Identity,
        lifetime: Duration,
    ) -> WorkloadCertificate {
        let key = PrivateKey::generate();
        let csr = Csr::from_der(&key.csr().unwrap()).unwrap();
        let now = SystemTime::now();
        let chain = self
            .authority
            .sign(
                &csr,
                identity,
                &[uid.to_string()],
                Usage::Workload,
                now,
                lifetime,
            )
            .unwrap();
        self.generation.set(self.generation.get() + 1);
        let generation = self.generation.get();
        let bundle = self.bundle();
        WorkloadCertificate::new(Some(uid), &chain.chain_pem, &key, &bundle, generation, now)
            .unwrap()
    }

    /// A service with one port and these endpoints; gives its virtual address with that port.
    pub fn service(
        &self,
        name: &str,
        port: u16,
        protocol: Option<AppProtocol>,
        endpoints: Vec<Endpoint>,
    ) -> SocketAddr {
        let service: ServiceName = name.parse().unwrap();
        let last = u8::try_from(self.services.borrow().len() + 1).unwrap();
        let vip = IpAddr::from([240, 240, 0, last]);
        let v6: IpAddr = format!("2001:2::{last}").parse().unwrap();
        let description = Service {
            name: service.clone(),
            vips: vec![vip, v6],
            headless: false,
            ports: vec![ServicePort {
                port,
                protocol,
                name: String::new(),
            }],
            routes: Vec::new(),
        };
        self.services
            .borrow_mut()
            .insert(service.clone(), description);
        self.endpoints.borrow_mut().insert(service, endpoints);
        SocketAddr::new(vip, port)
    }

    /// Gives a service routes, everywhere.
    pub fn route(&self, name: &str, routes: Vec<Route>) {
        let service: ServiceName = name.parse().unwrap();
        self.services.borrow_mut().get_mut(&service).unwrap().routes = routes;
        let answer = self.services.borrow().get(&service).cloned();
        for sender in &*self.senders.borrow() {
            drop(sender.send(Update::Destination {
                name: ResourceName::Service(service.clone()),
                aliases: Vec::new(),
                answer: answer.clone().map(Destination::Service),
            }));
        }
    }

    /// Makes an address a member's, with these workloads.
    pub fn host(&self, address: IpAddr, endpoints: Vec<Endpoint>) {
        let mut endpoints = endpoints;
        for port in endpoints
            .iter_mut()
            .flat_map(|endpoint| &mut endpoint.ports)
        {
            port.service_port = 0;
        }
        let host = leno_ir::Host { address, endpoints };
        self.hosts.borrow_mut().insert(address, host);
    }

    /// Changes the endpoints of a service, everywhere.
    pub fn set_endpoints(&self, name: &str, endpoints: Vec<Endpoint>) {
        let service: ServiceName = name.parse().unwrap();
        self.endpoints
            .borrow_mut()
            .insert(service.clone(), endpoints.clone());
        for sender in &*self.senders.borrow() {
            drop(sender.send(Update::Endpoints {
                service: service.clone(),
                answer: Some(Endpoints {
                    service: service.clone(),
                    endpoints: endpoints.clone(),
                }),
            }));
        }
    }

    /// A connection to a workload's proxy, as soon as that serves it.
    pub async fn shake_hands(&self, to: &Workload, alpn: &[Alpn]) -> Connected<TcpStream> {
        let (web, lifetime) = (self.identity("web"), Duration::from_secs(600));
        self.shake_hands_as(&web, lifetime, to, alpn).await
    }

    /// The same for somebody else, whose certificate lasts so long.
    pub async fn shake_hands_as(
        &self,
        who: &Identity,
        lifetime: Duration,
        to: &Workload,
        alpn: &[Alpn],
    ) -> Connected<TcpStream> {
        let uid = WorkloadUid::from_bytes([9; 16]);
        let certificate = self.certificate(uid, who, lifetime);
        let expected = [to.own.identity.clone()];
        let connector = Connector::new(&certificate, &self.bundle(), &expected, alpn).unwrap();
        let at = SocketAddr::new(to.endpoint.addresses[0], to.endpoint.hbone_port);
        loop {
            let stream = TcpStream::connect(at).await.unwrap();
            if let Ok(connected) = connector.connect(stream, Some(&to.own.uid)).await {
                assert_eq!(connected.alpn, alpn[0]);
                return connected;
            }
            tokio::task::yield_now().await;
        }
    }

    fn destination(&self, name: &ResourceName) -> Option<Destination> {
        let services = self.services.borrow();
        let service = match name {
            ResourceName::Service(name) => services.get(name),
            ResourceName::Address(ip) => services.values().find(|s| s.vips.contains(ip)),
            ResourceName::Host(_) | ResourceName::Hostname(_) => None,
        };
        if let Some(service) = service {
            return Some(Destination::Service(service.clone()));
        }
        match name {
            ResourceName::Address(ip) | ResourceName::Host(ip) => {
                self.hosts.borrow().get(ip).cloned().map(Destination::Host)
            }
            ResourceName::Hostname(name) => {
                let service = self.hostnames.borrow().get(name).cloned()?;
                let name = name.clone();
                Some(Destination::Hostname(Hostname { name, service }))
            }
            ResourceName::Service(_) => None,
        }
    }

    /// Gives a name to a service, or to nobody, everywhere.
    pub fn name(&self, name: &str, service: Option<&str>) {
        let name: HostName = name.parse().unwrap();
        match service {
            Some(service) => {
                let service = service.parse().unwrap();
                self.hostnames.borrow_mut().insert(name.clone(), service)
            }
            None => self.hostnames.borrow_mut().remove(&name),
        };
        let name = ResourceName::Hostname(name);
        let answer = self.destination(&name);
        for sender in &*self.senders.borrow() {
            drop(sender.send(Update::Destination {
                name: name.clone(),
                aliases: Vec::new(),
                answer: answer.clone(),
            }));
        }
    }
}

impl Host {
    /// A host on an address of its own, connected to the control plane.
    pub fn start(world: &Rc<World>) -> Self {
        Self::start_with(world, |_| {})
    }

    pub fn start_with(world: &Rc<World>, change: impl FnOnce(&mut WorkerConfig)) -> Self {
        let number = world.next.replace(world.next.get() + 1);
        let ip = IpAddr::from([127, 7, 0, number]);
        let listener = listen(ip);
        let hbone_port = listener.local_addr().unwrap().port();
        let mut config = WorkerConfig {
            hbone_port,
            access_log: true,
            drain_grace: Duration::from_secs(5),
            original_destination,
            ..WorkerConfig::default()
        };
        change(&mut config);
        let stop = Stop::new();
        let mut worker = start(&format!("worker-{number}"), config, stop.clone());
        let (updates, mut mailbox) = mpsc::unbounded_channel();
        let seen = Rc::new(Seen::default());
        worker.send(Update::Mesh(world.mesh()));
        worker.send(Update::ControlPlane { connected: true });
        worker.send(Update::Listen {
            role: ListenRole::Hbone,
            listener,
        });
        let (world_, seen_) = (Rc::clone(world), Rc::clone(&seen));
        tokio::task::spawn_local(async move {
            loop {
                tokio::select! {
                    update = mailbox.recv() => match update {
                        Some(update) => worker.send(update),
                        None => break,
                    },
                    event = worker.next() => match event {
                        Some(event) => seen_.event(&world_, &worker, event),
                        None => break,
                    },
                }
            }
            worker.drain(Duration::ZERO).await;
        });
        world.senders.borrow_mut().push(updates.clone());
        Self {
            world: Rc::clone(world),
            ip,
            hbone_port,
            updates,
            seen,
            stop,
        }
    }

    pub fn send(&self, update: Update) {
        self.updates.send(update).expect("the worker lives");
    }

    /// A workload with ports `(service port, program's port, protocol)`, of the account and service `name`.
    pub async fn workload(
        &self,
        name: &str,
        ports: &[(u16, u16, Option<AppProtocol>)],
    ) -> Workload {
        let service: ServiceName = format!("shop/{name}").parse().unwrap();
        let identity = self.world.identity(name);
        let uid = WorkloadUid::from_bytes(fastrand::u128(..).to_be_bytes());
        let port =
            |(service_port, port, protocol): &(u16, u16, Option<AppProtocol>)| WorkloadPort {
                port: *port,
                protocol: *protocol,
                published: None,
                services: vec![ServicePortRef {
                    service: service.clone(),
                    port: *service_port,
                }],
                mtls: None,
            };
        let endpoint_port =
            |(service_port, port, protocol): &(u16, u16, Option<AppProtocol>)| EndpointPort {
                service_port: *service_port,
                workload_port: *port,
                protocol: *protocol,
                published: None,
            };
        let own = OwnWorkload {
            uid,
            namespace: "shop".parse().unwrap(),
            name: format!("{name}-1"),
            identity: identity.clone(),
            version: "v1".into(),
            service: Some(service.clone()),
            addresses: vec![self.ip],
            ports: ports.iter().map(port).collect(),
            mtls: Mtls::default(),
            access: Vec::new(),
            must_understand: std::collections::BTreeSet::new(),
        };
        let endpoint = Endpoint {
            uid,
            name: own.name.clone(),
            namespace: "shop".into(),
            identity,
            version: "v1".into(),
            service: service.to_string(),
            addresses: vec![self.ip],
            hbone_port: self.hbone_port,
            ports: ports.iter().map(endpoint_port).collect(),
            health: Health::Healthy,
        };
        self.send(Update::Workload(Box::new(own.clone())));
        self.certify(&own, Duration::from_secs(3600));
        let workload = Workload { own, endpoint };
        self.world.shake_hands(&workload, &[Alpn::Leno1]).await;
        workload
    }

    /// A new certificate for a workload.
    pub fn certify(&self, own: &OwnWorkload, lifetime: Duration) {
        self.send(Update::Certificate {
            uid: own.uid,
            certificate: self.world.certificate(own.uid, &own.identity, lifetime),
            bundle: self.world.bundle(),
        });
    }

    /// Changes who may call a workload.
    pub fn allow(&self, workload: &Workload, access: Vec<AccessRule>) {
        let own = OwnWorkload {
            access,
            ..workload.own.clone()
        };
        self.send(Update::Workload(Box::new(own)));
    }

    /// Captures a workload; its programs connect by the result.
    pub fn capture(&self, workload: &Workload) -> Captured {
        let listener = listen(self.ip);
        let at = listener.local_addr().unwrap();
        let udp = std::net::UdpSocket::bind(SocketAddr::new(self.ip, 0)).unwrap();
        udp.set_nonblocking(true).unwrap();
        let dns = udp.local_addr().unwrap();
        let tcp = listen(self.ip);
        let dns_tcp = tcp.local_addr().unwrap();
        self.send(Update::Capture {
            uid: workload.own.uid,
            sockets: CaptureSockets {
                outbound: vec![listener],
                dns_udp: vec![udp],
                dns_tcp: vec![tcp],
                app: AppDial::Marked,
                preserve_source: false,
            },
        });
        Captured { at, dns, dns_tcp }
    }

    /// Publishes a workload's only port; gives the address.
    pub fn publish(&self, workload: &mut Workload) -> SocketAddr {
        let listener = listen(self.ip);
        let at = listener.local_addr().unwrap();
        workload.own.ports[0].published = Some(at.port());
        self.send(Update::Workload(Box::new(workload.own.clone())));
        let role = ListenRole::Published {
            uid: workload.own.uid,
            port: at.port(),
        };
        self.send(Update::Listen { role, listener });
        at
    }
}

/// A program's side of capture.
#[derive(Clone, Copy)]
pub struct Captured {
    pub at: SocketAddr,
    pub dns: SocketAddr,
    pub dns_tcp: SocketAddr,
}

impl Captured {
    /// Connects as the program does: to `to`, which capture leads elsewhere.
    pub async fn connect(&self, to: SocketAddr) -> TcpStream {
        self.try_connect(to).await.unwrap()
    }

    /// The same where it may be refused at once.
    pub async fn try_connect(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(self.at.ip(), 0)).unwrap();
        let own = socket.local_addr().unwrap();
        ORIGINAL.lock().unwrap().insert(own, to);
        let stream = socket.connect(self.at).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Seen {
    fn event(&self, world: &World, worker: &leno_dataplane::Worker, event: Event) {
        match event {
            Event::Subscribe(name) => {
                self.asked.borrow_mut().push(name.clone());
                if !self.silent.get() {
                    let answer = world.destination(&name);
                    let aliases = vec![name.clone()];
                    worker.send(Update::Destination {
                        name,
                        aliases,
                        answer,
                    });
                }
            }
            Event::SubscribeEndpoints(service) => {
                if !self.silent.get() {
                    let known = world.endpoints.borrow().get(&service).cloned();
                    let answer = known.map(|endpoints| Endpoints {
                        service: service.clone(),
                        endpoints,
                    });
                    worker.send(Update::Endpoints { service, answer });
                }
            }
            Event::Unsubscribe(name) => self.forgotten.borrow_mut().push(name),
            Event::UnsubscribeEndpoints(_)
            | Event::NeedSockets { .. }
            | Event::WorkloadIdle(_)
            | Event::Looked { .. } => {}
            Event::Telemetry {
                delta,
                counters,
                log,
                refusals,
                outsiders,
            } => {
                self.outsiders.borrow_mut().extend(outsiders);
                self.totals.borrow_mut().merge(&delta);
                self.counters.borrow_mut().merge(&counters);
                self.refusals.borrow_mut().extend(refusals);
                self.log.borrow_mut().extend(log);
            }
            Event::Drained => self.drained.set(true),
        }
        self.changed.notify_waiters();
    }

    /// Waits until what was seen is so.
    pub async fn until(&self, what: &str, so: impl Fn(&Self) -> bool) {
        let wait = async {
            while !so(self) {
                self.changed.notified().await;
            }
        };
        let log = || String::from_utf8_lossy(&self.log.borrow()).into_owned();
        if tokio::time::timeout(Duration::from_secs(10), wait)
            .await
            .is_err()
        {
            panic!(
                "{what}: not seen; refusals {:?}; log {}",
                self.refusals.borrow(),
                log()
            );
        }
    }
}

/// A listener with a port of the system's choice.
pub fn listen(ip: IpAddr) -> std::net::TcpListener {
    let listener = std::net::TcpListener::bind(SocketAddr::new(ip, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}
