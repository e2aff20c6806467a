//! The command line, run as a user runs it: exit codes, messages, and that nothing is lost.

use std::process::Stdio;

use crate::support::{self, Project};

const GATE: &str = "\n[gate]\nmin_retention = 0.5\n";

#[test]
fn a_run_trains_asks_reports_and_passes() {
    let project = Project::new();
    project.append("finetest.toml", GATE);
    let ran = project.run(&[]).expect(0);
    assert!(ran.stderr.contains("training adapters/tiny (there is none yet)"), "{}", ran.stderr);
    assert!(ran.stdout.contains("PASS"), "{}", ran.stdout);
    assert!(!ran.stdout.contains('\u{1b}'), "no colours when stdout is not a terminal");
    for file in
        ["adapters/tiny/adapter_model.safetensors", "adapters/tiny/trainer_state.json", "adapters/tiny/loss.svg"]
    {
        assert!(project.path(file).is_file(), "{file}");
    }
    for file in ["run.json", "report.md", "junit.xml"] {
        assert!(project.path(".finetest/runs/finetest/latest").join(file).is_file(), "{file}");
    }
}

#[test]
fn a_second_run_trains_and_computes_nothing() {
    let project = Project::new();
    project.append("finetest.toml", GATE);
    project.run(&["run"]).expect(0);
    let ran = project.run(&["run", "--json"]).expect(0);
    assert!(!ran.stderr.contains("training"), "{}", ran.stderr);
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(json["run"]["cost"]["computed"], 0);
    assert_eq!(json["run"]["cost"]["stored"], 6);
    assert!(json["run"]["proof"]["tuned"]["adapter_effect"].as_f64().expect("a number") > 0.0);
    assert!(json["run"]["drift"]["tuned"]["kl"]["mean"].as_f64().expect("a number") > 0.0);
}

#[test]
fn a_gate_that_fails_exits_with_100_and_gate_and_report_agree() {
    let project = Project::new();
    project.append("finetest.toml", "\n[gate]\nmin_target_gain = 0.5\n");
    let ran = project.run(&["run", "--quiet"]).expect(100);
    assert!(ran.stdout.contains("FAIL") && ran.stdout.contains("min_target_gain"), "{}", ran.stdout);
    assert_eq!(ran.stderr, "");
    let run = ".finetest/runs/finetest/latest/run.json";
    let gated = project.run(&["gate", run]).expect(100);
    assert!(gated.stdout.contains("min_target_gain"));
    project.run(&["report", run]).expect(0);
    let markdown = project.run(&["report", run, "--format", "markdown"]).expect(0);
    assert!(markdown.stdout.contains("target gain +0 points"), "{}", markdown.stdout);
    let junit = project.run(&["report", run, "--format", "junit"]).expect(0);
    assert!(junit.stdout.starts_with("<?xml"));
}

#[test]
fn without_thresholds_nothing_is_green() {
    let ran = Project::new().run(&[]).expect(100);
    assert!(ran.stdout.contains("nothing was gated"), "{}", ran.stdout);
}

#[test]
fn in_a_workflow_the_summary_is_appended_and_failures_are_annotated() {
    let project = Project::new();
    project.append("finetest.toml", "\n[gate]\nmin_target_gain = 0.5\n");
    project.write("summary.md", "before\n");
    let mut command = project.command(&["run"]);
    command.env("GITHUB_STEP_SUMMARY", project.path("summary.md")).env("GITHUB_ACTIONS", "true");
    let ran = support::Ran::of(command.output().expect("the binary runs")).expect(100);
    assert!(project.read("summary.md").starts_with("before\n"));
    assert!(project.read("summary.md").contains("target gain +0 points"), "{}", project.read("summary.md"));
    assert!(ran.stdout.contains("::error"), "{}", ran.stdout);
}

