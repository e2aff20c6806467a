//! A project's examples in the form that an engine reads, one a line.

use std::path::Path;

use serde_json::{Value, json};

use crate::config::Engine;
use crate::data::{Example, Turns};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::record::Message;

/// Writes examples. `source` is the file that they were read from.
///
/// # Errors
/// An engine would learn something else from one than finetest does.
pub(crate) fn write(engine: Engine, examples: &[Example], source: &Path, to: &Path) -> Result<()> {
    let mut text = String::new();
    for example in examples {
        let line = in_form(engine, &example.turns).map_err(|why| Error::input(source, example.line, why))?;
        text.push_str(&line.to_string());
        text.push('\n');
    }
    write_atomically(to, text.as_bytes())
}

fn in_form(engine: Engine, turns: &Turns) -> std::result::Result<Value, String> {
    let plain = |message: &Message| json!({"role": message.role, "content": message.content});
    match (engine, turns) {
        (_, Turns::Chat { messages, tools }) if !tools.is_empty() || messages.iter().any(|m| m.tools.is_some()) => {
            Err(format!("calls tools, which finetest does not hand on to {}; train it with finetest, or write launch.config yourself", engine.name()))
        }
        (Engine::Trl, Turns::Chat { messages, .. }) => match messages.split_last() {
            Some((answer, before)) if answer.role == "assistant" && before.iter().all(|m| m.role != "assistant") => {
                Ok(json!({"prompt": before.iter().map(plain).collect::<Value>(), "completion": [plain(answer)]}))
            }
            Some((answer, _)) if answer.role == "assistant" => Err(
                "has several answers, and TRL would learn the last one alone; make an example of each, or let axolotl or LLaMA-Factory train".into(),
            ),
            _ => Err("does not end with an answer, and TRL learns the last message; cut what comes behind the answer".into()),
        },
        (_, Turns::Chat { messages, .. }) => Ok(json!({"messages": messages.iter().map(plain).collect::<Value>()})),
        (Engine::Trl | Engine::Command, Turns::Completion { prompt, completion }) => {
            Ok(json!({"prompt": prompt, "completion": completion}))
        }
        (Engine::Trl | Engine::Command, Turns::Text(text)) => Ok(json!({"text": text})),
        (_, Turns::Completion { .. } | Turns::Text(_)) => Err(format!(
            "is text without a template, which {} would put into one; let TRL or finetest train it",
            engine.name()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(roles: &[&str]) -> Turns {
        let messages = roles.iter().map(|role| Message::new(*role, format!("{role} says")));
        Turns::Chat { messages: messages.collect(), tools: Vec::new() }
    }

    #[test]
    fn each_engine_learns_the_answers_and_what_it_would_learn_otherwise_is_refused() {
        let one = chat(&["system", "user", "assistant"]);
        let trl = in_form(Engine::Trl, &one).expect("TRL's form");
        assert_eq!(trl["completion"], json!([{"role": "assistant", "content": "assistant says"}]));
        assert_eq!(trl["prompt"].as_array().map(Vec::len), Some(2));
        for engine in [Engine::Axolotl, Engine::Llamafactory, Engine::Command] {
            assert_eq!(in_form(engine, &one).expect("messages")["messages"].as_array().map(Vec::len), Some(3));
        }
        let two = chat(&["user", "assistant", "user", "assistant"]);
        assert!(in_form(Engine::Trl, &two).expect_err("two answers").contains("the last one alone"));
        assert!(in_form(Engine::Axolotl, &two).is_ok());
        assert!(in_form(Engine::Trl, &chat(&["assistant", "user"])).expect_err("no end").contains("does not end"));
        let text = Turns::Text("raw".into());
        assert_eq!(in_form(Engine::Trl, &text), Ok(json!({"text": "raw"})));
        assert!(in_form(Engine::Llamafactory, &text).expect_err("no template").contains("without a template"));
    }
}
