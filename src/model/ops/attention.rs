//! Causal grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245) over a ragged batch: several sequences lie one after
//! another in the rows of q, k and v, and none sees another. Sequences that begin alike may share the rows of their beginning.
//!
//! softmax(q kᵀ · scale) v, per sequence and head; scores exist only for one block of queries at a time.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::exp::{exp_in_place, max};
use super::few_rows::{self, Strided};
use super::gemm::{Mat, MatMut, Write, matmul_single};
use super::tape::{Tape, apply3};
use super::{dot, slice, view};

/// Queries whose scores are held at once.
const BLOCK: usize = 128;

/// Shape of an attention: `heads` queries share `kv_heads` keys and values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Heads {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    /// Width of a query and of a key.
    pub(crate) dim: usize,
    /// Width of a value.
    pub(crate) value_dim: usize,
    /// What scores are multiplied by, usually 1/√dim.
    pub(crate) scale: f32,
    /// Tokens that a query sees, its own among them; `None` for all before it.
    pub(crate) window: Option<usize>,
    /// ALiBi's slope of each head: `slope · (key's place − query's place)` is added to a score.
    pub(crate) slopes: Option<Arc<Vec<f32>>>,
}

/// Slopes of ALiBi for any number of heads, as its authors' code has them: powers of 2^(−max_bias/n) for the next smaller power
/// of two n, then every other one of those for 2n.
pub(crate) fn alibi_slopes(heads: usize, max_bias: f64) -> Vec<f32> {
    let next = heads.next_power_of_two();
    let slope = |i: usize| (-(i as f64) * max_bias / next as f64).exp2() as f32;
    if next == heads {
        return (1..=heads).map(slope).collect();
    }
    let (even, odd) = ((2..=next).step_by(2), (1..=next).step_by(2));
    even.chain(odd).take(heads).map(slope).collect()
}

impl Heads {
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

/// One sequence in the rows of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sequence {
    /// Its own rows.
    pub(crate) rows: Range<usize>,
    /// Rows of another sequence that this one continues from, seen by all of its own; empty for none.
    pub(crate) prefix: Range<usize>,
}

impl Sequence {
    /// A sequence that shares nothing.
    pub(crate) fn alone(rows: Range<usize>) -> Self {
        Self { rows, prefix: 0..0 }
    }

    /// Its keys or values: `all` where they lie when there is no prefix, else copied behind the prefix's.
    fn gather<'a>(&self, all: &'a [f32], stride: usize) -> Cow<'a, [f32]> {
        let own = &all[self.rows.start * stride..self.rows.end * stride];
        if self.prefix.is_empty() {
            return own.into();
        }
        [&all[self.prefix.start * stride..self.prefix.end * stride], own].concat().into()
    }
}

/// One sequence's keys and values for one layer: rows of `kv_heads · dim`.
pub(crate) struct Keys<'a> {
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
    pub(crate) len: usize,
}

impl Keys<'_> {
    fn k(&self, heads: &Heads, kv: usize, rows: Range<usize>) -> Mat<'_> {
        let stride = heads.kv_heads * heads.dim;
        Mat::strided(&self.k[rows.start * stride + kv * heads.dim..], rows.len(), heads.dim, stride)
    }

    fn k_rows(&self, heads: &Heads, kv: usize) -> Strided<'_> {
        let (stride, width) = (heads.kv_heads * heads.dim, heads.dim);
        Strided { data: &self.k[kv * width..], stride, rows: self.len, width }
    }

    fn v_rows(&self, heads: &Heads, kv: usize) -> Strided<'_> {
        let (stride, width) = (heads.kv_heads * heads.value_dim, heads.value_dim);
        Strided { data: &self.v[kv * width..], stride, rows: self.len, width }
    }

    fn v(&self, heads: &Heads, kv: usize, rows: Range<usize>) -> Mat<'_> {
        let stride = heads.kv_heads * heads.value_dim;
        Mat::strided(&self.v[rows.start * stride + kv * heads.value_dim..], rows.len(), heads.value_dim, stride)
    }
}

