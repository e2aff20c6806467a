//! What crosses the rooms: requests and answers, verdicts, a whole run, and the gate's decision.
//!
//! Everything here is plain data with a stable JSON form ([`RunRecord::VERSION`]), so that a run made on one machine can be
//! gated and reported on another.

#[cfg(test)]
pub(crate) mod fixture;
mod load;
mod sampling;

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::error::exit;

pub use sampling::Sampling;

/// Name of the untouched model's arm: the control group.
pub const BASE: &str = "base";
/// Name of the arm with the trained adapter.
pub const TUNED: &str = "tuned";

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

impl Message {
    /// A message of `role` that says `content`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// What a case asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prompt {
    /// Messages, rendered by the model's own chat template with the header of the assistant's turn.
    Messages(Vec<Message>),
    /// Raw text to continue, without a template.
    Text(String),
}

impl Prompt {
    /// The text a person reads first: the last user message, or the raw text.
    #[must_use]
    pub fn headline(&self) -> &str {
        match self {
            Self::Messages(messages) => {
                let user = messages.iter().rev().find(|m| m.role == "user").or(messages.last());
                user.map_or("", |m| m.content.as_str())
            }
            Self::Text(text) => text,
        }
    }
}

/// One question to one arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// What is asked.
    pub prompt: Prompt,
    /// Most new tokens to generate; 0 when only `choices` are wanted.
    pub max_tokens: usize,
    /// Continuations whose log-likelihood is wanted, in order.
    pub choices: Vec<String>,
    /// Strings that end an answer: it stops before the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// How tokens are chosen; greedy by default.
    #[serde(default, skip_serializing_if = "Sampling::is_greedy")]
    pub sampling: Sampling,
}

impl Request {
    /// Asks for the likeliest answer of at most `max_tokens` tokens.
    #[must_use]
    pub fn greedy(prompt: Prompt, max_tokens: usize) -> Self {
        Self { prompt, max_tokens, choices: Vec::new(), stop: Vec::new(), sampling: Sampling::default() }
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// The model ended its turn, or said one of [`Request::stop`].
    Stop,
    /// The token limit was reached.
    Length,
    /// Nothing was generated: only choices were scored.
    Scored,
}

/// One arm's answer to one [`Request`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// The text, without the token that ended the turn or the string that stopped it. Special tokens that leaked are spelt out.
    pub text: String,
    /// The generated tokens, without the one that ended the turn; of a stopped answer those that lie within `text`.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// Length of the rendered prompt in tokens.
    pub prompt_tokens: usize,
    /// For each of [`Request::choices`], in order.
    pub choices: Vec<ChoiceScore>,
    /// Tokens of it that had a rival within rounding of them: another batch, or another number of threads, may answer otherwise.
    #[serde(default, skip_serializing_if = "is_none")]
    pub near_ties: usize,
}

fn is_none(count: &usize) -> bool {
    *count == 0
}

/// Log-likelihood of one continuation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChoiceScore {
    /// The continuation.
    pub text: String,
    /// Σ log p of its tokens, in nats.
    pub log_likelihood: f64,
    /// How many tokens it is.
    pub tokens: usize,
}

/// What a check, a case or a scenario came to. *Not evaluated* is never a pass and never a zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every check holds.
    Passed,
    /// A check does not hold.
    Failed,
    /// There is no answer to judge.
    NotEvaluated,
}

/// What a scenario is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// What the fine-tune is for.
    Target,
    /// An ability of the base model that must survive it.
    Control,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Target => "target",
            Self::Control => "control",
        })
    }
}

/// One arm of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// [`BASE`], [`TUNED`], or a name of its own.
    pub name: String,
    /// Hash of everything that decides this arm's answers but the prompt.
    pub fingerprint: String,
    /// Directory of its adapter, relative to the project; `None` for base.
    pub adapter: Option<String>,
    /// Factor on the adapter's own scale (alpha/r); 1 is the adapter as trained.
    pub scale: f64,
}

/// Answers that were approved before, by scenario, case and arm.
#[derive(Clone, Debug, Default)]
pub struct Approved(HashMap<[String; 3], String>);

