//! The slow twins: the same operations out of candle's plain, differentiable ones. Oracles in the tests, and what runs on a
//! device for which there is no fused operation.

use candle_core::{D, DType, Result, Tensor};

use super::attention::{Heads, Sequence};
use super::rope::RopeTable;

pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean + eps)?.sqrt()?)?.broadcast_mul(weight)
}

pub(crate) fn silu(x: &Tensor) -> Result<Tensor> {
    x / (x.neg()?.exp()? + 1.0)?
}

pub(crate) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    silu(gate)? * up
}

pub(crate) fn rope(x: &Tensor, table: &RopeTable, positions: &[usize]) -> Result<Tensor> {
    let half = table.half;
    let rows = |all: &[f32]| {
        let picked: Vec<f32> = positions.iter().flat_map(|p| all[p * half..(p + 1) * half].iter().copied()).collect();
        Tensor::from_vec(picked, (positions.len(), 1, half), x.device())
    };
    let (cos, sin) = (rows(&table.cos)?, rows(&table.sin)?);
    let width = x.dim(D::Minus1)?;
    let (a, b) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
    let turned_a = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let turned_b = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    let rest = x.narrow(D::Minus1, 2 * half, width - 2 * half)?;
    if width == 2 * half {
        Tensor::cat(&[turned_a, turned_b], D::Minus1)
    } else {
        Tensor::cat(&[turned_a, turned_b, rest], D::Minus1)
    }
}

pub(crate) fn softmax(x: &Tensor) -> Result<Tensor> {
    let max = x.max_keepdim(D::Minus1)?.detach();
    let exp = x.broadcast_sub(&max)?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}

pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: &Heads, sequences: &[Sequence]) -> Result<Tensor> {
    let group = heads.heads / heads.kv_heads;
    let mut parts = Vec::new();
    for s in sequences {
        let (n, past) = (s.rows.len(), s.prefix.len());
        let all = past + n;
        let own = |x: &Tensor| x.narrow(0, s.rows.start, n)?.transpose(0, 1)?.contiguous();
        let spread = |x: &Tensor, dim: usize| {
            let x = Tensor::cat(&[x.narrow(0, s.prefix.start, past)?, x.narrow(0, s.rows.start, n)?], 0)?;
            let x = x.transpose(0, 1)?.contiguous()?.unsqueeze(1)?;
            x.broadcast_as((heads.kv_heads, group, all, dim))?.reshape((heads.heads, all, dim))?.contiguous()
        };
        let (q, k, v) = (own(q)?, spread(k, heads.dim)?, spread(v, heads.value_dim)?);
        let visible = |i: usize, j: usize| if j <= past + i { 0.0 } else { f32::NEG_INFINITY };
        let mask: Vec<f32> = (0..n).flat_map(|i| (0..all).map(move |j| visible(i, j))).collect();
        let mask = Tensor::from_vec(mask, (1, n, all), q.device())?.to_dtype(DType::F32)?;
        let scores = (q.matmul(&k.t()?.contiguous()?)? * f64::from(heads.scale))?.broadcast_add(&mask)?;
        let out = softmax(&scores)?.matmul(&v)?;
        parts.push(out.transpose(0, 1)?.reshape((n, heads.heads * heads.value_dim))?);
    }
    Tensor::cat(&parts, 0)
}
