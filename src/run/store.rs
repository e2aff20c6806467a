//! Computed results by the hash of everything that decides them: `<directory>/<kind>/<2 digits>/<hash>`, which holds
//! `<checksum> <json>`.
//!
//! Answers are many and small, and making a file takes longer than reading one: those of an arm lie together, in
//! `<directory>/<kind>/<arm>/<2 digits>`, a line `<hash> <checksum> <json>` each, of which the last of a hash counts.
//!
//! A stale result cannot be read, because it has another name. A file or a line that is damaged or was edited does not fit its
//! checksum, and counts as absent.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::files::{read_own, step};

/// Raised when stored results of older versions must not be read.
const VERSION: u32 = 2;

/// A directory of results; it may be deleted at any time.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
}

/// A result's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    kind: &'static str,
    hash: String,
}

/// Digits of an arm's hash that its answers' directory is named by.
const GROUP_DIGITS: usize = 32;
/// Digits of a result's name.
const HASH_DIGITS: usize = 64;
/// Digits of a result's checksum: enough to find damage.
const CHECK_DIGITS: usize = 16;

/// The name of the result that `of` decides.
pub(crate) fn key(kind: &'static str, of: &impl Serialize) -> Result<Key> {
    let json = serde_json::to_vec(of).map_err(|e| Error::failed(e.to_string()))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&VERSION.to_le_bytes());
    hasher.update(kind.as_bytes());
    hasher.update(&json);
    Ok(Key { kind, hash: hasher.finalize().to_hex().to_string() })
}

/// `<checksum> <json>` of a result that `key` names, behind what is in `out`. The key is part of what is checked: a result under
/// another one's name is damaged too.
fn seal(out: &mut Vec<u8>, key: &Key, value: &impl Serialize) -> Result<()> {
    let json = serde_json::to_vec(value).map_err(|e| Error::failed(e.to_string()))?;
    out.extend_from_slice(checksum(key, &json).as_bytes());
    out.push(b' ');
    out.extend_from_slice(&json);
    Ok(())
}

/// The result of a sealed text, when it is whole.
fn unseal<T: DeserializeOwned>(key: &Key, sealed: &[u8]) -> Option<T> {
    let (check, json) = sealed.split_at_checked(CHECK_DIGITS)?;
    let json = json.strip_prefix(b" ")?;
    if checksum(key, json).as_bytes() != check {
        return None;
    }
    serde_json::from_slice(json).ok()
}

fn checksum(key: &Key, json: &[u8]) -> String {
    let hash = blake3::Hasher::new().update(key.hash.as_bytes()).update(json).finalize();
    hash.to_hex()[..CHECK_DIGITS].to_owned()
}

impl Store {
    /// A store in `directory`, which is made when the first result is written.
    #[must_use]
    pub fn new(directory: impl AsRef<Path>) -> Self {
        Self { directory: directory.as_ref().to_path_buf() }
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.directory.join(key.kind).join(&key.hash[..2]).join(&key.hash[2..])
    }

    /// A stored result, if there is one that can be read.
    pub(crate) fn read<T: DeserializeOwned>(&self, key: &Key) -> Option<T> {
        unseal(key, &read_own(&self.path(key)).ok()?)
    }

