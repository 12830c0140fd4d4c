//! A world in one thread: a control plane on a store, agents, people; seeded chance and virtual time.
//!
//! Owns the network (which delays, cuts and reconnects), the machines (which crash and restart), the disk (which fails),
//! and what must hold through all of it. What is simulated is the real code: the task that owns the control plane's state,
//! its API, its calls for agents, its store on a file, and an agent's side of discovery.
//! Invariant: the same seed gives the same world, to the last event.

mod authorities;
mod check;
mod dice;
mod disk;
mod documents;
mod host;
mod link;
mod panics;
mod people;
mod sim;
mod site;
mod tenant;
mod visible;
mod wire;
mod world;

pub use authorities::Ground;
pub use sim::Outcome;
pub use world::run;

/// Steps of a world, unless it is said.
pub const STEPS: u64 = 80;
