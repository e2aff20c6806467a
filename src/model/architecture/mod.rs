//! What a decoder is, as data: read from `config.json` or from GGUF metadata.
//!
//! A family is a variant of [`Family`] and a file in `families/`, which holds all that is known of it; the decoder itself knows only the
//! [`DecoderSpec`].

pub(crate) mod families;
mod gguf;
mod gguf_keys;
pub(crate) mod header;
mod hf;
mod hf_keys;
pub(crate) mod layers;
pub(crate) mod names;
pub(crate) mod outline;
mod rotary;
pub(crate) mod rows;
pub(crate) mod sizes;
mod unsupported;
mod write;

use std::path::Path;

pub use families::Family;
pub(crate) use gguf_keys::{Keys, integer};
use names::Names;
pub use rotary::{RopeScaling, Rotary, Yarn};
pub(crate) use unsupported::check as check_supported;

use crate::error::{Error, Result};
use crate::model::formats::gguf::Header;

/// Shape and constants of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// Which family.
    pub family: Family,
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Blocks.
    pub layers: usize,
    /// How tokens look at each other.
    pub attention: AttentionSpec,
    /// What each token does for itself.
    pub feed_forward: FeedForwardSpec,
    /// The norms of the blocks, and the last one.
    pub norm: NormSpec,
    /// How the place of a token is reported.
    pub positions: Positions,
    /// How the parts of a block follow each other.
    pub residual: Residual,
    /// What the embedding is multiplied by.
    pub embedding_scale: f64,
    /// A norm follows the embedding.
    pub embedding_norm: bool,
    /// The head is the embedding.
    pub tied_head: bool,
    /// Longest sequence, in tokens.
    pub context: usize,
    /// Tokens that end a text, from the configuration.
    pub eos: Vec<u32>,
}

/// Shape of the attention.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Width of a query and of a key.
    pub head_dim: usize,
    /// Width of a value.
    pub value_dim: usize,
    /// Where queries, keys and values come from.
    pub projection: Projection,
    /// The layers before the attention have biases.
    pub qkv_bias: bool,
    /// The layer after it has one.
    pub output_bias: bool,
    /// Queries and keys are normalised, head by head.
    pub qk_norm: bool,
    /// What scores are multiplied by.
    pub scale: f64,
    /// Layers that see only the last tokens.
    pub window: Option<Window>,
}

/// Where queries, keys and values come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Projection {
    /// Three linear layers.
    Separate,
    /// One linear layer whose rows are ordered so.
    Fused(FusedOrder),
    /// Low-rank latents: DeepSeek's multi-head latent attention (2024, arXiv 2405.04434).
    Latent(Latent),
}

/// Order of the rows of a fused layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FusedOrder {
    /// All queries, all keys, all values.
    Blocks,
    /// For each key-value head: its queries, its key, its value.
    ByGroup,
}

/// Ranks and widths of a latent attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latent {
    /// Rank of the queries; `None`: one full layer.
    pub q_rank: Option<usize>,
    /// Rank of keys and values together.
    pub kv_rank: usize,
    /// Width of a head's part that is not turned.
    pub nope: usize,
    /// Width of the part that is turned; all heads share its key.
    pub rope: usize,
}

/// A sliding window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Tokens that are seen, the token itself among them.
    pub size: usize,
    /// Which layers have it.
    pub layers: Vec<bool>,
}

/// How the place of a token is reported.
#[derive(Clone, Debug, PartialEq)]
pub enum Positions {
    /// Queries and keys are turned.
    Rotary {
        /// By these angles.
        global: Rotary,
        /// And in layers with a window by these, where they differ.
        local: Option<Rotary>,
    },
    /// Scores get a penalty that grows with the distance (Press et al. 2021, arXiv 2108.12409).
    Alibi {
        /// The steepest head's slope is 2^(−`max_bias` / heads), and so on down to 2^(−`max_bias`).
        max_bias: f64,
    },
    /// A learned vector is added to the embedding.
    Learned,
}

/// Shape of the feed-forward layers.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedForwardSpec {
    /// Width inside.
    pub intermediate_size: usize,
    /// What bends it.
    pub activation: Activation,
    /// A second layer is multiplied with the activation.
    pub gated: bool,
    /// Its layers have biases.
    pub bias: bool,
    /// Experts, in some layers.
    pub experts: Option<Experts>,
}

