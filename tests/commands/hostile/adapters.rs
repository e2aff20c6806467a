//! Adapters: PEFT directories and GGUF files.

mod bases;
mod outputs;

use std::path::Path;

use serde_json::{Value, json};

use crate::hostile::{Case, check_all};
use crate::support::{Project, fixture};

const CONFIG: &str = "given/adapter_config.json";
const WEIGHTS: &str = "given/adapter_model.safetensors";
const LOGITS: &[&str] = &["logits", "model", "--tokens", "ids.json", "--adapter", "given", "--out", "out.safetensors"];
const GGUF: &[&str] =
    &["logits", "model.gguf", "--tokens", "ids.json", "--adapter", "a.gguf", "--out", "out.safetensors"];

/// Copies a PEFT adapter of the fixtures to `given`.
fn give(project: &Project, from: &str) {
    project.write("ids.json", "[5, 12, 19]");
    std::fs::create_dir_all(project.path("given")).expect("a directory");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(fixture(from).join(file), project.path("given").join(file)).expect("a copy");
    }
}

fn llama(project: &Project) {
    give(project, "llama/adapter");
}

/// The llama adapter with one key of its configuration changed.
fn with(project: &Project, key: &str, value: Value) {
    llama(project);
    let mut config: Value = serde_json::from_str(&project.read(CONFIG)).expect("JSON");
    config[key] = value;
    project.write(CONFIG, &serde_json::to_string_pretty(&config).expect("JSON"));
}

/// A GGUF base and a GGUF adapter of it.
fn gguf(project: &Project) {
    project.write("ids.json", "[5, 12, 19]");
    std::fs::copy(fixture("llama/model.gguf"), project.path("model.gguf")).expect("a copy");
    std::fs::copy(fixture("llama_cpp_only/llama_adapter.gguf"), project.path("a.gguf")).expect("a copy");
}

/// Changes the tensors of `given`: each is kept, dropped or given another first dimension.
fn tensors(project: &Project, change: impl Fn(&str, usize) -> Option<usize>) {
    use safetensors::tensor::TensorView;
    let bytes = std::fs::read(project.path(WEIGHTS)).expect("tensors");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("tensors");
    let mut all = Vec::new();
    for (name, view) in file.iter() {
        let Some(rows) = change(name, view.shape()[0]) else { continue };
        let mut shape = view.shape().to_vec();
        let row = view.data().len() / shape[0];
        let data: Vec<u8> = view.data().iter().copied().cycle().take(rows * row).collect();
        shape[0] = rows;
        all.push((name.to_owned(), view.dtype(), shape, data));
    }
    let views = all.iter().map(|(name, dtype, shape, data)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), data).expect("a tensor"))
    });
    std::fs::write(project.path(WEIGHTS), safetensors::serialize(views, None).expect("a file")).expect("written");
}

fn replace(project: &Project, path: &str, make: impl Fn(&Path)) {
    let path = project.path(path);
    let _ = std::fs::remove_file(&path);
    make(&path);
}

#[cfg(unix)]
fn pipe(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo");
    assert!(made.success());
}

#[cfg(unix)]
fn nowhere(path: &Path) {
    std::os::unix::fs::symlink("nowhere", path).expect("a link");
}

fn sparse(path: &Path) {
    std::fs::File::create(path).expect("a file").set_len(100 << 30).expect("a length");
}

const fn case(
    name: &'static str,
    prepare: fn(&Project),
    code: i32,
    words: &'static [&'static str],
    command: &'static [&'static str],
) -> Case {
    Case { name, prepare, command, code, words }
}

