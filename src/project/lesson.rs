//! What a training learns from: a project's data lines in tokens.

use std::path::Path;

use super::asked::{Checked, open_tokenizer};
use super::provenance::data_of;
use super::{Events, advice};
use crate::config::{Config, OnError, Recipe};
use crate::data::limits::Limits;
use crate::data::{self, Example};
use crate::error::{Error, Result};
use crate::model::ModelFiles;
use crate::model::tokenizer::ChatTokenizer;
use crate::run::RunEvent;
use crate::train::encode::{Encoded, encode_example};

/// What a training learns from, in tokens.
pub(super) struct Lesson {
    pub(super) train: Vec<Encoded>,
    pub(super) validation: Vec<Encoded>,
}

/// Checks all that a training needs and all that is asked after it, before it takes its hours: prompts and choices fit the context, every
/// data line is encoded.
///
/// # Errors
/// Something does not fit.
pub(super) fn prepare(
    config: &Config,
    recipe: &Recipe,
    files: &ModelFiles,
    checked: &Checked,
    on_event: Events<'_>,
) -> Result<Lesson> {
    for warning in config.notes.iter().cloned().chain(recipe.warnings()) {
        on_event(RunEvent::note(warning));
    }
    let (chat, limits) = open_tokenizer(config, files, checked)?;
    let lengths = Limits::new(recipe.sequence_len, limits.context);
    let (train, validation) = examples(config, recipe, &chat, lengths, on_event)?;
    advice::notes(recipe, files, train.len()).into_iter().for_each(|note| on_event(RunEvent::note(note)));
    Ok(Lesson { train, validation })
}

/// A project's examples.
pub(super) struct Split<'c> {
    pub(super) train: Vec<Example>,
    pub(super) validation: Vec<Example>,
    /// The files that they come from.
    pub(super) sources: [&'c Path; 2],
}

/// Reads examples to learn from and to validate with: out of a file of their own, or held back.
pub(super) fn split<'c>(
    config: &'c Config,
    recipe: &Recipe,
    mut read: impl FnMut(&Path) -> Result<Vec<Example>>,
) -> Result<Split<'c>> {
    let data = data_of(config)?;
    let train = read(&data.train)?;
    Ok(match &data.validation {
        Some(path) => Split { train, validation: read(path)?, sources: [&data.train, path] },
        None => {
            let (train, validation) = data::hold_back(train, recipe.val_set_size, recipe.seed);
            Split { train, validation, sources: [&data.train, &data.train] }
        }
    })
}

/// Training and validation examples in tokens.
fn examples(
    config: &Config,
    recipe: &Recipe,
    chat: &ChatTokenizer,
    limits: Limits,
    on_event: Events<'_>,
) -> Result<(Vec<Encoded>, Vec<Encoded>)> {
    let data = data_of(config)?;
    if let Some(note) = limits.note() {
        on_event(RunEvent::note(note));
    }
    let inputs = recipe.train_on_inputs;
    let read = |path: &Path, on_event: Events<'_>| -> Result<Vec<Example>> {
        let dataset = data::load(path, data.format, data.on_error)?;
        if !dataset.skipped.is_empty() {
            let all = dataset.examples.len() + dataset.skipped.len();
            let mut note = format!(
                "{}: {} of {all} lines are skipped, as [data] on_error says",
                config.relative(path),
                dataset.skipped.len()
            );
            dataset.skipped.iter().take(5).for_each(|e| note.push_str(&format!("\n- {e}")));
            on_event(RunEvent::note(note));
        }
        Ok(dataset.examples)
    };
    let Split { train, validation, sources } = split(config, recipe, |path| read(path, on_event))?;
    let validation_path = sources[1];
    let encode = |example: &Example| encode_example(example, chat, inputs, limits);
    let train = encode_all(&data.train, &train, encode, data.on_error, on_event)?;
    let validation = encode_all(validation_path, &validation, encode, data.on_error, on_event)?;
    if train.is_empty() {
        let message = "has no line left to train on; the notes above say why lines were skipped";
        return Err(Error::input(&data.train, None, message));
    }
    Ok((train, validation))
}

fn encode_all(
    path: &Path,
    examples: &[Example],
    encode: impl Fn(&Example) -> Result<Encoded>,
    on_error: OnError,
    on_event: Events<'_>,
) -> Result<Vec<Encoded>> {
    let (mut encoded, mut errors) = (Vec::new(), Vec::new());
    for example in examples {
        match encode(example) {
            Ok(tokens) => encoded.push(tokens),
            Err(error) => errors.push(Error::input(path, example.line, error.to_string())),
        }
    }
    match on_error {
        OnError::Stop => {
            let more = errors.len().saturating_sub(20);
            errors.truncate(20);
            if more > 0 {
                errors.push(Error::failed(format!("and {more} more lines")));
            }
            Error::collect(errors)?;
        }
        OnError::Skip if !errors.is_empty() => {
            let (many, path) = (errors.len(), path.display());
            let lines = if many == 1 { "line is" } else { "lines are" };
            on_event(RunEvent::note(format!("{path}: {many} {lines} skipped; the first: {}", errors[0])));
        }
        OnError::Skip => {}
    }
    Ok(encoded)
}
