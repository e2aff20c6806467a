//! Data of other programs as JSON Lines of messages: JSON arrays, and LLaMA-Factory's data sets with the columns that
//! `dataset_info.json` names.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::files::{open_regular, read_regular_text};

/// LLaMA-Factory's list of data sets.
const DATASET_INFO: &str = "dataset_info.json";
/// Bytes of a file that is converted: it is held whole.
const MOST_BYTES: u64 = 64 << 20;
/// Bytes that tell whether a file is a list of objects.
const FIRST_BYTES: usize = 4096;

type Object = Map<String, Value>;

/// A data set of `dataset_info.json` whose file is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LocalSet {
    /// Its file, relative to the project's folder.
    pub(super) path: PathBuf,
    columns: Columns,
}

/// Which of a record's keys says what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    prompt: String,
    query: String,
    response: String,
    system: String,
    history: String,
    messages: String,
    role: String,
    content: String,
    user: String,
    assistant: String,
    system_role: String,
}

impl Default for Columns {
    /// As alpaca and ShareGPT name them.
    fn default() -> Self {
        Self::of(&Value::Null)
    }
}

impl Columns {
    /// Those of an entry of `dataset_info.json`.
    fn of(entry: &Value) -> Self {
        let named = |table: &str, key: &str, default: &str| entry[table][key].as_str().unwrap_or(default).to_owned();
        Self {
            prompt: named("columns", "prompt", "instruction"),
            query: named("columns", "query", "input"),
            response: named("columns", "response", "output"),
            system: named("columns", "system", "system"),
            history: named("columns", "history", "history"),
            messages: named("columns", "messages", "conversations"),
            role: named("tags", "role_tag", "from"),
            content: named("tags", "content_tag", "value"),
            user: named("tags", "user_tag", "human"),
            assistant: named("tags", "assistant_tag", "gpt"),
            system_role: named("tags", "system_tag", "system"),
        }
    }
}

/// The data sets of a `dataset_info.json` here or in `data/` whose files are here.
///
/// # Errors
/// It is there and cannot be read.
pub(super) fn local_sets(root: &Path) -> Result<Vec<LocalSet>> {
    for folder in ["", "data"] {
        let path = root.join(folder).join(DATASET_INFO);
        if !path.is_file() {
            continue;
        }
        let text = read_regular_text(&path, MOST_BYTES)?;
        let info: Value = serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(|error| {
            Error::input(&path, error.line(), format!("is not JSON: {error}; name the data with --data FILE"))
        })?;
        let entries = info.as_object().map(Object::values).into_iter().flatten();
        let local = |entry: &Value| {
            let path = Path::new(folder).join(entry["file_name"].as_str()?);
            // A ranking says which of two answers is better, and not what to answer.
            let is_ranking = entry["ranking"].as_bool().unwrap_or(false);
            (root.join(&path).is_file() && !is_ranking).then(|| LocalSet { path, columns: Columns::of(entry) })
        };
        return Ok(entries.filter_map(local).collect());
    }
    Ok(Vec::new())
}

/// Whether a file is a JSON array of objects.
pub(super) fn is_array(path: &Path) -> bool {
    use std::io::Read;
    let Ok((file, metadata)) = open_regular(path) else { return false };
    let mut first = String::new();
    // The end may be in the middle of a letter.
    let mut bytes = Vec::new();
    if metadata.len() > MOST_BYTES || file.take(FIRST_BYTES as u64).read_to_end(&mut bytes).is_err() {
        return false;
    }
    first.push_str(&String::from_utf8_lossy(&bytes));
    let inside = first.trim_start_matches('\u{feff}').trim_start().strip_prefix('[');
    let Some(inside) = inside.map(str::trim_start).filter(|inside| inside.starts_with('{')) else { return false };
    ["\"instruction\"", "\"conversations\"", "\"messages\"", "\"prompt\"", "\"text\""]
        .iter()
        .any(|key| inside.contains(key))
}

/// A file's records as JSON Lines of messages, and how many of them could not be used.
///
/// # Errors
/// A file that cannot be read, is too large, or holds no record that can be used.
pub(super) fn to_lines(path: &Path, set: Option<&LocalSet>) -> Result<(String, usize)> {
    let text = read_regular_text(path, MOST_BYTES)?;
    let text = text.trim_start_matches('\u{feff}');
    let records: Vec<Value> = match serde_json::from_str(text) {
        Ok(Value::Array(records)) => records,
        Ok(_) | Err(_) if path.extension().is_some_and(|e| e == "jsonl") => {
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
        }
        Ok(_) => return Err(Error::input(path, 1, "is no JSON array; expected a list of examples, or JSON Lines")),
        Err(error) => return Err(Error::input(path, error.line(), format!("is not JSON: {error}"))),
    };
    let default = Columns::default();
    let columns = set.map_or(&default, |set| &set.columns);
    let all = records.len();
    let lines: Vec<String> = records.into_iter().filter_map(|record| line(record, columns)).collect();
    if lines.is_empty() {
        let message =
            "holds no example that can be used; expected alpaca's instruction and output, or ShareGPT's conversations";
        return Err(Error::input(path, None, message));
    }
    let unused = all - lines.len();
    Ok((lines.join("\n") + "\n", unused))
}

