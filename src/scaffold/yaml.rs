//! Configurations of other training programs, as far as they say what was trained on what: axolotl's and LLaMA-Factory's YAML.
//!
//! Only plain top-level keys are read, and the first data set's path. What is written in another way is not found, and asked for.

use std::path::Path;

use crate::files::read_regular_text;

/// Bytes of such a file.
const MOST_BYTES: u64 = 1 << 20;

/// What a configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Training {
    /// Name of the base model.
    pub(super) base: String,
    /// Where the adapter is written.
    pub(super) output: Option<String>,
    /// The first data set: a path, or a name on the hub.
    pub(super) data: Option<String>,
}

/// The training that a file describes; `None` when it is no such configuration.
pub(super) fn read(path: &Path) -> Option<Training> {
    parse(&read_regular_text(path, MOST_BYTES).ok()?)
}

fn parse(text: &str) -> Option<Training> {
    let mut training = Training::default();
    let mut in_datasets = false;
    for line in text.lines() {
        let is_top = !line.starts_with([' ', '\t', '-']);
        let Some((key, value)) = pair(line) else { continue };
        if is_top {
            in_datasets = key == "datasets";
            match key {
                "base_model" | "model_name_or_path" => training.base = value?,
                "output_dir" => training.output = value,
                _ => {}
            }
        } else if in_datasets && key == "path" && training.data.is_none() {
            training.data = value;
        }
    }
    (!training.base.is_empty()).then_some(training)
}

/// `- path: "x"  # y` as `path` and `x`; a value that is a list, a table or empty is none.
fn pair(line: &str) -> Option<(&str, Option<String>)> {
    let (key, value) = line.trim().trim_start_matches('-').trim_start().split_once(':')?;
    let value = value.split(" #").next().unwrap_or_default().trim();
    let bare = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote)).unwrap_or(value);
    let is_plain = !bare.is_empty() && !bare.starts_with(['[', '{', '&', '*', '|', '>', '#']);
    Some((key.trim(), is_plain.then(|| bare.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axolotls_and_llama_factorys_keys_are_read() {
        let axolotl = "# a comment\nbase_model: NousResearch/Llama-3.2-1B  # hub\nload_in_8bit: false\n\ndatasets:\n  - path: data/train.jsonl\n    type: alpaca\n  - path: other\noutput_dir: \"./outputs/lora-out\"\nlora_target_modules:\n  - q_proj\n";
        let found = parse(axolotl).expect("a training");
        assert_eq!(found.base, "NousResearch/Llama-3.2-1B");
        assert_eq!(found.output.as_deref(), Some("./outputs/lora-out"));
        assert_eq!(found.data.as_deref(), Some("data/train.jsonl"));
        let factory = "### model\nmodel_name_or_path: Qwen/Qwen2.5-0.5B-Instruct\n\n### dataset\ndataset: identity\noutput_dir: saves/qwen/lora/sft\n";
        let found = parse(factory).expect("a training");
        assert_eq!((found.base.as_str(), found.data), ("Qwen/Qwen2.5-0.5B-Instruct", None));
        assert_eq!(parse("name: CI\non: [push]\njobs:\n  base_model: x\n"), None);
        assert_eq!(parse("base_model:\n  - x\n"), None);
        assert_eq!(parse(""), None);
    }
}
