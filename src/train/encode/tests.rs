use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::config::{DataFormat, OnError};

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}\
                      {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

fn tokenizer() -> Tokenizer {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer/tokenizer.json");
    let mut tokenizer = Tokenizer::from_file(path).unwrap();
    tokenizer.add_turn_end("<|im_end|>\n").unwrap();
    tokenizer
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new("t.jinja", source, None, None).unwrap()
}

fn chat(turns: &[(&str, &str)]) -> Vec<Message> {
    turns.iter().map(|(role, content)| Message::new(*role, *content)).collect()
}

/// The texts of the runs of learnt tokens.
fn learnt(tokenizer: &Tokenizer, encoded: &Encoded) -> Vec<String> {
    let runs = encoded.ids.iter().zip(&encoded.labels).collect::<Vec<_>>();
    let runs = runs.chunk_by(|a, b| a.1 == b.1).filter(|run| *run[0].1);
    runs.map(|run| tokenizer.decode(&run.iter().map(|(id, _)| **id).collect::<Vec<_>>(), false).unwrap()).collect()
}

#[test]
fn every_answer_and_the_token_that_ends_it_are_learnt() {
    let (tokenizer, template) = (tokenizer(), template(CHATML));
    let messages = chat(&[("system", "s"), ("user", "one?"), ("assistant", "1"), ("user", "two?"), ("assistant", "2")]);
    let encoded = encode_chat(&tokenizer, &template, (&messages, &[]), false).unwrap();
    assert_eq!(learnt(&tokenizer, &encoded), ["1<|im_end|>", "2<|im_end|>"]);
    assert_eq!(tokenizer.decode(&encoded.ids, false).unwrap(), template.render(&messages, false).unwrap());
}

fn with_tools() -> Vec<Example> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tools/chats.jsonl");
    crate::data::load(path, DataFormat::Auto, OnError::Stop).unwrap().examples
}

#[test]
fn chats_with_tools_are_rendered_as_transformers_does_it_and_calls_are_learnt() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tools");
    let source = std::fs::read_to_string(folder.join("template.jinja")).unwrap();
    let expected: Vec<String> =
        serde_json::from_str(&std::fs::read_to_string(folder.join("rendered.json")).unwrap()).unwrap();
    let (tokenizer, template) = (tokenizer(), template(&source));
    let mut found = Vec::new();
    for (example, expected) in with_tools().iter().zip(&expected) {
        let Turns::Chat { messages, tools } = &example.turns else { panic!("no chat") };
        check_tools(&template, messages, tools).unwrap();
        assert_eq!(template.render_with_tools(messages, tools, false).unwrap(), *expected);
        let encoded = encode_chat(&tokenizer, &template, (messages, tools), false).unwrap();
        assert_eq!(tokenizer.decode(&encoded.ids, false).unwrap(), *expected);
        found.push(learnt(&tokenizer, &encoded));
    }
    let call = |arguments: &str| {
        format!("<tool_call>\n{{\"name\": \"get_weather\", \"arguments\": {arguments}}}\n</tool_call>")
    };
    assert!(found[0][0].starts_with("<tool_call>\n{\"name\": \"get_weather\"") && found[0][0].ends_with("<|im_end|>"));
    assert_eq!(found[0][1], "Yes, it rains.<|im_end|>");
    let two = format!("I look.\n{}\n{}<|im_end|>", call("{\"town\": \"Bonn\"}"), call("{\"town\": \"<Ulm>\"}"));
    assert_eq!(found[1], [two, "Sun and fog.<|im_end|>".to_owned()]);
    assert_eq!(found[2], ["Hello!<|im_end|>"]);
}

#[test]
fn a_template_that_passes_over_tools_or_calls_is_refused() {
    let template = template(CHATML);
    let refused: Vec<String> = with_tools()
        .iter()
        .map(|example| {
            let Turns::Chat { messages, tools } = &example.turns else { panic!("no chat") };
            check_tools(&template, messages, tools).unwrap_err().to_string()
        })
        .collect();
    assert!(refused[0].contains("does not write the tools that the assistant may call"), "{}", refused[0]);
    assert!(refused[1].contains("the calls of tools, such as that of message 2"), "{}", refused[1]);
}

#[test]
fn the_prompt_is_tokenised_as_it_is_asked() {
    let (tokenizer, template) = (tokenizer(), template(CHATML));
    for answer in ["the", "\n\n  the", " the", "", "<|im_end|> spelt", "\u{301}"] {
        let messages = chat(&[("user", "hi"), ("assistant", answer)]);
        let encoded = encode_chat(&tokenizer, &template, (&messages, &[]), false).unwrap();
        let asked = tokenizer.encode(&template.render(&messages[..1], true).unwrap(), true).unwrap();
        assert!(encoded.ids.starts_with(&asked), "{answer:?}");
        assert!(encoded.labels[..asked.len()].iter().all(|l| !l), "{answer:?}");
        assert_eq!(learnt(&tokenizer, &encoded), [format!("{answer}<|im_end|>")]);
    }
}

