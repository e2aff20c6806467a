//! All that is read of a model before anything is said of it: its small files and the headers of its weights.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::quantized::gguf_file::Value as Metadata;
use safetensors::SafeTensors;
use serde_json::Value as Json;

use super::license::License;
use super::shape::Shape;
use crate::error::{Error, Result};
use crate::model::architecture::Keys;
use crate::model::architecture::header::HeaderSpec;
use crate::model::formats::gguf::Header;
use crate::model::formats::json::read_json;
use crate::model::formats::mapped::map_file;
use crate::model::tokenizer::TokenFacts;
use crate::model::{ChatTemplate, DecoderSpec, ModelFiles, ModelKind, open_outlined};
use crate::record::Message;

/// What a user's message says in a sample.
pub(super) const QUESTION: &str = "FINETESTQUESTION";
/// Rows of an embedding that are looked at to learn how long rows are, and of each sort at most.
const SAMPLED_ROWS: usize = 256;
const MOST_ROWS: usize = 2048;

/// Tensors of one part of a model.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TensorGroup {
    /// `embedding`, `attention`, `feed-forward`, `experts`, `norms`, `head` or `other`.
    pub part: &'static str,
    /// As the file calls it: `BF16`, `Q4_K`.
    pub dtype: String,
    /// How many tensors.
    pub tensors: usize,
    /// Values in them.
    pub values: u64,
}

/// A template, with what it makes of one question.
pub(super) struct Template {
    pub(super) source: String,
    /// A user's message and the beginning of the answer; `None` where the template cannot write it.
    pub(super) question: Option<String>,
    /// What it writes behind an answer.
    pub(super) turn_end: Option<String>,
}

/// Lengths of rows of the embedding.
pub(super) struct Rows {
    /// That of a usual row.
    pub(super) median: f64,
    /// Of special tokens and of rows without a token: the row and its length, by their numbers.
    pub(super) unusual: Vec<(usize, f64)>,
}

/// What is known of a model.
pub(super) struct Subject {
    pub(super) shape: Shape,
    pub(super) gguf: bool,
    /// `config.json`, `generation_config.json` and `tokenizer_config.json`; null where there is none.
    pub(super) config: Json,
    pub(super) generation: Json,
    pub(super) tokenizer_config: Json,
    pub(super) tokens: Option<TokenFacts>,
    pub(super) template: Option<Template>,
    pub(super) license: Option<License>,
    pub(super) groups: Vec<TensorGroup>,
    /// `None` where the weights are not at hand, or in a form that is not read here.
    pub(super) rows: Option<Rows>,
}

impl Subject {
    /// Reads it.
    ///
    /// # Errors
    /// A file that is corrupt, or of an unknown family.
    pub(super) fn read(files: &ModelFiles) -> Result<Self> {
        let mut subject = match &files.kind {
            ModelKind::Gguf(path) => Self::of_gguf(path)?,
            ModelKind::HuggingFace(found) => {
                let json = |path: &Option<_>| path.as_deref().map(read_json).transpose();
                Self {
                    shape: Shape::of(&DecoderSpec::from_config(&found.config)?),
                    gguf: false,
                    config: read_json(&found.config)?,
                    generation: json(&found.generation_config)?.unwrap_or_default(),
                    tokenizer_config: json(&found.tokenizer_config)?.unwrap_or_default(),
                    tokens: TokenFacts::of_directory(found)?,
                    template: None,
                    license: License::of_directory(&found.dir)?,
                    groups: groups_of(&found.weights)?,
                    rows: None,
                }
            }
        };
        subject.template = template(files, subject.tokens.as_ref())?;
        subject.rows = subject.measure_rows(files);
        Ok(subject)
    }

    fn of_gguf(path: &Path) -> Result<Self> {
        let map = map_file(path)?;
        let header = Header::read(path, &map)?;
        let mut parts = BTreeMap::new();
        for (name, info) in &header.tensors {
            let values = info.elements().unwrap_or(0) as u64;
            add(&mut parts, part(name), info.kind.to_string(), values);
        }
        // A family that no decoder here has is described as far as its header goes.
        let shape = match Keys::of(path, &header)?.family()? {
            Some(_) => Shape::of(&DecoderSpec::from_gguf(path, &header)?),
            None => Shape::of_header(&HeaderSpec::of_gguf(path, &header, map.len())?),
        };
        let license = match header.metadata.get("general.license") {
            Some(Metadata::String(name)) => Some(License { name: name.clone(), from: "general.license" }),
            _ => None,
        };
        Ok(Self {
            shape,
            gguf: true,
            config: Json::Null,
            generation: Json::Null,
            tokenizer_config: Json::Null,
            tokens: TokenFacts::of_gguf(path, &header.metadata)?,
            template: None,
            license,
            groups: listed(parts),
            rows: None,
        })
    }

    /// Rows of the embedding behind the last token.
    pub(super) fn spare_rows(&self) -> usize {
        self.tokens.as_ref().map_or(0, |tokens| self.shape.vocab_size.saturating_sub(tokens.count))
    }

