//! Activations of feed-forward layers, alone or multiplied with a second layer (Shazeer 2020, arXiv 2002.05202):
//! y = f(x), or y = f(gate) · up.

use candle_core::cpu::erf::erf_f32;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use super::{for_each_row, rows_of, slice, view};
use crate::model::spec::Activation;
use crate::model::tape::{Tape, apply1, apply2};

/// f(x) and f′(x).
fn value_and_slope(activation: Activation, x: f32) -> (f32, f32) {
    const ROOT_2_OVER_PI: f32 = 0.797_884_6;
    const CUBE: f32 = 0.044_715;
    match activation {
        Activation::Silu => {
            let s = 1.0 / (1.0 + (-x).exp());
            (x * s, s * (1.0 + x * (1.0 - s)))
        }
        Activation::Gelu => {
            let phi = 0.5 * (1.0 + erf_f32(x * std::f32::consts::FRAC_1_SQRT_2));
            (x * phi, phi + x * 0.398_942_3 * (-0.5 * x * x).exp())
        }
        Activation::GeluTanh => {
            let t = (ROOT_2_OVER_PI * (x + CUBE * x * x * x)).tanh();
            let inner = ROOT_2_OVER_PI * (1.0 + 3.0 * CUBE * x * x);
            (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner)
        }
    }
}

fn value(activation: Activation, x: f32) -> f32 {
    value_and_slope(activation, x).0
}

struct Gated(Activation);

/// `f(gate) · up`, both (…, intermediate).
pub(crate) fn gated(tape: Option<&Tape>, activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    apply2(tape, gate, up, Gated(activation))
}

impl CustomOp2 for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (slice(s1, l1)?, slice(s2, l2)?);
        let (_, width) = rows_of(l1);
        let mut out = vec![0f32; gate.len()];
        for_each_row(&mut out, width, |i, out| {
            let rows = gate[i * width..][..width].iter().zip(&up[i * width..][..width]);
            for (out, (g, u)) in out.iter_mut().zip(rows) {
                *out = value(self.0, *g) * u;
            }
        });
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    /// d gate = dy · up · f′(gate), d up = dy · f(gate).
    fn bwd(&self, gate: &Tensor, up: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (g_view, u_view, dy_view) = (view(gate), view(up), view(&dy));
        let (gates, ups, dys) = (g_view.slice()?, u_view.slice()?, dy_view.slice()?);
        let width = gate.dim(candle_core::D::Minus1)?;
        // One row holds d gate, then d up.
        let mut both = vec![0f32; 2 * gates.len()];
        for_each_row(&mut both, 2 * width, |i, row| {
            let at = i * width..(i + 1) * width;
            let (d_gate, d_up) = row.split_at_mut(width);
            let inputs = gates[at.clone()].iter().zip(&ups[at.clone()]).zip(&dys[at]);
            for ((d_gate, d_up), ((g, u), dy)) in d_gate.iter_mut().zip(d_up).zip(inputs) {
                let (value, slope) = value_and_slope(self.0, *g);
                *d_gate = dy * u * slope;
                *d_up = dy * value;
            }
        });
        let (mut d_gate, mut d_up) = (Vec::with_capacity(gates.len()), Vec::with_capacity(gates.len()));
        for row in both.chunks(2 * width) {
            d_gate.extend_from_slice(&row[..width]);
            d_up.extend_from_slice(&row[width..]);
        }
        let tensor = |data| Tensor::from_vec(data, gate.shape(), gate.device());
        Ok((Some(tensor(d_gate)?), Some(tensor(d_up)?)))
    }
}

struct Activate(Activation);

/// `f(x)`, (…, intermediate).
pub(crate) fn activate(tape: Option<&Tape>, activation: Activation, x: &Tensor) -> Result<Tensor> {
    apply1(tape, x, Activate(activation))
}

impl CustomOp1 for Activate {
    fn name(&self) -> &'static str {
        "activate"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(storage, layout)?;
        let (_, width) = rows_of(layout);
        let mut out = vec![0f32; x.len()];
        for_each_row(&mut out, width, |i, out| {
            out.iter_mut().zip(&x[i * width..]).for_each(|(out, x)| *out = value(self.0, *x));
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let (x_view, dy_view) = (view(x), view(&dy));
        let (xs, dys) = (x_view.slice()?, dy_view.slice()?);
        let width = x.dim(candle_core::D::Minus1)?;
        let mut dx = vec![0f32; xs.len()];
        for_each_row(&mut dx, width, |i, dx| {
            let inputs = xs[i * width..].iter().zip(&dys[i * width..]);
            dx.iter_mut().zip(inputs).for_each(|(dx, (x, dy))| *dx = dy * value_and_slope(self.0, *x).1);
        });
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}
