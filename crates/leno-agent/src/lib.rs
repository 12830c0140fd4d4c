//! A host's side of the mesh: its identity, workloads, certificates, subscriptions, capture and admin port.
