//! Metrics, access log and trace propagation.
