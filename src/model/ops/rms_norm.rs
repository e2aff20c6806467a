//! Root-mean-square normalisation (Zhang & Sennrich 2019, arXiv 1910.07467): y = w · x / √(mean(x²) + ε).

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::tape::{Tape, apply1};
use super::{dot, for_each_row, rows_of, slice, view};

struct RmsNorm {
    weight: Tensor,
    eps: f32,
}

/// Normalises the last dimension of `x` (…, width) with `weight` (width), which is frozen: no gradient reaches it.
pub(crate) fn rms_norm(tape: Option<&Tape>, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    apply1(tape, x, RmsNorm { weight: weight.clone(), eps: eps as f32 })
}

fn inverse_rms(row: &[f32], eps: f32) -> f32 {
    1.0 / (dot(row, row) / row.len() as f32 + eps).sqrt()
}

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(storage, layout)?;
        let (_, width) = rows_of(layout);
        let view = view(&self.weight);
        let weight = view.slice()?;
        let mut out = vec![0f32; x.len()];
        for_each_row(&mut out, width, |i, out| {
            let row = &x[i * width..][..width];
            let scale = inverse_rms(row, self.eps);
            for ((out, x), w) in out.iter_mut().zip(row).zip(weight) {
                *out = x * scale * w;
            }
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    /// With g = w·dy and r = 1/√(mean(x²)+ε): dx = r·g − x·r³·mean(x·g).
    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let (x_view, dy_view, w_view) = (view(x), view(&dy), view(&self.weight));
        let (xs, dys, weight) = (x_view.slice()?, dy_view.slice()?, w_view.slice()?);
        let width = weight.len();
        let mut dx = vec![0f32; xs.len()];
        for_each_row(&mut dx, width, |i, dx| {
            let (x, dy) = (&xs[i * width..][..width], &dys[i * width..][..width]);
            let r = inverse_rms(x, self.eps);
            for ((dx, dy), w) in dx.iter_mut().zip(dy).zip(weight) {
                *dx = dy * w;
            }
            let along = dot(x, dx) / width as f32 * r * r * r;
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = *dx * r - x * along;
            }
        });
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}
