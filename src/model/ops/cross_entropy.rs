//! The language-model head and its cross-entropy in one operation: logits exist for a few positions at a time, and the
//! gradient is made together with the loss.

use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::exp::{exp_in_place, max};
use super::matrix::Matrix;
use super::tape::{Tape, apply1};
use super::{frozen, rows_of, slice};

/// Positions whose logits are held at once: 128 × 49 152 × 4 bytes are 25 MB.
const POSITIONS: usize = 128;

struct HeadCrossEntropy {
    head: Matrix,
    targets: Vec<u32>,
    divisor: f32,
    with_gradient: bool,
    /// d loss / d hidden, made by the forward.
    gradient: Mutex<Option<Vec<f32>>>,
}

/// Σᵢ −ln softmax(hiddenᵢ Hᵀ)[targetᵢ] / `divisor`, a scalar, for `hidden` (positions, width) and the head H (vocabulary, width),
/// which is frozen. Differentiable once in `hidden`.
pub(crate) fn head_cross_entropy(
    tape: Option<&Tape>,
    hidden: &Tensor,
    head: &Matrix,
    targets: Vec<u32>,
    divisor: f64,
) -> Result<Tensor> {
    let op = HeadCrossEntropy {
        head: head.clone(),
        targets,
        divisor: divisor as f32,
        with_gradient: tape.is_some_and(|tape| tape.tracks(hidden)),
        gradient: Mutex::new(None),
    };
    apply1(tape, hidden, op)
}

impl HeadCrossEntropy {
    /// Loss of some positions, summed in f64; adds to `gradient` (positions, width) unless it is empty.
    fn positions(&self, hidden: &[f32], targets: &[u32], gradient: &mut [f32]) -> f64 {
        let vocab = self.head.rows;
        let mut logits = vec![0f32; targets.len() * vocab];
        frozen::product(&self.head, hidden, &mut logits);
        let losses: Vec<f64> = logits
            .par_chunks_mut(vocab)
            .zip(targets)
            .map(|(row, target)| {
                let target = *target as usize;
                let at_target = row[target];
                let max = max(row);
                let sum = exp_in_place(row, max);
                if !self.with_gradient {
                    return f64::from(max) + sum.ln() - f64::from(at_target);
                }
                let scale = (1.0 / (sum * f64::from(self.divisor))) as f32;
                row.iter_mut().for_each(|p| *p *= scale);
                row[target] -= 1.0 / self.divisor;
                f64::from(max) + sum.ln() - f64::from(at_target)
            })
            .collect();
        if self.with_gradient {
            frozen::back(&self.head, &logits, gradient);
        }
        losses.iter().sum()
    }
}

impl CustomOp1 for HeadCrossEntropy {
    fn name(&self) -> &'static str {
        "head_cross_entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let hidden = slice(storage, layout)?;
        let (rows, width) = rows_of(layout);
        if rows != self.targets.len() || width != self.head.cols {
            bail!(
                "head_cross_entropy: got hidden {:?} for {} targets of width {}",
                layout.dims(),
                self.targets.len(),
                self.head.cols
            );
        }
        if let Some(target) = self.targets.iter().find(|t| **t as usize >= self.head.rows) {
            bail!("head_cross_entropy: target {target} is outside the vocabulary of {}", self.head.rows);
        }
        let mut gradient = vec![0f32; if self.with_gradient { hidden.len() } else { 0 }];
        let mut loss = 0f64;
        for start in (0..rows).step_by(POSITIONS) {
            let end = (start + POSITIONS).min(rows);
            let gradient = if self.with_gradient { &mut gradient[start * width..end * width] } else { &mut [][..] };
            loss += self.positions(&hidden[start * width..end * width], &self.targets[start..end], gradient);
        }
        if let Ok(mut slot) = self.gradient.lock() {
            *slot = self.with_gradient.then_some(gradient);
        }
        Ok((CpuStorage::F32(vec![(loss / f64::from(self.divisor)) as f32]), Shape::from(())))
    }

    fn bwd(&self, hidden: &Tensor, _loss: &Tensor, d_loss: &Tensor) -> Result<Option<Tensor>> {
        let gradient = self.gradient.lock().ok().and_then(|mut slot| slot.take());
        let Some(gradient) = gradient else {
            bail!("head_cross_entropy: the gradient was already taken; it is made once, with the loss");
        };
        let scale = d_loss.to_scalar::<f32>()?;
        let mut gradient = gradient;
        if scale != 1.0 {
            gradient.iter_mut().for_each(|g| *g *= scale);
        }
        Tensor::from_vec(gradient, hidden.shape(), hidden.device()).map(Some)
    }
}
