//! Products with a frozen matrix by `gemm`, a block of its rows at a time.

use std::borrow::Cow;

use super::gemm::{Into, Mat, MatMut, matmul};
use super::matrix::Matrix;

/// y (rows, out) = x (rows, in) Wᵀ, of what `values` makes of the weights.
pub(super) fn product_of(weight: &Matrix, values: impl Fn(&[f32]) -> Cow<'_, [f32]>, x: &[f32], y: &mut [f32]) {
    let (inside, outside) = (weight.cols, weight.rows);
    let rows = x.len().checked_div(inside).unwrap_or(0);
    weight.for_blocks(|block, w| {
        let (part, w) = (MatMut::strided(&mut y[block.start..], rows, block.len(), outside), values(w));
        matmul(part, Into::Overwrite, 1.0, Mat::new(x, rows, inside), Mat::new(&w, block.len(), inside).t());
    });
}

/// dx (rows, in) += dy (rows, out) W, of what `values` makes of the weights.
pub(super) fn back_of(weight: &Matrix, values: impl Fn(&[f32]) -> Cow<'_, [f32]>, dy: &[f32], dx: &mut [f32]) {
    let (inside, outside) = (weight.cols, weight.rows);
    let rows = dy.len().checked_div(outside).unwrap_or(0);
    weight.for_blocks(|block, w| {
        let (dy, w) = (Mat::strided(&dy[block.start..], rows, block.len(), outside), values(w));
        matmul(MatMut::new(dx, rows, inside), Into::Add, 1.0, dy, Mat::new(&w, block.len(), inside));
    });
}
