//! What a model's files say of its tokens, where the tokenizer of a GGUF file need not be built for it.

use std::path::Path;

use serde_json::Value as Json;

use super::gguf::Gguf;
use super::{GgufMetadata, Tokenizer, token_type};
use crate::error::Result;
use crate::model::formats::json::read_json;
use crate::model::sources::HfFiles;

/// A token's id and how the vocabulary spells it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Token {
    pub(crate) id: u32,
    pub(crate) token: String,
}

/// The tokens of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenFacts {
    /// How many there are.
    pub(crate) count: usize,
    /// Put before a raw text.
    pub(crate) prefix: Vec<Token>,
    /// Begins a text.
    pub(crate) bos: Option<Token>,
    /// Ends a text.
    pub(crate) eos: Option<Token>,
    /// Fills batches.
    pub(crate) pad: Option<Token>,
    /// All that end an answer by the files: of GGUF `eos` and `eot`, of a directory those of `generation_config.json` too.
    pub(crate) ends: Vec<Token>,
    /// Those that structure a text.
    pub(crate) special: Vec<Token>,
}

impl TokenFacts {
    /// Of a GGUF file; `None` of one without a tokenizer.
    ///
    /// # Errors
    /// Keys of another type than they must have.
    pub(crate) fn of_gguf(path: &Path, metadata: &GgufMetadata) -> Result<Option<Self>> {
        if !metadata.contains_key("tokenizer.ggml.tokens") {
            return Ok(None);
        }
        let gguf = Gguf { path, metadata };
        let tokens = gguf.texts("tokenizer.ggml.tokens")?;
        let types = gguf.token_types(tokens.len())?;
        let token = |id: u32| Token { id, token: tokens[id as usize].to_owned() };
        let named = |name: &str| -> Result<Option<Token>> {
            Ok(gguf.id(&format!("tokenizer.ggml.{name}_token_id"), tokens.len())?.map(token))
        };
        let (bos, eos, eot, pad) = (named("bos")?, named("eos")?, named("eot")?, named("padding")?);
        let adds_bos = gguf.adds_bos()?;
        let mut ends: Vec<Token> = eos.clone().into_iter().chain(eot).collect();
        ends.dedup();
        let special = (0u32..).zip(&types).filter(|(_, kind)| token_type::is_special(**kind)).map(|(id, _)| token(id));
        Ok(Some(Self {
            count: tokens.len(),
            prefix: bos.clone().into_iter().filter(|_| adds_bos).collect(),
            special: special.collect(),
            bos,
            eos,
            pad,
            ends,
        }))
    }

    /// Of a directory in the hub's layout; `None` of one without a `tokenizer.json`.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub(crate) fn of_directory(files: &HfFiles) -> Result<Option<Self>> {
        let Some(path) = &files.tokenizer else { return Ok(None) };
        let mut tokenizer = Tokenizer::from_file(path)?;
        tokenizer.read_ids(files)?;
        let config = files.tokenizer_config.as_deref().map(read_json).transpose()?.unwrap_or_default();
        let token = |id: u32| Token { id, token: tokenizer.token(id).unwrap_or_default() };
        let named = |value: &Json| {
            let text = value.as_str().or_else(|| value["content"].as_str())?;
            tokenizer.id_of(text).map(token)
        };
        let mut special: Vec<u32> = tokenizer.special.iter().copied().collect();
        special.sort_unstable();
        Ok(Some(Self {
            count: tokenizer.vocab_size,
            prefix: tokenizer.prefix.iter().copied().map(token).collect(),
            bos: tokenizer.bos.map(token),
            eos: tokenizer.eos.map(token),
            pad: named(&config["pad_token"]),
            ends: tokenizer.stop.iter().copied().map(token).collect(),
            special: special.into_iter().map(token).collect(),
        }))
    }
}
