//! Rotary embeddings: their angles, and how they are stretched for longer contexts.

use std::f64::consts::{PI, TAU};
use std::path::Path;

use crate::error::{Error, Result};

/// Angles of a rotary embedding (Su et al. 2021, arXiv 2104.09864).
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    /// Base of the frequencies.
    pub theta: f64,
    /// Elements of a head that are turned, the first ones.
    pub dim: usize,
    /// Neighbours turn together (2i with 2i+1) instead of halves (i with i + dim/2).
    pub interleaved: bool,
    /// How the frequencies are stretched.
    pub scaling: RopeScaling,
}

/// How the frequencies of rotary embeddings are stretched for longer contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All divided by `factor` (Chen et al. 2023, arXiv 2306.15595).
    Linear {
        /// By how much.
        factor: f64,
    },
    /// Llama 3.1's: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// By how much low frequencies are divided.
        factor: f64,
        /// Wavelengths above `original_context / low_freq_factor` are low.
        low_freq_factor: f64,
        /// Wavelengths below `original_context / high_freq_factor` are high.
        high_freq_factor: f64,
        /// The context of pre-training.
        original_context: usize,
    },
    /// YaRN (Peng et al. 2023, arXiv 2309.00071).
    Yarn(Yarn),
    /// Each frequency divided by its own factor, as GGUF's `rope_freqs.weight` says.
    Factors(Vec<f64>),
}

/// Constants of a YaRN stretching.
#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    /// By how much low frequencies are divided.
    pub factor: f64,
    /// The context of pre-training.
    pub original_context: usize,
    /// Frequencies that turn more often than this over that context are kept.
    pub beta_fast: f64,
    /// Those that turn less often than this are divided.
    pub beta_slow: f64,
    /// The ramp between begins and ends at whole indices.
    pub truncate: bool,
    /// What cos and sin are multiplied by.
    pub magnitude: f64,
}

/// YaRN's 0.1 · `scale` · ln(factor) + 1, and 1 for factors up to 1.
pub(super) fn yarn_magnitude(factor: f64, scale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
}

/// The scale whose [`yarn_magnitude`] is this one.
pub(super) fn yarn_scale(factor: f64, magnitude: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { (magnitude - 1.0) / (0.1 * factor.ln()) }
}

impl Rotary {
    /// Frequencies, `dim / 2` of them, stretched.
    #[must_use]
    pub fn frequencies(&self) -> Vec<f64> {
        let half = self.dim / 2;
        let plain = (0..half).map(|i| self.theta.powf(-(2.0 * i as f64) / self.dim as f64));
        match &self.scaling {
            RopeScaling::None => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|f| f / factor).collect(),
            RopeScaling::Factors(factors) => plain.zip(factors).map(|(f, factor)| f / factor).collect(),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let context = *original_context as f64;
                let stretch = |f: f64| {
                    let wavelength = TAU / f;
                    if wavelength > context / low_freq_factor {
                        f / factor
                    } else if wavelength < context / high_freq_factor {
                        f
                    } else {
                        let ramp = (context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 - ramp) * f / factor + ramp * f
                    }
                };
                plain.map(stretch).collect()
            }
            RopeScaling::Yarn(yarn) => {
                let (low, high) = self.yarn_range(yarn);
                let stretch = |(i, f): (usize, f64)| {
                    let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    f / yarn.factor * ramp + f * (1.0 - ramp)
                };
                plain.enumerate().map(stretch).collect()
            }
        }
    }

    /// Indices between which YaRN goes over from kept to divided frequencies.
    fn yarn_range(&self, yarn: &Yarn) -> (f64, f64) {
        let dim = self.dim as f64;
        let index =
            |turns: f64| dim * (yarn.original_context as f64 / (turns * 2.0 * PI)).ln() / (2.0 * self.theta.ln());
        let (mut low, mut high) = (index(yarn.beta_fast), index(yarn.beta_slow));
        if yarn.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high { (low, high + 0.001) } else { (low, high) }
    }

    /// What cos and sin are multiplied by.
    #[must_use]
    pub fn magnitude(&self) -> f64 {
        match &self.scaling {
            RopeScaling::Yarn(yarn) => yarn.magnitude,
            _ => 1.0,
        }
    }

    pub(super) fn check(&self, path: &Path, head_dim: usize) -> Result<()> {
        if !self.dim.is_multiple_of(2) || self.dim == 0 || self.dim > head_dim {
            let message = format!(
                "{} elements of a head of {head_dim} are turned, expected an even number up to {head_dim}",
                self.dim
            );
            return Err(Error::model(path, message));
        }
        let above_zero = |name: &str, value: f64| {
            if value > 0.0 && value.is_finite() {
                return Ok(());
            }
            Err(Error::model(path, format!("{name} of the rotary embedding is {value}, expected above 0")))
        };
        above_zero("rope_theta", self.theta)?;
        match &self.scaling {
            RopeScaling::None | RopeScaling::Factors(_) => Ok(()),
            RopeScaling::Linear { factor } => above_zero("factor", *factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                above_zero("factor", *factor)?;
                above_zero("low_freq_factor", *low_freq_factor)?;
                above_zero("high_freq_factor", high_freq_factor - low_freq_factor)?;
                above_zero("original_max_position_embeddings", *original_context as f64)
            }
            RopeScaling::Yarn(yarn) => {
                above_zero("factor", yarn.factor)?;
                above_zero("beta_fast", yarn.beta_fast)?;
                above_zero("beta_slow", yarn.beta_slow)?;
                above_zero("attention_factor", yarn.magnitude)?;
                above_zero("original_max_position_embeddings", yarn.original_context as f64)
            }
        }
    }
}
