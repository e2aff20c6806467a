//! What a command line says instead of a manifest's keys, or without a manifest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::layers::Layers;
use super::places::Places;
use super::raw::RawManifest;
use super::{AdapterConfig, BackendName, Config, MANIFEST};
use crate::error::{Error, Result};

/// What takes the place of a manifest's keys. Paths are relative to the working directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Instead of `[model] source`.
    pub model: Option<String>,
    /// Instead of `[adapter] path`; the adapter is tested as it is, and never trained.
    pub adapter: Option<PathBuf>,
    /// Instead of `[run] scenarios`.
    pub scenarios: Option<PathBuf>,
    /// Instead of `[backend] name`.
    pub backend: Option<BackendName>,
}

impl Config {
    /// The project that these describe, in a directory without a manifest.
    ///
    /// # Errors
    /// No model is named.
    pub fn without_manifest(root: impl AsRef<Path>, overrides: &Overrides) -> Result<Self> {
        let root = root.as_ref();
        let model = overrides.model.as_ref().ok_or_else(|| {
            Error::Usage(format!("there is no {MANIFEST} here or above, so name the base model: --model SOURCE"))
        })?;
        let manifest = root.join(MANIFEST);
        let places = Places { manifest: manifest.clone(), keys: BTreeMap::new() };
        let layers = Layers {
            table: toml::Table::new(),
            places,
            root: root.to_path_buf(),
            foreign_adapter: None,
            notes: Vec::new(),
        };
        let mut raw: RawManifest = toml::from_str("").map_err(|e| Error::failed(e.to_string()))?;
        raw.model.source = Some(source(model));
        Ok(raw.resolve(&manifest, &layers)?.with(overrides))
    }

    /// This project with what these say instead of its own.
    #[must_use]
    pub fn with(mut self, overrides: &Overrides) -> Self {
        if let Some(model) = &overrides.model {
            self.model.source = source(model);
            // Of another model than the hash's.
            self.model.sha256 = None;
        }
        if let Some(path) = &overrides.adapter {
            let scale = self.adapter.as_ref().map_or(1.0, |adapter| adapter.scale);
            self.adapter = Some(AdapterConfig { path: path.clone(), scale });
            self.recipe = None;
        }
        if let Some(scenarios) = &overrides.scenarios {
            self.run.scenarios.clone_from(scenarios);
        }
        self.backend = overrides.backend.unwrap_or(self.backend);
        self
    }
}

/// A path without its detours; any other source as it is.
fn source(model: &str) -> String {
    if model.starts_with("hf:") || model.starts_with("pypi:") {
        return model.to_owned();
    }
    // Absolute, so that it means the same whatever the manifest's directory is.
    std::path::absolute(model).map_or_else(|_| model.to_owned(), |path| path.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_without_a_manifest_has_the_defaults_and_what_the_command_line_says() {
        let folder = tempfile::tempdir().expect("a folder");
        let refused = Config::without_manifest(folder.path(), &Overrides::default()).expect_err("no model");
        assert!(refused.to_string().contains("--model SOURCE"), "{refused}");
        let overrides = Overrides {
            model: Some("hf:a/b".into()),
            adapter: Some("out".into()),
            scenarios: Some("cases".into()),
            backend: None,
        };
        let config = Config::without_manifest(folder.path(), &overrides).expect("a project");
        assert_eq!(config.model.source, "hf:a/b");
        assert_eq!(config.adapter.as_ref().map(|adapter| adapter.path.clone()), Some("out".into()));
        assert_eq!(config.run.scenarios, Path::new("cases"));
        assert_eq!(config.store(), folder.path().join(".finetest"));
    }

    #[test]
    fn an_adapter_of_the_command_line_is_never_trained() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(MANIFEST);
        let text = "[model]\nsource = \"m\"\nsha256 = \"0000000000000000000000000000000000000000000000000000000000000000\"\n\
                    [data]\ntrain = \"t\"\n[train]\n";
        std::fs::write(&path, text).expect("a file");
        let config = Config::load(&path).expect("a manifest");
        assert!(config.recipe.is_some() && config.model.sha256.is_some());
        let overrides = Overrides { adapter: Some("x".into()), model: Some("n".into()), ..Overrides::default() };
        let config = config.with(&overrides);
        assert!(config.recipe.is_none() && config.model.sha256.is_none());
        assert!(Path::new(&config.model.source).is_absolute(), "{}", config.model.source);
    }
}
