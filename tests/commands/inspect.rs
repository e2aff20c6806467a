//! `finetest inspect`: sizes, traps, and what is in an adapter.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{Project, fixture};

/// The published Llama 3.1 8B has 8 030 261 248 parameters; its cache is 32 layers of 8 heads of 128, twice, in 16 bits.
#[test]
fn sizes_come_from_a_configuration_alone() {
    let project = Project::new();
    let config = r#"{"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5}"#;
    project.write("llama-3.1-8b/config.json", config);
    let ran = project.run(&["sizes", "llama-3.1-8b"]).expect(0);
    for expected in
        ["8030261248 (8.03 B)", "bf16 16.06 GB", "131.07 kB for each", "17.18 GB for 131072 tokens", "41943040"]
    {
        assert!(ran.stdout.contains(expected), "{expected}: {}", ran.stdout);
    }
    let ran =
        project.run(&["sizes", "llama-3.1-8b/config.json", "--json", "--context", "8192", "--lora-r", "8"]).expect(0);
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).expect("json");
    assert_eq!(json["kv_cache_bytes_f16"], 8192 * 131_072);
    assert_eq!(json["lora_parameters"], 20_971_520);
    let gguf = fixture("qwen2/model.gguf").display().to_string();
    assert!(project.run(&["sizes", &gguf]).expect(0).stdout.contains("150336"));
    project.run(&["sizes", "nowhere"]).fails(1, &["nowhere", "no such file or directory"]);
}

/// Names of the traps of a model.
fn traps(project: &Project, model: &str) -> BTreeSet<String> {
    let found = inspected(project, &["inspect", model, "--json"]);
    let names = found["traps"].as_array().expect("traps").iter().map(|trap| trap["name"].as_str().expect("a name"));
    names.map(str::to_owned).collect()
}

fn inspected(project: &Project, arguments: &[&str]) -> Value {
    serde_json::from_str(&project.run(arguments).expect(0).stdout).expect("JSON")
}

#[test]
fn traps_follow_from_what_a_model_is() {
    let project = Project::bare();
    for (family, has, has_not) in [
        ("llama", vec!["rope-scaled"], vec!["rope-context", "tied-head", "experts", "layer-norm"]),
        ("qwen2", vec!["rope-context", "tied-head"], vec!["sliding-window", "rope-scaled"]),
        ("gemma3_text", vec!["rope-scaled", "sliding-window", "norm-plus-one", "tied-head"], vec!["layer-norm"]),
        ("deepseek_v3", vec!["rope-scaled", "experts", "layer-names"], vec!["tied-head"]),
        ("qwen3_moe", vec!["rope-context", "experts"], vec!["layer-names"]),
        ("bloom", vec!["alibi", "layer-norm", "layer-names"], vec!["rope-context", "learned-positions"]),
        ("mpt", vec!["alibi", "layer-norm", "layer-names"], vec!["rope-context"]),
        ("gpt2", vec!["learned-positions", "layer-norm", "layer-names"], vec!["alibi"]),
    ] {
        let found = traps(&project, &fixture(&format!("{family}/config.json")).display().to_string());
        for name in has {
            assert!(found.contains(name), "{family} has {name}: {found:?}");
        }
        for name in has_not {
            assert!(!found.contains(name), "{family} has no {name}: {found:?}");
        }
    }
    let large = project.read("model/config.json").replace("\"vocab_size\": 320", "\"vocab_size\": 151936");
    project.write("large/config.json", &large.replace("float32", "bfloat16"));
    let found = traps(&project, "large");
    assert!(found.contains("large-vocabulary") && found.contains("half-precision"), "{found:?}");
}

