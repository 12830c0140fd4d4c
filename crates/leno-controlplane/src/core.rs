//! The one task that owns the state of every mesh, and how others ask it for something.
//!
//! Invariant: nothing else writes that state; a job never waits, so the task answers within the time of its longest
//! computation. What a job made due (compiling, pushes, statuses) is done once for all jobs that were waiting.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use leno_runtime::{Scope, Stop};
use leno_store::{Store, StoreError, Watch};
use leno_tls::{TlsError, control::ControlAcceptor};
use leno_types::{Identity, MeshName, joining_name};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior},
};

use crate::{
    authority::random,
    behind::{self, Behind, Left},
    mesh::Mesh,
    tenants::{Directory, Tenant},
    times::Believed,
};

/// Jobs that may wait for the one task that has the state of all meshes; who has another waits until it has a place.
const QUEUE: usize = 4_096;
/// Jobs done before what they made due.
const BATCH: usize = 512;
/// Changes taken in before the jobs that wait, and what all of them made due.
const CHANGES: usize = 128;
/// How often time passes.
const TICK: Duration = Duration::from_millis(250);

type Job = Box<dyn FnOnce(&mut Core) + Send>;

/// The state cannot be asked any more: the control plane ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the control plane is shutting down")]
pub(crate) struct Ending;

/// Asks the task that owns the state. Clones ask the same.
#[derive(Clone)]
pub(crate) struct Handle(mpsc::Sender<Job>);

impl Handle {
    /// Runs `job` on the state, and brings back what it returns.
    // Not an `async fn`: whoever calls would have room for the whole job for as long as it lives, a stream for days.
    pub(crate) fn call<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Core) -> R + Send + 'static,
    ) -> impl Future<Output = Result<R, Ending>> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |core| {
            // Who asked may have gone meanwhile.
            drop(reply.send(job(core)));
        });
        async move {
            self.0.send(job).await.map_err(|_| Ending)?;
            answer.await.map_err(|_| Ending)
        }
    }
}

/// What a control plane takes from the machine that it runs on, so that a simulation can give its own. Time that passes is
/// the runtime's.
pub trait World: Send + Sync {
    /// The wall clock.
    fn wall(&self) -> SystemTime;
    /// Time since the machine started. What it slept through counts: its wall clock went on meanwhile, and has not jumped
    /// when it wakes.
    fn lived(&self) -> Duration;
    /// Bytes for the ids of workloads.
    fn random(&self) -> [u8; 8];
}

/// The machine itself.
pub(crate) struct Machine;

impl World for Machine {
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn lived(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        now.try_into().unwrap_or_default()
    }

    fn random(&self) -> [u8; 8] {
        random()
    }
}

/// Time as this control plane sees it.
#[derive(Clone)]
pub(crate) struct Clock {
    start: Instant,
    /// The wall clock at the start.
    pub(crate) since: SystemTime,
    pub(crate) world: Arc<dyn World>,
}

impl Clock {
    pub(crate) fn new(world: Arc<dyn World>) -> Self {
        Self {
            start: Instant::now(),
            since: world.wall(),
            world,
        }
    }

    /// Time since the start.
    pub(crate) fn uptime(&self) -> Duration {
        self.start.elapsed()
    }

    /// When so much time will have passed since the start.
    fn at(&self, uptime: Duration) -> Instant {
        self.start + uptime
    }

    /// The wall clock.
    pub(crate) fn wall(&self) -> SystemTime {
        self.world.wall()
    }
}

/// The state of all meshes.
pub(crate) struct Core {
    pub(crate) meshes: BTreeMap<MeshName, Mesh>,
    /// The mesh that this control plane was started with: it is there as long as this runs.
    pub(crate) own: MeshName,
    pub(crate) directory: Directory,
    /// Meshes refused for the ceiling.
    pub(crate) meshes_refused: u64,
    acceptor: watch::Sender<ControlAcceptor>,
    pub(crate) clock: Clock,
    believed: Believed,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) scope: Scope,
    pub(crate) handle: Handle,
    behind: Behind,
    next_id: u64,
}

