//! Where a command may write: never over a base model, an adapter, data, scenarios or a manifest, whatever a path to them looks like.

use std::path::{Path, PathBuf};

use super::Format;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::files::read_regular_text;
use crate::model::{ModelFiles, ModelKind};

/// Entries of one directory that are compared.
const MOST_ENTRIES: usize = 10_000;

/// Manifests that extend one another.
const MOST_MANIFESTS: usize = 16;
/// Bytes of a manifest.
const MANIFEST_BYTES: u64 = 16 << 20;

/// Files and directories that stay as they are. In a directory that is one of them, no file that exists is replaced.
#[derive(Default)]
pub(crate) struct Protected {
    items: Vec<Item>,
}

struct Item {
    what: &'static str,
    path: PathBuf,
}

impl Protected {
    /// What a project reads and what finetest keeps for it.
    pub(crate) fn project(config: &Config) -> Self {
        let mut all = Self::default();
        manifests(&config.manifest).iter().for_each(|path| all.add("the manifest", path));
        all.add("the base", Path::new(&config.model.source));
        for (what, path) in
            [("the chat template", &config.model.chat_template), ("the drift text", &config.run.drift_text)]
        {
            path.iter().for_each(|path| all.add(what, path));
        }
        if let Some(adapter) = &config.adapter {
            all.add("the adapter", &adapter.path);
        }
        if let Some(data) = &config.data {
            std::iter::once(&data.train).chain(&data.validation).for_each(|path| all.add("the data", path));
        }
        all.add("the scenarios' directory", &config.run.scenarios);
        all.add("the snapshots' directory", &config.run.snapshots);
        for kept in ["lock", "runs", "store", "checkpoints", "replaced", "llama-cpp"] {
            all.add("finetest's own store", &config.store().join(kept));
        }
        all
    }

    /// One more file or directory.
    pub(crate) fn add(&mut self, what: &'static str, path: &Path) {
        self.items.push(Item { what, path: path.to_path_buf() });
    }

    /// The files of a base model, wherever its source put them.
    pub(crate) fn add_base(&mut self, files: &ModelFiles) {
        let what = "the base";
        self.add(what, &files.root);
        if let ModelKind::HuggingFace(found) = &files.kind {
            self.add(what, &found.dir);
            self.add(what, &found.config);
            let optional = [&found.tokenizer, &found.tokenizer_config, &found.generation_config, &found.chat_template];
            optional.into_iter().flatten().for_each(|path| self.add(what, path));
        }
        files.weights().into_iter().for_each(|path| self.add(what, path));
    }

    /// Checks every place that an export in `format` to `out` writes to.
    ///
    /// # Errors
    /// One of them is protected, or cannot be written as a file.
    pub(crate) fn check_export(&self, format: Format, out: &Path) -> Result<()> {
        match format {
            Format::Peft | Format::PeftFused | Format::Merged => self.check_directory(out),
            Format::GgufAdapter => self.check_file(out),
            Format::MergedGguf => {
                [out.to_path_buf(), super::modelfile::place(out)].iter().try_for_each(|out| self.check_file(out))
            }
        }
    }

    /// Checks a file that is to be written.
    ///
    /// # Errors
    /// It is protected, or a directory, a pipe or a disk.
    pub(crate) fn check_file(&self, out: &Path) -> Result<()> {
        if let Some(kind) = unwritable(out) {
            return Err(Error::Usage(format!("{} is {kind}, expected a file; give another --output", out.display())));
        }
        self.conflict(out).map_or(Ok(()), |why| Err(refusal(out, &why)))
    }