    /// Stores a result.
    ///
    /// It is written in place, and the disk is not waited for, which took milliseconds an answer: a file that a crash cut short
    /// is damaged, and so absent.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub(crate) fn write(&self, key: &Key, value: &impl Serialize) -> Result<()> {
        let mut sealed = Vec::new();
        seal(&mut sealed, key, value)?;
        let path = self.path(key);
        step().map_err(Error::io(&path, "write"))?;
        let write = || refuse_special(&path).and_then(|()| std::fs::write(&path, &sealed));
        let written = match write() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let directory = path.parent().unwrap_or(&self.directory);
                std::fs::create_dir_all(directory).map_err(Error::io(directory, "create"))?;
                std::fs::write(&path, &sealed)
            }
            written => written,
        };
        written.map_err(Error::io(&path, "write"))
    }

    /// The file of an arm's results whose hashes begin alike.
    fn shard(&self, key: &Key, arm: &str) -> PathBuf {
        let arm = &blake3::hash(arm.as_bytes()).to_hex()[..GROUP_DIGITS];
        self.directory.join(key.kind).join(arm).join(&key.hash[..2])
    }

    /// Places of the keys by the file that they are in; a key has the arm beside it.
    fn shards(&self, keys: &[(Key, &str)]) -> Vec<(PathBuf, Vec<usize>)> {
        let mut shards: BTreeMap<(&str, &str, &str), Vec<usize>> = BTreeMap::new();
        for (i, (key, arm)) in keys.iter().enumerate() {
            shards.entry((key.kind, arm, &key.hash[..2])).or_default().push(i);
        }
        shards.into_values().map(|of| (self.shard(&keys[of[0]].0, keys[of[0]].1), of)).collect()
    }

    /// Stored results of arms, where there are some that can be read.
    pub(crate) fn read_all<T: DeserializeOwned + Send>(&self, keys: &[(Key, &str)]) -> Vec<Option<T>> {
        let read = |(path, of): &(PathBuf, Vec<usize>)| {
            let bytes = read_own(path).unwrap_or_default();
            let lines = bytes.split(|byte| *byte == b'\n').filter_map(|line| line.split_at_checked(HASH_DIGITS));
            let found: HashMap<&[u8], &[u8]> = lines.collect();
            let value = |i: &usize| {
                let key = &keys[*i].0;
                unseal(key, found.get(key.hash.as_bytes())?.strip_prefix(b" ")?)
            };
            of.iter().map(|i| (*i, value(i))).collect::<Vec<(usize, Option<T>)>>()
        };
        let mut all: Vec<Option<T>> = (0..keys.len()).map(|_| None).collect();
        for (i, value) in self.shards(keys).par_iter().flat_map_iter(read).collect::<Vec<_>>() {
            all[i] = value;
        }
        all
    }

    /// Stores results of arms, as [`Self::write`] does: those that are there.
    ///
    /// # Errors
    /// A directory cannot be written.
    pub(crate) fn write_all<T: Serialize + Sync>(&self, keys: &[(Key, &str)], values: &[Option<&T>]) -> Result<()> {
        self.shards(keys).par_iter().try_for_each(|(path, of)| {
            let mut lines = Vec::new();
            for (i, value) in of.iter().filter_map(|i| Some((i, values.get(*i).copied().flatten()?))) {
                lines.extend_from_slice(keys[*i].0.hash.as_bytes());
                lines.push(b' ');
                seal(&mut lines, &keys[*i].0, value)?;
                lines.push(b'\n');
            }
            if lines.is_empty() { Ok(()) } else { append(path, lines).map_err(Error::io(path, "write")) }
        })
    }
}

/// A pipe that somebody put there would be waited for.
fn refuse_special(path: &Path) -> std::io::Result<()> {
    match path.metadata() {
        Ok(there) if !there.is_file() => Err(std::io::Error::other("it is not a regular file; remove it")),
        _ => Ok(()),
    }
}

