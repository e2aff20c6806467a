//! PEFT and transformers read the adapter that finetest wrote, and compute the same logits with it.
//!
//! Skipped, and says so, only where there is no Python with PEFT: `FINETEST_PYTHON`, else `python3`.

#![expect(clippy::print_stderr, reason = "a test that is skipped says so")]

mod support;

use std::process::Command;

use support::Project;

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

#[test]
fn peft_computes_the_same_logits_with_our_adapter() {
    let known = Command::new(python()).args(["-c", "import peft, transformers, torch"]).output();
    if !known.is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: `{}` cannot import peft, transformers and torch", python());
        return;
    }
    let project = Project::new();
    project.append("finetest.toml", "adapter_dtype = \"f32\"\nlora_alpha = 8\n");
    project.run(&["train"]).expect(0);
    project.write("tokens.json", "[5, 17, 99, 200, 301, 44, 7, 8, 150]");
    let ours =
        ["logits", "model", "--adapter", "adapters/tiny", "--tokens", "tokens.json", "--out", "ours.safetensors"];
    project.run(&ours).expect(0);
    let output = Command::new(python())
        .args(["-c", SCRIPT, "model", "adapters/tiny", "tokens.json", "theirs.safetensors"])
        .current_dir(project.path("."))
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "42", "PEFT found every tensor");
    let read = |name: &str| {
        let tensors = candle_core::safetensors::load(project.path(name), &candle_core::Device::Cpu).expect("logits");
        tensors["logits"].clone()
    };
    let (ours, theirs) = (read("ours.safetensors"), read("theirs.safetensors"));
    let largest = (&ours - &theirs).and_then(|d| d.abs()?.max_all()?.to_scalar::<f32>()).expect("a number");
    assert!(largest < 1e-4, "{largest}");

    // Merged into one model, transformers alone computes the same.
    project.run(&["export", "--format", "merged", "--dtype", "f32", "--out", "merged"]).expect(0);
    let output = Command::new(python())
        .args(["-c", MERGED, "merged", "tokens.json", "merged.safetensors"])
        .current_dir(project.path("."))
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let merged = read("merged.safetensors");
    let largest = (&merged - &theirs).and_then(|d| d.abs()?.max_all()?.to_scalar::<f32>()).expect("a number");
    assert!(largest < 1e-4, "{largest}");
}
