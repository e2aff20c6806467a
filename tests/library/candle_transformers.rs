//! A second oracle: the models of candle-transformers, where it has the family, compute the logits that `finetest logits` writes.
//!
//! Most of them give the last position's logits only, so every prefix of a prompt is asked. MPT's configuration cannot be made
//! outside of candle-transformers, BLOOM and GPT-2 it has not, and its DeepSeek is V2.

use std::collections::HashMap;
use std::path::Path;

use crate::support::{Project, fixture};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{deepseek2, falcon, gemma3, llama, qwen2, qwen2_moe, qwen3, qwen3_moe};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const TOKENS: [u32; 12] = [5, 17, 99, 200, 301, 44, 7, 8, 150, 21, 260, 33];

type Tensors = HashMap<String, Tensor>;

/// A copy of a family's model under `model`, with its configuration and tensors changed.
fn changed(project: &Project, family: &str, config: impl Fn(&mut Value), tensors: impl Fn(&mut Tensors)) {
    let directory = project.path("model");
    let text = std::fs::read_to_string(fixture(&format!("{family}/config.json"))).expect("a configuration");
    let mut json: Value = serde_json::from_str(&text).expect("json");
    config(&mut json);
    std::fs::write(directory.join("config.json"), json.to_string()).expect("a file");
    let weights = fixture(&format!("{family}/model.safetensors"));
    let mut all = candle_core::safetensors::load(weights, &Device::Cpu).expect("tensors");
    tensors(&mut all);
    candle_core::safetensors::save(&all, directory.join("model.safetensors")).expect("a file");
}

fn config<T: DeserializeOwned>(directory: &Path) -> T {
    let text = std::fs::read_to_string(directory.join("config.json")).expect("a configuration");
    serde_json::from_str(&text).expect("candle-transformers' configuration")
}

fn weights(directory: &Path) -> VarBuilder<'static> {
    let bytes = std::fs::read(directory.join("model.safetensors")).expect("weights");
    VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu).expect("tensors")
}

/// `finetest logits` on the project's model against the last logits of every prefix.
fn agree(project: &Project, family: &str, mut last: impl FnMut(&Tensor) -> Result<Tensor>) {
    project.write("tokens.json", &json!(TOKENS).to_string());
    project.run(&["logits", "model", "--tokens", "tokens.json", "--out", "ours.safetensors"]).expect(0);
    let ours = candle_core::safetensors::load(project.path("ours.safetensors"), &Device::Cpu).expect("logits");
    let ours = ours["logits"].to_vec2::<f32>().expect("rows");
    let mean = ours.concat().iter().sum::<f32>() / (ours.len() * ours[0].len()) as f32;
    let spread = (ours.concat().iter().map(|v| (v - mean).powi(2)).sum::<f32>() / ours.concat().len() as f32).sqrt();
    for (n, row) in (1..).zip(&ours) {
        let ids = Tensor::new(&TOKENS[..n], &Device::Cpu).and_then(|t| t.unsqueeze(0)).expect("ids");
        let theirs = last(&ids).and_then(|t| t.flatten_all()?.to_vec1::<f32>()).expect(family);
        assert!(row.iter().chain(&theirs).all(|v| v.is_finite()), "{family}");
        let off = row.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(row.len() == theirs.len() && off < 1e-4 * spread.max(1.0), "{family}, {n} tokens: {off} of {spread}");
    }
}

#[test]
fn llama() {
    let project = Project::new();
    let directory = project.path("model");
    changed(&project, "llama", |_| {}, |_| {});
    let config = config::<llama::LlamaConfig>(&directory).into_config(false);
    let model = llama::Llama::load(weights(&directory), &config).expect("a model");
    agree(&project, "llama", |ids| {
        model.forward(ids, 0, &mut llama::Cache::new(false, DType::F32, &config, &Device::Cpu)?)
    });
}

#[test]
fn qwen_2() {
    let project = Project::new();
    let directory = project.path("model");
    // candle-transformers wants the windows' keys, which say nothing here.
    let windows = |c: &mut Value| (c["sliding_window"], c["max_window_layers"]) = (json!(4096), json!(28));
    changed(&project, "qwen2", windows, |_| {});
    let mut model = qwen2::ModelForCausalLM::new(&config(&directory), weights(&directory)).expect("a model");
    agree(&project, "qwen2", |ids| {
        model.clear_kv_cache();
        model.forward(ids, 0)
    });
}