/// Which of a head's scores count, and what is added to them.
#[derive(Clone, Copy)]
struct Mask {
    window: Option<usize>,
    slope: f32,
}

impl Heads {
    fn mask(&self, head: usize) -> Mask {
        Mask { window: self.window, slope: self.slopes.as_ref().map_or(0.0, |slopes| slopes[head]) }
    }
}

/// Turns rows of scores into probabilities; row i is the query at place `offset + i` and sees the keys up to its own place, as
/// far back as the window reaches; the others get 0.
fn causal_softmax(scores: &mut [f32], keys: usize, offset: usize, mask: Mask) {
    for (i, row) in scores.chunks_mut(keys).enumerate() {
        let place = offset + i;
        let (row, hidden) = row.split_at_mut((place + 1).min(keys));
        let first = mask.window.map_or(0, |window| (place + 1).saturating_sub(window)).min(row.len());
        let (past, seen) = row.split_at_mut(first);
        past.fill(0.0);
        if mask.slope != 0.0 {
            for (j, s) in seen.iter_mut().enumerate() {
                *s -= mask.slope * (place - (first + j)) as f32;
            }
        }
        let largest = max(seen);
        let inverse = (1.0 / exp_in_place(seen, largest)) as f32;
        seen.iter_mut().for_each(|s| *s *= inverse);
        hidden.fill(0.0);
    }
}

/// Attention of one sequence's `queries` new rows (`q`: rows of `heads · dim`), which are the last of `keys.len` positions,
/// for the heads that share key `kv`. Returns `(queries, group · value_dim)`.
pub(crate) fn attend(q: &[f32], queries: usize, keys: &Keys<'_>, heads: &Heads, kv: usize) -> Vec<f32> {
    let (group, q_stride, width) = (heads.group(), heads.heads * heads.dim, heads.group() * heads.value_dim);
    let past = keys.len - queries;
    let mut out = vec![0f32; queries * width];
    let mut scores = Vec::new();
    if queries == 1 {
        scores.resize(group * keys.len, 0.0);
        few_rows::scores(
            keys.k_rows(heads, kv),
            heads.scale,
            &q[kv * group * heads.dim..][..group * heads.dim],
            &mut scores,
        );
        for (g, scores) in scores.chunks_mut(keys.len).enumerate() {
            causal_softmax(scores, keys.len, past, heads.mask(kv * group + g));
        }
        few_rows::add_combination(keys.v_rows(heads, kv), 1.0, &scores, &mut out);
        return out;
    }
    for start in (0..queries).step_by(BLOCK) {
        let n = BLOCK.min(queries - start);
        let seen = past + start + n;
        scores.resize(n * seen, 0.0);
        for g in 0..group {
            let head = kv * group + g;
            let q = Mat::strided(&q[start * q_stride + head * heads.dim..], n, heads.dim, q_stride);
            matmul_single(
                MatMut::new(&mut scores, n, seen),
                Write::Overwrite,
                heads.scale,
                q,
                keys.k(heads, kv, 0..seen).t(),
            );
            causal_softmax(&mut scores, seen, past + start, heads.mask(head));
            let rows = MatMut::strided(&mut out[start * width + g * heads.value_dim..], n, heads.value_dim, width);
            matmul_single(rows, Write::Overwrite, 1.0, Mat::new(&scores, n, seen), keys.v(heads, kv, 0..seen));
        }
    }
    out
}

/// Adds `(rows, width)` of one key's group to its columns of `out` (rows of `stride`).
pub(crate) fn add_columns(out: &mut [f32], stride: usize, column: usize, part: &[f32], width: usize) {
    for (row, part) in out.chunks_mut(stride).zip(part.chunks(width)) {
        row[column..column + width].iter_mut().zip(part).for_each(|(out, part)| *out += part);
    }
}

struct Attention {
    heads: Heads,
    sequences: Arc<Vec<Sequence>>,
}

