//! Peers of others' making at port 15008: a workload's certificate in their hands, and an Envoy that tunnels.

use std::{fs, net::Ipv4Addr, path::Path, process::Command, time::Duration};

use leno_testkit::{Host, Mesh, Process, until};

use crate::SOON;

/// Certificate chain, key and roots of a workload, in files.
pub struct Identity {
    /// The chain.
    pub chain: String,
    /// The key.
    pub key: String,
    /// The roots.
    pub roots: String,
}

/// What the first workload's agent on host `of` keeps for its own restart, written where a stranger on host `to` can
/// use it.
///
/// # Panics
/// When there is no such thing.
#[must_use]
#[track_caller]
pub fn identity(of: &Host, to: &Host, name: &str) -> Identity {
    let saved = until("the workload is saved", SOON, || {
        let text = fs::read_to_string(of.disk().join("run/workloads.json")).ok()?;
        let saved: serde_json::Value = serde_json::from_str(&text).ok()?;
        saved.get(0).cloned()
    });
    let write = |field: &str| {
        let path = to.disk().join(format!("{name}-{field}.pem"));
        fs::write(&path, saved[field].as_str().expect("PEM")).expect("a file");
        path.display().to_string()
    };
    Identity {
        chain: write("chain"),
        key: write("key"),
        roots: write("bundle"),
    }
}

/// The uid of a service's workload.
///
/// # Panics
/// When there is none.
#[must_use]
#[track_caller]
pub fn uid_of(mesh: &Mesh, service: &str) -> String {
    until("the workload is registered", SOON, || {
        let proxies = mesh.api("/leno/v1/proxies");
        let all = proxies
            .as_array()
            .or_else(|| proxies["proxies"].as_array())?
            .clone();
        let workloads = all
            .into_iter()
            .filter_map(|proxy| proxy["workloads"].as_array().cloned());
        let mut found = workloads.flatten().filter(|of| of["service"] == service);
        found.next()?["uid"].as_str().map(str::to_owned)
    })
}

/// A tunnel into the mesh.
pub struct Tunnel<'a> {
    /// The host whose port 15008 is called.
    pub host: Ipv4Addr,
    /// The workload there.
    pub uid: &'a str,
    /// Its SPIFFE ID.
    pub identity: &'a str,
    /// The roots it is believed by.
    pub roots: &'a str,
    /// Where CONNECT asks for.
    pub authority: &'a str,
}

impl Tunnel<'_> {
    /// An Envoy that tunnels 127.0.0.1:9000 of a host there by HBONE, as ztunnel does.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    #[track_caller]
    pub fn by_envoy(&self, on: &Host, program: &Path, who: &Identity) -> Process {
        let config = format!(
        "static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: 9000}}}}
    filter_chains:
    - filters:
      - name: tcp
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tunnel
          cluster: mesh
          tunneling_config: {{hostname: '{}'}}
  clusters:
  - name: mesh
    connect_timeout: 3s
    type: STATIC
    load_assignment:
      cluster_name: mesh
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {}, port_value: 15008}}}}}}}}]}}]
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    transport_socket:
      name: tls
      typed_config:
        '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: '{}'
        common_tls_context:
          alpn_protocols: [h2]
          tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}
          tls_certificates: [{{certificate_chain: {{filename: '{}'}}, private_key: {{filename: '{}'}}}}]
          validation_context:
            trusted_ca: {{filename: '{}'}}
            match_typed_subject_alt_names: [{{san_type: URI, matcher: {{exact: '{}'}}}}]
",
            self.authority, self.host, self.uid, who.chain, who.key, self.roots, self.identity
        );
        let file = on.disk().join("envoy.yaml");
        fs::write(&file, config).expect("Envoy's configuration");
        let mut command = Command::new(program);
        command.args(["--config-path", &file.display().to_string()]);
        let quiet = ["--log-level", "warning", "--use-dynamic-base-id"];
        let process = on.spawn(command.args(quiet).args(["--concurrency", "1"]));
        until("Envoy listens", Duration::from_secs(20), || {
            on.connect(([127, 0, 0, 1], 9000).into()).ok()
        });
        process
    }
}
