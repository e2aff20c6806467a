//! What a base's layers are called and how large they are, without its weights: all that an adapter and its files need to know.
//!
//! A GGUF file's outline is taken from its header, so that it is there for types of tensors and for families that this crate's decoder
//! has not, and llama.cpp has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::families::FOREIGN;
use super::names::{Names, names};
use super::rows::{GgufRows, RowOrder};
use super::sizes::Sizes;
use super::{DecoderSpec, Family, Keys, integer, layers};
use crate::error::{Error, Result};
use crate::model::formats::gguf::{Header, TensorInfo};

/// A base without its weights.
#[derive(Clone, Debug)]
pub(crate) struct Outline {
    /// Its family as `model_type`, or as GGUF calls it where this crate has no decoder for it.
    pub(crate) family: String,
    /// GGUF's `general.architecture`.
    pub(crate) architecture: String,
    /// `None`: what Hugging Face calls its layers is not known, and they go by GGUF's names.
    names: Option<Names>,
    rows: RowOrder,
    /// (out, in) of every linear layer of every block, but routers, by its path: those that `all-linear` adapts.
    pub(crate) layers: BTreeMap<String, [usize; 2]>,
    /// In each layer that has them; 0 for none.
    pub(crate) experts: usize,
    /// Rows of the embedding.
    pub(crate) vocabulary: usize,
    /// Longest sequence, in tokens.
    pub(crate) context: usize,
    /// Weights; a tied head counts once.
    pub(crate) parameters: u64,
    /// Tokens that some layers see back to, where they do not see all.
    pub(crate) window: Option<usize>,
}

impl Outline {
    /// That of a model with this configuration.
    pub(crate) fn of(spec: &DecoderSpec) -> Self {
        Self {
            family: spec.family.name().to_owned(),
            architecture: spec.family.architecture().to_owned(),
            names: Some(spec.names()),
            rows: RowOrder::new(spec, spec.family.facts().rows),
            layers: layers::adaptable(spec).collect(),
            experts: spec.feed_forward.experts.as_ref().map_or(0, |e| e.count),
            vocabulary: spec.vocab_size,
            context: spec.context,
            parameters: Sizes::of(spec).parameters,
            window: spec.attention.window.as_ref().map(|window| window.size),
        }
    }

    /// That of a GGUF file of `len` bytes.
    ///
    /// # Errors
    /// Metadata that is missing or cannot be; a tensor that reaches past the end of the file.
    pub(crate) fn of_gguf(path: &Path, header: &Header, len: usize) -> Result<Self> {
        let keys = Keys::of(path, header)?;
        check_not_split(path, header)?;
        let family = keys.family()?;
        let foreign = FOREIGN.iter().find(|foreign| foreign.architecture == keys.architecture);
        let names = match (family, foreign) {
            (Some(family), _) => Some(names(family, keys.has("blk.0.attn_norm_2.weight"))),
            (None, Some(foreign)) => Some(foreign.names),
            (None, None) => None,
        };
        let file = match (family, foreign) {
            (Some(family), _) => family.facts().rows,
            (None, Some(foreign)) => foreign.rows,
            (None, None) => GgufRows::Same,
        };
        let rows = if file == GgufRows::Same { RowOrder::SAME } else { row_order(&keys, file)? };
        let context = match keys.count_if("context_length")? {
            Some(context) => context,
            // Rather than keys of a name that nothing knows.
            None if names.is_none() => return Err(Family::unknown(path, keys.architecture, Family::architecture)),
            None => keys.count("context_length")?,
        };
        let Some([vocabulary, _]) = header.tensors.get("token_embd.weight").map(|info| info.shape.as_slice()) else {
            return Err(Error::model(path, "tensor `token_embd.weight` is missing or not a matrix"));
        };
        if context > MOST_POSITIONS {
            let message = format!(
                "metadata `{}.context_length` is {context}, expected at most {MOST_POSITIONS}",
                keys.architecture
            );
            return Err(Error::model(path, message));
        }
        let mut outline = Self {
            family: family.map_or_else(|| keys.architecture.to_owned(), |family| family.name().to_owned()),
            architecture: keys.architecture.to_owned(),
            names,
            rows,
            layers: BTreeMap::new(),
            experts: 0,
            vocabulary: *vocabulary,
            context,
            parameters: 0,
            window: keys.count_if("attention.sliding_window")?.filter(|size| *size > 0),
        };
        outline.fill(path, header, len, keys.count("block_count")?)?;
        Ok(outline)
    }

