//! A small versioned store: list, watch, compare-and-set; SQLite behind it.
