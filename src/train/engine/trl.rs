//! TRL's configuration. Its loss is on all tokens unless the data have prompts and completions, which they have.

use super::yaml::Yaml;
use super::{Job, common, named, shown, targets};
use crate::config::Dtype;

pub(super) fn keys(job: &Job<'_>) -> Vec<(String, Yaml)> {
    let recipe = job.recipe;
    let precise = if recipe.bf16.dtype() == Dtype::Bf16 { "bfloat16" } else { "float32" };
    let mut keys: Vec<(String, Yaml)> = named([
        ("model_name_or_path", Yaml::text(job.model.clone())),
        ("dtype", Yaml::text(precise)),
        // A folder, whose files' names are those of its splits.
        ("dataset_name", Yaml::text(shown(&job.data_folder()))),
        ("dataset_test_split", Yaml::text("validation")),
        ("use_peft", Yaml::Flag(true)),
        ("lora_r", Yaml::Count(recipe.lora_r)),
        ("lora_target_modules", targets(recipe, "all-linear")),
        ("load_in_4bit", Yaml::Flag(recipe.launch.load_in_4bit)),
        ("max_length", Yaml::Count(recipe.sequence_len)),
        ("packing", Yaml::Flag(recipe.sample_packing)),
        ("completion_only_loss", Yaml::Flag(!recipe.train_on_inputs)),
        ("per_device_train_batch_size", Yaml::Count(recipe.micro_batch_size.examples())),
        ("num_train_epochs", Yaml::Count(recipe.num_epochs)),
        ("optim", Yaml::text("adamw_torch")),
        ("save_strategy", Yaml::text("steps")),
        ("eval_strategy", Yaml::text(if job.validates() { "steps" } else { "no" })),
        ("report_to", Yaml::text("none")),
    ])
    .collect();
    keys.extend(common(job));
    keys
}
