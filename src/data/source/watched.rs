//! The items of a file, and how much of it was read for them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Object, Source, Unpacked};
use crate::error::Result;

/// Called with the bytes of a file that were read since the last call.
pub(crate) type OnRead<'a> = &'a mut dyn FnMut(u64);

/// Bytes after which they are told.
const OFTEN: u64 = 1 << 20;

/// Reads a file, and counts its bytes as they lie on the disk.
pub(crate) struct Watched<'p> {
    path: &'p Path,
    source: Source<Unpacked>,
    read: Arc<AtomicU64>,
    /// What was told of `read` so far. The head of a file is read when it is opened.
    told: u64,
}

impl<'p> Watched<'p> {
    /// Opens a file.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub(crate) fn open(path: &'p Path) -> Result<Self> {
        let (source, read) = Source::open_counted(path)?;
        Ok(Self { path, source, read, told: 0 })
    }

    /// As [`Source::next`].
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn next(&mut self) -> Result<Option<(usize, Result<Object, String>)>> {
        self.source.next(self.path)
    }

    /// As [`Source::next_line`]. From time to time it tells what was read, and at the end the rest.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn next_line(&mut self, on_read: OnRead<'_>) -> Result<Option<(usize, Result<String, String>)>> {
        let item = self.source.next_line(self.path)?;
        if item.is_none() || self.untold() >= OFTEN {
            on_read(self.tell());
        }
        Ok(item)
    }

    /// Bytes that were read and not told.
    pub(super) fn untold(&self) -> u64 {
        self.read.load(Ordering::Relaxed) - self.told
    }

    /// As [`Self::untold`], which are told now.
    pub(super) fn tell(&mut self) -> u64 {
        let bytes = self.untold();
        self.told += bytes;
        bytes
    }
}
