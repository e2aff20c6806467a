//! What is in a folder that a project can start from: adapters, training data, configurations of other programs, the kind of
//! repository. Files are looked at, nothing is written, and no network is used.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::Language;
use super::convert::{self, LocalSet};
use super::yaml::{self, Training};
use crate::data;
use crate::error::Result;
use crate::files::read_regular_text;
use crate::model::lora;

/// Folders below the project's that are looked into, of each other.
const DEEPEST: usize = 5;
/// Files that are looked at.
const MOST_FILES: usize = 20_000;
/// GGUF files that are opened.
const MOST_GGUF: usize = 20;
/// Bytes of a `Cargo.toml`.
const MOST_MANIFEST_BYTES: u64 = 1 << 20;
/// Folders that hold nobody's adapters or data.
const PASSED_OVER: [&str; 8] =
    ["target", "node_modules", "venv", "env", "__pycache__", "site-packages", "scenarios", "snapshots"];
/// Names of files that hold examples to validate or test with.
const NO_TRAINING: [&str; 6] = ["val", "test", "eval", "dev", "heldout", "held_out"];

/// What is in a folder.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// PEFT directories and GGUF adapters, relative to the folder. Of a training's checkpoints only the last.
    pub(crate) adapters: Vec<PathBuf>,
    /// Files of training data, relative to the folder: those whose names say so, if any do.
    pub(crate) data: Vec<PathBuf>,
    /// Data sets that LLaMA-Factory's `dataset_info.json` describes.
    pub(super) sets: Vec<LocalSet>,
    /// Trainings that YAML files describe.
    pub(super) trainings: Vec<Training>,
    /// What kind of project it is.
    pub(crate) language: Language,
    /// Whether `tests/*.rs` would be compiled: there is a `[package]`.
    pub(super) has_package: bool,
}

impl Found {
    /// Looks at a folder.
    ///
    /// # Errors
    /// A `dataset_info.json` that cannot be read.
    pub(crate) fn look(root: &Path) -> Result<Self> {
        let files = walk(root);
        let has = |name: &str| files.iter().any(|file| file == Path::new(name));
        let cargo = read_regular_text(&root.join("Cargo.toml"), MOST_MANIFEST_BYTES).unwrap_or_default();
        let language = if has("Cargo.toml") {
            Language::Rust
        } else if ["pyproject.toml", "setup.py", "setup.cfg", "requirements.txt"].iter().any(|name| has(name)) {
            Language::Python
        } else {
            Language::Plain
        };
        let sets = convert::local_sets(root)?;
        let data = if sets.is_empty() {
            training_data(root, &files)
        } else {
            sets.iter().map(|set| set.path.clone()).collect()
        };
        let is_yaml = |file: &&PathBuf| file.extension().is_some_and(|e| e == "yml" || e == "yaml");
        let near = files.iter().filter(|file| depth(file) <= 2);
        let trainings = near.filter(is_yaml).filter_map(|file| yaml::read(&root.join(file))).collect();
        let has_package = cargo.lines().any(|line| line.trim() == "[package]");
        Ok(Self { adapters: adapters(root, &files), data, sets, trainings, language, has_package })
    }
}

fn depth(file: &Path) -> usize {
    file.components().count()
}

/// The regular files below a folder, those near it first. Links are not followed: they may lead round in a circle.
fn walk(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = VecDeque::from([PathBuf::new()]);
    while let Some(folder) = open.pop_front() {
        let mut entries: Vec<_> = std::fs::read_dir(root.join(&folder)).into_iter().flatten().flatten().collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            let Some(text) = name.to_str().filter(|text| !text.starts_with('.')) else { continue };
            let path = folder.join(text);
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth(&path) <= DEEPEST && !PASSED_OVER.contains(&text) => {
                    open.push_back(path);
                }
                Ok(kind) if kind.is_file() => found.push(path),
                _ => {}
            }
            if found.len() + open.len() > MOST_FILES {
                return found;
            }
        }
    }
    found
}

/// The adapters among files: PEFT directories, else GGUF adapters.
fn adapters(root: &Path, files: &[PathBuf]) -> Vec<PathBuf> {
    let configs = files.iter().filter(|file| file.file_name() == Some(OsStr::new(lora::ADAPTER_CONFIG)));
    let folders: BTreeSet<PathBuf> = configs.map(|file| file.parent().unwrap_or(Path::new("")).to_path_buf()).collect();
    let mut found: Vec<PathBuf> = Vec::new();
    for folder in &folders {
        let Some(step) = step(folder) else {
            found.push(folder.clone());
            continue;
        };
        let beside = |other: &&PathBuf| other.parent() == folder.parent();
        let ended = folder.parent().is_some_and(|parent| folders.contains(parent));
        let is_last = folders.iter().filter(beside).filter_map(|other| self::step(other)).all(|other| other <= step);
        if !ended && is_last {
            found.push(folder.clone());
        }
    }
    if found.is_empty() {
        let gguf = files.iter().filter(|file| file.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")));
        found.extend(gguf.take(MOST_GGUF).filter(|file| lora::describe(&root.join(file)).is_ok()).cloned());
    }
    found.iter().map(|path| if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.clone() }).collect()
}

