//! `[train]`: how to train. Keys are axolotl's; PEFT's, TRL's, LLaMA-Factory's and torchtune's names are accepted as aliases.

use serde::{Deserialize, Deserializer, Serialize};

use super::MOST_TOKENS;
use super::dtype::Bf16;
use super::engine::{self, Engine, Launch};
use super::micro_batch::MicroBatch;
use super::places::Places;
use crate::error::Error;

/// Other names of the keys of `[train]`, from PEFT, TRL, LLaMA-Factory and torchtune, each with the canonical one.
pub(crate) const ALIASES: [(&str, &str); 22] = [
    ("finetuning_type", "adapter"),
    ("r", "lora_r"),
    ("lora_rank", "lora_r"),
    ("target_modules", "lora_target_modules"),
    ("lora_target", "lora_target_modules"),
    ("lora_attn_modules", "lora_target_modules"),
    ("max_length", "sequence_len"),
    ("cutoff_len", "sequence_len"),
    ("max_seq_len", "sequence_len"),
    ("packing", "sample_packing"),
    ("packed", "sample_packing"),
    ("per_device_train_batch_size", "micro_batch_size"),
    ("batch_size", "micro_batch_size"),
    ("enable_activation_checkpointing", "gradient_checkpointing"),
    ("num_train_epochs", "num_epochs"),
    ("epochs", "num_epochs"),
    ("lr_scheduler_type", "lr_scheduler"),
    ("num_warmup_steps", "warmup_steps"),
    ("train_on_prompt", "train_on_inputs"),
    ("train_on_input", "train_on_inputs"),
    ("val_size", "val_set_size"),
    ("early_stopping_steps", "early_stopping_patience"),
];

/// Names that say the opposite: `completion_only_loss = true` is `train_on_inputs = false`.
pub(crate) const INVERSES: [(&str, &str); 2] =
    [("completion_only_loss", "train_on_inputs"), ("disable_gradient_checkpointing", "gradient_checkpointing")];

/// Pairs of keys of which a manifest gives one; an extending manifest's choice takes the place of the extended one's.
pub(super) const ALTERNATIVES: [(&str, &str); 2] =
    [("warmup_ratio", "warmup_steps"), ("lora_target_modules", "lora_target_linear")];

/// What is trained on what. On the same file both are the same computation: the base's weights stay as the file has them, and become
/// f32 where they are multiplied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum AdapterKind {
    /// LoRA, as other tools name it on a base that is not quantised.
    Lora,
    /// LoRA on a base that may be quantised. The default.
    #[default]
    Qlora,
}

/// Precision that the trained adapter is saved in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum AdapterDtype {
    /// Two bytes a value. The default.
    #[default]
    Bf16,
    /// Four bytes a value.
    F32,
}

/// How the learning rate changes after warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Scheduler {
    /// Half a cosine down to 0.
    #[default]
    Cosine,
    /// A straight line down to 0.
    Linear,
    /// No change.
    Constant,
}

/// Which linear layers get an adapter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum TargetModules {
    /// Every linear layer of every block (`all-linear`): not the head, not the embedding.
    #[default]
    AllLinear,
    /// Those whose last name is one of these: `["q_proj", "v_proj"]`.
    Named(Vec<String>),
}