#[test]
fn no_manifest_and_wrong_words_are_wrong_usage() {
    let project = Project::new();
    std::fs::remove_file(project.path("finetest.toml")).expect("removed");
    project.run(&[]).fails(2, &["no finetest.toml", "--config FILE"]);
    let project = Project::new();
    project.run(&["fly"]).expect(2);
    project.run(&["--backend", "abacus"]).fails(2, &["abacus", "candle"]);
    project.run(&["--threads", "0"]).expect(2);
    project.run(&["--help"]).expect(0);
}

#[test]
fn called_through_cargo_the_first_word_is_left_out() {
    let project = Project::new();
    project.run(&["finetest", "--version"]).expect(0);
}

#[test]
fn no_scenario_means_that_nothing_ran() {
    let project = Project::new();
    std::fs::remove_dir_all(project.path("scenarios")).expect("removed");
    project.run(&[]).fails(4, &["nothing ran", "scenarios"]);
}

#[test]
fn training_that_is_forbidden_is_said_and_not_done() {
    let project = Project::new();
    let mut command = project.command(&["run"]);
    command.env("FINETEST_TRAIN", "never");
    support::Ran::of(command.output().expect("the binary runs"))
        .fails(1, &["adapters/tiny", "FINETEST_TRAIN=never", "finetest train"]);
    assert!(!project.path("adapters").exists());
    let mut command = project.command(&["run"]);
    command.env("FINETEST_TRAIN", "sometimes");
    support::Ran::of(command.output().expect("the binary runs")).fails(2, &["sometimes", "auto, never or always"]);
}

#[test]
fn an_adapter_that_finetest_did_not_train_is_never_overwritten() {
    let project = Project::new();
    project.write("adapters/tiny/adapter_model.safetensors", "somebody's work");
    project.run(&["train"]).fails(1, &["adapters/tiny", "did not train", "overwrite"]);
    assert_eq!(project.read("adapters/tiny/adapter_model.safetensors"), "somebody's work");
}

#[test]
fn a_changed_recipe_trains_anew_and_keeps_the_old_adapter() {
    let project = Project::new();
    project.run(&["train"]).expect(0);
    let old = std::fs::read(project.path("adapters/tiny/adapter_model.safetensors")).expect("an adapter");
    let manifest = project.read("finetest.toml").replace("max_steps = 4", "max_steps = 5");
    project.write("finetest.toml", &manifest);
    let ran = project.run(&["train"]).expect(0);
    assert!(ran.stderr.contains("its recipe changed") && ran.stderr.contains("is kept in"), "{}", ran.stderr);
    let replaced = std::fs::read_dir(project.path(".finetest/replaced")).expect("kept").flatten().next().expect("one");
    assert_eq!(std::fs::read(replaced.path().join("adapter_model.safetensors")).expect("readable"), old);
    assert!(project.run(&["train"]).expect(0).stdout.contains("nothing to train"));
}

/// It changes no byte, so an adapter trained without it fits, and a training that was interrupted continues with it.
#[test]
fn gradient_checkpointing_is_not_another_recipe() {
    let project = Project::new();
    project.append("finetest.toml", "save_steps = 1\nsave_total_limit = 9\nlora_dropout = 0.1\n");
    project.run(&["train"]).expect(0);
    let bytes = || std::fs::read(project.path("adapters/tiny/adapter_model.safetensors")).expect("an adapter");
    let whole = bytes();
    project.append("finetest.toml", "gradient_checkpointing = true\n");
    assert!(project.run(&["train"]).expect(0).stdout.contains("nothing to train"));
    std::fs::remove_dir_all(project.path("adapters")).expect("removed");
    let trainings: Vec<_> = std::fs::read_dir(project.path(".finetest/checkpoints")).expect("one").flatten().collect();
    for step in [3, 4] {
        std::fs::remove_dir_all(trainings[0].path().join(format!("checkpoint-{step}"))).expect("removed");
    }
    let ran = project.run(&["train"]).expect(0);
    assert!(ran.stderr.contains("resumed at step 2"), "{}", ran.stderr);
    assert_eq!(bytes(), whole);
}

