//! The decoder's operations, each with its backward.
//!
//! candle's own fast operations cut the gradient without a word, and its composed ones pass over memory many times. These are
//! fused, parallel over rows, and differentiable; every one has a reference implementation made of candle's plain operations ([`reference`]),
//! which the tests compare it with, values and gradients, besides finite differences, and `benches/ops.rs` in time.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod bf16;
mod blocked;
pub(crate) mod columns;
pub(crate) mod cross_entropy;
pub(crate) mod exp;
pub(crate) mod experts;
pub(crate) mod few_rows;
pub(crate) mod frozen;
pub(crate) mod gemm;
pub(crate) mod layer_norm;
pub(crate) mod lora;
pub(crate) mod low_rank;
pub(crate) mod matrix;
pub(crate) mod reference;
pub(crate) mod rms_norm;
pub(crate) mod rope;
mod rounding;
pub(crate) mod rows;
pub(crate) mod tape;
#[cfg(test)]
mod tests;

use std::ops::Deref;
use std::sync::Mutex;

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;

/// Rows that one task of a row-parallel operation takes.
const ROWS_PER_TASK: usize = 16;

/// The f32 values of a contiguous CPU tensor.
pub(crate) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("expected a contiguous tensor, got strides {:?} for shape {:?}", layout.stride(), layout.shape());
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// A read lock on a tensor's values.
pub(crate) struct View<'a, G> {
    guard: G,
    layout: &'a Layout,
}

/// Locks a tensor for reading.
pub(crate) fn view(tensor: &Tensor) -> View<'_, impl Deref<Target = Storage> + '_> {
    let (guard, layout) = tensor.storage_and_layout();
    View { guard, layout }
}

impl<G: Deref<Target = Storage>> View<'_, G> {
    pub(crate) fn slice(&self) -> Result<&[f32]> {
        match &*self.guard {
            Storage::Cpu(storage) => slice(storage, self.layout),
            _ => bail!("expected a tensor on the cpu"),
        }
    }
}

/// A tensor's last dimension, and the number of rows of that length.
pub(crate) fn rows_of(layout: &Layout) -> (usize, usize) {
    let dims = layout.dims();
    let width = dims.last().copied().unwrap_or(1);
    (dims.iter().product::<usize>().checked_div(width).unwrap_or(0), width)
}

/// Calls `f(row index, row of out)` for each row of `width` values, in parallel.
pub(crate) fn for_each_row(out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    out.par_chunks_mut(width * ROWS_PER_TASK).enumerate().for_each(|(task, rows)| {
        for (i, row) in rows.chunks_mut(width).enumerate() {
            f(task * ROWS_PER_TASK + i, row);
        }
    });
}

/// Runs `f` on a thread of the pool. From there a parallel operation costs little; from outside, each one wakes a thread and waits.
///
/// It is always the same thread: memory that is freed on one is not there for another to allocate, and a second step of a training on
/// another thread would hold twice as much.
pub(crate) fn in_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    if rayon::current_thread_index().is_some() {
        return f();
    }
    let (mut result, f) = (None, Mutex::new(Some(f)));
    {
        let slot = Mutex::new(&mut result);
        rayon::broadcast(|context| {
            if context.index() == 0
                && let Some(f) = f.lock().ok().and_then(|mut f| f.take())
                && let Ok(mut slot) = slot.lock()
            {
                **slot = Some(f());
            }
        });
    }
    result.unwrap_or_else(|| unreachable!("a pool has a first thread"))
}

/// Σ aᵢ·bᵢ, in an order that vectorises and never changes.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f32 = a8.remainder().iter().zip(b8.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a8.zip(b8) {
        for ((lane, x), y) in lanes.iter_mut().zip(x).zip(y) {
            *lane += x * y;
        }
    }
    lanes.iter().sum::<f32>() + tail
}

/// Σ aᵢ in f64, in an order that vectorises and never changes.
pub(crate) fn sum(a: &[f32]) -> f64 {
    let mut lanes = [0f64; 8];
    let eights = a.chunks_exact(8);
    let tail: f64 = eights.remainder().iter().map(|x| f64::from(*x)).sum();
    for x in eights {
        lanes.iter_mut().zip(x).for_each(|(lane, x)| *lane += f64::from(*x));
    }
    lanes.iter().sum::<f64>() + tail
}
