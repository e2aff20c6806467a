//! What a project's data is checked beside: its own validation data, its scenarios, its model's tokenizer. And in a line, what its data
//! and its base have that a person should look at.

use std::path::Path;
use std::sync::Arc;

use super::base::files_here;
use crate::config::{Config, DataFormat};
use crate::data::Example;
use crate::data::check::{self, CheckOptions, Severity, TokenCount};
use crate::data::limits::Limits;
use crate::inspect::inspect;
use crate::model::ModelFiles;
use crate::model::tokenizer::ChatTokenizer;
use crate::record::Prompt;
use crate::scenario;
use crate::train::encode::encode_example;

/// Bytes of a file up to which it is looked at beside other work: a second or two.
const SMALL: u64 = 32 << 20;

/// What `finetest data check` would name of a small file, in a line; `None` where it is clean, large, or cannot be read.
pub(super) fn data_findings(path: &Path, shown: &str, options: &CheckOptions) -> Option<String> {
    if path.metadata().ok()?.len() > SMALL {
        return None;
    }
    let (report, _) = check::check(path, options, &mut |_| {}).ok()?;
    let found = report.counts.iter().filter(|count| count.severity != Severity::Note);
    let kinds: Vec<String> = found.map(|count| format!("{} {}", count.kind, count.items)).collect();
    (!kinds.is_empty()).then(|| format!("{shown}: {}; `finetest data check` shows them", kinds.join(", ")))
}

/// The traps of a base, in a line; `None` where there is none, or the family is another backend's.
pub(super) fn trap_note(files: &ModelFiles, source: &str) -> Option<String> {
    let traps = inspect(files).ok()?.traps;
    let names: Vec<&str> = traps.iter().map(|trap| trap.name).collect();
    (!names.is_empty())
        .then(|| format!("known traps: {}; `finetest inspect {source}` says what to do", names.join(", ")))
}

/// What a person should know of a new project's data, and of its base if that is on this machine.
pub(crate) fn first_look(config: &Config) -> Vec<String> {
    let of_data = config.data.as_ref().and_then(|data| {
        let options = data_options(config, &data.train, data.format);
        data_findings(&data.train, &config.relative(&data.train), &options)
    });
    let of_base = files_here(config).and_then(|files| trap_note(&files, &config.model.source));
    of_data.into_iter().chain(of_base).collect()
}

/// What a file of this format is checked for in a project. Its own training data is compared with its validation data and is as long as its
/// recipe says; all but its validation data is compared with its scenarios.
#[must_use]
pub fn data_options(config: &Config, path: &Path, format: DataFormat) -> CheckOptions {
    let mut options = CheckOptions { format, tokens: token_count(config), ..CheckOptions::default() };
    let Some(data) = &config.data else { return options };
    let is_own = data.train == path;
    if is_own {
        options.validation.extend(data.validation.clone());
        options.sequence_len = config.recipe.as_ref().map(|recipe| recipe.sequence_len);
    }
    if data.validation.as_deref() != Some(path) || is_own {
        options.scenarios = prompts(config);
    }
    options
}

/// The prompts of a project's scenarios, each with its test's name. Scenarios that cannot be read are `finetest check`'s to report.
fn prompts(config: &Config) -> Vec<(String, String)> {
    let Ok(scenarios) = scenario::load_all(config) else { return Vec::new() };
    let cases = scenarios.iter().flat_map(|scenario| scenario.cases.iter().map(move |case| (scenario, case)));
    cases
        .filter_map(|(scenario, case)| {
            let text = match &case.request.prompt {
                Prompt::Messages(messages) => {
                    messages.iter().rev().find(|message| message.role == "user")?.content.clone()
                }
                Prompt::Text(text) => text.clone(),
            };
            Some((text, format!("the case {}::{}", scenario.name, case.name)))
        })
        .collect()
}

/// What counts tokens as a training on the project's base does; `None` where its tokenizer is not on this machine.
fn token_count(config: &Config) -> Option<TokenCount> {
    let files = files_here(config)?;
    let chat = ChatTokenizer::load(&files, &config.model).ok()?;
    let unbounded = Limits::new(usize::MAX, usize::MAX);
    Some(TokenCount(Arc::new(move |turns| {
        let example = Example { line: 0, turns: turns.clone() };
        encode_example(&example, &chat, false, unbounded).ok().map(|encoded| encoded.ids.len())
    })))
}
