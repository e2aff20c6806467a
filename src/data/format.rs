//! The formats of a data line.

use serde_json::Value;

use super::Turns;
use super::object::{Object, kind, text};
use super::tools::{self, TOOL};
use crate::config::DataFormat;
use crate::record::Message;

/// A format that has been decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Messages,
    Sharegpt,
    Alpaca,
    Completion,
    Text,
}

impl Format {
    const ALL: [Self; 5] = [Self::Messages, Self::Sharegpt, Self::Alpaca, Self::Completion, Self::Text];

    /// Its name in the manifest.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Sharegpt => "sharegpt",
            Self::Alpaca => "alpaca",
            Self::Completion => "completion",
            Self::Text => "text",
        }
    }

    /// The format of that name; `None` for `auto`.
    pub(super) fn named(format: DataFormat) -> Option<Self> {
        match format {
            DataFormat::Auto => None,
            DataFormat::Messages => Some(Self::Messages),
            DataFormat::Sharegpt => Some(Self::Sharegpt),
            DataFormat::Alpaca => Some(Self::Alpaca),
            DataFormat::Completion => Some(Self::Completion),
            DataFormat::Text => Some(Self::Text),
        }
    }

    /// The format of an object, by its keys.
    pub(super) fn of(object: &Object) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.keys().iter().all(|key| object.contains_key(*key)))
    }

    /// Keys that every line has.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Messages => &["messages"],
            Self::Sharegpt => &["conversations"],
            Self::Alpaca => &["instruction", "output"],
            Self::Completion => &["prompt", "completion"],
            Self::Text => &["text"],
        }
    }

    fn shape(self) -> String {
        let keys: Vec<String> = self.keys().iter().map(|key| format!("\"{key}\"")).collect();
        format!("{{{}}}", keys.join(", "))
    }

    /// What a line of this format says.
    pub(super) fn turns(self, object: Object) -> Result<Turns, String> {
        if let Some(key) = self.keys().iter().find(|key| !object.contains_key(**key)) {
            return Err(format!("has no {key:?} but {}; expected the format {}", keys(&object), self.shape()));
        }
        match self {
            Self::Messages => chat(messages(&object, "messages", ("role", "content"))?, tools::tools(&object)?),
            Self::Sharegpt => chat(messages(&object, "conversations", ("from", "value"))?, tools::tools(&object)?),
            Self::Alpaca => alpaca(&object),
            Self::Completion => {
                let turns =
                    Turns::Completion { prompt: text(&object, "prompt")?, completion: text(&object, "completion")? };
                not_empty(&object, "completion").map(|()| turns)
            }
            Self::Text => {
                let text = text(&object, "text")?;
                not_empty(&object, "text").map(|()| Turns::Text(text))
            }
        }
    }
}

/// Why a line's object has no format.
pub(super) fn unknown(object: &Object) -> String {
    no_format(&format!("the line has the keys {}", keys(object)))
}

/// Why a file without any object has no format; `why` is what its first item is instead.
pub(super) fn no_object(why: &str) -> String {
    // Readers say `has a quote that never closes`, and `not UTF-8: …`.
    let is_sentence = why.starts_with("has ") || why.starts_with("is ");
    no_format(&if is_sentence { format!("the line {why}") } else { why.to_owned() })
}

fn no_format(found: &str) -> String {
    let known: Vec<String> = Format::ALL.iter().map(|f| f.shape()).collect();
    format!("the format cannot be told: {found}; expected one of {}", known.join(", "))
}

/// The JSON object that a line is.
pub(crate) fn object(line: &[u8]) -> Result<Object, String> {
    let line = std::str::from_utf8(line).map_err(|e| format!("not UTF-8: a bad byte at {}", e.valid_up_to() + 1))?;
    match serde_json::from_str(line) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(value) => Err(format!("is {}, expected one JSON object a line", kind(&value))),
        Err(error) => {
            // The error counts lines within the line.
            let reason = error.to_string();
            let reason = reason.split(" at line ").next().unwrap_or_default();
            Err(format!("not JSON: {reason} at column {}; expected one JSON object a line", error.column()))
        }
    }
}