/// Another recipe, another adapter; and answers in bf16 are never read as those in f32.
#[test]
fn bf16_is_another_recipe_and_dtype_another_backend() {
    let project = Project::new();
    project.append("finetest.toml", "adapter_dtype = \"f32\"\n");
    project.run(&["train"]).expect(0);
    let bytes = || std::fs::read(project.path("adapters/tiny/adapter_model.safetensors")).expect("an adapter");
    let loss = || project.read("adapters/tiny/trainer_state.json");
    let (in_f32, loss_in_f32) = (bytes(), loss());
    project.append("finetest.toml", "bf16 = true\n");
    let ran = project.run(&["train"]).expect(0);
    assert!(ran.stderr.contains("its recipe changed"), "{}", ran.stderr);
    assert_ne!((bytes(), loss()), (in_f32, loss_in_f32));
    assert!(project.run(&["train"]).expect(0).stdout.contains("nothing to train"));

    project.append("finetest.toml", GATE);
    let first = project.run(&[]).expect(0);
    assert!(first.stdout.contains("candle 0.11\n"), "{}", first.stdout);
    let manifest = project.read("finetest.toml");
    project.write("finetest.toml", &manifest.replace("source = \"model\"", "source = \"model\"\ndtype = \"bf16\""));
    let second = project.run(&[]).expect(0);
    assert!(second.stdout.contains("candle 0.11 in bf16\n"), "{}", second.stdout);
    assert!(second.stdout.contains(" 0 stored"), "{}", second.stdout);
    // Rounding in bf16 depends on how many rows are computed together; what an adapter does to base is told from it.
    let json = project.run(&["--format", "json"]).expect(0).stdout;
    assert!(json.contains(r#""base_difference": 0.0"#), "{json}");
    project.write("finetest.toml", &manifest);
    assert!(project.run(&[]).expect(0).stdout.contains(" 0 computed"));
}

/// What is measured does not depend on how many threads measure it: the floor of drift needs no term for them.
#[test]
fn drift_and_answers_are_the_same_on_one_thread_and_on_two() {
    let project = Project::new();
    project.append("finetest.toml", GATE);
    project.run(&["train"]).expect(0);
    let measured = |threads: &str| {
        let ran = project.run(&["--threads", threads, "--format", "json"]);
        std::fs::remove_dir_all(project.path(".finetest")).expect("the answers are computed anew");
        let whole: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
        assert_eq!(whole["run"]["cost"]["stored"], 0);
        [whole["run"]["drift"].clone(), whole["run"]["scenarios"].clone()]
    };
    assert_eq!(measured("1"), measured("2"));
}

#[test]
fn changed_data_trains_anew() {
    let project = Project::new();
    project.run(&["train"]).expect(0);
    project.append("data/train.jsonl", "{\"prompt\": \"more\", \"completion\": \" data\"}\n");
    let ran = project.run(&["train"]).expect(0);
    assert!(ran.stderr.contains("its data changed"), "{}", ran.stderr);
}

#[test]
fn manifests_with_wrong_keys_name_file_and_line() {
    let project = Project::new();
    project.append("finetest.toml", "learning_rat = 3\n");
    project.run(&[]).fails(1, &["finetest.toml:", "learning_rat"]);
    project.write("finetest.toml", &(support::MANIFEST.to_owned() + "warmup_ratio = 0.1\nwarmup_steps = 3\n"));
    project.run(&[]).fails(1, &["warmup_ratio", "warmup_steps"]);
    project.write("finetest.toml", "[gate]\nmax_drift = 1\n");
    project.run(&[]).fails(1, &["[model]"]);
}

#[test]
fn bad_scenarios_are_all_reported_with_file_and_line() {
    let project = Project::new();
    project
        .write("scenarios/one.toml", "role = \"control\"\ndescription = \"x\"\nseed = 3\n[[cases]]\nprompt = \"x\"\n");
    project.write("scenarios/two.toml", "role = \"control\"\ndescription = \"x\"\n");
    project.write(
        "scenarios/three.toml",
        "role = \"control\"\ndescription = \"x\"\n[[cases]]\nprompt = \"x\"\nchecks = [{ regex = '(' }]\n",
    );
    project.write(
        "scenarios/four.toml",
        "role = \"control\"\ndescription = \"x\"\n[[cases]]\nprompt = \"x\"\nchecks = [{ json-schema = { type = 7 } }]\n",
    );
    let twice = "[[cases]]\nname = \"a\"\nprompt = \"x\"\nchecks = [\"json\"]\n";
    project.write("scenarios/five.toml", &format!("role = \"control\"\ndescription = \"x\"\n{twice}{twice}"));
    project.run(&[]).fails(1, &["one.toml:3", "seed", "two.toml", "three.toml:5", "four.toml:5", "five.toml", "\"a\""]);
}

#[test]
fn bad_data_lines_stop_the_training_or_are_skipped_as_the_manifest_says() {
    let project = Project::new();
    project.append("data/train.jsonl", "not json\n{\"prompt\": \"x\", \"completion\": \"\"}\n");
    project.run(&["train"]).fails(1, &["train.jsonl:13", "train.jsonl:14", "on_error"]);
    let manifest = project.read("finetest.toml").replace("[train]", "on_error = \"skip\"\n\n[train]");
    project.write("finetest.toml", &manifest);
    let ran = project.run(&["train"]).expect(0);
    assert!(ran.stderr.contains("2 of 14 lines are skipped"), "{}", ran.stderr);
}

#[test]
fn an_example_that_is_too_long_is_named() {
    let project = Project::new();
    project
        .append("data/train.jsonl", &format!("{{\"prompt\": \"{}\", \"completion\": \"x\"}}\n", "long ".repeat(2000)));
    project.run(&["train"]).fails(1, &["train.jsonl:13", "tokens, and the model's context is 256"]);
}

#[test]
fn a_prompt_longer_than_the_context_is_told_before_anything_is_generated() {
    let project = Project::new();
    project.write("scenarios/says.toml", &support::TARGET.replace("hello there", &"hello there ".repeat(300)));
    project.run(&[]).fails(1, &["hello there", "context is 256", "max_tokens"]);
}

#[test]
fn damaged_models_are_errors_that_name_the_file_or_the_tensor() {
    let project = Project::new();
    let weights = project.path("model/model.safetensors");
    let whole = std::fs::read(&weights).expect("weights");
    std::fs::write(&weights, &whole[..whole.len() / 2]).expect("truncated");
    project.run(&["train"]).fails(1, &["model.safetensors", "truncated"]);
    std::fs::write(&weights, b"").expect("emptied");
    project.run(&["train"]).fails(1, &["model.safetensors", "empty"]);
    std::fs::remove_file(&weights).expect("removed");
    project.run(&["train"]).fails(1, &["model.safetensors"]);
    std::fs::write(&weights, &whole).expect("restored");

    let config = project.read("model/config.json");
    project.write("model/config.json", &config.replace("\"hidden_size\": 64", "\"hidden_size\": 96"));
    project.run(&["train"]).fails(1, &["model.embed_tokens.weight", "[320, 64]", "[320, 96]"]);
    project.write("model/config.json", &config.replace("\"model_type\": \"llama\"", "\"model_type\": \"mamba\""));
    project.run(&["train"]).fails(1, &["mamba", "known are: llama"]);
    project.write("model/config.json", &config.replace("llama3", "spiral"));
    project.run(&["train"]).fails(1, &["spiral", "llama3"]);
    project.write("model/config.json", &config.replace("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4"));
    project.run(&["train"]).fails(1, &["model.layers.3.", "missing", "nearest"]);
    project.write("model/config.json", "{");
    project.run(&["train"]).fails(1, &["config.json"]);
}

/// A tokenizer with more tokens than the model has rows, and one with far fewer.
#[test]
fn a_tokenizer_of_another_model_is_refused_before_training_and_asking() {
    let project = Project::new();
    let rewrite = |change: &dyn Fn(&mut serde_json::Map<String, serde_json::Value>)| {
        let text = std::fs::read_to_string(support::fixture("tokenizer/tokenizer.json")).expect("a tokenizer");
        let mut json: serde_json::Value = serde_json::from_str(&text).expect("json");
        change(json["model"]["vocab"].as_object_mut().expect("a vocabulary"));
        project.write("model/tokenizer.json", &json.to_string());
    };
    rewrite(&|vocabulary| {
        vocabulary.insert("one too many".into(), 320.into());
    });
    let more = ["model", "the tokenizer has 321 tokens, but the model's vocabulary is 320", "tokenizer.json"];
    project.run(&["train"]).fails(1, &more);
    let logits = ["logits", "model", "--text", "hello", "--out", "out.safetensors"];
    project.run(&logits).fails(1, &more);

    rewrite(&|_| {});
    project.run(&["train"]).expect(0);
    let whole = std::fs::read_to_string(support::fixture("tokenizer/tokenizer.json")).expect("a tokenizer");
    let mut json: serde_json::Value = serde_json::from_str(&whole).expect("json");
    json["model"]["merges"] = serde_json::json!([]);
    json["model"]["vocab"].as_object_mut().expect("a vocabulary").retain(|_, id| id.as_u64() < Some(260));
    project.write("model/tokenizer.json", &json.to_string());
    let fewer = ["the tokenizer has 260 tokens, but the model's vocabulary is 320", "not of one model"];
    project.run(&logits).fails(1, &fewer);
    project.run(&["run"]).fails(1, &["tokenizer"]);
}

#[test]
fn an_adapter_of_another_family_is_refused_by_its_modules() {
    let project = Project::new();
    project.write("tokens.json", "[5, 6, 7]");
    for (adapter, module) in [
        ("adapters/bloom", "transformer.h.0.mlp.dense_4h_to_h"),
        ("deepseek_v2/adapter", "model.layers.0.mlp.down_proj"),
    ] {
        let adapter = support::fixture(adapter).display().to_string();
        let logits = ["logits", "model", "--adapter", &adapter, "--tokens", "tokens.json", "--out", "out.safetensors"];
        project.run(&logits).fails(1, &[module, "another base"]);
        assert!(!project.path("out.safetensors").exists());
    }
}

#[test]
fn damaged_ggufs_are_errors() {
    let project = Project::new();
    let whole = std::fs::read(support::fixture("llama/model.gguf")).expect("a GGUF");
    project.write("finetest.toml", &support::MANIFEST.replace("source = \"model\"", "source = \"m.gguf\""));
    for bytes in [&whole[..whole.len() - 1000], &whole[..500], b"GGUF".as_slice(), b"nonsense".as_slice()] {
        std::fs::write(project.path("m.gguf"), bytes).expect("written");
        project.run(&["train"]).fails(1, &["m.gguf"]);
    }
    std::fs::remove_file(project.path("m.gguf")).expect("removed");
    project.run(&["train"]).fails(1, &["m.gguf"]);
}

#[test]
fn nan_in_the_weights_is_found_and_named() {
    let project = Project::new();
    let weights = project.path("model/model.safetensors");
    let mut bytes = std::fs::read(&weights).expect("weights");
    let end = bytes.len() - 400;
    for at in (end..end + 64).step_by(4) {
        bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    }
    std::fs::write(&weights, bytes).expect("written");
    project.run(&["train"]).fails(1, &["not finite"]);
}

#[test]
fn an_adapter_of_another_base_or_without_effect_is_refused() {
    let project = Project::new();
    project.append("finetest.toml", GATE);
    let manifest = project.read("finetest.toml");
    let without_training =
        manifest.split("[data]").next().expect("a head").to_owned() + "[adapter]\npath = \"given\"\n" + GATE;
    project.write("finetest.toml", &without_training);
    let config =
        std::fs::read_to_string(support::fixture("llama/adapter/adapter_config.json")).expect("a configuration");
    project.write("given/adapter_config.json", &config);
    let tensors = std::fs::read(support::fixture("llama/adapter/adapter_model.safetensors")).expect("tensors");
    std::fs::write(project.path("given/adapter_model.safetensors"), &tensors).expect("written");
    project.run(&["run"]).expect(0);

    // Zeroed values: the file is read, and changes nothing.
    let header = u64::from_le_bytes(tensors[..8].try_into().expect("8 bytes")) as usize + 8;
    let mut zero = tensors.clone();
    zero[header..].fill(0);
    std::fs::write(project.path("given/adapter_model.safetensors"), &zero).expect("written");
    project.run(&["run"]).fails(1, &["changes nothing"]);

    std::fs::write(project.path("given/adapter_model.safetensors"), &tensors[..tensors.len() - 8]).expect("written");
    project.run(&["run"]).fails(1, &["adapter_model.safetensors", "truncated"]);
    std::fs::write(project.path("given/adapter_model.safetensors"), &tensors).expect("written");
    project.write("given/adapter_config.json", &config.replace("\"use_dora\": false", "\"use_dora\": true"));
    project.run(&["run"]).fails(1, &["lora_magnitude_vector` is missing"]);
    project.write("given/adapter_config.json", &config.replace("\"lora_bias\": false", "\"lora_bias\": true"));
    project.run(&["run"]).fails(1, &["adapter_config.json", "lora_bias is set, and is not supported"]);
    project.write("given/adapter_config.json", &config.replace("\"r\": 4", "\"r\": 8"));
    project.run(&["run"]).fails(1, &["lora_A", "rank 8"]);
    std::fs::remove_file(project.path("given/adapter_model.safetensors")).expect("removed");
    project.write("given/adapter_model.bin", "pickle");
    project.run(&["run"]).fails(1, &["pickle", "safetensors"]);
}

/// Scales that end in NaN, adapters of a base that was changed, and a tokenizer that is another model's: nothing of it is exported.
#[test]
fn what_would_be_exported_wrongly_is_refused() {
    let project = Project::new();
    let config =
        std::fs::read_to_string(support::fixture("llama/adapter/adapter_config.json")).expect("a configuration");
    std::fs::create_dir_all(project.path("given")).expect("a directory");
    std::fs::copy(
        support::fixture("llama/adapter/adapter_model.safetensors"),
        project.path("given/adapter_model.safetensors"),
    )
    .expect("a copy");
    let with = |from: &str, to: &str| project.write("given/adapter_config.json", &config.replace(from, to));
    let export = |format: &str| {
        let export = ["export", "--format", format, "--dtype", "f16", "--out", "out", "--adapter", "given", "--force"];
        let peft = ["export", "--format", format, "--out", "out", "--adapter", "given", "--force"];
        project.run(if format == "merged" { &export[..] } else { &peft[..] })
    };
    assert!(config.contains("\"lora_alpha\": 8"));
    with("\"lora_alpha\": 8", "\"lora_alpha\": 1e30");
    export("merged").fails(1, &["given: the logits of base and adapter are not finite", "diverged"]);
    assert!(!project.path("out").exists(), "nothing was written");
    with("\"init_lora_weights\": true", "\"init_lora_weights\": \"pissa_niter_4\"");
    export("peft").fails(1, &["pissa_niter_4", "base's own weights"]);
    with("\"task_type\": \"CAUSAL_LM\"", "\"task_type\": \"SEQ_CLS\"");
    export("peft").fails(1, &["SEQ_CLS", "expected CAUSAL_LM"]);
    with("\"modules_to_save\": null", "\"modules_to_save\": [\"lm_head\"]");
    export("peft").fails(1, &["lm_head", "modules_to_save"]);
    project.write("given/adapter_config.json", &config);
    let merged = ["export", "--format", "merged", "--out", "model", "--adapter", "given", "--force"];
    project.run(&merged).fails(2, &["model is the base itself"]);
    project.write("model/tokenizer.json", "{broken");
    export("merged").fails(1, &["tokenizer.json"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_device_is_written_to_and_not_replaced() {
    use std::os::unix::fs::FileTypeExt;
    let project = Project::new();
    let adapter = support::fixture("llama/adapter").display().to_string();
    let export = ["export", "--format", "gguf-adapter", "--out", "/dev/full", "--force", "--adapter", &adapter];
    project.run(&export).fails(1, &["/dev/full"]);
    assert!(std::fs::metadata("/dev/full").expect("the device").file_type().is_char_device());
}

#[test]
fn an_unreadable_run_is_an_error() {
    let project = Project::new();
    project.write("run.json", "{\"version\": 99}");
    project.run(&["gate", "run.json"]).fails(1, &["run.json", "version 99", "a newer finetest", "up to version 2"]);
    project.write("run.json", "no");
    project.run(&["report", "run.json"]).fails(1, &["run.json"]);
    project.run(&["report", "absent.json"]).fails(1, &["absent.json", "cannot read"]);
}

#[test]
fn two_runs_at_once_take_turns() {
    let project = Project::new();
    project.append("finetest.toml", GATE);
    let children: Vec<_> = (0..2)
        .map(|_| {
            let mut command = project.command(&["run"]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs")
        })
        .collect();
    let rans: Vec<support::Ran> =
        children.into_iter().map(|c| support::Ran::of(c.wait_with_output().expect("an end")).expect(0)).collect();
    let trained = rans.iter().filter(|r| r.stderr.contains("training adapters/tiny")).count();
    assert_eq!(trained, 1, "one trains, the other waits and uses its adapter");
    assert!(rans.iter().any(|r| r.stderr.contains("waiting")), "and says that it waits");
}

#[test]
fn a_killed_training_goes_on_and_ends_with_the_same_bytes() {
    let whole = Project::new();
    let manifest = support::MANIFEST.replace("max_steps = 4", "num_epochs = 40\nsave_steps = 3\neval_steps = 50");
    whole.write("finetest.toml", &manifest);
    whole.run(&["train"]).expect(0);
    let killed = Project::new();
    killed.write("finetest.toml", &manifest);
    let mut child =
        killed.command(&["train"]).stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("the binary runs");
    let checkpoints = killed.path(".finetest/checkpoints");
    let has_checkpoint = || {
        let runs = std::fs::read_dir(&checkpoints).into_iter().flatten().flatten();
        runs.flat_map(|r| std::fs::read_dir(r.path()).into_iter().flatten().flatten())
            .any(|c| c.file_name().to_string_lossy().starts_with("checkpoint-"))
    };
    while !has_checkpoint() && child.try_wait().expect("a state").is_none() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill().expect("killed");
    child.wait().expect("an end");
    assert!(!killed.path("adapters/tiny/finetest.json").exists(), "it was killed before its end");
    let ran = killed.run(&["train"]).expect(0);
    assert!(ran.stderr.contains("resumed at step"), "{}", ran.stderr);
    for file in ["adapter_model.safetensors", "trainer_state.json", "loss.svg"] {
        let bytes = |p: &Project| std::fs::read(p.path("adapters/tiny").join(file)).expect("readable");
        assert_eq!(bytes(&killed), bytes(&whole), "{file}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_and_the_old_file_stays() {
    let project = Project::new();
    project.append("finetest.toml", GATE);
    project.run(&["run"]).expect(0);
    let before = project.read(".finetest/runs/finetest/latest/run.json");
    // /dev/full has no room; the logits cannot be written there.
    project.write("tokens.json", "[1, 2, 3]");
    project.run(&["logits", "model", "--tokens", "tokens.json", "--out", "/dev/full"]).fails(1, &["/dev/full"]);
    assert_eq!(project.read(".finetest/runs/finetest/latest/run.json"), before);
}

#[test]
fn logits_are_those_of_the_reference() {
    let project = Project::new();
    let reference =
        candle_core::safetensors::load(support::fixture("llama/reference_lora.safetensors"), &candle_core::Device::Cpu);
    let base =
        candle_core::safetensors::load(support::fixture("llama/reference.safetensors"), &candle_core::Device::Cpu);
    let (reference, base) = (reference.expect("a reference"), base.expect("a reference"));
    let ids = base["input_ids_0"].to_vec1::<i64>().expect("ids");
    project.write("tokens.json", &format!("{ids:?}"));
    let adapter = support::fixture("llama/adapter").display().to_string();
    project
        .run(&["logits", "model", "--adapter", &adapter, "--tokens", "tokens.json", "--out", "out.safetensors"])
        .expect(0);
    let got =
        candle_core::safetensors::load(project.path("out.safetensors"), &candle_core::Device::Cpu).expect("an output");
    let difference = (&got["logits"] - &reference["logits_0"]).and_then(|d| d.abs()?.max_all()?.to_scalar::<f32>());
    assert!(difference.expect("a number") < 1e-4);
    project.write("tokens.json", "[1, \"two\"]");
    let again = ["logits", "model", "--tokens", "tokens.json", "--out", "out.safetensors"];
    project.run(&again).fails(2, &["out.safetensors", "already exists", "--force"]);
    project
        .run(&["logits", "model", "--tokens", "tokens.json", "--out", "out.safetensors", "--force"])
        .fails(1, &["tokens.json", "token ids"]);
    project.write("tokens.json", "[99999]");
    project
        .run(&["logits", "model", "--tokens", "tokens.json", "--out", "out.safetensors", "--force"])
        .fails(1, &["99999", "vocabulary"]);
    project.write("tokens.json", &format!("{:?}", vec![5; 257]));
    project
        .run(&["logits", "model", "--tokens", "tokens.json", "--out", "out.safetensors", "--force"])
        .fails(1, &["257 tokens", "context is 256"]);
    let read = || std::fs::read(project.path("model/model.safetensors")).expect("weights");
    let base = read();
    project.write("tokens.json", "[5]");
    project
        .run(&["logits", "model", "--tokens", "tokens.json", "--out", "model/model.safetensors"])
        .fails(2, &["model.safetensors is a file of the base", "give another --output"]);
    assert_eq!(base, read());
}

#[test]
fn an_export_says_how_close_it_is_and_overwrites_nothing() {
    let project = Project::new();
    project.run(&["train"]).expect(0);
    for (format, out) in [("peft", "peft"), ("gguf-adapter", "adapter.gguf"), ("merged", "merged")] {
        let ran = project.run(&["export", "--format", format, "--out", out]).expect(0);
        assert!(ran.stdout.contains("drift") && ran.stdout.contains(out), "{}", ran.stdout);
        project.run(&["export", "--format", format, "--out", out]).fails(2, &[out, "already exists", "--force"]);
    }
    project.run(&["export", "--format", "peft", "--out", "peft", "--force"]).expect(0);
    project
        .run(&["export", "--format", "merged-gguf", "--out", "m.gguf"])
        .fails(1, &["is not a GGUF file", "convert_hf_to_gguf.py"]);
    project.run(&["export", "--format", "merged", "--out", "m", "--adapter", "nowhere"]).fails(1, &["nowhere"]);
    assert!(!project.path("m.gguf").exists() && !project.path("m").exists());
    project.write("m.Modelfile", "FROM mine");
    project.run(&["export", "--format", "merged-gguf", "--out", "m.gguf"]).fails(2, &["m.Modelfile", "already exists"]);
    assert_eq!(project.read("m.Modelfile"), "FROM mine");
}
