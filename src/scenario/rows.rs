//! Files of rows that cases are made from: JSON Lines or CSV, each row with its line.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::MOST_FILE_BYTES;
use crate::config::nearest;
use crate::data::json_object;
use crate::error::{Error, Result};
use crate::files::read_regular_text;
use crate::shown::plain;

/// Rows of a file: each becomes a case with a copy of the checks.
const MOST_ROWS: usize = 100_000;
/// Bad rows that are shown; the others are counted.
const SHOWN: usize = 20;
/// Characters of a column's name in a message.
const LONGEST_NAME: usize = 40;

/// The rows of a file.
#[derive(Debug)]
pub(crate) struct Rows {
    /// The file.
    pub(crate) path: PathBuf,
    /// The columns that every row has: those of a CSV file's first line. `None` for JSON Lines.
    pub(crate) columns: Option<Vec<String>>,
    /// At least one, in the file's order.
    pub(crate) rows: Vec<Row>,
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// The line that it begins at, from 1.
    pub(crate) line: usize,
    cells: Vec<(String, Cell)>,
}

/// What a row has in a column.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    Text(String),
    /// As JSON writes it.
    Number(String),
    Flag(bool),
    Null,
    /// A list or an object, as JSON.
    Json(String),
}

impl Rows {
    /// Reads a file whose name ends with `.jsonl` or `.csv`. A byte order mark, blank lines and Windows line ends are passed over.
    ///
    /// # Errors
    /// A file that cannot be read, is too large, has no rows, or has rows that cannot be used: each with its line.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default().to_ascii_lowercase();
        let parse = match extension.as_str() {
            "jsonl" => json_lines,
            "csv" => csv,
            _ => {
                let message = "cannot be read as rows: expected a file whose name ends with .jsonl or .csv";
                return Err(Error::input(path, None, message));
            }
        };
        let text = read_regular_text(path, MOST_FILE_BYTES)?;
        let rows = parse(path, text.strip_prefix('\u{feff}').unwrap_or(&text))?;
        if rows.rows.is_empty() {
            let found = if rows.columns.is_some() { "has a line of column names and no rows" } else { "has no rows" };
            return Err(Error::input(path, None, format!("{found}; a case is made from each row")));
        }
        let got = rows.rows.len();
        if got > MOST_ROWS {
            let message =
                format!("has {got} rows, expected at most {MOST_ROWS}; split the file over several scenarios");
            return Err(Error::input(path, rows.rows[MOST_ROWS].line, message));
        }
        Ok(rows)
    }
}

impl Row {
    /// The cell in a column.
    ///
    /// # Errors
    /// There is no such column, with the one that was probably meant.
    pub(crate) fn cell(&self, column: &str) -> Result<&Cell, String> {
        let found = self.cells.iter().find(|(name, _)| name == column);
        found.map(|(_, cell)| cell).ok_or_else(|| no_column(column, self.columns()))
    }

    /// The names of its columns.
    pub(crate) fn columns(&self) -> impl Iterator<Item = &str> + Clone {
        self.cells.iter().map(|(name, _)| name.as_str())
    }

    /// A cell as text: numbers, `true` and `false`, lists and objects as JSON writes them.
    ///
    /// # Errors
    /// There is no such column, or it is `null`.
    pub(crate) fn text(&self, column: &str) -> Result<&str, String> {
        match self.cell(column)? {
            Cell::Text(text) | Cell::Number(text) | Cell::Json(text) => Ok(text),
            Cell::Flag(true) => Ok("true"),
            Cell::Flag(false) => Ok("false"),
            Cell::Null => Err(format!("column `{}` is null, expected a text or a number", plain(column, LONGEST_NAME))),
        }
    }
}

/// Why a column is not there.
pub(crate) fn no_column<'c>(column: &str, columns: impl Iterator<Item = &'c str> + Clone) -> String {
    let advice = match nearest(column, columns.clone()) {
        Some(near) => format!("did you mean `{}`?", plain(near, LONGEST_NAME)),
        None => {
            let shown: Vec<String> = columns.take(8).map(|name| format!("`{}`", plain(name, LONGEST_NAME))).collect();
            if shown.is_empty() { "there are none".to_owned() } else { format!("there are {}", shown.join(", ")) }
        }
    };
    format!("has no column `{}`; {advice}", plain(column, LONGEST_NAME))
}

/// The errors of rows, of which the first are shown.
fn refuse(path: &Path, mut bad: Vec<Error>) -> Result<()> {
    if bad.len() > SHOWN {
        let more = bad.split_off(SHOWN).len();
        bad.push(Error::input(path, None, format!("has {more} more rows that cannot be used")));
    }
    Error::collect(bad)
}

