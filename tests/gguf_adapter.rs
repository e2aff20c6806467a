//! An adapter in llama.cpp's form, wherever PEFT's directory is taken: through the built binary.

mod support;

use support::{Project, Ran, fixture};

const MANIFEST: &str = "[project]\nname = \"tiny\"\n[model]\nsource = \"model.gguf\"\n[adapter]\npath = \"PATH\"\n[gate]\nmin_retention = 0.0\n";

/// A GGUF base, PEFT's adapter of it in `peft`, and what `export` makes of that in `a.gguf`.
fn project() -> Project {
    let project = Project::new();
    std::fs::copy(fixture("llama/model.gguf"), project.path("model.gguf")).expect("a copy");
    std::fs::create_dir_all(project.path("peft")).expect("a directory");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(fixture("llama/adapter").join(file), project.path("peft").join(file)).expect("a copy");
    }
    adapter(&project, "peft");
    project.run(&["export", "--format", "gguf-adapter", "--out", "a.gguf"]).expect(0);
    adapter(&project, "a.gguf");
    project
}

fn adapter(project: &Project, path: &str) {
    project.write("finetest.toml", &MANIFEST.replace("PATH", path));
}

/// Every answer of a run, without what it cost and without names of files.
fn answers(ran: &Ran) -> serde_json::Value {
    let mut all: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    all["run"]["scenarios"].take()
}

#[test]
fn a_gguf_adapter_answers_as_the_peft_directory_that_it_was_made_of() {
    let project = project();
    let ran = project.run(&["--json"]).expect(0);
    let run: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(run["run"]["arms"][1]["adapter"], "a.gguf");
    assert!(run["run"]["proof"]["adapter_effect"].as_f64().expect("a number") > 0.0);
    adapter(&project, "peft");
    assert_eq!(answers(&project.run(&["--json"]).expect(0)), answers(&ran));
    adapter(&project, "a.gguf");
    project.write("finetest.toml", &project.read("finetest.toml").replace("[gate]", "scale = 0.5\n[gate]"));
    project.run(&["--json"]).expect(0);
}

#[test]
fn a_gguf_adapter_s_logits_are_the_peft_directory_s_and_it_is_exported_in_every_form() {
    let project = project();
    let logits = |adapter: &str, out: &str| {
        let out = out.to_owned();
        project.write("ids.json", "[5, 12, 19, 26, 33]");
        project.run(&["logits", "model.gguf", "--tokens", "ids.json", "--adapter", adapter, "--out", &out]).expect(0);
        let bytes = std::fs::read(project.path(&out)).expect("logits");
        let values = safetensors::SafeTensors::deserialize(&bytes).expect("a file");
        let data = values.tensor("logits").expect("logits").data().to_vec();
        data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect::<Vec<f32>>()
    };
    let expected = logits("peft", "one.safetensors");
    let close = |got: Vec<f32>| expected.iter().zip(&got).all(|(a, b)| (a - b).abs() <= 1e-5);
    assert!(close(logits("a.gguf", "two.safetensors")));
    for (form, out) in
        [("peft", "again"), ("gguf-adapter", "again.gguf"), ("merged", "merged"), ("merged-gguf", "m.gguf")]
    {
        project.run(&["export", "--format", form, "--out", out, "--adapter", "a.gguf"]).expect(0);
    }
    assert!(close(logits("again", "three.safetensors")));
    assert!(close(logits("again.gguf", "four.safetensors")));
}

#[test]
fn a_gguf_adapter_is_not_trained_and_not_taken_for_another_file() {
    let project = project();
    let train = "[data]\ntrain = \"data/train.jsonl\"\n[train]\nmax_steps = 1\n";
    project.append("finetest.toml", train);
    project.run(&[]).fails(1, &["[adapter] path is a.gguf, a file", "remove [train]"]);
    adapter(&project, "absent.gguf");
    project.run(&[]).fails(1, &["absent.gguf", "cannot read"]);
    adapter(&project, "peft/adapter_model.safetensors");
    project.run(&[]).fails(1, &["adapter_model.safetensors", "neither a GGUF file nor a directory"]);
    adapter(&project, "model.gguf");
    project.run(&[]).fails(1, &["model.gguf", "`general.type`", "expected `adapter`"]);
}

/// llama.cpp is given the file itself, so that it holds our reading of it to its own.
#[cfg(feature = "llama-cpp")]
#[test]
fn llama_cpp_reads_the_file_itself_and_agrees_with_candle() {
    let project = project();
    project.run(&["crosscheck"]).expect(0);
    let kept = || std::fs::read_dir(project.path(".finetest/llama-cpp")).map_or(0, Iterator::count);
    assert_eq!(kept(), 0, "nothing was converted");
    project.write("finetest.toml", &project.read("finetest.toml").replace("[gate]", "scale = 0.5\n[gate]"));
    project.run(&["crosscheck"]).expect(0);
    assert_eq!(kept(), 1, "a scale is written into a file of ours");
}