const CONFIGURATIONS: &[Case] = &[
    case(
        "alpha is null",
        |p| with(p, "lora_alpha", Value::Null),
        1,
        &["lora_alpha is null, expected a number"],
        LOGITS,
    ),
    case(
        "a rank below 0",
        |p| with(p, "r", json!(-1)),
        1,
        &["adapter_config.json:", "r is -1, expected a whole"],
        LOGITS,
    ),
    case(
        "a rank without end",
        |p| with(p, "r", json!(u64::MAX)),
        1,
        &["lora_A", "expected rank 18446744073709551615"],
        LOGITS,
    ),
    case(
        "alpha is 0",
        |p| with(p, "lora_alpha", json!(0)),
        1,
        &["lora_alpha is 0, so the adapter changes nothing"],
        LOGITS,
    ),
    case(
        "every alpha is 0 by a pattern",
        |p| with(p, "alpha_pattern", json!({".*": 0})),
        1,
        &["alpha_pattern gives every module an alpha of 0"],
        LOGITS,
    ),
    case(
        "targets are a number",
        |p| with(p, "target_modules", json!(7)),
        1,
        &["target_modules is 7, expected"],
        LOGITS,
    ),
    case("another kind", |p| with(p, "peft_type", json!("LOHA")), 1, &["peft_type is LOHA, expected LORA"], LOGITS),
    case(
        "a pattern that is none",
        |p| with(p, "alpha_pattern", json!({"(": 3})),
        1,
        &["\"(\" of alpha_pattern is not a regular expression"],
        LOGITS,
    ),
    case(
        "1000 hostile patterns",
        |p| with(p, "rank_pattern", (0..1000).map(|i| (format!("(a{{1,50}}){{1,50}}{i}+"), json!(4))).collect()),
        1,
        &["rank_pattern"],
        LOGITS,
    ),
    case(
        "100 000 targets",
        |p| with(p, "target_modules", (0..100_000).map(|i| format!("x{i}")).collect()),
        0,
        &[],
        LOGITS,
    ),
    case(
        "100 000 names of parameters and modules",
        |p| {
            let names: Vec<String> = (0..100_000).map(|i| format!("x{i}.y")).collect();
            with(p, "target_parameters", json!(names));
            let mut config: Value = serde_json::from_str(&p.read(CONFIG)).expect("JSON");
            config["modules_to_save"] = json!(names);
            p.write(CONFIG, &config.to_string());
        },
        1,
        &["holds no tensor of `x0.y`, which modules_to_save names"],
        LOGITS,
    ),
    case(
        "brackets without end",
        |p| {
            llama(p);
            p.write(CONFIG, &"[".repeat(100_000));
        },
        1,
        &["is not valid JSON"],
        LOGITS,
    ),
    case(
        "nothing at all",
        |p| {
            llama(p);
            p.write(CONFIG, "");
        },
        1,
        &["adapter_config.json: is empty"],
        LOGITS,
    ),
    case(
        "a list",
        |p| {
            llama(p);
            p.write(CONFIG, "[1]");
        },
        1,
        &["is [1], expected an object"],
        LOGITS,
    ),
    case(
        "an editor's mark",
        |p| {
            llama(p);
            p.write(CONFIG, &format!("\u{feff}{}", p.read(CONFIG)));
        },
        0,
        &[],
        LOGITS,
    ),
    case(
        "bytes that are no text",
        |p| {
            llama(p);
            std::fs::write(p.path(CONFIG), b"{\n\"r\": \xff}").expect("written");
        },
        1,
        &["adapter_config.json:2: is not UTF-8"],
        LOGITS,
    ),
];

#[test]
fn configurations() {
    check_all(CONFIGURATIONS);
}

const SIZES: &[&str] = &["sizes", "a.gguf"];

