//! `finetest plan`: what fits where, and what cannot be said.

use serde_json::Value;

use crate::support::{MANIFEST, Project};

#[test]
fn bases_are_ranked_by_what_fits_and_what_is_needed() {
    let project = Project::bare();
    let ran = project.run(&["plan", "--gpu", "RTX 4060 16GB", "--memory", "16GB", "--gflops", "200"]).expect(0);
    for part in [
        "data     1000 examples, about 300000 tokens, 300 in a long one; English (assumed)",
        "CPU      16.00 GB of memory, 200 GFLOP/s",
        "1.  Llama 3.1 8B Instruct (8.03 B, llama3.1)  hf:meta-llama/Llama-3.1-8B-Instruct",
        "→ QLoRA on RTX 4060",
        "does not fit: ",
        "with TRL, axolotl, Unsloth or LLaMA-Factory",
        " more with --all",
    ] {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
    let plan = |arguments: &[&str]| -> Value {
        let all: Vec<&str> = ["plan", "--json", "--gflops", "200"].iter().chain(arguments).copied().collect();
        serde_json::from_str(&project.run(&all).expect(0).stdout).expect("JSON")
    };
    let first = |json: &Value| json["choices"][0]["name"].as_str().expect("a name").to_owned();
    let many = plan(&["--memory", "32GB", "--languages", "English,Russian,Japanese", "--license", "open"]);
    assert_eq!(first(&many), "Qwen2.5 7B Instruct");
    assert_eq!(first(&plan(&["--memory", "800GB", "--research"])), "DeepSeek-V3");
    let small = plan(&["--memory", "1GB", "--deadline", "2h"]);
    let memory = &small["choices"][0]["advised"]["memory"];
    let parts = ["weights", "adapter", "optimizer", "activations", "head", "rest"];
    let total: u64 = parts.iter().map(|part| memory[*part].as_u64().expect("bytes")).sum();
    assert!((200_000_000..=1_000_000_000).contains(&total), "{memory}");
    let nothing = project.run(&["plan", "--memory", "10MB", "--gflops", "200"]).expect(0);
    assert!(nothing.stdout.contains("No base of the catalogue fits") && nothing.stdout.contains("it fits nowhere"));
}

#[test]
fn the_data_of_a_project_or_a_file_decide() {
    let project = Project::new();
    let ran = project.run(&["plan", "--gflops", "200"]).expect(0);
    assert!(ran.stdout.contains("data     12 examples") && ran.stdout.contains("data/train.jsonl"), "{}", ran.stdout);
    let line = "{\"prompt\": \"Когда открывается библиотека и что нужно взять с собой?\", \"completion\": \"Она открывается в девять, возьмите карточку.\"}\n";
    project.write("ru.jsonl", &line.repeat(20));
    let ran = project.run(&["plan", "--data", "ru.jsonl", "--memory", "64GB", "--gflops", "200"]).expect(0);
    assert!(ran.stdout.contains("; Russian (ru.jsonl)"), "{}", ran.stdout);
    assert!(!ran.stdout.lines().any(|line| line.starts_with("1.") && line.contains("Llama")), "{}", ran.stdout);
}

#[test]
fn what_is_not_known_says_what_is() {
    let project = Project::bare();
    project.run(&["plan", "--gpu", "RTX 4096"]).fails(2, &["RTX 4096", "did you mean RTX 4090?", "A100"]);
    project.run(&["plan", "--memory", "16"]).fails(2, &["16", "expected a size with its unit"]);
    project.run(&["plan", "--deadline", "soon"]).fails(2, &["soon", "90min, 8h or 2d"]);
    project.run(&["plan", "--data", "nowhere.jsonl"]).fails(1, &["nowhere.jsonl"]);
    project.write(
        "mine.toml",
        "[[models]]\nname = \"Mine\"\nsource = \"x\"\nlicence = \"mit\"\nlanguages = \"many\"\nconfig = {}\n",
    );
    project.run(&["plan", "--catalogue", "mine.toml"]).fails(1, &["mine.toml", "\"Mine\" has no source"]);
    project.write("mine.toml", "[[models]]\nname = 3\n");
    project.run(&["plan", "--catalogue", "mine.toml"]).fails(1, &["mine.toml", "line 2"]);
    project.run(&["plan", "--catalogue", "nowhere.toml"]).fails(1, &["nowhere.toml"]);
}

/// The steps of `auto` are those of 4 examples at once, whatever fits.
#[test]
fn auto_computes_as_many_examples_at_once_as_fit_and_learns_the_same() {
    let trained = |micro_batch: &str, expected: &str| {
        let project = Project::new();
        let manifest =
            project.read("finetest.toml").replace("micro_batch_size = 2", &format!("micro_batch_size = {micro_batch}"));
        project.write("finetest.toml", &manifest);
        let checked = project.run(&["check"]).expect(0);
        assert!(checked.stdout.contains(expected), "{}", checked.stdout);
        project.run(&["train", "-q"]).expect(0);
        std::fs::read(project.path("adapters/tiny/adapter_model.safetensors")).expect("an adapter")
    };
    assert_eq!(trained("\"auto\"", "micro-batches of 4"), trained("4", "micro-batches of 4"));
    let project = Project::new();
    for (value, words) in [
        ("\"many\"", ["\"many\"", "a number of examples or \"auto\""]),
        ("-1", ["-1", "a number of examples or \"auto\""]),
        ("0", ["[train] micro_batch_size", "is 0, expected 1 to"]),
    ] {
        project
            .write("finetest.toml", &MANIFEST.replace("micro_batch_size = 2", &format!("micro_batch_size = {value}")));
        project.run(&["train"]).fails(1, &words);
    }
}