/// `[train]`, with every default filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// Who trains: `finetest` (default), `axolotl`, `trl`, `llamafactory`, or `command`.
    #[serde(skip_serializing_if = "Engine::is_own")]
    pub engine: Engine,
    /// How another trainer is started.
    #[serde(skip_serializing_if = "Launch::is_default")]
    pub launch: Launch,
    /// `lora` or `qlora` (default).
    pub adapter: AdapterKind,
    /// Rank of the adapter; default 16.
    pub lora_r: usize,
    /// The adapter's product is scaled by `lora_alpha / lora_r`; default 32.
    pub lora_alpha: f64,
    /// Probability of dropping an input of the adapter while training; default 0.
    pub lora_dropout: f64,
    /// Names of linear layers, as a list or with commas between them; `all-linear` or `all`, the default, is all of every
    /// block.
    #[serde(deserialize_with = "names")]
    #[cfg_attr(test, schemars(schema_with = "names_schema"))]
    pub lora_target_modules: Option<Vec<String>>,
    /// All linear layers of every block; default true unless `lora_target_modules` is given.
    pub lora_target_linear: Option<bool>,
    /// Longest example in tokens, and the length of a pack; default 512.
    pub sequence_len: usize,
    /// Fill packs of `sequence_len` tokens with several examples, each attending only to itself; default false.
    pub sample_packing: bool,
    /// Examples (or packs) in one forward and backward; default 4. `"auto"`: an optimizer step has the examples that it has with 4,
    /// and as many of them at once as fit into memory.
    pub micro_batch_size: MicroBatch,
    /// Micro-batches in one optimizer step; default 1.
    pub gradient_accumulation_steps: usize,
    /// Keep only each block's input for the backward, which computes the block again: less memory, about a third more time, the
    /// same bytes; default false.
    // A hash of recipes that do not ask for it is what it was before there was the key.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub gradient_checkpointing: bool,
    /// Compute products with the base's weights in bf16, summed in f32: `false` (default), `true`, or `"auto"`, which is `true` on a
    /// processor that has instructions for it.
    #[serde(skip_serializing_if = "Bf16::is_no")]
    pub bf16: Bf16,
    /// Passes over the data; default 1.
    pub num_epochs: usize,
    /// Stop after this many optimizer steps, whatever `num_epochs` says.
    pub max_steps: Option<usize>,
    /// Highest learning rate; default 2e-4.
    pub learning_rate: f64,
    /// `cosine` (default), `linear` or `constant`.
    pub lr_scheduler: Scheduler,
    /// Share of the steps over which the learning rate rises from 0; default 0.05. Not together with `warmup_steps`.
    pub warmup_ratio: Option<f64>,
    /// Steps over which the learning rate rises from 0.
    pub warmup_steps: Option<usize>,
    /// Decoupled weight decay on every adapter tensor; default 0.
    pub weight_decay: f64,
    /// AdamW's β₁; default 0.9.
    pub adam_beta1: f64,
    /// AdamW's β₂; default 0.999.
    pub adam_beta2: f64,
    /// AdamW's ε; default 1e-8.
    pub adam_epsilon: f64,
    /// Largest norm of the whole gradient, larger ones are scaled down; default 1, 0 for none.
    pub max_grad_norm: f64,
    /// Loss on prompts too; default false: on completions only.
    pub train_on_inputs: bool,
    /// Share of the training examples held back for validation when `[data] validation` is not given; default 0.1.
    pub val_set_size: f64,
    /// Seed of the adapter's first values, the order of the examples and dropout; default 42.
    pub seed: u64,
    /// Steps between validations; default: ten in a training.
    pub eval_steps: Option<usize>,
    /// Steps between checkpoints; default: ten in a training.
    pub save_steps: Option<usize>,
    /// Checkpoints kept; default 2.
    pub save_total_limit: usize,
    /// Precision that the trained adapter is saved in: `bf16` (default) or `f32`.
    pub adapter_dtype: AdapterDtype,
    /// Validations in a row that are not better than the best one, after which the training stops; default: none, it goes on to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping_patience: Option<usize>,
    /// Save the adapter of the validation with the least loss, not the last one; default: true with `early_stopping_patience`, else false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_best_model_at_end: Option<bool>,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            engine: Engine::default(),
            launch: Launch::default(),
            adapter: AdapterKind::default(),
            lora_r: 16,
            lora_alpha: 32.0,
            lora_dropout: 0.0,
            lora_target_modules: None,
            lora_target_linear: None,
            sequence_len: 512,
            sample_packing: false,
            micro_batch_size: MicroBatch::default(),
            gradient_accumulation_steps: 1,
            gradient_checkpointing: false,
            bf16: Bf16::default(),
            num_epochs: 1,
            max_steps: None,
            learning_rate: 2e-4,
            lr_scheduler: Scheduler::default(),
            warmup_ratio: None,
            warmup_steps: None,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            train_on_inputs: false,
            val_set_size: 0.1,
            seed: 42,
            eval_steps: None,
            save_steps: None,
            save_total_limit: 2,
            adapter_dtype: AdapterDtype::default(),
            early_stopping_patience: None,
            load_best_model_at_end: None,
        }
    }
}

impl Recipe {
    /// Which layers get an adapter.
    #[must_use]
    pub fn targets(&self) -> TargetModules {
        match &self.lora_target_modules {
            Some(names) if names.as_slice() != [ALL_LINEAR] => TargetModules::Named(names.clone()),
            _ => TargetModules::AllLinear,
        }
    }