    /// Takes up the tensors of all blocks.
    fn fill(&mut self, path: &Path, header: &Header, len: usize, blocks: usize) -> Result<()> {
        let mut found = BTreeSet::new();
        for (name, info) in &header.tensors {
            let block = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
            // DeepSeek's files hold blocks that predict further tokens, and Llama's factors of its angles.
            if block.is_some_and(|block| block >= blocks) || name == "rope_freqs.weight" {
                continue;
            }
            // Lists are made of its dimensions later on.
            if !header.holds(info, len) {
                let (shape, kind) = (&info.shape, info.kind);
                let message = format!(
                    "tensor `{name}` of shape {shape:?} in {kind} ends behind the file's {len} bytes: it is truncated"
                );
                return Err(Error::model(path, format!("{message}; download it again")));
            }
            let elements = info.elements().and_then(|n| u64::try_from(n).ok());
            let sum = elements.and_then(|n| self.parameters.checked_add(n));
            self.parameters = sum.ok_or_else(|| impossible(path, name, info))?;
            if let Some(block) = block {
                found.insert(block);
                self.add(path, header, name, info)?;
            }
        }
        match (0..blocks).find(|block| !found.contains(block)) {
            Some(block) => Err(Error::model(
                path,
                format!("has no tensor of block {block} of {blocks}: it is not whole; download it again"),
            )),
            None => Ok(()),
        }
    }

    /// Takes up a block's tensor when it is a layer's, or those of all experts'.
    fn add(&mut self, path: &Path, header: &Header, name: &str, info: &TensorInfo) -> Result<()> {
        let Some(stem) = name.strip_suffix(".weight") else { return Ok(()) };
        // A router is no layer that an adapter changes; the values' half of a latent attention is reported by the keys'.
        let module = stem.rsplit('.').next().unwrap_or_default();
        if ["ffn_gate_inp", "ffn_gate_inp_shexp", "attn_v_b"].contains(&module) {
            return Ok(());
        }
        match (info.shape.as_slice(), module) {
            ([heads, rank, nope], "attn_k_b") => {
                let halves = format!("{}attn_v_b.weight", name.trim_end_matches("attn_k_b.weight"));
                let values = match header.tensors.get(&halves).map(|info| info.shape.as_slice()) {
                    Some([_, values, _]) => *values,
                    _ => return Err(Error::model(path, format!("tensor `{halves}` is missing or of another shape"))),
                };
                let rows = nope.checked_add(values).and_then(|n| n.checked_mul(*heads));
                let rows = rows.ok_or_else(|| impossible(path, name, info))?;
                self.layers.extend(self.names.map(|names| (kv_b(&names, stem), [rows, *rank])));
            }
            ([count, out_features, in_features], _) if module.ends_with("_exps") => {
                // Each expert becomes an entry.
                let other = self.experts != 0 && self.experts != *count;
                if other || self.layers.len().saturating_add(*count) > MOST_LAYERS {
                    return Err(impossible(path, name, info));
                }
                self.experts = *count;
                self.layers.extend(self.paths(stem).into_iter().map(|path| (path, [*out_features, *in_features])));
            }
            ([out_features, in_features], _) if !module.ends_with("_exps") => {
                // What the table of names does not have is no layer that an adapter could name.
                let layer = self.paths(stem).pop().filter(|layer| self.gguf(layer).as_deref() == Some(stem));
                let Some(layer) = layer else { return Ok(()) };
                let (order, fits) =
                    (self.rows, self.names.is_none_or(|names| self.rows.fits(&names, &layer, *out_features)));
                if !fits {
                    let RowOrder { heads, kv_heads, head_dim, .. } = order;
                    let message = format!(
                        "tensor `{name}` has {out_features} rows, which are not those of {heads} and {kv_heads} heads of {head_dim}"
                    );
                    return Err(Error::model(path, message));
                }
                self.layers.insert(layer, [*out_features, *in_features]);
            }
            _ => {}
        }
        Ok(())
    }

    /// Are its layers called as Hugging Face calls them, so that PEFT's adapters can be put on them?
    pub(crate) fn has_names(&self) -> bool {
        self.names.is_some()
    }

    /// Hugging Face's name of a GGUF tensor, or that name itself.
    pub(crate) fn hugging_face(&self, gguf: &str) -> String {
        self.names.map_or_else(|| gguf.to_owned(), |names| names.hugging_face(gguf))
    }

    /// Do Hugging Face's files hold a layer's weights as (in, out)?
    pub(crate) fn transposed(&self) -> bool {
        self.names.is_some_and(|names| names.transposed)
    }

    /// Says what to do without them; `path` is the adapter's.
    pub(crate) fn no_names(&self, path: &Path) -> Error {
        let mut known: Vec<&str> = Family::ALL
            .iter()
            .map(|f| f.architecture())
            .chain(FOREIGN.iter().map(|foreign| foreign.architecture))
            .collect();
        // Two families are `deepseek2`.
        known.dedup();
        let (architecture, known) = (&self.architecture, known.join(", "));
        let message = format!(
            "cannot be put on a base of the family `{architecture}`, whose layers finetest knows by GGUF's names alone (by Hugging \
             Face's: {known}); convert the adapter with llama.cpp's convert_lora_to_gguf.py, and give that file as [adapter] path"
        );
        Error::model(path, message)
    }

