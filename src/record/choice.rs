//! One continuation against others.

use serde::{Deserialize, Serialize};

use super::ChoiceScore;

/// One continuation against others, by log-likelihood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// The continuation that must have the highest log-likelihood.
    pub answer: String,
    /// The continuations it must beat.
    pub others: Vec<String>,
    /// What each log-likelihood is divided by.
    #[serde(default)]
    pub normalize: Normalize,
}

impl Choice {
    /// All continuations, the answer first.
    pub fn texts(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.answer).chain(&self.others)
    }

    /// The log-likelihood of a continuation, divided as [`Self::normalize`] says; `None` where it has no score that is a number.
    #[must_use]
    pub fn score(&self, text: &str, scores: &[ChoiceScore]) -> Option<f64> {
        let found = scores.iter().find(|score| score.text == text)?;
        let divisor = match self.normalize {
            Normalize::None => 1,
            Normalize::Bytes => found.text.len(),
            Normalize::Tokens => found.tokens,
        };
        let score = found.log_likelihood / divisor as f64;
        (divisor > 0 && !score.is_nan()).then_some(score)
    }

    /// −ln of the share of the right continuation in the likelihoods of all: 0 when an arm is sure of it, ln k when it has no idea between k.
    /// `None` where one has no score, or the right one is impossible.
    #[must_use]
    pub fn loss(&self, scores: &[ChoiceScore]) -> Option<f64> {
        let all: Vec<f64> = self.texts().map(|text| self.score(text, scores)).collect::<Option<_>>()?;
        let largest = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let loss = largest + all.iter().map(|score| (score - largest).exp()).sum::<f64>().ln() - all[0];
        loss.is_finite().then_some(loss)
    }
}

/// What a continuation's log-likelihood is divided by, so that a long one is not worse for its length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Normalize {
    /// Nothing.
    #[default]
    None,
    /// Its length in UTF-8 bytes.
    Bytes,
    /// Its number of tokens.
    Tokens,
}
