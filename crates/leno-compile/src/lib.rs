//! Configuration and workloads to what proxies act on: keyed, incremental, deterministic.
