//! Keys of other trainers' recipes that need nothing here, or belong elsewhere: a recipe that is pasted from axolotl says what is meant.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::message::line_at;
use crate::error::{Error, Result};

/// Keys of a recipe that change nothing here, with why. A key that ends with `*` stands for all that begin so.
const WITHOUT_EFFECT: [(&str, &str); 22] = [
    ("load_in_4bit", "the base is used in the precision of its file; name a quantised GGUF for less memory"),
    ("load_in_8bit", "the base is used in the precision of its file; name a quantised GGUF for less memory"),
    ("flash_attention", "finetest has one attention"),
    ("flash_attn", "finetest has one attention"),
    ("sdp_attention", "finetest has one attention"),
    ("xformers_attention", "finetest has one attention"),
    ("s2_attention", "finetest has one attention"),
    ("tf32", "it is for GPUs"),
    ("fp16", "the adapter is trained in f32"),
    ("pad_to_sequence_len", "nothing is padded"),
    ("group_by_length", "nothing is padded"),
    ("logging_steps", "every step is in trainer_state.json"),
    ("strict", "unknown keys are errors"),
    ("dataset_prepared_path", "tokens are not kept on the disk"),
    ("dataset_processes", "examples are tokenised at once"),
    ("dataloader_num_workers", "examples are held in memory"),
    ("model_type", "it is in the model's configuration"),
    ("tokenizer_type", "it is in the model's files"),
    ("trust_remote_code", "finetest runs no code of a model"),
    ("wandb_*", "finetest reports to no service"),
    ("mlflow_*", "finetest reports to no service"),
    ("deepspeed", "finetest trains on one CPU"),
];

/// Keys of a recipe that have another place in a manifest.
const ELSEWHERE: [(&str, &str); 7] = [
    ("base_model", "[model] source"),
    ("model_name_or_path", "[model] source"),
    ("chat_template", "[model] chat_template, a Jinja file"),
    ("datasets", "[data] train, a path"),
    ("dataset", "[data] train, a path"),
    ("test_datasets", "[data] validation, a path"),
    ("output_dir", "[adapter] path"),
];

/// Takes keys without effect out of `[train]`, and says so.
///
/// # Errors
/// A key that belongs elsewhere, or asks for what finetest does not have; all together.
pub(super) fn without_effect(path: &Path, text: &str, train: &mut DeTable<'_>) -> Result<Vec<String>> {
    let (mut notes, mut errors) = (Vec::new(), Vec::new());
    let names: Vec<String> = train.keys().map(|key| key.get_ref().to_string()).collect();
    for name in names {
        let known = WITHOUT_EFFECT.iter().find(|(key, _)| match key.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => *key == name,
        });
        if let Some((_, why)) = known {
            train.remove(name.as_str());
            notes.push(format!("[train] {name} has no effect: {why}"));
        } else if let Some((_, place)) = ELSEWHERE.iter().find(|(key, _)| *key == name) {
            let line = train.get_key_value(name.as_str()).map(|(key, _)| line_at(text, &key.span()));
            errors.push(Error::input(path, line, format!("[train] {name} belongs to {place}")));
        }
    }
    optimizer(path, text, train, &mut errors);
    checkpointing(train, &mut notes);
    // A table gives its keys in no order of the file.
    errors.sort_by_key(ToString::to_string);
    notes.sort();
    Error::collect(errors)?;
    Ok(notes)
}

/// There is one optimizer, AdamW, which other tools have under several names.
fn optimizer(path: &Path, text: &str, train: &mut DeTable<'_>, errors: &mut Vec<Error>) {
    for name in ["optimizer", "optim"] {
        let Some((key, value)) = train.remove_entry(name) else { continue };
        let is_adamw = matches!(value.get_ref(), DeValue::String(optimizer) if optimizer.contains("adamw"));
        if !is_adamw {
            let message = format!("[train] {name} is another than AdamW, the only one here; take the key out");
            errors.push(Error::input(path, line_at(text, &key.span()), message));
        }
    }
}

/// Unsloth's and axolotl's `"unsloth"` and `"offload"` are ways to keep less; here there is one.
fn checkpointing(train: &mut DeTable<'_>, notes: &mut Vec<String>) {
    let Some((key, value)) = train.remove_entry("gradient_checkpointing") else { return };
    let value = match value.get_ref() {
        DeValue::String(way) if ["unsloth", "offload"].contains(&way.as_ref()) => {
            notes.push(format!("[train] gradient_checkpointing = {way:?} is taken for true"));
            Spanned::new(value.span(), DeValue::Boolean(true))
        }
        _ => value,
    };
    train.insert(key, value);
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    fn load(keys: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("finetest.toml");
        let text = format!("[model]\nsource = \"m\"\n[data]\ntrain = \"t\"\n[train]\n{keys}");
        std::fs::write(&path, text).expect("a file");
        Config::load(&path).map_err(|error| error.to_string().replace(&format!("{}:", path.display()), ""))
    }

    #[test]
    fn keys_that_need_nothing_are_taken_and_said_so() {
        let config = load(
            "load_in_4bit = true\nflash_attention = true\nwandb_project = \"x\"\nadapter = \"qlora\"\n\
             optimizer = \"adamw_bnb_8bit\"\ngradient_checkpointing = \"unsloth\"\nlora_r = 8\n",
        )
        .expect("a manifest");
        assert_eq!(
            config.notes,
            [
                "[train] flash_attention has no effect: finetest has one attention",
                "[train] gradient_checkpointing = \"unsloth\" is taken for true",
                "[train] load_in_4bit has no effect: the base is used in the precision of its file; name a quantised GGUF for less memory",
                "[train] wandb_project has no effect: finetest reports to no service",
            ]
        );
        assert!(config.recipe.is_some_and(|recipe| recipe.gradient_checkpointing && recipe.lora_r == 8));
    }

    #[test]
    fn keys_of_another_place_and_other_optimizers_are_told_all_at_once() {
        let message = load("base_model = \"a/b\"\noptimizer = \"lion\"\ndatasets = []\n").expect_err("three problems");
        assert!(message.starts_with("3 problems"), "{message}");
        for expected in [
            "6: [train] base_model belongs to [model] source",
            "7: [train] optimizer is another than AdamW",
            "8: [train] datasets belongs to [data] train",
        ] {
            assert!(message.contains(expected), "{message}");
        }
    }
}
