//! The Kubernetes-shaped HTTP API over a store.
