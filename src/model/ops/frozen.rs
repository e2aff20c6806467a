//! Products with frozen matrices, by the way that is fastest for the number of rows and the precision that is asked for.

use std::borrow::Cow;

use super::arithmetic::Arithmetic;
use super::bf16;
use super::few_rows::{self, FEW};
use super::gemm::{Into, Mat, MatMut, matmul};
use super::matrix::Matrix;

/// y (rows, out) = x (rows, in) Wᵀ.
pub(crate) fn product(weight: &Matrix, x: &[f32], y: &mut [f32]) {
    let rows = x.len().checked_div(weight.cols).unwrap_or(0);
    match weight.arithmetic {
        Arithmetic::Bf16 => bf16::product(weight, x, y),
        Arithmetic::F32 if rows <= FEW => few_rows::product(weight, x, y),
        Arithmetic::F32 => product_of(weight, |w| w.into(), x, y),
    }
}

/// dx (rows, in) += dy (rows, out) W.
pub(crate) fn back(weight: &Matrix, dy: &[f32], dx: &mut [f32]) {
    match weight.arithmetic {
        Arithmetic::Bf16 => bf16::back(weight, dy, dx),
        Arithmetic::F32 => back_of(weight, |w| w.into(), dy, dx),
    }
}

/// As [`product`] by `gemm`, of what `values` makes of the weights.
pub(super) fn product_of(weight: &Matrix, values: impl Fn(&[f32]) -> Cow<'_, [f32]>, x: &[f32], y: &mut [f32]) {
    let (inside, outside) = (weight.cols, weight.rows);
    let rows = x.len().checked_div(inside).unwrap_or(0);
    weight.for_blocks(|block, w| {
        let (part, w) = (MatMut::strided(&mut y[block.start..], rows, block.len(), outside), values(w));
        matmul(part, Into::Overwrite, 1.0, Mat::new(x, rows, inside), Mat::new(&w, block.len(), inside).t());
    });
}

/// As [`back`] by `gemm`, of what `values` makes of the weights.
pub(super) fn back_of(weight: &Matrix, values: impl Fn(&[f32]) -> Cow<'_, [f32]>, dy: &[f32], dx: &mut [f32]) {
    let (inside, outside) = (weight.cols, weight.rows);
    let rows = dy.len().checked_div(outside).unwrap_or(0);
    weight.for_blocks(|block, w| {
        let (dy, w) = (Mat::strided(&dy[block.start..], rows, block.len(), outside), values(w));
        matmul(MatMut::new(dx, rows, inside), Into::Add, 1.0, dy, Mat::new(&w, block.len(), inside));
    });
}
