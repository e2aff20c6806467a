//! A base model's files: configuration, tokenizer, weights.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use crate::hostile::{Case, check_all};
use crate::support::Project;

/// Replaces a file of the model by something else.
fn replace(project: &Project, name: &str, with: impl FnOnce(&Path)) {
    let path = project.path("model").join(name);
    let _ = std::fs::remove_file(&path);
    with(&path);
}

fn pipe(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
}

fn link(path: &Path, to: &str) {
    std::os::unix::fs::symlink(to, path).expect("a link");
}

fn sparse(path: &Path) {
    std::fs::File::create(path).and_then(|file| file.set_len(100 << 30)).expect("a sparse file");
}

/// Changes a JSON file of the model.
fn edit(project: &Project, name: &str, change: impl FnOnce(&mut serde_json::Value)) {
    let path = format!("model/{name}");
    let mut json = serde_json::from_str(&project.read(&path)).expect("JSON");
    change(&mut json);
    project.write(&path, &json.to_string());
}

fn config(project: &Project, key: &str, value: serde_json::Value) {
    edit(project, "config.json", |json| json[key] = value);
}

/// Puts NaN at the beginning of a tensor of the safetensors file.
fn not_a_number(project: &Project, tensor: &str) {
    let path = project.path("model/model.safetensors");
    let bytes = std::fs::read(&path).expect("a file");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("a length"));
    let json: serde_json::Value =
        serde_json::from_slice(&bytes[8..8 + usize::try_from(header).expect("a length")]).expect("a header");
    let info = &json[tensor];
    let value: &[u8] = if info["dtype"] == "F32" { &[0, 0, 0xc0, 0x7f] } else { &[0xc0, 0x7f] };
    let start = 8 + header + info["data_offsets"][0].as_u64().expect("the tensor");
    let mut file = std::fs::File::options().write(true).open(&path).expect("a file");
    file.seek(SeekFrom::Start(start)).and_then(|_| file.write_all(value)).expect("written");
}

const RUN: &[&str] = &["run"];
const REGULAR: &str = "expected a regular file";
const MARK: &str = "starts with a byte-order mark; save it as UTF-8 without BOM";

