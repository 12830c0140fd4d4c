//! Named tasks, readiness, drain and signals.
