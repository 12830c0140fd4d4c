//! Case.
/// The private field that carries the case of HTTP/1 field names over an HTTP/2 hop.
pub const CASE_FIELD: &str = "x-leno-case";
