//! The machine of the control plane: its disk, and the lives of the control planes on it, one after the other.
//!
//! A life ends in order (the control plane is asked to stop) or at once (everything of it is dropped where it stands).
//! Invariant: two never live at the same time.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use leno_api::Environment;
use leno_controlplane::simulation::{Plane, World};
use leno_runtime::{Scope, Stop};
use leno_store::{Store, StoreError};
use leno_types::MeshName;
use tempfile::TempDir;
use tokio::{task::LocalSet, time::Instant};

use crate::{
    dice::Dice,
    disk::{Disk, Weather},
    sim::{Sim, wall},
};

/// What a control plane takes from its machine.
struct Heaven {
    start: Instant,
    dice: Mutex<Dice>,
}

impl Heaven {
    fn throw(&self) -> u64 {
        let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
        dice.next()
    }
}

impl World for Heaven {
    fn wall(&self) -> SystemTime {
        wall(self.start)
    }

    fn lived(&self) -> Duration {
        self.start.elapsed()
    }

    fn random(&self) -> [u8; 8] {
        self.throw().to_be_bytes()
    }
}

impl Environment for Heaven {
    fn now(&self) -> SystemTime {
        wall(self.start)
    }

    fn random(&self) -> u128 {
        u128::from(self.throw())
    }
}

/// One life of the control plane.
pub(crate) struct Life {
    pub(crate) plane: Plane,
    /// Everything of it is gone.
    pub(crate) dead: Stop,
    stop: Stop,
    disk: Weak<Disk>,
}

/// The machine.
pub(crate) struct Site {
    sim: Sim,
    scope: Scope,
    directory: TempDir,
    meshes: Vec<MeshName>,
    heaven: Arc<Heaven>,
    pub(crate) weather: Arc<Weather>,
    life: Cell<Option<Rc<Life>>>,
    incarnation: Cell<Option<u128>>,
    revision: Cell<u64>,
}

impl Site {
    pub(crate) fn new(sim: &Sim, scope: &Scope, directory: TempDir, meshes: &[MeshName]) -> Self {
        let (heaven, weather) = sim.dice(|dice| (dice.next(), dice.next()));
        Self {
            sim: sim.clone(),
            scope: scope.clone(),
            directory,
            meshes: meshes.to_vec(),
            heaven: Arc::new(Heaven {
                start: Instant::now(),
                dice: Mutex::new(Dice::new(heaven)),
            }),
            weather: Arc::new(Weather::new(weather)),
            life: Cell::new(None),
            incarnation: Cell::new(None),
            revision: Cell::new(0),
        }
    }

    /// The control plane that lives now.
    pub(crate) fn life(&self) -> Option<Rc<Life>> {
        let life = self.life.take();
        self.life.set(life.clone());
        life
    }

    /// The store as long as nobody lives here.
    pub(crate) fn before_the_first(&self) -> Result<Disk, StoreError> {
        let path = self.directory.path().join("store.db");
        Disk::open(&path, Arc::clone(&self.weather))
    }

    /// A control plane begins; where its machine is lost while it begins, another.
    pub(crate) async fn start(&self) {
        let started = loop {
            tokio::select! {
                biased;
                started = self.try_start() => break started,
                () = self.weather.lost.notified() => {
                    self.sim.event("crash", "the control plane ends before it has begun");
                }
            }
        };
        if let Err(error) = started {
            self.sim
                .wrong(format!("the control plane does not start: {error}"));
        }
    }

    async fn try_start(&self) -> Result<(), Box<dyn std::error::Error>> {
        let path = self.directory.path().join("store.db");
        let disk = Arc::new(Disk::open(&path, Arc::clone(&self.weather))?);
        let (incarnation, revision) = (disk.incarnation(), disk.revision());
        let before = self.incarnation.replace(Some(incarnation));
        if before.is_some_and(|before| before != incarnation) {
            self.sim.wrong("the store has another incarnation");
        }
        if revision < self.revision.get() {
            self.sim.wrong("the store's revision went back");
        }
        self.sim
            .event("start", &format!("control plane at revision {revision}"));
        let (stop, dead) = (Stop::new(), Stop::new());
        let opening = Plane::open(
            &self.meshes,
            self.directory.path(),
            Arc::clone(&disk) as Arc<dyn Store>,
            Arc::clone(&self.heaven) as Arc<dyn World>,
            Arc::clone(&self.heaven) as Arc<dyn Environment>,
            stop.clone(),
        );
        let (plane, running) = opening.await?;
        let ended = dead.clone();
        self.scope.spawn("control-plane", async move {
            // Its tasks are its own, and are dropped with it.
            let local = LocalSet::new();
            ended
                .run_until_stopped(local.run_until(running.run()))
                .await;
            drop(local);
            ended.trigger();
        })?;
        self.life.set(Some(Rc::new(Life {
            plane,
            dead,
            stop,
            disk: Arc::downgrade(&disk),
        })));
        Ok(())
    }

    /// The control plane ends, at once or as it is asked to.
    pub(crate) async fn end(&self, at_once: bool) {
        let Some(life) = self.life.take() else {
            return;
        };
        self.sim.event(
            if at_once { "crash" } else { "stop" },
            "the control plane ends",
        );
        if let Some(disk) = life.disk.upgrade() {
            self.revision.set(disk.revision());
        }
        match at_once {
            true => life.dead.trigger(),
            false => life.stop.trigger(),
        }
        tokio::select! {
            biased;
            () = life.dead.cancelled() => {}
            // Its machine is lost while it writes its last.
            () = self.weather.lost.notified() => life.dead.trigger(),
            () = tokio::time::sleep(Duration::from_secs(30)) => {
                self.sim.wrong("the control plane did not stop");
                life.dead.trigger();
            }
        }
        let disk = life.disk.clone();
        drop(life);
        // Whoever waited for it notices, and lets go of what it held.
        for _ in 0..1_000 {
            if disk.strong_count() == 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
        self.sim
            .wrong("something holds the store of a control plane that is gone");
    }
}
