//! Route matching and authorization: the evaluator that proxy, CLI and tests share.
//!
//! Everything here is a pure function of its arguments: no clock, no socket, no allocation on the way to an answer.

mod access;
mod matching;

pub use access::{Verdict, authorize};
pub use matching::{Headers, RequestView, backend, route};
