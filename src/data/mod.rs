//! Training data: JSON Lines in five formats, read into examples; held back, ordered and packed.

pub mod check;
pub mod divide;
mod format;
pub(crate) mod limits;
pub mod mix;
mod object;
mod pack;
mod source;
mod split;
pub mod stats;
mod tools;

use std::io::BufRead;
use std::path::{Path, PathBuf};

pub use pack::packs;
pub use split::{hold_back, order};

use crate::config::{DataFormat, OnError};
use crate::error::{Error, Result};
use crate::files::open_regular;
use crate::record::Message;
use format::Format;
pub(crate) use format::object as json_object;
use rayon::prelude::*;
pub(crate) use source::OnRead;
use source::{Batches, Source};

/// Bad lines shown when a file is refused; the rest is counted.
const SHOWN: usize = 20;

/// A file's examples.
#[derive(Debug)]
pub struct Dataset {
    /// The file.
    pub path: PathBuf,
    /// At least one, in the file's order.
    pub examples: Vec<Example>,
    /// The lines that could not be used, each with its reason; empty unless [`OnError::Skip`] allows them.
    pub skipped: Vec<Error>,
}

/// One example to learn from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Its line in the file, from 1.
    pub line: usize,
    /// What is said.
    pub turns: Turns,
}

/// An item of a file: its line, and what it says or why that cannot be told.
pub(crate) type Read = (usize, Result<Turns, String>);

/// Reads a file some thousand examples at a time: each with its line, or why it is none. Tells `on_read` the bytes of each batch.
///
/// # Errors
/// A file that cannot be read, or whose format cannot be told; what `f` returns.
pub(crate) fn each_batch(
    path: &Path,
    format: DataFormat,
    on_read: OnRead<'_>,
    f: &mut dyn FnMut(Vec<Read>) -> Result<()>,
) -> Result<()> {
    let format = format_of(path, format)?;
    let mut batches = Batches::open(path)?;
    loop {
        let (batch, bytes) = batches.next()?;
        if batch.is_empty() {
            return Ok(());
        }
        on_read(bytes);
        f(batch.into_par_iter().map(|(line, item)| (line, item.and_then(|object| format.turns(object)))).collect())?;
    }
}

/// What an example says, and so what of it is learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turns {
    /// A chat, to be rendered by the model's own template; what the assistant says is learnt. At least one turn is the
    /// assistant's, and each of those says something or calls a tool.
    Chat {
        /// In their order.
        messages: Vec<Message>,
        /// The tools that the assistant may call, as the template takes them.
        tools: Vec<serde_json::Value>,
    },
    /// Raw text and what follows it, without a template; what follows is learnt.
    Completion {
        /// May be empty.
        prompt: String,
        /// Never empty.
        completion: String,
    },
    /// Raw text, all of it learnt.
    Text(String),
}

impl Turns {
    /// Bytes of all that is said.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Chat { messages, tools } => {
                let of_tools =
                    if tools.is_empty() { 0 } else { serde_json::to_string(tools).map_or(0, |text| text.len()) };
                messages.iter().map(Message::bytes).sum::<usize>() + of_tools
            }
            Self::Completion { prompt, completion } => prompt.len() + completion.len(),
            Self::Text(text) => text.len(),
        }
    }

    /// Hash of what is said, and how: equal for equal turns, whatever their line.
    #[must_use]
    pub fn hash(&self) -> blake3::Hash {
        self.seeded_hash(&[])
    }

    fn seeded_hash(&self, seed: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(seed);
        // Lengths keep ("ab", "c") and ("a", "bc") apart.
        let mut add = |part: &str| {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        };
        match self {
            Self::Chat { messages, tools } => {
                add("chat");
                for message in messages {
                    add(&message.role);
                    add(&message.content);
                    if let Some(tools) = &message.tools {
                        add(&tools.json());
                    }
                }
                tools.iter().for_each(|tool| add(&tool.to_string()));
            }
            Self::Completion { prompt, completion } => ["completion", prompt, completion].into_iter().for_each(add),
            Self::Text(text) => ["text", text].into_iter().for_each(add),
        }
        hasher.finalize()
    }
}

/// Reads a file of JSON Lines, a JSON array, or a CSV or TSV table, also one that gzip or zstd compressed. Blank lines, a byte order mark and
/// Windows line ends are passed over.
///
/// With [`DataFormat::Auto`] the keys of the first line decide, and every line must be of that format. Keys of a line that
/// its format does not know are let be (they are often notes of where it comes from); unknown keys of a message are refused,
/// because they would change what is learnt.
///
/// # Errors
/// A file that cannot be read, or has no usable line. With [`OnError::Stop`], any line that cannot be used: the first 20
/// are reported and all are counted.
pub fn load(path: impl AsRef<Path>, format: DataFormat, on_error: OnError) -> Result<Dataset> {
    let path = path.as_ref();
    parse(path, || Source::open(path), format, on_error)
}

