//! How far an arm's distributions are from base's, and that its adapter is applied.

use serde::{Deserialize, Serialize};

/// Positions of one text whose values a record keeps.
pub const MOST_POSITIONS: usize = 4096;

/// By what drift was measured. Values of different methods are different quantities, and are never compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum DriftMethod {
    /// KL divergence over the whole vocabulary, from logits.
    FullKl,
    /// A lower bound of the KL divergence, out of the k most likely tokens of each arm. There is no upper bound.
    TopK(usize),
    /// Log-likelihoods of the given tokens alone: there is no divergence.
    Nll,
}

impl std::fmt::Display for DriftMethod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::FullKl => f.write_str("KL over the whole vocabulary"),
            Self::TopK(k) => write!(f, "KL over the top {k} tokens"),
            Self::Nll => f.write_str("likelihoods of the given tokens"),
        }
    }
}

/// KL(base ‖ arm), nats/token.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Divergence {
    /// Mean over positions.
    pub mean: f64,
    /// Standard error of the mean, over texts.
    pub se: f64,
    /// Median over positions.
    pub median: f64,
    /// 99th percentile over positions.
    pub p99: f64,
}

/// Other measures of the same distance, each a mean over positions; p is base's distribution, q the arm's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Measures {
    /// KL(q ‖ p) = Σ_v q ln(q/p), nats.
    pub reverse_kl: f64,
    /// ½ Σ_v |p − q|, 0 to 1.
    pub total_variation: f64,
    /// ½ KL(p ‖ m) + ½ KL(q ‖ m) with m = ½(p + q), 0 to ln 2 nats.
    pub jensen_shannon: f64,
    /// Change of the probability of the token that follows, q − p: −1 to 1.
    pub probability_change: f64,
}

/// A position where an arm expects another token than base, or is much less sure of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct MovedToken {
    /// Tokens of the text before it.
    pub position: usize,
    /// The end of the text before it.
    pub before: String,
    /// The token that follows.
    pub token: String,
    /// Its probability by base, and by the arm.
    pub probability: [f64; 2],
    /// The token that the arm finds most likely.
    pub instead: String,
    /// Its probability by the arm.
    pub instead_probability: f64,
    /// KL at this position, nats.
    pub kl: f64,
}

impl MovedToken {
    /// By how much the arm finds its own token likelier than the one that follows, in nats; 0 where they are the same.
    #[must_use]
    pub fn margin(&self) -> f64 {
        (self.instead_probability.ln() - self.probability[1].ln()).max(0.0)
    }

    /// Whether the arm's choice is a [near tie](crate::record::NEAR_TIE): rounding in another order could turn it round.
    #[must_use]
    pub fn is_near_tie(&self) -> bool {
        self.margin() <= super::NEAR_TIE
    }
}

/// What was measured on one text: one value a position each, nats where there is a unit. What the method does not see is empty, and so may
/// be all but `nll_base`, `nll_tuned` and, for a method with divergences, `kl` and `same_top1`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub struct DriftSample {
    /// KL(base ‖ tuned) = Σ_v p ln(p/q).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kl: Vec<f64>,
    /// KL(tuned ‖ base).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reverse_kl: Vec<f64>,
    /// ½ Σ_v |p − q|.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub total_variation: Vec<f64>,
    /// ½ KL(p ‖ m) + ½ KL(q ‖ m), m = ½(p + q).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub jensen_shannon: Vec<f64>,
    /// −ln p of the token that follows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nll_base: Vec<f64>,
    /// −ln q of the token that follows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nll_tuned: Vec<f64>,
    /// Whether both arms have the same most likely token.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub same_top1: Vec<bool>,
    /// Share of base's probability that was seen, of a method that sees a part.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub covered: Vec<f64>,
    /// The first position where tuned would go on otherwise than the text does, and base would not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub divergence: Option<MovedToken>,
    /// A few positions of the largest KL, the largest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub moved: Vec<MovedToken>,
}

impl DriftSample {
    /// Positions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nll_base.len()
    }

    /// Is there no position?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nll_base.is_empty()
    }
}

/// How much the same measurement differs when it is made again in another batch: what is smaller than this is rounding.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Floor {
    /// Texts that were measured once more, each alone.
    pub texts: usize,
    /// Their mean |change of KL|, nats/token; `None` where the method has none.
    pub kl: Option<f64>,
    /// The largest |change of NLL| of a token, by base or the arm, nats.
    pub nll: f64,
}

