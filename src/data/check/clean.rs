//! A data file without what a check leaves out, and a ledger of that.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde::Serialize;

use super::run::Ledger;
use crate::data::source::{OnRead, Watched};
use crate::error::{Error, Result};
use crate::files::write_atomically_with;

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cleaned {
    /// Items in the new file.
    pub kept: usize,
    /// Items in the ledger.
    pub left_out: usize,
}

/// A line of the ledger.
#[derive(Serialize)]
struct LeftOut<'a> {
    line: usize,
    kind: &'a str,
    /// What that kind sees.
    why: &'a str,
    /// The item as it was.
    item: &'a str,
}

/// Writes the items that stay as JSON Lines, and the others with their line and kind into the ledger. Kinds in `keep` stay.
///
/// # Errors
/// A file that cannot be read or written, that changed since it was checked, or that has an item whose text is not at hand: one that is
/// too long or no UTF-8, and a list or table that breaks off.
pub fn clean(
    from: &Path,
    (ledger, keep): (&Ledger, &[String]),
    [to, left_out]: [&Path; 2],
    on_read: OnRead<'_>,
) -> Result<Cleaned> {
    let mut done = Cleaned { kept: 0, left_out: 0 };
    write_atomically_with(to, |file| {
        write_atomically_with(left_out, |ledger_file| {
            done = copy(from, (ledger, keep), [file, ledger_file], on_read).map_err(|failed| match failed {
                Failed::Read(error) => error,
                Failed::Write(source) => Error::Io { path: to.to_owned(), action: "write", source },
            })?;
            Ok(())
        })
    })?;
    Ok(done)
}

enum Failed {
    Read(Error),
    Write(std::io::Error),
}

fn copy(
    from: &Path,
    (ledger, keep): (&Ledger, &[String]),
    [to, left_out]: [&mut File; 2],
    on_read: OnRead<'_>,
) -> Result<Cleaned, Failed> {
    let mut source = Watched::open(from).map_err(Failed::Read)?;
    let (mut to, mut left_out) = (BufWriter::new(to), BufWriter::new(left_out));
    let mut done = Cleaned { kept: 0, left_out: 0 };
    while let Some((line, item)) = source.next_line(on_read).map_err(Failed::Read)? {
        let kind = ledger.reason(done.kept + done.left_out).filter(|kind| !keep.iter().any(|kept| kept == kind.name));
        match (kind, item) {
            (None, Ok(text)) => {
                writeln!(to, "{text}").map_err(Failed::Write)?;
                done.kept += 1;
            }
            // Its text is not at hand, so the ledger could not keep it, nor what comes after it.
            (_, Err(why)) => {
                let why = format!("{why}; `data clean` would lose it, so mend it or take it out first");
                return Err(Failed::Read(Error::input(from, line, why)));
            }
            (Some(kind), Ok(item)) => {
                let left_out_for = LeftOut { line, kind: kind.name, why: kind.sees, item: &item };
                let entry = serde_json::to_string(&left_out_for).map_err(|e| Failed::Write(e.into()))?;
                writeln!(left_out, "{entry}").map_err(Failed::Write)?;
                done.left_out += 1;
            }
        }
    }
    to.flush().and_then(|()| left_out.flush()).map_err(Failed::Write)?;
    if done.kept + done.left_out != ledger.len() || !ledger.is_of(from) {
        let (had, has) = (ledger.len(), done.kept + done.left_out);
        let why = format!("changed while it was read: it had {had} items, and has {has}; run the command again");
        return Err(Failed::Read(Error::input(from, None, why)));
    }
    if done.kept == 0 {
        let why =
            "nothing would be left of it; `finetest data check` says why, and --keep KIND keeps what you want to have";
        return Err(Failed::Read(Error::input(from, None, why)));
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::super::{CheckOptions, check};
    use super::*;

    #[test]
    fn what_stays_and_what_goes_is_the_whole_file() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| directory.path().join(name);
        let lines = [
            r#"{"prompt": "a?",  "completion": "b 1.00", "n": 1.00}"#,
            r#"{"prompt": "a?",  "completion": "b 1.00", "n": 1.00}"#,
            "not json",
            r#"{"prompt": "c?", "completion": "null"}"#,
        ];
        std::fs::write(path("t.jsonl"), lines.join("\n")).expect("a file");
        let (report, ledger) = check(&path("t.jsonl"), &CheckOptions::default(), &mut |_| {}).expect("a report");
        assert_eq!(report.left_out, 3);
        let keep = ["empty".to_owned()];
        let done = clean(&path("t.jsonl"), (&ledger, &keep), [&path("c.jsonl"), &path("l.jsonl")], &mut |_| {})
            .expect("cleaned");
        assert_eq!(done, Cleaned { kept: 2, left_out: 2 });
        let read = |name: &str| std::fs::read_to_string(path(name)).expect("a file");
        assert_eq!(read("c.jsonl"), format!("{}\n{}\n", lines[0], lines[3]), "byte by byte");
        let out = read("l.jsonl");
        let entries: Vec<serde_json::Value> =
            out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let expected = |line: usize, kind: crate::data::check::Kind, item: &str| serde_json::json!({"line": line, "kind": kind.name, "why": kind.sees, "item": item});
        assert_eq!(
            entries,
            [expected(2, super::super::DUPLICATE, lines[1]), expected(3, super::super::UNREADABLE, lines[2])]
        );
        std::fs::write(path("bad.jsonl"), b"{\"text\": \"a\"}\n\"caf\xe9\"\n").expect("a file");
        let (_, bad) = check(&path("bad.jsonl"), &CheckOptions::default(), &mut |_| {}).expect("a report");
        let refused = clean(&path("bad.jsonl"), (&bad, &[]), [&path("d.jsonl"), &path("m.jsonl")], &mut |_| {});
        let why = refused.expect_err("its bytes would be lost").to_string();
        assert!(why.contains("bad.jsonl:2: not UTF-8; `data clean` would lose it"), "{why}");
        // As many items, and other ones.
        std::fs::write(path("t.jsonl"), lines.join("\n").replace("a?", "another?")).expect("a file");
        let other = clean(&path("t.jsonl"), (&ledger, &[]), [&path("d.jsonl"), &path("m.jsonl")], &mut |_| {});
        assert!(other.expect_err("changed").to_string().contains("changed while it was read"));
        std::fs::write(path("t.jsonl"), lines[..2].join("\n")).expect("a file");
        let changed = clean(&path("t.jsonl"), (&ledger, &[]), [&path("d.jsonl"), &path("m.jsonl")], &mut |_| {});
        assert!(changed.expect_err("changed").to_string().contains("changed while it was read"));
        assert!(!path("d.jsonl").exists() && !path("m.jsonl").exists());
    }
}
