//! What a message of a chat has besides its text, where tools are used.

use serde_json::{Map, Value};

/// The tools that the assistant calls, or the call that a tool answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolUse {
    fields: Map<String, Value>,
    text: String,
}

impl ToolUse {
    /// Calls, each an object as chat templates take it: `{"type": "function", "function": {"name": …, "arguments": {…}}}`.
    pub(crate) fn calls(calls: Vec<Value>) -> Self {
        let calls = Value::Array(calls);
        let text = calls.to_string();
        Self { fields: Map::from_iter([("tool_calls".to_owned(), calls)]), text }
    }

    /// Of a tool's answer: `tool_call_id` and `name`.
    pub(crate) fn answer(fields: Map<String, Value>) -> Self {
        Self { fields, text: String::new() }
    }

    /// Keys of the message besides `role` and `content`, in their order.
    #[must_use]
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// The calls as JSON; empty of a tool's answer.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// All of it as JSON.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(&self.fields).unwrap_or_default()
    }
}
