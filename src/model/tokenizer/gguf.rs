//! The tokenizer that a GGUF file's metadata describes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::tokenizer::AddedToken;

use super::pretokenizer::{begins_with_bos, pre_tokenizer};
use super::sentencepiece::Pieces;
use super::{GgufMetadata, token_type};
use crate::error::{Error, Result};

/// Squares of the lengths of all tokens of a SentencePiece vocabulary, together; Gemma's 262 144 tokens have 30 million.
const MOST_WORK: usize = 1 << 30;

/// A tokenizer out of a GGUF file, and what decides its ids.
pub(super) struct Rebuilt<'a> {
    pub(super) inner: tokenizers::Tokenizer,
    pub(super) rules: &'a str,
    pub(super) merges: Vec<&'a str>,
    pub(super) scores: Vec<f32>,
}

/// The first of `tokenizer.ggml`'s keys that is wrong is named by every method.
pub(super) struct Gguf<'a> {
    pub(super) path: &'a Path,
    pub(super) metadata: &'a GgufMetadata,
}

impl<'a> Gguf<'a> {
    pub(super) fn error(&self, message: impl Into<String>) -> Error {
        Error::model(self.path, message)
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.error(format!("{key} is not a string"))),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.error(format!("{key} is {other:?}, expected true or false"))),
        }
    }

    pub(super) fn texts(&self, key: &str) -> Result<Vec<&'a str>> {
        let Some(Value::Array(values)) = self.metadata.get(key) else {
            return Err(self.error(format!("{key} is missing or not an array")));
        };
        let text = |(i, value): (usize, &'a Value)| match value {
            Value::String(text) => Ok(text.as_str()),
            _ => Err(self.error(format!("{key}[{i}] is not a string"))),
        };
        values.iter().enumerate().map(text).collect()
    }

    pub(super) fn token_types(&self, tokens: usize) -> Result<Vec<i64>> {
        let key = "tokenizer.ggml.token_type";
        let Some(value) = self.metadata.get(key) else { return Ok(vec![1; tokens]) };
        let Value::Array(values) = value else { return Err(self.error(format!("{key} is not an array"))) };
        if values.len() != tokens {
            return Err(
                self.error(format!("{key} has {} entries, expected one for each of {tokens} tokens", values.len()))
            );
        }
        values
            .iter()
            .map(|v| integer(v).ok_or_else(|| self.error(format!("{key} holds {v:?}, expected integers"))))
            .collect()
    }

    pub(super) fn id(&self, key: &str, tokens: usize) -> Result<Option<u32>> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        let id = integer(value).ok_or_else(|| self.error(format!("{key} is {value:?}, expected an integer")))?;
        match u32::try_from(id) {
            // llama.cpp's converters write 2^32 - 1 (or -1) for "none".
            Ok(u32::MAX) => Ok(None),
            Err(_) if id == -1 => Ok(None),
            Ok(id) if (id as usize) < tokens => Ok(Some(id)),
            _ => Err(self.error(format!("{key} is {id}, but there are {tokens} tokens"))),
        }
    }

    /// Whether a text begins with the `bos` token: as the file says, else as its kind of tokenizer does.
    pub(super) fn adds_bos(&self) -> Result<bool> {
        Ok(match self.flag("tokenizer.ggml.add_bos_token")? {
            Some(adds) => adds,
            None => match self.text("tokenizer.ggml.model")?.unwrap_or_default() {
                "llama" => true,
                "gpt2" => begins_with_bos(self.text("tokenizer.ggml.pre")?.unwrap_or("default")),
                _ => false,
            },
        })
    }

    pub(super) fn byte_level(&self, tokens: &[&'a str], types: &[i64]) -> Result<Rebuilt<'a>> {
        let pre = self.text("tokenizer.ggml.pre")?.unwrap_or("default");
        let rules = pre_tokenizer(pre).map_err(|message| self.error(message))?;
        let merges = self.texts("tokenizer.ggml.merges")?;
        let mut inner = tokenizers::Tokenizer::new(self.bpe(tokens, &merges, rules.ignore_merges)?);
        inner.with_pre_tokenizer(Some(rules.pre_tokenizer));
        inner.with_decoder(Some(ByteLevel::new(false, true, false)));
        let added = tokens.iter().zip(types).filter(|(token, _)| !token.is_empty()).filter_map(|(token, kind)| {
            let special = token_type::is_special(*kind);
            let added = special || *kind == token_type::USER_DEFINED;
            added.then(|| AddedToken::from(*token, special).normalized(false))
        });
        inner.add_tokens(added).map_err(|e| self.error(e.to_string()))?;
        Ok(Rebuilt { inner, rules: pre, merges, scores: Vec::new() })
    }

    pub(super) fn sentencepiece(&self, tokens: &[&'a str], types: &[i64]) -> Result<Rebuilt<'a>> {
        let key = "tokenizer.ggml.scores";
        let scores = match self.metadata.get(key) {
            Some(Value::Array(values)) => values.iter().map(|v| v.to_f32().ok()).collect::<Option<Vec<f32>>>(),
            _ => None,
        };
        let scores = scores.filter(|scores| scores.len() == tokens.len());
        let scores = scores.ok_or_else(|| self.error(format!("{key} has not one number for each token")))?;
        let space_prefix = self.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        // Every way to put a piece together is looked for.
        let work = tokens.iter().map(|token| token.len().saturating_mul(token.len())).fold(0, usize::saturating_add);
        if work > MOST_WORK {
            let longest = tokens.iter().map(|token| token.len()).max().unwrap_or(0);
            let message = format!(
                "tokenizer.ggml.tokens has tokens that are too long, up to {longest} bytes; the file is corrupt"
            );
            return Err(self.error(message));
        }
        let pieces = Pieces { tokens, scores: &scores, types, space_prefix };
        // The library panics on some inconsistent merges.
        let built = catch_unwind(AssertUnwindSafe(|| pieces.build()));
        let inner = built.map_err(|_| self.error("its pieces do not fit each other"))?;
        let inner = inner.map_err(|e| self.error(e.to_string()))?;
        let rules = if space_prefix { "sentencepiece, space first" } else { "sentencepiece" };
        Ok(Rebuilt { inner, rules, merges: Vec::new(), scores })
    }

    fn bpe(&self, tokens: &[&str], merges: &[&str], ignore_merges: bool) -> Result<BPE> {
        let count =
            u32::try_from(tokens.len()).map_err(|_| self.error("tokenizer.ggml.tokens has too many entries"))?;
        let vocab: Vocab = tokens.iter().map(|t| (*t).to_owned()).zip(0..count).collect();
        let mut pairs = Vec::with_capacity(merges.len());
        let mut merged = String::new();
        for (i, merge) in merges.iter().enumerate() {
            // Byte-level tokens hold no space; one at the start belongs to the left side.
            let first = merge.chars().next().map_or(0, char::len_utf8);
            let split = merge[first..].find(' ').map(|at| (&merge[..first + at], &merge[first + at + 1..]));
            let Some((left, right)) = split else {
                return Err(
                    self.error(format!("tokenizer.ggml.merges[{i}] is {merge:?}, expected two tokens and a space"))
                );
            };
            merged.clear();
            merged.push_str(left);
            merged.push_str(right);
            if let Some(missing) = [left, right, &merged].into_iter().find(|t| !vocab.contains_key(*t)) {
                let message =
                    format!("tokenizer.ggml.merges[{i}] is {merge:?}, but {missing:?} is not among the tokens");
                return Err(self.error(message));
            }
            pairs.push((left.to_owned(), right.to_owned()));
        }
        let builder = BPE::builder().vocab_and_merges(vocab, pairs).ignore_merges(ignore_merges);
        builder.build().map_err(|e| self.error(e.to_string()))
    }
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::U8(v) => Some((*v).into()),
        Value::I8(v) => Some((*v).into()),
        Value::U16(v) => Some((*v).into()),
        Value::I16(v) => Some((*v).into()),
        Value::U32(v) => Some((*v).into()),
        Value::I32(v) => Some((*v).into()),
        Value::U64(v) => i64::try_from(*v).ok(),
        Value::I64(v) => Some(*v),
        _ => None,
    }
}
