//! What the gate decided.

use serde::{Deserialize, Serialize};

use super::{RunError, TUNED, Verdict};
use crate::error::exit;

/// Which side of its threshold a rule's measurement has to be on. The threshold itself is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// Not below it.
    #[default]
    AtLeast,
    /// Not above it.
    AtMost,
}

/// What a rule measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// A share of cases, 0 to 1.
    #[default]
    Share,
    /// A difference of two shares, −1 to 1.
    Difference,
    /// Nats a token.
    Nats,
    /// Whole cases.
    Count,
}

/// A closed interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// One threshold of the gate and what was measured against it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Rule {
    /// The manifest's key: `min_target_pass_rate`, …
    pub name: String,
    /// The arm that is judged.
    #[serde(default = "tuned")]
    pub arm: String,
    /// The threshold, from the manifest.
    pub threshold: f64,
    /// The side of the threshold that passes.
    #[serde(default)]
    pub bound: Bound,
    /// What threshold and measurement count.
    #[serde(default)]
    pub unit: Unit,
    /// What was measured; `None` when there was nothing to measure.
    pub measured: Option<f64>,
    /// 95 % interval of what was measured, where one is defined.
    pub interval: Option<Interval>,
    /// Cases, pairs or tokens it rests on.
    pub n: usize,
    /// Passed, failed, or not evaluated, which fails the gate too.
    pub verdict: Verdict,
    /// The threshold lies within the interval: this many cases cannot tell.
    pub underpowered: bool,
    /// In words, for a person: `retention 0.93 (42 of 45 control cases that base passes), at least 0.85`.
    pub explanation: String,
}

fn tuned() -> String {
    TUNED.to_owned()
}

impl Rule {
    /// Its name, with the arm where that is not [`TUNED`]: `min_retention`, `half::min_retention`.
    #[must_use]
    pub fn label(&self) -> String {
        if self.arm == TUNED { self.name.clone() } else { format!("{}::{}", self.arm, self.name) }
    }
}

/// What the gate decided, rule by rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Decision {
    /// Every rule passed, there was at least one, and the run has no errors.
    pub passed: bool,
    /// One for each threshold in the manifest.
    pub rules: Vec<Rule>,
    /// What the run could not compute ([`RunRecord::all_errors`](super::RunRecord::all_errors)): the run is then incomplete, and never
    /// passes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<RunError>,
}

/// How a run ended, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Every rule passed.
    Passed,
    /// A rule did not.
    Failed,
    /// There are no rules.
    NotGated,
    /// Something could not be computed.
    Incomplete,
}

impl Ending {
    /// As reports print it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Passed => "PASS",
            Self::Failed => "FAIL",
            Self::NotGated => "NOT GATED",
            Self::Incomplete => "INCOMPLETE",
        }
    }
}

/// Errors that a line names.
const NAMED_ERRORS: usize = 3;

impl Decision {
    /// Did every rule pass? A run with errors does not pass for that.
    #[must_use]
    pub fn rules_passed(&self) -> bool {
        !self.rules.is_empty() && self.rules.iter().all(|rule| rule.verdict == Verdict::Passed)
    }

    /// Whether a failed case of `arm` is a failure: a rule did not pass, and the arm is one that rules judge. Where there are no rules,
    /// every failed case is one.
    #[must_use]
    pub fn blames(&self, arm: &str) -> bool {
        let judged = self.rules.is_empty() || self.rules.iter().any(|rule| rule.arm == arm);
        judged && !self.rules_passed()
    }

    /// How the run ended.
    #[must_use]
    pub fn ending(&self) -> Ending {
        match (self.errors.is_empty(), self.rules.is_empty(), self.passed) {
            (false, _, _) => Ending::Incomplete,
            (true, true, _) => Ending::NotGated,
            (true, false, true) => Ending::Passed,
            (true, false, false) => Ending::Failed,
        }
    }

    /// Exit code of a command that ends with this decision: [`exit::PASS`], [`exit::GATE_FAILED`], or [`exit::ERROR`] for a run that
    /// is incomplete.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.ending() {
            Ending::Incomplete => exit::ERROR,
            Ending::Passed => exit::PASS,
            Ending::Failed | Ending::NotGated => exit::GATE_FAILED,
        }
    }

    /// The decision in a line: `2 of 5 rules failed, 1 not evaluated`.
    #[must_use]
    pub fn summary(&self) -> String {
        if self.errors.is_empty() {
            return self.rules_summary();
        }
        let named: Vec<String> = self.errors.iter().take(NAMED_ERRORS).map(RunError::what).collect();
        let more = match self.errors.len().saturating_sub(named.len()) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("could not compute {}{more}; {}", named.join("; "), self.rules_summary())
    }

    fn rules_summary(&self) -> String {
        let count = |verdict| self.rules.iter().filter(|r| r.verdict == verdict).count();
        let (all, failed, open) = (self.rules.len(), count(Verdict::Failed), count(Verdict::NotEvaluated));
        let rules = if all == 1 { "rule" } else { "rules" };
        match (all, failed, open) {
            (0, _, _) => "no thresholds in [gate]: nothing was gated".to_owned(),
            (1, 0, 0) => "the only rule passed".to_owned(),
            (_, 0, 0) => format!("all {all} rules passed"),
            (_, _, 0) => format!("{failed} of {all} {rules} failed"),
            (_, 0, _) => format!("{open} of {all} {rules} not evaluated"),
            _ => format!("{failed} of {all} {rules} failed, {open} not evaluated"),
        }
    }
}
