//! Products with frozen matrices, by the way that is fastest for the number of rows and the precision that is asked for.

use super::bf16;
use super::blocked::{back_of, product_of};
use super::few_rows::{self, MAX_ROWS};
use super::matrix::{Arithmetic, Matrix};

/// y (rows, out) = x (rows, in) Wᵀ.
pub(crate) fn product(weight: &Matrix, x: &[f32], y: &mut [f32]) {
    let rows = x.len().checked_div(weight.cols).unwrap_or(0);
    match weight.arithmetic {
        Arithmetic::Bf16 => bf16::product(weight, x, y),
        Arithmetic::F32 if rows <= MAX_ROWS => few_rows::product(weight, x, y),
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
