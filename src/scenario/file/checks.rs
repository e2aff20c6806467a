//! A check as it is written, and what it resolves to.

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::files::read_regular_text;
use crate::record::Choice;
use crate::scenario::check::{Casing, Check, Matcher};
use crate::scenario::count::Count;
use crate::scenario::json::Schema;
use crate::scenario::pattern::Patterns;
use crate::shown::plain;
use crate::text::Language;
use crate::text::Writing;

/// Continuations that a choice must beat: each is computed, and looked up among the others.
const MOST_OTHERS: usize = 1000;
/// Bytes of a JSON schema's file.
const MOST_SCHEMA_BYTES: u64 = 1 << 20;
/// Characters of an inline schema shown in messages.
const SCHEMA_SHOWN: usize = 60;

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(super) enum RawCheck {
    /// The answer is this text, except for white space around both.
    Exact(String),
    /// The answer contains this text.
    Contains(String),
    /// The answer contains this text, in upper or lower case.
    Icontains(String),
    /// This regular expression matches somewhere in the answer; `^` and `$` anchor it.
    Regex(String),
    /// The answer is not this text.
    NotExact(String),
    /// The answer does not contain this text.
    NotContains(String),
    /// The answer does not contain this text, in upper or lower case.
    NotIcontains(String),
    /// This regular expression matches nowhere in the answer.
    NotRegex(String),
    /// The answer begins with this text, white space around it aside.
    StartsWith(String),
    /// The answer ends with this text, white space around it aside.
    EndsWith(String),
    /// The answer does not begin with this text.
    NotStartsWith(String),
    /// The answer does not end with this text.
    NotEndsWith(String),
    /// The whole answer is one JSON value.
    Json,
    /// The whole answer is not one JSON value.
    NotJson,
    /// The answer is a JSON object whose fields have these values; numbers are compared by value. It may have others.
    JsonFields(#[cfg_attr(test, schemars(with = "Map<String, Value>"))] toml::Table),
    /// The answer is a JSON object in which these fields exist and are `null`.
    JsonNull(Vec<String>),
    /// The answer is JSON that is valid under this schema: a table, or the path to a file, from the scenario file.
    JsonSchema(#[cfg_attr(test, schemars(with = "SchemaOrPath"))] toml::Value),
    /// The model gives `answer` a higher log-likelihood than each of `others`; a tie fails. Nothing is generated.
    Choice(Choice),
    /// The answer has at most this many characters, without white space around it.
    MaxLength(usize),
    /// The answer has at least this many characters, without white space around it.
    MinLength(usize),
    /// The answer has at most this many words.
    MaxWords(usize),
    /// The answer has at least this many words.
    MinWords(usize),
    /// The answer has so many words, sentences, lines, paragraphs or list items.
    Count(Count),
    /// Every letter of the answer that has a case is of this one, and there is such a letter.
    Casing(Casing),
    /// The answer is in this language, such as `German`; found by letters and trigrams, for which about 20 characters are needed.
    Language(String),
    /// The answer declines to help. One that is not coherent is not evaluated.
    Refusal,
    /// The answer does not decline to help. One that is not coherent is not evaluated.
    NotRefusal,
    /// The answer has a letter or digit, does not repeat itself, and has no tags of a chat template.
    Coherent,
    /// The answer does not repeat itself: no 4 words in the same order 3 times, no line 3 times, no word 5 times in a row.
    NoRepetition,
    /// At least 90 % of the letters of the answer, and at least one, belong to this Unicode script, such as `Latin`.
    Script(String),
    /// No tag of a chat template is in the answer, and no `<think>` is left open.
    NoTemplateTags,
}

#[cfg(test)]
#[derive(schemars::JsonSchema)]
#[allow(dead_code, reason = "only its schema is used")]
#[schemars(untagged)]
enum SchemaOrPath {
    Path(String),
    Schema(Map<String, Value>),
}

/// The check that is meant, or what is wrong with it. A schema's path starts at the scenario's file, `path`.
pub(super) fn resolve(raw: RawCheck, path: &Path, patterns: &mut Patterns) -> Result<Check, String> {
    let text = |wanted, matcher| Check::Text { wanted, matcher };
    Ok(match raw {
        RawCheck::Exact(s) => text(true, Matcher::Exact(s)),
        RawCheck::NotExact(s) => text(false, Matcher::Exact(s)),
        RawCheck::Contains(s) => text(true, Matcher::Contains(some("contains", s)?)),
        RawCheck::NotContains(s) => text(false, Matcher::Contains(some("not-contains", s)?)),
        RawCheck::Icontains(s) => text(true, Matcher::Icontains(some("icontains", s)?)),
        RawCheck::NotIcontains(s) => text(false, Matcher::Icontains(some("not-icontains", s)?)),
        RawCheck::Regex(s) => text(true, regex("regex", &s, patterns)?),
        RawCheck::NotRegex(s) => text(false, regex("not-regex", &s, patterns)?),
        RawCheck::StartsWith(s) => text(true, Matcher::StartsWith(some("starts-with", s)?)),
        RawCheck::EndsWith(s) => text(true, Matcher::EndsWith(some("ends-with", s)?)),
        RawCheck::NotStartsWith(s) => text(false, Matcher::StartsWith(some("not-starts-with", s)?)),
        RawCheck::NotEndsWith(s) => text(false, Matcher::EndsWith(some("not-ends-with", s)?)),
        RawCheck::Json => Check::Json(true),
        RawCheck::NotJson => Check::Json(false),
        RawCheck::JsonFields(table) if table.is_empty() => return Err("json-fields names no field".into()),
        RawCheck::JsonFields(table) => Check::JsonFields(json_object(&table).map_err(|e| format!("json-fields: {e}"))?),
        RawCheck::JsonNull(names) if names.is_empty() => return Err("json-null names no field".into()),
        RawCheck::JsonNull(names) => Check::JsonNull(names),
        RawCheck::JsonSchema(schema) => Check::JsonSchema(self::schema(&schema, path)?),
        RawCheck::Choice(choice) => Check::Choice(self::choice(choice)?),
        RawCheck::MaxLength(n) => Check::MaxLength(above_zero("max-length", n)?),
        RawCheck::MinLength(n) => Check::MinLength(above_zero("min-length", n)?),
        RawCheck::MaxWords(n) => Check::MaxWords(above_zero("max-words", n)?),
        RawCheck::MinWords(n) => Check::MinWords(above_zero("min-words", n)?),
        RawCheck::Count(count) => match count.problem() {
            Some(problem) => return Err(problem),
            None => Check::Count(count),
        },
        RawCheck::Casing(casing) => Check::Casing(casing),
        RawCheck::Language(name) => Check::Language(Language::named(&name).map_err(|e| format!("language: {e}"))?),
        RawCheck::Refusal => Check::Refusal(true),
        RawCheck::NotRefusal => Check::Refusal(false),
        RawCheck::Coherent => Check::Coherent,
        RawCheck::NoRepetition => Check::NoRepetition,
        RawCheck::Script(name) => Check::Script(Writing::named(&name).map_err(|e| format!("script: {e}"))?),
        RawCheck::NoTemplateTags => Check::NoTemplateTags,
    })
}

fn some(check: &str, text: String) -> Result<String, String> {
    if text.trim().is_empty() && (text.is_empty() || check.ends_with("-with")) {
        Err(format!("{check} is empty, which every answer contains"))
    } else {
        Ok(text)
    }
}

fn above_zero(check: &str, n: usize) -> Result<usize, String> {
    if n == 0 { Err(format!("{check} is 0, expected at least 1")) } else { Ok(n) }
}

fn regex(check: &str, pattern: &str, patterns: &mut Patterns) -> Result<Matcher, String> {
    some(check, pattern.to_owned())?;
    patterns.compile(pattern).map(Matcher::Regex).map_err(|why| format!("{check} '{}' {why}", plain(pattern, 80)))
}

fn choice(choice: Choice) -> Result<Choice, String> {
    if choice.others.is_empty() {
        return Err("choice has no others to choose between".into());
    }
    if choice.others.len() > MOST_OTHERS {
        return Err(format!("choice has {} others, expected at most {MOST_OTHERS}", choice.others.len()));
    }
    let mut seen = HashSet::new();
    for text in choice.texts() {
        if text.is_empty() {
            return Err("choice has an empty continuation".into());
        }
        if !seen.insert(text) {
            return Err(format!("choice has {text:?} twice, which would be a tie"));
        }
    }
    Ok(choice)
}

fn schema(value: &toml::Value, path: &Path) -> Result<Schema, String> {
    let fail = |e: String| format!("json-schema: {e}");
    match value {
        toml::Value::String(file) => {
            let at = path.with_file_name(file);
            let text = read_regular_text(&at, MOST_SCHEMA_BYTES).map_err(|e| fail(e.to_string()))?;
            let json: Value = serde_json::from_str(text.trim_start_matches('\u{feff}'))
                .map_err(|e| fail(format!("{} is not JSON: {e}", at.display())))?;
            Schema::new(file.as_str(), &json).map_err(|e| fail(format!("{} is not a JSON schema: {e}", at.display())))
        }
        toml::Value::Table(table) => {
            let json = Value::Object(json_object(table).map_err(fail)?);
            let name = plain(&json.to_string(), SCHEMA_SHOWN);
            Schema::new(name, &json).map_err(|e| fail(format!("not a JSON schema: {e}")))
        }
        _ => Err(fail("expected a schema as a table, or the path of a file".into())),
    }
}

fn json_object(table: &toml::Table) -> Result<Map<String, Value>, String> {
    table.iter().map(|(key, value)| Ok((key.clone(), json_value(key, value)?))).collect()
}

fn json_value(key: &str, value: &toml::Value) -> Result<Value, String> {
    Ok(match value {
        toml::Value::String(s) => Value::from(s.as_str()),
        toml::Value::Integer(n) => Value::from(*n),
        toml::Value::Boolean(b) => Value::from(*b),
        toml::Value::Float(x) if x.is_finite() => Value::from(*x),
        toml::Value::Array(list) => list.iter().map(|item| json_value(key, item)).collect::<Result<_, _>>()?,
        toml::Value::Table(table) => Value::Object(json_object(table)?),
        toml::Value::Float(_) | toml::Value::Datetime(_) => {
            return Err(format!("{key} is {value}, which JSON cannot say; write it as a string"));
        }
    })
}
