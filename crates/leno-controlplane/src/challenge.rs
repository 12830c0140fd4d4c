//! Whether an address an agent claims is its own: it must answer there with the key of a workload it hosts (CP5).
//!
//! Owns the dialling. Sends nothing but a handshake. Invariant: an address is proven only by a certificate of a
//! workload that this very agent registered.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use leno_runtime::Scope;
use leno_tls::{Alpn, Connector};
use leno_types::{DnsLabel, WorkloadUid};
use tokio::{net::TcpStream, time::timeout};

use crate::{core::Handle, mesh::Mesh};

/// How long each try waits for: the agent must first have got its certificate and put it to use.
const TRIES: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
];
const CONNECT: Duration = Duration::from_secs(2);

/// Challenges an agent at each address it claims and has not proven, as the workload that it has just
/// registered or got a certificate for.
pub(crate) fn begin(
    mesh: &mut Mesh,
    agent: &DnsLabel,
    uid: WorkloadUid,
    handle: &Handle,
    scope: &Scope,
) {
    let Some((addresses, identity, port)) = mesh.take_challenges(agent, uid) else {
        return;
    };
    let certificate = mesh.certificate.clone();
    let alpn = [Alpn::Leno1, Alpn::H2];
    let connector = Connector::new(&certificate, mesh.authority.bundle(), &[identity], &alpn);
    let Ok(connector) = connector else {
        addresses
            .iter()
            .for_each(|address| mesh.challenged(agent, *address, false));
        return;
    };
    for address in addresses {
        let (connector, handle) = (connector.clone(), handle.clone());
        let (name, owner) = (mesh.name().clone(), agent.clone());
        let started = scope.spawn("address-challenge", async move {
            let answered = answers(&connector, address, port, uid).await;
            let told = handle.call(move |core| {
                if let Some(mesh) = core.meshes.get_mut(&name) {
                    mesh.challenged(&owner, address, answered);
                }
            });
            if told.await.is_err() {
                tracing::debug!(%address, "an address challenge outlived the state");
            }
        });
        if started.is_err() {
            mesh.challenged(agent, address, false);
        }
    }
}

async fn answers(connector: &Connector, address: IpAddr, port: u16, uid: WorkloadUid) -> bool {
    for wait in TRIES {
        tokio::time::sleep(wait).await;
        let dialled = timeout(CONNECT, TcpStream::connect(SocketAddr::new(address, port))).await;
        let Ok(Ok(socket)) = dialled else {
            continue;
        };
        match connector.connect(socket, Some(&uid)).await {
            Ok(_) => return true,
            Err(error) => {
                tracing::debug!(%address, %error, "an address challenge was not answered")
            }
        }
    }
    false
}