/// Puts lines behind those of a file, also behind one that a crash cut short. One write, so that another process's lines are not
/// among them.
fn append(path: &Path, mut lines: Vec<u8>) -> std::io::Result<()> {
    refuse_special(path)?;
    let open = || File::options().create(true).read(true).append(true).open(path);
    let mut file = match open() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
            open()?
        }
        opened => opened?,
    };
    let mut last = [b'\n'];
    if file.metadata()?.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    if last != [b'\n'] {
        lines.insert(0, b'\n');
    }
    step()?;
    file.write_all(&lines)?;
    step()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_found_by_what_decides_it_and_by_nothing_else() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::new(directory.path());
        let (one, other) = (key("proof", &("a", 1)).expect("a key"), key("proof", &("a", 2)).expect("a key"));
        store.write(&one, &"yes").expect("written");
        assert_eq!(store.read::<String>(&one).as_deref(), Some("yes"));
        assert_eq!(store.read::<String>(&other), None);
        assert_ne!(one, key("drift", &("a", 1)).expect("a key"));
    }

    #[test]
    fn a_damaged_file_counts_as_absent() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::new(directory.path());
        let key = key("proof", &1).expect("a key");
        store.write(&key, &"yes").expect("written");
        std::fs::write(store.path(&key), "\"ye").expect("damaged");
        assert_eq!(store.read::<String>(&key), None);
        store.write(&key, &"yes").expect("written again");
        assert_eq!(store.read::<String>(&key).as_deref(), Some("yes"));
    }

    #[test]
    fn a_result_that_was_changed_in_any_bit_is_absent() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::new(directory.path());
        let (single, many) = (key("drift", &1).expect("a key"), &keys("base")[..1]);
        store.write(&single, &vec![1.5, 2.5]).expect("written");
        store.write_all(many, &[Some(&"an answer")]).expect("written");
        let (one, line) = (store.path(&single), store.shard(&many[0].0, "base"));
        for path in [&one, &line] {
            let whole = std::fs::read(path).expect("a file");
            for bit in 0..whole.len() * 8 {
                let mut damaged = whole.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                std::fs::write(path, &damaged).expect("damaged");
                // A line's end is the one byte that no checksum covers.
                let end = path == &line && bit / 8 == whole.len() - 1;
                assert!(store.read::<Vec<f64>>(&single).is_none() || path != &one, "bit {bit}");
                assert!(store.read_all::<String>(many) == [None] || path != &line || end, "bit {bit}");
            }
            std::fs::write(path, &whole).expect("whole");
        }
        assert_eq!(store.read_all::<String>(many), [Some("an answer".to_owned())]);
        // A result under another one's name is none.
        let other = key("drift", &2).expect("a key");
        let there = store.path(&other);
        std::fs::create_dir_all(there.parent().expect("a parent")).expect("a directory");
        std::fs::copy(&one, there).expect("a copy");
        assert_eq!(store.read::<Vec<f64>>(&other), None);
    }

    fn keys(arm: &str) -> Vec<(Key, &str)> {
        (0..1000).map(|i| (key("answer", &i).expect("a key"), arm)).collect()
    }

    #[test]
    fn answers_of_an_arm_are_found_where_they_were_written_and_by_no_other_arm() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::new(directory.path());
        let (base, tuned) = (keys("base"), keys("../tuned"));
        let texts: Vec<String> = (0..1000).map(|i| format!("line\n{i}")).collect();
        // Every third failed.
        let values: Vec<Option<&String>> = texts.iter().enumerate().map(|(i, t)| (i % 3 != 0).then_some(t)).collect();
        store.write_all(&base, &values).expect("written");
        let read = store.read_all::<String>(&base);
        assert!(read.iter().map(Option::as_ref).eq(values.iter().copied()));
        assert!(store.read_all::<String>(&tuned).iter().all(Option::is_none));
        // What failed is asked again, and what is written again counts.
        let again: Vec<Option<&String>> = texts.iter().rev().map(Some).collect();
        store.write_all(&base, &again).expect("written");
        assert!(store.read_all::<String>(&base).iter().map(Option::as_ref).eq(again));
        store.write_all(&tuned, &values).expect("written");
        let outside = std::fs::read_dir(directory.path()).expect("a directory").count();
        assert_eq!(outside, 1, "an arm's name is no path");
    }

    #[test]
    fn a_line_that_was_cut_short_is_absent_and_spoils_no_other() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::new(directory.path());
        let keys = &keys("base")[..1];
        let path = store.shard(&keys[0].0, "base");
        store.write_all(keys, &[Some(&"whole")]).expect("written");
        let whole = std::fs::read(&path).expect("a file");
        for cut in 0..whole.len() - 1 {
            std::fs::write(&path, &whole[..cut]).expect("cut");
            assert_eq!(store.read_all::<String>(keys), [None], "{cut} bytes");
            store.write_all(keys, &[Some(&"again")]).expect("written");
            assert_eq!(store.read_all::<String>(keys), [Some("again".to_owned())], "{cut} bytes");
        }
    }
}
