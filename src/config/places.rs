//! Where a manifest's keys stand.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::Error;

/// Where each key was written, for messages.
pub(super) struct Places {
    pub(super) manifest: PathBuf,
    pub(super) keys: BTreeMap<String, (PathBuf, usize)>,
}

impl Places {
    /// An error about `key` (`"train.lora_r"`, or a section), at its line, or its section's, or the manifest as a whole.
    pub(super) fn error(&self, key: &str, message: impl std::fmt::Display) -> Error {
        let (section, name) = key.split_once('.').unwrap_or((key, ""));
        let message = format!("[{section}] {name}{}{message}", if name.is_empty() { "" } else { " " });
        match self.keys.get(key).or_else(|| self.keys.get(section)) {
            Some((path, line)) => Error::input(path, *line, message),
            None => Error::input(&self.manifest, None, message),
        }
    }
}