    /// Why a file must not be written; `None` when it may be.
    pub(crate) fn conflict(&self, out: &Path) -> Option<String> {
        // What is not there is written over by nobody.
        out.symlink_metadata().ok()?;
        let own_place = out.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
        let places = [own_place.and_then(|place| place.canonicalize().ok()), out.canonicalize().ok()];
        for Item { what, path } in &self.items {
            if same(out, path) {
                return Some(format!("is {what} itself"));
            }
            if !path.is_dir() {
                continue;
            }
            let inside = places.iter().flatten().any(|place| place.ancestors().any(|above| same(above, path)));
            if inside || entries(path).any(|entry| same(out, &entry)) {
                return Some(format!("is a file of {what} ({})", path.display()));
            }
        }
        None
    }

    /// Checks a directory that files are to be written into.
    fn check_directory(&self, out: &Path) -> Result<()> {
        if out.exists() && !out.is_dir() {
            let other =
                || format!("{} is a file, and this format writes a directory; give another --output", out.display());
            return Err(self.conflict(out).map_or_else(|| Error::Usage(other()), |why| refusal(out, &why)));
        }
        for Item { what, path } in &self.items {
            if same(out, path) {
                return Err(refusal(out, &format!("is {what} itself")));
            }
            let place = path.canonicalize().unwrap_or_default();
            if place.ancestors().any(|above| same(out, above)) {
                return Err(refusal(out, &format!("holds {what} ({})", path.display())));
            }
            if let Some(entry) = entries(out).find(|entry| same(entry, path)) {
                return Err(refusal(&entry, &format!("is {what} itself, by a link")));
            }
        }
        Ok(())
    }
}

/// A manifest and those that it extends.
fn manifests(first: &Path) -> Vec<PathBuf> {
    let mut all = vec![first.to_path_buf()];
    while let Some(last) = all.last().filter(|_| all.len() < MOST_MANIFESTS) {
        let text = read_regular_text(last, MANIFEST_BYTES).unwrap_or_default();
        let table: toml::Table = text.parse().unwrap_or_default();
        let Some(next) = table.get("extends").and_then(toml::Value::as_str) else { break };
        all.push(last.parent().unwrap_or(Path::new("")).join(next));
    }
    all
}

fn refusal(out: &Path, why: &str) -> Error {
    Error::Usage(format!("{} {why}, and finetest never writes over that; give another --output", out.display()))
}

/// Are these one file or directory, by whatever path? On Unix a hard link is the same file too.
fn same(one: &Path, other: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let id = |path: &Path| path.metadata().ok().map(|found| (found.dev(), found.ino()));
        id(one).is_some_and(|found| id(other) == Some(found))
    }
    #[cfg(not(unix))]
    {
        one.canonicalize().is_ok_and(|found| other.canonicalize().is_ok_and(|other| other == found))
    }
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).take(MOST_ENTRIES)
}