/// An activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x · σ(x)
    Silu,
    /// x · Φ(x)
    Gelu,
    /// Its approximation by tanh.
    GeluTanh,
}

impl Activation {
    fn named(path: &Path, name: &str) -> Result<Self> {
        match name {
            "silu" | "swish" => Ok(Self::Silu),
            "gelu" => Ok(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Self::GeluTanh),
            _ => Err(Error::model(
                path,
                format!(
                    "activation `{name}` is not known; known are: silu, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast"
                ),
            )),
        }
    }
}

/// A mixture of experts.
#[derive(Clone, Debug, PartialEq)]
pub struct Experts {
    /// How many there are.
    pub count: usize,
    /// How many a token uses.
    pub per_token: usize,
    /// Width inside of each.
    pub intermediate_size: usize,
    /// Width inside of the expert that every token uses; 0 for none.
    pub shared_size: usize,
    /// That expert is multiplied by a gate of its own.
    pub shared_gate: bool,
    /// Which layers have experts; the others are dense.
    pub layers: Vec<bool>,
    /// How they are chosen.
    pub router: Router,
}

/// How experts are chosen and weighed.
#[derive(Clone, Debug, PartialEq)]
pub struct Router {
    /// What turns the router's logits into scores.
    pub score: Score,
    /// A bias is added to the scores for the choice, not for the weights.
    pub correction: bool,
    /// Only the best groups of experts are chosen from.
    pub groups: Option<Groups>,
    /// The chosen experts' scores are divided by their sum.
    pub normalize: bool,
    /// What weights are multiplied by in the end.
    pub scale: f64,
}

/// What turns a router's logits into scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// Over all experts.
    Softmax,
    /// Each for itself.
    Sigmoid,
}

/// Groups of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// How many there are.
    pub count: usize,
    /// How many are chosen from.
    pub keep: usize,
    /// A group is as good as the sum of this many of its best experts.
    pub best: usize,
}

/// A norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormSpec {
    /// Of which kind.
    pub kind: NormKind,
    /// ε.
    pub eps: f64,
}

/// A kind of norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Root mean square (Zhang & Sennrich 2019, arXiv 1910.07467).
    Rms,
    /// The same, weights stored less 1.
    RmsPlusOne,
    /// Mean and variance (Ba et al. 2016, arXiv 1607.06450), with or without a bias.
    Layer {
        /// A bias is added.
        bias: bool,
    },
}

/// How the parts of a block follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// Norm, attention, add; norm, feed-forward, add.
    Sequential,
    /// As that, with a second norm before each addition.
    Sandwich,
    /// Attention and feed-forward beside each other, added together.
    Parallel {
        /// The feed-forward has a norm of its own.
        own_norm: bool,
    },
}

/// What a width or a length may be.
const MAX_WIDTH: usize = 1 << 28;
/// What the number of layers, heads or experts may be, and the width of a head: lists are made of them.
const MOST_PARTS: usize = 1 << 16;
/// Experts of all layers together: each is a name in memory.
const MOST_EXPERTS: usize = 1 << 18;

impl DecoderSpec {
    /// Reads a Hugging Face `config.json`, as transformers 4 or 5 writes it.
    ///
    /// # Errors
    /// A key that is missing, has another type, or names a family, activation or scaling that is not known.
    pub fn from_config(path: &Path) -> Result<Self> {
        let spec = hf::read(path)?;
        spec.check(path)?;
        Ok(spec)
    }

    /// Reads the content of a `config.json`; `path` is for messages.
    ///
    /// # Errors
    /// As [`Self::from_config`].
    pub(crate) fn from_config_value(path: &Path, config: &serde_json::Value) -> Result<Self> {
        let spec = hf::parse(path, config)?;
        spec.check(path)?;
        Ok(spec)
    }

    /// The `config.json` that says the same to transformers: what a GGUF model, which has none, is exported with. `path` is for messages.
    ///
    /// # Errors
    /// A model that Hugging Face's form of its family cannot describe.
    pub fn to_config(&self, path: &Path) -> Result<serde_json::Value> {
        let cannot = |why: &str| {
            let family = self.family.name();
            Error::model(path, format!("cannot be described by a config.json of the family {family}: {why}"))
        };
        let config =
            write::config(self).ok_or_else(|| cannot("its rotary scaling or its windows have no name there"))?;
        let again = hf::parse(path, &config)?;
        if write::same(self, &again) { Ok(config) } else { Err(cannot("what was written reads as another model")) }
    }

