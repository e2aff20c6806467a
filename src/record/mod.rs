//! What crosses the modules: requests and answers, verdicts, a whole run, and the gate's decision.
//!
//! Everything here is plain data with a stable JSON form ([`RunRecord::VERSION`]), so that a run made on one machine can be
//! gated and reported on another.

mod again;
mod answer;
mod choice;
mod decision;
mod drift;
#[cfg(test)]
pub(crate) mod fixture;
mod load;
mod made;
mod part;
mod sampling;
mod spill;
mod tools;
mod version1;

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::error::exit;

pub use again::{AskedAgain, Noise};
pub use answer::{Aggregate, Answer, ChoiceScore, Completion, Finish, Sample};
pub use choice::{Choice, Normalize};
pub use decision::{
    Bound, ControlMeasure, ControlVerdict, Decision, Detection, Ending, Evidence, Interval, LostScenario, Rule, Unit,
};
pub use drift::{
    Divergence, Drift, DriftMethod, DriftSample, Floor, MOST_POSITIONS, Measures, MovedToken, Proof, TextDrift,
    TextMeans, WHOLE, WeightsProof,
};
pub use made::{Commit, Made, Selected};
pub use part::{ArmMeasured, Measurements, Part};
pub use sampling::Sampling;
pub use spill::{FormCount, SpillOver};
pub use tools::ToolUse;

/// Name of the untouched model's arm: the control group.
pub const BASE: &str = "base";
/// Difference of two logits up to which which of them is larger is a matter of rounding.
pub const NEAR_TIE: f64 = 1e-3;
/// Name of the arm with the trained adapter.
pub const TUNED: &str = "tuned";

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
    /// Of training data, where the role may be `tool` too: the tools that the assistant calls, or the call that a tool answers.
    #[serde(skip)]
    pub tools: Option<Box<ToolUse>>,
}

impl Message {
    /// A message of `role` that says `content`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), tools: None }
    }

    /// The same message with its use of tools.
    #[must_use]
    pub(crate) fn with_tools(self, tools: Option<ToolUse>) -> Self {
        Self { tools: tools.map(Box::new), ..self }
    }

    /// Bytes of what it says.
    pub(crate) fn bytes(&self) -> usize {
        self.role.len() + self.content.len() + self.tools.as_deref().map_or(0, |tools| tools.json().len())
    }

    /// What it says, and what it calls as JSON; one text at least.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        let calls = self.tools.as_deref().map_or("", ToolUse::text);
        let said = Some(self.content.as_str()).filter(|text| !text.is_empty() || calls.is_empty());
        said.into_iter().chain(Some(calls).filter(|text| !text.is_empty()))
    }
}

/// What a case asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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

/// All of a prompt as a person reads it; several messages each begin with their role.
impl std::fmt::Display for Prompt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text.trim()),
            Self::Messages(messages) => match messages.as_slice() {
                [only] => f.write_str(only.content.trim()),
                several => {
                    for (i, message) in several.iter().enumerate() {
                        let before = if i == 0 { "" } else { "\n" };
                        write!(f, "{before}{}: {}", message.role, message.content.trim())?;
                    }
                    Ok(())
                }
            },
        }
    }
}

/// One question to one arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
    /// Asks for the greedy answer of at most `max_tokens` tokens.
    #[must_use]
    pub fn greedy(prompt: Prompt, max_tokens: usize) -> Self {
        Self { prompt, max_tokens, choices: Vec::new(), stop: Vec::new(), sampling: Sampling::default() }
    }
}

/// What a check, a case or a scenario came to. *Not evaluated* is never a pass and never a zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
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

/// Answers that were approved before, by scenario, case and arm: one for each turn of the user.
#[derive(Clone, Debug, Default)]
pub struct Approved(HashMap<[String; 3], Vec<String>>);

impl Approved {
    /// An arm's approved answer to a turn of a case, the first being 0.
    #[must_use]
    pub fn get(&self, scenario: &str, case: &str, arm: &str, turn: usize) -> Option<&str> {
        self.0.get(&[scenario, case, arm].map(str::to_owned))?.get(turn).map(String::as_str)
    }

    /// Adds an arm's answers to all turns of a case, instead of earlier ones.
    pub fn insert(&mut self, scenario: &str, case: &str, arm: &str, turns: Vec<String>) {
        self.0.insert([scenario, case, arm].map(str::to_owned), turns);
    }
}

/// A case and every arm's answer to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CaseRecord {
    /// Its name, unique in the scenario.
    pub name: String,
    /// Its line in the scenario's file; `None` where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The case that asks the same in other words; `None` for a question that is asked once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// What was asked.
    pub prompt: Prompt,
    /// What the user said next, each after the answer to what was said before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub follow_ups: Vec<String>,
    /// Its checks, as a person reads them: `contains "Paris"`.
    pub checks: Vec<String>,
    /// What each `choice` among the checks of its first turn chooses between.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<Choice>,
    /// By the arm's name.
    pub answers: BTreeMap<String, Answer>,
}

impl CaseRecord {
    /// The verdict of `arm`; not evaluated when it was not asked.
    #[must_use]
    pub fn verdict(&self, arm: &str) -> Verdict {
        self.answers.get(arm).map_or(Verdict::NotEvaluated, |a| a.verdict)
    }

