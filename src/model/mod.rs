//! The base model: where its files come from, its tokenizer, its chat template, and the decoder.

pub mod architecture;
mod attention;
pub(crate) mod cache;
pub(crate) mod decoder;
mod feed_forward;
pub(crate) mod formats;
pub(crate) mod linear;
pub(crate) mod loader;
mod norm;
pub(crate) mod ops;
#[cfg(test)]
pub(crate) mod parity;
pub mod sources;
pub(crate) mod tape;
pub mod tokenizer;
pub(crate) mod weights;

use std::path::Path;

pub use crate::model::architecture::sizes::Sizes;
pub use crate::model::architecture::{DecoderSpec, Family};
pub use crate::model::sources::{ModelFiles, ModelKind, SourceEvent};
pub use crate::model::tokenizer::template::ChatTemplate;

use crate::config::{Dtype, ModelConfig};
use crate::error::{Error, Result};
use crate::model::architecture::outline::Outline;
use crate::model::architecture::rows::GgufRows;
use crate::model::formats::gguf::Header;
use crate::model::formats::mapped::map_file;
use decoder::Decoder;
use ops::bf16::has_units;
use weights::Weights;

/// What products with the base's weights are computed in. All else is in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    #[default]
    F32,
    /// Both sides are rounded to bf16, the sums are in f32.
    Bf16,
}

impl Arithmetic {
    /// What a configuration asks for, on this processor.
    pub(crate) fn of(dtype: Dtype) -> Self {
        match dtype {
            Dtype::Auto if !has_units() => Self::F32,
            Dtype::Auto | Dtype::Bf16 => Self::Bf16,
            Dtype::F32 => Self::F32,
        }
    }
}

/// Loads a model's decoder.
///
/// # Errors
/// Files that are missing, truncated, corrupt, of an unknown family, or that contradict each other.
pub(crate) fn load_decoder(files: &ModelFiles, config: &ModelConfig) -> Result<Decoder> {
    let (mut spec, weights, rows) = match &files.kind {
        ModelKind::Gguf(path) => {
            let map = map_file(path)?;
            let header = Header::read(path, &map)?;
            let spec = DecoderSpec::from_gguf(path, &header)?;
            let own_norm = spec.residual == architecture::Residual::Parallel { own_norm: true };
            let names = architecture::names::names(spec.family, own_norm);
            let weights = Weights::gguf(path, &map, &header, |name| names.hugging_face(name))?;
            let rows = spec.family.facts().rows;
            (spec, weights, rows)
        }
        ModelKind::HuggingFace(found) => {
            let spec = DecoderSpec::from_config(&found.config)?;
            (spec, Weights::safetensors(&files.root, &found.weights)?, GgufRows::Same)
        }
    };
    spec.context = context(files, config, spec.context)?;
    Decoder::load(spec, &weights, rows, Arithmetic::of(config.dtype))
}

/// A model without its weights; of a GGUF file whatever its family and its types of tensors.
///
/// # Errors
/// As [`load_decoder`] for safetensors; for GGUF a header that is corrupt or lacks something.
pub(crate) fn outline(files: &ModelFiles, config: &ModelConfig) -> Result<Outline> {
    let ModelKind::Gguf(path) = &files.kind else { return Ok(Outline::of(&load_decoder(files, config)?)) };
    let map = map_file(path)?;
    let mut outline = Outline::of_gguf(path, &Header::read(path, &map)?, map.len())?;
    outline.context = context(files, config, outline.context)?;
    Ok(outline)
}

/// What a model's header says of what it can be asked.
pub(crate) struct Limits {
    /// Positions that are used.
    pub(crate) context: usize,
    /// Rows of its vocabulary.
    pub(crate) vocabulary: usize,
}

/// A model's limits, from `config.json` or a GGUF header alone.
///
/// # Errors
/// As [`outline`].
pub(crate) fn limits(files: &ModelFiles, config: &ModelConfig) -> Result<Limits> {
    match &files.kind {
        ModelKind::Gguf(_) => outline(files, config).map(|o| Limits { context: o.context, vocabulary: o.vocabulary }),
        ModelKind::HuggingFace(found) => {
            let spec = DecoderSpec::from_config(&found.config)?;
            Ok(Limits { context: context(files, config, spec.context)?, vocabulary: spec.vocab_size })
        }
    }
}

/// The positions that are used of those that the model has.
///
/// # Errors
/// The configuration asks for more.
pub(crate) fn context(files: &ModelFiles, config: &ModelConfig, most: usize) -> Result<usize> {
    match config.context {
        Some(context) if context > most => {
            let message = format!("[model] context is {context}, but the model has {most} positions");
            Err(Error::model(&files.root, message))
        }
        Some(context) => Ok(context),
        None => Ok(most),
    }
}

/// The description of a GGUF file's model.
///
/// # Errors
/// As [`DecoderSpec::from_config`], and a file that is not GGUF.
pub fn gguf_spec(path: &Path) -> Result<DecoderSpec> {
    let map = map_file(path)?;
    DecoderSpec::from_gguf(path, &Header::read(path, &map)?)
}
