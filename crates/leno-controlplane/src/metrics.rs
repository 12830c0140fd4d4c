//! The control plane's own metrics, Prometheus text on port 15014. Every name is in this file.

mod text;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use axum::{Router, extract::State, http::header, response::IntoResponse, routing::get};
use leno_store::{Around, Commit, SqliteStore, Store, Write};
use leno_telemetry::LatencyHistogram;

use crate::{
    audit::{self, AuditLog},
    core::{Core, Handle},
    distribution::Type,
    mesh::{Mesh, locked},
    times::unix,
};

use text::Text;

/// A store that measures how long a commit takes.
pub(crate) struct MeteredStore {
    store: SqliteStore,
    commits: Arc<Mutex<Latencies>>,
}

/// How long something took, each time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies {
    histogram: LatencyHistogram,
    seconds: f64,
}

impl Latencies {
    pub(crate) fn record(&mut self, took: Duration) {
        self.histogram.record(took);
        self.seconds += took.as_secs_f64();
    }
}

impl MeteredStore {
    pub(crate) fn new(store: SqliteStore) -> Self {
        Self {
            store,
            commits: Arc::default(),
        }
    }
}

impl Around for MeteredStore {
    fn store(&self) -> &SqliteStore {
        &self.store
    }

    fn commit(&self, writes: Vec<Write>) -> Commit {
        let (started, commits) = (Instant::now(), Arc::clone(&self.commits));
        let commit = self.store.commit(writes);
        Box::pin(async move {
            let outcome = commit.await;
            let took = started.elapsed();
            locked(&commits).record(took);
            outcome
        })
    }
}

/// Where numbers are read from.
#[derive(Clone)]
pub(crate) struct Meters {
    pub(crate) handle: Handle,
    pub(crate) store: Arc<MeteredStore>,
    pub(crate) api: Arc<leno_api::Counters>,
    pub(crate) audit: Arc<AuditLog>,
    /// Connections without a certificate that made room for newer ones.
    pub(crate) strangers_ended: Arc<AtomicU64>,
    pub(crate) stalled: Arc<AtomicU64>,
    /// Readers of metrics that made room for newer ones.
    pub(crate) readers_ended: Arc<AtomicU64>,
}

/// Answers `/metrics`, `/healthz` and `/readyz`.
pub(crate) fn router(meters: Meters) -> Router {
    Router::new()
        .route("/metrics", get(text))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(meters)
}

async fn ready(State(meters): State<Meters>) -> impl IntoResponse {
    match meters.handle.call(|_| ()).await {
        Ok(()) => (axum::http::StatusCode::OK, "ok\n"),
        Err(_) => (
            axum::http::StatusCode::SERVICE_UNAVAILABLE,
            "shutting down\n",
        ),
    }
}

async fn text(State(meters): State<Meters>) -> impl IntoResponse {
    let mut out = Text::default();
    let audit = Arc::clone(&meters.audit);
    let meshes = meters
        .handle
        .call(move |core: &mut Core| of_core(core, &audit));
    if let Ok(meshes) = meshes.await {
        out = meshes;
    }
    of_store(&mut out, &meters.store);
    let api = &meters.api;
    for (name, help, value) in [
        (
            "leno_api_requests_total",
            "Requests of the API.",
            &api.requests,
        ),
        (
            "leno_api_turns_total",
            "Pieces of long work (lists, batches, watches that begin or catch up), between which everybody else is served.",
            &api.turns,
        ),
        (
            "leno_api_watches_stalled_total",
            "Watches ended because nobody read them, while others wanted their places.",
            &api.watches_stalled,
        ),
        (
            "leno_api_answers_stalled_total",
            "Answers broken off because nobody took them, while others wanted their room.",
            &api.answers_stalled,
        ),
        (
            "leno_api_requests_exceeded_total",
            "Requests refused because there were too many at once, or too much in their bodies or answers.",
            &api.requests_exceeded,
        ),
        (
            "leno_api_watches_exceeded_total",
            "Watches refused for the ceiling.",
            &api.watches_exceeded,
        ),
        (
            "leno_api_bodies_exceeded_total",
            "Bodies refused for size or time.",
            &api.bodies_exceeded,
        ),
        (
            "leno_api_changes_total",
            "Objects created, changed or deleted.",
            &api.changes,
        ),
    ] {
        out.counter(name, help, "", value.load(Ordering::Relaxed));
    }
    out.counter(
        "leno_controlplane_strangers_exceeded_total",
        "Connections without a certificate ended to make room for newer ones.",
        "",
        meters.strangers_ended.load(Ordering::Relaxed),
    );
    out.counter(
        "leno_controlplane_connections_stalled_total",
        "Connections ended because their client took nothing of what was sent to it.",
        "",
        meters.stalled.load(Ordering::Relaxed),
    );
    out.counter(
        "leno_controlplane_metrics_readers_exceeded_total",
        "Connections to this port ended to make room for newer ones.",
        "",
        meters.readers_ended.load(Ordering::Relaxed),
    );
    out.gauge(
        "leno_api_watches",
        "Open watches.",
        "",
        api.watches.load(Ordering::Relaxed) as f64,
    );
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        out.into_string(),
    )
}

