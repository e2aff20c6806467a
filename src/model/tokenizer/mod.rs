//! Text to token ids and back, from `tokenizer.json` or rebuilt from a GGUF file's metadata.
//!
//! Special tokens spelt in a text (`<|im_start|>`) become those tokens when the caller asks for it. A rendered chat template is
//! tokenised whole with `special = true`, as transformers' `apply_chat_template` does: what a user's message spells is then a
//! special token too. That is the reference behaviour and the model's answers depend on it, so it is kept; text that must stay
//! text is encoded with `special = false`.

mod chat;
mod facts;
mod gguf;
mod pretokenizer;
mod sentencepiece;
pub mod template;

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use candle_core::quantized::gguf_file::Value;
use serde_json::Value as Json;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{DecoderWrapper, ModelWrapper};

pub(crate) use chat::ChatTokenizer;
pub(crate) use facts::{Token, TokenFacts};
pub use template::ChatTemplate;

use self::gguf::Gguf;
use super::sources::{HfFiles, ModelFiles, ModelKind};
use crate::error::{Error, Result};
use crate::files::read_regular;
use crate::model::formats::MOST_TOKENIZER_BYTES;
use crate::model::formats::json::{read_json, refuse_mark};

/// Metadata of a GGUF file by key, as candle reads it.
pub type GgufMetadata = HashMap<String, Value>;

/// What `tokenizer.ggml.token_type` says of a token.
pub(super) mod token_type {
    pub(crate) const NORMAL: i64 = 1;
    pub(crate) const UNKNOWN: i64 = 2;
    pub(crate) const CONTROL: i64 = 3;
    pub(crate) const USER_DEFINED: i64 = 4;
    pub(crate) const UNUSED: i64 = 5;

    /// Whether a token of this type structures a text.
    pub(crate) fn is_special(kind: i64) -> bool {
        matches!(kind, UNKNOWN | CONTROL)
    }
}

/// A model's tokenizer with the ids that begin a text and end a turn.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The same, with special tokens read as plain text; made when first asked for.
    plain: OnceLock<Box<tokenizers::Tokenizer>>,
    path: PathBuf,
    byte_level: bool,
    special: HashSet<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    stop: Vec<u32>,
    prefix: Vec<u32>,
    vocab_size: usize,
    /// The highest id and its token, where ids have holes and so reach past the number of tokens.
    beyond: Option<(u32, String)>,
    fingerprint: blake3::Hash,
}

impl Tokenizer {
    /// The tokenizer of a model: `tokenizer.json` with the ids of `tokenizer_config.json`, `generation_config.json` and
    /// `config.json`, or the one inside the GGUF file.
    ///
    /// # Errors
    /// A missing or malformed file, or a kind of tokenizer that is not known: named, with those that are.
    pub fn load(files: &ModelFiles) -> Result<Self> {
        match &files.kind {
            ModelKind::Gguf(path) => Self::from_gguf(path, &gguf_metadata(path)?),
            ModelKind::HuggingFace(files) => {
                let Some(path) = &files.tokenizer else {
                    let message = "has no tokenizer.json; a slow tokenizer (tokenizer.model, vocab.json) must be converted: \
                                   AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)";
                    return Err(Error::model(&files.dir, message));
                };
                let mut tokenizer = Self::from_file(path)?;
                tokenizer.read_ids(files)?;
                Ok(tokenizer)
            }
        }
    }