#[test]
fn a_family_that_only_llama_cpp_has_is_described_by_its_header() {
    let project = Project::bare();
    for (family, has) in [("granite", "rope-context"), ("phi3", "layer-names"), ("olmo2", "rope-context")] {
        let model = fixture(&format!("llama_cpp_only/{family}/model.gguf")).display().to_string();
        let adapter = fixture(&format!("llama_cpp_only/{family}/adapter")).display().to_string();
        let found = inspected(&project, &["inspect", &model, "--adapter", &adapter, "--json"]);
        assert_eq!((&found["family"], &found["decoder"]), (&json!(family), &json!(false)));
        // Every value of the file belongs to the model.
        let values = found["tensors"].as_array().expect("parts").iter().map(|part| part["values"].as_u64().expect("n"));
        assert_eq!(found["parameters"].as_u64(), Some(values.sum()), "{family}");
        assert!(found["lora_parameters"].as_u64().expect("a number") > 0);
        assert!(traps(&project, &model).contains(has), "{family}: {found}");
        let layers = found["adapter"]["layers"].as_array().expect("layers");
        assert!(!layers.is_empty() && layers.iter().all(|layer| layer["share_of_weights"].as_f64() > Some(0.0)));
    }
    // One that nothing here knows by name.
    let mut bytes = std::fs::read(fixture("qwen2/model.gguf")).expect("a file");
    let mut rename = |from: &[u8], to: &[u8]| {
        let places: Vec<usize> = (0..bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
        assert!(!places.is_empty());
        places.into_iter().for_each(|at| bytes[at..at + to.len()].copy_from_slice(to));
    };
    rename(b"qwen2.", b"other.");
    rename(b"\x05\0\0\0\0\0\0\0qwen2\x0c", b"\x05\0\0\0\0\0\0\0other\x0c");
    std::fs::write(project.path("other.gguf"), bytes).expect("a file");
    let told = project.run(&["inspect", "other.gguf"]).expect(0).stdout;
    for words in ["model      other, ", "none of finetest's own", "RMSNorm", "RoPE of θ", "rope-context", "tied-head"]
    {
        assert!(told.contains(words), "{words}: {told}");
    }
    let known = inspected(&project, &["inspect", &fixture("qwen2/model.gguf").display().to_string(), "--json"]);
    let other = inspected(&project, &["inspect", "other.gguf", "--json"]);
    for key in ["parameters", "active_parameters", "kv_cache_bytes_f16", "lora_parameters", "trained_context", "tokens"]
    {
        assert_eq!(known[key], other[key], "{key}");
    }
}

/// Changes a JSON file of the model.
fn edit(project: &Project, file: &str, change: impl FnOnce(&mut Value)) {
    let path = format!("model/{file}");
    let mut json = if project.path(&path).exists() {
        serde_json::from_str(&project.read(&path)).expect("JSON")
    } else {
        json!({})
    };
    change(&mut json);
    project.write(&path, &json.to_string());
}

/// Divides the values of a row of the embedding by a hundred.
fn shorten_row(project: &Project, row: usize) {
    let path = project.path("model/model.safetensors");
    let mut bytes = std::fs::read(&path).expect("weights");
    let header = 8 + usize::try_from(u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"))).expect("a size");
    let json: Value = serde_json::from_slice(&bytes[8..header]).expect("JSON");
    let tensor = &json["model.embed_tokens.weight"];
    let number = |value: &Value| usize::try_from(value.as_u64().expect("a number")).expect("a size");
    let width = number(&tensor["shape"][1]);
    let start = header + number(&tensor["data_offsets"][0]) + row * width * 4;
    for value in bytes[start..start + width * 4].chunks_exact_mut(4) {
        let shorter = f32::from_le_bytes((&*value).try_into().expect("4 bytes")) / 100.0;
        value.copy_from_slice(&shorter.to_le_bytes());
    }
    std::fs::write(path, bytes).expect("weights");
}

#[test]
fn traps_that_lie_in_files_are_seen_and_absent_where_they_are_not() {
    let project = Project::bare();
    project.write("model/README.md", "---\nlicense: apache-2.0\n---\n# A model\n");
    let before = traps(&project, "model");
    for (name, change) in [
        ("licence", &(|p: &Project| p.write("model/README.md", "---\nlicense: llama3.1\n---\n")) as &dyn Fn(&Project)),
        ("bos-twice", &|p| {
            edit(p, "tokenizer.json", |json| {
                json["post_processor"] = json!({
                    "type": "TemplateProcessing",
                    "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                    "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}},
                });
            });
        }),
        ("pad-is-end", &|p| {
            edit(p, "tokenizer_config.json", |json| json["pad_token"] = json!({"content": "<|im_end|>"}));
        }),
        ("no-pad", &|p| edit(p, "tokenizer_config.json", |json| json["pad_token"] = Value::Null)),
        ("end-of-turn", &|p| {
            edit(p, "tokenizer_config.json", |json| json["eos_token"] = "<|endoftext|>".into());
            edit(p, "config.json", |json| json["eos_token_id"] = 0.into());
        }),
        ("default-system", &|p| {
            edit(p, "tokenizer_config.json", |json| {
                let template = json["chat_template"].as_str().expect("a template").to_owned();
                let system = "<|im_start|>system\nYou are a model of some company.<|im_end|>\n";
                json["chat_template"] = (system.to_owned() + &template).into();
            });
        }),
        ("template-date", &|p| {
            p.write("model/chat_template.jinja", "{{ strftime_now('%d') }}{{ messages[0].content }}{% if messages|length > 1 %}{{ messages[1].content }}{% endif %}");
        }),
        ("thinking", &|p| {
            p.write(
                "model/chat_template.jinja",
                "{% for m in messages %}{{ m.content }}{% endfor %}{% if enable_thinking %}<think>{% endif %}",
            );
        }),
        ("broken-template", &|p| p.write("model/chat_template.jinja", "{% for i in range(99999999) %}x{% endfor %}")),
        ("no-template", &|p| edit(p, "tokenizer_config.json", |json| json["chat_template"] = Value::Null)),
        ("sampled-by-default", &|p| {
            edit(p, "generation_config.json", |json| {
                *json = json!({"do_sample": true, "temperature": 0.7, "top_p": 0.8});
            });
        }),
        ("tokenizer-context", &|p| edit(p, "tokenizer_config.json", |json| json["model_max_length"] = 100.into())),
        ("padded-vocabulary", &|p| edit(p, "config.json", |json| json["vocab_size"] = 352.into())),
        ("untrained-tokens", &|p| shorten_row(p, 2)),
    ] {
        assert!(!before.contains(name), "{name} was there before: {before:?}");
        let changed = Project::bare();
        changed.write("model/README.md", "---\nlicense: apache-2.0\n---\n# A model\n");
        change(&changed);
        let found = traps(&changed, "model");
        assert!(found.contains(name), "{name}: {found:?}");
    }
    // Of a quantised file its types are traps; a file of the fixtures is not.
    let gguf = fixture("qwen2/model.gguf").display().to_string();
    assert!(!traps(&project, &gguf).contains("quantised-base"));
}

