//! What detectors show of a text.

use crate::shown::plain;

/// Characters of a text that a finding shows.
pub(super) const SHOWN: usize = 60;

/// A text in quotes on one line, cut.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", plain(text.trim(), SHOWN))
}