/// Attention within each of `sequences`. Differentiable in q, k and v.
///
/// `q` is (tokens, heads, dim), `k` (tokens, kv_heads, dim), `v` (tokens, kv_heads, value_dim); the result is
/// (tokens, heads · value_dim).
pub(crate) fn attention(
    tape: Option<&Tape>,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: Heads,
    sequences: &Arc<Vec<Sequence>>,
) -> Result<Tensor> {
    let op = Attention { heads, sequences: Arc::clone(sequences) };
    apply3(tape, [q, k, v], op)
}

/// Gradients of one key's group in one sequence.
struct GroupGradient {
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

/// Rows of one sequence inside the flat q, dy and y.
struct Rows<'a> {
    q: &'a [f32],
    y: &'a [f32],
    dy: &'a [f32],
}

impl Attention {
    fn tasks(&self) -> Vec<(&Sequence, usize)> {
        self.sequences.iter().flat_map(|s| (0..self.heads.kv_heads).map(move |kv| (s, kv))).collect()
    }

    /// P is computed again from q and k; then dV = Pᵀ dY, dS = P ∘ (dY Vᵀ − rowsum(dY ∘ Y)) · scale, dQ = dS K, dK = dSᵀ Q.
    fn group_gradient(&self, rows: &Rows<'_>, keys: &Keys<'_>, kv: usize) -> GroupGradient {
        let h = &self.heads;
        let (group, n) = (h.group(), rows.q.len() / (h.heads * h.dim));
        let past = keys.len - n;
        let (q_stride, y_stride) = (h.heads * h.dim, h.heads * h.value_dim);
        let mut gradient = GroupGradient {
            dq: vec![0f32; n * group * h.dim],
            dk: vec![0f32; keys.len * h.dim],
            dv: vec![0f32; keys.len * h.value_dim],
        };
        let (mut p, mut ds) = (Vec::new(), Vec::new());
        for start in (0..n).step_by(BLOCK) {
            let block = BLOCK.min(n - start);
            let seen = past + start + block;
            p.resize(block * seen, 0.0);
            ds.resize(block * seen, 0.0);
            for g in 0..group {
                let head = kv * group + g;
                let at = start * y_stride + head * h.value_dim;
                let q = Mat::strided(&rows.q[start * q_stride + head * h.dim..], block, h.dim, q_stride);
                let dy = Mat::strided(&rows.dy[at..], block, h.value_dim, y_stride);
                let (k, v) = (keys.k(h, kv, 0..seen), keys.v(h, kv, 0..seen));
                matmul_single(MatMut::new(&mut p, block, seen), Write::Overwrite, h.scale, q, k.t());
                causal_softmax(&mut p, seen, past + start, h.mask(head));
                matmul_single(MatMut::new(&mut ds, block, seen), Write::Overwrite, 1.0, dy, v.t());
                for i in 0..block {
                    let row = at + i * y_stride;
                    let along = dot(&rows.dy[row..row + h.value_dim], &rows.y[row..row + h.value_dim]);
                    for (ds, p) in ds[i * seen..][..seen].iter_mut().zip(&p[i * seen..]) {
                        *ds = p * (*ds - along) * h.scale;
                    }
                }
                let (p, ds) = (Mat::new(&p, block, seen), Mat::new(&ds, block, seen));
                let dq = MatMut::strided(&mut gradient.dq[(start * group + g) * h.dim..], block, h.dim, group * h.dim);
                matmul_single(dq, Write::Overwrite, 1.0, ds, k);
                matmul_single(MatMut::new(&mut gradient.dk, seen, h.dim), Write::Add, 1.0, ds.t(), q);
                matmul_single(MatMut::new(&mut gradient.dv, seen, h.value_dim), Write::Add, 1.0, p.t(), dy);
            }
        }
        gradient
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let h = &self.heads;
        let tokens = l1.dims()[0];
        let expected = [[tokens, h.heads, h.dim], [tokens, h.kv_heads, h.dim], [tokens, h.kv_heads, h.value_dim]];
        if [l1, l2, l3].iter().zip(&expected).any(|(l, e)| l.dims() != e) {
            bail!("attention: got q {:?}, k {:?}, v {:?}, expected {expected:?}", l1.dims(), l2.dims(), l3.dims());
        }
        let (q, k, v) = (slice(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?);
        let (q_stride, k_stride, v_stride) = (h.heads * h.dim, h.kv_heads * h.dim, h.kv_heads * h.value_dim);
        let tasks = self.tasks();
        let parts: Vec<Vec<f32>> = tasks
            .par_iter()
            .map(|(s, kv)| {
                let (k, v) = (s.gather(k, k_stride), s.gather(v, v_stride));
                let keys = Keys { k: &k, v: &v, len: s.prefix.len() + s.rows.len() };
                attend(&q[s.rows.start * q_stride..s.rows.end * q_stride], s.rows.len(), &keys, h, *kv)
            })
            .collect();
        let (stride, width) = (h.heads * h.value_dim, h.group() * h.value_dim);
        let mut out = vec![0f32; tokens * stride];
        for ((s, kv), part) in tasks.iter().zip(&parts) {
            add_columns(&mut out[s.rows.start * stride..s.rows.end * stride], stride, kv * width, part, width);
        }
        Ok((CpuStorage::F32(out), Shape::from((tokens, stride))))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let h = &self.heads;
        let dy = dy.contiguous()?;
        let views = [q, k, v, y, &dy].map(view);
        let [q_all, k_all, v_all, y_all, dy_all] = [0, 1, 2, 3, 4].map(|i| views[i].slice());
        let (q_all, k_all, v_all, y_all, dy_all) = (q_all?, k_all?, v_all?, y_all?, dy_all?);
        let (q_stride, k_stride) = (h.heads * h.dim, h.kv_heads * h.dim);
        let (y_stride, v_stride) = (h.heads * h.value_dim, h.kv_heads * h.value_dim);
        let tasks = self.tasks();
        let parts: Vec<GroupGradient> = tasks
            .par_iter()
            .map(|(s, kv)| {
                let (k, v) = (s.gather(k_all, k_stride), s.gather(v_all, v_stride));
                let keys = Keys { k: &k, v: &v, len: s.prefix.len() + s.rows.len() };
                let rows = Rows {
                    q: &q_all[s.rows.start * q_stride..s.rows.end * q_stride],
                    y: &y_all[s.rows.start * y_stride..s.rows.end * y_stride],
                    dy: &dy_all[s.rows.start * y_stride..s.rows.end * y_stride],
                };
                self.group_gradient(&rows, &keys, *kv)
            })
            .collect();
        let tokens = q.dim(0)?;
        let (mut dq, mut dk, mut dv) =
            (vec![0f32; tokens * q_stride], vec![0f32; tokens * k_stride], vec![0f32; tokens * v_stride]);
        let width = h.group() * h.dim;
        for ((s, kv), part) in tasks.iter().zip(&parts) {
            add_columns(&mut dq[s.rows.start * q_stride..], q_stride, kv * width, &part.dq, width);
            // Keys of the prefix come first; every sequence that sees them adds to their gradient.
            let (prefix_k, own_k) = part.dk.split_at(s.prefix.len() * h.dim);
            add_columns(&mut dk[s.prefix.start * k_stride..], k_stride, kv * h.dim, prefix_k, h.dim);
            add_columns(&mut dk[s.rows.start * k_stride..], k_stride, kv * h.dim, own_k, h.dim);
            let (prefix_v, own_v) = part.dv.split_at(s.prefix.len() * h.value_dim);
            add_columns(&mut dv[s.prefix.start * v_stride..], v_stride, kv * h.value_dim, prefix_v, h.value_dim);
            add_columns(&mut dv[s.rows.start * v_stride..], v_stride, kv * h.value_dim, own_v, h.value_dim);
        }
        let tensor = |data, like: &Tensor| Tensor::from_vec(data, like.shape(), like.device());
        Ok((Some(tensor(dq, q)?), Some(tensor(dk, k)?), Some(tensor(dv, v)?)))
    }
}
