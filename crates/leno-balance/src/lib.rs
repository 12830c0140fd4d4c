//! Choosing an endpoint: load, health, ejection and retry budget as state machines without a clock.
