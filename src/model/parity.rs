//! The decoder against numbers that transformers and PEFT computed, and against candle-free oracles of its own operations.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Tensor;

use super::decoder::{Batch, Decoder};
use super::linear::{Adapters, LowRank};
use super::{ModelFiles, load_decoder};
use crate::adapter;
use crate::config::ModelConfig;
use crate::engine::{Engine, Generation};
use crate::record::Finish;

/// A fixture's file.
pub(crate) fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

pub(crate) fn reference(path: &str) -> BTreeMap<String, Tensor> {
    let tensors =
        candle_core::safetensors::load(fixture(path), &candle_core::Device::Cpu).expect("a readable reference");
    tensors.into_iter().collect()
}

fn files(path: &str) -> ModelFiles {
    let config =
        ModelConfig { source: fixture(path).display().to_string(), sha256: None, chat_template: None, context: None };
    super::source::resolve(&config, &mut |_| {}).expect("the fixture's files")
}

pub(crate) fn decoder(path: &str) -> Decoder {
    let config = ModelConfig { source: String::new(), sha256: None, chat_template: None, context: None };
    load_decoder(&files(path), &config).expect("a decoder")
}

fn ids(tensor: &Tensor) -> Vec<u32> {
    tensor.to_vec1::<i64>().expect("ids").into_iter().map(|id| id as u32).collect()
}

/// Largest difference, relative to the reference's own spread (its standard deviation).
pub(crate) fn relative(got: &Tensor, want: &Tensor) -> f64 {
    let flat = |t: &Tensor| t.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("f32 values");
    let (got, want) = (flat(got), flat(want));
    assert_eq!(got.len(), want.len());
    let mean = want.iter().map(|v| f64::from(*v)).sum::<f64>() / want.len() as f64;
    let spread = (want.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / want.len() as f64).sqrt();
    let largest = got.iter().zip(&want).map(|(g, w)| f64::from((g - w).abs())).fold(0.0, f64::max);
    largest / spread
}

fn logits(decoder: &Decoder, ids: &[u32], adapter: Option<&LowRank>) -> (Tensor, Tensor) {
    let slots: Vec<_> = adapter.map(|a| (0..ids.len(), a)).into_iter().collect();
    let hidden = decoder.hidden(&Batch::new([ids]), Adapters::Rows(&slots)).expect("hidden states");
    let logits = decoder.logits(&hidden).expect("logits");
    (hidden, logits)
}

fn agrees_with_transformers(decoder: &Decoder) {
    let expected = reference("llama/reference.safetensors");
    for i in 0..2 {
        let prompt = ids(&expected[&format!("input_ids_{i}")]);
        let (hidden, logits) = logits(decoder, &prompt, None);
        assert!(relative(&hidden, &expected[&format!("hidden_{i}")]) < 1e-4);
        assert!(relative(&logits, &expected[&format!("logits_{i}")]) < 1e-4);
    }
}

#[test]
fn llama_from_safetensors_agrees_with_transformers() {
    let mut decoder = decoder("llama");
    agrees_with_transformers(&decoder);
    decoder.widen();
    agrees_with_transformers(&decoder);
}

/// The GGUF has q and k in llama.cpp's order and the llama3 scaling as `rope_freqs.weight`.
#[test]
fn llama_from_gguf_agrees_with_transformers() {
    agrees_with_transformers(&decoder("llama/model.gguf"));
}

#[test]
fn an_adapter_agrees_with_peft() {
    let decoder = decoder("llama");
    let adapter = adapter::load(&fixture("llama/adapter")).expect("an adapter").low_rank(1.0).expect("tensors");
    let (expected, base) = (reference("llama/reference_lora.safetensors"), reference("llama/reference.safetensors"));
    for i in 0..2 {
        let prompt = ids(&base[&format!("input_ids_{i}")]);
        let (_, logits) = logits(&decoder, &prompt, Some(&adapter));
        assert!(relative(&logits, &expected[&format!("logits_{i}")]) < 1e-4);
    }
}

/// Both prompts, base and tuned, decoded together with cache, prefix sharing and batching: what transformers decodes one by one.
#[test]
fn batched_decoding_agrees_with_transformers_token_for_token() {
    let decoder = decoder("llama");
    let adapter = adapter::load(&fixture("llama/adapter")).expect("an adapter").low_rank(1.0).expect("tensors");
    let engine = Engine { decoder: &decoder, arms: vec![None, Some(adapter)], batch: 3 };
    let expected = reference("llama/reference.safetensors");
    let prompts = [0, 1, 0].map(|i| ids(&expected[&format!("input_ids_{i}")]));
    let ask = |arm| prompts.clone().map(|prompt| Generation { arm, prompt, max_tokens: 24 });
    let generations: Vec<Generation> = ask(1).into_iter().chain(ask(0)).collect();
    let answers = engine.generate(&generations, &[], &mut |_| {}).expect("answers");
    for (answer, i) in answers[3..].iter().zip([0, 1, 0]) {
        assert_eq!(answer.tokens, ids(&expected[&format!("greedy_{i}")]));
        assert_eq!(answer.finish, Finish::Length);
    }
    assert_eq!(answers[0].tokens, answers[2].tokens);
    assert_ne!(answers[0].tokens, answers[3].tokens, "the adapter changes the answer");
}