    /// Reads a GGUF file's metadata.
    ///
    /// # Errors
    /// As [`Self::from_config`].
    pub(crate) fn from_gguf(path: &Path, header: &Header) -> Result<Self> {
        let spec = gguf::read(path, header)?;
        spec.check(path)?;
        Ok(spec)
    }

    /// What Hugging Face calls its tensors.
    pub(crate) fn names(&self) -> Names {
        names::names(self.family, self.residual == Residual::Parallel { own_norm: true })
    }

    /// Tokens that a layer sees back to, itself among them; `None` for all.
    #[must_use]
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.attention.window.as_ref().filter(|w| w.layers.get(layer) == Some(&true)).map(|w| w.size)
    }

    /// The experts of a layer; `None` where it is dense.
    #[must_use]
    pub fn experts(&self, layer: usize) -> Option<&Experts> {
        self.feed_forward.experts.as_ref().filter(|e| e.layers.get(layer) == Some(&true))
    }

    fn check(&self, path: &Path) -> Result<()> {
        let a = &self.attention;
        let mut parts = vec![
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", a.heads),
            ("num_key_value_heads", a.kv_heads),
            ("head_dim", a.head_dim),
            ("v_head_dim", a.value_dim),
        ];
        let mut widths = vec![
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.feed_forward.intermediate_size),
            ("max_position_embeddings", self.context),
        ];
        if let Some(e) = &self.feed_forward.experts {
            parts.extend([("num_experts", e.count), ("num_experts_per_tok", e.per_token)]);
            widths.push(("moe_intermediate_size", e.intermediate_size));
            widths.push(("the shared expert's size", e.shared_size.max(1)));
            check_experts(path, e)?;
        }
        if let Projection::Latent(l) = &a.projection {
            parts.extend([("qk_nope_head_dim", l.nope), ("qk_rope_head_dim", l.rope)]);
            widths.extend([("kv_lora_rank", l.kv_rank), ("q_lora_rank", l.q_rank.unwrap_or(1))]);
        }
        for (counts, most) in [(parts, MOST_PARTS), (widths, MAX_WIDTH)] {
            if let Some((key, value)) = counts.iter().find(|(_, n)| *n == 0 || *n > most) {
                return Err(Error::model(path, format!("{key} is {value}, expected 1 to {most}")));
            }
        }
        let experts = self.feed_forward.experts.as_ref().map_or(0, |e| e.count);
        if self.layers.saturating_mul(experts) > MOST_EXPERTS {
            let layers = self.layers;
            let message = format!("{layers} layers of {experts} experts are more than {MOST_EXPERTS} experts in all");
            return Err(Error::model(path, message));
        }
        if !a.heads.is_multiple_of(a.kv_heads) {
            let (heads, kv) = (a.heads, a.kv_heads);
            return Err(Error::model(
                path,
                format!("{heads} attention heads do not divide among {kv} key-value heads"),
            ));
        }
        if !(self.norm.eps > 0.0 && self.norm.eps.is_finite()) {
            return Err(Error::model(path, format!("the norms' epsilon is {}, expected above 0", self.norm.eps)));
        }
        if !(a.scale > 0.0 && a.scale.is_finite() && self.embedding_scale.is_finite()) {
            return Err(Error::model(path, format!("attention scores would be multiplied by {}", a.scale)));
        }
        if let Positions::Rotary { global, local } = &self.positions {
            std::iter::once(global).chain(local).try_for_each(|rotary| rotary.check(path, a.head_dim))?;
        }
        Ok(())
    }
}

