//! What the tests of several crates share: namespaces, processes, certificates, strangers.