/// A record as a line of data. What finetest reads as it is stays as it is.
fn line(record: Value, columns: &Columns) -> Option<String> {
    let Value::Object(record) = record else { return None };
    let messages = if record.contains_key(&columns.messages) {
        conversation(&record, columns)?
    } else if record.contains_key(&columns.prompt) && record.contains_key(&columns.response) {
        instruction(&record, columns)?
    } else {
        return Some(Value::Object(record).to_string());
    };
    Some(json!({ "messages": messages }).to_string())
}

fn message(role: &str, content: &str) -> Value {
    json!({ "role": role, "content": content })
}

fn conversation(record: &Object, columns: &Columns) -> Option<Vec<Value>> {
    let mut messages = Vec::new();
    if let Some(system) = record.get(&columns.system).and_then(Value::as_str).filter(|text| !text.is_empty()) {
        messages.push(message("system", system));
    }
    for turn in record[&columns.messages].as_array()? {
        let (role, content) = (turn[&columns.role].as_str()?, turn[&columns.content].as_str()?);
        let role = match role {
            role if role == columns.user || role == "user" => "user",
            role if role == columns.assistant || role == "assistant" => "assistant",
            role if role == columns.system_role => "system",
            // Calls of tools and what they answer are not learnt.
            _ => return None,
        };
        messages.push(message(role, content));
    }
    Some(messages)
}

fn instruction(record: &Object, columns: &Columns) -> Option<Vec<Value>> {
    let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default();
    let mut messages = Vec::new();
    if !text(&columns.system).is_empty() {
        messages.push(message("system", text(&columns.system)));
    }
    for turn in record.get(&columns.history).and_then(Value::as_array).into_iter().flatten() {
        messages.push(message("user", turn[0].as_str()?));
        messages.push(message("assistant", turn[1].as_str()?));
    }
    let (prompt, query) = (text(&columns.prompt), text(&columns.query));
    let asked = if query.trim().is_empty() { prompt.to_owned() } else { format!("{prompt}\n{query}") };
    messages.push(message("user", &asked));
    let answer = text(&columns.response);
    messages.push(message("assistant", answer));
    (!answer.trim().is_empty()).then_some(messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(info: Value, records: Value) -> (Vec<String>, usize) {
        let folder = tempfile::tempdir().expect("a folder");
        let write =
            |name: &str, value: &Value| std::fs::write(folder.path().join(name), value.to_string()).expect("a file");
        write(DATASET_INFO, &json!({ "own": info, "hub": { "hf_hub_url": "a/b" } }));
        write("own.json", &records);
        let sets = local_sets(folder.path()).expect("sets");
        assert_eq!(sets.len(), 1);
        let (text, unused) = to_lines(&folder.path().join(&sets[0].path), sets.first()).expect("lines");
        (text.lines().map(str::to_owned).collect(), unused)
    }

    #[test]
    fn alpacas_history_and_input_become_messages() {
        let records = json!([
            { "instruction": "Sum", "input": "1 2", "output": "3", "history": [["Hi", "Hello"]] },
            { "instruction": "x", "output": " " },
            7,
        ]);
        let (lines, unused) = lines(json!({ "file_name": "own.json" }), records);
        assert_eq!(unused, 2);
        let expected = r#"{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello"},{"role":"user","content":"Sum\n1 2"},{"role":"assistant","content":"3"}]}"#;
        assert_eq!(lines, [expected]);
    }

    #[test]
    fn columns_and_tags_are_those_that_the_list_names() {
        let info = json!({
            "file_name": "own.json",
            "formatting": "sharegpt",
            "columns": { "messages": "talk", "system": "sys" },
            "tags": { "role_tag": "who", "content_tag": "says", "user_tag": "me", "assistant_tag": "it" },
        });
        let talk = |who: &str| json!([{ "who": "me", "says": "a" }, { "who": who, "says": "b" }]);
        let (lines, unused) = lines(info, json!([{ "sys": "s", "talk": talk("it") }, { "talk": talk("tool") }]));
        assert_eq!(unused, 1);
        let expected = r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#;
        assert_eq!(lines, [expected]);
    }

    #[test]
    fn what_holds_no_examples_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.json");
        for (text, expected) in [("[]", "holds no example"), ("{}", ":1: is no JSON array"), ("[", "is not JSON")] {
            std::fs::write(&path, text).expect("a file");
            let message = to_lines(&path, None).expect_err(text).to_string();
            assert!(message.contains(expected), "{message}");
        }
        std::fs::write(folder.path().join(DATASET_INFO), "{").expect("a file");
        assert!(local_sets(folder.path()).expect_err("broken").to_string().contains("--data FILE"));
    }
}