    /// Steps of warm-up in a training of `total` steps.
    #[must_use]
    pub fn warmup(&self, total: usize) -> usize {
        self.warmup_steps.unwrap_or_else(|| (self.warmup_ratio.unwrap_or(0.05) * total as f64).ceil() as usize)
    }

    /// Examples (or packs) of an optimizer step.
    #[must_use]
    pub fn examples_per_step(&self) -> usize {
        self.micro_batch_size.examples().saturating_mul(self.gradient_accumulation_steps)
    }

    /// Whether the adapter of the best validation is saved, not the last one.
    #[must_use]
    pub fn keeps_best(&self) -> bool {
        self.load_best_model_at_end.unwrap_or(self.early_stopping_patience.is_some())
    }

    /// What is unusual enough to say aloud.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.num_epochs > 3 {
            let n = self.num_epochs;
            warnings.push(format!("num_epochs is {n}: more than 3 epochs on a small set mostly teach forgetting"));
        }
        if self.learning_rate > 1e-3 {
            let lr = self.learning_rate;
            warnings.push(format!("learning_rate is {lr}: LoRA usually wants 1e-4 to 5e-4"));
        }
        warnings
    }

    pub(super) fn check(&self, places: &Places, errors: &mut Vec<Error>) {
        let mut fail = |key: &str, message: String| errors.push(places.error(&format!("train.{key}"), message));
        let counts = [
            ("lora_r", self.lora_r, MOST_RANK),
            ("sequence_len", self.sequence_len, MOST_TOKENS),
            ("micro_batch_size", self.micro_batch_size.examples(), MOST_EXAMPLES),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps, MOST_EXAMPLES),
            ("num_epochs", self.num_epochs, MOST_COUNT),
            ("max_steps", self.max_steps.unwrap_or(1), MOST_STEPS),
            ("eval_steps", self.eval_steps.unwrap_or(1), MOST_COUNT),
            ("save_steps", self.save_steps.unwrap_or(1), MOST_COUNT),
            ("save_total_limit", self.save_total_limit, MOST_COUNT),
            ("early_stopping_patience", self.early_stopping_patience.unwrap_or(1), MOST_COUNT),
        ];
        for (key, n, most) in counts {
            if !(1..=most).contains(&n) {
                fail(key, format!("is {n}, expected 1 to {most}"));
            }
        }
        if let Some(steps) = self.warmup_steps.filter(|steps| *steps > MOST_COUNT) {
            fail("warmup_steps", format!("is {steps}, expected at most {MOST_COUNT}"));
        }
        let positive = [
            ("lora_alpha", self.lora_alpha),
            ("learning_rate", self.learning_rate),
            ("adam_epsilon", self.adam_epsilon),
        ];
        for (key, value) in positive.iter().filter(|(_, v)| !(v.is_finite() && *v > 0.0)) {
            fail(key, format!("is {value}, expected more than 0"));
        }
        if self.lora_alpha.is_finite() && self.lora_alpha > MOST_ALPHA {
            let scale = self.lora_alpha / self.lora_r.max(1) as f64;
            let alpha = self.lora_alpha;
            fail(
                "lora_alpha",
                format!("is {alpha}, which scales the adapter's product by {scale}; expected at most {MOST_ALPHA}"),
            );
        }
        let shares = [
            ("lora_dropout", self.lora_dropout),
            ("adam_beta1", self.adam_beta1),
            ("adam_beta2", self.adam_beta2),
            ("val_set_size", self.val_set_size),
        ];
        for (key, value) in shares.iter().filter(|(_, v)| !(0.0..1.0).contains(v)) {
            fail(key, format!("is {value}, expected at least 0 and less than 1"));
        }
        let warmup = self.warmup_ratio.unwrap_or(0.0);
        if !(0.0..=1.0).contains(&warmup) {
            fail("warmup_ratio", format!("is {warmup}, expected at least 0 and at most 1"));
        }
        for (key, value) in [("weight_decay", self.weight_decay), ("max_grad_norm", self.max_grad_norm)] {
            if !(value.is_finite() && value >= 0.0) {
                fail(key, format!("is {value}, expected at least 0"));
            }
        }
        self.check_alternatives(&mut fail);
        engine::check(self, &mut fail);
    }

    fn check_alternatives(&self, fail: &mut impl FnMut(&str, String)) {
        if self.warmup_ratio.is_some() && self.warmup_steps.is_some() {
            fail("warmup_steps", "and warmup_ratio are both given; give one".into());
        }
        match (self.lora_target_linear, &self.lora_target_modules) {
            (_, Some(names)) if names.is_empty() || names.iter().any(String::is_empty) => {
                fail("lora_target_modules", "names no layer; leave it out for all linear layers".into());
            }
            (_, Some(names)) if names.len() > 1 && names.iter().any(|n| n == ALL_LINEAR) => {
                fail("lora_target_modules", format!("has {ALL_LINEAR:?} among other names; give it alone"));
            }
            (Some(true), Some(_)) if matches!(self.targets(), TargetModules::Named(_)) => {
                fail("lora_target_linear", "= true contradicts lora_target_modules; give one".into());
            }
            (Some(false), None) => fail("lora_target_linear", "= false needs lora_target_modules".into()),
            _ => {}
        }
    }
}

