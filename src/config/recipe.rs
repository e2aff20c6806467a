//! `[train]`: how to train. Keys are axolotl's; PEFT's, TRL's, LLaMA-Factory's and torchtune's names are accepted as aliases.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What is trained on what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdapterKind {
    /// LoRA on a base of the precision of its file, quantised weights widened to f32 in memory.
    Lora,
    /// LoRA on a base that stays quantised in memory. The default.
    #[default]
    Qlora,
}

/// How the learning rate changes after warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// `lora` or `qlora` (default).
    #[serde(alias = "finetuning_type")]
    pub adapter: AdapterKind,
    /// Rank of the adapter; default 16.
    #[serde(alias = "r", alias = "lora_rank")]
    pub lora_r: usize,
    /// The adapter's product is scaled by `lora_alpha / lora_r`; default 32.
    pub lora_alpha: f64,
    /// Probability of dropping an input of the adapter while training; default 0.
    pub lora_dropout: f64,
    /// Names of linear layers; default all of every block.
    #[serde(alias = "target_modules", alias = "lora_target", alias = "lora_attn_modules")]
    pub lora_target_modules: Option<Vec<String>>,
    /// All linear layers of every block; default true unless `lora_target_modules` is given.
    pub lora_target_linear: Option<bool>,
    /// Longest example in tokens, and the length of a pack; default 512.
    #[serde(alias = "max_length", alias = "cutoff_len", alias = "max_seq_len")]
    pub sequence_len: usize,
    /// Fill packs of `sequence_len` tokens with several examples, each attending only to itself; default false.
    #[serde(alias = "packing", alias = "packed")]
    pub sample_packing: bool,
    /// Examples (or packs) in one forward and backward; default 4.
    #[serde(alias = "per_device_train_batch_size", alias = "batch_size")]
    pub micro_batch_size: usize,
    /// Micro-batches in one optimizer step; default 1.
    pub gradient_accumulation_steps: usize,
    /// Passes over the data; default 1.
    #[serde(alias = "num_train_epochs", alias = "epochs")]
    pub num_epochs: usize,
    /// Stop after this many optimizer steps, whatever `num_epochs` says.
    pub max_steps: Option<usize>,
    /// Highest learning rate; default 2e-4.
    pub learning_rate: f64,
    /// `cosine` (default), `linear` or `constant`.
    #[serde(alias = "lr_scheduler_type")]
    pub lr_scheduler: Scheduler,
    /// Share of the steps over which the learning rate rises from 0; default 0.05. Not together with `warmup_steps`.
    pub warmup_ratio: Option<f64>,
    /// Steps over which the learning rate rises from 0.
    #[serde(alias = "num_warmup_steps")]
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
    #[serde(alias = "train_on_prompt", alias = "train_on_input")]
    pub train_on_inputs: bool,
    /// Share of the training examples held back for validation when `[data] validation` is not given; default 0.1.
    #[serde(alias = "val_size")]
    pub val_set_size: f64,
    /// Seed of the adapter's first values, the order of the examples and dropout; default 42.
    pub seed: u64,
    /// Steps between validations; default: ten in a training.
    pub eval_steps: Option<usize>,
    /// Steps between checkpoints; default: ten in a training.
    pub save_steps: Option<usize>,
    /// Checkpoints kept; default 2.
    pub save_total_limit: usize,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            adapter: AdapterKind::default(),
            lora_r: 16,
            lora_alpha: 32.0,
            lora_dropout: 0.0,
            lora_target_modules: None,
            lora_target_linear: None,
            sequence_len: 512,
            sample_packing: false,
            micro_batch_size: 4,
            gradient_accumulation_steps: 1,
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
        }
    }
}

impl Recipe {
    /// Which layers get an adapter.
    #[must_use]
    pub fn targets(&self) -> TargetModules {
        match &self.lora_target_modules {
            Some(names) if names.as_slice() != ["all-linear"] => TargetModules::Named(names.clone()),
            _ => TargetModules::AllLinear,
        }
    }

    /// Steps of warm-up in a training of `total` steps.
    #[must_use]
    pub fn warmup(&self, total: usize) -> usize {
        self.warmup_steps.unwrap_or_else(|| (self.warmup_ratio.unwrap_or(0.05) * total as f64).ceil() as usize)
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

    pub(super) fn check(&self, path: &Path) -> Result<()> {
        let fail = |message: String| Err(Error::input(path, None, format!("[train] {message}")));
        let counts = [
            ("lora_r", self.lora_r),
            ("sequence_len", self.sequence_len),
            ("micro_batch_size", self.micro_batch_size),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps),
            ("num_epochs", self.num_epochs),
            ("max_steps", self.max_steps.unwrap_or(1)),
            ("eval_steps", self.eval_steps.unwrap_or(1)),
            ("save_steps", self.save_steps.unwrap_or(1)),
            ("save_total_limit", self.save_total_limit),
        ];
        if let Some((key, _)) = counts.iter().find(|(_, n)| *n == 0) {
            return fail(format!("{key} is 0, expected at least 1"));
        }
        let ranges = [
            ("lora_alpha", self.lora_alpha, f64::MIN_POSITIVE, f64::MAX),
            ("lora_dropout", self.lora_dropout, 0.0, 0.99),
            ("learning_rate", self.learning_rate, 0.0, 1.0),
            ("warmup_ratio", self.warmup_ratio.unwrap_or(0.0), 0.0, 1.0),
            ("weight_decay", self.weight_decay, 0.0, 1.0),
            ("adam_beta1", self.adam_beta1, 0.0, 0.999_999),
            ("adam_beta2", self.adam_beta2, 0.0, 0.999_999_9),
            ("adam_epsilon", self.adam_epsilon, f64::MIN_POSITIVE, 1.0),
            ("max_grad_norm", self.max_grad_norm, 0.0, f64::MAX),
            ("val_set_size", self.val_set_size, 0.0, 0.9),
        ];
        if let Some((key, value, low, high)) = ranges.iter().find(|(_, v, low, high)| !(*low..=*high).contains(v)) {
            return fail(format!("{key} is {value}, expected {low:e} to {high:e}"));
        }
        if self.warmup_ratio.is_some() && self.warmup_steps.is_some() {
            return fail("has both warmup_ratio and warmup_steps; give one".into());
        }
        if self.lora_target_linear == Some(true) && matches!(self.targets(), TargetModules::Named(_)) {
            return fail("lora_target_linear = true contradicts lora_target_modules; give one".into());
        }
        if self.lora_target_linear == Some(false) && self.lora_target_modules.is_none() {
            return fail("lora_target_linear = false needs lora_target_modules".into());
        }
        if self.lora_target_modules.as_ref().is_some_and(Vec::is_empty) {
            return fail("lora_target_modules is empty".into());
        }
        Ok(())
    }
}
