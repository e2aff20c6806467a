//! The bytes of a snapshot, which are insta's whoever approves it.

use std::path::Path;

use serde::Serialize;

use super::{Identity, body_of};
use crate::error::{Error, Result};
use crate::record::ScenarioRecord;

/// Keys of a header that an approved snapshot keeps.
const KEPT: [&str; 5] = ["source", "description", "expression", "info", "input_file"];
/// The key that only a pending snapshot has.
const PENDING_KEY: &str = "assertion_line";

/// A snapshot's header, in insta's order.
#[derive(Serialize)]
pub(super) struct Header<'a> {
    pub(super) source: &'a str,
    pub(super) info: Identity<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) input_file: Option<&'a str>,
}

impl Header<'_> {
    /// The approved snapshot with this header: insta itself reads the header as JSON, which is YAML too, and writes it in its own form.
    ///
    /// # Errors
    /// There is no room for a temporary file.
    pub(super) fn over(&self, body: &str) -> Result<String> {
        let header = serde_json::to_string_pretty(self).map_err(|e| Error::failed(e.to_string()))?;
        let directory = tempfile::tempdir().map_err(Error::io(&std::env::temp_dir(), "write"))?;
        let path = directory.path().join("answers.snap");
        std::fs::write(&path, format!("---\n{header}\n---\n{body}")).map_err(Error::io(&path, "write"))?;
        let written = insta::Snapshot::from_file(&path).and_then(|snapshot| snapshot.save(&path));
        written.map_err(|e| Error::failed(format!("insta cannot write the snapshot: {e}")))?;
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
        // What is approved is what was shown.
        match body_of(&text) {
            Some(written) if written.trim_end() == body.trim_end() => Ok(text),
            _ => Err(Error::failed("insta wrote other answers than it was given; please report this")),
        }
    }
}

/// A pending snapshot that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    /// The answers.
    pub(super) body: String,
    /// The bytes of the approved snapshot that it becomes.
    pub(super) approved: String,
}

/// Reads a pending snapshot of a scenario. What it becomes is what `cargo insta accept` makes of it: the same without the line of the
/// assertion.
///
/// # Errors
/// It is no snapshot as this version of insta writes it, or one of another scenario.
pub(super) fn pending(path: &Path, text: &str, scenario: &ScenarioRecord) -> Result<Pending> {
    let all = body_of(text).ok_or_else(|| {
        Error::input(
            path,
            1,
            "no snapshot: expected a header between two lines of `---`; reject it, and run the tests again",
        )
    })?;
    let (header, body) = (&text[..text.len() - all.len()], all.trim_end());
    let header = header.strip_prefix("---\n").unwrap_or(header);
    let mut kept = String::from("---\n");
    for (i, line) in header.lines().enumerate() {
        let key = line.split(':').next().unwrap_or_default();
        match key {
            PENDING_KEY => {}
            // A line of the value above it.
            _ if KEPT.contains(&key) || line == "---" || (i > 0 && line.starts_with(' ')) => {
                kept.push_str(line);
                kept.push('\n');
            }
            "snapshot_kind" | "extension" => return Err(foreign(path, i, "is the header of a binary snapshot")),
            _ => return Err(foreign(path, i, "is not a header line of a text snapshot")),
        }
    }
    let heading = format!("# {}::{}\n", scenario.role, super::render::line(&scenario.name));
    if !format!("{body}\n").starts_with(&heading) {
        let got = crate::shown::quote(body.lines().next().unwrap_or_default());
        let message =
            format!("begins with {got}, expected {:?}: it is of another scenario; reject it", heading.trim_end());
        return Err(Error::input(path, None, message));
    }
    Ok(Pending { body: body.to_owned(), approved: format!("{kept}{body}\n") })
}

fn foreign(path: &Path, line: usize, what: &str) -> Error {
    let message = format!("{what}, so the file has another format; reject it, or accept it with `cargo insta accept`");
    // The header begins on the second line.
    Error::input(path, line + 2, message)
}

/// Where a snapshot's test is, as its header says it.
pub(super) fn source_of(text: &str) -> Option<String> {
    let body = body_of(text)?;
    let header = &text[..text.len() - body.len()];
    let said = header.lines().find_map(|line| line.strip_prefix("source: "))?;
    if said.starts_with('"') { serde_json::from_str(said).ok() } else { Some(said.to_owned()) }
}
