//! Adapters of another base than the project's, and parts of adapters.

use serde_json::{Value, json};

use super::{CONFIG, LOGITS, case, give, llama, tensors, with};
use crate::hostile::{Case, check_all};
use crate::support::Project;

/// A base with a name that tells something.
fn named_base(project: &Project) {
    std::fs::rename(project.path("model"), project.path("SmolLM2-135M-Instruct")).expect("renamed");
}

const NAMED: &[&str] =
    &["logits", "SmolLM2-135M-Instruct", "--tokens", "ids.json", "--adapter", "given", "--out", "out.safetensors"];

const BASES: &[Case] = &[
    case(
        "shapes of another base",
        |p| give(p, "qwen3/adapter"),
        1,
        &["error: given: the adapter", "made for another base"],
        LOGITS,
    ),
    case(
        "shapes of another base, which is not named",
        |p| {
            give(p, "qwen3/adapter");
            p.write(CONFIG, &p.read(CONFIG).replace("\"qwen3\"", "null"));
        },
        1,
        &["error: given: the adapter"],
        LOGITS,
    ),
    case(
        "the name of another base",
        |p| {
            named_base(p);
            with(p, "base_model_name_or_path", json!("unsloth/some-other-base"));
        },
        0,
        &["note: given: adapter_config.json names `unsloth/some-other-base` as its base", "SmolLM2-135M-Instruct"],
        NAMED,
    ),
    case(
        "another chat template",
        |p| {
            llama(p);
            p.write("given/chat_template.jinja", "{{ messages[0].content }}");
        },
        0,
        &["brings another chat template", "set [model] chat_template = \"given/chat_template.jinja\""],
        LOGITS,
    ),
    case(
        "another chat template, in the tokenizer's configuration",
        |p| {
            llama(p);
            p.write("given/tokenizer_config.json", "{\"chat_template\": \"{{ 1 }}\"}");
        },
        0,
        &["given/tokenizer_config.json: brings another chat template", "into a .jinja file"],
        LOGITS,
    ),
    case(
        "tokens that the base has no rows for",
        |p| {
            llama(p);
            p.write("given/added_tokens.json", "{\"<tool>\": 9999}");
        },
        1,
        &["given/added_tokens.json: token `<tool>` has the id 9999", "320 rows"],
        LOGITS,
    ),
    case(
        "another tokenizer",
        |p| {
            llama(p);
            let tokens: Vec<Value> = (0..320).map(|i| json!([format!("other{i}"), 0.0])).collect();
            p.write("given/tokenizer.json", &json!({"model": {"vocab": tokens}}).to_string());
        },
        1,
        &["given/tokenizer.json: 100 % of its tokens have other ids"],
        LOGITS,
    ),
    case(
        "a tokenizer that is none",
        |p| {
            llama(p);
            p.write("given/tokenizer.json", "{broken");
        },
        0,
        &["note: cannot compare the adapter's tokens", "given/tokenizer.json:1: is no tokenizer's file"],
        LOGITS,
    ),
    case(
        "an embedding of more tokens",
        |p| {
            give(p, "adapters/saved");
            tensors(p, |name, rows| Some(if name.contains("lora_") { rows } else { rows + 4 }));
        },
        1,
        &["error: given: the adapter's", "of modules_to_save has shape [324, 64]", "320 rows"],
        LOGITS,
    ),
    case(
        "an embedding that is not named",
        |p| {
            give(p, "adapters/saved");
            let text = p.read(CONFIG);
            let mut config: Value = serde_json::from_str(&text).expect("JSON");
            config["modules_to_save"] = Value::Null;
            p.write(CONFIG, &config.to_string());
        },
        1,
        &["is a whole embedding or head, which PEFT saves when tokens were added"],
        LOGITS,
    ),
    case(
        "a layer is gone",
        |p| {
            llama(p);
            tensors(p, |name, rows| (!name.contains("layers.0.")).then_some(rows));
        },
        0,
        &["note: given: only part of the adapter is there: 7 of the 21 modules", "model.layers.0."],
        LOGITS,
    ),
    case(
        "one module of 21",
        |p| {
            llama(p);
            tensors(p, |name, rows| name.contains("layers.1.mlp.up_proj").then_some(rows));
        },
        0,
        &["20 of the 21 modules"],
        LOGITS,
    ),
    case(
        "layers that were not trained are no note",
        |p| {
            with(p, "layers_to_transform", json!([1]));
            tensors(p, |name, rows| name.contains("layers.1.").then_some(rows));
        },
        0,
        &[],
        &["logits", "model", "--tokens", "ids.json", "--adapter", "given", "--out", "out.safetensors", "--quiet"],
    ),
];

#[test]
fn adapters_of_other_bases() {
    check_all(BASES);
}

/// What is as it should be is not remarked on.
#[test]
fn nothing_is_said_of_a_whole_adapter_of_this_base() {
    let project = Project::new();
    with(&project, "base_model_name_or_path", json!("HuggingFaceTB/SmolLM2-135M-Instruct-bnb-4bit"));
    named_base(&project);
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(project.path("SmolLM2-135M-Instruct").join(file), project.path("given").join(file))
            .expect("a copy");
    }
    let ran = project.run(NAMED).expect(0);
    assert!(!ran.stderr.contains("note"), "{}", ran.stderr);
}

#[test]
fn a_run_says_whose_the_adapter_is() {
    let project = Project::new();
    named_base(&project);
    with(&project, "base_model_name_or_path", json!("unsloth/some-other-base"));
    project.write(
        "finetest.toml",
        "[model]\nsource = \"SmolLM2-135M-Instruct\"\n[adapter]\npath = \"given\"\n[gate]\nmin_retention = 0.0\n",
    );
    let ran = project.run(&["run"]).expect(0);
    assert!(ran.stderr.contains("names `unsloth/some-other-base` as its base"), "{}", ran.stderr);
}
