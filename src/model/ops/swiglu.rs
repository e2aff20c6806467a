//! The gated activation of SwiGLU feed-forward layers (Shazeer 2020, arXiv 2002.05202): y = silu(gate) · up.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::{for_each_row, rows_of, slice, view};
use crate::model::tape::{Tape, apply2};

struct SwiGlu;

/// `silu(gate) · up`, both (…, intermediate).
pub(crate) fn swiglu(tape: Option<&Tape>, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    apply2(tape, gate, up, SwiGlu)
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (slice(s1, l1)?, slice(s2, l2)?);
        let (_, width) = rows_of(l1);
        let mut out = vec![0f32; gate.len()];
        for_each_row(&mut out, width, |i, out| {
            let rows = gate[i * width..][..width].iter().zip(&up[i * width..][..width]);
            for (out, (g, u)) in out.iter_mut().zip(rows) {
                *out = g * sigmoid(*g) * u;
            }
        });
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    /// With s = σ(gate): d gate = dy·up·s·(1 + gate·(1 − s)), d up = dy·gate·s.
    fn bwd(&self, gate: &Tensor, up: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (g_view, u_view, dy_view) = (view(gate), view(up), view(&dy));
        let (gates, ups, dys) = (g_view.slice()?, u_view.slice()?, dy_view.slice()?);
        let width = gate.dim(candle_core::D::Minus1)?;
        let (mut d_gate, mut d_up) = (vec![0f32; gates.len()], vec![0f32; gates.len()]);
        for_each_row(&mut d_up, width, |i, out| {
            let rows = gates[i * width..][..width].iter().zip(&dys[i * width..][..width]);
            for (out, (g, dy)) in out.iter_mut().zip(rows) {
                *out = dy * g * sigmoid(*g);
            }
        });
        for_each_row(&mut d_gate, width, |i, out| {
            let at = i * width..(i + 1) * width;
            let rows = gates[at.clone()].iter().zip(&ups[at.clone()]).zip(&dys[at]);
            for (out, ((g, u), dy)) in out.iter_mut().zip(rows) {
                let s = sigmoid(*g);
                *out = dy * u * s * (1.0 + g * (1.0 - s));
            }
        });
        let tensor = |data| Tensor::from_vec(data, gate.shape(), gate.device());
        Ok((Some(tensor(d_gate)?), Some(tensor(d_up)?)))
    }
}
