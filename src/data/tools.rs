//! Calls of tools in messages: the keys that chat templates know, in the form that they take.
//!
//! transformers documents that the arguments of a call are an object; OpenAI's files have them as JSON in a text. Both are read, and the
//! template is given the object, as vLLM does it.

use serde_json::{Map, Value};

use super::object::{Object, kind, text};
use crate::record::{Message, ToolUse};

/// Keys of a message besides its role and its content.
const CALLS: &str = "tool_calls";
const OF_ANSWER: [&str; 2] = ["tool_call_id", "name"];

/// A role's name where tools are used.
pub(super) const TOOL: &str = "tool";

/// Whether a message of this role may have such a key.
pub(super) fn has_key(role: &str, key: &str) -> bool {
    match role {
        "assistant" => key == CALLS,
        TOOL => OF_ANSWER.contains(&key),
        _ => false,
    }
}

/// What the assistant calls, or which call a tool answers; `None` of a message without such keys.
pub(super) fn tool_use(role: &str, message: &Object) -> Result<Option<ToolUse>, String> {
    let given = |key: &str| message.get(key).filter(|value| !value.is_null());
    if role == TOOL {
        let fields: Object =
            OF_ANSWER.iter().filter_map(|key| given(key).map(|value| ((*key).to_owned(), value.clone()))).collect();
        if let Some((key, other)) = fields.iter().find(|(_, value)| !value.is_string()) {
            return Err(format!("{key} is {}, expected a string", kind(other)));
        }
        return Ok((!fields.is_empty()).then(|| ToolUse::answer(fields)));
    }
    match given(CALLS).filter(|_| role == "assistant") {
        None => Ok(None),
        Some(Value::Array(calls)) if calls.is_empty() => Ok(None),
        Some(Value::Array(calls)) => {
            let calls: Result<Vec<Value>, String> = calls
                .iter()
                .enumerate()
                .map(|(n, found)| call(found).map_err(|e| format!("{CALLS}[{n}] {e}")))
                .collect();
            Ok(Some(ToolUse::calls(calls?)))
        }
        Some(other) => Err(format!("{CALLS} is {}, expected a list", kind(other))),
    }
}

/// ShareGPT's `function_call`: one call or a list of them, as JSON in the text.
pub(super) fn function_call(value: &str) -> Result<Message, String> {
    let shape = "expected JSON: {\"name\": …, \"arguments\": {…}}";
    let found: Value =
        serde_json::from_str(value).map_err(|_| format!("is a function_call that is no JSON; {shape}"))?;
    let found = match found {
        Value::Array(calls) => calls,
        one => vec![one],
    };
    let calls: Result<Vec<Value>, String> = found
        .into_iter()
        .map(|function| {
            let mut wrapped = Map::new();
            wrapped.insert("type".into(), "function".into());
            wrapped.insert("function".into(), function);
            call(&Value::Object(wrapped))
        })
        .collect();
    match calls {
        Ok(calls) if !calls.is_empty() => Ok(Message::new("assistant", "").with_tools(Some(ToolUse::calls(calls)))),
        Ok(_) => Err(format!("is a function_call without a call; {shape}")),
        Err(why) => Err(format!("is a function_call that {why}; {shape}")),
    }
}

/// The tools that an example may call: a list, or one as JSON in a text.
pub(super) fn tools(object: &Object) -> Result<Vec<Value>, String> {
    let parsed;
    let found = match object.get("tools") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(Vec::new()),
        Some(Value::String(text)) => {
            parsed = serde_json::from_str(text)
                .map_err(|_| "tools is a text that is no JSON, expected a list".to_owned())?;
            &parsed
        }
        Some(other) => other,
    };
    let list = found.as_array().ok_or_else(|| format!("tools is {}, expected a list of objects", kind(found)))?;
    match list.iter().position(|tool| !tool.is_object()) {
        Some(n) => Err(format!("tools[{n}] is {}, expected an object", kind(&list[n]))),
        None => Ok(list.clone()),
    }
}

/// A call, whose arguments are an object.
fn call(found: &Value) -> Result<Value, String> {
    let mut call = found.as_object().cloned().ok_or_else(|| format!("is {}, expected an object", kind(found)))?;
    // Some files leave the wrapper out.
    let function = if call.contains_key("function") {
        call.get_mut("function").and_then(Value::as_object_mut)
    } else {
        Some(&mut call)
    };
    let function = function.ok_or("has a function that is no object")?;
    text(function, "name")?;
    let arguments = function.entry("arguments").or_insert_with(|| Value::Object(Map::new()));
    match arguments {
        Value::Object(_) => {}
        Value::String(text) => {
            let parsed: Option<Object> = serde_json::from_str(text).ok();
            *arguments = parsed.map(Value::Object).ok_or("has arguments that are a text without a JSON object")?;
        }
        other => return Err(format!("has arguments that are {}, expected an object", kind(other))),
    }
    Ok(Value::Object(call))
}

