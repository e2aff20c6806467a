//! LoRA adapters: made for a model, read from and written to PEFT's directory form and llama.cpp's GGUF form.

mod config;
pub(crate) mod convert;
pub(crate) mod gguf;
mod keys;
mod null;
mod peft;
pub(crate) mod provenance;
mod targets;
mod vocabulary;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use crate::config::{Recipe, TargetModules};
use crate::error::{Error, Result};
use crate::files::open_regular;
use crate::model::architecture::outline::Outline;
use crate::model::decoder::Decoder;
use crate::model::decoder::linear::Linear;
use crate::model::ops::low_rank::{LoraPair, LowRank};
use crate::model::ops::matrix::Matrix;
use crate::random::{mix, unit};

pub(crate) use convert::Conversion;
pub(crate) use gguf::is_gguf;
pub(crate) use peft::{PREFIX, load, save};
use targets::Targets;
pub(crate) use targets::partial;

/// File of an adapter's hyper-parameters.
pub(crate) const ADAPTER_CONFIG: &str = "adapter_config.json";
/// File of its tensors.
pub(crate) const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

/// An adapter in memory: f32 values and what PEFT's `adapter_config.json` says of them.
#[derive(Clone, Debug)]
pub(crate) struct Adapter {
    /// Rank.
    pub(crate) r: usize,
    /// The product B·A is multiplied by `alpha / r`.
    pub(crate) alpha: f64,
    /// Probability of dropping inputs while it was trained.
    pub(crate) dropout: f64,
    /// Name of the base model, as `base_model_name_or_path`.
    pub(crate) base: String,
    /// The base's revision, where PEFT wrote it down.
    pub(crate) revision: Option<String>,
    /// Where it was read from, for messages; empty for one that was made here.
    pub(crate) path: PathBuf,
    /// The modules that its configuration names.
    pub(crate) targets: Option<Targets>,
    /// By module path (`model.layers.0.self_attn.q_proj`).
    pub(crate) modules: BTreeMap<String, Module>,
    /// Matrices instead of base's (`modules_to_save`), by module path.
    pub(crate) saved: BTreeMap<String, Saved>,
}

/// A matrix instead of base's.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Saved {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

/// One layer's tensors.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Module {
    /// (r, in), row-major.
    pub(crate) a: Vec<f32>,
    /// (out, r), row-major.
    pub(crate) b: Vec<f32>,
    pub(crate) rank: usize,
    pub(crate) in_features: usize,
    pub(crate) out_features: usize,
    /// alpha/r, or as a pattern says.
    pub(crate) scale: f64,
    /// DoRA's length of each row of W + s·B·A (Liu et al. 2024, arXiv 2402.09353), (out).
    pub(crate) magnitude: Option<Vec<f32>>,
    /// What the layer's bias is with the adapter on, (out).
    pub(crate) bias: Option<Vec<f32>>,
}

/// Reads an adapter for `base` in either form: a directory as PEFT writes it, or a GGUF file as llama.cpp does.
///
/// # Errors
/// As [`load`], and whatever does not fit the base.
pub(crate) fn open(path: &Path, base: &Outline) -> Result<Adapter> {
    if is_gguf(path) {
        return gguf::load(path, base);
    }
    if !path.is_dir() {
        open_regular(path)?;
    }
    let adapter = load(path)?;
    adapter.check_fits(base)?;
    Ok(adapter)
}

/// What an adapter's own files say of it, without its tensors: for a person who begins with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Described {
    /// Name of the base model; empty where they do not say.
    pub(crate) base: String,
    /// Rank, where it is written down.
    pub(crate) r: Option<usize>,
}

/// Describes an adapter in either form.
///
/// # Errors
/// It is none, or one of a kind that is not supported.
pub(crate) fn describe(path: &Path) -> Result<Described> {
    if is_gguf(path) {
        return Ok(Described { base: gguf::base_of(path)?, r: None });
    }
    let config = config::PeftConfig::read(path)?;
    Ok(Described { base: config.base, r: Some(config.r) })
}

