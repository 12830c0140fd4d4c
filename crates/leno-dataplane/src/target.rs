//! Where one request or connection may go: a service's endpoints, or one workload that was called by its own address.

use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use leno_balance::Outcome;
use leno_ir::{Endpoint, EndpointPort};
use leno_types::{AppProtocol, ServiceName, WorkloadUid};

use crate::clusters::{Cluster, Learned};

/// Where a request may go.
#[derive(Clone)]
pub(crate) enum Target {
    /// To any endpoint of a service.
    Service {
        /// Its endpoints.
        cluster: Rc<Cluster>,
        /// Its port.
        port: u16,
    },
    /// To one workload.
    Direct(Rc<Direct>),
}

/// A workload that was called by its own address.
pub(crate) struct Direct {
    /// It.
    pub(crate) endpoint: Arc<Endpoint>,
    /// Its port.
    pub(crate) port: EndpointPort,
    /// The address that was called.
    pub(crate) address: IpAddr,
    /// What its undeclared ports speak.
    pub(crate) learned: Rc<Learned>,
}

/// The endpoint one try goes to. Its load is counted until this is dropped.
pub(crate) struct Chosen {
    /// It.
    pub(crate) endpoint: Arc<Endpoint>,
    /// The program's address, as the peer is told.
    pub(crate) address: SocketAddr,
    /// What the program's port is declared to speak.
    pub(crate) protocol: Option<AppProtocol>,
    cluster: Option<Rc<Cluster>>,
    told: bool,
}

impl Target {
    /// The service and its port.
    pub(crate) fn service(&self) -> Option<(&ServiceName, u16)> {
        match self {
            Self::Service { cluster, port } => Some((&cluster.service, *port)),
            Self::Direct(_) => None,
        }
    }

    /// The endpoint for a try; none of `avoid` while there is another.
    pub(crate) fn choose(&self, now: Instant, ipv6: bool, avoid: &[WorkloadUid]) -> Option<Chosen> {
        match self {
            Self::Service { cluster, port } => {
                let endpoint = cluster.pick(*port, now, avoid)?.endpoint;
                let of = endpoint.port_of_service(*port)?;
                let (workload_port, protocol) = (of.workload_port, of.protocol);
                let family = |address: &&IpAddr| ipv6 || address.is_ipv4();
                let ip = *endpoint.addresses.iter().find(family)?;
                cluster.started(endpoint.uid);
                Some(Chosen {
                    endpoint,
                    address: SocketAddr::new(ip, workload_port),
                    protocol,
                    cluster: Some(Rc::clone(cluster)),
                    told: false,
                })
            }
            Self::Direct(direct) => Some(Chosen {
                endpoint: Arc::clone(&direct.endpoint),
                address: SocketAddr::new(direct.address, direct.port.workload_port),
                protocol: direct.port.protocol,
                cluster: None,
                told: false,
            }),
        }
    }

    /// Whether there are more endpoints to try than so many.
    pub(crate) fn has_more_than(&self, tried: usize) -> bool {
        matches!(self, Self::Service { cluster, .. } if cluster.len() > tried)
    }

    /// Counts a request for the budget of retries.
    pub(crate) fn request(&self, now: Instant) {
        if let Self::Service { cluster, .. } = self {
            cluster.request(now);
        }
    }

    /// What was learned of undeclared ports, and which of them this is.
    pub(crate) fn learned(&self) -> (&Learned, u16) {
        match self {
            Self::Service { cluster, port } => (&cluster.learned, *port),
            Self::Direct(direct) => (&direct.learned, direct.port.workload_port),
        }
    }

    /// Takes a retry out of the budget; given back when dropped.
    pub(crate) fn try_retry(&self, now: Instant) -> Option<Retry> {
        match self {
            Self::Service { cluster, .. } if cluster.try_retry(now) => {
                Some(Retry(Rc::clone(cluster)))
            }
            Self::Service { .. } | Self::Direct(_) => None,
        }
    }
}

/// A retry that the budget allowed.
pub(crate) struct Retry(Rc<Cluster>);

impl Drop for Retry {
    fn drop(&mut self) {
        self.0.retry_finished();
    }
}

impl Chosen {
    /// The try was taken and goes on for long: its load stays counted, its latency is known.
    pub(crate) fn started_well(&self, latency: Duration) {
        if let Some(cluster) = &self.cluster {
            cluster.started(self.endpoint.uid);
            let now = Instant::now();
            cluster.finished(self.endpoint.uid, now, Outcome::Success, Some(latency));
        }
    }

    /// Tells the balancer how the try ended.
    pub(crate) fn finish(self, outcome: Outcome, latency: Option<Duration>) {
        self.finish_at(Instant::now(), outcome, latency);
    }

    /// Tells the balancer how the try ended just now.
    pub(crate) fn finish_at(mut self, now: Instant, outcome: Outcome, latency: Option<Duration>) {
        self.tell(now, outcome, latency);
    }

    fn tell(&mut self, now: Instant, outcome: Outcome, latency: Option<Duration>) {
        if let Some(cluster) = self.cluster.as_ref().filter(|_| !self.told) {
            cluster.finished(self.endpoint.uid, now, outcome, latency);
            self.told = true;
        }
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        // The caller went away: nothing can be concluded.
        if !self.told {
            self.tell(Instant::now(), Outcome::Cancelled, None);
        }
    }
}