#[cfg(test)]
mod tests {
    use super::super::Turns;
    use super::super::format::{Format, object, unknown};
    use super::*;

    fn turns(line: &str) -> Result<Turns, String> {
        let object = object(line.as_bytes())?;
        Format::of(&object).ok_or_else(|| unknown(&object))?.turns(object)
    }

    fn chat(line: &str) -> (Vec<Message>, Vec<Value>) {
        match turns(line).expect("a chat") {
            Turns::Chat { messages, tools } => (messages, tools),
            other => panic!("{other:?} is no chat"),
        }
    }

    const CALL: &str = r#"{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"town": "Bonn", "days": 2}}}"#;

    #[test]
    fn calls_and_their_answers_are_read_with_arguments_as_an_object_or_as_text() {
        let line = |call: &str| {
            format!(
                r#"{{"tools": [{{"type": "function"}}], "messages": [{{"role": "user", "content": "u"}}, {{"role": "assistant", "content": null, "tool_calls": [{call}]}}, {{"role": "tool", "tool_call_id": "c1", "name": "weather", "content": "rain"}}, {{"role": "assistant", "content": "Rain."}}]}}"#
            )
        };
        let (messages, tools) = chat(&line(CALL));
        assert_eq!(tools.len(), 1);
        let use_of = |n: usize| messages[n].tools.as_deref().expect("tools");
        assert_eq!(use_of(1).text(), format!("[{}]", CALL.replace(": ", ":").replace(", ", ",")));
        assert_eq!((use_of(2).fields()["name"].as_str(), use_of(2).text()), (Some("weather"), ""));
        let in_text = CALL.replace(r#"{"town": "Bonn", "days": 2}"#, r#""{\"town\": \"Bonn\", \"days\": 2}""#);
        assert_eq!(chat(&line(&in_text)).0, messages);
        let bare = r#"{"name": "weather", "arguments": {}}"#;
        assert_eq!(
            chat(&line(bare)).0[1].tools.as_deref().expect("tools").text(),
            r#"[{"name":"weather","arguments":{}}]"#
        );
    }

    #[test]
    fn sharegpt_s_calls_and_observations_are_read() {
        let line = r#"{"tools": "[{\"name\": \"f\"}]", "conversations": [{"from": "human", "value": "u"}, {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": 1}}"}, {"from": "observation", "value": "2"}, {"from": "gpt", "value": "Two."}]}"#;
        let (messages, tools) = chat(line);
        let roles: Vec<&str> = messages.iter().map(|message| message.role.as_str()).collect();
        assert_eq!((roles, tools.len()), (vec!["user", "assistant", "tool", "assistant"], 1));
        assert_eq!(
            messages[1].tools.as_deref().expect("a call").text(),
            r#"[{"type":"function","function":{"name":"f","arguments":{"x":1}}}]"#
        );
    }

    #[test]
    fn what_is_no_call_says_what_it_is() {
        let refused = |message: &str, with: &str| {
            let line = format!(r#"{{"messages": [{{"role": "user", "content": "u"}}, {message}]}}"#);
            let error = turns(&line).expect_err(message);
            assert!(error.contains(with), "{error}");
        };
        let calls = |calls: &str| format!(r#"{{"role": "assistant", "content": null, "tool_calls": {calls}}}"#);
        refused(&calls("3"), "messages[1] tool_calls is a number, expected a list");
        refused(&calls("[3]"), "tool_calls[0] is a number, expected an object");
        refused(&calls(r#"[{"function": 1}]"#), "tool_calls[0] has a function that is no object");
        refused(&calls(r#"[{"function": {}}]"#), "has no \"name\"");
        refused(&calls(r#"[{"function": {"name": "f", "arguments": "x"}}]"#), "a text without a JSON object");
        refused(&calls(r#"[{"function": {"name": "f", "arguments": 1}}]"#), "arguments that are a number");
        refused(&calls("[]"), "content is null");
        refused(
            r#"{"role": "user", "content": "x", "tool_calls": [1]}"#,
            "the key \"tool_calls\", which is not supported",
        );
        refused(r#"{"role": "tool", "content": "x", "name": 1}"#, "name is a number");
        let tools =
            |tools: &str| format!(r#"{{"tools": {tools}, "messages": [{{"role": "assistant", "content": "a"}}]}}"#);
        for (value, with) in [("3", "tools is a number"), ("[3]", "tools[0] is a number"), ("\"x\"", "no JSON")] {
            let error = turns(&tools(value)).expect_err(value);
            assert!(error.contains(with), "{error}");
        }
        let shared = r#"{"conversations": [{"from": "function_call", "value": "f(1)"}]}"#;
        assert!(turns(shared).expect_err("no JSON").contains("conversations[0] is a function_call that is no JSON"));
    }
}
