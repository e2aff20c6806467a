//! Base models on paper: their published configurations, and what else decides for or against one.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files::read_regular_text;
use crate::model::DecoderSpec;

/// Bytes of a user's catalogue.
const MOST_BYTES: u64 = 4 << 20;
const OWN: &str = include_str!("catalogue.toml");

/// A base model.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) name: String,
    pub(super) source: String,
    pub(super) licence: String,
    pub(super) languages: Languages,
    /// Where and when its facts were read.
    pub(super) fact: Fact,
    pub(super) spec: DecoderSpec,
    /// The publisher's number of parameters, in billions.
    #[cfg_attr(not(test), expect(dead_code, reason = "a test compares it with the configuration"))]
    pub(super) parameters: Option<f64>,
}

/// Languages that a model is published for.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Languages {
    /// `"many"`.
    Many(String),
    Named(Vec<String>),
}

/// Where and when something was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fact {
    /// An address.
    pub source: String,
    /// A date, `2024-07-23`.
    pub date: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    models: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    source: String,
    licence: String,
    languages: Languages,
    parameters: Option<f64>,
    fact: Option<Fact>,
    config: serde_json::Map<String, serde_json::Value>,
}

impl Languages {
    pub(super) fn has(&self, language: &str) -> bool {
        match self {
            Self::Many(_) => true,
            Self::Named(names) => names.iter().any(|name| name.eq_ignore_ascii_case(language)),
        }
    }

    pub(super) fn are_many(&self) -> bool {
        matches!(self, Self::Many(_))
    }
}

/// This crate's models, and those of a user's file.
///
/// # Errors
/// A file that cannot be read, an entry without its source and date, or with a configuration that is not understood.
pub(super) fn candidates(more: Option<&Path>) -> Result<Vec<Candidate>> {
    let mut found = parse(Path::new("catalogue.toml"), OWN)?;
    if let Some(path) = more {
        let added = parse(path, &read_regular_text(path, MOST_BYTES)?)?;
        // A user's entry of a name takes the place of ours.
        found.retain(|own| added.iter().all(|other| other.name != own.name));
        found.extend(added);
    }
    Ok(found)
}

fn parse(path: &Path, text: &str) -> Result<Vec<Candidate>> {
    let file: File = toml::from_str(text).map_err(|error| Error::input(path, None, error.to_string()))?;
    file.models.into_iter().map(|entry| entry.read(path)).collect()
}

impl Entry {
    fn read(self, path: &Path) -> Result<Candidate> {
        let name = self.name;
        let wrong = |why: String| Error::input(path, None, format!("the model {name:?} {why}"));
        let fact = self.fact.filter(|fact| !fact.source.trim().is_empty() && !fact.date.trim().is_empty());
        let fact = fact.ok_or_else(|| {
            wrong("has no source: say where and when its facts were read, fact = { source = \"https://…\", date = \"2026-01-31\" }".to_owned())
        })?;
        if let Languages::Many(word) = &self.languages
            && word != "many"
        {
            return Err(wrong(format!("has languages = {word:?}; expected \"many\" or a list of names")));
        }
        let spec = DecoderSpec::from_config_value(path, &serde_json::Value::Object(self.config))
            .map_err(|error| wrong(format!("has a config that is not understood: {error}")))?;
        Ok(Candidate {
            source: self.source,
            licence: self.licence,
            languages: self.languages,
            fact,
            spec,
            parameters: self.parameters,
            name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Sizes;

    #[test]
    fn configurations_come_to_the_parameters_that_are_published() {
        let all = candidates(None).expect("a catalogue");
        assert!(all.len() >= 18);
        for model in &all {
            let counted = Sizes::of(&model.spec).parameters as f64 / 1e9;
            let published = model.parameters.expect("a number");
            assert!((counted / published - 1.0).abs() < 0.03, "{}: {counted} is not {published}", model.name);
        }
    }

    #[test]
    fn an_entry_needs_its_source_and_a_user_s_takes_the_place_of_ours() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("more.toml");
        let config = "{ model_type = \"llama\", hidden_size = 64, num_hidden_layers = 2, num_attention_heads = 4, intermediate_size = 128, vocab_size = 100, max_position_embeddings = 64, rms_norm_eps = 1e-5 }";
        let with = |fact: &str, config: &str| {
            let text = format!(
                "[[models]]\nname = \"Qwen3 8B\"\nsource = \"x\"\nlicence = \"mit\"\nlanguages = \"many\"\n{fact}\nconfig = {config}\n"
            );
            std::fs::write(&path, text).expect("a file");
            candidates(Some(&path))
        };
        let error = with("", config).expect_err("no source").to_string();
        assert!(error.contains("\"Qwen3 8B\" has no source") && error.contains("more.toml"), "{error}");
        let fact = "fact = { source = \"https://x\", date = \"2026-01-01\" }";
        let error = with(fact, "{ model_type = \"llama\" }").expect_err("no sizes").to_string();
        assert!(error.contains("config that is not understood") && error.contains("hidden_size"), "{error}");
        let all = with(fact, config).expect("a catalogue");
        let found: Vec<_> = all.iter().filter(|model| model.name == "Qwen3 8B").collect();
        assert_eq!((found.len(), found[0].spec.hidden_size), (1, 64));
    }
}
