//! Configuration and workloads to what proxies act on: keyed, incremental, deterministic (CP11).
//!
//! Owns what was compiled. Each output is a pure function of a key and a view; the view records what was read, so that
//! a change recompiles exactly its readers. Reads no clock and no socket; nothing here can fail: what dangles becomes
//! an output that refuses, and a condition that says so.
//! Invariant: after any sequence of changes, the outputs equal a fresh compilation of what is known, byte for byte.

mod audit;
mod authentication;
mod compiler;
mod conditions;
mod destination;
mod entry;
mod foreseen;
mod graph;
mod hostnames;
mod index;
mod input;
mod kept;
mod known;
mod labelled;
mod numbered;
mod output;
mod outputs;
mod references;
mod route;
mod service;
mod version;
mod view;
mod workload;

pub use audit::Audit;
pub use authentication::PortMode;
pub use compiler::{Compilations, Compiler};
pub use foreseen::Foreseen;
pub use hostnames::{GeneratorNames, GivenNames, MAX_GENERATORS, labels_of, unnamed};
pub use input::{Input, Place, Program, RegisteredPort, Remembered, WorkloadRecord};
pub use kept::Kept;
pub use output::{Condition, EffectiveService, Generated, Key, Origin, Output};
pub use references::{Dangling, Labels, Question, Services, dangling};
pub use version::Version;
pub use workload::access_rules;
