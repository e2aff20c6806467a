//! What a model is on paper, and which traps it has; what is in an adapter. No weight is computed with.

mod adapter;
mod coverage;
mod license;
mod spectrum;
mod subject;
mod traps;

pub use adapter::{AdaptedLayer, AdapterInspection, inspect_adapter};
pub use coverage::{Coverage, FallenBack, HardExample, ScriptCoverage, coverage};
pub use license::License;
pub use subject::TensorGroup;
pub use traps::{FoundTrap, Trap, traps};

use self::subject::Subject;
use crate::error::Result;
use crate::model::architecture::{NormKind, Positions, Projection, RopeScaling};
use crate::model::tokenizer::Token;
use crate::model::{DecoderSpec, ModelFiles, Sizes};

/// What a model is.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Inspection {
    /// As `model_type`.
    pub family: &'static str,
    /// Blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Heads and widths, in words.
    pub attention: String,
    /// How places are told, in words.
    pub positions: String,
    /// Tokens of the longest text.
    pub trained_context: usize,
    /// The kind of norm, in words.
    pub norm: String,
    /// Experts, in words; `None` of a dense model.
    pub experts: Option<String>,
    /// Its tokens; `None` without a tokenizer.
    pub tokens: Option<Tokens>,
    /// Whether there is a chat template.
    pub chat_template: bool,
    /// The licence, where a file says it.
    pub license: Option<License>,
    /// Types of numbers by part; empty without weights.
    pub tensors: Vec<TensorGroup>,
    /// What goes wrong with this model and not with others.
    pub traps: Vec<FoundTrap>,
    /// Numbers of values.
    #[serde(skip)]
    pub sizes: Sizes,
}

/// Tokens of a model.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Tokens {
    /// How many there are.
    pub count: usize,
    /// What is put before a raw text.
    pub(crate) prefix: Vec<Token>,
    /// What ends an answer by the files.
    pub(crate) ends: Vec<Token>,
    /// What fills batches.
    pub(crate) pad: Option<Token>,
    /// How many structure a text.
    pub special: usize,
}

/// Inspects a model.
///
/// # Errors
/// A file that is corrupt, or a family that is not known.
pub fn inspect(files: &ModelFiles) -> Result<Inspection> {
    let subject = Subject::read(files)?;
    let spec = &subject.spec;
    let tokens = subject.tokens.as_ref().map(|tokens| Tokens {
        count: tokens.count,
        prefix: tokens.prefix.clone(),
        ends: tokens.ends.clone(),
        pad: tokens.pad.clone(),
        special: tokens.special.len(),
    });
    Ok(Inspection {
        family: spec.family.name(),
        layers: spec.layers,
        hidden_size: spec.hidden_size,
        vocab_size: spec.vocab_size,
        attention: attention(spec),
        positions: positions(&spec.positions),
        trained_context: spec.context,
        norm: norm(spec),
        experts: experts(spec),
        tokens,
        chat_template: subject.template.is_some(),
        license: subject.license.clone(),
        tensors: subject.groups.clone(),
        traps: traps::found(&subject),
        sizes: Sizes::of(spec),
    })
}

fn attention(spec: &DecoderSpec) -> String {
    let a = &spec.attention;
    let mut words = format!("{} heads of {}, {} for keys and values", a.heads, a.head_dim, a.kv_heads);
    match &a.projection {
        Projection::Separate => {}
        Projection::Fused(_) => words.push_str(", one layer for all three"),
        Projection::Latent(latent) => words.push_str(&format!(", latents of {} and {}", latent.kv_rank, latent.rope)),
    }
    for (there, what) in [(a.qkv_bias, "biases"), (a.qk_norm, "norms on queries and keys")] {
        if there {
            words.push_str(&format!(", {what}"));
        }
    }
    if let Some(window) = &a.window {
        let layers = window.layers.iter().filter(|slides| **slides).count();
        words.push_str(&format!(", {layers} layers see the last {}", window.size));
    }
    words
}

fn positions(positions: &Positions) -> String {
    match positions {
        Positions::Learned => "learned".to_owned(),
        Positions::Alibi { .. } => "ALiBi".to_owned(),
        Positions::Rotary { global, .. } => {
            let scaling = match &global.scaling {
                RopeScaling::None => "no scaling".to_owned(),
                RopeScaling::Linear { factor } => format!("linear scaling by {factor}"),
                RopeScaling::Llama3 { factor, .. } => format!("Llama 3.1's scaling by {factor}"),
                RopeScaling::Yarn(yarn) => format!("YaRN by {}", yarn.factor),
                RopeScaling::Factors(_) => "a factor for each frequency".to_owned(),
            };
            format!("RoPE of θ {}, {scaling}", global.theta as f32)
        }
    }
}

fn norm(spec: &DecoderSpec) -> String {
    let kind = match spec.norm.kind {
        NormKind::Rms => "RMSNorm",
        NormKind::RmsPlusOne => "RMSNorm, weights less 1",
        NormKind::Layer { bias: true } => "LayerNorm with bias",
        NormKind::Layer { bias: false } => "LayerNorm",
    };
    // Files hold it in 32 bits.
    format!("{kind}, ε {:e}", spec.norm.eps as f32)
}

fn experts(spec: &DecoderSpec) -> Option<String> {
    let e = spec.feed_forward.experts.as_ref()?;
    let layers = e.layers.iter().filter(|there| **there).count();
    let shared = if e.shared_size > 0 { format!(", a shared one of {}", e.shared_size) } else { String::new() };
    Some(format!(
        "{} of {}, {} for each token, in {layers} of {} layers{shared}",
        e.count, e.intermediate_size, e.per_token, spec.layers
    ))
}
