//! What a run asks, and whether its model can be asked it.

use crate::backend::encode;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::model::tokenizer::ChatTokenizer;
use crate::model::{self, Limits, ModelFiles};
use crate::run::Shared;
use crate::scenario::Scenario;

/// What a run asks, read and checked without a model.
#[derive(Default)]
pub(super) struct Checked {
    pub(super) scenarios: Vec<Scenario>,
    /// A text besides base's answers that drift is measured on: its name and content.
    pub(super) drift_text: Option<(String, String)>,
    /// Which part of a shared run it is; `None`: a whole run.
    pub(super) part: Option<Shared>,
}

/// A model's tokenizer and limits, and every prompt and choice checked by them.
pub(super) fn open_tokenizer(
    config: &Config,
    files: &ModelFiles,
    checked: &Checked,
) -> Result<(ChatTokenizer, Limits)> {
    let chat = ChatTokenizer::load(files, &config.model)?;
    let limits = model::limits(files, &config.model)?;
    chat.check_fits(limits.vocabulary)?;
    check_prompts(&chat, limits.context, checked)?;
    Ok((chat, limits))
}

/// Checks that the prompt and choices of every case fit a model's context.
///
/// # Errors
/// One does not, or it cannot be rendered: with the scenario's file and the case.
pub(super) fn check_prompts(chat: &ChatTokenizer, context: usize, checked: &Checked) -> Result<()> {
    let mut errors = Vec::new();
    for scenario in &checked.scenarios {
        for case in &scenario.cases {
            // A later turn comes behind answers that may be as long as they can be.
            let turns = (0..case.turns()).map(|turn| case.longest_turn(turn));
            for (turn, request) in turns.enumerate() {
                if let Err(error) = encode::check(context, chat, &request) {
                    let place = if turn == 0 { String::new() } else { format!(", turn {}", turn + 1) };
                    errors.push(Error::input(&scenario.path, None, format!("case {:?}{place}: {error}", case.name)));
                    break;
                }
            }
        }
    }
    errors.truncate(MOST_ERRORS);
    Error::collect(errors)
}

/// Cases that are named at once.
const MOST_ERRORS: usize = 20;
