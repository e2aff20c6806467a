//! Layer normalisation (Ba et al. 2016, arXiv 1607.06450): y = w · (x − mean(x)) / √(var(x) + ε) + b.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::tape::{Tape, apply1};
use super::{dot, for_each_row, rows_of, slice, sum, view};

struct LayerNorm {
    weight: Tensor,
    bias: Option<Tensor>,
    eps: f32,
}

/// Normalises the last dimension of `x` (…, width) with `weight` and `bias` (width), which are frozen: no gradient reaches them.
pub(crate) fn layer_norm(
    tape: Option<&Tape>,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    eps: f64,
) -> Result<Tensor> {
    apply1(tape, x, LayerNorm { weight: weight.clone(), bias: bias.cloned(), eps: eps as f32 })
}

/// A row less its mean, and 1/√(var + ε).
fn centred(row: &[f32], eps: f32, out: &mut [f32]) -> f32 {
    let mean = sum(row) / row.len() as f64;
    out.iter_mut().zip(row).for_each(|(out, x)| *out = x - mean as f32);
    1.0 / (dot(out, out) / row.len() as f32 + eps).sqrt()
}

impl CustomOp1 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(storage, layout)?;
        let (_, width) = rows_of(layout);
        let weight = view(&self.weight);
        let weight = weight.slice()?;
        let bias = self.bias.as_ref().map(view);
        let bias = bias.as_ref().map(|b| b.slice()).transpose()?;
        let mut out = vec![0f32; x.len()];
        for_each_row(&mut out, width, |i, out| {
            let scale = centred(&x[i * width..][..width], self.eps, out);
            out.iter_mut().zip(weight).for_each(|(out, w)| *out *= scale * w);
            if let Some(bias) = bias {
                out.iter_mut().zip(bias).for_each(|(out, b)| *out += b);
            }
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    /// With c = x − mean(x), r = 1/√(var(x)+ε), g = w·dy: dx = r·(g − mean(g)) − c·r³·mean(c·g).
    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let (x_view, dy_view, w_view) = (view(x), view(&dy), view(&self.weight));
        let (xs, dys, weight) = (x_view.slice()?, dy_view.slice()?, w_view.slice()?);
        let width = weight.len();
        let mut dx = vec![0f32; xs.len()];
        for_each_row(&mut dx, width, |i, dx| {
            let at = i * width..(i + 1) * width;
            let r = centred(&xs[at.clone()], self.eps, dx);
            let g: Vec<f32> = dys[at].iter().zip(weight).map(|(dy, w)| dy * w).collect();
            let mean = sum(&g) as f32 / width as f32;
            let along = dot(dx, &g) / width as f32 * r * r * r;
            dx.iter_mut().zip(&g).for_each(|(c, g)| *c = r * (g - mean) - *c * along);
        });
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}