impl Approved {
    /// An arm's approved answer to a case.
    #[must_use]
    pub fn get(&self, scenario: &str, case: &str, arm: &str) -> Option<&str> {
        self.0.get(&[scenario, case, arm].map(str::to_owned)).map(String::as_str)
    }

    /// Adds one, in place of an earlier one.
    pub fn insert(&mut self, scenario: &str, case: &str, arm: &str, answer: String) {
        self.0.insert([scenario, case, arm].map(str::to_owned), answer);
    }
}

/// One arm's answer to one case, judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The answer; `None` when the case was not asked of this arm, or its computation failed.
    pub completion: Option<Completion>,
    /// The case's verdict: passed when every check holds.
    pub verdict: Verdict,
    /// For each check that does not hold: what was expected and what was found. Without an answer: why there is none.
    pub failures: Vec<String>,
}

/// A case and every arm's answer to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaseRecord {
    /// Its name, unique in the scenario.
    pub name: String,
    /// What was asked.
    pub prompt: Prompt,
    /// Its checks, as a person reads them: `contains "Paris"`.
    pub checks: Vec<String>,
    /// By the arm's name.
    pub answers: BTreeMap<String, Answer>,
}

impl CaseRecord {
    /// The verdict of `arm`; not evaluated when it was not asked.
    #[must_use]
    pub fn verdict(&self, arm: &str) -> Verdict {
        self.answers.get(arm).map_or(Verdict::NotEvaluated, |a| a.verdict)
    }

    /// Arms whose answer could not be computed, and why.
    pub fn errors(&self) -> impl Iterator<Item = (&str, &str)> {
        let failed = self.answers.iter().filter(|(_, answer)| answer.completion.is_none());
        failed.filter_map(|(arm, answer)| Some((arm.as_str(), answer.failures.first()?.as_str())))
    }

    /// The text `arm` answered, if it did.
    #[must_use]
    pub fn text(&self, arm: &str) -> Option<&str> {
        self.answers.get(arm)?.completion.as_ref().map(|c| c.text.as_str())
    }
}

/// A scenario with all its cases answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScenarioRecord {
    /// The file's stem.
    pub name: String,
    /// The file, relative to the project, with `/`.
    pub path: String,
    /// Target or control.
    pub role: Role,
    /// The ability in a line.
    pub description: String,
    /// How the tokens of its answers were chosen.
    #[serde(default, skip_serializing_if = "Sampling::is_greedy")]
    pub sampling: Sampling,
    /// In the file's order.
    pub cases: Vec<CaseRecord>,
}

impl ScenarioRecord {
    /// `control::arithmetic::case_2`: the name of a case's test.
    #[must_use]
    pub fn test_name(&self, case: &CaseRecord) -> String {
        format!("{}::{}::{}", self.role, self.name, case.name)
    }
}

/// How far tuned's next-token distributions are from base's on the same tokens.
///
/// With p of base and q of tuned, per position KL = Σ_v p ln(p/q), in nats; the same as llama.cpp's `--kl-divergence`.
/// `nll` is −ln of the probability of the token that follows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// The tokens: `base answers` (base's own answers to the control cases) or the name of a text file.
    pub source: String,
    /// Positions compared.
    pub tokens: usize,
    /// Mean KL(base ‖ tuned), nats/token.
    pub kl_mean: f64,
    /// Standard error of the mean, over texts.
    pub kl_se: f64,
    /// Median over positions.
    pub kl_median: f64,
    /// 99th percentile over positions.
    pub kl_p99: f64,
    /// Share of positions with the same most likely token.
    pub same_top1: f64,
    /// Mean NLL of base, nats/token.
    pub nll_base: f64,
    /// Mean NLL of tuned, nats/token.
    pub nll_tuned: f64,
    /// Standard error of `nll_tuned − nll_base`, paired, over texts.
    pub nll_change_se: f64,
}

impl Drift {
    /// `nll_tuned − nll_base`, nats/token; positive is worse.
    #[must_use]
    pub fn nll_change(&self) -> f64 {
        self.nll_tuned - self.nll_base
    }
}

