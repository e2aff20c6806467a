//! PEFT and transformers read the adapter that finetest wrote, and compute the same logits with it.
//!
//! Skipped, and says so, only where there is no Python with PEFT: `FINETEST_PYTHON`, else `python3`.

#![expect(clippy::print_stderr, reason = "a test that is skipped says so")]

use std::process::Command;

use crate::support::{self, Project};

const SCRIPT: &str = r#"
import json, sys
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

model, adapter, tokens, out = sys.argv[1:]
base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
peft = PeftModel.from_pretrained(base, adapter).eval()
names = [n for n, _ in peft.named_parameters() if "lora_" in n]
ids = torch.tensor([json.load(open(tokens))])
with torch.no_grad():
    save_file({"logits": peft(input_ids=ids).logits[0].contiguous()}, out)
print(len(names))
"#;

const MERGED: &str = r#"
import json, sys
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

model, tokens, out = sys.argv[1:]
base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()
with torch.no_grad():
    save_file({"logits": base(input_ids=torch.tensor([json.load(open(tokens))])).logits[0].contiguous()}, out)
"#;

fn python() -> String {
    std::env::var("FINETEST_PYTHON").unwrap_or_else(|_| "python3".into())
}

/// Is there a Python with PEFT? Says so when there is not.
fn has_peft() -> bool {
    let known = Command::new(python()).args(["-c", "import peft, transformers, torch"]).output();
    let found = known.is_ok_and(|o| o.status.success());
    if !found {
        eprintln!("skipped: `{}` cannot import peft, transformers and torch", python());
    }
    found
}

/// Runs a script in the project and gives back what it printed.
fn run_python(project: &Project, script: &str, arguments: &[&str]) -> String {
    let output = Command::new(python())
        .args(["-c", script])
        .args(arguments)
        .current_dir(project.path("."))
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Largest difference of two files' logits.
fn apart(project: &Project, one: &str, other: &str) -> f32 {
    let read = |name: &str| {
        let tensors = candle_core::safetensors::load(project.path(name), &candle_core::Device::Cpu).expect("logits");
        tensors["logits"].clone()
    };
    let difference = (&read(one) - &read(other)).and_then(|d| d.abs()?.max_all()?.to_scalar::<f32>());
    difference.expect("a number")
}

const TOKENS: &str = "[5, 17, 99, 200, 301, 44, 7, 8, 150]";

#[test]
fn peft_computes_the_same_logits_with_our_adapter() {
    if !has_peft() {
        return;
    }
    let project = Project::new();
    project.append("finetest.toml", "adapter_dtype = \"f32\"\nlora_alpha = 8\n");
    project.run(&["train"]).expect(0);
    project.write("tokens.json", TOKENS);
    let ours = [
        "logits",
        "model",
        "--adapter",
        "adapters/tiny",
        "--tokens",
        "tokens.json",
        "--out",
        "ours.safetensors",
        "--force",
    ];
    project.run(&ours).expect(0);
    let found = run_python(&project, SCRIPT, &["model", "adapters/tiny", "tokens.json", "theirs.safetensors"]);
    assert_eq!(found, "42", "PEFT found every tensor");
    assert!(apart(&project, "ours.safetensors", "theirs.safetensors") < 1e-4);

    // Merged into one model, transformers alone computes the same.
    project.run(&["export", "--format", "merged", "--dtype", "f32", "--out", "merged"]).expect(0);
    run_python(&project, MERGED, &["merged", "tokens.json", "merged.safetensors"]);
    assert!(apart(&project, "merged.safetensors", "theirs.safetensors") < 1e-4);
}

/// A GGUF base and an adapter, merged: transformers reads configuration, weights and tokenizer.
#[test]
fn transformers_reads_a_model_that_was_merged_out_of_a_gguf() {
    if !has_peft() {
        return;
    }
    let project = Project::new();
    project.write("tokens.json", TOKENS);
    for (family, adapter) in
        [("llama", "llama/adapter"), ("gemma3_text", "adapters/gemma3"), ("gpt2", "adapters/conv1d")]
    {
        std::fs::copy(support::fixture(&format!("{family}/model.gguf")), project.path("m.gguf")).expect("a copy");
        project.write("finetest.toml", &support::MANIFEST.replace("source = \"model\"", "source = \"m.gguf\""));
        let adapter = support::fixture(adapter).display().to_string();
        let export =
            ["export", "--format", "merged", "--dtype", "f32", "--out", "merged", "--force", "--adapter", &adapter];
        project.run(&export).expect(0);
        let ours = [
            "logits",
            "m.gguf",
            "--adapter",
            &adapter,
            "--tokens",
            "tokens.json",
            "--out",
            "ours.safetensors",
            "--force",
        ];
        project.run(&ours).expect(0);
        run_python(&project, MERGED, &["merged", "tokens.json", "theirs.safetensors"]);
        let off = apart(&project, "ours.safetensors", "theirs.safetensors");
        assert!(off < 1e-4, "{family}: {off}");
    }
    project.run(&["logits", "m.gguf", "--text", "two  words 123", "--out", "ours.safetensors", "--force"]).expect(0);
    let text = "from transformers import AutoTokenizer; print(AutoTokenizer.from_pretrained('merged')('two  words 123').input_ids)";
    let ids = run_python(&project, text, &[]);
    project.write("tokens.json", &ids);
    project.run(&["logits", "m.gguf", "--tokens", "tokens.json", "--out", "ids.safetensors"]).expect(0);
    assert_eq!(apart(&project, "ours.safetensors", "ids.safetensors"), 0.0, "the same tokens: {ids}");
}

/// transformers 5 has all experts of a layer in one parameter, so that PEFT there reads the fused form alone.
#[test]
fn peft_reads_experts_that_were_put_together() {
    let five = "import transformers, peft; print(transformers.__version__.split('.')[0] >= '5')";
    if !has_peft() {
        return;
    }
    let project = Project::new();
    if run_python(&project, five, &[]) != "True" {
        eprintln!("skipped: this transformers is older than 5 and has a layer for each expert");
        return;
    }
    project.write("tokens.json", TOKENS);
    for (family, tensors) in [("qwen3_moe", 32), ("qwen2_moe", 32), ("deepseek_v3", 38)] {
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(support::fixture(&format!("{family}/{file}")), project.path("model").join(file))
                .expect("a copy");
        }
        let adapter = support::fixture(&format!("{family}/adapter_fused")).display().to_string();
        let export = ["export", "--format", "peft-fused", "--out", "fused", "--force", "--adapter", &adapter];
        project.run(&export).expect(0);
        let ours = [
            "logits",
            "model",
            "--adapter",
            &adapter,
            "--tokens",
            "tokens.json",
            "--out",
            "ours.safetensors",
            "--force",
        ];
        project.run(&ours).expect(0);
        let found = run_python(&project, SCRIPT, &["model", "fused", "tokens.json", "theirs.safetensors"]);
        let off = apart(&project, "ours.safetensors", "theirs.safetensors");
        assert!(off < 1e-4, "{family}: {off}, {found} tensors");
        assert_eq!(found, tensors.to_string(), "{family}: PEFT found every tensor");
    }
}
