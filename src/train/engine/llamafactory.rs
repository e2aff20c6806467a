//! LLaMA-Factory's configuration, and the file that describes data to it. Its loss is on the assistant's turns unless `train_on_prompt`.

use serde_json::json;

use super::yaml::Yaml;
use super::{Job, common, named, shown};
use crate::config::TargetModules;
use crate::error::Result;
use crate::files::write_atomically;

/// Names of the data sets in the description.
const TRAIN: &str = "finetest_train";
const VALIDATION: &str = "finetest_validation";

/// Writes `dataset_info.json`.
pub(super) fn describe(job: &Job<'_>) -> Result<()> {
    let tags = json!({
        "role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant", "system_tag": "system",
    });
    let set = |file: &str| json!({"file_name": file, "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags});
    let info = json!({TRAIN: set("train.jsonl"), VALIDATION: set("validation.jsonl")});
    write_atomically(&job.data_folder().join("dataset_info.json"), info.to_string().as_bytes())
}

pub(super) fn keys(job: &Job<'_>) -> Vec<(String, Yaml)> {
    let recipe = job.recipe;
    let targets = match recipe.targets() {
        TargetModules::AllLinear => "all".to_owned(),
        TargetModules::Named(names) => names.join(","),
    };
    let mut keys: Vec<(String, Yaml)> = named([
        ("model_name_or_path", Yaml::text(job.model.clone())),
        ("stage", Yaml::text("sft")),
        ("do_train", Yaml::Flag(true)),
        ("finetuning_type", Yaml::text("lora")),
        ("lora_rank", Yaml::Count(recipe.lora_r)),
        ("lora_target", Yaml::text(targets)),
        ("dataset_dir", Yaml::text(shown(&job.data_folder()))),
        ("dataset", Yaml::text(TRAIN)),
        ("cutoff_len", Yaml::Count(recipe.sequence_len)),
        ("packing", Yaml::Flag(recipe.sample_packing)),
        ("train_on_prompt", Yaml::Flag(recipe.train_on_inputs)),
        ("per_device_train_batch_size", Yaml::Count(recipe.micro_batch_size.examples())),
        ("num_train_epochs", Yaml::Number(recipe.num_epochs as f64)),
        ("optim", Yaml::text("adamw_torch")),
        ("save_strategy", Yaml::text("steps")),
        ("overwrite_cache", Yaml::Flag(true)),
        ("report_to", Yaml::text("none")),
    ])
    .collect();
    if recipe.launch.load_in_4bit {
        keys.push(("quantization_bit".into(), Yaml::Count(4)));
    }
    if job.validates() {
        keys.extend(named([("eval_dataset", Yaml::text(VALIDATION)), ("eval_strategy", Yaml::text("steps"))]));
    }
    if let Some(patience) = recipe.early_stopping_patience {
        keys.push(("early_stopping_steps".into(), Yaml::Count(patience)));
    }
    keys.extend(common(job));
    keys
}
