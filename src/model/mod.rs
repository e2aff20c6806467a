//! The base model: where its files come from, its tokenizer, its chat template, and the decoder.

mod attention;
pub(crate) mod cache;
pub(crate) mod decoder;
mod feed_forward;
pub(crate) mod linear;
pub(crate) mod loader;
pub(crate) mod names;
mod norm;
pub(crate) mod ops;
#[cfg(test)]
pub(crate) mod parity;
mod pretokenizer;
mod sentencepiece;
mod sizes;
pub mod source;
pub mod spec;
pub(crate) mod tape;
pub mod template;
pub mod tokenizer;
pub(crate) mod weights;

use std::io::Cursor;
use std::path::Path;

use candle_core::quantized::gguf_file::Content;

pub use sizes::Sizes;
pub use source::{ModelFiles, ModelKind, SourceEvent};
pub use spec::{DecoderSpec, Family};
pub use template::ChatTemplate;
pub use tokenizer::Tokenizer;

use crate::config::{Dtype, ModelConfig};
use crate::error::{Error, Result};
use crate::record::{Message, Prompt};
use decoder::Decoder;
use names::GgufRows;
use ops::bf16::has_units;
use weights::{Weights, map_file};

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

/// A model's tokenizer and template: what turns prompts into tokens and tokens into text.
pub(crate) struct Voice {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) template: Option<ChatTemplate>,
    files: ModelFiles,
}

impl Voice {
    /// Reads tokenizer and template of a model.
    pub(crate) fn load(files: &ModelFiles, config: &ModelConfig) -> Result<Self> {
        let mut tokenizer = Tokenizer::load(files)?;
        let template = ChatTemplate::load(files, config.chat_template.as_deref(), &mut tokenizer)?;
        Ok(Self { tokenizer, template, files: files.clone() })
    }

    /// Says no to a tokenizer that is another model's, whose vocabulary has `rows` rows.
    ///
    /// # Errors
    /// It has ids that the model has no row for, or far fewer than the model has rows: those are padded, but by a few.
    pub(crate) fn check_fits(&self, rows: usize) -> Result<()> {
        let tokens = self.tokenizer.vocab_size();
        if tokens <= rows && rows - tokens <= rows / 8 {
            return Ok(());
        }
        Err(Error::model(
            &self.files.root,
            format!(
                "the tokenizer has {tokens} tokens, but the model's vocabulary is {rows}: they are not of one model; \
                 put the model's own tokenizer.json and tokenizer_config.json there"
            ),
        ))
    }

    /// The chat template, or an error that says what to do without one.
    pub(crate) fn template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().ok_or_else(|| ChatTemplate::missing(&self.files))
    }

    /// A prompt's text, as the model reads it.
    pub(crate) fn render(&self, prompt: &Prompt) -> Result<String> {
        match prompt {
            Prompt::Messages(messages) => self.render_messages(messages),
            Prompt::Text(text) => Ok(text.clone()),
        }
    }

    fn render_messages(&self, messages: &[Message]) -> Result<String> {
        self.template()?.render(messages, true)
    }

    /// Tokens of a prompt. Raw text gets the tokenizer's own beginning (a BOS, where it has one).
    pub(crate) fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>> {
        let text = self.render(prompt)?;
        match prompt {
            Prompt::Messages(_) => self.tokenizer.encode(&text, true),
            Prompt::Text(_) => self.tokenizer.encode_raw(&text),
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
            let content = read_gguf(path, &map)?;
            let spec = DecoderSpec::from_gguf(path, &content)?;
            let own_norm = spec.residual == spec::Residual::Parallel { own_norm: true };
            let names = names::names(spec.family, own_norm);
            let weights = Weights::gguf(path, &map, &content, |name| names.hugging_face(name))?;
            let rows = names::gguf_rows(spec.family);
            (spec, weights, rows)
        }
        ModelKind::HuggingFace(found) => {
            let spec = DecoderSpec::from_config(&found.config)?;
            (spec, Weights::safetensors(&files.root, &found.weights)?, GgufRows::Same)
        }
    };
    if let Some(context) = config.context {
        if context > spec.context {
            let most = spec.context;
            return Err(Error::model(
                &files.root,
                format!("[model] context is {context}, but the model has {most} positions"),
            ));
        }
        spec.context = context;
    }
    Decoder::load(spec, &weights, rows, Arithmetic::of(config.dtype))
}

/// The description of a GGUF file's model.
///
/// # Errors
/// As [`DecoderSpec::from_config`], and a file that is not GGUF.
pub fn gguf_spec(path: &Path) -> Result<DecoderSpec> {
    let map = map_file(path)?;
    DecoderSpec::from_gguf(path, &read_gguf(path, &map)?)
}

/// The header of a GGUF file that was mapped.
///
/// # Errors
/// It is truncated, corrupt or something else.
pub(crate) fn read_gguf(path: &Path, bytes: &[u8]) -> Result<Content> {
    // The reader divides by the file's own alignment; 0 there must not end the process.
    let read = std::panic::catch_unwind(|| Content::read(&mut Cursor::new(bytes)));
    match read {
        Ok(Ok(content)) => Ok(content),
        Ok(Err(error)) if error.to_string().contains("unknown dtype for tensor") => Err(Error::model(
            path,
            "holds tensors in a type that is not read (IQ, TQ and MXFP4 are not), or is corrupt; read are F32, F16, BF16, Q4_0, Q4_1, \
             Q5_0, Q5_1, Q8_0 and Q2_K to Q8_K: quantise it to one of those, as with llama-quantize",
        )),
        Ok(Err(error)) => {
            Err(Error::model(path, format!("not a GGUF file, truncated or corrupt: {error}; download it again")))
        }
        Err(_) => Err(Error::model(path, "not a usable GGUF file: its header is corrupt; download it again")),
    }
}
