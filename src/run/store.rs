//! Computed results by the hash of everything that decides them: `<directory>/<kind>/<2 digits>/<hash>.json`.
//!
//! A stale result cannot be read, because it has another name. A file that is damaged counts as absent.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Raised when stored results of older versions must not be read.
const VERSION: u32 = 1;

/// A directory of results; it may be deleted at any time.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
}

/// A result's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    kind: &'static str,
    hash: String,
}

/// The name of the result that `of` decides.
pub(crate) fn key(kind: &'static str, of: &impl Serialize) -> Result<Key> {
    let json = serde_json::to_vec(of).map_err(|e| Error::failed(e.to_string()))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&VERSION.to_le_bytes());
    hasher.update(kind.as_bytes());
    hasher.update(&json);
    Ok(Key { kind, hash: hasher.finalize().to_hex().to_string() })
}

impl Store {
    /// A store in `directory`, which is made when the first result is written.
    #[must_use]
    pub fn new(directory: impl AsRef<Path>) -> Self {
        Self { directory: directory.as_ref().to_path_buf() }
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.directory.join(key.kind).join(&key.hash[..2]).join(format!("{}.json", &key.hash[2..]))
    }

    /// A stored result, if there is one that can be read.
    pub(crate) fn read<T: DeserializeOwned>(&self, key: &Key) -> Option<T> {
        let text = std::fs::read(self.path(key)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Stores a result.
    ///
    /// It is written in place, and the disk is not waited for, which took milliseconds an answer: a file that a crash cut short
    /// is damaged, and so absent.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub(crate) fn write(&self, key: &Key, value: &impl Serialize) -> Result<()> {
        let json = serde_json::to_vec(value).map_err(|e| Error::failed(e.to_string()))?;
        let path = self.path(key);
        let written = match std::fs::write(&path, &json) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let directory = path.parent().unwrap_or(&self.directory);
                std::fs::create_dir_all(directory).map_err(Error::io(directory, "create"))?;
                std::fs::write(&path, &json)
            }
            written => written,
        };
        written.map_err(Error::io(&path, "write"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_found_by_what_decides_it_and_by_nothing_else() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::new(directory.path());
        let (one, other) = (key("answer", &("a", 1)).expect("a key"), key("answer", &("a", 2)).expect("a key"));
        store.write(&one, &"yes").expect("written");
        assert_eq!(store.read::<String>(&one).as_deref(), Some("yes"));
        assert_eq!(store.read::<String>(&other), None);
        assert_ne!(one, key("drift", &("a", 1)).expect("a key"));
    }

    #[test]
    fn a_damaged_file_counts_as_absent() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::new(directory.path());
        let key = key("answer", &1).expect("a key");
        store.write(&key, &"yes").expect("written");
        std::fs::write(store.path(&key), "\"ye").expect("damaged");
        assert_eq!(store.read::<String>(&key), None);
        store.write(&key, &"yes").expect("written again");
        assert_eq!(store.read::<String>(&key).as_deref(), Some("yes"));
    }
}