/// What the task that owns the state knows.
fn of_core(core: &Core, audit: &AuditLog) -> Text {
    let mut out = Text::default();
    let wall = core.clock.wall();
    out.gauge(
        "leno_controlplane_tasks",
        "Connections, streams and sessions.",
        "",
        core.scope.open() as f64,
    );
    out.counter(
        "leno_controlplane_tasks_exceeded_total",
        "Connections and streams refused for the ceiling.",
        "",
        core.scope.refused(),
    );
    out.gauge(
        "leno_controlplane_meshes",
        "Meshes that are served.",
        "",
        core.meshes.len() as f64,
    );
    out.counter(
        "leno_controlplane_meshes_exceeded_total",
        "Meshes refused for the ceiling.",
        "",
        core.meshes_refused,
    );
    for mesh in core.meshes.values() {
        of_mesh(&mut out, mesh, wall);
        of_audit(&mut out, mesh, audit);
    }
    out
}

fn of_store(out: &mut Text, store: &MeteredStore) {
    let stats = store.store.stats();
    for (name, help, value) in [
        (
            "leno_store_commits_total",
            "Transactions acknowledged.",
            stats.commits,
        ),
        ("leno_store_syncs_total", "Syncs to disk.", stats.groups),
        (
            "leno_store_refused_total",
            "Transactions whose condition did not hold.",
            stats.refused,
        ),
        (
            "leno_store_full_total",
            "Transactions refused because the disk was full.",
            stats.full,
        ),
        (
            "leno_store_watches_lagged_total",
            "Watches cut because they were too slow.",
            stats.lagged,
        ),
    ] {
        out.counter(name, help, "", value);
    }
    let commits = locked(&store.commits);
    out.histogram(
        "leno_store_commit_seconds",
        "From a transaction to its acknowledgement.",
        "",
        &commits.histogram,
        commits.seconds,
    );
}

fn of_mesh(out: &mut Text, mesh: &Mesh, wall: SystemTime) {
    of_distribution(out, mesh);
    of_members(out, mesh);
    of_telemetry(out, mesh);
    gauges_of(out, mesh, wall);
}

fn label_of(mesh: &Mesh) -> String {
    format!("mesh=\"{}\"", mesh.name())
}

/// What is compiled, and told to proxies.
fn of_distribution(out: &mut Text, mesh: &Mesh) {
    let (label, counters) = (label_of(mesh), &mesh.counters);
    let tally = mesh.hub.tally();
    for (name, help, value) in [
        (
            "leno_compile_total",
            "Compilations.",
            mesh.compiled.histogram.count(),
        ),
        (
            "leno_compile_audited_total",
            "Resources compiled afresh, to be compared with what is told to proxies.",
            counters.audited,
        ),
        (
            "leno_compile_divergence_total",
            "Of these, those that were different: a fault of Leno, mended.",
            counters.divergences,
        ),
        (
            "leno_compile_outputs_total",
            "Resources that came out different.",
            counters.outputs,
        ),
        (
            "leno_controlplane_pushes_total",
            "Answers sent to proxies.",
            counters.pushes,
        ),
        (
            "leno_controlplane_resources_sent_total",
            "Resources sent to proxies.",
            counters.resources_sent,
        ),
        (
            "leno_controlplane_nacks_total",
            "Resources refused by proxies.",
            tally.nacks,
        ),
        (
            "leno_controlplane_subscriptions_exceeded_total",
            "Names refused for the ceiling.",
            tally.over_limit,
        ),
        (
            "leno_controlplane_strange_nonces_total",
            "Acknowledgements of what was never sent.",
            tally.strange_nonces,
        ),
        (
            "leno_controlplane_objects_refused_total",
            "Stored objects that cannot be used.",
            counters.refused_objects,
        ),
        (
            "leno_controlplane_members_exceeded_total",
            "Members outside every prefix beyond the ceiling.",
            counters.members_over_limit,
        ),
        (
            "leno_controlplane_streams_ended_total",
            "Discovery streams ended by the control plane.",
            counters.streams_ended,
        ),
        (
            "leno_services_forgotten_total",
            "Services that nobody serves, forgotten before their time because there are too many.",
            mesh.services_forgotten(),
        ),
    ] {
        out.counter(name, help, &label, value);
    }
}

