//! The lines of a data file, one at a time, each of a bounded length.

use std::io::{BufRead, Read};
use std::path::Path;

use super::limits::MOST_TEXT_BYTES;
use crate::error::{Error, Result};

/// Bytes of one line. JSON may write a byte of text in six.
pub(super) const MOST_LINE_BYTES: usize = 2 * MOST_TEXT_BYTES;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads lines without white space around them; blank ones are passed over.
pub(super) struct Lines<R> {
    source: R,
    line: usize,
    buffer: Vec<u8>,
}

/// A line's number, from 1, and its bytes, or why they cannot be an example.
pub(super) type Line<'b> = (usize, Result<&'b [u8], String>);

impl<R: BufRead> Lines<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, line: 0, buffer: Vec::new() }
    }

    /// The next line that is not blank; `path` is for errors.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn next(&mut self, path: &Path) -> Result<Option<Line<'_>>> {
        loop {
            self.buffer.clear();
            let most = MOST_LINE_BYTES as u64 + 1;
            let read = self.source.by_ref().take(most).read_until(b'\n', &mut self.buffer);
            if read.map_err(Error::io(path, "read"))? == 0 {
                return Ok(None);
            }
            self.line += 1;
            if self.buffer.len() > MOST_LINE_BYTES && self.buffer.last() != Some(&b'\n') {
                let bytes = self.buffer.len() as u64 + self.skip_line().map_err(Error::io(path, "read"))?;
                let why = format!(
                    "has {bytes} bytes, and an example may have at most {MOST_LINE_BYTES}; shorten it or leave it out"
                );
                return Ok(Some((self.line, Err(why))));
            }
            if self.line == 1 && self.buffer.starts_with(BYTE_ORDER_MARK) {
                self.buffer.drain(..BYTE_ORDER_MARK.len());
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
        let found = lines(b"\xef\xbb\xbfa\r\n\n  \n b \nc");
        assert_eq!(found, [(1, Ok("a".into())), (4, Ok("b".into())), (5, Ok("c".into()))]);
        assert_eq!(lines(b""), []);
        assert_eq!(lines(b"\xef\xbb\xbf\n"), []);
    }

    #[test]
    fn a_line_of_the_most_bytes_is_read_and_a_longer_one_is_passed_over() {
        let just = [vec![b'x'; MOST_LINE_BYTES], b"\nend".to_vec()].concat();
        let found = lines(&just);
        assert_eq!(found[0].1.as_ref().map(String::len), Ok(MOST_LINE_BYTES));
        assert_eq!(found[1], (2, Ok("end".into())));
        for end in ["\nend", ""] {
            let long = [vec![b'x'; MOST_LINE_BYTES + 9], end.as_bytes().to_vec()].concat();
            let found = lines(&long);
            let why = found[0].1.as_ref().expect_err("too long");
            assert!(why.starts_with(&format!("has {} bytes", MOST_LINE_BYTES + 9)), "{why}");
            assert_eq!(found.len(), if end.is_empty() { 1 } else { 2 });
        }
    }
}
