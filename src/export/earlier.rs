//! What an earlier `finetest export` or `finetest logits` wrote. `--force` replaces that, and nothing else.
//!
//! A file says so under [`KEY`] in its header; a directory has [`MARK`] in it, which lists the files that came with it.

use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::Value;
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use super::{Exported, Format};
use crate::error::{Error, Result};
use crate::files::{read_regular_text, replace_directory, write_atomically};
use crate::model::formats::gguf::Header;
use crate::model::formats::mapped::map_file;

/// The key in a file's header; its value is the command that wrote the file.
pub(crate) const KEY: &str = "finetest.written_by";
/// The value of `finetest logits`.
pub(crate) const LOGITS: &str = "logits";
/// The value of `finetest export`.
const EXPORT: &str = "export";
/// The file that lists the others of an exported directory.
const MARK: &str = "finetest_export.json";
/// Bytes of such a list.
const MARK_BYTES: u64 = 1 << 20;

/// What [`MARK`] holds.
#[derive(Serialize, Deserialize)]
struct Listed {
    /// The version that wrote it.
    finetest: String,
    files: Vec<String>,
}

/// What an exported GGUF file has in its header besides what other programs read.
pub(crate) fn header() -> [(&'static str, Value); 1] {
    [(KEY, Value::String(EXPORT.to_owned()))]
}

/// Checks that an export may be written to `out`: nothing is there, or `force` is given and an earlier export is.
///
/// # Errors
/// Something else is there, or `force` is not given.
pub(crate) fn check(format: Format, out: &Path, force: bool) -> Result<()> {
    match format {
        Format::Peft | Format::PeftFused | Format::Merged => {
            if std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none()) {
                return Ok(());
            }
            check_written(out, force, |out| listed(out).is_some())
        }
        Format::GgufAdapter => check_file(out, EXPORT, force),
        Format::MergedGguf => {
            let modelfile = super::modelfile::place(out);
            check_file(out, EXPORT, force)?;
            // One that somebody changed is theirs.
            check_written(&modelfile, force, |path| {
                read_regular_text(path, MARK_BYTES).is_ok_and(|text| text == super::modelfile::text(out))
            })
        }
    }
}

/// Checks that `command` may write the file `out`.
///
/// # Errors
/// As [`check`].
pub(crate) fn check_file(out: &Path, command: &str, force: bool) -> Result<()> {
    // A device is written to, and nothing in it is replaced.
    if out.metadata().is_ok_and(|there| !there.is_file() && !there.is_dir()) {
        return Ok(());
    }
    check_written(out, force, |path| written_by(path).is_some_and(|by| by == command))
}

fn check_written(out: &Path, force: bool, is_ours: impl FnOnce(&Path) -> bool) -> Result<()> {
    let there = out.display();
    if !out.exists() {
        return Ok(());
    }
    if !force {
        return Err(Error::Usage(format!("{there} already exists; pass another --output, or --force to overwrite it")));
    }
    if is_ours(out) {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "{there} is there, and this command did not write it: --force replaces only what it wrote itself; give another --output, or remove \
         {there} first"
    )))
}

/// The command that wrote a file, as its header says.
fn written_by(path: &Path) -> Option<String> {
    let map = map_file(path).ok()?;
    if map.starts_with(b"GGUF") {
        let header = Header::read(path, &map).ok()?;
        return header.metadata.get(KEY)?.to_string().ok().cloned();
    }
    let (_, metadata) = SafeTensors::read_metadata(&map).ok()?;
    metadata.metadata().as_ref()?.get(KEY).cloned()
}

/// The files that an earlier export wrote into a directory.
fn listed(directory: &Path) -> Option<Vec<String>> {
    let text = read_regular_text(&directory.join(MARK), MARK_BYTES).ok()?;
    let Listed { files, .. } = serde_json::from_str(&text).ok()?;
    // Anybody can write such a list: it names files of this directory alone.
    let is_name = |name: &String| Path::new(name).file_name().is_some_and(|file| file == name.as_str());
    files.iter().all(is_name).then_some(files)
}

/// Has `write` fill a directory that becomes `out` when it is complete and compared. Of an earlier export its files are replaced, and
/// the files that somebody put beside them stay.
///
/// # Errors
/// Those of `write`; a file to be written is there and was not exported. `out` is then as it was.
pub(super) fn fill(out: &Path, write: impl FnOnce(&Path) -> Result<Exported>) -> Result<Exported> {
    let mut old = listed(out).unwrap_or_default();
    old.insert(0, MARK.to_owned());
    let own: Vec<&str> = old.iter().map(String::as_str).collect();
    let mut exported = None;
    replace_directory(out, &own, |aside| {
        let mut written = write(aside)?;
        let names: Vec<PathBuf> = written.files.iter().filter_map(|path| path.file_name()).map(PathBuf::from).collect();
        let theirs = |name: &&PathBuf| !own.iter().any(|own| Path::new(own) == *name) && out.join(name).exists();
        if let Some(name) = names.iter().find(theirs) {
            let there = out.join(name);
            return Err(Error::Usage(format!(
                "{} is there, and no export wrote it; give another --output, or move it away",
                there.display()
            )));
        }
        let files = names.iter().map(|name| name.display().to_string()).collect();
        let listed = Listed { finetest: env!("CARGO_PKG_VERSION").to_owned(), files };
        let text = serde_json::to_string_pretty(&listed).map_err(|e| Error::failed(e.to_string()))?;
        write_atomically(&aside.join(MARK), text.as_bytes())?;
        written.files = names.iter().map(|name| out.join(name)).collect();
        exported = Some(written);
        Ok(())
    })?;
    exported.ok_or_else(|| Error::failed("the export wrote nothing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_names_files_elsewhere_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        for (files, counts) in [("a.json", true), ("../a.json", false), ("/etc/passwd", false), ("b/a.json", false)] {
            let text = format!("{{\"finetest\": \"0.1.0\", \"files\": [\"{files}\"]}}");
            std::fs::write(folder.path().join(MARK), text).expect("a file");
            assert_eq!(listed(folder.path()).is_some(), counts, "{files}");
        }
    }

    #[test]
    fn files_beside_an_export_stay_and_none_of_them_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("out");
        let read = |name: &str| std::fs::read_to_string(out.join(name)).ok();
        let fill = |names: &[&str], text: &str| {
            fill(&out, |aside| {
                let files: Vec<_> = names.iter().map(|name| aside.join(name)).collect();
                files.iter().try_for_each(|file| write_atomically(file, text.as_bytes()))?;
                let difference = super::super::Difference { positions: 1, largest: 0.0, drift: 0.0, same_top1: 1.0 };
                Ok(Exported { files, difference })
            })
        };
        let exported = fill(&["one", "two"], "first").expect("an export");
        assert_eq!(exported.files, [out.join("one"), out.join("two")]);
        std::fs::write(out.join("README.md"), "mine").expect("a file");
        fill(&["one"], "second").expect("an export");
        assert_eq!(
            (read("one").as_deref(), read("two"), read("README.md").as_deref()),
            (Some("second"), None, Some("mine"))
        );
        let error = fill(&["one", "README.md"], "third").expect_err("it is theirs");
        assert!(error.to_string().contains("README.md is there, and no export wrote it"), "{error}");
        assert_eq!((read("one").as_deref(), read("README.md").as_deref()), (Some("second"), Some("mine")));
    }
}
