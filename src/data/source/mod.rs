//! A data file as the objects in it, one at a time: lines, a JSON array, or a table; compressed or not.

mod array;
mod batches;
mod lines;
mod packed;
mod table;
mod watched;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::format;
use super::limits::MOST_TEXT_BYTES;
use super::object::Object;
use crate::error::{Error, Result};
use crate::files::open_regular;
use array::Elements;
pub(crate) use batches::Batches;
use lines::Lines;
use packed::unpacked;
use table::Rows;
pub(crate) use watched::{OnRead, Watched};

/// Bytes of one line, element or row. JSON may write a byte of text in six.
pub(super) const MOST_ITEM_BYTES: usize = 2 * MOST_TEXT_BYTES;
/// Bytes of a data file.
const MOST_FILE_BYTES: u64 = 64 << 30;
/// Bytes of a reader's buffer.
const BUFFER: usize = 1 << 16;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Where in a file an item begins, as a line from 1, and its bytes, or why they cannot be an example.
pub(super) type Item<'b> = (usize, Result<&'b [u8], String>);

/// Reads the objects of a file, in its order.
pub(crate) enum Source<R> {
    /// A JSON object a line.
    Lines(Lines<R>),
    /// One JSON array of objects.
    Array(Elements<R>),
    /// A row of texts after a row of names.
    Table(Rows<R>),
}

/// A file that counts what is read of it.
struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read(into)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// How files begin that hold data in forms that are not read, and what to do with them.
const OTHER_FORMS: [(&[u8], &str); 5] = [
    (
        b"PAR1",
        "is a Parquet file; write it as JSON Lines first: pandas.read_parquet(FILE).to_json(OUT, orient=\"records\", lines=True)",
    ),
    (b"ARROW1", "is an Arrow file; write it as JSON Lines first: datasets.Dataset.from_file(FILE).to_json(OUT)"),
    (b"PK\x03\x04", "is a zip or an Excel file; unpack it, or save it as CSV or JSON Lines"),
    (b"\xff\xfe", "is UTF-16; save it as UTF-8: iconv -f UTF-16 -t UTF-8 FILE > OUT"),
    (b"\xfe\xff", "is UTF-16; save it as UTF-8: iconv -f UTF-16 -t UTF-8 FILE > OUT"),
];

/// A reader of a file's bytes as they were before they were compressed.
pub(super) type Unpacked = Box<dyn BufRead>;

impl Source<Unpacked> {
    /// Opens a file. Its first bytes say whether it is compressed, its first bracket whether it is an array, and its name whether it is a table.
    ///
    /// # Errors
    /// A file that cannot be read, is no regular file, or is larger than 64 GiB.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Ok(Self::open_counted(path)?.0)
    }

    /// As [`Self::open`], with the bytes of the file that were read so far.
    fn open_counted(path: &Path) -> Result<(Self, Arc<AtomicU64>)> {
        let (file, metadata) = open_regular(path)?;
        let bytes = metadata.len();
        if bytes > MOST_FILE_BYTES {
            return Err(Error::input(path, None, format!("has {bytes} bytes, expected at most {MOST_FILE_BYTES}")));
        }
        let read = Arc::new(AtomicU64::new(0));
        let reader = BufReader::with_capacity(BUFFER, Counted { file, read: read.clone() });
        Ok((Self::of(path, unpacked(path, reader, bytes)?)?, read))
    }
}