    /// Arms of which an answer could not be computed, and why.
    pub fn errors(&self) -> impl Iterator<Item = (&str, &str)> {
        self.answers.iter().filter_map(|(arm, answer)| Some((arm.as_str(), answer.error()?)))
    }

    /// The text `arm` answered, if it did: the last turn of the sample that shows its verdict.
    #[must_use]
    pub fn text(&self, arm: &str) -> Option<&str> {
        self.answers.get(arm)?.completion().map(|c| c.text.as_str())
    }

    /// The failures of `arm`, of the sample that shows its verdict.
    #[must_use]
    pub fn failures(&self, arm: &str) -> &[String] {
        self.answers.get(arm).map_or(&[], Answer::failures)
    }
}

/// A scenario with all its cases answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
    /// What the samples of a case come to together.
    #[serde(default, skip_serializing_if = "Aggregate::is_all")]
    pub aggregate: Aggregate,
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

/// The model that was asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
    /// Seconds of each case of which an answer was computed, by its test, over all arms: of what is computed together each has an equal
    /// part.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cases: BTreeMap<String, f64>,
}

/// Something that could not be computed, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "of", rename_all = "kebab-case")]
pub enum RunError {
    /// An arm's answer to a case.
    Answer {
        /// The case's test.
        case: String,
        /// The arm.
        arm: String,
        /// Why.
        why: String,
    },
    /// The drift of an arm, or of some of its texts.
    Drift {
        /// The arm.
        arm: String,
        /// Why.
        why: String,
    },
    /// The proof of an arm.
    Proof {
        /// The arm.
        arm: String,
        /// Why.
        why: String,
    },
}

impl RunError {
    /// What could not be computed: `drift`, `proof of half`, `control::facts::france, tuned`.
    #[must_use]
    pub fn what(&self) -> String {
        let of = |arm: &str| if arm == TUNED { String::new() } else { format!(" of {arm}") };
        match self {
            Self::Answer { case, arm, .. } => format!("{case}, {arm}"),
            Self::Drift { arm, .. } => format!("drift{}", of(arm)),
            Self::Proof { arm, .. } => format!("proof{}", of(arm)),
        }
    }

    /// Why.
    #[must_use]
    pub fn why(&self) -> &str {
        match self {
            Self::Answer { why, .. } | Self::Drift { why, .. } | Self::Proof { why, .. } => why,
        }
    }
}

/// A run: every scenario asked of every arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RunRecord {
    /// [`RunRecord::VERSION`] of the writer.
    pub version: u32,
    /// Version of finetest that wrote it.
    pub finetest: String,
    /// The project's name.
    pub project: String,
    /// When, from what and on what it was made.
    #[serde(default)]
    pub made: Made,
    /// The base model.
    pub model: ModelInfo,
    /// Base first.
    pub arms: Vec<Arm>,
    /// `candle`, …, with its version.
    pub backend: String,
    /// In the order of their names, targets first.
    pub scenarios: Vec<ScenarioRecord>,
    /// Drift of an arm from base on control text, by the arm's name; absent where it was not measured.
    pub drift: BTreeMap<String, Drift>,
    /// Drift of an arm from base on base's answers to the target cases, where change is wanted; absent where it was not measured.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub target_drift: BTreeMap<String, Drift>,
    /// How the control answers of an arm look beside base's: the target's forms among them, and what broken models do.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub spill_over: BTreeMap<String, SpillOver>,
    /// By the arm's name; absent where the backend cannot show it.
    pub proof: BTreeMap<String, Proof>,
    /// Cases that a server was asked once more, by the arm's name; empty where answers cannot be otherwise.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub again: BTreeMap<String, Vec<AskedAgain>>,
    /// What besides an answer could not be computed, or not wholly.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<RunError>,
    /// Which part of a shared run it is; `None`: a whole one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// What the gate decided when the run was made; `None` where nothing asked it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// What it cost.
    pub cost: Cost,
}

impl RunRecord {
    /// Version of the JSON form; raised when a reader of the old form would misread the new one.
    pub const VERSION: u32 = 2;

    /// Every case, with its scenario.
    pub fn cases(&self) -> impl Iterator<Item = (&ScenarioRecord, &CaseRecord)> {
        self.scenarios.iter().flat_map(|s| s.cases.iter().map(move |c| (s, c)))
    }

    /// All that could not be computed: drift, proof, and answers.
    #[must_use]
    pub fn all_errors(&self) -> Vec<RunError> {
        let of_case = |(scenario, case): (&ScenarioRecord, &CaseRecord)| {
            let case_name = scenario.test_name(case);
            let error = |(arm, why): (&str, &str)| RunError::Answer {
                case: case_name.clone(),
                arm: arm.to_owned(),
                why: why.to_owned(),
            };
            case.errors().map(error).collect::<Vec<_>>()
        };
        self.errors.iter().cloned().chain(self.cases().flat_map(of_case)).collect()
    }

    /// Exit code of a command that made this run and decided this about it: that an answer, drift or the proof could not be computed
    /// is an error, whatever the gate says. A part of a shared run is not gated.
    #[must_use]
    pub fn exit_code(&self, decision: &Decision) -> u8 {
        let failed = !self.errors.is_empty() || self.cases().any(|(_, case)| case.errors().next().is_some());
        match (failed, &self.part) {
            (true, _) => exit::ERROR,
            (false, Some(_)) => exit::PASS,
            (false, None) => decision.exit_code(),
        }
    }
}