fn json_lines(path: &Path, text: &str) -> Result<Rows> {
    let (mut rows, mut bad) = (Vec::new(), Vec::new());
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match json_object(line.trim().as_bytes()) {
            Ok(object) => {
                let cells = object.into_iter().map(|(name, value)| (name, Cell::of(value))).collect();
                rows.push(Row { line: at + 1, cells });
            }
            Err(why) => bad.push(Error::input(path, at + 1, why)),
        }
    }
    refuse(path, bad)?;
    Ok(Rows { path: path.to_path_buf(), columns: None, rows })
}

impl Cell {
    fn of(value: Value) -> Self {
        match value {
            Value::String(text) => Self::Text(text),
            Value::Number(number) => Self::Number(number.to_string()),
            Value::Bool(flag) => Self::Flag(flag),
            Value::Null => Self::Null,
            other => Self::Json(other.to_string()),
        }
    }
}

fn csv(path: &Path, text: &str) -> Result<Rows> {
    let mut reader = ::csv::ReaderBuilder::new().delimiter(delimiter(text)).from_reader(text.as_bytes());
    let names = reader.headers().map_err(|error| Error::input(path, 1, error.to_string()))?;
    let columns: Vec<String> = names.iter().map(|name| name.trim().to_owned()).collect();
    if columns.is_empty() {
        return Ok(Rows { path: path.to_path_buf(), columns: None, rows: Vec::new() });
    }
    let mut place = Place { text, at: 0, line: 1 };
    place.check_quotes(path, reader.position().byte())?;
    check_columns(path, &columns)?;
    let (mut rows, mut bad) = (Vec::new(), Vec::new());
    let mut record = ::csv::StringRecord::new();
    loop {
        place.advance(reader.position().byte());
        let line = place.line;
        let read = reader.read_record(&mut record);
        if let Err(unclosed) = place.check_quotes(path, reader.position().byte()) {
            bad.push(unclosed);
            break;
        }
        match read.map_err(::csv::Error::into_kind) {
            Ok(false) => break,
            Ok(true) => {
                let cells = columns.iter().cloned().zip(record.iter().map(|cell| Cell::Text(cell.to_owned())));
                rows.push(Row { line, cells: cells.collect() });
            }
            Err(::csv::ErrorKind::UnequalLengths { len, expected_len, .. }) => {
                let message = format!(
                    "has {len} fields, and line 1 names {expected_len} columns; put a field with a separator in quotes"
                );
                bad.push(Error::input(path, line, message));
            }
            Err(other) => return Err(Error::input(path, line, format!("cannot be read as CSV: {other:?}"))),
        }
    }
    refuse(path, bad)?;
    Ok(Rows { path: path.to_path_buf(), columns: Some(columns), rows })
}

/// A place in a CSV file, and its line.
struct Place<'t> {
    text: &'t str,
    at: usize,
    line: usize,
}

impl Place<'_> {
    /// Goes on to the record from byte `start` on: blank lines before it are none of it.
    fn advance(&mut self, start: u64) {
        let bytes = self.text.as_bytes();
        let start = (start as usize).min(bytes.len());
        let blank = bytes[start..].iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
        self.line += bytes[self.at..start + blank].iter().filter(|byte| **byte == b'\n').count();
        self.at = start + blank;
    }

    /// Refuses a record, which ends at byte `end`, with a quote that is not closed: all that follows was read as part of it.
    fn check_quotes(&self, path: &Path, end: u64) -> Result<()> {
        let bytes = self.text.as_bytes();
        let end = (end as usize).clamp(self.at, bytes.len());
        if bytes[self.at..end].iter().filter(|byte| **byte == b'"').count().is_multiple_of(2) {
            return Ok(());
        }
        let message = "has a quote \" that is not closed; inside a field in quotes, write a quote twice: \"\"";
        Err(Error::input(path, self.line, message))
    }
}

fn check_columns(path: &Path, columns: &[String]) -> Result<()> {
    for (at, name) in columns.iter().enumerate() {
        let wrong = if name.is_empty() {
            format!("column {} has no name", at + 1)
        } else if columns[..at].contains(name) {
            format!("two columns are named `{}`", plain(name, LONGEST_NAME))
        } else {
            continue;
        };
        return Err(Error::input(path, 1, format!("{wrong}; line 1 names the columns, each once")));
    }
    Ok(())
}

