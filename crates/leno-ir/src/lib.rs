//! What a proxy acts on, and its translation to and from the wire.