/// Checks that the groups and counts of experts allow as many as each token uses.
fn check_experts(path: &Path, e: &Experts) -> Result<()> {
    if e.per_token > e.count {
        let message = format!("num_experts_per_tok is {}, but there are {} experts", e.per_token, e.count);
        return Err(Error::model(path, message));
    }
    if let Some(g) = e.router.groups
        && (g.count == 0
            || g.keep == 0
            || g.keep > g.count
            || !e.count.is_multiple_of(g.count)
            || e.count / g.count < g.best
            || e.count / g.count * g.keep < e.per_token)
    {
        let message = format!(
            "{} experts in {} groups of which {} are kept cannot give {} experts a token",
            e.count, g.count, g.keep, e.per_token
        );
        return Err(Error::model(path, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::decoder::parity::fixture;

    /// The refusal of a family's configuration with some keys changed.
    fn refused(family: &str, changes: &[(&str, serde_json::Value)]) -> String {
        let text = std::fs::read_to_string(fixture(&format!("{family}/config.json"))).expect("a configuration");
        let mut json: serde_json::Value = serde_json::from_str(&text).expect("json");
        for (key, value) in changes {
            json[key] = value.clone();
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config.json");
        std::fs::write(&path, json.to_string()).expect("a file");
        DecoderSpec::from_config(&path).expect_err("must be refused").to_string()
    }

    #[test]
    fn what_is_not_known_is_refused_by_name_with_what_is() {
        use serde_json::json;
        let cases = [
            ("llama", "model_type", json!("mamba"), "model family `mamba` is not known; known are: llama, qwen2"),
            ("llama", "hidden_act", json!("relu6"), "activation `relu6` is not known; known are: silu, gelu"),
            ("llama", "rope_scaling", json!({"rope_type": "longrope"}), "known are: default, linear, llama3, yarn"),
            ("deepseek_v3", "scoring_func", json!("tanh"), "this router is not known; known are: softmax, sigmoid"),
            ("deepseek_v3", "topk_method", json!("random"), "known are: greedy, group_limited_greedy, noaux_tc"),
            ("gemma3_text", "layer_types", json!(["full_attention"]), "names 1 layers, but num_hidden_layers is 4"),
            ("falcon", "alibi", json!(true), "alibi is true: this is not supported"),
            ("mpt", "attn_config", json!({"alibi": false}), "only MPT with ALiBi"),
            ("bloom", "apply_residual_connection_post_layernorm", json!(true), "this is not supported"),
        ];
        for (family, key, value, expected) in cases {
            let message = refused(family, &[(key, value)]);
            assert!(message.contains("config.json") && message.contains(expected), "{family} {key}: {message}");
        }
    }

    #[test]
    fn numbers_that_cannot_be_are_refused() {
        use serde_json::json;
        let cases = [
            ("llama", "hidden_size", json!("64"), "hidden_size is \"64\", expected a whole number"),
            ("llama", "hidden_size", json!(null), "hidden_size is missing"),
            ("llama", "vocab_size", json!(0), "vocab_size is 0, expected 1 to"),
            ("llama", "vocab_size", json!(1u64 << 40), "expected 1 to"),
            ("llama", "num_attention_heads", json!(0), "num_attention_heads is 0"),
            (
                "llama",
                "num_hidden_layers",
                json!(1u64 << 40),
                "num_hidden_layers is 1099511627776, expected 1 to 65536",
            ),
            ("qwen3_moe", "num_hidden_layers", json!(70_000), "num_hidden_layers is 70000, expected 1 to 65536"),
            ("bloom", "n_head", json!(1u64 << 27), "num_attention_heads is 134217728, expected 1 to 65536"),
            ("llama", "num_key_value_heads", json!(3), "4 attention heads do not divide among 3 key-value heads"),
            ("llama", "head_dim", json!(15), "expected an even number"),
            ("llama", "rms_norm_eps", json!(0.0), "epsilon is 0, expected above 0"),
            ("llama", "rope_scaling", json!({"rope_type": "linear"}), "factor is missing"),
            ("llama", "rope_scaling", json!({"rope_type": "linear", "factor": 0.0}), "factor of the rotary"),
            ("qwen3_moe", "num_experts_per_tok", json!(9), "num_experts_per_tok is 9, but there are 8 experts"),
            ("deepseek_v3", "n_group", json!(3), "8 experts in 3 groups"),
            ("deepseek_v3", "kv_lora_rank", json!(0), "kv_lora_rank is 0"),
        ];
        for (family, key, value, expected) in cases {
            let message = refused(family, &[(key, value)]);
            assert!(message.contains(expected), "{family} {key}: {message}");
        }
    }
}
