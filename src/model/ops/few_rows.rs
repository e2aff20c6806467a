//! Products of few rows with many weights, as in decoding: reading and widening the weights is most of the work, so that each
//! weight is widened once, into the fastest cache, and meets all rows there.
//!
//! A row's result does not depend on the rows beside it, nor on the number of threads.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::model::weights::Matrix;

/// Rows that count as few: with more, `gemm` is as fast, which packs the weights for many.
pub(crate) const FEW: usize = 48;

/// Weight rows that are widened at once.
const WIDENED: usize = 8;
/// Weights that are worth a task of their own.
const TASK: usize = 1 << 16;

/// y (rows, out) = x (rows, in) Wᵀ.
pub(crate) fn product(weight: &Matrix, x: &[f32], y: &mut [f32]) {
    run(weight, [weight.rows, weight.cols], x, y, |_, value| value);
}

/// y (rows, out) += scale · x (rows, in) Wᵀ, for W (out, in) in f32.
pub(crate) fn add_product(w: &[f32], inside: usize, scale: f32, x: &[f32], y: &mut [f32]) {
    let outside = w.len().checked_div(inside).unwrap_or(0);
    run(&Wide { w, inside }, [outside, inside], x, y, |y, value| y + scale * value);
}

/// Where weight rows come from.
trait Rows: Sync {
    /// Writes the products with some of them, (rows of x, weight rows), when that is faster than from their values.
    fn products(&self, rows: Range<usize>, x: &[f32], products: &mut [f32]) -> bool;

    /// Their values, where they lie in memory in f32.
    fn values(&self, rows: Range<usize>) -> Option<&[f32]>;

    /// Writes their values.
    fn widen(&self, rows: Range<usize>, out: &mut [f32]);
}

impl Rows for Matrix {
    fn products(&self, rows: Range<usize>, x: &[f32], products: &mut [f32]) -> bool {
        Matrix::products(self, rows, x, products)
    }

    fn values(&self, rows: Range<usize>) -> Option<&[f32]> {
        self.wide_rows(rows)
    }

    fn widen(&self, rows: Range<usize>, out: &mut [f32]) {
        self.widen_serially(rows, out);
    }
}

/// Weights (out, `inside`) in f32.
struct Wide<'a> {
    w: &'a [f32],
    inside: usize,
}

impl Rows for Wide<'_> {
    fn products(&self, _: Range<usize>, _: &[f32], _: &mut [f32]) -> bool {
        false
    }

    fn values(&self, rows: Range<usize>) -> Option<&[f32]> {
        Some(&self.w[rows.start * self.inside..rows.end * self.inside])
    }

    fn widen(&self, rows: Range<usize>, out: &mut [f32]) {
        out.copy_from_slice(&self.w[rows.start * self.inside..rows.end * self.inside]);
    }
}

/// y[i, o] = `combine(y[i, o], x[i] · w[o])`.
fn run(w: &impl Rows, [outside, inside]: [usize; 2], x: &[f32], y: &mut [f32], combine: impl Fn(f32, f32) -> f32) {
    let rows = x.len() / inside.max(1);
    assert!(x.len() == rows * inside && y.len() == rows * outside, "x, W and y do not fit");
    let arch = Arch::new();
    let part = |range: Range<usize>| {
        let mut products = vec![0f32; rows * range.len()];
        if w.products(range.clone(), x, &mut products) {
            return products;
        }
        let mut widened = Vec::new();
        for start in range.clone().step_by(WIDENED) {
            let some = start..(start + WIDENED).min(range.end);
            let (at, count, stride) = (start - range.start, some.len(), range.len());
            let weights = w.values(some.clone()).filter(|_| count == WIDENED).unwrap_or_else(|| {
                // What is left of earlier rows is multiplied too, and not looked at.
                widened.resize(WIDENED * inside, 0.0);
                w.widen(some, &mut widened[..count * inside]);
                &widened
            });
            arch.dispatch(Products { weights, x, inside, products: &mut products, stride, at, count });
        }
        products
    };
    // As many tasks as keep all threads busy when one is slow.
    let tasks = (outside * inside / TASK).clamp(1, 4 * rayon::current_num_threads());
    let step = outside.div_ceil(tasks).next_multiple_of(WIDENED);
    let ranges: Vec<Range<usize>> = (0..outside).step_by(step).map(|o| o..(o + step).min(outside)).collect();
    let parts: Vec<Vec<f32>> = match ranges.len() {
        1 => ranges.iter().cloned().map(part).collect(),
        _ => ranges.par_iter().cloned().map(part).collect(),
    };
    for (range, products) in ranges.into_iter().zip(parts) {
        for (y, products) in y.chunks_mut(outside).zip(products.chunks(range.len())) {
            y[range.clone()].iter_mut().zip(products).for_each(|(y, product)| *y = combine(*y, *product));
        }
    }
}

/// products[i · stride + at + o] = x[i] · weights[o] for the first `count` of the widened weight rows.
struct Products<'a> {
    weights: &'a [f32],
    x: &'a [f32],
    inside: usize,
    products: &'a mut [f32],
    stride: usize,
    at: usize,
    count: usize,
}

