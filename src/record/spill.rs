//! What an arm's answers to the controls look like beside base's.

use serde::{Deserialize, Serialize};

/// Control answers with a form that the target's answers have: 12 of 36, where base has 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FormCount {
    /// The form, as the target's check is shown: `json`.
    pub form: String,
    /// Answers of base that have it.
    pub base: usize,
    /// Answers of the arm that have it.
    pub arm: usize,
}

/// Answers to the controls of base and an arm, by how they look. A control that asks for a form itself is counted all the same: base's answers are
/// beside it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SpillOver {
    /// Control cases that both answered with text.
    pub answers: usize,
    /// The target's forms, found in its own checks.
    pub forms: Vec<FormCount>,
    /// Answers that say nothing: of base, and of the arm.
    pub empty: [usize; 2],
    /// Answers that repeat themselves.
    pub loops: [usize; 2],
    /// Answers with tags of a chat template.
    pub tags: [usize; 2],
    /// Answers that decline to help.
    pub refusals: [usize; 2],
    /// Words of an answer, on average.
    pub words: [f64; 2],
}
