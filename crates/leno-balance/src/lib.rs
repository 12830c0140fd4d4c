//! Choosing an endpoint: load, health, ejection and retry budget as state machines without a clock.
//!
//! Owns every endpoint's load estimate and its ejection. Never dials, never reads a clock, never logs.

mod balancer;
mod ewma;
mod retry;

pub use balancer::{
    BASE_EJECTION, Balancer, CONSECUTIVE_FAILURES, Ejection, EndpointState, MAX_EJECTED_PERCENT,
    MAX_EJECTION, Outcome, Pick,
};
pub use retry::{BUDGET_PERCENT, BUDGET_WINDOW, MIN_CONCURRENT_RETRIES, RetryBudget};
