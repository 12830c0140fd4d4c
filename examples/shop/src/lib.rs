//! The shop that the demo runs: ordinary programs that know nothing of a mesh.
