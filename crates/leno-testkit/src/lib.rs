//! What the tests of several crates share: namespaces, processes, packet capture, a whole mesh, strangers.
//!
//! A test binary made with [`suite!`] runs inside an arena: new PID, mount and network namespaces that end with it,
//! however it ends. In it a [`Network`] has hosts, a namespace each, and a [`Mesh`] is the product's own binary run on
//! them as a user would run it. Nothing here sleeps in the hope that something has happened: [`until`] asks again and
//! again, up to a named end. It panics when the world is not as it should be: that is what fails a test.

mod capture;
mod host;
mod mesh;
mod process;
mod raw;
mod run;
mod skip;
mod strangers;
mod suite;
mod wait;

pub use capture::Capture;
pub use host::{Host, Network};
pub use mesh::{Mesh, MeshBuilder, leno_binary};
pub use process::{Output, Process, Signal, many_open_files, show_logs};
pub use raw::{Answer, Wire};
pub use run::{Connector, Member, RunBuilder};
pub use skip::{current_test, noting_skips, skipped};
pub use strangers::{module_of_python, program, python};
pub use suite::{Test, allow_longer, run_suite};
pub use wait::{holds_for, until, until_ok};

/// The text that payloads contain, so that a capture shows where one crosses in clear.
pub const PAYLOAD: &str = "leno-demo-payload";
