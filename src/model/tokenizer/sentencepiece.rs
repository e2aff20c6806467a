//! A SentencePiece BPE tokenizer rebuilt from a GGUF file's vocabulary and scores: Llama 2's and Gemma's.
//!
//! SentencePiece (Kudo & Richardson 2018, arXiv 1808.06226) merges the neighbours whose union has the highest score. A byte-pair
//! model does the same when its merges are all the ways to put a piece together, pieces of higher score first.

use std::collections::HashSet;

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::utils::Sequence as Normalizers;
use tokenizers::normalizers::{Prepend, Replace};
use tokenizers::tokenizer::AddedToken;
use tokenizers::{DecoderWrapper, NormalizerWrapper, Tokenizer};

use super::token_type;

/// What stands for a space.
const SPACE: &str = "\u{2581}";

/// A vocabulary as GGUF has it.
pub(super) struct Pieces<'a> {
    pub(super) tokens: &'a [&'a str],
    /// Of each token; the highest is merged first.
    pub(super) scores: &'a [f32],
    /// Of each token.
    pub(super) types: &'a [i64],
    /// A text begins with a space that is not in it.
    pub(super) space_prefix: bool,
}

impl Pieces<'_> {
    /// The tokenizer.
    ///
    /// # Errors
    /// What the library refuses.
    pub(super) fn build(&self) -> tokenizers::Result<Tokenizer> {
        let count = u32::try_from(self.tokens.len())?;
        let vocab: Vocab = self.tokens.iter().map(|t| (*t).to_owned()).zip(0..count).collect();
        let unknown =
            self.types.iter().position(|kind| *kind == token_type::UNKNOWN).map(|i| self.tokens[i].to_owned());
        let mut model = BPE::builder().vocab_and_merges(vocab, self.merges()).byte_fallback(true).fuse_unk(true);
        if let Some(unknown) = unknown {
            model = model.unk_token(unknown);
        }
        let mut tokenizer = Tokenizer::new(model.build()?);

        let spaces = NormalizerWrapper::from(Replace::new(" ", SPACE)?);
        let normalizer = if self.space_prefix {
            Normalizers::new(vec![Prepend::new(SPACE.to_owned()).into(), spaces]).into()
        } else {
            spaces
        };
        tokenizer.with_normalizer(Some(normalizer))?;
        let mut decoders: Vec<DecoderWrapper> =
            vec![Replace::new(SPACE, " ")?.into(), ByteFallback::default().into(), Fuse::default().into()];
        if self.space_prefix {
            decoders.push(Strip::new(' ', 1, 0).into());
        }
        tokenizer.with_decoder(Some(Decoders::new(decoders)));

        let added = self.tokens.iter().zip(self.types).filter_map(|(token, kind)| match *kind {
            token_type::UNKNOWN | token_type::CONTROL => Some(AddedToken::from(*token, true).normalized(false)),
            // Runs of spaces are such tokens, and are looked for after spaces have become ▁. A prefix would be put before each.
            token_type::USER_DEFINED => Some(AddedToken::from(*token, false).normalized(!self.space_prefix)),
            _ => None,
        });
        tokenizer.add_tokens(added.filter(|token| !token.content.is_empty()))?;
        Ok(tokenizer)
    }

    /// All pairs of pieces whose union is a piece, the union's score descending.
    fn merges(&self) -> Vec<(String, String)> {
        let plain = |kind: i64| kind == token_type::NORMAL || kind == token_type::UNUSED;
        let known: HashSet<&str> =
            self.tokens.iter().zip(self.types).filter(|(_, kind)| plain(**kind)).map(|(token, _)| *token).collect();
        let mut order: Vec<usize> = (0..self.tokens.len()).filter(|i| self.types[*i] == token_type::NORMAL).collect();
        order.sort_by(|a, b| self.scores[*b].total_cmp(&self.scores[*a]));
        let mut merges = Vec::new();
        for i in order {
            let piece = self.tokens[i];
            for (at, _) in piece.char_indices().skip(1) {
                let (left, right) = piece.split_at(at);
                if known.contains(left) && known.contains(right) {
                    merges.push((left.to_owned(), right.to_owned()));
                }
            }
        }
        merges
    }
}