    /// Lengths of a few rows of the embedding; weights that cannot be read say nothing here, and all when they are used.
    fn measure_rows(&self, files: &ModelFiles) -> Option<Rows> {
        let tokens = self.tokens.as_ref()?;
        if files.weights().is_empty() {
            return None;
        }
        let (outline, weights) = open_outlined(files).ok()?;
        let (rows, width) = (self.shape.vocab_size, self.shape.hidden_size);
        let matrix = weights.matrix(&format!("{}.weight", outline.vocabulary_paths()[0]), rows, width).ok()?;
        let mut values = vec![0f32; width];
        let mut length = |row: usize| {
            matrix.row(row, &mut values);
            values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
        };
        let special: Vec<usize> =
            tokens.special.iter().map(|token| token.id as usize).filter(|id| *id < rows).collect();
        let usual = (0..tokens.count.min(rows)).step_by((tokens.count / SAMPLED_ROWS).max(1));
        let mut usual: Vec<f64> = usual.filter(|row| special.binary_search(row).is_err()).map(&mut length).collect();
        usual.sort_by(f64::total_cmp);
        let spare = tokens.count.min(rows)..rows;
        let unusual = special.iter().copied().take(MOST_ROWS).chain(spare.take(MOST_ROWS));
        let unusual = unusual.map(|row| (row, length(row))).collect();
        Some(Rows { median: usual.get(usual.len() / 2).copied()?, unusual })
    }
}

fn template(files: &ModelFiles, tokens: Option<&TokenFacts>) -> Result<Option<Template>> {
    let Some((path, source)) = ChatTemplate::source(files, None)? else { return Ok(None) };
    let named = |token: Option<&crate::model::tokenizer::Token>| token.map(|token| token.token.clone());
    let bos = named(tokens.and_then(|tokens| tokens.bos.as_ref()));
    let eos = named(tokens.and_then(|tokens| tokens.eos.as_ref()));
    let template = ChatTemplate::new(path, &source, bos, eos)?;
    Ok(Some(Template {
        question: template.render(&[Message::new("user", QUESTION)], true).ok(),
        turn_end: template.turn_end().ok(),
        source,
    }))
}

type Parts = BTreeMap<(&'static str, String), (usize, u64)>;

fn add(parts: &mut Parts, part: &'static str, dtype: String, values: u64) {
    let entry = parts.entry((part, dtype)).or_default();
    entry.0 += 1;
    entry.1 = entry.1.saturating_add(values);
}

fn groups_of(weights: &[std::path::PathBuf]) -> Result<Vec<TensorGroup>> {
    let mut parts = Parts::new();
    for path in weights {
        let map = map_file(path)?;
        let (_, header) = SafeTensors::read_metadata(&map).map_err(|e| {
            Error::model(path, format!("not a safetensors file, truncated or corrupt: {e}; download it again"))
        })?;
        for (name, info) in header.tensors() {
            let values = info.shape.iter().fold(1u64, |n, size| n.saturating_mul(*size as u64));
            add(&mut parts, part(&name), format!("{:?}", info.dtype), values);
        }
    }
    Ok(listed(parts))
}

/// Parts in the order in which a token meets them.
const PARTS: [&str; 7] = ["embedding", "attention", "feed-forward", "experts", "norms", "head", "other"];

fn listed(parts: Parts) -> Vec<TensorGroup> {
    let mut groups: Vec<TensorGroup> = parts
        .into_iter()
        .map(|((part, dtype), (tensors, values))| TensorGroup { part, dtype, tensors, values })
        .collect();
    groups.sort_by_key(|group| (PARTS.iter().position(|part| *part == group.part), std::cmp::Reverse(group.values)));
    groups
}

/// Which part a tensor belongs to, by the words that its name is made of in all families.
fn part(name: &str) -> &'static str {
    let name = name.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
    if has(&["norm", "ln_", "layernorm", ".ln1", ".ln2"]) {
        "norms"
    } else if has(&["exps", "expert", "gate_inp", "mlp.gate.", "router"]) {
        "experts"
    } else if has(&["embd", "embed", "wte", "wpe"]) {
        "embedding"
    } else if name.starts_with("output.") || has(&["lm_head"]) {
        "head"
    } else if has(&["attn", "attention"]) {
        "attention"
    } else if has(&["ffn", "mlp", "feed_forward", "dense_h_to_4h", "dense_4h_to_h"]) {
        "feed-forward"
    } else {
        "other"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_belongs_to_the_part_that_its_name_says() {
        for (name, expected) in [
            ("token_embd.weight", "embedding"),
            ("model.embed_tokens.weight", "embedding"),
            ("transformer.wte.weight", "embedding"),
            ("blk.3.attn_q.weight", "attention"),
            ("blk.3.attn_norm.weight", "norms"),
            ("model.layers.3.self_attn.q_norm.weight", "norms"),
            ("transformer.h.0.ln_1.bias", "norms"),
            ("transformer.h.0.attn.c_attn.weight", "attention"),
            ("blk.3.ffn_gate_exps.weight", "experts"),
            ("model.layers.1.mlp.experts.7.up_proj.weight", "experts"),
            ("model.layers.1.mlp.gate.weight", "experts"),
            ("model.layers.1.mlp.gate_proj.weight", "feed-forward"),
            ("lm_head.weight", "head"),
            ("output.weight", "head"),
            ("output_norm.weight", "norms"),
            ("rope_freqs.weight", "other"),
        ] {
            assert_eq!(part(name), expected, "{name}");
        }
    }
}
