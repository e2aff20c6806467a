//! What happens while a project is run or an adapter trained: one stream, which a display, a log or another program follows.

use serde::Serialize;

use crate::record::Verdict;

/// Something that happened. As JSON it is one object with its name in `event`: `{"event": "case-finished", "test": …}`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RunEvent {
    /// A stage begins; the one before it is over.
    Stage {
        /// `answering`, `measuring drift`, `training`, `downloading NAME`.
        what: String,
        /// How many units it has: answers, texts, steps, bytes. 0 where that is not known.
        units: usize,
        /// Its units are bytes.
        bytes: bool,
    },
    /// The current stage is so much further.
    Advanced {
        /// Units that were done.
        units: usize,
        /// Tokens that were computed.
        tokens: usize,
    },
    /// The current stage is over, and no other follows at once.
    StageFinished,
    /// An arm's answer to a case was judged.
    CaseFinished {
        /// `control::facts::france`.
        test: String,
        /// Its scenario's file, relative to the project.
        file: String,
        /// Its line there.
        line: usize,
        /// The arm.
        arm: String,
        /// What its samples come to.
        verdict: Verdict,
        /// Its first failure, or why there is no answer.
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<String>,
        /// No sample of it was computed now.
        stored: bool,
        /// Seconds that were spent on it.
        seconds: f64,
    },
    /// A training made a step.
    Step {
        /// How many are done.
        step: usize,
        /// Mean loss of the step, nats/token.
        loss: Option<f64>,
        /// Tokens of the step.
        tokens: usize,
    },
    /// A training was compared with its validation examples.
    Validated {
        /// After so many steps.
        step: usize,
        /// Mean loss, nats/token.
        loss: Option<f64>,
    },
    /// A training can continue from here if it is stopped.
    Saved {
        /// After so many steps.
        step: usize,
    },
    /// Something that a person should know.
    Note {
        /// What.
        text: String,
    },
}

impl RunEvent {
    /// Something that a person should know.
    pub fn note(text: impl Into<String>) -> Self {
        Self::Note { text: text.into() }
    }
}
