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

/// What the cases show about a threshold. What was measured lies on one of its sides; whether that is more than luck is another question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Evidence {
    /// The limits lie on the passing side: it holds.
    Kept,
    /// The limits lie on the failing side: it does not hold.
    Lost,
    /// The threshold lies between the limits, or there are none: these cases cannot tell.
    #[default]
    NotShown,
}

impl Evidence {
    /// What limits show about a threshold.
    #[must_use]
    pub fn new(limits: Option<Interval>, bound: Bound, threshold: f64) -> Self {
        let Some(Interval { low, high }) = limits.filter(|i| i.low.is_finite() && i.high.is_finite()) else {
            return Self::NotShown;
        };
        match bound {
            Bound::AtLeast if low >= threshold => Self::Kept,
            Bound::AtLeast if high < threshold => Self::Lost,
            Bound::AtMost if high <= threshold => Self::Kept,
            Bound::AtMost if low > threshold => Self::Lost,
            _ => Self::NotShown,
        }
    }

    /// In words: `shown kept`.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Kept => "shown kept",
            Self::Lost => "shown lost",
            Self::NotShown => "not shown",
        }
    }
}

/// A measure of what happened to the controls, and what it shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ControlMeasure {
    /// `drift`, `choice_loss`, `net_loss` or `retention`.
    pub name: String,
    /// What was measured.
    pub measured: f64,
    /// Limits of it, each wrong in at most 5 of 100; `None` where there are too few questions.
    pub limits: Option<Interval>,
    /// The threshold: the manifest's, or finetest's own. `None`: it is reported and shows nothing.
    pub threshold: Option<f64>,
    /// Within this the controls are shown kept, where it is not the threshold: finetest's own for drift leave a gap between kept and lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_within: Option<f64>,
    /// Whether the threshold is the manifest's.
    #[serde(default)]
    pub given: bool,
    /// What threshold and measurement count.
    pub unit: Unit,
    /// The side of the threshold that passes.
    pub bound: Bound,
    /// Questions, or cases, that it rests on.
    pub n: usize,
    /// What it shows.
    pub evidence: Evidence,
    /// Smallest distance from the threshold that so many would show with a power of 80 %.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detectable: Option<f64>,
    /// How many it would take to show what was measured; `None` where it is shown, or no number would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needed: Option<usize>,
}

/// Whether an arm kept what base can do, out of all measures of the controls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ControlVerdict {
    /// The arm.
    pub arm: String,
    /// Lost when a measure shows it; kept when one shows that, and none the opposite.
    pub evidence: Evidence,
    /// The measure that decided; empty where none did.
    pub by: String,
    /// The measures, the one with most power first.
    pub measures: Vec<ControlMeasure>,
    /// Control questions, a case with its paraphrases being one.
    pub questions: usize,
    /// Questions that both arms fail, far from otherwise: they cannot be lost or won, and are left out of `net_loss`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dead: Vec<String>,
    /// Share of the cases that only choose which guessing alone would flip from right to wrong; `None` without such cases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guessing: Option<f64>,
    /// Share of the cases that base passes which rephrasing alone would lose; `None` without paraphrases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rephrasing: Option<f64>,
    /// Scenarios whose controls are shown lost by themselves, after Holm's correction for their number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<LostScenario>,
    /// How often such a verdict was right in finetest's own study; `None` where there are fewer questions than it judged by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detection: Option<Detection>,
    /// In a sentence, for a person.
    pub explanation: String,
}

/// How often the verdict on the controls was right, for a suite of so many questions and finetest's own thresholds. Measured on adapters whose harm
/// other questions had shown; the thresholds were chosen on other kinds of adapters than they judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Detection {
    /// Control questions of the suite.
    pub questions: usize,
    /// Harmful adapters that were judged.
    pub harmful: usize,
    /// Harmful ones that were shown lost.
    pub caught: usize,
    /// Harmful ones that were shown kept.
    pub passed: usize,
    /// Harmless adapters that were judged.
    pub harmless: usize,
    /// Harmless ones that were shown kept.
    pub kept: usize,
    /// Harmless ones that were shown lost.
    pub blamed: usize,
}

/// A scenario whose controls are shown lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LostScenario {
    /// Its name.
    pub scenario: String,
    /// Cases that base passes and the arm fails.
    pub broken: usize,
    /// Cases that base fails and the arm passes.
    pub fixed: usize,
    /// Holm's adjusted mid-p of "more broken than fixed".
    pub p: f64,
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
    /// Limits of what was measured, each wrong in at most 5 of 100: what `evidence` goes by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Interval>,
    /// What the cases show. [Not shown](Evidence::NotShown) in records that lack it.
    #[serde(default)]
    pub evidence: Evidence,
    /// How many cases or questions would show what was measured; `None` where it is shown, or no number would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needed: Option<usize>,
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Decision {
    /// Every rule passed, there was at least one, and the run has no errors.
    pub passed: bool,
    /// One for each threshold in the manifest.
    pub rules: Vec<Rule>,
    /// What happened to the controls of each gated arm; absent where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controls: Vec<ControlVerdict>,
    /// Arms of which nothing shows that their controls are kept, where the policy asks for that: the gate does not pass.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undecided: Vec<String>,
    /// Thresholds that were not applied, because a run of selected cases had nothing to measure for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// Scenarios whose answers are not as approved, where the run was told to fail for that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<String>,
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
    /// Sets [`Self::passed`] by all the rest.
    pub(crate) fn settle(&mut self) {
        let open = !self.undecided.is_empty() || !self.snapshots.is_empty();
        self.passed = self.errors.is_empty() && self.rules_passed() && !open;
    }

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
        judged && !(self.rules_passed() && self.undecided.is_empty())
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
        let rules = self.rule_counts();
        let undecided = match self.undecided.as_slice() {
            [] => String::new(),
            arms => format!("; not shown whether {} kept the controls", arms.join(", ")),
        };
        let snapshots = match self.snapshots.as_slice() {
            [] => String::new(),
            some => format!("; snapshots: {}", some.join(", ")),
        };
        format!("{rules}{undecided}{snapshots}")
    }

    fn rule_counts(&self) -> String {
        let count = |verdict| self.rules.iter().filter(|r| r.verdict == verdict).count();
        let (all, failed, open) = (self.rules.len(), count(Verdict::Failed), count(Verdict::NotEvaluated));
        let rules = if all == 1 { "rule" } else { "rules" };
        match (all, failed, open) {
            (0, _, _) if !self.left_out.is_empty() => {
                format!("the selected cases let measure none of {}: nothing was gated", self.left_out.join(", "))
            }
            (0, _, _) => "no thresholds in [gate]: nothing was gated".to_owned(),
            (1, 0, 0) => "the only rule passed".to_owned(),
            (_, 0, 0) => format!("all {all} rules passed"),
            (_, _, 0) => format!("{failed} of {all} {rules} failed"),
            (_, 0, _) => format!("{open} of {all} {rules} not evaluated"),
            _ => format!("{failed} of {all} {rules} failed, {open} not evaluated"),
        }
    }
}