    /// The paths of a GGUF tensor's layers: one, or one for each expert. `stem` is before `.weight`: `blk.3.ffn_up_exps`.
    pub(crate) fn paths(&self, stem: &str) -> Vec<String> {
        let weight = format!("{stem}.weight");
        let path = self.names.map_or_else(|| weight.clone(), |names| names.hugging_face(&weight));
        let path = path.strip_suffix(".weight").unwrap_or(&path);
        let (all, part) = match (&self.names, path.ends_with("_exps")) {
            (Some(names), _) => match names.stack(path) {
                Some((all, part)) => (all, format!(".{part}")),
                None => return vec![path.to_owned()],
            },
            (None, true) => (path, String::new()),
            (None, false) => return vec![path.to_owned()],
        };
        (0..self.experts).map(|expert| format!("{all}.{expert}{part}")).collect()
    }

    /// The number of experts whose layers a GGUF tensor holds together; `None` where it holds one layer.
    pub(crate) fn stacked(&self, stem: &str) -> Option<usize> {
        stem.ends_with("_exps").then_some(self.experts)
    }

    /// What GGUF calls the layer at this path: `blk.3.attn_q` for `model.layers.3.self_attn.q_proj`, and `blk.3.ffn_up_exps` for any
    /// expert's.
    pub(crate) fn gguf(&self, path: &str) -> Option<String> {
        match &self.names {
            Some(names) => names.gguf(names.expert(path).as_ref().map_or(path, |(stack, _)| stack)),
            None => match path.rsplit_once('.') {
                Some((stack, expert)) if stack.ends_with("_exps") && expert.parse::<usize>().is_ok() => {
                    Some(stack.to_owned())
                }
                _ => Some(path.to_owned()),
            },
        }
    }

    /// An expert's number.
    pub(crate) fn expert(&self, path: &str) -> Option<usize> {
        match &self.names {
            Some(names) => names.expert(path).map(|(_, expert)| expert),
            None => path.rsplit_once('.').filter(|(stack, _)| stack.ends_with("_exps"))?.1.parse().ok(),
        }
    }

    /// Where row i of Hugging Face's order lies in GGUF's, of the layer at `path`; `None`: at i.
    pub(crate) fn order(&self, path: &str, rows: usize) -> Option<Vec<usize>> {
        self.names.and_then(|names| self.rows.of_path(&names, path, rows))
    }

    /// Is it a latent attention's layer of keys and values, which newer files hold in two halves?
    pub(crate) fn is_kv_b(&self, path: &str) -> bool {
        self.names.is_some_and(|names| path.ends_with(&format!(".{}", names.kv_b)))
    }

    /// Paths of the embedding and the head.
    pub(crate) fn vocabulary_paths(&self) -> [&'static str; 2] {
        self.names.map_or(["token_embd", "output"], |names| [names.embedding, names.head])
    }
}

/// Positions that a model may have.
const MOST_POSITIONS: usize = 1 << 28;
/// Layers that a model may have, each expert's counted.
const MOST_LAYERS: usize = 1 << 20;

/// The path of both halves together, of `blk.3.attn_k_b`.
fn kv_b(names: &Names, stem: &str) -> String {
    let unsplit = format!("{}attn_kv_b.weight", stem.trim_end_matches("attn_k_b"));
    names.hugging_face(&unsplit).trim_end_matches(".weight").to_owned()
}

/// Refuses one of several files of a model.
fn check_not_split(path: &Path, header: &Header) -> Result<()> {
    if let Some(count) = header.metadata.get("split.count").and_then(|n| integer(n).ok()).filter(|n| *n > 1) {
        let message = format!("is one of {count} parts of a model; put them together with llama-gguf-split --merge");
        return Err(Error::model(path, message));
    }
    Ok(())
}

fn impossible(path: &Path, name: &str, info: &TensorInfo) -> Error {
    Error::model(path, format!("tensor `{name}` has the impossible shape {:?}", info.shape))
}

/// The heads that rows are ordered by.
fn row_order(keys: &Keys<'_>, file: GgufRows) -> Result<RowOrder> {
    let heads = keys.count("attention.head_count")?;
    let kv_heads = keys.count_if("attention.head_count_kv")?.unwrap_or(heads);
    let own = keys.count_if("attention.key_length")?;
    let head_dim = own.unwrap_or(keys.count("embedding_length")? / heads.max(1));
    if kv_heads == 0 || head_dim < 2 || head_dim % 2 != 0 || !heads.is_multiple_of(kv_heads) {
        let architecture = keys.architecture;
        let message = format!(
            "metadata `{architecture}.attention.head_count`, `.head_count_kv` and `.key_length` say {heads} and {kv_heads} heads of \
             {head_dim}, expected heads that divide and an even length"
        );
        return Err(Error::model(keys.path, message));
    }
    Ok(RowOrder { file, heads, kv_heads, head_dim })
}

#[cfg(test)]
mod tests;