/// Proof that the adapter is really applied, and that base is untouched by it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// Largest |logit_tuned − logit_base| on the probe; above 0, or the run is an error.
    pub adapter_effect: f64,
    /// Largest |logit_base − logit_base asked alone, without any adapter loaded| on the probe.
    pub base_difference: f64,
    /// Linear layers the adapter changes.
    pub adapted_modules: usize,
}

/// The model that was asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// As the manifest names it.
    pub source: String,
    /// `llama`, …
    pub family: String,
    /// Weights in the base, the head counted once when it is tied.
    pub parameters: u64,
    /// Hash of all that decides the model's answers: weights, tokenizer and chat template.
    pub fingerprint: String,
    /// Hash of the weights' files, with `config.json` where there is one. Empty in records of versions that did not write it.
    #[serde(default)]
    pub weights: String,
}

/// What the run cost; never in a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Prompt tokens computed.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub generated_tokens: usize,
    /// Answers computed now.
    pub computed: usize,
    /// Answers read from the store.
    pub stored: usize,
}

/// A run: every scenario asked of every arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// [`RunRecord::VERSION`] of the writer.
    pub version: u32,
    /// Version of finetest that wrote it.
    pub finetest: String,
    /// The project's name.
    pub project: String,
    /// The base model.
    pub model: ModelInfo,
    /// Base first.
    pub arms: Vec<Arm>,
    /// `candle`, …, with its version.
    pub backend: String,
    /// In the order of their names, targets first.
    pub scenarios: Vec<ScenarioRecord>,
    /// Drift on control text; `None` when it was not measured.
    pub drift: Option<Drift>,
    /// `None` when the backend cannot show it.
    pub proof: Option<Proof>,
    /// What besides an answer could not be computed, or not wholly, and why: by `drift` and `proof`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, String>,
    /// What it cost.
    pub cost: Cost,
}

impl RunRecord {
    /// Version of the JSON form; raised when a reader of the old form would misread the new one.
    pub const VERSION: u32 = 1;

    /// Every case, with its scenario.
    pub fn cases(&self) -> impl Iterator<Item = (&ScenarioRecord, &CaseRecord)> {
        self.scenarios.iter().flat_map(|s| s.cases.iter().map(move |c| (s, c)))
    }

    /// All that could not be computed, and why: `drift`, `proof`, and cases with their arm.
    #[must_use]
    pub fn all_errors(&self) -> BTreeMap<String, String> {
        let of_case = |(scenario, case): (&ScenarioRecord, &CaseRecord)| {
            let name = scenario.test_name(case);
            let all = case.errors().map(|(arm, why)| (format!("{name}, {arm}"), why.to_owned()));
            all.collect::<Vec<_>>()
        };
        let answers = self.cases().flat_map(of_case);
        self.errors.iter().map(|(what, why)| (what.clone(), why.clone())).chain(answers).collect()
    }

    /// Exit code of a command that made this run and decided this about it: that an answer, drift or the proof could not be computed
    /// is an error, whatever the gate says.
    #[must_use]
    pub fn exit_code(&self, decision: &Decision) -> u8 {
        let failed = !self.errors.is_empty() || self.cases().any(|(_, case)| case.errors().next().is_some());
        if failed { exit::ERROR } else { decision.exit_code() }
    }
}

/// Which side of its threshold a rule's measurement has to be on. The threshold itself is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// A share, or nats a token.
    #[default]
    Number,
    /// Whole cases.
    Count,
}

/// A closed interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// One threshold of the gate and what was measured against it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// The manifest's key: `min_target_pass_rate`, …
    pub name: String,
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

/// What the gate decided, rule by rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Every rule passed, there was at least one, and the run has no errors.
    pub passed: bool,
    /// One for each threshold in the manifest.
    pub rules: Vec<Rule>,
    /// What the run could not compute, and why ([`RunRecord::all_errors`]): the run is then incomplete, and never passes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, String>,
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
        let named: Vec<&str> = self.errors.keys().take(NAMED_ERRORS).map(String::as_str).collect();
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
