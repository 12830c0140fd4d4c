//! Ceilings that agents and the control plane both hold to.

/// Ports that one workload may have: an agent asks for no more, and the control plane takes no more.
pub const MAX_WORKLOAD_PORTS: usize = 32;