    /// Reads a `tokenizer.json`. It knows no `bos`, `eos` or stop ids: those are in other files, see [`Tokenizer::load`].
    ///
    /// # Errors
    /// A file that cannot be read or is not a tokenizer.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = read_regular(path, MOST_TOKENIZER_BYTES)?;
        if bytes.starts_with("\u{feff}".as_bytes()) {
            refuse_mark(path, "\u{feff}")?;
        }
        // The library panics on some inconsistent merges.
        let parsed = catch_unwind(AssertUnwindSafe(|| tokenizers::Tokenizer::from_bytes(&bytes)));
        let mut inner = parsed
            .map_err(|_| Error::model(path, "its merges do not fit its vocabulary"))?
            .map_err(|e| Error::model(path, format!("is not a tokenizer: {e}")))?;
        inner.with_truncation(None).map_err(|e| Error::model(path, e.to_string()))?;
        inner.with_padding(None);
        without_chance(&mut inner);
        let mut tokenizer = Self::wrap(inner, path, blake3::hash(&bytes));
        tokenizer.vocab_size = tokenizer.inner.get_vocab_size(true);
        tokenizer.beyond = tokenizer.id_beyond()?;
        tokenizer.prefix = tokenizer.added_prefix()?;
        Ok(tokenizer)
    }

    /// Rebuilds a byte-level BPE or a SentencePiece BPE tokenizer from a GGUF file's metadata; `path` is for messages.
    ///
    /// No Unicode normalisation is applied, as llama.cpp applies none.
    ///
    /// # Errors
    /// Missing or inconsistent keys; `tokenizer.ggml.model` other than `gpt2` and `llama`; an unknown `tokenizer.ggml.pre`.
    pub fn from_gguf(path: impl AsRef<Path>, metadata: &GgufMetadata) -> Result<Self> {
        let gguf = Gguf { path: path.as_ref(), metadata };
        let tokens = gguf.texts("tokenizer.ggml.tokens")?;
        let types = gguf.token_types(tokens.len())?;
        let rebuilt = match gguf.text("tokenizer.ggml.model")?.unwrap_or_default() {
            "gpt2" => gguf.byte_level(&tokens, &types)?,
            "llama" => gguf.sentencepiece(&tokens, &types)?,
            model => {
                let message = format!(
                    "tokenizer.ggml.model is {model:?}; known are \"gpt2\" (byte-level BPE) and \"llama\" (SentencePiece BPE); \
                     take the model as safetensors with its tokenizer.json instead"
                );
                return Err(gguf.error(message));
            }
        };

        let mut hash = blake3::Hasher::new();
        for text in [rebuilt.rules].iter().chain(&tokens).chain(&rebuilt.merges) {
            hash.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        rebuilt.scores.iter().for_each(|score| {
            hash.update(&score.to_le_bytes());
        });
        types.iter().for_each(|kind| {
            hash.update(&kind.to_le_bytes());
        });
        let mut tokenizer = Self::wrap(rebuilt.inner, gguf.path, hash.finalize());
        tokenizer.vocab_size = tokens.len();
        tokenizer.bos = gguf.id("tokenizer.ggml.bos_token_id", tokens.len())?;
        tokenizer.eos = gguf.id("tokenizer.ggml.eos_token_id", tokens.len())?;
        let eot = gguf.id("tokenizer.ggml.eot_token_id", tokens.len())?;
        tokenizer.eos.into_iter().chain(eot).for_each(|id| tokenizer.add_stop(id));
        let add_bos = gguf.adds_bos()?;
        // Read for its type alone: a prompt goes on, so nothing is put behind it.
        gguf.flag("tokenizer.ggml.add_eos_token")?;
        tokenizer.prefix = tokenizer.bos.filter(|_| add_bos).into_iter().collect();
        Ok(tokenizer)
    }

    fn wrap(inner: tokenizers::Tokenizer, path: &Path, fingerprint: blake3::Hash) -> Self {
        let special = inner.get_added_tokens_decoder().iter().filter(|(_, t)| t.special).map(|(id, _)| *id).collect();
        Self {
            byte_level: matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_))),
            inner,
            plain: OnceLock::new(),
            path: path.to_path_buf(),
            special,
            bos: None,
            eos: None,
            stop: Vec::new(),
            prefix: Vec::new(),
            vocab_size: 0,
            beyond: None,
            fingerprint,
        }
    }

    /// `bos`, `eos` and the stop ids that the files beside `tokenizer.json` name.
    fn read_ids(&mut self, files: &HfFiles) -> Result<()> {
        let config = read_json(&files.config)?;
        let tokenizer_config = files.tokenizer_config.as_deref().map(read_json).transpose()?.unwrap_or_default();
        let generation = files.generation_config.as_deref().map(read_json).transpose()?.unwrap_or_default();
        let named = |key: &str| {
            let token = &tokenizer_config[key];
            token.as_str().or_else(|| token["content"].as_str()).and_then(|t| self.id_of(t))
        };
        let listed = |json: &Json, key: &str| -> Vec<u32> {
            let value = &json[key];
            let ids = value.as_array().map_or_else(|| vec![value], |ids| ids.iter().collect());
            ids.into_iter().filter_map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
        };
        let (bos, eos) = (named("bos_token"), named("eos_token"));
        let generation_eos = listed(&generation, "eos_token_id");
        let config_eos = listed(&config, "eos_token_id");
        self.bos = bos.or_else(|| listed(&config, "bos_token_id").first().copied());
        self.eos = eos.or_else(|| generation_eos.first().copied()).or_else(|| config_eos.first().copied());
        let ids = if generation_eos.is_empty() { config_eos } else { generation_eos };
        self.eos.into_iter().chain(ids).collect::<Vec<_>>().into_iter().for_each(|id| self.add_stop(id));
        Ok(())
    }

    /// The ids that the tokenizer's own post-processor puts before a text.
    fn added_prefix(&self) -> Result<Vec<u32>> {
        let ids =
            |add| self.inner.encode_fast("a", add).map(|e| e.get_ids().to_vec()).map_err(|e| self.error(e.to_string()));
        let (bare, full) = (ids(false)?, ids(true)?);
        let start = full.windows(bare.len().max(1)).position(|w| w == bare).unwrap_or(0);
        Ok(full[..start].to_vec())
    }

    /// Ids of `text`, with nothing put before or after it.
    ///
    /// `special`: whether special tokens spelt in the text become those tokens (rendered templates) or stay text. Tokens that were
    /// added but are not special (user-defined ones) are recognised either way.
    ///
    /// # Errors
    /// The tokenizer's own, for instance an unknown character in a vocabulary without bytes.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let tokenizer = if special { &self.inner } else { self.plain() };
        let encoding = tokenizer.encode_fast(text, false).map_err(|e| self.error(format!("cannot tokenise: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Ids of a raw text as a model sees it without a template: [`Tokenizer::prefix`], then the text with special tokens recognised.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_raw(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.prefix.clone();
        ids.extend(self.encode(text, true)?);
        Ok(ids)
    }

    fn plain(&self) -> &tokenizers::Tokenizer {
        self.plain.get_or_init(|| {
            let mut plain = self.inner.clone();
            plain.set_encode_special_tokens(true);
            Box::new(plain)
        })
    }

    /// Text of `ids`. Special tokens are left out or spelt out; bytes that are no UTF-8, and ids past the vocabulary, become U+FFFD.
    ///
    /// # Errors
    /// The tokenizer's own.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        if !self.byte_level {
            return self.inner.decode(ids, skip_special).map_err(|e| self.error(format!("cannot decode: {e}")));
        }
        // Added tokens are spelt as they are: through the byte table, those with letters like é would be garbled.
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        let mut text = String::new();
        let mut run = Vec::new();
        for &id in ids {
            let spelt = match added.get(&id) {
                Some(token) if token.special && skip_special => "",
                Some(token) => token.content.as_str(),
                None if self.inner.id_to_token(id).is_none() => "\u{fffd}",
                None => {
                    run.push(id);
                    continue;
                }
            };
            self.decode_run(&mut run, &mut text)?;
            text.push_str(spelt);
        }
        self.decode_run(&mut run, &mut text)?;
        Ok(text)
    }

    fn decode_run(&self, run: &mut Vec<u32>, text: &mut String) -> Result<()> {
        if !run.is_empty() {
            text.push_str(&self.inner.decode(run, false).map_err(|e| self.error(format!("cannot decode: {e}")))?);
            run.clear();
        }
        Ok(())
    }

    /// Characters of `text` that the vocabulary has no token for and that [`Tokenizer::encode`] therefore drops, each once.
    ///
    /// SmolLM2's byte-level vocabulary, for one, lacks some control characters and the planes past U+3FFFF.
    #[must_use]
    pub fn dropped(&self, text: &str) -> Vec<char> {
        let mut seen = HashSet::new();
        let lost = |c: &char| {
            let ids = self.encode(c.encode_utf8(&mut [0; 4]), true).unwrap_or_default();
            let back = self.decode(&ids, false).unwrap_or_default();
            self.byte_level && !back.contains(*c)
        };
        text.chars().filter(|c| seen.insert(*c)).filter(lost).collect()
    }

    /// Ids that end an answer, in ascending order: `eos`, the ends of turns the files name, and the one the chat template puts after
    /// an assistant's message.
    #[must_use]
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop
    }

    /// Lets `id` end an answer.
    pub fn add_stop(&mut self, id: u32) {
        if let Err(at) = self.stop.binary_search(&id) {
            self.stop.insert(at, id);
        }
    }

    /// Lets the first special token in `text`, what a template writes after an assistant's message, end an answer.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn add_turn_end(&mut self, text: &str) -> Result<()> {
        if let Some(id) = self.encode(text, true)?.into_iter().find(|id| self.is_special(*id)) {
            self.add_stop(id);
        }
        Ok(())
    }

    /// The highest id with its token, if it is not below the number of tokens.
    ///
    /// # Errors
    /// Two tokens have one id.
    fn id_beyond(&self) -> Result<Option<(u32, String)>> {
        let all = u32::try_from(self.vocab_size).unwrap_or(u32::MAX);
        if (0..all).all(|id| self.inner.id_to_token(id).is_some()) {
            return Ok(None);
        }
        let mut tokens: Vec<(u32, String)> = self.inner.get_vocab(true).into_iter().map(|(t, id)| (id, t)).collect();
        tokens.sort_unstable();
        if let Some([(id, one), (_, other)]) = tokens.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let message =
                format!("gives the id {id} to two tokens, {one:?} and {other:?}; take the model's own tokenizer.json");
            return Err(self.error(message));
        }
        Ok(tokens.pop().filter(|(id, _)| *id >= all))
    }

    /// Refuses ids that a vocabulary of `rows` rows does not have.
    ///
    /// # Errors
    /// There is such an id: it is reported with its token.
    pub(crate) fn check_ids(&self, rows: usize) -> Result<()> {
        match &self.beyond {
            Some((id, token)) if *id as usize >= rows => Err(self.error(format!(
                "the token {token:?} has the id {id}, but the model's vocabulary has {rows} rows, so ids end at {}; take the model's own \
                 tokenizer.json",
                rows.saturating_sub(1)
            ))),
            _ => Ok(()),
        }
    }

    /// Number of tokens. Ids are below it, but for holes; the model's logits may be padded past it.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id of exactly this token, as the vocabulary spells it (byte-level: a space is `Ġ`).
    #[must_use]
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// How the vocabulary spells `id`.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether `id` is a control token: one that structures a text rather than being part of it.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// The token that begins a text.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text.
    #[must_use]
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// What is put before a raw text: usually nothing, or `bos`. A chat template writes its own.
    #[must_use]
    pub fn prefix(&self) -> &[u32] {
        &self.prefix
    }

    /// The tokenizer as the `tokenizer.json` that transformers reads, [`Tokenizer::prefix`] included.
    ///
    /// # Errors
    /// The library's own.
    pub fn to_json(&self) -> Result<String> {
        let wrong = |e: tokenizers::Error| self.error(format!("cannot be written as tokenizer.json: {e}"));
        let mut inner = self.inner.clone();
        if let Some(token) = self.prefix.first().and_then(|id| self.token(*id)) {
            let id = self.prefix[0];
            let template = TemplateProcessing::builder()
                .try_single(vec![token.clone(), "$A".into()])
                .and_then(|t| t.try_pair(vec![token.clone(), "$A".into(), token.clone(), "$B:1".into()]))
                .map_err(|e| self.error(e))?
                .special_tokens(vec![(token, id)])
                .build()
                .map_err(|e| self.error(e.to_string()))?;
            inner.with_post_processor(Some(template));
        }
        inner.to_string(false).map_err(wrong)
    }

    /// Hash of what decides the ids of a text.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.fingerprint.to_hex().to_string()
    }

    fn error(&self, message: impl Into<String>) -> Error {
        Error::model(&self.path, message)
    }
}

/// Reads the metadata of a GGUF file.
///
/// # Errors
/// A file that cannot be read or is not GGUF.
pub fn gguf_metadata(path: impl AsRef<Path>) -> Result<GgufMetadata> {
    let path = path.as_ref();
    let map = crate::model::formats::mapped::map_file(path)?;
    Ok(crate::model::formats::gguf::Header::read(path, &map)?.metadata)
}

/// Switches off what a tokenizer does by chance: the same text must have the same ids every time.
fn without_chance(inner: &mut tokenizers::Tokenizer) {
    let model = match inner.get_model() {
        ModelWrapper::BPE(model) if model.dropout.is_some() => {
            let mut model = model.clone();
            model.dropout = None;
            ModelWrapper::BPE(model)
        }
        ModelWrapper::Unigram(model) if model.alpha.is_some() => {
            let mut model = model.clone();
            model.alpha = None;
            ModelWrapper::Unigram(model)
        }
        _ => return,
    };
    inner.with_model(model);
}

#[cfg(test)]
mod tests;
