//! What a line of data is before it has a format: a JSON object.

use serde_json::{Map, Value};

/// The JSON object that an example is written as.
pub(super) type Object = Map<String, Value>;

/// The text of a key.
pub(super) fn text(object: &Object, key: &str) -> Result<String, String> {
    match object.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(_)) if key == "prompt" => {
            Err("prompt is a list, expected a string; write a chat as {\"messages\"}".into())
        }
        Some(other) => Err(format!("{key} is {}, expected a string", kind(other))),
        None => Err(format!("has no {key:?}")),
    }
}

/// What a value is, in words.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
