//! A matrix of a model as it lies in its file (f32, bf16, f16, or blocks of a GGUF quantisation), widened to f32 one block of rows at a
//! time, where it is used.

mod blocks;
mod format;
mod unpack;
mod vectors;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use rayon::prelude::*;

pub(crate) use format::Format;
#[cfg(test)]
pub(crate) use format::fp8;

use crate::model::formats::mapped::Mapped;

/// Elements that are widened to f32 at once.
const BLOCK_ELEMENTS: usize = 1 << 20;
/// Elements that one task widens.
const TASK_ELEMENTS: usize = 1 << 16;

/// What products with the base's weights are computed in. All else is in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    #[default]
    F32,
    /// Both sides are rounded to bf16, the sums are in f32.
    Bf16,
}

#[derive(Clone)]
enum Bytes {
    Mapped { map: Arc<Mapped>, range: Range<usize> },
    Owned(Arc<Vec<u8>>),
    Wide(Arc<Vec<f32>>),
}

impl Bytes {
    fn raw(&self) -> &[u8] {
        match self {
            Self::Mapped { map, range } => &map[range.clone()],
            Self::Owned(bytes) => bytes,
            Self::Wide(_) => &[],
        }
    }
}

/// A frozen matrix (rows, columns) = (out, in), in the precision of its file.
#[derive(Clone)]
pub(crate) struct Matrix {
    pub(crate) name: Arc<str>,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) format: Format,
    bytes: Bytes,
    /// What blocks of values are multiplied by.
    scales: Option<Arc<Scales>>,
    /// What products with it are computed in.
    pub(crate) arithmetic: Arithmetic,
}

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Matrix {
    /// Calls `f(rows, values)` for blocks of rows, in order, until all rows were seen.
    pub(crate) fn for_blocks(&self, mut f: impl FnMut(Range<usize>, &[f32])) {
        if let Bytes::Wide(values) = &self.bytes {
            return f(0..self.rows, values);
        }
        let block = (BLOCK_ELEMENTS / self.cols.max(1)).max(1);
        let mut scratch = SCRATCH.take();
        for start in (0..self.rows).step_by(block) {
            let rows = start..(start + block).min(self.rows);
            scratch.resize(rows.len() * self.cols, 0.0);
            self.widen_rows(rows.clone(), &mut scratch);
            f(rows, &scratch);
        }
        SCRATCH.set(scratch);
    }

    /// One row's values, for embeddings.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        self.widen_serially(row..row + 1, out);
    }

    fn row_bytes(&self, rows: Range<usize>) -> &[u8] {
        let row = self.format.bytes(self.cols).unwrap_or(0);
        &self.bytes.raw()[rows.start * row..rows.end * row]
    }

    fn widen_rows(&self, rows: Range<usize>, out: &mut [f32]) {
        let per_task = (TASK_ELEMENTS / self.cols.max(1)).max(1);
        out.par_chunks_mut(per_task * self.cols).enumerate().for_each(|(i, out)| {
            let start = rows.start + i * per_task;
            self.widen_serially(start..start + out.len() / self.cols, out);
        });
    }

    /// Values of some rows, where they lie in memory in f32.
    pub(crate) fn wide_rows(&self, rows: Range<usize>) -> Option<&[f32]> {
        match &self.bytes {
            Bytes::Wide(values) => Some(&values[rows.start * self.cols..rows.end * self.cols]),
            _ => None,
        }
    }

    /// Values of some rows, on the calling thread.
    pub(crate) fn widen_serially(&self, rows: Range<usize>, out: &mut [f32]) {
        if let Some(values) = self.wide_rows(rows.clone()) {
            return out.copy_from_slice(values);
        }
        self.format.widen(self.row_bytes(rows.clone()), out);
        if let Some(scales) = &self.scales {
            scales.apply(rows, self.cols, out);
        }
    }

    /// Products of a few rows `x` (n, cols) with some of its rows: (n, rows). False: these are not made faster than from the values.
    pub(crate) fn products(&self, rows: Range<usize>, x: &[f32], products: &mut [f32]) -> bool {
        match (self.format, &self.scales) {
            (Format::Quantised(dtype), None) => unpack::products(dtype, self.row_bytes(rows), self.cols, x, products),
            _ => false,
        }
    }

    /// The same matrix, held in f32: faster to use, and four bytes a value.
    pub(crate) fn widened(&self) -> Self {
        if matches!(self.bytes, Bytes::Wide(_)) {
            return self.clone();
        }
        let mut values = vec![0f32; self.rows * self.cols];
        self.widen_rows(0..self.rows, &mut values);
        Self { bytes: Bytes::Wide(Arc::new(values)), format: Format::F32, scales: None, ..self.clone() }
    }

    /// Bytes that hold its values: in the mapped file, or in memory.
    pub(crate) fn size(&self) -> usize {
        match &self.bytes {
            Bytes::Wide(values) => values.len() * size_of::<f32>(),
            other => other.raw().len(),
        }
    }

    /// Values that are NaN or infinite?
    pub(crate) fn has_non_finite(&self) -> bool {
        let mut found = false;
        self.for_blocks(|_, values| found = found || values.iter().any(|v| !v.is_finite()));
        found
    }

    /// A matrix that lies in a mapped file; its bytes must be there.
    pub(crate) fn mapped(
        name: &str,
        format: Format,
        [rows, cols]: [usize; 2],
        map: &Arc<Mapped>,
        range: Range<usize>,
    ) -> Self {
        let bytes = Bytes::Mapped { map: Arc::clone(map), range };
        Self { name: name.into(), rows, cols, format, bytes, scales: None, arithmetic: Arithmetic::F32 }
    }

    /// The same matrix, its blocks of values multiplied by `scales`.
    pub(crate) fn scaled(self, scales: Scales) -> Self {
        Self { scales: Some(Arc::new(scales)), ..self }
    }

    /// A matrix of f32 values.
    pub(crate) fn from_values(name: &str, values: Vec<f32>, rows: usize, cols: usize) -> Self {
        assert_eq!(values.len(), rows * cols);
        let (format, bytes, arithmetic) = (Format::F32, Bytes::Wide(Arc::new(values)), Arithmetic::F32);
        Self { name: name.into(), rows, cols, format, bytes, scales: None, arithmetic }
    }

    /// A matrix of a GGUF quantisation's blocks.
    pub(crate) fn quantised(name: &str, dtype: GgmlDType, bytes: Vec<u8>, rows: usize, cols: usize) -> Self {
        let format = Format::Quantised(dtype);
        assert_eq!(format.bytes(cols).map(|row| row * rows), Some(bytes.len()));
        let (bytes, arithmetic) = (Bytes::Owned(Arc::new(bytes)), Arithmetic::F32);
        Self { name: name.into(), rows, cols, format, bytes, scales: None, arithmetic }
    }

    /// The same matrix with row `order[i]` as its row i.
    pub(crate) fn reordered(&self, order: &[usize]) -> Self {
        let row = self.format.bytes(self.cols).unwrap_or(0);
        let from = self.row_bytes(0..self.rows);
        let bytes = order.iter().flat_map(|at| &from[at * row..(at + 1) * row]).copied().collect();
        Self { bytes: Bytes::Owned(Arc::new(bytes)), rows: order.len(), ..self.clone() }
    }

    /// The transpose, held in f32.
    pub(crate) fn transposed(&self) -> Self {
        let wide = self.widened();
        let mut values = vec![0f32; self.rows * self.cols];
        wide.for_blocks(|rows, block| {
            for (row, from) in rows.zip(block.chunks(self.cols)) {
                from.iter().enumerate().for_each(|(col, value)| values[col * self.rows + row] = *value);
            }
        });
        Self { rows: self.cols, cols: self.rows, bytes: Bytes::Wide(Arc::new(values)), ..wide }
    }
}

/// Scales of blocks of an FP8 matrix, as DeepSeek publishes them.
#[derive(Debug)]
pub(crate) struct Scales {
    pub(crate) values: Vec<f32>,
    /// Scales in a row of blocks.
    pub(crate) across: usize,
}

impl Scales {
    /// Rows and columns of a block.
    pub(crate) const BLOCK: usize = 128;

    fn apply(&self, rows: Range<usize>, cols: usize, out: &mut [f32]) {
        for (row, out) in rows.zip(out.chunks_mut(cols)) {
            let scales = &self.values[row / Self::BLOCK * self.across..];
            for (block, scale) in out.chunks_mut(Self::BLOCK).zip(scales) {
                block.iter_mut().for_each(|v| *v *= scale);
            }
        }
    }
}
