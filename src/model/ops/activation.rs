//! Activations of feed-forward layers, alone or multiplied with a second layer (Shazeer 2020, arXiv 2002.05202):
//! y = f(x), or y = f(gate) · up.

use std::marker::PhantomData;

use candle_core::cpu::erf::erf_f32;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use pulp::{Arch, NullaryFnOnce};

use super::exp::exp;
use super::tape::{Tape, apply1, apply2};
use super::{for_each_row, rows_of, slice, view};
use crate::model::architecture::Activation;

/// An activation, computed for rows at once.
trait Function {
    /// f(x) and f′(x).
    fn value_and_slope(x: f32) -> (f32, f32);
}

struct Silu;
struct Gelu;
struct GeluTanh;

impl Function for Silu {
    #[inline(always)]
    fn value_and_slope(x: f32) -> (f32, f32) {
        let s = 1.0 / (1.0 + exp(-x));
        (x * s, s * (1.0 + x * (1.0 - s)))
    }
}

impl Function for Gelu {
    #[inline(always)]
    fn value_and_slope(x: f32) -> (f32, f32) {
        let phi = 0.5 * (1.0 + erf_f32(x * std::f32::consts::FRAC_1_SQRT_2));
        (x * phi, phi + x * 0.398_942_3 * exp(-0.5 * x * x))
    }
}

impl Function for GeluTanh {
    #[inline(always)]
    fn value_and_slope(x: f32) -> (f32, f32) {
        const ROOT_2_OVER_PI: f32 = 0.797_884_6;
        const CUBE: f32 = 0.044_715;
        let inner = ROOT_2_OVER_PI * (1.0 + 3.0 * CUBE * x * x);
        // (1 + tanh u) / 2 = 1 / (1 + e^−2u)
        let half = 1.0 / (1.0 + exp(-2.0 * ROOT_2_OVER_PI * (x + CUBE * x * x * x)));
        (x * half, half + 2.0 * x * half * (1.0 - half) * inner)
    }
}

/// What a row's values become.
enum Row<'a> {
    /// out = f(x), times up where there is one.
    Value { x: &'a [f32], up: Option<&'a [f32]>, out: &'a mut [f32] },
    /// dx = dy · f′(x)
    Slope { x: &'a [f32], dy: &'a [f32], dx: &'a mut [f32] },
    /// d gate = dy · up · f′(gate), d up = dy · f(gate)
    Gated { gate: &'a [f32], up: &'a [f32], dy: &'a [f32], d_gate: &'a mut [f32], d_up: &'a mut [f32] },
}

impl Row<'_> {
    fn compute(self, activation: Activation) {
        let arch = Arch::new();
        match activation {
            Activation::Silu => arch.dispatch(Task::<Silu>(self, PhantomData)),
            Activation::Gelu => arch.dispatch(Task::<Gelu>(self, PhantomData)),
            Activation::GeluTanh => arch.dispatch(Task::<GeluTanh>(self, PhantomData)),
        }
    }
}

struct Task<'a, F>(Row<'a>, PhantomData<F>);

impl<F: Function> NullaryFnOnce for Task<'_, F> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        match self.0 {
            Row::Value { x, up: None, out } => {
                for (out, x) in out.iter_mut().zip(x) {
                    *out = F::value_and_slope(*x).0;
                }
            }
            Row::Value { x, up: Some(up), out } => {
                for ((out, x), up) in out.iter_mut().zip(x).zip(up) {
                    *out = F::value_and_slope(*x).0 * up;
                }
            }
            Row::Slope { x, dy, dx } => {
                for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
                    *dx = F::value_and_slope(*x).1 * dy;
                }
            }
            Row::Gated { gate, up, dy, d_gate, d_up } => {
                let inputs = gate.iter().zip(up).zip(dy);
                for ((d_gate, d_up), ((gate, up), dy)) in d_gate.iter_mut().zip(d_up).zip(inputs) {
                    let (value, slope) = F::value_and_slope(*gate);
                    *d_gate = dy * up * slope;
                    *d_up = dy * value;
                }
            }
        }
    }
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
            let (x, up) = (&gate[i * width..][..width], Some(&up[i * width..][..width]));
            Row::Value { x, up, out }.compute(self.0);
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
            let (gate, up, dy) = (&gates[at.clone()], &ups[at.clone()], &dys[at]);
            Row::Gated { gate, up, dy, d_gate, d_up }.compute(self.0);
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
            Row::Value { x: &x[i * width..][..width], up: None, out }.compute(self.0);
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
            Row::Slope { x: &xs[i * width..][..width], dy: &dys[i * width..][..width], dx }.compute(self.0);
        });
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}
