//! Named tasks, readiness, drain and signals.
//!
//! Owns how a process of Leno starts, stops and notices that a part of it died. This is the only crate that may start a
//! task: every task has a name, an owner ([`Tasks`] or [`Scope`]) and a consequence when it ends. Never knows what a task
//! does. Invariant: shutdown is stop, drain, deadline, abort, in this order, and what was aborted is said by name.

mod guests;
mod panics;
mod readiness;
mod scope;
mod signals;
mod stop;
mod tasks;
mod thread;

pub use guests::{Guest, Guests};
pub use panics::panics_total;
pub use readiness::Readiness;
pub use scope::{Full, Scope};
pub use signals::{Signal, Signals};
pub use stop::Stop;
pub use tasks::{Fatal, Tasks};
pub use thread::{block_on_local, spawn_thread_local};
