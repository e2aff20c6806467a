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
        let (section, name) = section_and_key(key);
        let message = format!("[{section}] {name}{}{message}", if name.is_empty() { "" } else { " " });
        match self.keys.get(key).or_else(|| self.keys.get(section)) {
            Some((path, line)) => Error::input(path, *line, message),
            None => Error::input(&self.manifest, None, message),
        }
    }

    /// The line of a key or a section.
    pub(super) fn line(&self, key: &str) -> Option<usize> {
        self.keys.get(key).map(|(_, line)| *line)
    }
}

/// `train.lora_r` is a key of `[train]`, and `arms.half.scale` one of `[arms.half]`.
fn section_and_key(key: &str) -> (&str, &str) {
    let from = if key.starts_with(ARMS) { ARMS.len() } else { 0 };
    key[from..].find('.').map_or((key, ""), |dot| (&key[..from + dot], &key[from + dot + 1..]))
}

/// What the names of the sections of arms begin with.
pub(super) const ARMS: &str = "arms.";
