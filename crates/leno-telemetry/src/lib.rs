//! Metrics, access log and trace propagation.
//!
//! Owns every metric's name and label, the shape of a log line, and what of a trace is carried on. Does no I/O and
//! reads no clock; holds no lock and no atomic: one worker owns one [`Recorder`] and one [`counters::Counters`], and
//! hands out deltas that others add up.
//! Invariant: whatever a peer sends, the number of series and the length of a log line stay under named limits, and
//! what was cut is counted or marked.

pub mod access_log;
pub mod counters;
pub mod trace;

mod edge;
mod histogram;
mod prometheus;
mod recorder;
mod totals;

pub use edge::{EdgeKey, Protocol, Reporter, RequestOutcome, ResponseKey};
pub use histogram::{HistogramError, LatencyHistogram};
pub use recorder::{
    Delta, EdgeDelta, EdgeId, MAX_EDGES, MAX_RESPONSES_PER_EDGE, Recorder, Requests, Tcp,
};
pub use totals::Totals;
