//! The elements of a JSON array, one at a time, without holding the array.

use std::io::BufRead;
use std::path::Path;

use super::{Item, MOST_ITEM_BYTES, too_long};
use crate::error::{Error, Result};

/// Reads the elements of the array that a file is.
pub(crate) struct Elements<R> {
    source: R,
    line: usize,
    buffer: Vec<u8>,
    at: At,
}

/// Where between elements a reader is.
#[derive(Clone, Copy, PartialEq)]
enum At {
    /// Before the opening bracket.
    Start,
    /// After the opening bracket.
    First,
    /// After an element.
    Next,
    /// After the closing bracket, or where the array cannot be read on.
    End,
}

impl<R: BufRead> Elements<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, line: 1, buffer: Vec::new(), at: At::Start }
    }

    /// The next element; `path` is for errors. After a place that no element can stand in nothing more is read.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn next(&mut self, path: &Path) -> Result<Option<Item<'_>>> {
        match self.element().map_err(Error::io(path, "read"))? {
            None => Ok(None),
            Some((line, Some(why))) => Ok(Some((line, Err(why)))),
            Some((line, None)) => Ok(Some((line, Ok(self.buffer.trim_ascii())))),
        }
    }

    /// The line of the next element, which is in the buffer, or why it is none.
    fn element(&mut self) -> std::io::Result<Option<(usize, Option<String>)>> {
        loop {
            let Some(byte) = self.peek_text()? else {
                let ended = std::mem::replace(&mut self.at, At::End);
                let cut = ended != At::End;
                return Ok(cut.then(|| (self.line, Some("the file ends before the list does".to_owned()))));
            };
            match (self.at, byte) {
                (At::Start, b'[') => self.at = At::First,
                (At::First | At::Next, b']') => self.at = At::End,
                (At::Next, b',') => {
                    self.take();
                    return self.value().map(Some);
                }
                (At::First, _) => return self.value().map(Some),
                (At::Start | At::Next, _) => {
                    self.at = At::End;
                    self.skip_all()?;
                    let why = format!("has {:?} where a comma or the end of the list is due", char::from(byte));
                    return Ok(Some((self.line, Some(why))));
                }
                (At::End, _) => {
                    let line = self.line;
                    self.skip_all()?;
                    return Ok(Some((line, Some("has text after the end of the list".to_owned()))));
                }
            }
            self.take();
        }
    }

    /// Reads an element into the buffer, up to what ends it: a comma or bracket that is not its own.
    fn value(&mut self) -> std::io::Result<(usize, Option<String>)> {
        self.buffer.clear();
        self.at = At::Next;
        self.peek_text()?;
        let (line, mut bytes) = (self.line, 0u64);
        let (mut depth, mut in_text, mut escaped) = (0usize, false, false);
        loop {
            let held = self.source.fill_buf()?;
            if held.is_empty() {
                self.at = At::End;
                return Ok((line, Some("the file ends within an element that begins here".to_owned())));
            }
            let (mut used, mut ended) = (0, false);
            for byte in held {
                match (in_text, byte) {
                    (true, _) if escaped => escaped = false,
                    (true, b'\\') => escaped = true,
                    (_, b'"') => in_text = !in_text,
                    (false, b'{' | b'[') => depth += 1,
                    (false, b'}' | b']') if depth > 0 => depth -= 1,
                    (false, b',' | b']' | b'}') if depth == 0 => {
                        ended = true;
                        break;
                    }
                    _ => {}
                }
                self.line += usize::from(*byte == b'\n');
                used += 1;
            }
            // One byte more than is allowed is kept, to tell.
            let room = (MOST_ITEM_BYTES + 1).saturating_sub(self.buffer.len());
            self.buffer.extend_from_slice(&held[..used.min(room)]);
            bytes += used as u64;
            self.source.consume(used);
            if ended {
                break;
            }
        }
        Ok((line, (self.buffer.len() > MOST_ITEM_BYTES).then(|| too_long(bytes))))
    }

    /// The next byte that is no white space.
    fn peek_text(&mut self) -> std::io::Result<Option<u8>> {
        loop {
            let held = self.source.fill_buf()?;
            if held.is_empty() {
                return Ok(None);
            }
            let blank = held.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            self.line += held[..blank].iter().filter(|byte| **byte == b'\n').count();
            let found = held.get(blank).copied();
            self.source.consume(blank);
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    fn take(&mut self) {
        self.source.consume(1);
    }

    fn skip_all(&mut self) -> std::io::Result<()> {
        loop {
            let held = self.source.fill_buf()?.len();
            if held == 0 {
                return Ok(());
            }
            self.source.consume(held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(text: &[u8]) -> Vec<(usize, Result<String, String>)> {
        // A small buffer, so that every boundary falls somewhere.
        let mut elements = Elements::new(std::io::BufReader::with_capacity(3, text));
        let mut found = Vec::new();
        while let Some((line, bytes)) = elements.next(Path::new("t")).expect("readable") {
            found.push((line, bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned())));
            assert!(found.len() < 100);
        }
        found
    }

    fn good(line: usize, text: &str) -> (usize, Result<String, String>) {
        (line, Ok(text.to_owned()))
    }

    #[test]
    fn elements_are_told_apart_whatever_is_in_their_texts() {
        let text = b"[\n {\"a\": \"],}\\\"\"},\n{\"b\": [1, {}]} , 3\n]\n";
        assert_eq!(elements(text), [good(2, "{\"a\": \"],}\\\"\"}"), good(3, "{\"b\": [1, {}]}"), good(3, "3")]);
        assert_eq!(elements(b" [ ] "), []);
    }

    #[test]
    fn a_list_that_is_none_says_where() {
        let why = |text: &[u8]| elements(text).into_iter().find_map(|(line, item)| item.err().map(|why| (line, why)));
        assert_eq!(why(b"[{}, {}"), Some((1, "the file ends within an element that begins here".into())));
        assert_eq!(why(b"[{}\n{}]"), None, "what follows is part of the element, and no JSON");
        assert_eq!(why(b"[{}]\n[{}]").expect("more").1, "has text after the end of the list");
        assert_eq!(why(b"[{},\n"), Some((2, "the file ends within an element that begins here".into())));
        assert_eq!(why(b"["), Some((1, "the file ends before the list does".into())));
        assert!(why(b"[{}}, {}]").expect("a brace").1.contains("'}' where a comma"));
    }

    #[test]
    fn an_element_that_is_too_long_is_passed_over() {
        let long = format!("[\"{}\", 1]", "x".repeat(MOST_ITEM_BYTES));
        let mut elements = Elements::new(long.as_bytes());
        let (_, first) = elements.next(Path::new("t")).expect("readable").expect("an element");
        assert!(first.expect_err("too long").starts_with(&format!("has {} bytes", MOST_ITEM_BYTES + 2)));
        let (_, second) = elements.next(Path::new("t")).expect("readable").expect("an element");
        assert_eq!(second, Ok(b"1".as_slice()));
    }
}