const CASES: &[Case] = &[
    Case {
        name: "config.json is a named pipe",
        prepare: |p| replace(p, "config.json", pipe),
        command: RUN,
        code: 1,
        words: &["model/config.json: is a named pipe", REGULAR],
    },
    Case {
        name: "tokenizer.json is a named pipe",
        prepare: |p| replace(p, "tokenizer.json", pipe),
        command: RUN,
        code: 1,
        words: &["model/tokenizer.json: is a named pipe", REGULAR],
    },
    Case {
        name: "the weights are a named pipe",
        prepare: |p| replace(p, "model.safetensors", pipe),
        command: RUN,
        code: 1,
        words: &["model/model.safetensors: is a named pipe", REGULAR],
    },
    Case {
        name: "the model is a named pipe",
        prepare: |p| {
            std::fs::remove_dir_all(p.path("model")).expect("removed");
            pipe(&p.path("model"));
        },
        command: RUN,
        code: 1,
        words: &["model: is a named pipe", REGULAR],
    },
    Case {
        name: "the chat template is a named pipe",
        prepare: |p| replace(p, "chat_template.jinja", pipe),
        command: RUN,
        code: 1,
        words: &["model/chat_template.jinja: is a named pipe", REGULAR],
    },
    Case {
        name: "config.json is /dev/zero",
        prepare: |p| replace(p, "config.json", |path| link(path, "/dev/zero")),
        command: RUN,
        code: 1,
        words: &["model/config.json: is a device", REGULAR],
    },
    Case {
        name: "config.json is a link to nothing",
        prepare: |p| replace(p, "config.json", |path| link(path, "nowhere")),
        command: RUN,
        code: 1,
        words: &["model/config.json: cannot read: it is a link to nowhere, which is not there"],
    },
    Case {
        name: "config.json of 100 GB",
        prepare: |p| replace(p, "config.json", sparse),
        command: RUN,
        code: 1,
        words: &["model/config.json: has 107374182400 bytes, expected at most"],
    },
    Case {
        name: "tokenizer.json of 100 GB",
        prepare: |p| replace(p, "tokenizer.json", sparse),
        command: RUN,
        code: 1,
        words: &["model/tokenizer.json: has 107374182400 bytes, expected at most"],
    },
    Case {
        name: "config.json with a byte-order mark",
        prepare: |p| p.write("model/config.json", &format!("\u{feff}{}", p.read("model/config.json"))),
        command: RUN,
        code: 1,
        words: &["model/config.json: ", MARK],
    },
    Case {
        name: "tokenizer.json with a byte-order mark",
        prepare: |p| p.write("model/tokenizer.json", &format!("\u{feff}{}", p.read("model/tokenizer.json"))),
        command: RUN,
        code: 1,
        words: &["model/tokenizer.json: ", MARK],
    },
    Case {
        name: "tokenizer_config.json with a byte-order mark",
        prepare: |p| p.write("model/tokenizer_config.json", "\u{feff}{}"),
        command: RUN,
        code: 1,
        words: &["model/tokenizer_config.json: ", MARK],
    },
    Case {
        name: "a token whose id is past the vocabulary",
        prepare: |p| {
            edit(p, "tokenizer.json", |json| {
                let vocabulary = json["model"]["vocab"].as_object_mut().expect("a vocabulary");
                let last = vocabulary.iter().max_by_key(|(_, id)| id.as_u64()).map(|(token, _)| token.clone());
                vocabulary[&last.expect("a token")] = 1000.into();
            });
        },
        command: RUN,
        code: 1,
        words: &["model/tokenizer.json: the token ", "has the id 1000, but the model's vocabulary has 320 rows"],
    },
    Case {
        name: "two tokens with one id",
        prepare: |p| {
            edit(p, "tokenizer.json", |json| {
                let vocabulary = json["model"]["vocab"].as_object_mut().expect("a vocabulary");
                let last = vocabulary.iter().max_by_key(|(_, id)| id.as_u64()).map(|(token, _)| token.clone());
                vocabulary[&last.expect("a token")] = 20.into();
            });
        },
        command: RUN,
        code: 1,
        words: &["model/tokenizer.json: gives the id 20 to two tokens"],
    },
    Case {
        name: "NaN in a norm",
        prepare: |p| not_a_number(p, "model.layers.0.input_layernorm.weight"),
        command: RUN,
        code: 1,
        words: &["tensor `model.layers.0.input_layernorm.weight` holds NaN or infinite values"],
    },
    Case {
        name: "an empty path, logits",
        prepare: |_| {},
        command: &["logits", "", "--text", "hello", "--out", "out.safetensors"],
        code: 2,
        words: &["the model is an empty path; give a path, hf:ORG/NAME or pypi:PACKAGE==VERSION/PATH"],
    },
    Case {
        name: "NaN in the last norm, logits",
        prepare: |p| not_a_number(p, "model.norm.weight"),
        command: &["logits", "model", "--text", "hello", "--out", "out.safetensors"],
        code: 1,
        words: &["tensor `model.norm.weight` holds NaN or infinite values; nothing is written"],
    },
    Case {
        name: "NaN in a norm, export",
        prepare: |p| {
            not_a_number(p, "model.norm.weight");
            for name in ["adapter_config.json", "adapter_model.safetensors"] {
                let from = crate::support::fixture("llama/adapter").join(name);
                std::fs::create_dir_all(p.path("given")).expect("a directory");
                std::fs::copy(from, p.path("given").join(name)).expect("a copy");
            }
        },
        command: &["export", "--format", "merged", "--out", "out", "--adapter", "given"],
        code: 1,
        words: &["the base's logits are not finite: its tensor `model.norm.weight` holds NaN"],
    },
    Case {
        name: "a bitsandbytes checkpoint",
        prepare: |p| {
            config(p, "_name_or_path", "unsloth/Llama-3.2-1B-Instruct-bnb-4bit".into());
            config(p, "quantization_config", serde_json::json!({"quant_method": "bitsandbytes", "load_in_4bit": true}));
        },
        command: RUN,
        code: 1,
        words: &["model/config.json: ", "bitsandbytes checkpoint of 4 bits", "hf:unsloth/Llama-3.2-1B-Instruct)"],
    },
    Case {
        name: "a Mistral model",
        prepare: |p| config(p, "model_type", "mistral".into()),
        command: RUN,
        code: 1,
        words: &["model family `mistral` is not known", "a GGUF file of it usually declares the family llama"],
    },
    Case {
        name: "a template that begins with a byte-order mark",
        prepare: |p| p.write("model/chat_template.jinja", "\u{feff}{{ messages }}"),
        command: RUN,
        code: 1,
        words: &["model/chat_template.jinja: ", MARK],
    },
];

#[test]
fn each_ends_with_one_clear_error() {
    check_all(CASES);
}