impl Core {
    /// The state and the queue of jobs for it.
    ///
    /// # Errors
    /// When TLS cannot be served with the meshes' certificates.
    pub(crate) fn new(
        own: MeshName,
        meshes: BTreeMap<MeshName, Mesh>,
        store: Arc<dyn Store>,
        clock: Clock,
        scope: Scope,
    ) -> Result<(Self, Jobs), TlsError> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let acceptor = watch::Sender::new(acceptor_of(&own, &meshes)?);
        let directory = Directory::default();
        for mesh in meshes.values() {
            directory.insert(tenant(mesh));
        }
        let core = Self {
            meshes,
            believed: Believed::new(clock.wall(), clock.world.lived()),
            own,
            directory,
            meshes_refused: 0,
            acceptor,
            clock,
            store,
            scope,
            handle: Handle(sender),
            behind: Behind::default(),
            next_id: 0,
        };
        Ok((core, Jobs(receiver)))
    }

    /// How TLS is accepted, now and later.
    pub(crate) fn acceptor(&self) -> watch::Receiver<ControlAcceptor> {
        self.acceptor.subscribe()
    }

    /// A mesh is served from now on.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn add_mesh(&mut self, mut mesh: Mesh) -> Result<(), StoreError> {
        mesh.load(&*self.store)?;
        self.directory.insert(tenant(&mesh));
        self.meshes.insert(mesh.name().clone(), mesh);
        self.accept_all();
        Ok(())
    }

    /// A mesh is served no more: its streams and connections end, and nothing of it waits to be written.
    pub(crate) fn remove_mesh(&mut self, name: &MeshName) {
        if let Some(mut mesh) = self.meshes.remove(name) {
            mesh.end_all();
        }
        self.behind.forget(name);
        self.directory.remove(name);
        self.accept_all();
    }

    /// Accepts TLS for the meshes that there are, with the certificates that they have.
    fn accept_all(&mut self) {
        match acceptor_of(&self.own, &self.meshes) {
            Ok(acceptor) => {
                self.acceptor.send_replace(acceptor);
            }
            Err(error) => {
                tracing::error!(%error, "the control plane's new certificates cannot be used");
            }
        }
    }

    /// A number for a stream that was never given before.
    pub(crate) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// The mesh whose identities are of this trust domain.
    pub(crate) fn mesh_of(&mut self, identity: &Identity) -> Option<&mut Mesh> {
        let mut meshes = self.meshes.values_mut();
        meshes.find(|mesh| mesh.domain().as_str() == identity.domain_str())
    }

    /// Does what all events since the last time made due.
    fn flush(&mut self) {
        let (uptime, wall) = (self.clock.uptime(), self.believed_wall());
        for mesh in self.meshes.values_mut() {
            let mut writes = Vec::new();
            mesh.flush(&self.clock, wall, &mut writes);
            self.behind.add(writes);
            self.behind.add(mesh.upkeep_of_agents(uptime, wall));
        }
        self.write_behind(uptime);
    }

    /// Begins to write what nobody waits for.
    fn write_behind(&mut self, now: Duration) {
        let Some(batch) = self.behind.begin(now) else {
            return;
        };
        let (store, handle) = (Arc::clone(&self.store), self.handle.clone());
        let again = batch.clone();
        let started = self.scope.spawn("store-write", async move {
            let left = behind::write(&*store, batch).await;
            let done = move |core: &mut Self| core.behind.done(left, core.clock.uptime());
            if handle.call(done).await.is_err() {
                tracing::debug!("nobody is left to be told what was written");
            }
        });
        if let Err(error) = started {
            tracing::error!(%error, "writing has to wait");
            self.behind.done(Left::default(), now);
            self.behind.add(again);
        }
    }

    /// The time by which things are forgotten.
    fn believed_wall(&mut self) -> SystemTime {
        let (wall, now) = (self.clock.wall(), self.clock.world.lived());
        let was_off = self.believed.is_off();
        let believed = self.believed.now(wall, now);
        if self.believed.is_off() && !was_off {
            tracing::error!(
                "this machine's clock has jumped: set it right; nothing is forgotten by it for an hour, but certificates and tokens are judged by it"
            );
        }
        believed
    }

    /// When there is something to do although nothing happens.
    fn next_due(&self) -> Option<Instant> {
        let due = self.meshes.values().filter_map(Mesh::next_due).min()?;
        Some(self.clock.at(due))
    }

    fn tick(&mut self) {
        let (uptime, wall) = (self.clock.uptime(), self.clock.wall());
        for mesh in self.meshes.values_mut() {
            mesh.tick(uptime, wall);
        }
        let renewed = self.meshes.values_mut();
        let renewed = renewed.map(|mesh| std::mem::take(&mut mesh.renewed));
        if renewed.fold(false, |any, one| any | one) {
            self.accept_all();
        }
    }

    fn reload(&mut self) -> Result<Watch, StoreError> {
        let from = self.store.revision();
        for mesh in self.meshes.values_mut() {
            mesh.load(&*self.store)?;
        }
        self.store.watch(from)
    }

    /// Takes in the changes that are there without waiting, and says whether there may be more; an error means to list
    /// again.
    fn drain_changes(&mut self, watch: &mut Watch) -> Result<bool, StoreError> {
        for _ in 0..CHANGES {
            match watch.try_next()? {
                Some(change) => self.change(&change),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    fn change(&mut self, change: &leno_store::Change) {
        for mesh in self.meshes.values_mut() {
            mesh.revision = change.revision();
        }
        let mesh = self.meshes.get_mut(&change.key().mesh);
        // A job may make a mesh while changes of an earlier one of its name are still to be taken in.
        if let Some(mesh) = mesh.filter(|mesh| change.revision() > mesh.settings.begins) {
            mesh.change(change);
        }
    }
}

/// As the directory has it.
fn tenant(mesh: &Mesh) -> Tenant {
    Tenant {
        name: mesh.name().clone(),
        domain: mesh.domain().clone(),
        begins: mesh.settings.begins,
        shared: Arc::clone(&mesh.shared),
        people: Arc::clone(&mesh.people),
        stop: Stop::new(),
    }
}

/// Serves TLS for all meshes: by SNI, which is a trust domain, or a name that hosts have who only have a token; whoever
/// names none means the control plane's own.
fn acceptor_of(
    own: &MeshName,
    meshes: &BTreeMap<MeshName, Mesh>,
) -> Result<ControlAcceptor, TlsError> {
    let others = meshes.values().filter(|mesh| mesh.name() != own);
    let all = meshes.get(own).into_iter().chain(others);
    let identity = |mesh: &Mesh| (mesh.certificate.clone(), mesh.authority.bundle().clone());
    let identities: Vec<_> = all.map(identity).collect();
    let acceptor = ControlAcceptor::new(&identities)?;
    Ok(meshes.values().fold(acceptor, |acceptor, mesh| {
        acceptor.with_alias(&joining_name(mesh.name()), mesh.domain())
    }))
}

/// What waits to be done.
pub(crate) struct Jobs(mpsc::Receiver<Job>);

impl Jobs {
    /// Runs those that wait.
    fn run(&mut self, core: &mut Core) {
        for _ in 0..BATCH {
            match self.0.try_recv() {
                Ok(job) => job(core),
                Err(_) => break,
            }
        }
    }
}

/// Ready at `due`.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Owns the state until `stop`.
pub(crate) async fn run(mut core: Core, mut jobs: Jobs, stop: Stop) {
    let mut watch = match core.reload() {
        Ok(watch) => watch,
        Err(error) => {
            tracing::error!(%error, "the store cannot be read");
            return;
        }
    };
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    core.flush();
    loop {
        let outcome = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = tick.tick() => {
                core.tick();
                Ok(())
            }
            () = until(core.next_due()) => Ok(()),
            change = watch.next() => change.map(|change| core.change(&change)),
            Some(job) = jobs.0.recv() => {
                job(&mut core);
                jobs.run(&mut core);
                Ok(())
            }
        };
        let more = outcome.and_then(|()| core.drain_changes(&mut watch));
        if let Err(error) = &more {
            if matches!(error, StoreError::Closed) {
                break;
            }
            tracing::warn!(%error, "reading the whole store again");
            match core.reload() {
                Ok(new) => watch = new,
                Err(error) => {
                    tracing::error!(%error, "the store cannot be read; trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
        // A large batch of one mesh, which would be taken in first: jobs, requests and sockets of others come between.
        let more = matches!(more, Ok(true));
        if more {
            jobs.run(&mut core);
        }
        core.flush();
        if more {
            tokio::task::yield_now().await;
        }
    }
    for mesh in core.meshes.values_mut() {
        mesh.end_all();
    }
    let rest = core.behind.rest();
    core.behind
        .done(behind::write(&*core.store, rest).await, core.clock.uptime());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    #![allow(
        clippy::disallowed_methods,
        reason = "a test owns its tasks by a LocalSet"
    )]

    use leno_api::SystemEnvironment;
    use leno_store::{Expect, Key, Options, SqliteStore, Write};

    use super::*;
    use crate::simulation::{Look, Plane};

    async fn look(plane: &Plane, mesh: &MeshName) -> Look {
        plane.look(mesh, false).await.unwrap()
    }

    #[tokio::test]
    async fn a_job_waits_for_no_more_than_a_piece_of_a_large_batch() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let store = Arc::new(SqliteStore::open(&path, Options::default()).unwrap());
        let meshes: Vec<MeshName> = vec!["default".parse().unwrap(), "shop".parse().unwrap()];
        let (plane, running) = Plane::open(
            &meshes,
            directory.path(),
            store.clone(),
            Arc::new(Machine),
            Arc::new(SystemEnvironment),
            Stop::new(),
        )
        .await
        .unwrap();
        let tasks = tokio::task::LocalSet::new();
        tasks.spawn_local(running.run());
        tasks
            .run_until(async {
                let before = look(&plane, &meshes[0]).await.revision;
                let write = |number: usize| {
                    let name = format!("s{number}");
                    let key = Key::new(meshes[1].clone(), "services", "default", name);
                    Write::put(key, b"{}".to_vec(), Expect::Absent)
                };
                let writes = (0..8 * CHANGES).map(write).collect();
                // While this waits, nothing is taken in.
                let written = std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().build();
                    runtime.unwrap().block_on(store.commit(writes)).unwrap()
                });
                let head = written.join().unwrap();
                let taken_in = look(&plane, &meshes[0]).await.revision - before;
                assert!(taken_in <= 3 * CHANGES as u64, "{taken_in} changes first");
                // Nothing of it is lost, and nothing is taken in twice.
                let mut seen = 0;
                while seen < head {
                    seen = look(&plane, &meshes[0]).await.revision;
                    tokio::task::yield_now().await;
                }
                assert_eq!(seen, head);
            })
            .await;
    }
}