const FILES: &[Case] = &[
    case("no directory", |p| p.write("ids.json", "[5]"), 1, &["given: cannot read"], LOGITS),
    case(
        "no configuration",
        |p| {
            llama(p);
            replace(p, CONFIG, |_| {});
        },
        1,
        &["given: has no adapter_config.json"],
        LOGITS,
    ),
    case(
        "a whole model",
        |p| {
            llama(p);
            std::fs::rename(p.path("given"), p.path("old")).expect("moved");
            crate::support::copy_model(&p.path("given"));
        },
        1,
        &["this is a whole model, not an adapter"],
        LOGITS,
    ),
    case(
        "no tensors",
        |p| {
            llama(p);
            replace(p, WEIGHTS, |_| {});
        },
        1,
        &["adapter_model.safetensors: cannot read"],
        LOGITS,
    ),
    case(
        "an empty file",
        |p| {
            llama(p);
            p.write(WEIGHTS, "");
        },
        1,
        &["adapter_model.safetensors: the file is empty"],
        LOGITS,
    ),
    case(
        "100 GB of zeros",
        |p| {
            llama(p);
            replace(p, WEIGHTS, sparse);
        },
        1,
        &[WEIGHTS],
        LOGITS,
    ),
    case(
        "100 GB of configuration",
        |p| {
            llama(p);
            replace(p, CONFIG, sparse);
        },
        1,
        &["has 107374182400 bytes"],
        LOGITS,
    ),
    case(
        "Git LFS's pointer",
        |p| {
            llama(p);
            p.write(WEIGHTS, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n");
        },
        1,
        &["run `git lfs pull`"],
        LOGITS,
    ),
    case(
        "a directory as tensors",
        |p| {
            llama(p);
            replace(p, WEIGHTS, |to| std::fs::create_dir(to).expect("made"));
        },
        1,
        &["is a directory"],
        LOGITS,
    ),
    case(
        "a half of each file",
        |p| {
            llama(p);
            let all = std::fs::read(p.path(WEIGHTS)).expect("read");
            std::fs::write(p.path(WEIGHTS), &all[..all.len() / 2]).expect("written");
        },
        1,
        &["truncated or corrupt"],
        LOGITS,
    ),
    case(
        "GGUF: cut",
        |p| {
            gguf(p);
            let all = std::fs::read(p.path("a.gguf")).expect("read");
            std::fs::write(p.path("a.gguf"), &all[..all.len() / 2]).expect("written");
        },
        1,
        &["a.gguf"],
        GGUF,
    ),
    case(
        "GGUF: empty",
        |p| {
            gguf(p);
            p.write("a.gguf", "");
        },
        1,
        &["a.gguf: the file is empty"],
        GGUF,
    ),
    case(
        "GGUF: four letters",
        |p| {
            gguf(p);
            p.write("a.gguf", "GGUF");
        },
        1,
        &["a.gguf"],
        GGUF,
    ),
    case(
        "GGUF: another file",
        |p| {
            gguf(p);
            p.write("a.gguf", "{}");
        },
        1,
        &["is neither a GGUF file nor a directory"],
        GGUF,
    ),
    case(
        "GGUF: 100 GB of zeros",
        |p| {
            gguf(p);
            replace(p, "a.gguf", sparse);
        },
        1,
        &["a.gguf"],
        GGUF,
    ),
    case(
        "GGUF: a whole model",
        |p| {
            gguf(p);
            std::fs::copy(fixture("llama/model.gguf"), p.path("a.gguf")).expect("a copy");
        },
        1,
        &["`general.type` is", "expected `adapter`"],
        GGUF,
    ),
    case(
        "GGUF: of another family",
        |p| {
            gguf(p);
            std::fs::copy(fixture("llama_cpp_only/phi3/adapter.gguf"), p.path("a.gguf")).expect("a copy");
        },
        1,
        &["`general.architecture` is `phi3`, expected `llama`"],
        GGUF,
    ),
    case(
        "GGUF: a pointer",
        |p| {
            gguf(p);
            p.write("a.gguf", "version https://git-lfs.github.com/spec/v1\n");
        },
        1,
        &["run `git lfs pull`"],
        GGUF,
    ),
];

#[test]
fn files() {
    check_all(FILES);
}

#[cfg(unix)]
const SPECIAL: &[Case] = &[
    case(
        "a pipe as configuration",
        |p| {
            llama(p);
            replace(p, CONFIG, pipe);
        },
        1,
        &["adapter_config.json: is a named pipe"],
        LOGITS,
    ),
    case(
        "a pipe as tensors",
        |p| {
            llama(p);
            replace(p, WEIGHTS, pipe);
        },
        1,
        &["safetensors: is a named pipe"],
        LOGITS,
    ),
    case(
        "a pipe as adapter",
        |p| {
            p.write("ids.json", "[5]");
            pipe(&p.path("given"));
        },
        1,
        &["given: is a named pipe"],
        LOGITS,
    ),
    case(
        "a pipe as GGUF",
        |p| {
            gguf(p);
            replace(p, "a.gguf", pipe);
        },
        1,
        &["a.gguf: is a named pipe"],
        GGUF,
    ),
    case(
        "a pipe whose sizes are asked for",
        |p| {
            gguf(p);
            replace(p, "a.gguf", pipe);
        },
        1,
        &["a.gguf: is a named pipe"],
        SIZES,
    ),
    case(
        "a pipe as tokens",
        |p| {
            llama(p);
            replace(p, "ids.json", pipe);
        },
        1,
        &["ids.json: is a named pipe"],
        LOGITS,
    ),
    case(
        "a pipe to write to",
        |p| {
            llama(p);
            pipe(&p.path("out.safetensors"));
        },
        2,
        &["out.safetensors is a named pipe, expected a file"],
        LOGITS,
    ),
    case(
        "a link to nowhere as configuration",
        |p| {
            llama(p);
            replace(p, CONFIG, nowhere);
        },
        1,
        &["link to nowhere, which is not there"],
        LOGITS,
    ),
    case(
        "a link to nowhere as adapter",
        |p| {
            p.write("ids.json", "[5]");
            nowhere(&p.path("given"));
        },
        1,
        &["given: cannot read", "link to nowhere"],
        LOGITS,
    ),
    case(
        "a link to nowhere as GGUF",
        |p| {
            gguf(p);
            replace(p, "a.gguf", nowhere);
        },
        1,
        &["a.gguf: cannot read", "link to nowhere"],
        GGUF,
    ),
];

#[cfg(unix)]
#[test]
fn special_files() {
    check_all(SPECIAL);
}