#[test]
fn what_is_in_an_adapter_is_told_with_the_base_s_weights_and_without() {
    let project = Project::new();
    project.run(&["train"]).expect(0);
    let ran = project.run(&["inspect", "model", "--adapter", "adapters/tiny"]).expect(0);
    for part in ["rank 2, alpha", "q_proj", "change/weights", "no verdict on its own"] {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
    let json = inspected(&project, &["inspect", "model", "--adapter", "adapters/tiny", "--json"]);
    let layers = json["adapter"]["layers"].as_array().expect("layers");
    for layer in layers {
        let number = |key: &str| layer[key].as_f64().expect("a number");
        assert!((1.0..=2.0 + 1e-9).contains(&number("effective_rank")), "{layer}");
        assert!(
            number("spectral_norm") <= number("norm") * (1.0 + 1e-9) && number("share_of_weights") > 0.0,
            "{layer}"
        );
    }
    // From the configuration alone there is nothing to compare with.
    let json = inspected(&project, &["inspect", "model/config.json", "--adapter", "adapters/tiny", "--json"]);
    assert!(json["adapter"]["critical_scale"].is_null() && json["adapter"]["layers"].as_array().is_some());
    project.run(&["inspect", "model", "--adapter", "nowhere"]).fails(1, &["nowhere"]);
    project.run(&["inspect", "model", "--adapter", "model"]).fails(1, &["model", "a whole model, not an adapter"]);
}