impl<R: BufRead> Source<R> {
    /// The objects of what a reader gives; `path` says what it is called.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn of(path: &Path, mut reader: R) -> Result<Self> {
        let start = reader.fill_buf().map_err(Error::io(path, "read"))?;
        if let Some((_, hint)) = OTHER_FORMS.iter().find(|(magic, _)| start.starts_with(magic)) {
            return Err(Error::input(path, None, (*hint).to_owned()));
        }
        if start.starts_with(BYTE_ORDER_MARK) {
            reader.consume(BYTE_ORDER_MARK.len());
        }
        let start = reader.fill_buf().map_err(Error::io(path, "read"))?;
        let first = start.iter().find(|byte| !byte.is_ascii_whitespace());
        Ok(match (delimiter(path), first) {
            (_, Some(b'{')) => Self::Lines(Lines::new(reader)),
            (Some(delimiter), _) => Self::Table(Rows::new(reader, delimiter)),
            (None, Some(b'[')) => Self::Array(Elements::new(reader)),
            (None, _) => Self::Lines(Lines::new(reader)),
        })
    }

    /// The next object and the line that it begins in, or why there is none in that place; `None` at the end.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn next(&mut self, path: &Path) -> Result<Option<(usize, Result<Object, String>)>> {
        let object = |(line, bytes): Item<'_>| (line, bytes.and_then(format::object));
        match self {
            Self::Lines(lines) => Ok(lines.next(path)?.map(object)),
            Self::Array(elements) => Ok(elements.next(path)?.map(object)),
            Self::Table(rows) => rows.next(path),
        }
    }

    /// The next item as a line of JSON, as it stands in the file where it is one there; or why it is none. Items are the same as
    /// [`Self::next`]'s.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn next_line(&mut self, path: &Path) -> Result<Option<(usize, Result<String, String>)>> {
        let utf8 = |bytes: &[u8]| std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| "not UTF-8".to_owned());
        let text = |(line, bytes): Item<'_>| (line, bytes.and_then(utf8));
        let on_one_line = |text: String| match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(value) if text.contains('\n') => value.to_string(),
            _ => text,
        };
        Ok(match self {
            Self::Lines(lines) => lines.next(path)?.map(text),
            Self::Array(elements) => elements.next(path)?.map(text).map(|(line, text)| (line, text.map(on_one_line))),
            Self::Table(rows) => {
                let row = rows.next(path)?;
                row.map(|(line, row)| (line, row.map(|row| serde_json::Value::Object(row).to_string())))
            }
        })
    }
}

/// What separates the texts of a table's row, by the file's name without the ending of a compressed file.
fn delimiter(path: &Path) -> Option<u8> {
    let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
    let name = [".gz", ".zst", ".zstd"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    if name.ends_with(".csv") {
        Some(b',')
    } else if name.ends_with(".tsv") {
        Some(b'\t')
    } else {
        None
    }
}

fn too_long(bytes: u64) -> String {
    format!("has {bytes} bytes, and an example may have at most {MOST_ITEM_BYTES}; shorten it or leave it out")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn all(name: &str, bytes: &[u8]) -> Vec<(usize, String)> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).expect("a file");
        let mut source = Source::open(&path).expect("a source");
        let mut found = Vec::new();
        while let Some((line, object)) = source.next(&path).expect("readable") {
            found.push((line, object.map_or_else(|why| why, |object| serde_json::Value::Object(object).to_string())));
        }
        found
    }

    fn one(line: usize, text: &str) -> Vec<(usize, String)> {
        vec![(line, text.to_owned())]
    }

    #[test]
    fn lines_arrays_and_tables_give_the_same_objects() {
        let object = r#"{"text":"a"}"#;
        assert_eq!(all("d.jsonl", b"{\"text\": \"a\"}\n"), one(1, object));
        assert_eq!(all("d.json", b"\xef\xbb\xbf\n[\n  {\"text\": \"a\"}\n]\n"), one(3, object));
        assert_eq!(all("d.csv", b"text\r\na\r\n"), one(2, object));
        assert_eq!(all("d.tsv", b"text\na\n"), one(2, object));
        assert_eq!(all("d.csv", b"{\"text\": \"a\"}\n"), one(1, object));
    }

    #[test]
    fn compressed_files_are_recognised_by_their_bytes() {
        let plain = b"{\"text\": \"a\"}\n".repeat(3);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).expect("bytes");
        let gzip = gzip.finish().expect("bytes");
        assert_eq!(all("d.jsonl", &gzip).len(), 3);
        // Two files one after the other are one.
        assert_eq!(all("d.jsonl.gz", &[gzip.clone(), gzip].concat()).len(), 6);
        let zstd = ruzstd::encoding::compress_to_vec(plain.as_slice(), ruzstd::encoding::CompressionLevel::Fastest);
        assert_eq!(all("d.jsonl.zst", &zstd).len(), 3);
        assert_eq!(all("d.csv.gz", &plain).len(), 3);
    }
}
