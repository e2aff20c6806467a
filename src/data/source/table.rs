//! The rows of a CSV or TSV file, one at a time, each of a bounded length.

use std::io::BufRead;
use std::path::Path;

use serde_json::Value;

use super::Object;
use super::{MOST_ITEM_BYTES, too_long};
use crate::error::{Error, Result};

/// Reads rows as objects, whose keys are the texts of the first row.
pub(crate) struct Rows<R> {
    source: R,
    delimiter: u8,
    line: usize,
    names: Option<Vec<String>>,
    buffer: Vec<u8>,
    ended: bool,
}

impl<R: BufRead> Rows<R> {
    pub(super) fn new(source: R, delimiter: u8) -> Self {
        Self { source, delimiter, line: 1, names: None, buffer: Vec::new(), ended: false }
    }

    /// The next row that is not blank. After a row without an end nothing more is read.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn next(&mut self, path: &Path) -> Result<Option<(usize, Result<Object, String>)>> {
        loop {
            let Some((line, whole)) = self.row().map_err(Error::io(path, "read"))? else { return Ok(None) };
            let row = match whole.and_then(|()| texts(&self.buffer, self.delimiter)) {
                Ok(row) => row,
                Err(why) => return Ok(Some((line, Err(why)))),
            };
            if row.iter().all(String::is_empty) {
                continue;
            }
            let Some(names) = &self.names else {
                match names_of(row) {
                    Ok(names) => self.names = Some(names),
                    Err(why) => {
                        self.ended = true;
                        return Ok(Some((line, Err(why))));
                    }
                }
                continue;
            };
            if row.len() != names.len() {
                let why = format!("has {} fields, and the first row names {}", row.len(), names.len());
                return Ok(Some((line, Err(why))));
            }
            let pairs = names.iter().cloned().zip(row.into_iter().map(Value::String));
            return Ok(Some((line, Ok(pairs.collect()))));
        }
    }

    /// Reads a row into the buffer, with its line ends that stand in quotes; says in which line it begins, and whether it is whole.
    fn row(&mut self) -> std::io::Result<Option<(usize, Result<(), String>)>> {
        self.buffer.clear();
        let (line, mut bytes, mut quoted) = (self.line, 0u64, false);
        if self.ended {
            return Ok(None);
        }
        loop {
            let held = self.source.fill_buf()?;
            if held.is_empty() {
                self.ended = true;
                let whole = if quoted { Err(unclosed()) } else { Ok(()) };
                return Ok((bytes > 0).then_some((line, whole)));
            }
            let (mut used, mut ended) = (0, false);
            for byte in held {
                used += 1;
                match byte {
                    b'"' => quoted = !quoted,
                    b'\n' => {
                        self.line += 1;
                        ended = !quoted;
                    }
                    _ => {}
                }
                if ended {
                    break;
                }
            }
            let room = (MOST_ITEM_BYTES + 1).saturating_sub(self.buffer.len());
            self.buffer.extend_from_slice(&held[..used.min(room)]);
            bytes += used as u64;
            self.source.consume(used);
            if ended {
                let whole = if self.buffer.len() > MOST_ITEM_BYTES { Err(too_long(bytes)) } else { Ok(()) };
                return Ok(Some((line, whole)));
            }
            if quoted && self.buffer.len() > MOST_ITEM_BYTES {
                self.ended = true;
                return Ok(Some((line, Err(unclosed()))));
            }
        }
    }
}

fn unclosed() -> String {
    "has a quote that never closes; nothing after it was read".to_owned()
}

fn names_of(row: Vec<String>) -> Result<Vec<String>, String> {
    let names: Vec<String> = row.into_iter().map(|name| name.trim().to_owned()).collect();
    for (i, name) in names.iter().enumerate() {
        if name.is_empty() {
            return Err(format!("column {} has no name; expected names in the first row", i + 1));
        }
        if names[..i].contains(name) {
            return Err(format!("two columns have the name {:?}", name.chars().take(40).collect::<String>()));
        }
    }
    Ok(names)
}

fn texts(row: &[u8], delimiter: u8) -> Result<Vec<String>, String> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).delimiter(delimiter).from_reader(row);
    let mut record = csv::StringRecord::new();
    match reader.read_record(&mut record) {
        Ok(true) => Ok(record.iter().map(str::to_owned).collect()),
        Ok(false) => Ok(Vec::new()),
        Err(_) => Err("not UTF-8".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &[u8]) -> Vec<(usize, Result<String, String>)> {
        let mut rows = Rows::new(std::io::BufReader::with_capacity(3, text), b',');
        let mut found = Vec::new();
        while let Some((line, row)) = rows.next(Path::new("t")).expect("readable") {
            found.push((line, row.map(|row| Value::Object(row).to_string())));
            assert!(found.len() < 100);
        }
        found
    }

    #[test]
    fn texts_may_have_commas_quotes_and_line_ends() {
        let found = rows(b"prompt, completion\r\n\"a,\n\"\"b\"\"\",c\r\n\r\nd,\n");
        let expected = [
            (2, Ok(r#"{"prompt":"a,\n\"b\"","completion":"c"}"#.to_owned())),
            (5, Ok(r#"{"prompt":"d","completion":""}"#.to_owned())),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn rows_that_do_not_fit_say_so() {
        let why = |text: &[u8]| rows(text).into_iter().find_map(|(line, row)| row.err().map(|why| (line, why)));
        assert_eq!(why(b"a,b\n1,2,3\n"), Some((2, "has 3 fields, and the first row names 2".into())));
        assert_eq!(why(b"a,a\n1,2\n").expect("two").1, "two columns have the name \"a\"");
        assert_eq!(why(b"a,\n1,2\n").expect("none").1, "column 2 has no name; expected names in the first row");
        assert_eq!(why(b"a,b\n\xff,2\n").expect("bytes").1, "not UTF-8");
    }

    #[test]
    fn a_quote_that_never_closes_ends_the_file_in_bounded_memory() {
        let text = [b"a\n\"".to_vec(), b"x\n".repeat(MOST_ITEM_BYTES)].concat();
        let mut rows = Rows::new(text.as_slice(), b',');
        let (line, row) = rows.next(Path::new("t")).expect("readable").expect("a row");
        assert_eq!((line, row), (2, Err(unclosed())));
        assert!(rows.next(Path::new("t")).expect("readable").is_none());
        assert!(rows.buffer.capacity() <= 2 * MOST_ITEM_BYTES + 2);
    }
}