impl WithSimd for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { weights, x, inside, products, stride, at, count } = self;
        let rows = x.len().checked_div(inside).unwrap_or(0);
        let (first, second) = weights.split_at(WIDENED / 2 * inside);
        let mut i = 0;
        while i < rows {
            let together = (rows - i).min(3);
            let x = &x[i * inside..(i + together) * inside];
            let mut sums = [[0f32; WIDENED]; 3];
            match together {
                3 => beside(three_by_four(simd, first, x, inside), three_by_four(simd, second, x, inside), &mut sums),
                2 => beside(two_by_four(simd, first, x, inside), two_by_four(simd, second, x, inside), &mut sums),
                _ => [sums[0]] = one_by_eight(simd, weights, x, inside),
            }
            for sums in &sums[..together] {
                products[i * stride + at..][..count].copy_from_slice(&sums[..count]);
                i += 1;
            }
        }
    }
}

/// Puts the products with the first four weight rows and with the last four beside each other.
#[inline(always)]
fn beside<const M: usize>(low: [[f32; 4]; M], high: [[f32; 4]; M], sums: &mut [[f32; WIDENED]; 3]) {
    for m in 0..M {
        sums[m][..4].copy_from_slice(&low[m]);
        sums[m][4..].copy_from_slice(&high[m]);
    }
}

/// Defines the products of some rows of x with some weight rows: as many sums as vector registers hold, beside those of the values
/// and a weight. Each sum is made in the same order, whatever the rows beside it.
///
/// Loops over constants and no closures: what is not inlined would not have the vector instructions.
macro_rules! tile {
    ($name:ident, $rows:literal, $outs:literal: $($o:literal $w:ident $tail:ident),*) => {
        #[inline(always)]
        fn $name<S: Simd>(simd: S, w: &[f32], x: &[f32], inside: usize) -> [[f32; $outs]; $rows] {
            $(let ($w, $tail) = S::as_simd_f32s(&w[$o * inside..($o + 1) * inside]);)*
            let (mut xs, mut tails): ([&[S::f32s]; $rows], [&[f32]; $rows]) = ([&[]; $rows], [&[]; $rows]);
            for m in 0..$rows {
                (xs[m], tails[m]) = S::as_simd_f32s(&x[m * inside..(m + 1) * inside]);
            }
            let n = xs[0].len();
            $(assert!($w.len() == n);)*
            for m in 0..$rows {
                assert!(xs[m].len() == n);
            }
            let mut sums = [[simd.splat_f32s(0.0); $outs]; $rows];
            for i in 0..n {
                let mut values = [simd.splat_f32s(0.0); $rows];
                for m in 0..$rows {
                    values[m] = xs[m][i];
                }
                $(
                    let weight = $w[i];
                    for m in 0..$rows {
                        sums[m][$o] = simd.mul_add_f32s(weight, values[m], sums[m][$o]);
                    }
                )*
            }
            let mut products = [[0f32; $outs]; $rows];
            for m in 0..$rows {
                $(
                    products[m][$o] = simd.reduce_sum_f32s(sums[m][$o]);
                    for (w, x) in $tail.iter().zip(tails[m]) {
                        products[m][$o] += w * x;
                    }
                )*
            }
            products
        }
    };
}

tile!(three_by_four, 3, 4: 0 w0 t0, 1 w1 t1, 2 w2 t2, 3 w3 t3);
tile!(two_by_four, 2, 4: 0 w0 t0, 1 w1 t1, 2 w2 t2, 3 w3 t3);
tile!(one_by_eight, 1, 8: 0 w0 t0, 1 w1 t1, 2 w2 t2, 3 w3 t3, 4 w4 t4, 5 w5 t5, 6 w6 t6, 7 w7 t7);

#[cfg(test)]
mod tests {
    use super::super::reference;
    use super::*;

    fn waves(n: usize, step: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * step).sin()).collect()
    }

    #[test]
    fn agrees_with_three_loops_at_every_size() {
        for (outside, inside) in [(1, 1), (3, 5), (8, 16), (13, 40), (31, 67), (500, 300)] {
            let w = waves(outside * inside, 0.37);
            let weight = Matrix::from_values("w", w.clone(), outside, inside);
            for rows in [1, 2, 3, 4, 5, 7, FEW] {
                let x = waves(rows * inside, 0.71);
                let expected = reference::product(rows, outside, inside, &x, &w);
                let mut y = vec![9f32; rows * outside];
                product(&weight, &x, &mut y);
                let mut sum = vec![1f32; rows * outside];
                add_product(&w, inside, 0.5, &x, &mut sum);
                for ((y, sum), expected) in y.iter().zip(&sum).zip(&expected) {
                    assert!((y - expected).abs() < 1e-4, "({outside}, {inside}), {rows} rows: {y} and {expected}");
                    assert!((sum - 1.0 - 0.5 * expected).abs() < 1e-4, "({outside}, {inside}), {rows} rows");
                }
            }
        }
    }

    #[test]
    fn a_row_alone_and_among_others_is_the_same_bit_for_bit() {
        let (outside, inside, rows) = (200, 333, 11);
        let weight = Matrix::from_values("w", waves(outside * inside, 0.37), outside, inside);
        let x = waves(rows * inside, 0.71);
        let mut together = vec![0f32; rows * outside];
        product(&weight, &x, &mut together);
        for (x, expected) in x.chunks(inside).zip(together.chunks(outside)) {
            let mut alone = vec![0f32; outside];
            product(&weight, x, &mut alone);
            assert_eq!(alone, expected);
        }
    }
}
