//! A training file with a share of other data in it, so that what base knows is asked for again while it learns something new.
//!
//! The base file is taken whole. Of each other file as many examples are drawn as make its share of the result, without one twice, by the
//! seed alone; the files are interleaved evenly, so that every stretch of the result has the same mix.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::format_of;
use super::source::{OnRead, Watched};
use crate::config::DataFormat;
use crate::error::{Error, Result};
use crate::files::write_atomically_with;
use crate::random::mix as hashed;

/// A file that is mixed in.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// What it is called in the ledger.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Its share of the result, above 0 and below 1.
    pub share: f64,
}

/// How much of a file is in the result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mixed {
    /// The part's name; `data` for the base file.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Examples in it.
    pub available: usize,
    /// Examples of it that were taken.
    pub taken: usize,
    /// Share of the result.
    pub share: f64,
}

/// What a result consists of, as its ledger says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mixture {
    /// What the draw depends on besides the files.
    pub seed: u64,
    /// The base file, and the others in their order.
    pub parts: Vec<Mixed>,
}

/// Writes the base file and its share of each other file into `output`, JSON Lines. Each file is read twice; `on_read` is called with the
/// bytes as they are read.
///
/// # Errors
/// A file that cannot be read or written, or of another format; shares that leave nothing to the base; a file with too few examples.
pub fn mix(
    base: &Path,
    parts: &[Part],
    (format, seed): (DataFormat, u64),
    output: &Path,
    on_read: OnRead<'_>,
) -> Result<Mixture> {
    let shares: f64 = parts.iter().map(|part| part.share).sum();
    if shares >= 1.0 {
        return Err(Error::Usage(format!("the shares add up to {shares}, which leaves nothing to {}", base.display())));
    }
    let expected = format_of(base, format)?;
    for part in parts {
        let found = format_of(&part.path, format)?;
        if found != expected {
            let message = format!(
                "is in the format {}, and {} in {}: one file has one format; convert one of them",
                found.name(),
                base.display(),
                expected.name()
            );
            return Err(Error::input(&part.path, None, message));
        }
    }
    let whole = count(base, on_read)?;
    let all = whole as f64 / (1.0 - shares);
    let mut mixed =
        vec![Mixed { name: "data".to_owned(), path: base.to_owned(), available: whole, taken: whole, share: 0.0 }];
    for part in parts {
        let (available, taken) = (count(&part.path, on_read)?, (all * part.share).round() as usize);
        if taken > available {
            let most = available as f64 / all;
            let message = format!(
                "has {available} examples, and a share of {} beside {whole} needs {taken}; give more data, or a share of at most {most:.2}",
                part.share
            );
            return Err(Error::input(&part.path, None, message));
        }
        let (name, path) = (part.name.clone(), part.path.clone());
        mixed.push(Mixed { name, path, available, taken, share: 0.0 });
    }
    let total = mixed.iter().map(|part| part.taken).sum::<usize>();
    mixed.iter_mut().for_each(|part| part.share = part.taken as f64 / total.max(1) as f64);
    write(&mixed, seed, output, on_read)?;
    Ok(Mixture { seed, parts: mixed })
}

fn count(path: &Path, on_read: OnRead<'_>) -> Result<usize> {
    let (mut source, mut n) = (Watched::open(path)?, 0);
    while let Some((line, item)) = source.next_line(on_read)? {
        item.map_err(|why| Error::input(path, line, why))?;
        n += 1;
    }
    if n == 0 { Err(Error::input(path, None, "has no example")) } else { Ok(n) }
}

/// The examples of a file that are drawn, one after another.
struct Drawn<'a> {
    path: &'a Path,
    source: Watched<'a>,
    /// Places in the file, in its order.
    places: std::iter::Peekable<std::vec::IntoIter<usize>>,
    at: usize,
}

impl<'a> Drawn<'a> {
    fn of(part: &'a Mixed, seed: u64) -> Result<Self> {
        let mut places: Vec<usize> = (0..part.available).collect();
        if part.taken < part.available {
            let key = |place: &usize| hashed(seed ^ hashed(*place as u64));
            places.sort_unstable_by_key(key);
            places.truncate(part.taken);
            places.sort_unstable();
        }
        let source = Watched::open(&part.path)?;
        Ok(Self { path: &part.path, source, places: places.into_iter().peekable(), at: 0 })
    }

