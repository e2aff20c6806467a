//! The items of a file, and how much of it was read for them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Object, Source, Unpacked};
use crate::error::Result;

/// Called with the bytes of a file that were read since the last call.
pub(crate) type OnRead<'a> = &'a mut dyn FnMut(u64);

/// `on_read` is called after this many bytes.
const OFTEN: u64 = 1 << 20;

/// Reads a file, and counts its bytes as they lie on the disk.
pub(crate) struct Watched<'p> {
    path: &'p Path,
    source: Source<Unpacked>,
    read: Arc<AtomicU64>,
    /// Bytes of `read` that were reported. The head of a file is read when it is opened.
    reported: u64,
}

impl<'p> Watched<'p> {
    /// Opens a file.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub(crate) fn open(path: &'p Path) -> Result<Self> {
        let (source, read) = Source::open_counted(path)?;
        Ok(Self { path, source, read, reported: 0 })
    }

    /// As [`Source::next`].
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn next(&mut self) -> Result<Option<(usize, Result<Object, String>)>> {
        self.source.next(self.path)
    }

    /// As [`Source::next_line`]. From time to time it reports what was read, and at the end the rest.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn next_line(&mut self, on_read: OnRead<'_>) -> Result<Option<(usize, Result<String, String>)>> {
        let item = self.source.next_line(self.path)?;
        if item.is_none() || self.unreported() >= OFTEN {
            on_read(self.report());
        }
        Ok(item)
    }

    /// Bytes that were read and not reported.
    pub(super) fn unreported(&self) -> u64 {
        self.read.load(Ordering::Relaxed) - self.reported
    }

    /// Marks all that was read as reported; the bytes that were not before.
    pub(super) fn report(&mut self) -> u64 {
        let bytes = self.unreported();
        self.reported += bytes;
        bytes
    }
}
