//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864). In Hugging Face's checkpoints element i of a head's first half
//! turns together with element i of its second half; in DeepSeek's, element 2i with element 2i + 1. Elements past twice the
//! table's width are not turned.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::tape::{Tape, apply1};
use super::{for_each_row, slice, view};

/// Positions whose cos and sin are computed together, when the first of them is asked for.
const CHUNK: usize = 256;

/// cos and sin of the positions that were asked for so far: a configuration may promise millions, and few are used.
#[derive(Debug)]
pub(crate) struct RopeTable {
    pub(crate) half: usize,
    /// Neighbours turn together.
    pub(crate) interleaved: bool,
    positions: usize,
    frequencies: Vec<f32>,
    scale: f32,
    /// Of [`CHUNK`] positions each: `half` cosines, then `half` sines of a position.
    chunks: Vec<OnceLock<Box<[f32]>>>,
}

impl RopeTable {
    /// For angles `position · frequencies[i]`, cos and sin multiplied by `scale`.
    pub(crate) fn new(frequencies: &[f64], positions: usize, scale: f64, interleaved: bool) -> Self {
        Self {
            half: frequencies.len(),
            interleaved,
            positions,
            // transformers computes the angles in f32; so do we, or long prompts differ from it.
            frequencies: frequencies.iter().map(|f| *f as f32).collect(),
            scale: scale as f32,
            chunks: (0..positions.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect(),
        }
    }

    pub(crate) fn positions(&self) -> usize {
        self.positions
    }

    /// cos and sin of a position's angles; it must be one of the table's.
    pub(crate) fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let (chunk, place) = (position / CHUNK, position % CHUNK);
        let chunk = self.chunks[chunk].get_or_init(|| self.compute(chunk * CHUNK));
        chunk[place * 2 * self.half..][..2 * self.half].split_at(self.half)
    }

    fn compute(&self, first: usize) -> Box<[f32]> {
        let of = |position: usize| {
            let angles = self.frequencies.iter().map(move |f| position as f32 * f);
            angles.clone().map(f32::cos).chain(angles.map(f32::sin))
        };
        (first..first + CHUNK).flat_map(of).map(|value| value * self.scale).collect()
    }
}

struct Rope {
    table: Arc<RopeTable>,
    positions: Arc<Vec<usize>>,
    /// −1 turns backwards.
    sign: f32,
}

/// Turns each head of `x` (tokens, heads, head_dim) by its token's position.
///
/// # Errors
/// A position outside the table.
pub(crate) fn rope(
    tape: Option<&Tape>,
    x: &Tensor,
    table: &Arc<RopeTable>,
    positions: &Arc<Vec<usize>>,
) -> Result<Tensor> {
    if let Some(position) = positions.iter().find(|p| **p >= table.positions()) {
        bail!("position {position} is past the {} positions that the model has", table.positions());
    }
    apply1(tape, x, Rope { table: Arc::clone(table), positions: Arc::clone(positions), sign: 1.0 })
}

impl Rope {
    fn turn(&self, x: &[f32], dims: &[usize]) -> Vec<f32> {
        let (heads, width) = (dims[1], dims[2]);
        let half = self.table.half;
        let mut out = vec![0f32; x.len()];
        for_each_row(&mut out, heads * width, |token, out| {
            let (cos, sin) = self.table.at(self.positions[token]);
            let row = &x[token * heads * width..][..heads * width];
            for (head, out) in row.chunks(width).zip(out.chunks_mut(width)) {
                let (turned, untouched) = head.split_at(2 * half);
                let (out, out_rest) = out.split_at_mut(2 * half);
                out_rest.copy_from_slice(untouched);
                if self.table.interleaved {
                    let pairs = out.chunks_exact_mut(2).zip(turned.chunks_exact(2)).zip(cos.iter().zip(sin));
                    for ((out, x), (cos, sin)) in pairs {
                        let sin = sin * self.sign;
                        out[0] = x[0] * cos - x[1] * sin;
                        out[1] = x[1] * cos + x[0] * sin;
                    }
                    continue;
                }
                let ((a, b), (out_a, out_b)) = (turned.split_at(half), out.split_at_mut(half));
                for i in 0..half {
                    let s = sin[i] * self.sign;
                    out_a[i] = a[i] * cos[i] - b[i] * s;
                    out_b[i] = b[i] * cos[i] + a[i] * s;
                }
            }
        });
        out
    }
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let dims = layout.dims();
        if dims.len() != 3 || dims[0] != self.positions.len() || dims[2] < 2 * self.table.half {
            bail!("rope: got shape {dims:?} for {} positions and {} pairs", self.positions.len(), self.table.half);
        }
        let out = self.turn(slice(storage, layout)?, dims);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    /// A rotation's transpose is the rotation backwards.
    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let back = Self { table: Arc::clone(&self.table), positions: Arc::clone(&self.positions), sign: -self.sign };
        let view = view(&dy);
        Tensor::from_vec(back.turn(view.slice()?, x.dims()), x.shape(), x.device()).map(Some)
    }
}
