//! The reference implementation: the same operations out of candle's plain, differentiable ones. Oracles of tests and benches.

use candle_core::{D, Result, Tensor};

use super::attention::{Heads, Sequence};
use super::rope::RopeTable;
use crate::model::architecture::Activation;

pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean + eps)?.sqrt()?)?.broadcast_mul(weight)
}

pub(crate) fn silu(x: &Tensor) -> Result<Tensor> {
    x / (x.neg()?.exp()? + 1.0)?
}

pub(crate) fn activate(activation: Activation, x: &Tensor) -> Result<Tensor> {
    match activation {
        Activation::Silu => silu(x),
        Activation::Gelu => x.gelu_erf(),
        Activation::GeluTanh => x.gelu(),
    }
}

pub(crate) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred.broadcast_div(&(variance + eps)?.sqrt()?)?.broadcast_mul(weight)?.broadcast_add(bias)
}

pub(crate) fn rope(x: &Tensor, table: &RopeTable, positions: &[usize]) -> Result<Tensor> {
    let half = table.half;
    let rows = |values: Vec<f32>| Tensor::from_vec(values, (positions.len(), 1, half), x.device());
    let cos = rows(positions.iter().flat_map(|p| table.at(*p).0.iter().copied()).collect())?;
    let sin = rows(positions.iter().flat_map(|p| table.at(*p).1.iter().copied()).collect())?;
    let width = x.dim(D::Minus1)?;
    if table.interleaved {
        let (tokens, heads, _) = x.dims3()?;
        let pairs = x.reshape((tokens, heads, half, 2))?;
        let (a, b) = (pairs.narrow(3, 0, 1)?.squeeze(3)?, pairs.narrow(3, 1, 1)?.squeeze(3)?);
        let turned_a = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let turned_b = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        return Tensor::stack(&[turned_a, turned_b], 3)?.reshape((tokens, heads, width));
    }
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
        let added = |head: usize, i: usize, j: usize| {
            let place = past + i;
            let seen = j <= place && heads.window.is_none_or(|window| place - j < window);
            let slope = heads.slopes.as_ref().map_or(0.0, |slopes| slopes[head]);
            if seen { slope * (j as f32 - place as f32) } else { f32::NEG_INFINITY }
        };
        let mut mask = Vec::with_capacity(heads.heads * n * all);
        for head in 0..heads.heads {
            (0..n).for_each(|i| mask.extend((0..all).map(|j| added(head, i, j))));
        }
        let mask = Tensor::from_vec(mask, (heads.heads, n, all), q.device())?;
        let scores = (q.matmul(&k.t()?.contiguous()?)? * f64::from(heads.scale))?.broadcast_add(&mask)?;
        let out = softmax(&scores)?.matmul(&v)?;
        parts.push(out.transpose(0, 1)?.reshape((n, heads.heads * heads.value_dim))?);
    }
    Tensor::cat(&parts, 0)
}

pub(crate) fn lora(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, [a, b]: [&Tensor; 2], s: f64) -> Result<Tensor> {
    let low = (x.matmul(&a.t()?)?.matmul(&b.t()?)? * s)?;
    let y = x.matmul(&weight.t()?)?;
    let y = bias.map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))?;
    y + low
}

/// Σ over a token's experts of weight · value; `places` holds each expert's tokens, and in which of their places it stands.
pub(crate) fn combine(weights: &Tensor, places: &[(Vec<u32>, Vec<usize>)], values: &[Tensor]) -> Result<Tensor> {
    let (tokens, per_token) = weights.dims2()?;
    let flat = weights.flatten_all()?;
    let width = values.first().map_or(Ok(0), |v| v.dim(1))?;
    let mut sum = Tensor::zeros((tokens, width), weights.dtype(), weights.device())?;
    for ((rows, places), values) in places.iter().zip(values) {
        let at: Vec<u32> = rows.iter().zip(places).map(|(row, place)| row * per_token as u32 + *place as u32).collect();
        let weights = flat.index_select(&Tensor::new(at, flat.device())?, 0)?.unsqueeze(1)?;
        sum = sum.index_add(&Tensor::new(rows.as_slice(), flat.device())?, &values.broadcast_mul(&weights)?, 0)?;
    }
    Ok(sum)
}

pub(crate) fn head_cross_entropy(hidden: &Tensor, head: &Tensor, targets: &[u32], divisor: f64) -> Result<Tensor> {
    let p = softmax(&hidden.matmul(&head.t()?)?)?;
    let targets = Tensor::new(targets, hidden.device())?.unsqueeze(1)?;
    (p.gather(&targets, 1)?.log()?.sum_all()? * (-1.0 / divisor))?.reshape(())
}

/// a (m, k) times the transpose of b (n, k).
pub(crate) fn product(m: usize, n: usize, k: usize, a: &[f32], b: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            out[i * n + j] = (0..k).map(|p| a[i * k + p] * b[j * k + p]).sum();
        }
    }
    out
}
