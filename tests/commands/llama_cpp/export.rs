//! What finetest exports, computed by llama.cpp: adapters in its own form and merged models, of each family, against `finetest logits`.
use crate::support::{MANIFEST, Project, fixture, worker};
use serde_json::{Value, json};

const TOKENS: [u32; 24] =
    [5, 17, 99, 200, 301, 44, 7, 8, 150, 21, 260, 33, 61, 62, 63, 64, 9, 10, 11, 250, 251, 3, 4, 77];
const VOCABULARY: usize = 320;

/// Logits of every position but the last, by llama.cpp.
fn llama_cpp(project: &Project, model: &str, adapter: Option<&str>) -> Vec<f32> {
    let path = |name: &str| project.path(name).display().to_string();
    let arm = adapter.map(path);
    let opening = json!({"model": path(model), "arms": [arm], "batch": 1, "threads": 2, "log": "OFF"});
    let item = json!({"arm": 0, "prompt": [TOKENS[0]], "tokens": TOKENS[1..]});
    let logits = json!({"items": [item], "directory": path("logits")});
    std::fs::create_dir_all(project.path("logits")).expect("a directory");
    let replies = worker(&[json!({"Open": opening}), json!({"Logits": logits})]);
    let failed: Vec<&Value> = replies.iter().filter(|r| r.get("Failed").is_some()).collect();
    assert!(failed.is_empty(), "{failed:?}");
    let bytes = std::fs::read(project.path("logits/0")).expect("logits");
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// The same by this crate's decoder, and their spread.
fn ours(project: &Project, model: &str, adapter: &str) -> (Vec<f32>, f32) {
    project.write("tokens.json", &json!(TOKENS).to_string());
    let adapter = fixture(adapter).display().to_string();
    let ask = ["logits", model, "--adapter", &adapter, "--tokens", "tokens.json", "--out", "o.safetensors", "--force"];
    project.run(&ask).expect(0);
    let tensors = candle_core::safetensors::load(project.path("o.safetensors"), &candle_core::Device::Cpu);
    let logits = tensors.expect("logits")["logits"].flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("values");
    let logits = logits[..(TOKENS.len() - 1) * VOCABULARY].to_vec();
    let mean = logits.iter().sum::<f32>() / logits.len() as f32;
    let spread = (logits.iter().map(|l| (l - mean).powi(2)).sum::<f32>() / logits.len() as f32).sqrt();
    (logits, spread)
}

/// Families with an adapter of the fixtures that fits their GGUF file; whether llama.cpp takes adapters on its layers.
const CASES: [(&str, &str, bool); 8] = [
    ("llama", "llama/adapter", true),
    ("qwen2", "qwen2/adapter", true),
    ("qwen3", "qwen3/adapter", true),
    ("gemma3_text", "adapters/gemma3", true),
    ("bloom", "adapters/bloom", true),
    ("falcon", "adapters/falcon", true),
    ("gpt2", "adapters/conv1d", true),
    ("deepseek_v3", "deepseek_v3/adapter_fused", false),
];

#[test]
fn llama_cpp_computes_what_was_exported() {
    let mut wrong = Vec::new();
    for (family, adapter, as_adapter) in CASES {
        let project = Project::new();
        std::fs::copy(fixture(&format!("{family}/model.gguf")), project.path("m.gguf")).expect("a copy");
        project.write("finetest.toml", &MANIFEST.replace("source = \"model\"", "source = \"m.gguf\""));
        let (expected, spread) = ours(&project, "m.gguf", adapter);
        let from = fixture(adapter).display().to_string();
        let mut check = |what: &str, got: Vec<f32>| {
            assert_eq!(got.len(), expected.len(), "{family} {what}");
            let apart = got.iter().zip(&expected).map(|(a, b)| (a - b).abs());
            let off = apart.fold(0f32, |most, d| if d > most || d.is_nan() { d } else { most }) / spread;
            // ggml reads GELU out of a table in f16.
            let gelu = ["gemma3_text", "bloom", "falcon", "gpt2"].contains(&family);
            if off.is_nan() || off >= if gelu { 4e-3 } else { 1e-3 } {
                wrong.push(format!("{family} {what}: {off} of the spread"));
            }
        };
        project
            .run(&["export", "--format", "merged-gguf", "--dtype", "f32", "--out", "merged.gguf", "--adapter", &from])
            .expect(0);
        check("merged", llama_cpp(&project, "merged.gguf", None));
        if as_adapter {
            project.run(&["export", "--format", "gguf-adapter", "--out", "adapter.gguf", "--adapter", &from]).expect(0);
            check("adapter", llama_cpp(&project, "m.gguf", Some("adapter.gguf")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