/// The step of a folder named as trainers name checkpoints: `checkpoint-500`.
fn step(folder: &Path) -> Option<u64> {
    folder.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse().ok()
}

/// The files that hold training examples, by their names: `train.jsonl`, else those with `train` in their name, else all others that
/// are not for validation.
fn training_data(root: &Path, files: &[PathBuf]) -> Vec<PathBuf> {
    let rank = |file: &&PathBuf| {
        let stem = file.file_stem().map(|stem| stem.to_string_lossy().to_lowercase()).unwrap_or_default();
        match stem.as_str() {
            "train" => Some(0),
            stem if stem.contains("train") => Some(1),
            stem if NO_TRAINING.iter().any(|word| stem.split(['-', '_', '.']).any(|part| part.starts_with(word))) => {
                None
            }
            _ => Some(2),
        }
    };
    let is_example = |file: &&PathBuf| match file.extension().and_then(OsStr::to_str) {
        Some("jsonl") => data::is_data(&root.join(file)),
        Some("json") => convert::is_array(&root.join(file)),
        _ => false,
    };
    let near = files.iter().filter(|file| depth(file) <= 2).filter(is_example);
    let ranked: Vec<(i32, &PathBuf)> = near.filter_map(|file| Some((rank(&file)?, file))).collect();
    let best = ranked.iter().map(|(rank, _)| *rank).min();
    ranked.into_iter().filter(|(rank, _)| Some(*rank) == best).map(|(_, file)| file.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        }
        folder
    }

    fn look(files: &[(&str, &str)]) -> Found {
        Found::look(folder(files).path()).expect("looked at")
    }

    fn paths(found: &[PathBuf]) -> Vec<String> {
        found.iter().map(|path| path.to_string_lossy().replace('\\', "/")).collect()
    }

    const LINE: &str = "{\"prompt\": \"a\", \"completion\": \"b\"}\n";

    #[test]
    fn the_last_checkpoint_counts_only_where_the_training_did_not_end() {
        let config = |folder: &str| (format!("{folder}/adapter_config.json"), "{}");
        let look = |folders: &[&str]| {
            let files: Vec<(String, &str)> = folders.iter().map(|folder| config(folder)).collect();
            let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), *text)).collect();
            paths(&self::look(&files).adapters)
        };
        assert_eq!(look(&["out", "out/checkpoint-20", "out/checkpoint-100"]), ["out"]);
        assert_eq!(look(&["out/checkpoint-20", "out/checkpoint-100"]), ["out/checkpoint-100"]);
        assert_eq!(look(&["a", "b/checkpoint-5"]), ["a", "b/checkpoint-5"]);
        assert_eq!(look(&["saves/qwen/lora/sft"]), ["saves/qwen/lora/sft"]);
        assert_eq!(look(&["target/x", ".hidden", "node_modules/y"]), Vec::<String>::new());
        assert_eq!(paths(&self::look(&[("adapter_config.json", "{}")]).adapters), ["."]);
    }

    #[test]
    fn training_data_is_told_by_name_and_first_line() {
        let files = [("data/train.jsonl", LINE), ("data/more_train.jsonl", LINE), ("data/x.jsonl", LINE)];
        assert_eq!(paths(&look(&files).data), ["data/train.jsonl"]);
        assert_eq!(paths(&look(&files[1..]).data), ["data/more_train.jsonl"]);
        assert_eq!(paths(&look(&files[2..]).data), ["data/x.jsonl"]);
        let none = [
            ("data/valid.jsonl", LINE),
            ("test-2.jsonl", LINE),
            ("log.jsonl", "{\"level\": 1}\n"),
            ("a/b/c.jsonl", LINE),
        ];
        assert_eq!(look(&none).data, Vec::<PathBuf>::new());
        let array = "[{\"instruction\": \"a\", \"input\": \"\", \"output\": \"b\"}]";
        assert_eq!(
            paths(&look(&[("alpaca.json", array), ("package.json", "{}"), ("list.json", "[1]")]).data),
            ["alpaca.json"]
        );
    }

    #[test]
    fn the_kind_of_repository_is_told() {
        let package = "[package]\nname = \"x\"\n";
        let found = look(&[("Cargo.toml", package), ("pyproject.toml", "")]);
        assert_eq!((found.language, found.has_package), (Language::Rust, true));
        assert!(!look(&[("Cargo.toml", "[workspace]\n")]).has_package);
        assert_eq!(look(&[("requirements.txt", "")]).language, Language::Python);
        assert_eq!(look(&[("a.txt", "")]).language, Language::Plain);
        assert_eq!(look(&[("config.yml", "base_model: a/b\n"), ("ci.yml", "jobs:\n")]).trainings.len(), 1);
    }
}
