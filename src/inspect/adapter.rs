//! What is in an adapter: how much of its rank it uses, how large it is beside the weights, and which layers stand out.

use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

use super::spectrum::{effective_rank, singular_values};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::model::decoder::weights::Weights;
use crate::model::lora::{self, Adapter, Module};
use crate::model::{ModelFiles, open_outlined, outline};

/// A layer whose change is below this share of the usual one hardly learnt.
const UNDERTRAINED: f64 = 0.02;

/// What is in an adapter.
#[derive(Clone, Debug, Serialize)]
pub struct AdapterInspection {
    /// Rank of its configuration.
    pub r: usize,
    /// alpha of its configuration.
    pub alpha: f64,
    /// The base that it names.
    pub base: String,
    /// Values in it.
    pub parameters: usize,
    /// Every adapted layer, in the order of their names.
    pub layers: Vec<AdaptedLayer>,
    /// Matrices that stand in place of the base's.
    pub replaced: Vec<String>,
    /// Layers that hardly learnt: of zeros, or below a fiftieth of the usual change.
    pub undertrained: Vec<String>,
    /// Layers whose largest direction stands out of their weights: `critical_scale` below 1.
    pub saturated: Vec<String>,
    /// The least `critical_scale` of all layers; `None` without the base's weights.
    pub critical_scale: Option<f64>,
}

/// One layer of an adapter.
#[derive(Clone, Debug, Serialize)]
pub struct AdaptedLayer {
    /// Its path in the model.
    pub layer: String,
    /// Its rank.
    pub rank: usize,
    /// exp of the entropy of its singular values: the directions that it really uses.
    pub effective_rank: f64,
    /// ‖s·B·A‖ of Frobenius.
    pub norm: f64,
    /// The largest singular value of s·B·A.
    pub spectral_norm: f64,
    /// ‖s·B·A‖/‖W‖; `None` without the base's weights.
    pub share_of_weights: Option<f64>,
    /// The multiple of its own scale at which its largest direction stands out of a random matrix with the weights' norm:
    /// ‖W‖/((mn)^¼ σ₁), by Benaych-Georges & Nadakuditi 2012 (arXiv 1103.2221), theorem 2.8. A prior from weights alone, no verdict.
    pub critical_scale: Option<f64>,
}

/// Inspects the adapter at `path` for a base.
///
/// # Errors
/// It cannot be read, or does not fit.
pub fn inspect_adapter(path: &Path, files: &ModelFiles) -> Result<AdapterInspection> {
    let (outline, weights) = if files.weights().is_empty() {
        (outline(files, &ModelConfig::default())?, None)
    } else {
        let (outline, weights) = open_outlined(files)?;
        (outline, Some(weights))
    };
    let adapter = lora::open(path, &outline)?;
    let layers: Vec<AdaptedLayer> = adapter
        .modules
        .par_iter()
        .map(|(path, module)| AdaptedLayer::measure(path, module, weights.as_ref(), outline.transposed()))
        .collect();
    Ok(AdapterInspection::of(&adapter, layers))
}

impl AdapterInspection {
    fn of(adapter: &Adapter, layers: Vec<AdaptedLayer>) -> Self {
        // Layers of other widths are compared by their share of the weights where that is known.
        let size = |layer: &AdaptedLayer| layer.share_of_weights.unwrap_or(layer.norm);
        let mut sizes: Vec<f64> = layers.iter().map(size).collect();
        sizes.sort_by(f64::total_cmp);
        let usual = sizes.get(sizes.len() / 2).copied().unwrap_or(0.0);
        let named = |wanted: &dyn Fn(&&AdaptedLayer) -> bool| -> Vec<String> {
            layers.iter().filter(wanted).map(|layer| layer.layer.clone()).collect()
        };
        let critical = layers.iter().filter_map(|layer| layer.critical_scale);
        Self {
            r: adapter.r,
            alpha: adapter.alpha,
            base: adapter.base.clone(),
            parameters: adapter.parameters(),
            replaced: adapter.saved.keys().cloned().collect(),
            undertrained: named(&|layer| size(layer) <= UNDERTRAINED * usual),
            saturated: named(&|layer| layer.critical_scale.is_some_and(|scale| scale < 1.0)),
            critical_scale: critical.min_by(f64::total_cmp),
            layers,
        }
    }
}

impl AdaptedLayer {
    fn measure(path: &str, module: &Module, weights: Option<&Weights>, transposed: bool) -> Self {
        let values = singular_values(module);
        let norm = values.iter().map(|v| v * v).sum::<f64>().sqrt();
        let spectral_norm = values.first().copied().unwrap_or(0.0);
        let weight = weights.and_then(|weights| norm_of(weights, path, module, transposed));
        let area = module.in_features as f64 * module.out_features as f64;
        Self {
            layer: path.to_owned(),
            rank: module.rank,
            effective_rank: effective_rank(&values),
            norm,
            spectral_norm,
            share_of_weights: weight.filter(|weight| *weight > 0.0).map(|weight| norm / weight),
            critical_scale: weight
                .filter(|_| spectral_norm > 0.0)
                .map(|weight| weight / (area.powf(0.25) * spectral_norm)),
        }
    }
}

/// ‖W‖ of a layer; `None` where it is stored together with others.
fn norm_of(weights: &Weights, path: &str, module: &Module, transposed: bool) -> Option<f64> {
    let [rows, cols] = if transposed && weights.is_safetensors() {
        [module.in_features, module.out_features]
    } else {
        [module.out_features, module.in_features]
    };
    let matrix = weights.matrix(&format!("{path}.weight"), rows, cols).ok()?;
    let mut squares = 0.0;
    matrix.for_blocks(|_, values| squares += values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>());
    Some(squares.sqrt())
}