/// Who is let in, and who holds a lease.
fn of_members(out: &mut Text, mesh: &Mesh) {
    let label = label_of(mesh);
    let (counters, registry) = (&mesh.counters, mesh.registry.counters());
    for (name, help, value) in [
        (
            "leno_ca_signed_total",
            "Certificates signed.",
            mesh.authority.signed,
        ),
        (
            "leno_ca_refused_total",
            "Certificates refused.",
            counters.csr_refused,
        ),
        (
            "leno_registry_joined_total",
            "Agents made.",
            counters.redeemed,
        ),
        (
            "leno_registry_expired_total",
            "Leases ended by silence.",
            registry.expired,
        ),
        (
            "leno_registry_kept_unknown_total",
            "Leases kept as unknown because too many ended at once.",
            registry.kept_unknown,
        ),
        (
            "leno_registry_replaced_total",
            "Sessions replaced by a newer one.",
            registry.replaced,
        ),
        (
            "leno_registry_superseded_total",
            "Leases ended because the host came back as another agent.",
            registry.superseded,
        ),
        (
            "leno_registry_refused_total",
            "Registrations refused.",
            registry.refused,
        ),
        (
            "leno_registry_unproven_total",
            "Addresses claimed and not proven at first.",
            registry.unproven,
        ),
    ] {
        out.counter(name, help, &label, value);
    }
}

/// What is written down of changes.
fn of_audit(out: &mut Text, mesh: &Mesh, audit: &AuditLog) {
    let label = label_of(mesh);
    let audit::Counters {
        changes,
        refused,
        suppressed,
        failed,
        held,
        begun_exceeded,
        lost,
        waiting,
        readers_exceeded,
    } = audit.counters(mesh.name());
    for (name, help, value) in [
        (
            "leno_audit_changes_total",
            "Changes written into the audit log.",
            changes,
        ),
        (
            "leno_audit_refused_total",
            "Refusals written into the audit log.",
            refused,
        ),
        (
            "leno_audit_suppressed_exceeded_total",
            "Refusals that were too many to be written down.",
            suppressed,
        ),
        (
            "leno_audit_failures_total",
            "Writes of the audit log that the disk did not take.",
            failed,
        ),
        (
            "leno_audit_waiting_exceeded_total",
            "Changes refused because too many lines wait for the disk.",
            held,
        ),
        (
            "leno_audit_begun_exceeded_total",
            "Changes refused because too many were begun at once.",
            begun_exceeded,
        ),
        (
            "leno_audit_lost_exceeded_total",
            "Lines lost because even more waited.",
            lost,
        ),
        (
            "leno_audit_readers_exceeded_total",
            "Readers refused because too many read the audit log at once.",
            readers_exceeded,
        ),
    ] {
        out.counter(name, help, &label, value);
    }
    out.gauge(
        "leno_audit_waiting",
        "Lines of the audit log that wait for the disk.",
        &label,
        waiting as f64,
    );
}

/// What agents report.
fn of_telemetry(out: &mut Text, mesh: &Mesh) {
    let label = label_of(mesh);
    for (name, help, value) in [
        (
            "leno_telemetry_dropped_total",
            "Edges dropped for a ceiling.",
            mesh.telemetry.dropped,
        ),
        (
            "leno_telemetry_malformed_total",
            "Edges that could not be read.",
            mesh.telemetry.malformed,
        ),
        (
            "leno_telemetry_foreign_total",
            "Edges of workloads that the reporting agent does not host.",
            mesh.counters.foreign_edges,
        ),
        (
            "leno_answers_dropped_total",
            "What agents answered to people's questions and nobody was told: malformed, too long, or too much at once.",
            mesh.counters.answers_dropped,
        ),
    ] {
        out.counter(name, help, &label, value);
    }
}

fn gauges_of(out: &mut Text, mesh: &Mesh, wall: SystemTime) {
    let label = label_of(mesh);
    let until = |time: SystemTime| unix(time) as f64 - unix(wall) as f64;
    for (name, help, value) in [
        (
            "leno_controlplane_proxies",
            "Open discovery streams.",
            mesh.hub.streams().count() as f64,
        ),
        (
            "leno_registry_agents",
            "Agents that hold a lease.",
            mesh.registry.agents().count() as f64,
        ),
        (
            "leno_registry_workloads",
            "Workloads.",
            mesh.registry.len() as f64,
        ),
        (
            "leno_telemetry_series",
            "Series of telemetry.",
            mesh.telemetry.len() as f64,
        ),
        (
            "leno_controlplane_revision",
            "The revision of the store that is compiled.",
            mesh.revision as f64,
        ),
        (
            "leno_ca_intermediate_expiry_seconds",
            "Seconds until the intermediate ends.",
            until(mesh.authority.intermediate_not_after()),
        ),
        (
            "leno_ca_root_expiry_seconds",
            "Seconds until the root ends.",
            until(mesh.authority.root_not_after()),
        ),
    ] {
        out.gauge(name, help, &label, value);
    }
    for kind in Type::ALL {
        let labels = format!("{label},type=\"{}\"", kind.name());
        out.gauge(
            "leno_controlplane_resources",
            "Resources by type.",
            &labels,
            mesh.catalog().count(kind) as f64,
        );
    }
    out.histogram(
        "leno_compile_seconds",
        "Time of one compilation, of all that was due together.",
        &label,
        &mesh.compiled.histogram,
        mesh.compiled.seconds,
    );
    let convergence = &mesh.convergence.took;
    out.histogram(
        "leno_controlplane_convergence_seconds",
        "From a push until every proxy has answered.",
        &label,
        &convergence.histogram,
        convergence.seconds,
    );
}
