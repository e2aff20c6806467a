//! What an arm answered, and what it came to.

use serde::{Deserialize, Serialize};

use super::Verdict;

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// The model ended its turn, or said one of [`Request::stop`](super::Request::stop).
    Stop,
    /// The token limit was reached.
    Length,
    /// Nothing was generated: only choices were scored.
    Scored,
}

/// One arm's answer to one [`Request`](super::Request).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Completion {
    /// The text, without the token that ended the turn or the string that stopped it. Special tokens that leaked are spelt out.
    pub text: String,
    /// The generated tokens, without the one that ended the turn; of a stopped answer those that lie within `text`.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// Length of the rendered prompt in tokens.
    pub prompt_tokens: usize,
    /// For each of [`Request::choices`](super::Request::choices), in order.
    pub choices: Vec<ChoiceScore>,
    /// Tokens of it that had a rival within rounding of them: another batch, or another number of threads, may answer otherwise.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub near_ties: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Log-likelihood of one continuation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ChoiceScore {
    /// The continuation.
    pub text: String,
    /// Σ log p of its tokens, in nats.
    pub log_likelihood: f64,
    /// How many tokens it is.
    pub tokens: usize,
}

/// One arm's answer to one case, asked once: a completion for each of the user's turns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// What was answered, a completion for each turn of the user. Fewer than the turns, or none, with an `error`.
    pub turns: Vec<Completion>,
    /// Passed when every check of every turn holds.
    pub verdict: Verdict,
    /// For each check that does not hold: what was expected and what was found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<String>,
    /// Why a turn has no completion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Sample {
    /// The answer to the last turn; `None` when there is none.
    #[must_use]
    pub fn last(&self) -> Option<&Completion> {
        self.turns.last().filter(|_| self.error.is_none())
    }

    /// What was answered to each turn.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.turns.iter().map(|turn| turn.text.as_str())
    }
}

/// One arm's answer to one case: one sample, or as many as its scenario repeats the case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// What the samples come to by the scenario's [`Aggregate`].
    pub verdict: Verdict,
    /// In the order of their seeds; none when the case was not asked of this arm.
    pub samples: Vec<Sample>,
}

impl Answer {
    /// The sample that shows the verdict: the first that came to it, or the first of all.
    #[must_use]
    pub fn shown(&self) -> Option<&Sample> {
        self.samples.iter().find(|sample| sample.verdict == self.verdict).or(self.samples.first())
    }

    /// The last turn's completion of the sample that shows the verdict.
    #[must_use]
    pub fn completion(&self) -> Option<&Completion> {
        self.shown()?.last()
    }

    /// The failures of the sample that shows the verdict.
    #[must_use]
    pub fn failures(&self) -> &[String] {
        self.shown().map_or(&[], |sample| &sample.failures)
    }

    /// Why a sample has no answer, where one has none.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.samples.iter().find_map(|sample| sample.error.as_deref())
    }

    /// Samples that pass.
    #[must_use]
    pub fn passed(&self) -> usize {
        self.samples.iter().filter(|sample| sample.verdict == Verdict::Passed).count()
    }
}

/// What the samples of a case come to together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Aggregate {
    /// Every sample has to pass.
    #[default]
    All,
    /// One has to.
    Any,
    /// At least this share of them has to, above 0 and at most 1.
    Rate(f64),
}

impl Aggregate {
    /// Is it the default?
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::All
    }

    /// The verdict of a case whose samples came to `verdicts`: passed or failed when those without an answer could not change it.
    ///
    /// ```
    /// use finetest::record::{Aggregate, Verdict::{Failed, NotEvaluated, Passed}};
    ///
    /// assert_eq!(Aggregate::All.verdict([Passed, Failed]), Failed);
    /// assert_eq!(Aggregate::Any.verdict([Failed, Passed, NotEvaluated]), Passed);
    /// assert_eq!(Aggregate::Rate(0.6).verdict([Passed, Passed, Failed]), Passed);
    /// assert_eq!(Aggregate::Rate(0.6).verdict([Passed, NotEvaluated, Failed]), NotEvaluated);
    /// assert_eq!(Aggregate::All.verdict([]), NotEvaluated);
    /// ```
    #[must_use]
    pub fn verdict(self, verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
        let (mut passed, mut open, mut all) = (0usize, 0usize, 0usize);
        for verdict in verdicts {
            all += 1;
            passed += usize::from(verdict == Verdict::Passed);
            open += usize::from(verdict == Verdict::NotEvaluated);
        }
        // Of a share, the least whole number of samples; a rounding error must not ask for one more.
        let needed = match self {
            Self::All => all,
            Self::Any => 1,
            Self::Rate(share) => ((share * all as f64 - 1e-9).ceil() as usize).max(1),
        };
        match () {
            () if all == 0 => Verdict::NotEvaluated,
            () if passed >= needed => Verdict::Passed,
            () if passed + open < needed => Verdict::Failed,
            () => Verdict::NotEvaluated,
        }
    }
}

impl std::fmt::Display for Aggregate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Any => f.write_str("any"),
            Self::Rate(share) => write!(f, "rate {share}"),
        }
    }
}
