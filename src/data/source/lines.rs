//! The lines of a data file, one at a time, each of a bounded length.

use std::io::{BufRead, Read};
use std::path::Path;

use super::{Item, MOST_ITEM_BYTES, too_long};
use crate::error::{Error, Result};

/// Reads lines without white space around them; blank ones are passed over.
pub(crate) struct Lines<R> {
    source: R,
    line: usize,
    buffer: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, line: 0, buffer: Vec::new() }
    }

    /// The next line that is not blank; `path` is for errors.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn next(&mut self, path: &Path) -> Result<Option<Item<'_>>> {
        loop {
            self.buffer.clear();
            let most = MOST_ITEM_BYTES as u64 + 1;
            let read = self.source.by_ref().take(most).read_until(b'\n', &mut self.buffer);
            if read.map_err(Error::io(path, "read"))? == 0 {
                return Ok(None);
            }
            self.line += 1;
            if self.buffer.len() > MOST_ITEM_BYTES && self.buffer.last() != Some(&b'\n') {
                let bytes = self.buffer.len() as u64 + self.skip_line().map_err(Error::io(path, "read"))?;
                return Ok(Some((self.line, Err(too_long(bytes)))));
            }
            if !self.buffer.trim_ascii().is_empty() {
                return Ok(Some((self.line, Ok(self.buffer.trim_ascii()))));
            }
        }
    }

    /// Passes over the rest of a line without holding it, and counts its bytes.
    fn skip_line(&mut self) -> std::io::Result<u64> {
        let mut bytes = 0;
        loop {
            let held = self.source.fill_buf()?;
            if held.is_empty() {
                return Ok(bytes);
            }
            let (used, ended) = match held.iter().position(|byte| *byte == b'\n') {
                Some(at) => (at + 1, true),
                None => (held.len(), false),
            };
            self.source.consume(used);
            // The line's end is none of its bytes.
            bytes += (used - usize::from(ended)) as u64;
            if ended {
                return Ok(bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8]) -> Vec<(usize, Result<String, String>)> {
        let mut lines = Lines::new(text);
        let mut found = Vec::new();
        while let Some((line, text)) = lines.next(Path::new("t")).expect("readable") {
            found.push((line, text.map(|text| String::from_utf8_lossy(text).into_owned())));
        }
        found
    }

    #[test]
    fn lines_are_numbered_and_trimmed_and_blank_ones_are_passed_over() {
        let found = lines(b"a\r\n\n  \n b \nc");
        assert_eq!(found, [(1, Ok("a".into())), (4, Ok("b".into())), (5, Ok("c".into()))]);
        assert_eq!(lines(b""), []);
    }

    #[test]
    fn a_line_of_the_most_bytes_is_read_and_a_longer_one_is_passed_over() {
        let just = [vec![b'x'; MOST_ITEM_BYTES], b"\nend".to_vec()].concat();
        let found = lines(&just);
        assert_eq!(found[0].1.as_ref().map(String::len), Ok(MOST_ITEM_BYTES));
        assert_eq!(found[1], (2, Ok("end".into())));
        for end in ["\nend", ""] {
            let long = [vec![b'x'; MOST_ITEM_BYTES + 9], end.as_bytes().to_vec()].concat();
            let found = lines(&long);
            let why = found[0].1.as_ref().expect_err("too long");
            assert!(why.starts_with(&format!("has {} bytes", MOST_ITEM_BYTES + 9)), "{why}");
            assert_eq!(found.len(), if end.is_empty() { 1 } else { 2 });
        }
    }
}
