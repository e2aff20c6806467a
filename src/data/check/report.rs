//! What a check found, counted, with the first findings of each kind.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Severity;

/// What a check found in a file.
#[derive(Clone, Debug, Serialize)]
pub struct DataReport {
    /// The file.
    pub path: PathBuf,
    /// Lines, elements or rows that were read.
    pub items: usize,
    /// Items that `clean` leaves out.
    pub left_out: usize,
    /// Kinds of which something was found, in the order of the documentation.
    pub counts: Vec<Count>,
    /// What could not be looked at: lines of the files that were compared.
    pub notes: Vec<String>,
}

/// What was found of a kind.
#[derive(Clone, Debug, Serialize)]
pub struct Count {
    /// The kind's name.
    pub kind: &'static str,
    /// What to do about it.
    pub severity: Severity,
    /// Items in which it was found.
    pub items: usize,
    /// The first of them.
    pub shown: Vec<Found>,
}

/// One finding.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// The line in which the item begins, from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

impl DataReport {
    /// Items in which something of this severity was found, counted once for each kind.
    #[must_use]
    pub fn of(&self, severity: Severity) -> usize {
        self.counts.iter().filter(|count| count.severity == severity).map(|count| count.items).sum()
    }
}

/// Counts findings.
pub(super) struct Tally {
    path: PathBuf,
    most: usize,
    items: usize,
    found: Vec<(usize, Vec<Found>)>,
}

impl Tally {
    pub(super) fn new(path: &Path, most: usize) -> Self {
        Self { path: path.to_owned(), most, items: 0, found: super::kinds().map(|_| (0, Vec::new())).collect() }
    }

    pub(super) fn read(&mut self) {
        self.items += 1;
    }

    /// A finding of the kind at this place of [`super::kinds`].
    pub(super) fn add(&mut self, place: usize, line: usize, message: String) {
        let (count, shown) = &mut self.found[place];
        *count += 1;
        if shown.len() < self.most {
            shown.push(Found { line, message });
        }
    }

    pub(super) fn report(self, left_out: usize, notes: Vec<String>) -> DataReport {
        let counts = super::kinds().zip(self.found).filter(|(_, (count, _))| *count > 0);
        let counts =
            counts.map(|(kind, (items, shown))| Count { kind: kind.name, severity: kind.severity, items, shown });
        DataReport { path: self.path, items: self.items, left_out, counts: counts.collect(), notes }
    }
}
