//! JSON files that come with a model or an adapter.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::files::read_regular_text;

/// Bytes of such a file. The index of a model of 700 billion weights has 9 MB; a value takes up to ten times its text in memory.
pub(crate) const MOST_BYTES: u64 = 32 << 20;

/// Reads a JSON file.
///
/// # Errors
/// A file that is missing, no regular file, too long, not UTF-8, begins with a byte-order mark, or is not JSON.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let text = read_regular_text(path, MOST_BYTES)?;
    refuse_mark(path, &text)?;
    serde_json::from_str(&text).map_err(|e| Error::model(path, format!("is not JSON: {e}")))
}

/// Refuses the mark that some editors put before a text.
///
/// # Errors
/// It is there.
pub(crate) fn refuse_mark(path: &Path, text: &str) -> Result<()> {
    if text.starts_with('\u{feff}') {
        return Err(Error::model(path, "starts with a byte-order mark; save it as UTF-8 without BOM"));
    }
    Ok(())
}
