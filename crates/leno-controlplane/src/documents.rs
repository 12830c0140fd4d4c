//! The JSON of the endpoints that are no objects, as the CLI, the console and scripts read it. Names are stable.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::people::Role;

/// `POST /meshes/M/leno/v1/tokens`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TokenRequest {
    /// The namespace its workloads live in; `default` when empty.
    pub namespace: String,
    /// One service its workloads may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Or several.
    pub services: Vec<String>,
    /// The service account its workloads have; otherwise the name of the service they run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// How long it can be redeemed (`1h`); 1 h when not given, at most 30 days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// How many hosts may redeem it; 1 when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// The network its hosts must be in; it joins the mesh's prefixes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cidr: Option<String>,
}

/// What an agent may host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Scope {
    /// Any service account of any namespace: the agent of the control plane's own machine.
    pub any: bool,
    /// The namespace.
    pub namespace: String,
    /// The service account; otherwise the name of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// The services; none means programs that only call.
    pub services: Vec<String>,
    /// The network its addresses must be in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cidr: Option<String>,
}

/// The answer to [`TokenRequest`]: the only time that the token is shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenCreated {
    /// The token itself.
    pub token: String,
    /// Its id.
    pub id: String,
    /// When it can no longer be redeemed, RFC 3339.
    pub expires: String,
    /// What it allows.
    pub scope: Scope,
}

/// One of `GET /meshes/M/leno/v1/agents`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentInfo {
    /// Its name.
    pub name: String,
    /// `connected`, `away` or `revoked`.
    pub state: String,
    /// When it joined, RFC 3339.
    pub joined: String,
    /// The id of the token that let it in; empty for the control plane's own machine.
    pub token: String,
    /// What it may host.
    pub scope: Scope,
}

/// One of `GET /meshes/M/leno/v1/tokens`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenInfo {
    /// Its id.
    pub id: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// When it can no longer be redeemed, RFC 3339.
    pub expires: String,
    /// How many hosts may redeem it.
    pub uses: u32,
    /// The agents that did.
    pub redeemed_by: Vec<String>,
    /// `valid`, `spent` or `expired`.
    pub state: String,
    /// What it allows.
    pub scope: Scope,
}

/// `GET /meshes/M/leno/v1/telemetry/edges` and `.../totals`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EdgeList {
    /// The window the numbers are of; since the start for totals.
    pub window_seconds: f64,
    /// The edges, by source and destination.
    pub edges: Vec<Edge>,
}

/// Who calls whom.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Edge {
    /// The caller's service or program, with its version; `legacy` for one without a proxy.
    pub source: String,
    /// Whom it calls, with its version.
    pub destination: String,
    /// `http/1.1`, `http/2`, `grpc`, `websocket` or `tcp`.
    pub protocol: String,
    /// HTTP requests, gRPC calls, upgrades or TCP connections.
    pub requests: u64,
    /// How many of them failed.
    pub failures: u64,
    /// 0 to 1; null without requests.
    pub success_rate: Option<f64>,
    /// Requests a second.
    pub rps: f64,
    /// Milliseconds to the first byte; null where there is none.
    pub p50_ms: Option<f64>,
    /// The same, of the slowest hundredth.
    pub p99_ms: Option<f64>,
    /// Whether every one of them went over mutual TLS.
    pub mtls: bool,
    /// From the certificate the caller really presented.
    pub source_identity: Option<String>,
    /// From the certificate the called really presented.
    pub destination_identity: Option<String>,
    /// How many of the failures are the mesh's refusals, by code; the others are the program's own. Not there without.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refusals: BTreeMap<String, u64>,
}

/// `GET /meshes/M/leno/v1/mtls`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MtlsList {
    /// Every port of every workload.
    pub ports: Vec<MtlsPort>,
}

/// What a port does with plaintext, and who calls it in clear.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MtlsPort {
    /// The workload's namespace.
    pub namespace: String,
    /// The services the port belongs to.
    pub services: Vec<String>,
    /// The workload.
    pub workload: String,
    /// Where it runs.
    pub host: String,
    /// The program's port.
    pub port: u16,
    /// The port of the host at which callers from outside the mesh reach it.
    pub published: Option<u16>,
    /// `STRICT` or `PERMISSIVE`.
    pub mode: String,
    /// How narrow the policy is that says so: `port`, `workload`, `namespace` or `mesh`; empty where none does.
    pub scope: String,
    /// That AuthenticationPolicy, as `namespace/name`.
    pub policy: Option<String>,
    /// Where it was written, `file:line`.
    pub source: Option<String>,
    /// Callers from outside the mesh of the last ten minutes.
    pub callers: Vec<MtlsCaller>,
}

