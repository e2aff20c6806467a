//! One question of a person, asked of base and every arm of a project.

use super::asked::Checked;
use super::prepared::Prepared;
use super::{Events, TrainPolicy, early};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::record::{Aggregate, Message, Prompt, Request, Role, RunRecord, Sampling};
use crate::scenario::{Case, Scenario};

/// A question of a person.
#[derive(Clone, Debug)]
pub struct Question {
    /// What the user says.
    pub prompt: String,
    /// What the system says before.
    pub system: Option<String>,
    /// Continue the prompt as it is, without a chat template.
    pub raw: bool,
    /// Most new tokens of an answer.
    pub max_tokens: usize,
    /// Strings that end an answer.
    pub stop: Vec<String>,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

/// Asks base and every arm of a project one question. Answers are stored, as those of a run are; no run is written.
///
/// # Errors
/// As [`run()`](super::run()); the question is empty.
pub fn ask(config: &Config, question: &Question, policy: TrainPolicy, on_event: Events<'_>) -> Result<RunRecord> {
    if question.prompt.trim().is_empty() {
        return Err(Error::Usage(
            "the question is empty; give it in quotes: finetest ask \"What is the capital of France?\"".into(),
        ));
    }
    early::check_subject(config)?;
    let checked = Checked { scenarios: vec![scenario(question)], ..Checked::default() };
    let prepared = Prepared::open(config, checked, on_event)?;
    let tuned = prepared.adapter(config.backend, policy, on_event)?;
    let arms = prepared.arms(config.backend, tuned)?;
    prepared.ask(config.backend, &arms, on_event)
}

/// A scenario with the question as its only case. It is a target's, so that no drift is measured, and it has nothing to judge.
fn scenario(question: &Question) -> Scenario {
    let Question { prompt, system, raw, max_tokens, stop, sampling } = question;
    let prompt = if *raw {
        Prompt::Text(prompt.clone())
    } else {
        let system = system.iter().map(|text| Message::new("system", text));
        Prompt::Messages(system.chain([Message::new("user", prompt)]).collect())
    };
    let request =
        Request { prompt, max_tokens: *max_tokens, choices: Vec::new(), stop: stop.clone(), sampling: *sampling };
    let case = Case {
        name: "question".to_owned(),
        line: 1,
        tags: Vec::new(),
        family: None,
        request,
        checks: Vec::new(),
        follow_ups: Vec::new(),
    };
    Scenario {
        name: "question".to_owned(),
        path: "the command line".to_owned(),
        role: Role::Target,
        description: "one question".to_owned(),
        repeat: 1,
        aggregate: Aggregate::All,
        cases: vec![case],
    }
}