fn messages(object: &Object, key: &str, (role_key, text_key): (&str, &str)) -> Result<Vec<Message>, String> {
    let Some(Value::Array(list)) = object.get(key) else {
        return Err(format!("{key} is {}, expected a list of messages", object.get(key).map_or("missing", kind)));
    };
    let read = |(n, value): (usize, &Value)| {
        let at = format!("{key}[{n}]");
        let message = value.as_object().ok_or_else(|| format!("{at} is {}, expected an object", kind(value)))?;
        let role = text(message, role_key).map_err(|e| format!("{at} {e}"))?;
        let sharegpt = role_key == "from";
        let known = canonical_role(&role, sharegpt)
            .ok_or_else(|| format!("{at} has the {role_key} {}, expected {}", cut(&role), roles(sharegpt)))?;
        // `null` is how tables with optional columns write what is not there.
        let unknown = |key: &str| key != role_key && key != text_key && (sharegpt || !tools::has_key(known, key));
        let extra = message.iter().find(|(k, v)| unknown(k) && !v.is_null());
        if let Some((extra, _)) = extra {
            return Err(format!(
                "{at} has the key {}, which is not supported; expected {role_key} and {text_key} only",
                cut(extra)
            ));
        }
        if sharegpt && role == "function_call" {
            let calls = text(message, text_key).and_then(|value| tools::function_call(&value));
            return calls.map_err(|e| format!("{at} {e}"));
        }
        let tools = tools::tool_use(known, message).map_err(|e| format!("{at} {e}"))?;
        // A call needs no words beside it.
        let silent = known == "assistant" && tools.is_some() && message.get(text_key).is_none_or(Value::is_null);
        let content = if silent { Ok(String::new()) } else { text(message, text_key) };
        let content = content.map_err(|e| format!("{at} {e}"))?;
        Ok(Message::new(known, content).with_tools(tools))
    };
    list.iter().enumerate().map(read).collect()
}

fn canonical_role(role: &str, sharegpt: bool) -> Option<&'static str> {
    match role {
        "system" => Some("system"),
        "user" => Some("user"),
        "assistant" => Some("assistant"),
        "human" if sharegpt => Some("user"),
        "gpt" | "function_call" if sharegpt => Some("assistant"),
        "observation" if sharegpt => Some(TOOL),
        "tool" => Some(TOOL),
        _ => None,
    }
}

fn roles(sharegpt: bool) -> &'static str {
    if sharegpt {
        "system, human, user, gpt, assistant, function_call, observation or tool"
    } else {
        "system, user, assistant or tool"
    }
}

/// A chat from which something can be learnt.
fn chat(messages: Vec<Message>, tools: Vec<Value>) -> Result<Turns, String> {
    let says_nothing = |m: &Message| m.role == "assistant" && m.content.trim().is_empty() && m.tools.is_none();
    if let Some(n) = messages.iter().position(says_nothing) {
        return Err(format!("has no completion: what the assistant says in message {n} is empty"));
    }
    if !messages.iter().any(|m| m.role == "assistant") {
        return Err("has no completion: no message is the assistant's".into());
    }
    Ok(Turns::Chat { messages, tools })
}

/// The user says the instruction and, on a new line, the input; the assistant says the output.
fn alpaca(object: &Object) -> Result<Turns, String> {
    let optional = |key: &str| match object.get(key) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(_) => text(object, key),
    };
    if object.get("history").is_some_and(|h| !h.is_null() && h.as_array().is_none_or(|h| !h.is_empty())) {
        return Err("has a history, which is not read; write the line as {\"messages\"}".into());
    }
    let (instruction, input, system) = (text(object, "instruction")?, optional("input")?, optional("system")?);
    let asked = if input.trim().is_empty() { instruction } else { format!("{instruction}\n{input}") };
    let system = (!system.is_empty()).then(|| Message::new("system", system));
    let output = text(object, "output")?;
    not_empty(object, "output")?;
    let messages = system.into_iter().chain([Message::new("user", asked), Message::new("assistant", output)]);
    chat(messages.collect(), Vec::new())
}

fn not_empty(object: &Object, key: &str) -> Result<(), String> {
    let empty = object.get(key).and_then(Value::as_str).is_none_or(|text| text.trim().is_empty());
    if empty { Err(format!("has no completion: {key} is empty")) } else { Ok(()) }
}

fn keys(object: &Object) -> String {
    let mut names: Vec<String> = object.keys().take(8).map(|key| cut(key)).collect();
    if object.len() > names.len() {
        names.push("…".into());
    }
    if names.is_empty() { "no key".into() } else { names.join(", ") }
}