impl Adapter {
    /// A new adapter as PEFT initialises it: A uniform in ±1/√in (Kaiming with a = √5), B zero. The values depend on the seed and
    /// the module's name alone.
    ///
    /// # Errors
    /// A target that names no linear layer of the model.
    pub(crate) fn initialised(recipe: &Recipe, outline: &Outline, base: &str) -> Result<Self> {
        let targets = recipe.targets();
        let mut modules = BTreeMap::new();
        let mut names: Vec<&str> = Vec::new();
        for (path, shape) in &outline.layers {
            let name = path.rsplit('.').next().unwrap_or_default();
            if !names.contains(&name) {
                names.push(name);
            }
            let chosen = match &targets {
                TargetModules::AllLinear => true,
                TargetModules::Named(wanted) => wanted.iter().any(|w| w == name),
            };
            if chosen {
                modules.insert(path.clone(), Module::initialised(recipe, path, *shape));
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
            revision: None,
            path: PathBuf::new(),
            targets: None,
            modules,
            saved: BTreeMap::new(),
        })
    }

    /// Number of trained values.
    #[must_use]
    pub(crate) fn parameters(&self) -> usize {
        let more = |values: &Option<Vec<f32>>| values.as_ref().map_or(0, Vec::len);
        let modules = self.modules.values().map(|m| m.a.len() + m.b.len() + more(&m.magnitude) + more(&m.bias));
        modules.sum::<usize>() + self.saved.values().map(|saved| saved.values.len()).sum::<usize>()
    }

    /// Does it change nothing: is every product B·A zero?
    #[must_use]
    pub(crate) fn is_zero(&self) -> bool {
        let zero = |values: &[f32]| values.iter().all(|v| *v == 0.0);
        self.saved.is_empty()
            && self.modules.values().all(|m| {
                let nothing_more = m.magnitude.is_none() && m.bias.is_none();
                nothing_more && (m.scale == 0.0 || zero(&m.a) || zero(&m.b))
            })
    }

    /// Tensors for the decoder, the adapter's product multiplied by `factor` besides its own scale.
    pub(crate) fn low_rank(&self, factor: f64) -> Result<LowRank> {
        let pair = |(path, m): (&String, &Module)| {
            let a = Tensor::from_slice(&m.a, (m.rank, m.in_features), &Device::Cpu)?;
            let b = Tensor::from_slice(&m.b, (m.out_features, m.rank), &Device::Cpu)?;
            Ok((path.clone(), LoraPair { a, b, scale: m.scale * factor, row_gain: None, bias: None }))
        };
        Ok(LowRank { pairs: self.modules.iter().map(pair).collect::<Result<_>>()?, embedding: None, head: None })
    }

    /// As [`Self::low_rank`], with what depends on the base's weights: DoRA's lengths and other biases.
    ///
    /// # Errors
    /// As [`Self::check_fits`].
    pub(crate) fn attached(&self, decoder: &Decoder, factor: f64) -> Result<LowRank> {
        self.check_fits(&Outline::of(&decoder.spec))?;
        let mut low_rank = self.low_rank(factor)?;
        for linear in decoder.linears() {
            let (Some(module), Some(pair)) = (self.modules.get(&linear.path), low_rank.pairs.get_mut(&linear.path))
            else {
                continue;
            };
            pair.b = pair.b.t()?.contiguous()?.t()?;
            if let Some(magnitude) = &module.magnitude {
                let lengths = module.lengths(linear, (module.scale * factor) as f32);
                pair.row_gain = Some(magnitude.iter().zip(lengths).map(|(m, length)| m / length).collect());
            }
            if let Some(bias) = &module.bias {
                let own = linear.frozen.bias.as_ref().map(Tensor::to_vec1::<f32>).transpose()?;
                let own = own.unwrap_or_else(|| vec![0.0; bias.len()]);
                pair.bias = Some(bias.iter().zip(own).map(|(new, old)| (new - old) * factor as f32).collect());
            }
        }
        let (embedding, head) = decoder.vocabulary_paths();
        for (path, saved) in &self.saved {
            let (rows, cols) = decoder.vocabulary_shape();
            let known = path == embedding || path == head;
            if !known || saved.shape != [rows, cols] {
                let message = format!(
                    "the adapter's `{path}` of modules_to_save has shape {:?}; only `{embedding}` and `{head}` of shape [{rows}, {cols}] can be replaced",
                    saved.shape
                );
                return Err(self.misfit(message));
            }
            let matrix = Some(Matrix::from_values(path, saved.values.clone(), rows, cols));
            if path == embedding {
                low_rank.embedding = matrix;
            } else {
                low_rank.head = matrix;
            }
        }
        Ok(low_rank)
    }

