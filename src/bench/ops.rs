//! Every operation beside its reference implementation, at the shapes of SmolLM2-135M, for `benches/ops.rs` alone: operations stay private.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Result, Tensor, Var};

use crate::model::architecture::{Activation, Router, Score};
use crate::model::ops::activation::{activate, gated};
use crate::model::ops::attention::{Heads, Sequence, attention};
use crate::model::ops::bf16;
use crate::model::ops::columns::{Piece, columns};
use crate::model::ops::cross_entropy::head_cross_entropy;
use crate::model::ops::exp;
use crate::model::ops::experts::{Share, combine, route};
use crate::model::ops::few_rows;
use crate::model::ops::gemm::{Mat, MatMut, Write, matmul};
use crate::model::ops::layer_norm::layer_norm;
use crate::model::ops::lora::{Frozen, lora};
use crate::model::ops::matrix::Matrix;
use crate::model::ops::reference;
use crate::model::ops::rms_norm::rms_norm;
use crate::model::ops::rope::{RopeTable, rope};
use crate::model::ops::tape::Tape;
use crate::model::ops::view;
use crate::random::mix;

/// Tokens of a batch.
const ROWS: usize = 256;
const HIDDEN: usize = 576;
const HEADS: usize = 9;
const KV_HEADS: usize = 3;
const HEAD_DIM: usize = 64;
const INTERMEDIATE: usize = 1536;
const VOCABULARY: usize = 49_152;
const RANK: usize = 16;
/// SmolLM2 has no experts; these are of DeepSeek-V2-Lite.
const EXPERTS: usize = 64;
const PER_TOKEN: usize = 6;
const EPS: f64 = 1e-5;

type Fast = Box<dyn Fn(Option<&Tape>, &[Tensor]) -> Result<Tensor>>;
type Slow = Box<dyn Fn(&[Tensor]) -> Result<Tensor>>;

/// An operation and its reference implementation on the same inputs.
pub struct Pair {
    /// The operation's name.
    pub name: &'static str,
    /// Whether it has a backward.
    pub differentiable: bool,
    inputs: Vec<Var>,
    fast: Fast,
    slow: Slow,
}

impl Pair {
    fn new(
        name: &'static str,
        inputs: Vec<Var>,
        fast: impl Fn(Option<&Tape>, &[Tensor]) -> Result<Tensor> + 'static,
        slow: impl Fn(&[Tensor]) -> Result<Tensor> + 'static,
    ) -> Self {
        Self { name, differentiable: true, inputs, fast: Box::new(fast), slow: Box::new(slow) }
    }

    fn tensors(&self) -> Vec<Tensor> {
        self.inputs.iter().map(|v| v.as_tensor().clone()).collect()
    }

    /// The operation's result.
    ///
    /// # Errors
    /// As all of these: what candle refuses.
    pub fn fast(&self) -> Result<Tensor> {
        (self.fast)(None, &self.tensors())
    }

    /// The twin's result.
    ///
    /// # Errors
    /// As [`Self::fast`].
    pub fn slow(&self) -> Result<Tensor> {
        (self.slow)(&self.inputs.iter().map(|v| v.as_tensor().detach()).collect::<Vec<_>>())
    }

    /// Forward and backward of the operation: the gradients of the result's sum.
    ///
    /// # Errors
    /// As [`Self::fast`].
    pub fn fast_gradients(&self) -> Result<Vec<Tensor>> {
        let (tape, inputs) = (Tape::default(), self.tensors());
        inputs.iter().for_each(|input| tape.watch(input));
        let y = (self.fast)(Some(&tape), &inputs)?;
        let dy = y.ones_like()?;
        let mut found = tape.backward(&y, dy)?;
        Ok(inputs.iter().filter_map(|input| found.remove(&input.id())).collect())
    }

    /// Forward and backward of the twin, by candle.
    ///
    /// # Errors
    /// As [`Self::fast`].
    pub fn slow_gradients(&self) -> Result<Vec<Tensor>> {
        let found = (self.slow)(&self.tensors())?.backward()?;
        Ok(self.inputs.iter().filter_map(|input| found.get(input).cloned()).collect())
    }

