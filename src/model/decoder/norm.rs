//! A norm, of whichever kind a family has.

use candle_core::{Result, Tensor};

use crate::model::architecture::NormKind;
use crate::model::ops::layer_norm::layer_norm;
use crate::model::ops::rms_norm::rms_norm;
use crate::model::ops::tape::Tape;

/// A frozen norm over the last dimension.
pub(crate) struct Norm {
    /// Module path.
    pub(crate) path: String,
    /// As it is multiplied: Gemma's 1 is already added.
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
    pub(crate) kind: NormKind,
    pub(crate) eps: f64,
}

impl Norm {
    /// Of `x` (…, width).
    pub(crate) fn forward(&self, tape: Option<&Tape>, x: &Tensor) -> Result<Tensor> {
        match self.kind {
            NormKind::Rms | NormKind::RmsPlusOne => rms_norm(tape, x, &self.weight, self.eps),
            NormKind::Layer { .. } => layer_norm(tape, x, &self.weight, self.bias.as_ref(), self.eps),
        }
    }

    /// Its number of values.
    #[cfg(test)]
    pub(crate) fn parameters(&self) -> usize {
        self.weight.elem_count() + self.bias.as_ref().map_or(0, Tensor::elem_count)
    }
}