/// What separates the fields: the most frequent of comma, semicolon and tab in the line of names. Spreadsheets write semicolons where
/// the comma is the decimal sign.
fn delimiter(text: &str) -> u8 {
    let mut in_quotes = false;
    let mut counts = [(b',', 0), (b';', 0), (b'\t', 0)];
    for byte in text.bytes() {
        match byte {
            b'"' => in_quotes = !in_quotes,
            b'\n' if !in_quotes => break,
            _ if in_quotes => {}
            _ => counts.iter_mut().filter(|(separator, _)| *separator == byte).for_each(|(_, count)| *count += 1),
        }
    }
    // The first of equals, which is the comma.
    counts.iter().rev().max_by_key(|(_, count)| *count).map_or(b',', |(separator, _)| *separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, content: &[u8]) -> Result<Vec<(usize, Vec<String>)>, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("a file");
        let rows = Rows::read(&path).map_err(|error| error.to_string().replace(&path.display().to_string(), ""))?;
        let texts = |row: &Row| row.columns().map(|column| row.text(column).unwrap_or("null").to_owned()).collect();
        Ok(rows.rows.iter().map(|row| (row.line, texts(row))).collect())
    }

    fn texts(row: (usize, &[&str])) -> (usize, Vec<String>) {
        (row.0, row.1.iter().map(|text| (*text).to_owned()).collect())
    }

    #[test]
    fn fields_in_quotes_marks_blank_lines_and_other_separators_are_read() {
        let csv = "\u{feff}a, b \r\n\"1, \"\"x\"\"\",\"two\r\nlines\"\r\n\r\n3,4\r\n";
        let expected = [(2, ["1, \"x\"", "two\r\nlines"]), (5, ["3", "4"])];
        assert_eq!(read("c.csv", csv.as_bytes()).expect("rows"), expected.map(|(line, row)| texts((line, &row))));
        for separator in [";", "\t"] {
            let csv = format!("name{separator}\"a, b, c\"\n1,5{separator}2\n");
            assert_eq!(read("c.CSV", csv.as_bytes()).expect("rows"), [texts((2, &["1,5", "2"]))]);
        }
        assert_eq!(read("c.csv", b"word\none\ntwo").expect("rows"), [texts((2, &["one"])), texts((3, &["two"]))]);
    }

    #[test]
    fn json_lines_give_every_value_as_text() {
        let lines = "\u{feff}{\"a\": \"x\", \"b\": 1.50, \"c\": [1, \"y\"], \"d\": null}\r\n \r\n{\"a\": false}\r\n";
        let expected = [texts((1, &["x", "1.5", "[1,\"y\"]", "null"])), texts((3, &["false"]))];
        assert_eq!(read("c.jsonl", lines.as_bytes()).expect("rows"), expected);
    }

    #[test]
    fn rows_that_cannot_be_used_are_told_with_their_line() {
        let cases: [(&str, &[u8], &str); 12] = [
            ("c.csv", b"", "has no rows"),
            ("c.jsonl", b"\n \n", "has no rows"),
            ("c.csv", b"a,b\n", "a line of column names and no rows"),
            ("c.csv", b"a,a\n1,2\n", ":1: two columns are named `a`"),
            ("c.csv", b"a,,c\n1,2,3\n", ":1: column 2 has no name"),
            ("c.csv", b"a,b\n1,2\n\n1,2,3\n", ":4: has 3 fields, and line 1 names 2 columns"),
            ("c.csv", b"a,b\n1,2\n\"3,4\n5,6\n", ":3: has a quote \" that is not closed"),
            ("c.csv", b"\"a,b\n1,2\n", ":1: has a quote"),
            ("c.csv", b"a,b\n1,\xff\n", ":2: is not UTF-8"),
            ("c.jsonl", b"{\"a\": 1}\n[1]\n", ":2: is a list, expected one JSON object a line"),
            ("c.jsonl", b"{\"a\": 1}\n{\"a\"\n", ":2: not JSON"),
            ("c.tsv", b"a\n1\n", "ends with .jsonl or .csv"),
        ];
        for (name, content, expected) in cases {
            let message = read(name, content).expect_err(expected);
            assert!(message.contains(expected), "{expected:?} is not in {message}");
        }
    }

    #[test]
    fn a_file_of_too_many_rows_or_bytes_is_refused_in_no_time() {
        let many = format!("a\n{}", "1\n".repeat(MOST_ROWS + 1));
        let message = read("c.csv", many.as_bytes()).expect_err("too many");
        assert!(message.contains(&format!(":{}: has {} rows", MOST_ROWS + 2, MOST_ROWS + 1)), "{message}");
        let bad = read("c.jsonl", "x\n".repeat(10_000).as_bytes()).expect_err("bad rows");
        assert!(bad.contains("has 9980 more rows that cannot be used") && bad.len() < 5000, "{}", bad.len());
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("c.csv");
        let file = std::fs::File::create(&path).expect("a file");
        file.set_len(MOST_FILE_BYTES + 1).expect("a sparse file");
        assert!(Rows::read(&path).expect_err("too large").to_string().contains("expected at most"));
    }
}
