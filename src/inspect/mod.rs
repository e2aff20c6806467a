//! What a model is on paper, and which traps it has; what is in an adapter. No weight is computed with.

mod adapter;
mod coverage;
mod license;
mod shape;
mod spectrum;
mod subject;
mod traps;
mod words;

pub use adapter::{AdaptedLayer, AdapterInspection, inspect_adapter};
pub use coverage::{Coverage, FallenBack, HardExample, ScriptCoverage, coverage};
pub use license::License;
pub use subject::TensorGroup;
pub use traps::{FoundTrap, Trap, traps};

use self::subject::Subject;
use crate::error::Result;
use crate::model::tokenizer::Token;
use crate::model::{ModelFiles, Sizes};

/// What a model is.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Inspection {
    /// As `model_type`, or as GGUF calls it where there is no decoder of it here.
    pub family: String,
    /// Whether finetest has a decoder of its own for the family. llama.cpp may have one of others.
    pub decoder: bool,
    /// Blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Heads and widths, in words.
    pub attention: String,
    /// How the model knows the place of a token, in words.
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
    let shape = &subject.shape;
    let tokens = subject.tokens.as_ref().map(|tokens| Tokens {
        count: tokens.count,
        prefix: tokens.prefix.clone(),
        ends: tokens.ends.clone(),
        pad: tokens.pad.clone(),
        special: tokens.special.len(),
    });
    Ok(Inspection {
        family: shape.family.clone(),
        decoder: shape.decoder,
        layers: shape.layers,
        hidden_size: shape.hidden_size,
        vocab_size: shape.vocab_size,
        attention: shape.attention.clone(),
        positions: words::positions(shape.positions.as_ref()),
        trained_context: shape.context,
        norm: words::norm(shape.norm),
        experts: shape.experts.clone(),
        tokens,
        chat_template: subject.template.is_some(),
        license: subject.license.clone(),
        tensors: subject.groups.clone(),
        traps: traps::found(&subject),
        sizes: shape.sizes,
    })
}