    /// The largest difference between the two in results and gradients, relative to the largest value of each.
    ///
    /// # Errors
    /// As [`Self::fast`], or results of different shapes.
    pub fn difference(&self) -> Result<f32> {
        let (mut fast, mut slow) = (vec![self.fast()?], vec![self.slow()?]);
        if self.differentiable {
            fast.extend(self.fast_gradients()?);
            slow.extend(self.slow_gradients()?);
        }
        let mut most = if fast.len() == slow.len() { 0f32 } else { f32::INFINITY };
        for (fast, slow) in fast.iter().zip(&slow) {
            let largest = |t: &Tensor| t.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>();
            most = most.max(largest(&(fast - slow)?)? / largest(slow)?.max(1e-3));
        }
        Ok(most)
    }
}

fn values(seed: u64, len: usize) -> Vec<f32> {
    let unit = |i: usize| (mix(seed ^ mix(i as u64)) >> 40) as f32 / (1u64 << 24) as f32;
    (0..len).map(|i| 2.0 * unit(i) - 1.0).collect()
}

fn tensor(seed: u64, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(values(seed, shape.iter().product()), shape, &Device::Cpu)
}

fn var(seed: u64, shape: &[usize]) -> Result<Var> {
    Var::from_tensor(&tensor(seed, shape)?)
}

/// Every operation.
///
/// # Errors
/// What candle refuses.
pub fn pairs() -> Result<Vec<Pair>> {
    let mut pairs = norms()?;
    pairs.extend([rotary()?, attended()?]);
    pairs.extend(feed_forward()?);
    pairs.extend([fused()?, adapted()?]);
    pairs.extend(mixture()?);
    pairs.extend([head()?, product()?, in_bf16()?, decoded("decode-1-row", 1)?, decoded("decode-8-rows", 8)?]);
    pairs.extend([exponentials()?]);
    Ok(pairs)
}

fn norms() -> Result<Vec<Pair>> {
    let (weight, bias) = (tensor(2, &[HIDDEN])?, tensor(3, &[HIDDEN])?);
    let (w, w2, b) = (weight.clone(), weight.clone(), bias.clone());
    Ok(vec![
        Pair::new(
            "rms_norm",
            vec![var(1, &[ROWS, HIDDEN])?],
            move |t, x| rms_norm(t, &x[0], &w, EPS),
            move |x| reference::rms_norm(&x[0], &weight, EPS),
        ),
        Pair::new(
            "layer_norm",
            vec![var(1, &[ROWS, HIDDEN])?],
            {
                let w = w2.clone();
                move |t, x| layer_norm(t, &x[0], &w, Some(&b), EPS)
            },
            move |x| reference::layer_norm(&x[0], &w2, &bias, EPS),
        ),
    ])
}

fn rotary() -> Result<Pair> {
    let frequencies: Vec<f64> = (0..HEAD_DIM / 2).map(|i| 100_000f64.powf(-2.0 * i as f64 / HEAD_DIM as f64)).collect();
    let table = Arc::new(RopeTable::new(&frequencies, 2 * ROWS, 1.0, false));
    let positions = Arc::new((0..ROWS).collect::<Vec<_>>());
    let (slow_table, slow_positions) = (Arc::clone(&table), Arc::clone(&positions));
    Ok(Pair::new(
        "rope",
        vec![var(1, &[ROWS, HEADS, HEAD_DIM])?],
        move |t, x| rope(t, &x[0], &table, &positions),
        move |x| reference::rope(&x[0], &slow_table, &slow_positions),
    ))
}

fn attended() -> Result<Pair> {
    let scale = 1.0 / (HEAD_DIM as f32).sqrt();
    let heads = Heads {
        heads: HEADS,
        kv_heads: KV_HEADS,
        dim: HEAD_DIM,
        value_dim: HEAD_DIM,
        scale,
        window: None,
        slopes: None,
    };
    let sequences = Arc::new(vec![Sequence::alone(0..ROWS)]);
    let (slow_heads, slow_sequences) = (heads.clone(), Arc::clone(&sequences));
    Ok(Pair::new(
        "attention",
        vec![
            var(1, &[ROWS, HEADS, HEAD_DIM])?,
            var(2, &[ROWS, KV_HEADS, HEAD_DIM])?,
            var(3, &[ROWS, KV_HEADS, HEAD_DIM])?,
        ],
        move |t, x| attention(t, &x[0], &x[1], &x[2], heads.clone(), &sequences),
        move |x| reference::attention(&x[0], &x[1], &x[2], &slow_heads, &slow_sequences),
    ))
}

