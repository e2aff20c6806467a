//! The objects of a file, some thousand at a time, so that they can be looked at in parallel.

use std::path::Path;

use super::{Object, Watched};
use crate::error::Result;

/// Objects of a batch.
const MOST: usize = 8192;
/// Bytes of the file after which a batch ends. A parsed object may take a hundred times its bytes.
const MOST_BYTES: u64 = 4 << 20;

/// Objects, each with the line that it begins in, or why there is none in that place.
pub(crate) type Batch = Vec<(usize, Result<Object, String>)>;

/// Reads a file in batches.
pub(crate) struct Batches<'p>(Watched<'p>);

impl<'p> Batches<'p> {
    /// Opens a file.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub(crate) fn open(path: &'p Path) -> Result<Self> {
        Watched::open(path).map(Self)
    }

    /// The next objects, and the bytes of the file that were read for them; no object at the end.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn next(&mut self) -> Result<(Batch, u64)> {
        let mut batch = Vec::new();
        while batch.len() < MOST && self.0.unreported() < MOST_BYTES {
            match self.0.next()? {
                Some(item) => batch.push(item),
                None => break,
            }
        }
        Ok((batch, self.0.report()))
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
                    assert_eq!(bytes, path.metadata().expect("a file").len());
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
