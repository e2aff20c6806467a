//! A model's files opened: its decoder, or what its header tells without the weights.

use std::path::Path;

use super::architecture::DecoderSpec;
use super::architecture::outline::Outline;
use super::architecture::rows::GgufRows;
use super::decoder::Decoder;
use super::decoder::weights::Weights;
use super::formats::gguf::Header;
use super::formats::mapped::map_file;
use super::lora::{self, Adapter};
use super::ops::bf16::arithmetic;
use super::sources::{ModelFiles, ModelKind};
use super::tokenizer::ChatTokenizer;
use crate::config::ModelConfig;
use crate::error::{Error, Result};

/// Loads a model's decoder.
///
/// # Errors
/// Files that are missing, truncated, corrupt, of an unknown family, or that contradict each other.
pub(crate) fn load_decoder(files: &ModelFiles, config: &ModelConfig) -> Result<Decoder> {
    let (mut spec, weights) = open_weights(files)?;
    let rows = match &files.kind {
        ModelKind::Gguf(_) => spec.family.facts().rows,
        ModelKind::HuggingFace(_) => GgufRows::Same,
    };
    spec.context = context(files, config, spec.context)?;
    Decoder::load(spec, &weights, rows, arithmetic(config.dtype))
}

/// What a model is, from its configuration or its file's header.
///
/// # Errors
/// It cannot be read, or is of a family that is not known.
pub(crate) fn spec_of(files: &ModelFiles) -> Result<DecoderSpec> {
    match &files.kind {
        ModelKind::Gguf(path) => gguf_spec(path),
        ModelKind::HuggingFace(found) => DecoderSpec::from_config(&found.config),
    }
}

/// What a model is, and its weights by Hugging Face's names, mapped and not read.
///
/// # Errors
/// As [`spec_of`]; files that are missing, truncated or corrupt, or hold types of numbers that are not read.
fn open_weights(files: &ModelFiles) -> Result<(DecoderSpec, Weights)> {
    match &files.kind {
        ModelKind::Gguf(path) => {
            let map = map_file(path)?;
            let header = Header::read(path, &map)?;
            let spec = DecoderSpec::from_gguf(path, &header)?;
            let names = spec.names();
            let weights = Weights::gguf(path, &map, &header, |name| names.hugging_face(name))?;
            Ok((spec, weights))
        }
        ModelKind::HuggingFace(found) => {
            Ok((DecoderSpec::from_config(&found.config)?, Weights::safetensors(&files.root, &found.weights)?))
        }
    }
}

/// What a model's layers are called, and its weights by those names, mapped and not read; whatever its family.
///
/// # Errors
/// As [`outline`]; files that are missing, truncated or corrupt, or hold types of numbers that are not read.
pub(crate) fn open_outlined(files: &ModelFiles) -> Result<(Outline, Weights)> {
    match &files.kind {
        ModelKind::Gguf(path) => {
            let map = map_file(path)?;
            let header = Header::read(path, &map)?;
            let outline = Outline::of_gguf(path, &header, map.len())?;
            let weights = Weights::gguf(path, &map, &header, |name| outline.hugging_face(name))?;
            Ok((outline, weights))
        }
        ModelKind::HuggingFace(found) => Ok((
            Outline::of(&DecoderSpec::from_config(&found.config)?),
            Weights::safetensors(&files.root, &found.weights)?,
        )),
    }
}

/// A base whose decoder is loaded.
pub(crate) struct Opened {
    pub(crate) files: ModelFiles,
    pub(crate) config: ModelConfig,
    pub(crate) decoder: Decoder,
}

impl Opened {
    /// Loads the decoder.
    ///
    /// # Errors
    /// As [`load_decoder`].
    pub(crate) fn load(files: ModelFiles, config: &ModelConfig) -> Result<Self> {
        let decoder = load_decoder(&files, config)?;
        Ok(Self { files, config: config.clone(), decoder })
    }

    /// The tokenizer and the template; `None` of a model without a tokenizer.
    ///
    /// # Errors
    /// It cannot be read, or is another model's.
    pub(crate) fn chat(&self) -> Result<Option<ChatTokenizer>> {
        if !ChatTokenizer::is_there(&self.files)? {
            return Ok(None);
        }
        let chat = ChatTokenizer::load(&self.files, &self.config)?;
        chat.check_fits(self.decoder.spec.vocab_size)?;
        Ok(Some(chat))
    }

    /// The adapter at a path, and what a person should know of it. Paths that it names may be relative to `root`.
    ///
    /// # Errors
    /// It cannot be read, or does not fit the base.
    pub(crate) fn adapter(&self, path: &Path, root: &Path) -> Result<(Adapter, Vec<String>)> {
        let outline = Outline::of(&self.decoder.spec);
        let adapter = lora::open(path, &outline)?;
        let notes = lora::provenance::notes(&adapter, root, &self.files, &self.config, &outline)?;
        Ok((adapter, notes))
    }
}

/// A model without its weights, from `config.json`, or from a GGUF header whatever its family and its types of tensors.
///
/// # Errors
/// A configuration or a header that is corrupt or lacks something, or an unknown family.
pub(crate) fn outline(files: &ModelFiles, config: &ModelConfig) -> Result<Outline> {
    let mut outline = match &files.kind {
        ModelKind::HuggingFace(found) => Outline::of(&DecoderSpec::from_config(&found.config)?),
        ModelKind::Gguf(path) => {
            let map = map_file(path)?;
            Outline::of_gguf(path, &Header::read(path, &map)?, map.len())?
        }
    };
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
