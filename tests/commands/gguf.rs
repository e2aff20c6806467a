//! GGUF files through the built binary: an adapter in llama.cpp's form wherever PEFT's directory is taken, and bases that candle does not have.

use std::path::Path;

use crate::support::{self, Project, Ran, fixture};

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
    assert!(run["run"]["proof"]["tuned"]["adapter_effect"].as_f64().expect("a number") > 0.0);
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
    project.run(&[]).fails(1, &["absent.gguf", "no such adapter"]);
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

/// tested against what llama.cpp's own converter made of the same adapter: its B is divided by the rank and multiplied by an alpha of 8, and
/// ours by one of 16.
#[test]
fn an_adapter_of_a_family_that_candle_has_not_is_exported_for_llama_cpp() {
    use candle_core::quantized::gguf_file::Content;
    let project = Project::new();
    let granite = |file: &str| fixture(&format!("llama_cpp_only/granite/{file}"));
    std::fs::copy(granite("model.gguf"), project.path("m.gguf")).expect("a copy");
    project.write("finetest.toml", &support::MANIFEST.replace("source = \"model\"", "source = \"m.gguf\""));
    let adapter = granite("adapter").display().to_string();
    let ran = project.run(&["export", "--format", "gguf-adapter", "--out", "a.gguf", "--adapter", &adapter]).expect(0);
    assert!(ran.stdout.contains("value by value"), "{}", ran.stdout);
    let read = |path: &Path| {
        let mut file = std::fs::File::open(path).expect("a file");
        let content = Content::read(&mut file).expect("a header");
        let names: Vec<String> = content.tensor_infos.keys().cloned().collect();
        let device = candle_core::Device::Cpu;
        let values = |name: &String| {
            let tensor =
                content.tensor(&mut file, name, &device).and_then(|t| t.dequantize(&device)).expect("a tensor");
            (name.clone(), tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("values"))
        };
        names.iter().map(values).collect::<std::collections::BTreeMap<_, _>>()
    };
    let (ours, theirs) = (read(&project.path("a.gguf")), read(&granite("adapter.gguf")));
    assert!(ours.len() == 42 && ours.keys().eq(theirs.keys()));
    for (name, values) in &ours {
        let factor = if name.ends_with("lora_b") { 2.0 } else { 1.0 };
        let same = values.iter().zip(&theirs[name]).all(|(own, other)| factor * own == *other);
        assert!(same, "{name}");
    }
    let ran = project.run(&["export", "--format", "merged-gguf", "--out", "b.gguf", "--adapter", &adapter]);
    ran.fails(1, &["model family `granite` is not known"]);
}

/// llama.cpp's form may lie alone where a training writes: it is somebody's, and the new one would be written over it.
#[test]
fn a_gguf_adapter_that_lies_where_one_is_trained_is_kept() {
    let project = Project::new();
    project.write("adapters/tiny/adapter.gguf", "somebody's");
    let ran = project.run(&["train"]).expect(0);
    assert!(ran.stderr.contains("the adapter that it replaces is kept in .finetest/replaced"), "{}", ran.stderr);
    let kept = std::fs::read_dir(project.path(".finetest/replaced")).expect("kept").flatten().next().expect("one");
    assert_eq!(std::fs::read_to_string(kept.path().join("adapter.gguf")).expect("a text"), "somebody's");
}

/// A tensor's type lies behind its name, its number of dimensions and these: 23 is ggml's IQ4_XS.
#[test]
fn a_gguf_of_a_type_that_candle_has_not_is_told_and_where_it_can_be_used() {
    let project = Project::new();
    let mut bytes = std::fs::read(fixture("llama/model.gguf")).expect("a GGUF");
    let name = b"token_embd.weight";
    let at = bytes.windows(name.len()).position(|window| window == name).expect("it is there") + name.len() + 4 + 16;
    bytes[at..at + 4].copy_from_slice(&23u32.to_le_bytes());
    std::fs::write(project.path("m.gguf"), bytes).expect("written");
    project.write("finetest.toml", &support::MANIFEST.replace("source = \"model\"", "source = \"m.gguf\""));
    let words = [
        "m.gguf",
        "tensor `token_embd.weight` is in IQ4_XS",
        "run and train may use it with --backend llama-cpp",
        "Q4_0",
        "llama-quantize",
    ];
    project.run(&["train"]).fails(1, &words);
}

#[test]
fn a_gguf_of_a_family_that_candle_has_not_is_told_and_where_it_can_be_used() {
    let project = Project::new();
    std::fs::copy(fixture("llama_cpp_only/granite/model.gguf"), project.path("m.gguf")).expect("a copy");
    project.write("finetest.toml", &support::MANIFEST.replace("source = \"model\"", "source = \"m.gguf\""));
    let words = ["m.gguf", "model family `granite` is not known; known are: llama, qwen2", "--backend llama-cpp"];
    project.run(&["train"]).fails(1, &words);
}
