//! The objects of a file, some thousand at a time, so that they can be looked at in parallel.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Object, Source, Unpacked};
use crate::error::Result;

/// Objects of a batch.
const MOST: usize = 8192;
/// Bytes of the file after which a batch ends. A parsed object may take a hundred times its bytes.
const MOST_BYTES: u64 = 4 << 20;

/// Objects, each with the line that it begins in, or why there is none in that place.
pub(crate) type Batch = Vec<(usize, Result<Object, String>)>;

/// Reads a file in batches.
pub(crate) struct Batches {
    path: PathBuf,
    source: Source<Unpacked>,
    read: Arc<AtomicU64>,
    /// What was told of `read` so far. The head of a file is read when it is opened.
    told: u64,
    bytes: u64,
}

impl Batches {
    /// Opens a file.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (source, read, bytes) = Source::open_counted(path)?;
        Ok(Self { path: path.to_owned(), source, read, told: 0, bytes })
    }

    /// Bytes of the file.
    pub(crate) fn of(&self) -> u64 {
        self.bytes
    }

    /// The next objects, and the bytes of the file that were read for them; no object at the end.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn next(&mut self) -> Result<(Batch, u64)> {
        let before = self.told;
        let mut batch = Vec::new();
        while batch.len() < MOST && self.told - before < MOST_BYTES {
            let item = self.source.next(&self.path)?;
            self.told = self.read.load(Ordering::Relaxed);
            match item {
                Some(item) => batch.push(item),
                None => break,
            }
        }
        Ok((batch, self.told - before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_ends_by_its_objects_or_by_its_bytes() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("d.jsonl");
        let sizes = |text: String| {
            std::fs::write(&path, text).expect("a file");
            let mut batches = Batches::open(&path).expect("a file");
            let (mut sizes, mut bytes) = (Vec::new(), 0);
            loop {
                let (batch, read) = batches.next().expect("readable");
                bytes += read;
                if batch.is_empty() {
                    assert_eq!(bytes, batches.of());
                    return sizes;
                }
                sizes.push(batch.len());
            }
        };
        assert_eq!(sizes("{\"a\": 1}\n".repeat(MOST + 3)), [MOST, 3]);
        let long = format!("{{\"a\": \"{}\"}}\n", "x".repeat(1 << 20));
        let found = sizes(long.repeat(12));
        assert!(found.len() >= 3 && found.iter().all(|n| *n <= 5) && found.iter().sum::<usize>() == 12, "{found:?}");
    }
}