/// How far an arm's next-token distributions are from base's on the same tokens.
///
/// With p of base and q of the arm, per position KL = Σ_v p ln(p/q), in nats; the same as llama.cpp's `--kl-divergence`.
/// `nll` is −ln of the probability of the token that follows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Drift {
    /// The tokens: `base answers` (base's own answers to the control cases) or the name of a text file.
    pub source: String,
    /// By what it was measured.
    pub method: DriftMethod,
    /// Positions compared.
    pub tokens: usize,
    /// The divergence; `None` where the method has none.
    pub kl: Option<Divergence>,
    /// Mean share of base's probability that the method saw; `None` where it sees all of it, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covered: Option<f64>,
    /// So many likely tokens have [`WHOLE`] of base's probability on the first answers; `None` where the method sees all, or the server
    /// shows no lists as long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<usize>,
    /// Share of positions with the same most likely token; `None` where the method does not see it.
    pub same_top1: Option<f64>,
    /// Mean NLL of base, nats/token.
    pub nll_base: f64,
    /// Mean NLL of the arm, nats/token.
    pub nll_tuned: f64,
    /// Standard error of `nll_tuned − nll_base`, paired, over texts.
    pub nll_change_se: f64,
    /// Other measures of the same distance; `None` in records that lack them and where the method has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measures: Option<Measures>,
    /// What the measurement differs by itself; `None` where it was not made again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Floor>,
    /// Position by position, at most [`MOST_POSITIONS`] of each text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub texts: Vec<TextDrift>,
}

/// Drift on one text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TextDrift {
    /// A case's test, whose answer of base it is; or the file and which stretch of it.
    pub text: String,
    /// Of each position from the first on, to four significant digits: KL, or the change of NLL where there is none.
    pub values: Vec<f32>,
    /// Means over all of its positions; `None` in records that lack them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub means: Option<TextMeans>,
    /// The first position where the arm would go on otherwise than base did; `None` where there is none, or it was not looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<MovedToken>,
    /// Positions of the largest KL, the largest first: a few of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moved: Vec<MovedToken>,
}

/// What was measured on one text: means over its positions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TextMeans {
    /// Positions.
    pub tokens: usize,
    /// KL(base ‖ arm), nats/token; `None` where the method has none.
    pub kl: Option<f64>,
    /// Share of positions with the same most likely token; `None` where the method does not see it.
    pub same_top1: Option<f64>,
    /// NLL of the arm − NLL of base, nats/token.
    pub nll_change: f64,
    /// Other measures; `None` where the method has none.
    pub measures: Option<Measures>,
}

impl TextDrift {
    /// Mean KL over its positions; of the values kept where a record has no means. `None` where there is none.
    #[must_use]
    pub fn kl(&self) -> Option<f64> {
        match &self.means {
            Some(means) => means.kl,
            None if self.values.is_empty() => None,
            None => Some(self.values.iter().map(|v| f64::from(*v)).sum::<f64>() / self.values.len() as f64),
        }
    }
}

/// Share of base's probability from which a lower bound of drift counts as drift itself.
pub const WHOLE: f64 = 0.99;

impl Drift {
    /// Whether the divergence was measured, or so much of base's probability was seen that its lower bound is as good.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        match self.method {
            DriftMethod::FullKl => true,
            DriftMethod::TopK(_) => self.covered.is_some_and(|covered| covered >= WHOLE),
            DriftMethod::Nll => false,
        }
    }

    /// `nll_tuned − nll_base`, nats/token; positive is worse.
    #[must_use]
    pub fn nll_change(&self) -> f64 {
        self.nll_tuned - self.nll_base
    }
}

/// Proof that an arm's adapter is really applied, and that base is untouched by it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Proof {
    /// Largest |logit_arm − logit_base| on the probe; above 0, or the run is an error.
    pub adapter_effect: f64,
    /// Largest |logit_base − logit_base asked alone, without any adapter loaded| on the probe.
    pub base_difference: f64,
    /// Linear layers the adapter changes.
    pub adapted_modules: usize,
    /// The server tells no log-probabilities, so only answers were compared: effect and difference are 1 where one differs, else 0.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_answers: bool,
    /// That a server computes what the weights of this machine do; `None` where that was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightsProof>,
}

/// How near a server computes to the weights of this machine, on a given answer to a few prompts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct WeightsProof {
    /// Positions that were compared.
    pub positions: usize,
    /// KL divergence at least, nats/token, from base here to the server's base.
    pub base: f64,
    /// The same of the arm.
    pub arm: f64,
    /// The lesser of the two crosswise: from the arm here to the server's base, and from base here to the server's arm.
    pub effect: f64,
}
