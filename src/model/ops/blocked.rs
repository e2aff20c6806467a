//! Products with a frozen matrix by `gemm`, a block of its rows at a time.
//!
//! For y = x Wᵀ `gemm` needs a column of many weight rows in one place. It packs them so itself, but on one thread, and slowly where rows
//! begin a multiple of a page apart. So long rows are laid out here, by each thread for the rows that it multiplies. The sums are
//! the same, bit by bit.

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;

use super::gemm::{Mat, MatMut, Write, matmul, matmul_single};
use super::matrix::Matrix;

/// Weight rows of a task: what `gemm`'s kernels take together on the widest vectors.
const GROUP: usize = 64;
/// Weight rows that are widened at once.
const STRIP: usize = 16;
/// Tasks whose products are held before they are written.
const TASKS: usize = 64;
/// Columns from which weight rows are laid out here.
const LONG: usize = 2048;
/// Rows of x from which they are: with fewer `gemm` sums in another order.
const MANY: usize = 65;

/// y (rows, out) = x (rows, in) Wᵀ, of what `values` makes of the weights.
pub(super) fn product_of(weight: &Matrix, values: impl Fn(&[f32]) -> Cow<'_, [f32]> + Sync, x: &[f32], y: &mut [f32]) {
    let (in_features, out_features) = (weight.cols, weight.rows);
    let rows = x.len().checked_div(in_features).unwrap_or(0);
    if in_features >= LONG && rows >= MANY {
        return laid_out(weight, values, x, y);
    }
    weight.for_blocks(|block, w| {
        let (part, w) = (MatMut::strided(&mut y[block.start..], rows, block.len(), out_features), values(w));
        matmul(part, Write::Overwrite, 1.0, Mat::new(x, rows, in_features), Mat::new(&w, block.len(), in_features).t());
    });
}

/// As [`product_of`], of long weight rows.
fn laid_out(weight: &Matrix, values: impl Fn(&[f32]) -> Cow<'_, [f32]> + Sync, x: &[f32], y: &mut [f32]) {
    let (in_features, out_features) = (weight.cols, weight.rows);
    let rows = x.len() / in_features;
    let groups: Vec<Range<usize>> =
        (0..out_features).step_by(GROUP).map(|start| start..(start + GROUP).min(out_features)).collect();
    for groups in groups.chunks(TASKS) {
        let products: Vec<Vec<f32>> = groups
            .par_iter()
            .map_init(Scratch::default, |scratch, group| {
                let columns = scratch.columns(weight, &values, group.clone());
                let mut product = vec![0f32; rows * group.len()];
                let part = MatMut::new(&mut product, rows, group.len());
                let columns = Mat::new(columns, in_features, group.len());
                matmul_single(part, Write::Overwrite, 1.0, Mat::new(x, rows, in_features), columns);
                product
            })
            .collect();
        y.par_chunks_mut(out_features).enumerate().for_each(|(row, y)| {
            for (group, product) in groups.iter().zip(&products) {
                y[group.clone()].copy_from_slice(&product[row * group.len()..][..group.len()]);
            }
        });
    }
}

/// A thread's own memory.
#[derive(Default)]
struct Scratch {
    strip: Vec<f32>,
    columns: Vec<f32>,
}

impl Scratch {
    /// The transpose of some weight rows: (in, rows).
    fn columns(&mut self, weight: &Matrix, values: impl Fn(&[f32]) -> Cow<'_, [f32]>, rows: Range<usize>) -> &[f32] {
        let (width, count) = (weight.cols, rows.len());
        self.columns.resize(width * count, 0.0);
        for start in rows.clone().step_by(STRIP) {
            let strip = start..(start + STRIP).min(rows.end);
            self.strip.resize(strip.len() * width, 0.0);
            weight.widen_serially(strip.clone(), &mut self.strip);
            let (at, strip) = (start - rows.start, values(&self.strip));
            transpose(&strip, width, &mut self.columns, (at, count));
        }
        &self.columns
    }
}

/// Writes rows of `width` as columns `at`… of a matrix whose rows have `stride`.
fn transpose(rows: &[f32], width: usize, columns: &mut [f32], (at, stride): (usize, usize)) {
    let count = rows.len() / width;
    // A tile lies in the fastest cache.
    for start in (0..width).step_by(STRIP) {
        for column in start..(start + STRIP).min(width) {
            let out = &mut columns[column * stride + at..][..count];
            out.iter_mut().enumerate().for_each(|(row, out)| *out = rows[row * width + column]);
        }
    }
}

/// dx (rows, in) += dy (rows, out) W, of what `values` makes of the weights.
pub(super) fn back_of(weight: &Matrix, values: impl Fn(&[f32]) -> Cow<'_, [f32]>, dy: &[f32], dx: &mut [f32]) {
    let (in_features, out_features) = (weight.cols, weight.rows);
    let rows = dy.len().checked_div(out_features).unwrap_or(0);
    weight.for_blocks(|block, w| {
        let (dy, w) = (Mat::strided(&dy[block.start..], rows, block.len(), out_features), values(w));
        matmul(MatMut::new(dx, rows, in_features), Write::Add, 1.0, dy, Mat::new(&w, block.len(), in_features));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long rows and short ones, whole groups and a rest, in every number format of the matrices' tests.
    #[test]
    fn rows_that_are_laid_out_give_the_same_bits() {
        for (out_features, in_features, rows) in [(130, LONG, MANY), (64, LONG + 32, 70), (7, LONG, 140)] {
            let value = |i: usize| ((i * 7919 % 1009) as f32 / 1009.0 - 0.5) * 0.1;
            let w: Vec<f32> = (0..out_features * in_features).map(value).collect();
            let x: Vec<f32> = (0..rows * in_features).map(|i| value(i + 17)).collect();
            let weight = Matrix::from_values("w", w.clone(), out_features, in_features);
            let (mut found, mut expected) = (vec![1f32; rows * out_features], vec![0f32; rows * out_features]);
            product_of(&weight, |w| w.into(), &x, &mut found);
            let (x, w) = (Mat::new(&x, rows, in_features), Mat::new(&w, out_features, in_features));
            matmul(MatMut::new(&mut expected, rows, out_features), Write::Overwrite, 1.0, x, w.t());
            assert_eq!(found, expected, "{out_features} {in_features} {rows}");
        }
    }
}
