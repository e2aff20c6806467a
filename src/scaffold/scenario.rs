//! `finetest new scenario`: a scenario out of a file of rows or of training data, or a template to write in.

use std::path::{Path, PathBuf};

use super::place::write_new;
use super::quoted;
use super::task::{self, Head};
use crate::config::{Config, DataFormat, OnError};
use crate::data;
use crate::error::{Error, Result};
use crate::record::Role;
use crate::scenario::fill::fill;
use crate::scenario::rows::{Row, Rows};
use crate::scenario::{check_text, is_name};

/// A scenario that is wanted.
#[derive(Clone, Debug)]
pub(crate) struct NewScenario<'n> {
    pub(crate) name: &'n str,
    pub(crate) role: Role,
    pub(crate) description: Option<&'n str>,
    /// A file of rows, or of training data.
    pub(crate) from: Option<&'n Path>,
    /// What is asked of a row, with `{{column}}`.
    pub(crate) prompt: Option<&'n str>,
    /// How answers are checked, with `{{column}}`: `contains = "{{answer}}"`, or `json`.
    pub(crate) checks: &'n [String],
    /// Cases at most.
    pub(crate) limit: Option<usize>,
}

/// Writes a scenario into the project's folder of scenarios; gives its path and its number of cases.
///
/// # Errors
/// A name that is none, or is taken; a file that cannot be read; rows that make no cases.
pub(crate) fn new_scenario(config: &Config, wanted: &NewScenario<'_>) -> Result<(PathBuf, usize)> {
    if !is_name(wanted.name) {
        let name = wanted.name;
        return Err(Error::Usage(format!("the scenario's name is {name:?}, expected letters a to z, digits, - and _")));
    }
    let path = config.run.scenarios.join(format!("{}.toml", wanted.name));
    let text = match wanted.from {
        None => template(wanted),
        Some(from) => from_file(wanted, from)?,
    };
    let scenario = check_text(&path, &config.root, &text)
        .map_err(|error| Error::failed(format!("the scenario could not be used, so nothing was written: {error}")))?;
    write_new(&path, &text)?;
    Ok((path, scenario.cases.len()))
}

fn head(wanted: &NewScenario<'_>) -> String {
    let description = wanted.description.unwrap_or("the ability in one line");
    format!("role = \"{}\"\ndescription = {}\n", wanted.role, quoted(description))
}

/// A scenario to write in, which can be run as it is.
fn template(wanted: &NewScenario<'_>) -> String {
    let head = head(wanted);
    let role = match wanted.role {
        Role::Target => "# What the fine-tune is for. Ask nothing that it was trained on.",
        Role::Control => {
            "# What the base can do and the fine-tune must not lose. A case that base fails counts for nothing."
        }
    };
    format!(
        "{role}\n\
         {head}\
         # system = \"Answer briefly.\"         # a system message before every prompt\n\
         max_tokens = 64\n\n\
         [[cases]]\n\
         name = \"first\"\n\
         prompt = \"What is the capital of France?\"\n\
         # All checks have to hold. Others: {{ exact = \"…\" }}, {{ regex = '…' }}, \"json\", {{ json-fields = {{ key = \"value\" }} }},\n\
         # {{ choice = {{ answer = \"…\", others = [\"…\"] }} }}, {{ max-words = 40 }}, \"no-repetition\". All: finetest schema scenario\n\
         checks = [{{ contains = \"Paris\" }}]\n\n\
         # Cases out of a table: take the case above away, and write\n\
         # cases = \"table.csv\"                # above, before the first [section]; or .jsonl\n\
         # [case]\n\
         # prompt = \"What is the capital of {{{{country}}}}?\"\n\
         # checks = [{{ contains = \"{{{{capital}}}}\" }}]\n"
    )
}

