//! Products with a frozen matrix by `gemm`, a block of its rows at a time.

use std::borrow::Cow;

use super::gemm::{Mat, MatMut, Write, matmul};
use super::matrix::Matrix;

/// y (rows, out) = x (rows, in) Wᵀ, of what `values` makes of the weights.
pub(super) fn product_of(weight: &Matrix, values: impl Fn(&[f32]) -> Cow<'_, [f32]>, x: &[f32], y: &mut [f32]) {
    let (in_features, out_features) = (weight.cols, weight.rows);
    let rows = x.len().checked_div(in_features).unwrap_or(0);
    weight.for_blocks(|block, w| {
        let (part, w) = (MatMut::strided(&mut y[block.start..], rows, block.len(), out_features), values(w));
        matmul(part, Write::Overwrite, 1.0, Mat::new(x, rows, in_features), Mat::new(&w, block.len(), in_features).t());
    });
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
