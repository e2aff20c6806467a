//! How long an example, a prompt or a text may be, in tokens and, before it is tokenised, in bytes.

use std::path::Path;

use crate::error::{Error, Result};
use crate::files::read_regular_text;

/// Bytes that one token stands for at most. The longest tokens of the vocabularies in use are runs of 128 spaces or signs.
const BYTES_PER_TOKEN: usize = 256;
/// Bytes of one text, however long the context is: a tokenizer takes some 200 bytes of memory for each.
pub(crate) const MOST_TEXT_BYTES: usize = 8 << 20;
/// Bytes of the text that drift is measured on.
const MOST_DRIFT_TEXT_BYTES: u64 = 4 << 20;

/// Bytes that a text of at most `tokens` tokens can have: a longer one need not be tokenised to know that it does not fit.
#[must_use]
pub(crate) fn most_bytes(tokens: usize) -> usize {
    tokens.saturating_mul(BYTES_PER_TOKEN).min(MOST_TEXT_BYTES)
}

/// How long a training example may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    sequence_len: usize,
    context: usize,
}

impl Limits {
    /// `sequence_len` is the recipe's, `context` the model's number of positions.
    pub(crate) fn new(sequence_len: usize, context: usize) -> Self {
        Self { sequence_len, context }
    }

    /// Tokens of an example: the smaller of both.
    pub(crate) fn tokens(self) -> usize {
        self.sequence_len.min(self.context)
    }

    /// What a person should know of the two: an example longer than the context cannot be learnt, whatever the recipe says.
    pub(crate) fn note(self) -> Option<String> {
        let Self { sequence_len, context } = self;
        (sequence_len > context).then(|| {
            format!(
                "[train] sequence_len is {sequence_len}, and the model's context is {context} tokens: an example may have {context}"
            )
        })
    }

    /// Why a text of `bytes` bytes cannot be an example, if it is too long to be tokenised at all.
    ///
    /// # Errors
    /// More bytes than [`Self::tokens`] tokens can have.
    pub(crate) fn check_bytes(self, bytes: usize) -> Result<()> {
        let most = most_bytes(self.tokens());
        if bytes <= most {
            return Ok(());
        }
        let (why, advice) = self.reason();
        Err(Error::failed(format!("has {bytes} bytes, and an example may have at most {most}, since {why}; {advice}")))
    }

    /// Checks that an example of `tokens` tokens is short enough to train on.
    ///
    /// # Errors
    /// More tokens than [`Self::tokens`].
    pub(crate) fn check_tokens(self, tokens: usize) -> Result<()> {
        if tokens <= self.tokens() {
            return Ok(());
        }
        let (why, advice) = self.reason();
        Err(Error::failed(format!("has {tokens} tokens, and {why}; {advice}")))
    }

    fn reason(self) -> (String, &'static str) {
        if self.context < self.sequence_len {
            return (format!("the model's context is {}", self.context), "shorten it or leave it out");
        }
        let raise = if self.sequence_len == self.context {
            "shorten it or leave it out (sequence_len is the model's whole context)"
        } else {
            "shorten it or raise sequence_len"
        };
        (format!("sequence_len is {}", self.sequence_len), raise)
    }
}

/// The text that drift is measured on.
///
/// # Errors
/// A file that cannot be read, is not text, is too long, or says nothing.
pub(crate) fn drift_text(path: &Path) -> Result<String> {
    let text = read_regular_text(path, MOST_DRIFT_TEXT_BYTES)?;
    if text.trim_start_matches('\u{feff}').trim().is_empty() {
        let message = "is empty, so there is no text to measure drift on; fill it, or take out [run] drift_text";
        return Err(Error::input(path, None, message));
    }
    Ok(text)
}

/// About how many tokens a text is, in quarters of one, where no tokenizer is at hand: four characters of ASCII are a token, and a character of
/// another script is one of its own.
pub(crate) fn quarter_tokens(text: &str) -> usize {
    text.chars().map(|c| if c.is_ascii() { 1 } else { 4 }).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(result: Result<()>) -> String {
        result.expect_err("it is too long").to_string()
    }

    #[test]
    fn the_smaller_of_both_counts_and_is_named() {
        let context = Limits::new(512, 256);
        assert_eq!(context.tokens(), 256);
        assert!(context.check_tokens(256).is_ok());
        assert_eq!(
            told(context.check_tokens(300)),
            "has 300 tokens, and the model's context is 256; shorten it or leave it out"
        );
        assert!(context.note().is_some_and(|note| note.contains("512") && note.contains("context is 256 tokens")));
        let recipe = Limits::new(128, 256);
        assert_eq!(recipe.tokens(), 128);
        assert_eq!(
            told(recipe.check_tokens(300)),
            "has 300 tokens, and sequence_len is 128; shorten it or raise sequence_len"
        );
        assert_eq!(recipe.note(), None);
        assert_eq!(Limits::new(256, 256).note(), None);
        assert!(told(Limits::new(256, 256).check_tokens(300)).contains("whole context"));
    }

    #[test]
    fn bytes_are_bounded_by_the_tokens_and_by_memory() {
        let limits = Limits::new(512, 256);
        assert!(limits.check_bytes(256 * 256).is_ok());
        let message = told(limits.check_bytes(52_428_800));
        assert_eq!(
            message,
            "has 52428800 bytes, and an example may have at most 65536, since the model's context is 256; shorten it or leave it out"
        );
        assert_eq!(most_bytes(usize::MAX), MOST_TEXT_BYTES);
        assert_eq!(most_bytes(10), 2560);
    }

    #[test]
    fn a_drift_text_says_something() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("drift.txt");
        for empty in ["", " \n\t", "\u{feff}\n"] {
            std::fs::write(&path, empty).expect("a file");
            assert!(drift_text(&path).expect_err("empty").to_string().contains("is empty"), "{empty:?}");
        }
        std::fs::write(&path, "Once upon a time.\n").expect("a file");
        assert_eq!(drift_text(&path).expect("a text"), "Once upon a time.\n");
        let long = std::fs::File::create(&path).expect("a file");
        long.set_len(1 << 40).expect("a sparse file");
        assert!(drift_text(&path).expect_err("too long").to_string().contains("has 1099511627776 bytes"));
    }
}
