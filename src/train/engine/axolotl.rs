//! axolotl's configuration. Its loss is on the assistant's turns, which is said, with the token that ends each.

use serde_json::json;

use super::yaml::Yaml;
use super::{Job, common, named};
use crate::config::TargetModules;

pub(super) fn keys(job: &Job<'_>) -> Vec<(String, Yaml)> {
    let recipe = job.recipe;
    let set = |path: &std::path::Path| {
        json!([{
            "path": path, "ds_type": "json", "type": "chat_template", "field_messages": "messages", "split": "train",
            "roles_to_train": ["assistant"], "train_on_eos": "turn",
        }])
    };
    let mut keys: Vec<(String, Yaml)> = named([
        ("base_model", Yaml::text(job.model.clone())),
        ("datasets", Yaml::Json(set(&job.data()))),
        ("val_set_size", Yaml::Number(0.0)),
        ("chat_template", Yaml::text("tokenizer_default")),
        ("dataset_prepared_path", Yaml::Json(json!(job.directory.join("prepared")))),
        ("adapter", Yaml::text(if recipe.launch.load_in_4bit { "qlora" } else { "lora" })),
        ("load_in_4bit", Yaml::Flag(recipe.launch.load_in_4bit)),
        ("lora_r", Yaml::Count(recipe.lora_r)),
        ("sequence_len", Yaml::Count(recipe.sequence_len)),
        ("sample_packing", Yaml::Flag(recipe.sample_packing)),
        ("train_on_inputs", Yaml::Flag(false)),
        ("micro_batch_size", Yaml::Count(recipe.micro_batch_size.examples())),
        ("num_epochs", Yaml::Count(recipe.num_epochs)),
        ("optimizer", Yaml::text("adamw_torch")),
    ])
    .collect();
    match recipe.targets() {
        TargetModules::AllLinear => keys.push(("lora_target_linear".into(), Yaml::Flag(true))),
        TargetModules::Named(names) => keys.push(("lora_target_modules".into(), Yaml::Json(names.into()))),
    }
    if job.validates() {
        keys.push(("test_datasets".into(), Yaml::Json(set(&job.validation()))));
    }
    if let Some(patience) = recipe.early_stopping_patience {
        keys.push(("early_stopping_patience".into(), Yaml::Count(patience)));
    }
    keys.extend(common(job));
    keys
}
