//! The directory of scenarios: which of its entries are scenarios, which are refused, and which are passed over aloud.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Name of a folder of packs.
const PACKS: &str = "packs";
/// Entries that a note names; the others are counted.
const SHOWN: usize = 5;

/// The entries of a directory of scenarios.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Entries {
    /// The scenario files, by name.
    pub(super) files: Vec<PathBuf>,
    /// Names of files that are not read and do not say clearly that they are something else.
    pub(super) passed_over: Vec<String>,
}

impl Entries {
    /// What a person should know of them.
    pub(super) fn note(&self, directory: &Path) -> Option<String> {
        let shown: Vec<&str> = self.passed_over.iter().take(SHOWN).map(String::as_str).collect();
        let more = match self.passed_over.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let directory = directory.display();
        (!shown.is_empty()).then(|| {
            format!("{directory}: not read, since a scenario's name ends with .toml: {}{more}", shown.join(", "))
        })
    }
}

/// What an entry is.
enum Entry {
    Scenario,
    /// It is clearly something else: hidden, a text for people, a schema, a directory without scenarios.
    Other,
    PassedOver,
}

/// Reads a directory of scenarios.
///
/// # Errors
/// No directory; and every entry that looks like a scenario and cannot be one, all together.
pub(super) fn read(directory: &Path) -> Result<Entries> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let directory = directory.display();
            return Err(Error::NothingRan(format!(
                "{directory} does not exist; put a scenario in {directory}/NAME.toml, or say where they are: [run] scenarios"
            )));
        }
        Err(error) => return Err(Error::io(directory, "read")(error)),
    };
    let mut found = Entries::default();
    let mut errors = Vec::new();
    let paths = entries.map(|entry| entry.map(|entry| entry.path()).map_err(Error::io(directory, "read")));
    let mut paths = paths.collect::<Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        match kind(&path) {
            Ok(Entry::Scenario) => found.files.push(path),
            Ok(Entry::Other) => {}
            Ok(Entry::PassedOver) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                found.passed_over.push(name.into_owned());
            }
            Err(error) => errors.push(error),
        }
    }
    Error::collect(errors)?;
    Ok(found)
}

fn kind(path: &Path) -> Result<Entry> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    // Hidden files and copies are what editors leave.
    if name.starts_with('.') || name.starts_with('#') || name.ends_with('~') {
        return Ok(Entry::Other);
    }
    if extension == "toml" {
        // A link that leads nowhere, a directory or a pipe: the reader says which.
        return crate::files::open_regular(path).map(|_| Entry::Scenario).map_err(|error| not_a_scenario(path, error));
    }
    if extension.eq_ignore_ascii_case("toml") {
        let message = "is not read, since a scenario's name ends with .toml in small letters; rename it";
        return Err(Error::input(path, None, message));
    }
    if path.is_dir() {
        // Packs are copied out of, and not run where they lie.
        return if path.file_name().is_none_or(|name| name != PACKS) && holds_toml(path) {
            let message = "holds .toml files, and scenarios are not read from sub-directories; move them up";
            Err(Error::input(path, None, message))
        } else {
            Ok(Entry::Other)
        };
    }
    // A schema, or rows that a scenario makes cases from.
    let others = ["md", "json", "jsonl", "csv"].iter().any(|other| extension.eq_ignore_ascii_case(other));
    Ok(if others || ["README", "LICENSE"].contains(&name.as_ref()) { Entry::Other } else { Entry::PassedOver })
}

fn not_a_scenario(path: &Path, error: Error) -> Error {
    match error {
        Error::Input { message, .. } => {
            Error::input(path, None, format!("{message}: a scenario; remove it, or put the scenario there"))
        }
        other => other,
    }
}

fn holds_toml(directory: &Path) -> bool {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.path());
    names.into_iter().any(|path| {
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        !hidden && path.extension().is_some_and(|e| e.eq_ignore_ascii_case("toml"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for name in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            std::fs::write(path, "").expect("a file");
        }
        dir
    }

    fn refused(dir: &tempfile::TempDir) -> String {
        read(dir.path()).expect_err("an entry that cannot be a scenario").to_string()
    }

    #[test]
    fn what_is_clearly_no_scenario_is_passed_over_in_silence_and_the_rest_is_told() {
        let dir = directory(&[
            "b.toml",
            "a.toml",
            ".c.toml",
            "a.toml~",
            "#a.toml#",
            "README.md",
            "README",
            "s.json",
            "schemas/x.json",
            "notes.txt",
            "old.toml.bak",
            "c.yaml",
        ]);
        let found = read(dir.path()).expect("entries");
        assert_eq!(found.files, [dir.path().join("a.toml"), dir.path().join("b.toml")]);
        assert_eq!(found.passed_over, ["c.yaml", "notes.txt", "old.toml.bak"]);
        let note = found.note(Path::new("scenarios")).expect("a note");
        assert!(note.starts_with("scenarios: not read") && note.ends_with("c.yaml, notes.txt, old.toml.bak"), "{note}");
        assert_eq!(Entries::default().note(Path::new("s")), None);
    }

    #[test]
    fn a_scenario_that_would_not_run_is_an_error() {
        let dir = directory(&["a.toml", "x.TOML", "sub/y.toml"]);
        let message = refused(&dir);
        assert!(message.starts_with("2 problems"), "{message}");
        assert!(message.contains("x.TOML: is not read") && message.contains("sub: holds .toml files"), "{message}");
        let dir = directory(&["a.toml", "b.toml/c.txt"]);
        assert!(refused(&dir).contains("b.toml: is a directory"), "{}", refused(&dir));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_leads_nowhere_is_an_error() {
        for target in ["gone.toml", "x.toml"] {
            let dir = directory(&["a.toml"]);
            std::os::unix::fs::symlink(target, dir.path().join("x.toml")).expect("a link");
            assert!(refused(&dir).contains("x.toml: "), "{}", refused(&dir));
        }
        let dir = directory(&["a.toml"]);
        std::os::unix::fs::symlink("a.toml", dir.path().join("x.toml")).expect("a link");
        assert_eq!(read(dir.path()).expect("a good link").files.len(), 2);
    }
}