fn from_file(wanted: &NewScenario<'_>, from: &Path) -> Result<String> {
    match wanted.prompt {
        Some(prompt) if wanted.checks.is_empty() => {
            let message = format!(
                "--prompt {prompt:?} needs a check of the answers, such as --check 'contains = \"{{{{answer}}}}\"'"
            );
            Err(Error::Usage(message))
        }
        Some(prompt) => of_rows(wanted, &Rows::read(from)?, prompt),
        None if data::is_data(from) => of_data(wanted, from),
        None => {
            let rows = Rows::read(from)?;
            let columns: Vec<String> = rows.rows[0].columns().take(8).map(|name| format!("{{{{{name}}}}}")).collect();
            let message = format!(
                "{}: say what a row asks and how the answer is checked: --prompt '…' and --check 'contains = \"…\"', with {}",
                from.display(),
                columns.join(", ")
            );
            Err(Error::Usage(message))
        }
    }
}

/// The cases of rows, written out.
fn of_rows(wanted: &NewScenario<'_>, rows: &Rows, prompt: &str) -> Result<String> {
    let checks = wanted.checks.iter().map(|check| parsed(check)).collect::<Result<Vec<_>>>()?;
    let mut text = format!("# Made from {}.\n{}", task::shown(&rows.path), head(wanted));
    let mut errors = Vec::new();
    for row in rows.rows.iter().take(wanted.limit.unwrap_or(usize::MAX)) {
        let case = || -> std::result::Result<String, String> {
            let prompt = quoted(&fill(prompt, row)?);
            let checks = checks
                .iter()
                .map(|check| Ok(filled(check, row)?.to_string()))
                .collect::<std::result::Result<Vec<_>, String>>()?;
            Ok(format!(
                "\n[[cases]]\nname = \"line_{}\"\nprompt = {prompt}\nchecks = [{}]\n",
                row.line,
                checks.join(", ")
            ))
        };
        match case() {
            Ok(case) => text.push_str(&case),
            Err(message) => errors.push(Error::input(&rows.path, row.line, message)),
        }
        // One more than a person would read.
        if errors.len() > 20 {
            break;
        }
    }
    Error::collect(errors)?;
    Ok(text)
}

/// A check as it is written in a scenario, or without the braces around it: `contains = "x"`, `json`.
fn parsed(check: &str) -> Result<toml::Value> {
    let check = check.trim();
    let is_word = !check.is_empty() && check.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    let written = match check {
        word if is_word => format!("\"{word}\""),
        whole if whole.starts_with(['{', '"', '\'']) => whole.to_owned(),
        inner => format!("{{ {inner} }}"),
    };
    let table: toml::Table = toml::from_str(&format!("check = {written}")).map_err(|error| {
        let message = error.message().trim().replace('\n', "; ");
        Error::Usage(format!("--check {check:?} is no check: {message}; expected a form such as 'contains = \"{{{{answer}}}}\"', or 'json'"))
    })?;
    Ok(table.into_iter().next().map_or(toml::Value::Boolean(false), |(_, value)| value))
}

/// A value with the columns of a row in all of its texts.
fn filled(value: &toml::Value, row: &Row) -> std::result::Result<toml::Value, String> {
    Ok(match value {
        toml::Value::String(text) => toml::Value::String(fill(text, row)?),
        toml::Value::Array(items) => {
            toml::Value::Array(items.iter().map(|item| filled(item, row)).collect::<Result<_, _>>()?)
        }
        toml::Value::Table(table) => {
            let pairs = table.iter().map(|(key, value)| Ok((key.clone(), filled(value, row)?)));
            toml::Value::Table(pairs.collect::<Result<_, String>>()?)
        }
        other => other.clone(),
    })
}

/// The cases of training data: what it asks, and its answers as checks.
fn of_data(wanted: &NewScenario<'_>, from: &Path) -> Result<String> {
    let mut examples = data::load(from, DataFormat::Auto, OnError::Stop)?.examples;
    examples.truncate(wanted.limit.unwrap_or(usize::MAX));
    let comment = format!("# Made from {}. Use lines that the adapter was not trained on.\n", task::shown(from));
    let description = wanted.description.unwrap_or("the ability in one line");
    let made = task::scenario(&Head { comment: &comment, role: wanted.role, description }, &examples);
    if made.cases == 0 {
        let message =
            "has no line that asks something and answers it; write the cases yourself: finetest new scenario NAME";
        return Err(Error::input(from, None, message));
    }
    Ok(made.text)
}