/// Whether the first line of a file is an example of a format that is known.
pub(crate) fn is_data(path: &Path) -> bool {
    let Ok(mut source) = Source::open(path) else { return false };
    source.next(path).is_ok_and(|first| first.is_some_and(|(_, first)| first.is_ok_and(|o| Format::of(&o).is_some())))
}

/// As [`load`], of text that is to become the file `path`.
///
/// # Errors
/// As there.
pub(crate) fn read_text(path: &Path, text: &str, on_error: OnError) -> Result<Dataset> {
    parse(path, || Source::of(path, text.as_bytes()), DataFormat::Auto, on_error)
}

/// Hash of a data file's bytes, which are read in pieces.
///
/// # Errors
/// A file that cannot be read.
pub(crate) fn file_hash(path: &Path) -> Result<blake3::Hash> {
    let (file, _) = open_regular(path)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file).map_err(Error::io(path, "read"))?;
    Ok(hasher.finalize())
}

/// Reads the lines that `open` gives, twice: once for the format, which the first line that has one decides, and once for what they
/// say. So no more than one line is held besides the examples.
fn parse<R: BufRead>(
    path: &Path,
    open: impl Fn() -> Result<Source<R>>,
    format: DataFormat,
    on_error: OnError,
) -> Result<Dataset> {
    let format = Format::named(format).map_or_else(|| format_of_first(path, &mut open()?), Ok)?;
    let mut source = open()?;
    let (mut examples, mut bad, mut total) = (Vec::new(), Vec::new(), 0);
    while let Some((line, object)) = source.next(path)? {
        total += 1;
        match object.and_then(|object| format.turns(object)) {
            Ok(turns) => examples.push(Example { line, turns }),
            Err(message) => bad.push((line, message)),
        }
    }
    if total == 0 {
        return Err(Error::input(path, None, "is empty; expected one JSON object a line"));
    }
    if !bad.is_empty() && (on_error == OnError::Stop || examples.is_empty()) {
        return Err(refusal(path, &bad, total));
    }
    let skipped = bad.into_iter().map(|(line, message)| Error::input(path, line, message)).collect();
    Ok(Dataset { path: path.to_path_buf(), examples, skipped })
}

/// The format that is named, or else that of the first example in the file.
fn format_of(path: &Path, format: DataFormat) -> Result<Format> {
    Format::named(format).map_or_else(|| format_of_first(path, &mut Source::open(path)?), Ok)
}

/// The format of the first item that has one.
fn format_of_first<R: BufRead>(path: &Path, source: &mut Source<R>) -> Result<Format> {
    // An object of no known format is the better hint than a line that is no object at all.
    let (mut unreadable, mut unknown) = (None, None);
    while let Some((line, object)) = source.next(path)? {
        match object {
            Ok(object) => match Format::of(&object) {
                Some(format) => return Ok(format),
                None => _ = unknown.get_or_insert_with(|| (line, format::unknown(&object))),
            },
            Err(why) => _ = unreadable.get_or_insert((line, format::no_object(&why))),
        }
    }
    let (line, why) = match (unknown, unreadable) {
        (Some((line, why)), Some((first, _))) => (line.min(first), why),
        (Some(found), None) | (None, Some(found)) => found,
        (None, None) => return Err(Error::input(path, None, "is empty; expected one JSON object a line")),
    };
    Err(Error::input(path, line, why))
}