/// What a path is when no result can be written to it: writing to a pipe waits until somebody reads. A device such as `/dev/null`
/// can be written to.
pub(crate) fn unwritable(path: &Path) -> Option<&'static str> {
    let kind = path.metadata().ok()?.file_type();
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return Some("a named pipe");
        }
        if kind.is_socket() {
            return Some("a socket");
        }
        if kind.is_block_device() {
            return Some("a disk");
        }
    }
    kind.is_dir().then_some("a directory")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with a base's directory, a GGUF base, an adapter and data, and all of them protected.
    fn folder() -> (tempfile::TempDir, Protected) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut protected = Protected::default();
        for (what, directory, file) in [("the base", "model", "model.safetensors"), ("the adapter", "a/b", "x.json")] {
            let directory = folder.path().join(directory);
            std::fs::create_dir_all(&directory).expect("a directory");
            std::fs::write(directory.join(file), "weights").expect("a file");
            protected.add(what, &directory);
        }
        for (what, file) in [("the base", "model.gguf"), ("the data", "data.jsonl")] {
            std::fs::write(folder.path().join(file), "bytes").expect("a file");
            protected.add(what, &folder.path().join(file));
        }
        (folder, protected)
    }

    const FORMATS: [Format; 5] =
        [Format::Peft, Format::PeftFused, Format::GgufAdapter, Format::Merged, Format::MergedGguf];

    #[track_caller]
    fn refused(protected: &Protected, format: Format, out: &Path) {
        let error = protected.check_export(format, out).expect_err("must be refused");
        assert_eq!(error.exit_code(), 2, "{error}");
        assert!(error.to_string().contains("give another --output"), "{error}");
    }

    #[test]
    fn no_format_is_written_over_what_is_protected() {
        let (folder, protected) = folder();
        for format in FORMATS {
            for out in ["model", "model.gguf", "a/b", "data.jsonl", "model/../model.gguf", "a/../model", "a/../a/./b"] {
                refused(&protected, format, &folder.path().join(out));
            }
            protected.check_export(format, &folder.path().join("out")).expect("a place that is free");
            protected.check_export(format, &folder.path().join("model/out")).expect("a new name");
        }
    }

    #[test]
    fn a_directory_that_holds_what_is_protected_is_refused() {
        let (folder, protected) = folder();
        for out in ["a", "."] {
            refused(&protected, Format::Peft, &folder.path().join(out));
            refused(&protected, Format::Merged, &folder.path().join(out));
        }
    }

    #[test]
    fn an_existing_file_of_a_protected_directory_is_refused_and_a_new_one_is_not() {
        let (folder, protected) = folder();
        refused(&protected, Format::GgufAdapter, &folder.path().join("model/model.safetensors"));
        refused(&protected, Format::MergedGguf, &folder.path().join("a/b/x.json"));
        protected.check_file(&folder.path().join("model/new.safetensors")).expect("a new file");
    }

    #[cfg(unix)]
    #[test]
    fn links_of_both_kinds_are_seen_through() {
        let (folder, protected) = folder();
        let at = |path: &str| folder.path().join(path);
        std::os::unix::fs::symlink(at("model.gguf"), at("soft.gguf")).expect("a link");
        std::os::unix::fs::symlink(at("model"), at("soft")).expect("a link");
        std::fs::hard_link(at("model.gguf"), at("hard.gguf")).expect("a link");
        std::fs::hard_link(at("model/model.safetensors"), at("hard.safetensors")).expect("a link");
        for out in ["soft.gguf", "hard.gguf", "hard.safetensors", "soft/model.safetensors"] {
            refused(&protected, Format::GgufAdapter, &at(out));
        }
        refused(&protected, Format::Merged, &at("soft"));
        std::fs::create_dir(at("copy")).expect("a directory");
        std::fs::hard_link(at("model.gguf"), at("copy/model.safetensors")).expect("a link");
        refused(&protected, Format::Merged, &at("copy"));
        // A link that leads nowhere is replaced, and nothing is lost.
        std::os::unix::fs::symlink(at("nowhere"), at("dangling.gguf")).expect("a link");
        protected.check_file(&at("dangling.gguf")).expect("nothing is written over");
    }

    #[test]
    fn a_manifest_and_those_it_extends_are_known() {
        let (folder, _) = folder();
        let at = |path: &str| folder.path().join(path);
        std::fs::create_dir(at("recipes")).expect("a directory");
        std::fs::write(at("recipes/more.toml"), "extends = \"../finetest.toml\"").expect("a file");
        std::fs::write(at("finetest.toml"), "extends = \"finetest.toml\"").expect("a file");
        let all = manifests(&at("recipes/more.toml"));
        assert_eq!(all[..2], [at("recipes/more.toml"), at("recipes/../finetest.toml")]);
        assert_eq!(all.len(), MOST_MANIFESTS, "one that extends itself ends");
    }

    #[test]
    fn the_recipe_beside_a_merged_file_is_checked_too() {
        let (folder, mut protected) = folder();
        std::fs::write(folder.path().join("m.Modelfile"), "FROM mine").expect("a file");
        protected.add("the drift text", &folder.path().join("m.Modelfile"));
        refused(&protected, Format::MergedGguf, &folder.path().join("m.gguf"));
        protected.check_export(Format::GgufAdapter, &folder.path().join("m.gguf")).expect("it writes no recipe");
    }
}
