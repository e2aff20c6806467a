//! Products of values rounded to bf16 (8 bits of precision), summed in f32: half the work for processors that have instructions for
//! it. Those without compute the same from the rounded values in f32, so that what is asked for does not depend on the processor
//! but for the order of sums.

#[cfg(target_arch = "x86_64")]
mod units;

use super::matrix::{Arithmetic, Matrix};
use super::rounding::rounded;
use super::{blocked, few_rows};
use crate::config::Dtype;

/// Rows with which unpacking the weights is most of the work: they are multiplied where they are unpacked, in f32, which holds the
/// products of rounded values exactly.
const FEW_ROWS: usize = 8;

/// Has this processor instructions for products of bf16 that are used here (AVX-512 BF16)?
pub(crate) fn has_units() -> bool {
    #[cfg(target_arch = "x86_64")]
    return units::Units::try_new().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The precision that a configuration asks for, on this processor.
pub(crate) fn arithmetic(dtype: Dtype) -> Arithmetic {
    match dtype {
        Dtype::Auto if !has_units() => Arithmetic::F32,
        Dtype::Auto | Dtype::Bf16 => Arithmetic::Bf16,
        Dtype::F32 => Arithmetic::F32,
    }
}

/// y (rows, out) = x (rows, in) Wᵀ.
pub(crate) fn product(weight: &Matrix, x: &[f32], y: &mut [f32]) {
    if x.len() <= FEW_ROWS * weight.cols {
        return few_rows::product_rounded(weight, &rounded(x), y);
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(units) = units::Units::try_new() {
        return units.product(weight, x, y);
    }
    portable_product(weight, x, y);
}

/// dx (rows, in) += dy (rows, out) W.
pub(crate) fn back(weight: &Matrix, dy: &[f32], dx: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(units) = units::Units::try_new() {
        return units.back(weight, dy, dx);
    }
    portable_back(weight, dy, dx);
}

fn portable_product(weight: &Matrix, x: &[f32], y: &mut [f32]) {
    blocked::product_of(weight, |w| rounded(w).into(), &rounded(x), y);
}

fn portable_back(weight: &Matrix, dy: &[f32], dx: &mut [f32]) {
    blocked::back_of(weight, |w| rounded(w).into(), &rounded(dy), dx);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waves(n: usize, step: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * step).sin()).collect()
    }

    /// Sizes that fill no group, panel, segment or block, and some that do.
    const SIZES: [[usize; 3]; 9] = [
        [1, 1, 1],
        [3, 5, 7],
        [8, 48, 64],
        [9, 49, 65],
        [70, 100, 333],
        [130, 47, 32],
        [2, 700, 1600],
        [1, 31, 64],
        [64, 48, 2],
    ];

    fn assert_close(what: &str, got: &[f32], want: &[f32], terms: usize) {
        let scale = (terms as f32).sqrt().max(1.0);
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            assert!((got - want).abs() <= 1e-5 * scale, "{what} [{i}]: {got}, expected {want}");
        }
    }

    #[test]
    fn products_are_those_of_the_rounded_values() {
        for [rows, out_features, in_features] in SIZES {
            let weight = Matrix::from_values("w", waves(out_features * in_features, 0.37), out_features, in_features);
            let (x, dy) = (waves(rows * in_features, 0.71), waves(rows * out_features, 0.53));
            let (mut y, mut want) = (vec![9f32; rows * out_features], vec![0f32; rows * out_features]);
            product(&weight, &x, &mut y);
            portable_product(&weight, &x, &mut want);
            assert_close(&format!("product of {rows} × {out_features} × {in_features}"), &y, &want, in_features);
            let (mut dx, mut want) = (vec![1f32; rows * in_features], vec![1f32; rows * in_features]);
            back(&weight, &dy, &mut dx);
            portable_back(&weight, &dy, &mut want);
            assert_close(&format!("back of {rows} × {out_features} × {in_features}"), &dx, &want, out_features);
        }
    }

    /// Of the rows that are many, and of those that are few.
    #[test]
    fn a_row_with_fewer_and_among_others_is_the_same_bit_for_bit() {
        let (out_features, in_features) = (200, 333);
        let weight = Matrix::from_values("w", waves(out_features * in_features, 0.37), out_features, in_features);
        for (rows, fewer) in [(75, FEW_ROWS + 1), (FEW_ROWS, 1)] {
            let x = waves(rows * in_features, 0.71);
            let mut together = vec![0f32; rows * out_features];
            product(&weight, &x, &mut together);
            for (x, expected) in x.chunks(fewer * in_features).zip(together.chunks(fewer * out_features)) {
                let mut apart = vec![0f32; expected.len()];
                product(&weight, x, &mut apart);
                // The last of them may be few.
                if has_units() && (x.len() == fewer * in_features || rows <= FEW_ROWS) {
                    assert_eq!(apart, expected);
                }
                assert_close("fewer", &apart, expected, in_features);
            }
        }
    }

    #[test]
    fn rounding_is_that_of_half() {
        let bits = (0..=u32::from(u16::MAX))
            .flat_map(|high| [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF].map(|low| high << 16 | low));
        let values: Vec<f32> = bits.map(f32::from_bits).collect();
        for (got, value) in rounded(&values).iter().zip(&values) {
            let want = half::bf16::from_f32(*value).to_f32();
            assert!(*got == want || got.is_nan() && want.is_nan(), "{value}: {got}, expected {want}");
        }
    }
}