/// The largest rank: more than any layer has features, and a product of a larger rank is none.
const MOST_RANK: usize = 65_536;
/// Examples of a micro-batch, and micro-batches of a step.
const MOST_EXAMPLES: usize = 1 << 20;
/// Optimizer steps of a training. One of the smallest model takes a millisecond, so these would take hours.
pub(crate) const MOST_STEPS: usize = 10_000_000;
/// Epochs, and steps between checkpoints: above it a number is a slip.
const MOST_COUNT: usize = 1_000_000_000_000;
/// Above it, numbers in f32 run over in the first steps.
const MOST_ALPHA: f64 = 1e9;

/// PEFT's name for all linear layers; LLaMA-Factory's `all` is read as the same.
const ALL_LINEAR: &str = "all-linear";

#[cfg(test)]
fn names_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": ["string", "array"], "items": { "type": "string" } })
}

/// Reads `["q_proj", "v_proj"]`, `"q_proj,v_proj"` or `"all-linear"`.
fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    struct Names;
    impl<'de> serde::de::Visitor<'de> for Names {
        type Value = Option<Vec<String>>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list of names of linear layers, or \"all-linear\"")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(Some(text.split(',').map(|name| name.trim().to_owned()).collect()))
        }

        fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut names = Vec::new();
            while let Some(name) = list.next_element()? {
                names.push(name);
            }
            Ok(Some(names))
        }
    }
    let mut names = deserializer.deserialize_any(Names)?;
    for name in names.iter_mut().flatten().filter(|name| *name == "all") {
        ALL_LINEAR.clone_into(name);
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alias_names_a_key_that_exists() {
        let all = Recipe {
            gradient_checkpointing: true,
            bf16: Bf16::Auto,
            early_stopping_patience: Some(1),
            ..Recipe::default()
        };
        let keys = serde_json::to_value(all).expect("a recipe is plain data");
        for (alias, name) in ALIASES.iter().chain(&INVERSES) {
            assert!(keys.get(name).is_some(), "{name}");
            assert!(keys.get(alias).is_none(), "{alias}");
        }
        for (a, b) in ALTERNATIVES {
            assert!(keys.get(a).is_some() && keys.get(b).is_some(), "{a} {b}");
        }
    }

    #[test]
    fn a_recipe_survives_json() {
        for modules in [None, Some(vec!["q_proj".to_owned()])] {
            for (gradient_checkpointing, bf16) in [(false, Bf16::No), (true, Bf16::Yes), (true, Bf16::Auto)] {
                let lora_target_modules = modules.clone();
                let max_steps = Some(3);
                let recipe =
                    Recipe { lora_target_modules, gradient_checkpointing, bf16, max_steps, ..Recipe::default() };
                let text = serde_json::to_string(&recipe).expect("a recipe is plain data");
                assert_eq!(serde_json::from_str::<Recipe>(&text).expect("its own form"), recipe);
            }
        }
    }

    #[test]
    fn warm_up_is_a_share_of_the_steps_unless_steps_are_given() {
        let recipe = Recipe::default();
        assert_eq!(recipe.warmup(100), 5);
        assert_eq!(recipe.warmup(1), 1);
        assert_eq!(Recipe { warmup_ratio: Some(0.0), ..recipe.clone() }.warmup(100), 0);
        assert_eq!(Recipe { warmup_steps: Some(7), ..recipe }.warmup(100), 7);
    }

    #[test]
    fn many_epochs_and_a_high_learning_rate_are_said_aloud() {
        assert!(Recipe { num_epochs: 3, ..Recipe::default() }.warnings().is_empty());
        let loud = Recipe { num_epochs: 10, learning_rate: 2e-3, ..Recipe::default() };
        assert_eq!(loud.warnings().len(), 2);
    }
}
