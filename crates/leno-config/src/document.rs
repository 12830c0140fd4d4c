//! Documents as files hold them: where each begins, which line each field is on.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{Finding, Kind};

/// One document of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Its kind.
    pub kind: Kind,
    /// As written, without defaults.
    pub value: Value,
    /// The namespace it names.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// The file.
    pub file: String,
    /// The line where it begins, from 1.
    pub line: u32,
    /// The line of each field, by path (`spec.rules[0].backendRefs[1].weight`).
    pub lines: BTreeMap<String, u32>,
    /// The column of each field.
    pub columns: BTreeMap<String, u32>,
}

/// Reads every document of a file, YAML or JSON, `List`s too, and checks each as the server does.
///
/// # Errors
/// Everything that is wrong in any of them, in the order of the file.
pub fn parse_documents(file: &str, text: &str) -> Result<Vec<Document>, Vec<Finding>> {
    crate::yaml::parse(file, text)
}
