//! A backend that answers from a script: for tests of everything that is not a model, and for trying out scenarios.

use std::collections::HashMap;

use super::{Answered, Backend, Capabilities, OnAnswers, Progress, Question};
use crate::error::{Error, Result};
use crate::record::{ChoiceScore, Completion, Finish};

/// Answers by arm and the prompt's last user message.
///
/// ```
/// use finetest::backend::{Backend, Question, Scripted};
/// use finetest::record::{Message, Prompt, Request};
///
/// let mut backend = Scripted::new([(0, "What is 2 + 2?", "4"), (1, "What is 2 + 2?", "{}")]);
/// let prompt = Prompt::Messages(vec![Message::new("user", "What is 2 + 2?")]);
/// let request = Request::greedy(prompt, 8);
/// let answers = backend.complete(&[Question::new(0, &request), Question::new(1, &request)], &mut |_| {})?;
/// assert_eq!(answers[0].as_ref().map(|a| a.text.as_str()), Ok("4"));
/// # Ok::<(), finetest::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Scripted {
    answers: HashMap<(usize, String), String>,
    /// How many questions were asked of it.
    pub asked: usize,
}

impl Scripted {
    /// (arm, last user message, answer) each.
    pub fn new<'s>(script: impl IntoIterator<Item = (usize, &'s str, &'s str)>) -> Self {
        let answers = script.into_iter().map(|(arm, asked, answer)| ((arm, asked.to_owned()), answer.to_owned()));
        Self { answers: answers.collect(), asked: 0 }
    }
}

impl Backend for Scripted {
    fn name(&self) -> String {
        "scripted 1".into()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { scores: true, seeds: true, ..Capabilities::default() }
    }

    fn answer(
        &mut self,
        questions: &[Question<'_>],
        on_answers: OnAnswers<'_>,
        _: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        self.asked += questions.len();
        let answer = |(i, Question { arm, request, .. }): (usize, &Question<'_>)| {
            let asked = request.prompt.headline();
            let text = self
                .answers
                .get(&(*arm, asked.to_owned()))
                .ok_or_else(|| Error::failed(format!("the script has no answer of arm {arm} to {asked:?}")))?;
            let score = |choice: &String| ChoiceScore {
                text: choice.clone(),
                log_likelihood: if choice.trim() == text.trim() { -1.0 } else { -10.0 },
                tokens: 1,
            };
            let generated = request.max_tokens > 0;
            let completion = Completion {
                text: if generated { text.clone() } else { String::new() },
                tokens: Vec::new(),
                finish: if generated { Finish::Stop } else { Finish::Scored },
                prompt_tokens: 0,
                choices: request.choices.iter().map(score).collect(),
                near_ties: 0,
            };
            Ok((i, Ok(completion)))
        };
        on_answers(questions.iter().enumerate().map(answer).collect::<Result<Vec<(usize, Answered)>>>()?)
    }
}
