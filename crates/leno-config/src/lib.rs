//! The resources people write: parsed, defaulted, validated, and what is wrong with them and where.