/// One error for all bad lines.
fn refusal(path: &Path, bad: &[(usize, String)], total: usize) -> Error {
    let all = bad.len() == total;
    let advice = if all { "fix them" } else { "fix them, or set [data] on_error = \"skip\"" };
    let mut message = format!("{} of {total} lines cannot be used; {advice}", bad.len());
    for (line, why) in bad.iter().take(SHOWN) {
        message.push_str(&format!("\n- {}:{line}: {why}", path.display()));
    }
    if bad.len() > SHOWN {
        message.push_str(&format!("\n- and {} more", bad.len() - SHOWN));
    }
    Error::input(path, None, message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = r#"{"prompt": "a", "completion": "b"}"#;

    fn read(text: &str, on_error: OnError) -> Result<Dataset> {
        parse_bytes("data/t.jsonl", text.as_bytes(), DataFormat::Auto, on_error)
    }

    fn parse_bytes(path: &str, bytes: &[u8], format: DataFormat, on_error: OnError) -> Result<Dataset> {
        parse(Path::new(path), || Source::of(Path::new(path), bytes), format, on_error)
    }

    #[test]
    fn a_byte_order_mark_windows_line_ends_and_blank_lines_are_passed_over() {
        let data = read(&format!("\u{feff}{GOOD}\r\n\r\n{GOOD}\r\n"), OnError::Stop).expect("two examples");
        let lines: Vec<usize> = data.examples.iter().map(|e| e.line).collect();
        assert_eq!(lines, [1, 3]);
        assert_eq!(data.examples[1].turns, Turns::Completion { prompt: "a".into(), completion: "b".into() });
        assert!(data.skipped.is_empty());
    }

    #[test]
    fn an_empty_file_is_an_error() {
        for text in ["", "\n \r\n", "\u{feff}"] {
            let message = read(text, OnError::Skip).expect_err("nothing there").to_string();
            assert_eq!(message, "data/t.jsonl: is empty; expected one JSON object a line");
        }
    }

    #[test]
    fn bad_lines_are_all_reported_and_counted() {
        let text = format!("{GOOD}\nnot json\n{GOOD}\n{{\"prompt\": \"a\"}}\n");
        let message = read(&text, OnError::Stop).expect_err("two bad lines").to_string();
        let lines: Vec<&str> = message.lines().collect();
        assert_eq!(lines[0], "data/t.jsonl: 2 of 4 lines cannot be used; fix them, or set [data] on_error = \"skip\"");
        assert!(lines[1].starts_with("- data/t.jsonl:2: not JSON: "), "{message}");
        assert!(lines[2].starts_with("- data/t.jsonl:4: "), "{message}");
        let many = format!("{GOOD}\n{}", "x\n".repeat(30));
        let message = read(&many, OnError::Stop).expect_err("30 bad lines").to_string();
        assert_eq!(message.lines().count(), 22);
        assert!(message.starts_with("data/t.jsonl: 30 of 31 lines") && message.ends_with("- and 10 more"), "{message}");
    }

    #[test]
    fn bad_lines_are_kept_aside_when_they_may_be_skipped() {
        let data = read(&format!("x\n{GOOD}\n[]\n"), OnError::Skip).expect("one example");
        assert_eq!(data.examples.len(), 1);
        let skipped: Vec<String> = data.skipped.iter().map(ToString::to_string).collect();
        assert!(
            skipped[0].starts_with("data/t.jsonl:1: ") && skipped[1].starts_with("data/t.jsonl:3: "),
            "{skipped:?}"
        );
        let message = read("{\"text\": \"\"}\n", OnError::Skip).expect_err("no usable line").to_string();
        assert!(message.starts_with("data/t.jsonl: 1 of 1 lines cannot be used; fix them\n"), "{message}");
    }

    #[test]
    fn text_that_is_not_utf8_is_a_bad_line() {
        let bytes = [GOOD.as_bytes(), b"\n{\"prompt\": \"\xff\", \"completion\": \"b\"}"].concat();
        let data = parse_bytes("t", &bytes, DataFormat::Auto, OnError::Skip).expect("one example");
        assert!(data.skipped[0].to_string().starts_with("t:2: not UTF-8"), "{:?}", data.skipped);
    }

    #[test]
    fn a_line_that_is_too_long_is_a_bad_line_like_any_other() {
        let text = format!("{GOOD}\n{{\"text\": \"{}\"}}\n{GOOD}\n", "x".repeat(source::MOST_ITEM_BYTES));
        let message = read(&text, OnError::Stop).expect_err("a long line").to_string();
        let bytes = source::MOST_ITEM_BYTES + 12;
        let most = source::MOST_ITEM_BYTES;
        assert!(
            message.contains(&format!("- data/t.jsonl:2: has {bytes} bytes, and an example may have at most {most}")),
            "{message}"
        );
        assert!(message.len() < 400, "{}", message.len());
        let data = read(&text, OnError::Skip).expect("two examples");
        assert_eq!(data.examples.iter().map(|e| e.line).collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn turns_are_told_apart_by_their_hash() {
        let completion = |a: &str, b: &str| Turns::Completion { prompt: a.into(), completion: b.into() };
        assert_ne!(completion("ab", "c").hash(), completion("a", "bc").hash());
        assert_ne!(Turns::Text("a".into()).hash(), Turns::Text("b".into()).hash());
        assert_eq!(completion("a", "b").hash(), completion("a", "b").hash());
    }

    fn format_of(n: u8) -> DataFormat {
        use DataFormat::{Alpaca, Auto, Completion, Messages, Sharegpt, Text};
        [Auto, Messages, Sharegpt, Alpaca, Completion, Text][usize::from(n % 6)]
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), format in 0..6_u8) {
            let _ = parse_bytes("t", &bytes, format_of(format), OnError::Skip);
        }

        #[test]
        fn no_json_makes_it_panic_and_every_line_is_used_or_accounted_for(
            lines in proptest::collection::vec(
                r#"\{"(messages|conversations|instruction|output|prompt|completion|text)": ("[a ]?"|1|null|\[\]|\[\{"(role|from)": "(user|gpt|assistant)", "(content|value)": "[a ]?"\}\])(, "(completion|output|text)": "a?")?\}"#,
                1..8,
            ),
            format in 0..6_u8,
        ) {
            if let Ok(data) = parse_bytes("t", lines.join("\n").as_bytes(), format_of(format), OnError::Skip) {
                prop_assert_eq!(data.examples.len() + data.skipped.len(), lines.len());
                prop_assert!(!data.examples.is_empty());
            }
        }
    }
}
