//! LoRA adapters: made for a model, read from and written to PEFT's directory form.

mod peft;

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use crate::config::{Recipe, TargetModules};
use crate::error::{Error, Result};
use crate::model::linear::{Linear, LowRank, Pair};
use crate::model::ops::lora::mix;

pub use peft::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};
pub(crate) use peft::{load, read_tensors, save, write_tensors};

/// An adapter in memory: f32 values and what PEFT's `adapter_config.json` says of them.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// Rank.
    pub r: usize,
    /// The product B·A is multiplied by `alpha / r`.
    pub alpha: f64,
    /// Probability of dropping inputs while it was trained.
    pub dropout: f64,
    /// Name of the base model, as `base_model_name_or_path`.
    pub base: String,
    /// By module path (`model.layers.0.self_attn.q_proj`).
    pub(crate) modules: BTreeMap<String, Module>,
}

/// One layer's tensors.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Module {
    /// (r, in), row-major.
    pub(crate) a: Vec<f32>,
    /// (out, r), row-major.
    pub(crate) b: Vec<f32>,
    pub(crate) rank: usize,
    pub(crate) inside: usize,
    pub(crate) outside: usize,
    /// alpha/r, or as a pattern says.
    pub(crate) scale: f64,
}

impl Adapter {
    /// A new adapter as PEFT initialises it: A uniform in ±1/√in (Kaiming with a = √5), B zero. The values depend on the seed and
    /// the module's name alone.
    ///
    /// # Errors
    /// A target that names no linear layer of the model.
    pub(crate) fn initialised<'l>(
        recipe: &Recipe,
        linears: impl Iterator<Item = &'l Linear>,
        base: &str,
    ) -> Result<Self> {
        let targets = recipe.targets();
        let mut modules = BTreeMap::new();
        let mut names: Vec<&str> = Vec::new();
        let linears: Vec<&Linear> = linears.collect();
        for linear in &linears {
            let name = linear.path.rsplit('.').next().unwrap_or_default();
            if !names.contains(&name) {
                names.push(name);
            }
            let chosen = match &targets {
                TargetModules::AllLinear => true,
                TargetModules::Named(wanted) => wanted.iter().any(|w| w == name),
            };
            if chosen {
                modules.insert(linear.path.clone(), Module::initialised(recipe, linear));
            }
        }
        if let TargetModules::Named(wanted) = &targets
            && let Some(unknown) = wanted.iter().find(|w| !names.contains(&w.as_str()))
        {
            let known = names.join(", ");
            return Err(Error::failed(format!(
                "lora_target_modules names `{unknown}`, which no layer of the model is called; there are: {known}"
            )));
        }
        Ok(Self {
            r: recipe.lora_r,
            alpha: recipe.lora_alpha,
            dropout: recipe.lora_dropout,
            base: base.to_owned(),
            modules,
        })
    }

    /// Number of trained values.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.modules.values().map(|m| m.a.len() + m.b.len()).sum()
    }

    /// Does it change nothing: is every product B·A zero?
    #[must_use]
    pub fn is_zero(&self) -> bool {
        let zero = |values: &[f32]| values.iter().all(|v| *v == 0.0);
        self.modules.values().all(|m| m.scale == 0.0 || zero(&m.a) || zero(&m.b))
    }

    /// Tensors for the decoder, the adapter's product multiplied by `factor` besides its own scale.
    pub(crate) fn low_rank(&self, factor: f64) -> Result<LowRank> {
        let pair = |(path, m): (&String, &Module)| {
            let a = Tensor::from_slice(&m.a, (m.rank, m.inside), &Device::Cpu)?;
            let b = Tensor::from_slice(&m.b, (m.outside, m.rank), &Device::Cpu)?;
            Ok((path.clone(), Pair { a, b, scale: m.scale * factor }))
        };
        Ok(LowRank { pairs: self.modules.iter().map(pair).collect::<Result<_>>()? })
    }

    /// Checks that every module exists in the model with these shapes.
    ///
    /// # Errors
    /// The first that does not: the adapter was made for another base.
    pub(crate) fn check_fits<'l>(
        &self,
        path: &std::path::Path,
        linears: impl Iterator<Item = &'l Linear>,
    ) -> Result<()> {
        let shapes: BTreeMap<&str, (usize, usize)> =
            linears.map(|l| (l.path.as_str(), (l.frozen.weight.rows, l.frozen.weight.cols))).collect();
        for (name, module) in &self.modules {
            match shapes.get(name.as_str()) {
                None => {
                    let message =
                        format!("the adapter has `{name}`, which the base model has not: it was made for another base");
                    return Err(Error::model(path, message));
                }
                Some((outside, inside)) if (*outside, *inside) != (module.outside, module.inside) => {
                    let got = format!("[{}, {}] · [{}, {}]", module.outside, module.rank, module.rank, module.inside);
                    let message = format!(
                        "the adapter's `{name}` is {got}, expected an {outside} × {inside} layer: it was made for another base"
                    );
                    return Err(Error::model(path, message));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

impl Module {
    fn initialised(recipe: &Recipe, linear: &Linear) -> Self {
        let (outside, inside, rank) = (linear.frozen.weight.rows, linear.frozen.weight.cols, recipe.lora_r);
        let name = linear.path.bytes().fold(recipe.seed, |hash, byte| mix(hash ^ u64::from(byte)));
        let bound = 1.0 / (inside as f64).sqrt();
        let uniform = |i: usize| (mix(name ^ mix(i as u64)) >> 11) as f64 / (1u64 << 53) as f64;
        let a = (0..rank * inside).map(|i| ((2.0 * uniform(i) - 1.0) * bound) as f32).collect();
        let scale = recipe.lora_alpha / rank as f64;
        Self { a, b: vec![0.0; outside * rank], rank, inside, outside, scale }
    }
}