    fn next(&mut self, on_read: OnRead<'_>) -> Result<Option<String>> {
        let Some(wanted) = self.places.next() else { return Ok(None) };
        while let Some((line, item)) = self.source.next_line(on_read)? {
            let place = self.at;
            self.at += 1;
            if place == wanted {
                return item.map(Some).map_err(|why| Error::input(self.path, line, why));
            }
        }
        Err(Error::input(self.path, None, "changed while it was read; run the command again"))
    }
}

fn write(mixed: &[Mixed], seed: u64, output: &Path, on_read: OnRead<'_>) -> Result<()> {
    let failed = |source| Error::Io { path: output.to_owned(), action: "write", source };
    write_atomically_with(output, |file| {
        let mut file = BufWriter::new(file);
        let mut drawn: Vec<Drawn<'_>> = mixed.iter().map(|part| Drawn::of(part, seed)).collect::<Result<_>>()?;
        let total: usize = mixed.iter().map(|part| part.taken).sum();
        let mut written = vec![0usize; mixed.len()];
        for done in 0..total {
            // The file that is farthest behind its share.
            let behind = |i: &usize| mixed[*i].share * (done + 1) as f64 - written[*i] as f64;
            let left = (0..mixed.len()).filter(|i| written[*i] < mixed[*i].taken);
            let Some(next) = left.max_by(|a, b| behind(a).total_cmp(&behind(b)).then(b.cmp(a))) else { break };
            written[next] += 1;
            if let Some(line) = drawn[next].next(on_read)? {
                writeln!(file, "{line}").map_err(failed)?;
            }
        }
        file.flush().map_err(failed)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &Path, name: &str, n: usize) -> PathBuf {
        let path = folder.join(name);
        let line = |i: usize| format!("{{\"prompt\": \"{name} {i}\", \"completion\": \"{i}\"}}\n");
        std::fs::write(&path, (0..n).map(line).collect::<String>()).expect("a file");
        path
    }

    fn part(name: &str, path: &Path, share: f64) -> Part {
        Part { name: name.into(), path: path.into(), share }
    }

    #[test]
    fn shares_are_of_the_result_evenly_and_by_the_seed_alone() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let folder = folder.path();
        let (base, general, code) = (file(folder, "base", 70), file(folder, "general", 500), file(folder, "code", 500));
        let parts = [part("general", &general, 0.2), part("code", &code, 0.1)];
        let mixed = |seed, name: &str| {
            let output = folder.join(name);
            let mixture = mix(&base, &parts, (DataFormat::Auto, seed), &output, &mut |_| {}).expect("mixed");
            (mixture, std::fs::read_to_string(output).expect("a file"))
        };
        let (mixture, text) = mixed(1, "one");
        assert_eq!(mixture.parts.iter().map(|part| part.taken).collect::<Vec<_>>(), [70, 20, 10]);
        let lines: Vec<&str> = text.lines().collect();
        let of = |lines: &[&str], name: &str| lines.iter().filter(|line| line.contains(&format!("\"{name} "))).count();
        assert_eq!((lines.len(), of(&lines, "base"), of(&lines, "general")), (100, 70, 20));
        for stretch in lines.chunks(20) {
            assert!(
                (13..=15).contains(&of(stretch, "base")) && (3..=5).contains(&of(stretch, "general")),
                "{stretch:?}"
            );
        }
        let mut once = lines.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), 100);
        assert_eq!(mixed(1, "again").1, text);
        let other = mixed(2, "other").1;
        assert!(other != text && other.lines().count() == 100);
    }

    #[test]
    fn what_cannot_be_mixed_says_why_and_writes_nothing() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let folder = folder.path();
        let (base, few) = (file(folder, "base", 90), file(folder, "few", 5));
        let output = folder.join("out");
        let refused = |parts: &[Part]| {
            mix(&base, parts, (DataFormat::Auto, 1), &output, &mut |_| {}).expect_err("refused").to_string()
        };
        let why = refused(&[part("few", &few, 0.1)]);
        assert!(
            why.contains("has 5 examples, and a share of 0.1 beside 90 needs 10") && why.contains("at most 0.05"),
            "{why}"
        );
        assert!(refused(&[part("few", &few, 0.6), part("b", &few, 0.4)]).contains("leaves nothing to"));
        let chat = folder.join("chat");
        std::fs::write(&chat, "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]}\n").expect("a file");
        let why = refused(&[part("chat", &chat, 0.1)]);
        assert!(why.contains("is in the format messages") && why.contains("in completion"), "{why}");
        assert!(!output.exists());
    }
}