#[test]
fn a_chat_without_an_answer_teaches_nothing() {
    let error = encode_chat(&tokenizer(), &template(CHATML), (&chat(&[("user", "hi")]), &[]), false).unwrap_err();
    assert!(error.to_string().contains("no assistant message"), "{error}");
}

#[test]
fn all_is_learnt_when_inputs_are() {
    let (tokenizer, template) = (tokenizer(), template(CHATML));
    let messages = chat(&[("user", "hi"), ("assistant", "a"), ("user", "more")]);
    let encoded = encode_chat(&tokenizer, &template, (&messages, &[]), true).unwrap();
    assert_eq!(encoded.learnt(), encoded.ids.len() - 1);
    assert_eq!(tokenizer.decode(&encoded.ids, false).unwrap(), template.render(&messages, false).unwrap());
    let answers = encode_chat(&tokenizer, &template, (&messages, &[]), false).unwrap();
    assert!(encoded.ids.starts_with(&answers.ids) && answers.ids.len() < encoded.ids.len());
}

#[test]
fn a_template_without_a_special_end_teaches_the_whole_answer() {
    let plain = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
    let tokenizer = tokenizer();
    let encoded =
        encode_chat(&tokenizer, &template(plain), (&chat(&[("user", "hi"), ("assistant", "the")]), &[]), false)
            .unwrap();
    assert_eq!(learnt(&tokenizer, &encoded), ["the\n\n"]);
}

#[test]
fn a_template_that_asks_otherwise_than_it_answers_is_an_error() {
    let thinking = CHATML.replace("assistant\\n' }}{% endif", "assistant\\n<think>' }}{% endif");
    let messages = chat(&[("user", "hi"), ("assistant", "the")]);
    let error = encode_chat(&tokenizer(), &template(&thinking), (&messages, &[]), false).unwrap_err().to_string();
    assert!(error.starts_with("t.jinja: ") && error.contains("differently from the prompt for one"), "{error}");
}

#[test]
fn a_template_that_changes_earlier_turns_is_an_error() {
    let dropping = CHATML.replace("m['content']", "(m['content'] if loop.last or m.role == 'user' else '…')");
    let messages = chat(&[("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]);
    let error = encode_chat(&tokenizer(), &template(&dropping), (&messages, &[]), false).unwrap_err().to_string();
    assert!(error.contains("message 4") && error.contains("earlier turns"), "{error}");
}

#[test]
fn a_completion_follows_the_prompt_as_asked() {
    let tokenizer = tokenizer();
    for (prompt, completion) in [("it", "y"), ("", "the"), ("a ", " b")] {
        let encoded = encode_completion(&tokenizer, prompt, completion, false).unwrap();
        let asked = tokenizer.encode_raw(prompt).unwrap();
        assert!(encoded.ids.starts_with(&asked), "{prompt:?}");
        assert_eq!(tokenizer.decode(&encoded.ids, false).unwrap(), format!("{prompt}{completion}"));
        assert_eq!(encoded.learnt(), encoded.ids.len() - asked.len().max(1), "{prompt:?}");
    }
    assert_eq!(encode_text(&tokenizer, "the").unwrap().learnt(), tokenizer.encode("the", true).unwrap().len() - 1);
}

proptest! {
    #[test]
    fn ids_spell_the_rendered_chat_and_labels_its_answers(turns in prop::collection::vec(".{0,12}", 2..7)) {
        let (tokenizer, template) = (tokenizer(), template(CHATML));
        let roles = ["user", "assistant"];
        let messages: Vec<Message> = turns.iter().enumerate().map(|(i, t)| Message::new(roles[i % 2], t.as_str())).collect();
        let encoded = encode_chat(&tokenizer, &template, (&messages, &[]), false).unwrap();
        let answered = &messages[..messages.len() / 2 * 2];
        let answers: Vec<String> = answered.iter().skip(1).step_by(2).map(|m| format!("{}<|im_end|>", m.content)).collect();
        prop_assert_eq!(tokenizer.decode(&encoded.ids, false).unwrap(), template.render(answered, false).unwrap());
        prop_assert_eq!(learnt(&tokenizer, &encoded), answers);
        prop_assert_eq!(encoded.ids.len(), encoded.labels.len());
    }
}