/// A name out of a line, in quotes; it may be as long as the line.
fn cut(name: &str) -> String {
    format!("{:?}", name.chars().take(40).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(line: &str) -> Result<Turns, String> {
        let object = object(line.as_bytes())?;
        Format::of(&object).ok_or_else(|| unknown(&object))?.turns(object)
    }

    fn pairs(turns: Turns) -> Vec<(String, String)> {
        match turns {
            Turns::Chat { messages, .. } => messages.into_iter().map(|m| (m.role, m.content)).collect(),
            other => panic!("{other:?} is no chat"),
        }
    }

    #[track_caller]
    fn is_chat(line: &str, expected: &[(&str, &str)]) {
        let expected: Vec<_> = expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        assert_eq!(pairs(turns(line).expect("a chat")), expected);
    }

    #[track_caller]
    fn refused(line: &str, with: &str) {
        let message = turns(line).expect_err("must be refused");
        assert!(message.contains(with), "{message}");
    }

    #[test]
    fn messages_are_read_and_notes_on_the_line_let_be() {
        let line = r#"{"tool": "gcc", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a", "tool_calls": null}]}"#;
        is_chat(line, &[("system", "s"), ("user", "u"), ("assistant", "a")]);
    }

    #[test]
    fn sharegpt_speakers_are_read_as_roles() {
        let line = r#"{"id": 1, "conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}, {"from": "user", "value": "v"}]}"#;
        is_chat(line, &[("user", "u"), ("assistant", "a"), ("user", "v")]);
        refused(r#"{"conversations": [{"from": "bot", "value": "u"}]}"#, "the from \"bot\", expected system, human");
    }

    #[test]
    fn alpaca_puts_the_input_under_the_instruction() {
        is_chat(r#"{"instruction": "i", "input": "x", "output": "o"}"#, &[("user", "i\nx"), ("assistant", "o")]);
        is_chat(r#"{"instruction": "i", "input": "", "output": "o"}"#, &[("user", "i"), ("assistant", "o")]);
        is_chat(
            r#"{"instruction": "i", "output": "o", "system": "s"}"#,
            &[("system", "s"), ("user", "i"), ("assistant", "o")],
        );
        refused(r#"{"instruction": "i", "output": "o", "history": [["a", "b"]]}"#, "history");
        refused(r#"{"instruction": "i", "output": " "}"#, "no completion: output is empty");
    }

    #[test]
    fn raw_text_keeps_its_white_space() {
        let completion = turns(r#"{"prompt": "a ", "completion": " b\n"}"#).expect("a completion");
        assert_eq!(completion, Turns::Completion { prompt: "a ".into(), completion: " b\n".into() });
        assert_eq!(turns(r#"{"text": " t"}"#), Ok(Turns::Text(" t".into())));
        refused(r#"{"prompt": "a", "completion": "\n"}"#, "no completion: completion is empty");
        refused(r#"{"text": ""}"#, "text is empty");
        refused(r#"{"prompt": [], "completion": "b"}"#, "write a chat as {\"messages\"}");
    }

    #[test]
    fn a_chat_without_an_assistants_answer_is_refused() {
        refused(r#"{"messages": []}"#, "no message is the assistant's");
        refused(r#"{"messages": [{"role": "user", "content": "u"}]}"#, "no message is the assistant's");
        refused(
            r#"{"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": " "}]}"#,
            "message 1 is empty",
        );
    }

    #[test]
    fn wrong_types_and_keys_say_where_they_are() {
        refused(r#"{"messages": "x"}"#, "messages is a string, expected a list of messages");
        refused(r#"{"messages": [1]}"#, "messages[0] is a number, expected an object");
        refused(r#"{"messages": [{"role": "user"}]}"#, "messages[0] has no \"content\"");
        refused(
            r#"{"messages": [{"role": "user", "content": null}]}"#,
            "messages[0] content is null, expected a string",
        );
        refused(
            r#"{"messages": [{"role": "human", "content": "x"}]}"#,
            "the role \"human\", expected system, user, assistant or tool",
        );
        refused(
            r#"{"messages": [{"role": "user", "content": "x", "weight": 0}]}"#,
            "the key \"weight\", which is not supported",
        );
        refused(r#"{"question": "x"}"#, "the line has the keys \"question\"; expected one of {\"messages\"}");
        refused("{}", "no key");
    }

    #[test]
    fn a_line_of_another_format_than_the_first_is_refused() {
        let object = object(br#"{"text": "t"}"#).expect("an object");
        let message = Format::Messages.turns(object).expect_err("another format");
        assert_eq!(message, r#"has no "messages" but "text"; expected the format {"messages"}"#);
    }

    #[test]
    fn what_is_no_object_says_so() {
        assert!(object(b"[1]").expect_err("a list").starts_with("is a list, expected one JSON object a line"));
        let message = object(b"{\"a\": }").expect_err("bad");
        assert!(message.starts_with("not JSON: expected value at column 7"), "{message}");
    }
}
