//! The mesh, end to end, in network namespaces.