/// A caller from outside the mesh.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MtlsCaller {
    /// Its address.
    pub address: IpAddr,
    /// The host of the mesh that has this address: a program there that was not started by `leno run`.
    pub host: Option<String>,
    /// Requests and connections of the last ten minutes that were served; 0 where it is only connected.
    pub calls: u64,
    /// Those that were refused because they came in clear.
    pub refused: u64,
    /// How long ago it was seen.
    pub seconds_ago: u64,
}

/// One of `GET /meshes/M/leno/v1/proxies`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Proxy {
    /// The agent's name.
    pub host: String,
    /// `in-sync`; `behind`: it has not acknowledged everything yet; `refuses` some of it; `denies`: it is too old for what
    /// protects a workload; `away`; `stopped`: it said goodbye.
    #[serde(default)]
    pub state: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Those that it claims and does not answer at: they are not used.
    #[serde(default)]
    pub unproven: Vec<IpAddr>,
    /// Whom it hosts.
    pub workloads: Vec<ProxyWorkload>,
    /// Its version of Leno.
    pub version: String,
    /// Its version beside the control plane's: `same`, `older` or `newer` by one, `unsupported`, `unknown`.
    #[serde(default)]
    pub skew: String,
    /// Whether it is connected now.
    pub connected: bool,
    /// Since when, RFC 3339; of one that is away, when it was heard last: empty where that was before the control plane's
    /// start.
    pub since: String,
    /// Its resident memory.
    pub rss_bytes: u64,
    /// Its proportional memory.
    pub pss_bytes: u64,
    /// The configuration it says it runs.
    pub config_version: String,
    /// The revision of the store that everything is compiled from.
    #[serde(default)]
    pub revision: u64,
    /// The newest revision it has acknowledged: that one, where it is in sync; null before the first.
    #[serde(default)]
    pub acked: Option<u64>,
    /// How many resources it has not acknowledged yet.
    #[serde(default)]
    pub pending: usize,
    /// How many resources of each type it has acknowledged.
    pub resources: BTreeMap<String, usize>,
    /// What it refused.
    pub nacks: Vec<Nack>,
    /// What it understands.
    #[serde(default)]
    pub features: Vec<String>,
    /// What it would have to understand.
    #[serde(default)]
    pub missing: Vec<Missing>,
    /// The certificates it holds.
    pub certificates: Vec<Certificate>,
}

/// A workload of a proxy.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ProxyWorkload {
    /// Its id.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service, `null` when it only calls.
    pub service: Option<String>,
    /// Its version.
    pub version: String,
    /// Its identity.
    pub identity: String,
    /// `healthy`, `unhealthy` or `unknown`.
    pub health: String,
    /// Its ports, as `service:workload/protocol`.
    pub ports: Vec<String>,
}

/// A feature that a proxy does not know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Its name.
    pub feature: String,
    /// The workloads that need it: the proxy lets nobody in to them.
    pub workloads: Vec<String>,
}

/// A refused resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nack {
    /// The short type name, such as `Destination`.
    #[serde(rename = "type")]
    pub type_name: String,
    /// The resource.
    pub resource: String,
    /// The version that was refused.
    pub version: String,
    /// What the proxy says.
    pub reason: String,
}

/// A certificate as its proxy reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The workload; empty for the agent's own.
    pub uid: String,
    /// Its identity.
    pub identity: String,
    /// Its serial number.
    pub serial: String,
    /// Its end, RFC 3339.
    pub not_after: String,
}

/// One of `GET /meshes/M/leno/v1/proxies/HOST/config` and `.../endpoints`: a resource a proxy subscribes to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ProxyResource {
    /// The short type name, such as `Destination`.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Its canonical name.
    pub name: String,
    /// The aliases under which it was asked for.
    pub aliases: Vec<String>,
    /// The version that was sent last; empty: absent.
    pub version: String,
    /// `acked`, `pending`, `nacked` or `absent`.
    pub state: String,
    /// The resource itself.
    pub content: serde_json::Value,
}

