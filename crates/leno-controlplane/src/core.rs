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
use leno_types::{Identity, MeshName};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior},
};

use crate::{
    authority::random,
    behind::{self, Behind, Left},
    mesh::Mesh,
    times::Believed,
};

/// Jobs that may wait.
const QUEUE: usize = 4_096;
/// Jobs and changes done before what they made due.
const BATCH: usize = 512;
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
    pub(crate) async fn call<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Core) -> R + Send + 'static,
    ) -> Result<R, Ending> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |core| {
            // Who asked may have gone meanwhile.
            drop(reply.send(job(core)));
        });
        self.0.send(job).await.map_err(|_| Ending)?;
        answer.await.map_err(|_| Ending)
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
    pub(crate) fn new(
        meshes: BTreeMap<MeshName, Mesh>,
        store: Arc<dyn Store>,
        clock: Clock,
        scope: Scope,
    ) -> (Self, Jobs) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let core = Self {
            meshes,
            believed: Believed::new(clock.wall(), clock.world.lived()),
            clock,
            store,
            scope,
            handle: Handle(sender),
            behind: Behind::default(),
            next_id: 0,
        };
        (core, Jobs(receiver))
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
    }

    fn reload(&mut self) -> Result<Watch, StoreError> {
        let from = self.store.revision();
        for mesh in self.meshes.values_mut() {
            mesh.load(&*self.store)?;
        }
        self.store.watch(from)
    }

    /// Takes in the changes that are there without waiting; an error means to list again.
    fn drain_changes(&mut self, watch: &mut Watch) -> Result<(), StoreError> {
        for _ in 0..BATCH {
            match watch.try_next()? {
                Some(change) => self.change(&change),
                None => break,
            }
        }
        Ok(())
    }

    fn change(&mut self, change: &leno_store::Change) {
        let now = self.clock.wall();
        for mesh in self.meshes.values_mut() {
            mesh.revision = change.revision();
        }
        if let Some(mesh) = self.meshes.get_mut(&change.key().mesh) {
            mesh.change(change, now);
        }
    }
}

/// What waits to be done.
pub(crate) struct Jobs(mpsc::Receiver<Job>);

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
                for _ in 0..BATCH {
                    match jobs.0.try_recv() {
                        Ok(job) => job(&mut core),
                        Err(_) => break,
                    }
                }
                Ok(())
            }
        };
        if let Err(error) = outcome.and_then(|()| core.drain_changes(&mut watch)) {
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
        core.flush();
    }
    for mesh in core.meshes.values_mut() {
        mesh.end_all();
    }
    let rest = core.behind.rest();
    core.behind
        .done(behind::write(&*core.store, rest).await, core.clock.uptime());
}
