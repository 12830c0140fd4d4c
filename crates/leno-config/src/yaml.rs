//! YAML.
use crate::{Document, Finding};
pub(crate) fn parse(file: &str, text: &str) -> Result<Vec<Document>, Vec<Finding>> {
    let _later = (file, text);
    Ok(Vec::new())
}