/// `POST /meshes/M/leno/v1/local-agent`, on the admin socket only.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalAgentRequest {
    /// What the host would like to be called.
    pub host: String,
    /// PEM or base64 of DER PKCS#10.
    pub csr: String,
    /// Its addresses.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

/// The answer to [`LocalAgentRequest`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LocalAgentResponse {
    /// The mesh.
    pub mesh: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// The agent's name.
    pub agent: String,
    /// Its certificate, PEM, leaf first.
    pub chain: String,
    /// The roots to trust, PEM.
    pub trust_bundle: String,
    /// Where the control plane is reached.
    pub addresses: Vec<String>,
}

/// `GET /meshes/M/leno/v1/ca`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CaInfo {
    /// The trust domain.
    pub trust_domain: String,
    /// The roots, PEM.
    pub bundle: String,
    /// Pins of their public keys.
    pub pins: Vec<String>,
    /// When the intermediate ends, RFC 3339.
    pub intermediate_not_after: String,
    /// Life of a workload's certificate, seconds.
    pub workload_ttl_seconds: u64,
}

/// `GET /meshes/M/leno/v1/status`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MeshStatus {
    /// The mesh.
    pub mesh: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// The control plane's version.
    pub version: String,
    /// Since when this control plane runs, RFC 3339.
    pub since: String,
    /// Where it is reached.
    pub addresses: Vec<String>,
    /// The revision of the store that is compiled.
    pub revision: u64,
    /// Proxies that are connected.
    pub proxies_connected: usize,
    /// Proxies that are known and not connected.
    pub proxies_disconnected: usize,
    /// Proxies that run the newest of everything they asked for.
    pub proxies_in_sync: usize,
    /// Workloads by health.
    pub workloads: BTreeMap<String, usize>,
    /// Services, applied and derived.
    pub services: usize,
    /// Refused resources.
    pub nacks: usize,
    /// When the root ends, RFC 3339.
    pub intermediate_not_after: String,
    /// What a person should look at.
    pub findings: Vec<String>,
}

/// `GET /meshes/M/leno/v1/control-plane`: how the control plane itself is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Vitals {
    /// Its version.
    pub version: String,
    /// Its clock, RFC 3339.
    pub now: String,
    /// Since when it runs, RFC 3339.
    pub since: String,
    /// When the mesh's root ends, RFC 3339.
    pub root_not_after: String,
    /// When the mesh's intermediate ends, RFC 3339.
    pub intermediate_not_after: String,
    /// The revision of the store.
    pub stored_revision: u64,
    /// The revision that is compiled.
    pub compiled_revision: u64,
    /// Bytes left on the store's disk; `null` where the system does not say.
    pub store_free_bytes: Option<u64>,
    /// Transactions refused for a full disk since the start.
    pub store_full: u64,
    /// Samples compiled afresh that were different from what proxies were told, since the start.
    pub divergences: u64,
    /// Its ceilings that were met since the start, by the name of their metric, with how often.
    pub ceilings: BTreeMap<String, u64>,
}

/// One of `GET /meshes/M/leno/v1/users`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserInfo {
    /// Who.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// Since when, RFC 3339.
    pub created: String,
    /// When the last of their certificates ends, RFC 3339.
    pub not_after: String,
    /// Whether none of their certificates counts: a backup was restored since they were given.
    #[serde(default)]
    pub uncertified: bool,
}

/// `POST /meshes`, on the admin socket only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MeshRequest {
    /// Its name: a DNS label.
    pub name: String,
    /// Its trust domain; `NAME.leno` when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,
    /// Networks of its members, which are never called in clear.
    pub prefixes: Vec<String>,
}

/// One of `GET /meshes`, and `GET /meshes/M`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MeshInfo {
    /// The mesh.
    pub name: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// `serving`, `removing` or `broken` (the log says why).
    pub state: String,
    /// Whether the control plane was started with it: then it cannot be removed.
    pub own: bool,
    /// Hosts that are its members.
    pub agents: usize,
    /// Those of them that are connected.
    pub agents_connected: usize,
    /// Objects that people wrote.
    pub objects: usize,
    /// Join tokens.
    pub tokens: usize,
}

/// What the ready file holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ready {
    /// The process.
    pub pid: u32,
    /// Where the TLS port listens.
    pub listen: Vec<std::net::SocketAddr>,
    /// Where metrics are read.
    pub metrics: Option<std::net::SocketAddr>,
    /// The admin socket.
    pub admin_socket: std::path::PathBuf,
}