fn feed_forward() -> Result<Vec<Pair>> {
    let shape = [ROWS, INTERMEDIATE];
    let silu = Activation::Silu;
    Ok(vec![
        Pair::new(
            "swiglu",
            vec![var(1, &shape)?, var(2, &shape)?],
            move |t, x| gated(t, silu, &x[0], &x[1]),
            move |x| reference::activate(silu, &x[0])? * &x[1],
        ),
        Pair::new(
            "gelu",
            vec![var(1, &shape)?],
            |t, x| activate(t, Activation::Gelu, &x[0]),
            |x| reference::activate(Activation::Gelu, &x[0]),
        ),
    ])
}

/// Queries, keys and values laid beside each other, keys first.
fn fused() -> Result<Pair> {
    let (q, kv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
    Ok(Pair::new(
        "columns",
        vec![var(1, &[ROWS, q])?, var(2, &[ROWS, 2 * kv])?],
        move |t, x| columns(t, &[&x[0], &x[1]], vec![Piece::of(1, 0, kv), Piece::of(0, 0, q), Piece::of(1, kv, kv)]),
        move |x| Tensor::cat(&[x[1].narrow(1, 0, kv)?, x[0].clone(), x[1].narrow(1, kv, kv)?], 1),
    ))
}

/// The up projection.
fn adapted() -> Result<Pair> {
    let weight = values(4, INTERMEDIATE * HIDDEN);
    let slow = Tensor::from_vec(weight.clone(), (INTERMEDIATE, HIDDEN), &Device::Cpu)?;
    let frozen = Frozen { weight: Matrix::from_values("w", weight, INTERMEDIATE, HIDDEN), bias: None };
    Ok(Pair::new(
        "lora",
        vec![var(1, &[ROWS, HIDDEN])?, var(2, &[RANK, HIDDEN])?, var(3, &[INTERMEDIATE, RANK])?],
        move |t, x| lora(t, &x[0], &frozen, [&x[1], &x[2]], 2.0, None),
        move |x| reference::lora(&x[0], &slow, None, [&x[1], &x[2]], 2.0),
    ))
}

/// The choice of experts, and the sum of what they made.
fn mixture() -> Result<Vec<Pair>> {
    let rule = Router { score: Score::Softmax, correction: false, groups: None, normalize: false, scale: 1.0 };
    let logits = var(1, &[ROWS, EXPERTS])?;
    let routes = route(None, logits.as_tensor(), None, &rule, PER_TOKEN)?;
    let mut inputs = vec![Var::from_tensor(&routes.weights)?];
    let mut places = Vec::new();
    for expert in 0..EXPERTS {
        let (rows, place) = routes.tokens_of(expert, PER_TOKEN);
        if !rows.is_empty() {
            inputs.push(var(expert as u64, &[rows.len(), HIDDEN])?);
            places.push((rows, place));
        }
    }
    let slow_places = places.clone();
    Ok(vec![
        Pair::new(
            "route",
            vec![logits],
            move |t, x| Ok(route(t, &x[0], None, &rule, PER_TOKEN)?.weights),
            |x| {
                let scores = reference::softmax(&x[0])?;
                let chosen = x[0].detach().arg_sort_last_dim(false)?.narrow(1, 0, PER_TOKEN)?.contiguous()?;
                scores.gather(&chosen, 1)
            },
        ),
        Pair::new(
            "combine",
            inputs,
            move |t, x| {
                let shares = places.iter().zip(&x[1..]).map(|((rows, places), values)| Share {
                    rows: rows.clone(),
                    places: places.clone(),
                    values: values.clone(),
                });
                combine(t, &x[0], shares.collect(), HIDDEN)
            },
            move |x| reference::combine(&x[0], &slow_places, &x[1..]),
        ),
    ])
}

fn head() -> Result<Pair> {
    let weight = values(5, VOCABULARY * HIDDEN);
    let slow = Tensor::from_vec(weight.clone(), (VOCABULARY, HIDDEN), &Device::Cpu)?;
    let head = Matrix::from_values("head", weight, VOCABULARY, HIDDEN);
    let targets: Vec<u32> = (0..ROWS).map(|i| (i * 191 % VOCABULARY) as u32).collect();
    let slow_targets = targets.clone();
    // Small, as a norm leaves it for the head, so that no probability is lost to rounding.
    let hidden = Var::from_tensor(&(tensor(1, &[ROWS, HIDDEN])? * 0.1)?)?;
    Ok(Pair::new(
        "head_cross_entropy",
        vec![hidden],
        move |t, x| head_cross_entropy(t, &x[0], &head, targets.clone(), ROWS as f64),
        move |x| reference::head_cross_entropy(&x[0], &slow, &slow_targets, ROWS as f64),
    ))
}

/// The up projection's product alone.
fn product() -> Result<Pair> {
    let (m, n, k) = (ROWS, INTERMEDIATE, HIDDEN);
    let pair = Pair::new(
        "gemm",
        vec![var(1, &[m, k])?, var(2, &[n, k])?],
        move |_, x| {
            let mut out = vec![0f32; m * n];
            let (a, b) = (view(&x[0]), view(&x[1]));
            let (a, b) = (Mat::new(a.slice()?, m, k), Mat::new(b.slice()?, n, k));
            matmul(MatMut::new(&mut out, m, n), Write::Overwrite, 1.0, a, b.t());
            Tensor::from_vec(out, (m, n), &Device::Cpu)
        },
        move |x| {
            let (a, b) = (view(&x[0]), view(&x[1]));
            Tensor::from_vec(reference::product(m, n, k, a.slice()?, b.slice()?), (m, n), &Device::Cpu)
        },
    );
    Ok(Pair { differentiable: false, ..pair })
}

/// The up projection of a few rows: weights as they lie in a Q4_1 file, against the same in f32 by candle.
fn decoded(name: &'static str, rows: usize) -> Result<Pair> {
    let weight = tensor(4, &[INTERMEDIATE, HIDDEN])?;
    let quantised = QTensor::quantize(&weight, GgmlDType::Q4_1)?;
    let slow = quantised.dequantize(&Device::Cpu)?;
    let bytes = quantised.data()?.into_owned();
    let matrix = Matrix::quantised("w", GgmlDType::Q4_1, bytes, INTERMEDIATE, HIDDEN);
    let pair = Pair::new(
        name,
        vec![var(1, &[rows, HIDDEN])?],
        move |_, x| {
            let mut y = vec![0f32; rows * INTERMEDIATE];
            few_rows::product(&matrix, view(&x[0]).slice()?, &mut y);
            Tensor::from_vec(y, (rows, INTERMEDIATE), &Device::Cpu)
        },
        move |x| x[0].matmul(&slow.t()?),
    );
    Ok(Pair { differentiable: false, ..pair })
}

/// The up projection in bf16, weights as they lie in a Q4_1 file, against the rounded values in f32 by candle.
fn in_bf16() -> Result<Pair> {
    let round = |x: &Tensor| x.to_dtype(DType::BF16)?.to_dtype(DType::F32);
    let quantised = QTensor::quantize(&tensor(4, &[INTERMEDIATE, HIDDEN])?, GgmlDType::Q4_1)?;
    let slow = round(&quantised.dequantize(&Device::Cpu)?)?;
    let bytes = quantised.data()?.into_owned();
    let matrix = Matrix::quantised("w", GgmlDType::Q4_1, bytes, INTERMEDIATE, HIDDEN);
    let pair = Pair::new(
        "gemm-bf16",
        vec![var(1, &[ROWS, HIDDEN])?],
        move |_, x| {
            let mut y = vec![0f32; ROWS * INTERMEDIATE];
            bf16::product(&matrix, view(&x[0]).slice()?, &mut y);
            Tensor::from_vec(y, (ROWS, INTERMEDIATE), &Device::Cpu)
        },
        move |x| round(&x[0])?.matmul(&slow.t()?),
    );
    Ok(Pair { differentiable: false, ..pair })
}

/// exp(x − max) of a row of logits, as every softmax has it.
fn exponentials() -> Result<Pair> {
    let pair = Pair::new(
        "exp",
        vec![var(1, &[VOCABULARY])?],
        |_, x| {
            let mut row = view(&x[0]).slice()?.to_vec();
            let largest = exp::max(&row);
            exp::exp_in_place(&mut row, largest);
            Tensor::from_vec(row, VOCABULARY, &Device::Cpu)
        },
        |x| x[0].broadcast_sub(&x[0].max(0)?)?.exp(),
    );
    Ok(Pair { differentiable: false, ..pair })
}
