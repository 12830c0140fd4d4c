//! Choosing an endpoint, and what is carried first: load, health, ejection, retry budget and overload as state machines
//! without a clock.
//!
//! Owns every endpoint's load estimate and its ejection, and the lines for programs. Never dials, never reads a clock,
//! never logs.

mod balancer;
mod ewma;
mod line;
mod overload;
mod retry;

pub use balancer::{
    BASE_EJECTION, Balancer, CONSECUTIVE_FAILURES, Ejection, EndpointState, Fault,
    MAX_EJECTED_PERCENT, MAX_EJECTION, Out, Outcome, Pick,
};
pub use line::{Line, LineLimits, MARGIN_TICKS, Queued, Ticket};
pub use overload::{
    DEFAULT_SHARE, LAG_SAMPLES, LOW_SHARE, Lag, Pressure, memory_percent, part, percent, share,
};
pub use retry::{BUDGET_PERCENT, BUDGET_WINDOW, MIN_CONCURRENT_RETRIES, RetryBudget};