    /// Checks that every module exists in the model with these shapes, and that whole matrices are of the model's vocabulary.
    ///
    /// # Errors
    /// The first that does not: the adapter was made for another base.
    pub(crate) fn check_fits(&self, outline: &Outline) -> Result<()> {
        for (name, module) in &self.modules {
            match outline.layers.get(name) {
                None if !outline.has_names() => return Err(outline.no_names(&self.path)),
                None => {
                    let message = format!(
                        "the adapter has `{name}`, which the base model does not have: it was made for another base"
                    );
                    return Err(self.misfit(message));
                }
                Some([out_features, in_features])
                    if (*out_features, *in_features) != (module.out_features, module.in_features) =>
                {
                    let got = format!(
                        "[{}, {}] · [{}, {}]",
                        module.out_features, module.rank, module.rank, module.in_features
                    );
                    let message = format!(
                        "the adapter's `{name}` is {got}, expected an {out_features} × {in_features} layer: it was made for another base"
                    );
                    return Err(self.misfit(message));
                }
                Some(_) => {}
            }
        }
        let vocabulary = outline.vocabulary_paths();
        let other = |(path, saved): &(&String, &Saved)| {
            vocabulary.contains(&path.as_str()) && saved.shape.first() != Some(&outline.vocabulary)
        };
        if let Some((path, saved)) = self.saved.iter().find(other) {
            let (shape, rows) = (&saved.shape, outline.vocabulary);
            let message = format!(
                "the adapter's `{path}` of modules_to_save has shape {shape:?}, and the base's vocabulary has {rows} rows: it was \
                 made for another base, or for this one with more tokens; give [model] the base that it was trained on"
            );
            return Err(self.misfit(message));
        }
        Ok(())
    }

    /// An error that names the adapter.
    fn misfit(&self, message: String) -> Error {
        if self.path.as_os_str().is_empty() { Error::failed(message) } else { Error::model(&self.path, message) }
    }
}

/// What the random values of a module depend on: a seed and the module's name.
fn named(seed: u64, path: &str) -> u64 {
    path.bytes().fold(seed, |hash, byte| mix(hash ^ u64::from(byte)))
}

/// The i-th random value of a module, uniform in ±`bound`.
fn uniform(name: u64, i: usize, bound: f64) -> f32 {
    ((2.0 * unit(mix(name ^ mix(i as u64))) - 1.0) * bound) as f32
}

impl Module {
    /// ‖row of W + s·B·A‖₂, row by row.
    fn lengths(&self, linear: &Linear, scale: f32) -> Vec<f32> {
        let mut lengths = Vec::with_capacity(self.out_features);
        linear.frozen.weight.for_blocks(|rows, block| {
            for (row, w) in rows.zip(block.chunks(self.in_features)) {
                let mut sum = w.to_vec();
                for (b, a) in self.b[row * self.rank..(row + 1) * self.rank].iter().zip(self.a.chunks(self.in_features))
                {
                    sum.iter_mut().zip(a).for_each(|(sum, a)| *sum += scale * b * a);
                }
                lengths.push(sum.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt() as f32);
            }
        });
        lengths
    }

    fn initialised(recipe: &Recipe, path: &str, [out_features, in_features]: [usize; 2]) -> Self {
        let rank = recipe.lora_r;
        let name = named(recipe.seed, path);
        let bound = 1.0 / (in_features as f64).sqrt();
        let a = (0..rank * in_features).map(|i| uniform(name, i, bound)).collect();
        let scale = recipe.lora_alpha / rank as f64;
        Self {
            a,
            b: vec![0.0; out_features * rank],
            rank,
            in_features,
            out_features,
            scale,
            magnitude: None,
            bias: None,
        }
    }
}

#[cfg(test)]
mod tests;
