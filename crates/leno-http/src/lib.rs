//! The data path's HTTP: own HTTP/1 codec, HTTP/2 on the h2 crate, upgrade, limits.