#[test]
fn qwen_2_with_experts() {
    let project = Project::new();
    let directory = project.path("model");
    // candle-transformers has experts in every decoder_sparse_step-th layer, and no list of dense ones: here all but one.
    let only_the_last = |c: &mut Value| (c["num_hidden_layers"], c["mlp_only_layers"]) = (json!(1), json!([]));
    changed(&project, "qwen2_moe", only_the_last, |tensors| {
        tensors.retain(|name, _| !name.contains("layers.1.") && !name.contains("layers.2."));
    });
    let mut model = qwen2_moe::Model::new(&config(&directory), weights(&directory)).expect("a model");
    agree(&project, "qwen2_moe", |ids| {
        model.clear_kv_cache();
        model.forward(ids, 0)
    });
}

#[test]
fn qwen_3() {
    let project = Project::new();
    let directory = project.path("model");
    changed(&project, "qwen3", |_| {}, |_| {});
    let mut model = qwen3::ModelForCausalLM::new(&config(&directory), weights(&directory)).expect("a model");
    agree(&project, "qwen3", |ids| {
        model.clear_kv_cache();
        model.forward(ids, 0)
    });
}

#[test]
fn qwen_3_with_experts() {
    let project = Project::new();
    let directory = project.path("model");
    let only_the_last = |c: &mut Value| (c["num_hidden_layers"], c["mlp_only_layers"]) = (json!(1), json!([]));
    changed(&project, "qwen3_moe", only_the_last, |tensors| {
        tensors.retain(|name, _| !name.contains("layers.1.") && !name.contains("layers.2."));
    });
    let mut model = qwen3_moe::ModelForCausalLM::new(&config(&directory), weights(&directory)).expect("a model");
    agree(&project, "qwen3_moe", |ids| {
        model.clear_kv_cache();
        model.forward(ids, 0)
    });
}

#[test]
fn gemma_3() {
    let project = Project::new();
    let directory = project.path("model");
    // It has no scaling of rotary angles, and divides scores by the root of a head's width whatever the configuration says.
    let plain = |c: &mut Value| (c["rope_scaling"], c["query_pre_attn_scalar"]) = (Value::Null, json!(24));
    changed(&project, "gemma3_text", plain, |_| {});
    let mut config: gemma3::Config = config(&directory);
    // transformers' window counts the token itself, candle-transformers' does not.
    config.sliding_window -= 1;
    let mut model = gemma3::Model::new(false, &config, weights(&directory)).expect("a model");
    agree(&project, "gemma3_text", |ids| {
        model.clear_kv_cache();
        model.forward(ids, 0)
    });
}

#[test]
fn falcon() {
    let project = Project::new();
    let directory = project.path("model");
    // It does not tie the head, and its GELU is the approximation by tanh.
    changed(
        &project,
        "falcon",
        |c| c["activation"] = json!("gelu_pytorch_tanh"),
        |tensors| {
            let embedding = tensors["transformer.word_embeddings.weight"].clone();
            tensors.insert("lm_head.weight".into(), embedding);
        },
    );
    let config = falcon::Config {
        vocab_size: 320,
        hidden_size: 64,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        ..falcon::Config::falcon7b()
    };
    let mut model = falcon::Falcon::load(weights(&directory), config).expect("a model");
    agree(&project, "falcon", |ids| {
        model.clear_kv_cache();
        model.forward(ids)
    });
}

#[test]
fn deepseek_v2() {
    let project = Project::new();
    let directory = project.path("model");
    // Its choice among groups fails; the references of transformers have groups.
    changed(&project, "deepseek_v2", |c| c["topk_method"] = json!("greedy"), |_| {});
    let mut model = deepseek2::DeepSeekV2::new(&config(&directory), weights(&directory)).expect("a model");
    agree(&project, "deepseek_v2", |ids| {
        model.clear_kv_cache();
        model.forward(ids, 0)
    });
}
