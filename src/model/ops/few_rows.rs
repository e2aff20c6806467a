//! Products of few rows with many weights, as in decoding: reading and widening the weights is most of the work, so that each
//! weight is widened once, into the fastest cache, and meets all rows there.
//!
//! A row's result does not depend on the rows beside it, nor on the number of threads.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::matrix::Matrix;
use super::rounding::round;

/// Rows that count as few: with more, `gemm` is as fast, which packs the weights for many.
pub(crate) const MAX_ROWS: usize = 48;

/// Weight rows that are widened at once.
const WIDENED: usize = 8;
/// Weights that are worth a task of their own.
const TASK: usize = 1 << 16;

/// y (rows, out) = x (rows, in) Wᵀ.
pub(crate) fn product(weight: &Matrix, x: &[f32], y: &mut [f32]) {
    run(weight, [weight.rows, weight.cols], x, y, |_, value| value);
}

/// As [`product`] of weights rounded to bf16.
pub(super) fn product_rounded(weight: &Matrix, x: &[f32], y: &mut [f32]) {
    run(&Rounded(weight), [weight.rows, weight.cols], x, y, |_, value| value);
}

/// y (rows, out) += scale · x (rows, in) Wᵀ, for W (out, in) in f32.
pub(crate) fn add_product(w: &[f32], in_features: usize, scale: f32, x: &[f32], y: &mut [f32]) {
    let out_features = w.len().checked_div(in_features).unwrap_or(0);
    run(&Wide { w, in_features }, [out_features, in_features], x, y, |y, value| y + scale * value);
}

/// Rows that begin `stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct Strided<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    pub(crate) width: usize,
}

impl<'a> Strided<'a> {
    /// Dense rows.
    pub(crate) fn dense(data: &'a [f32], rows: usize, width: usize) -> Self {
        Self { data, stride: width, rows, width }
    }

    #[inline(always)]
    fn row(&self, row: usize) -> &'a [f32] {
        &self.data[row * self.stride..][..self.width]
    }
}

/// y (m, n) = scale · x (m, width) Wᵀ for W (n, width), on the calling thread: one token's queries with the keys before it.
pub(crate) fn scores(w: Strided<'_>, scale: f32, x: &[f32], y: &mut [f32]) {
    let rows = x.len().checked_div(w.width).unwrap_or(0);
    assert!(x.len() == rows * w.width && y.len() == rows * w.rows, "x, W and y do not fit");
    eight_lanes().dispatch(Scores { w, scale, x, y });
}

/// y (m, width) += scale · h (m, n) W for W (n, width), on the calling thread: values weighed by one token's attention, and low-rank
/// products by B's columns, which are made many at a time and not one by one.
pub(crate) fn add_combination(w: Strided<'_>, scale: f32, h: &[f32], y: &mut [f32]) {
    let rows = h.len().checked_div(w.rows).unwrap_or(0);
    assert!(h.len() == rows * w.rows && y.len() == rows * w.width, "h, W and y do not fit");
    for (h, y) in h.chunks(w.rows.max(1)).zip(y.chunks_mut(w.width.max(1))) {
        eight_lanes().dispatch(Combination { w, scale, h, y });
    }
}

struct Scores<'a> {
    w: Strided<'a>,
    scale: f32,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl WithSimd for Scores<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { w, scale, x, y } = self;
        for (x, y) in x.chunks(w.width).zip(y.chunks_mut(w.rows)) {
            for (i, y) in y.chunks_mut(4).enumerate() {
                // What is missing is multiplied too, and not looked at.
                let last = 4 * i + y.len() - 1;
                let at = 4 * i;
                let four = [w.row(at), w.row((at + 1).min(last)), w.row((at + 2).min(last)), w.row((at + 3).min(last))];
                let [products] = one_by_four(simd, four, x, w.width);
                for (y, product) in y.iter_mut().zip(products) {
                    *y = scale * product;
                }
            }
        }
    }
}

/// Rows that are added at a time.
const TOGETHER: usize = 4;

/// y += scale · Σ h[r] · w[r].
struct Combination<'a> {
    w: Strided<'a>,
    scale: f32,
    h: &'a [f32],
    y: &'a mut [f32],
}

impl WithSimd for Combination<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { w, scale, h, y } = self;
        for (i, h) in h.chunks(TOGETHER).enumerate() {
            let mut factors = [0f32; TOGETHER];
            // What is missing is multiplied by 0, and is one that is there.
            let mut rows = [w.row(i * TOGETHER); TOGETHER];
            for (r, h) in h.iter().enumerate() {
                factors[r] = scale * h;
                rows[r] = w.row(i * TOGETHER + r);
            }
            let ((a, a_tail), (b, b_tail)) = (S::as_simd_f32s(rows[0]), S::as_simd_f32s(rows[1]));
            let ((c, c_tail), (d, d_tail)) = (S::as_simd_f32s(rows[2]), S::as_simd_f32s(rows[3]));
            let (fa, fb) = (simd.splat_f32s(factors[0]), simd.splat_f32s(factors[1]));
            let (fc, fd) = (simd.splat_f32s(factors[2]), simd.splat_f32s(factors[3]));
            let (head, tail) = S::as_mut_simd_f32s(y);
            for ((((y, a), b), c), d) in head.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                let sum = simd.mul_add_f32s(fb, *b, simd.mul_add_f32s(fa, *a, *y));
                *y = simd.mul_add_f32s(fd, *d, simd.mul_add_f32s(fc, *c, sum));
            }
            let tails = [a_tail, b_tail, c_tail, d_tail];
            for (i, y) in tail.iter_mut().enumerate() {
                for (factor, tail) in factors.iter().zip(tails) {
                    *y += factor * tail[i];
                }
            }
        }
    }
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

/// Weights that become bf16.
struct Rounded<'a>(&'a Matrix);

impl Rows for Rounded<'_> {
    fn products(&self, _: Range<usize>, _: &[f32], _: &mut [f32]) -> bool {
        false
    }

    fn values(&self, _: Range<usize>) -> Option<&[f32]> {
        None
    }

    fn widen(&self, rows: Range<usize>, out: &mut [f32]) {
        self.0.widen_serially(rows, out);
        round(out);
    }
}

/// Weights (out, `in_features`) in f32.
struct Wide<'a> {
    w: &'a [f32],
    in_features: usize,
}

impl Wide<'_> {
    fn rows(&self, rows: Range<usize>) -> &[f32] {
        &self.w[rows.start * self.in_features..rows.end * self.in_features]
    }
}

impl Rows for Wide<'_> {
    fn products(&self, _: Range<usize>, _: &[f32], _: &mut [f32]) -> bool {
        false
    }

    fn values(&self, rows: Range<usize>) -> Option<&[f32]> {
        Some(self.rows(rows))
    }

    fn widen(&self, rows: Range<usize>, out: &mut [f32]) {
        out.copy_from_slice(self.rows(rows));
    }
}

/// Vectors of eight where there are some, also on processors that have longer ones: a product is then the same on all of them bit for
/// bit, and with few rows it is the unpacking of weights that takes the time.
fn eight_lanes() -> Arch {
    #[cfg(target_arch = "x86_64")]
    if let Some(v3) = pulp::x86::V3::try_new() {
        return Arch::V3(v3);
    }
    Arch::new()
}

/// y[i, o] = `combine(y[i, o], x[i] · w[o])`.
fn run(
    w: &impl Rows,
    [out_features, in_features]: [usize; 2],
    x: &[f32],
    y: &mut [f32],
    combine: impl Fn(f32, f32) -> f32,
) {
    let rows = x.len() / in_features.max(1);
    assert!(x.len() == rows * in_features && y.len() == rows * out_features, "x, W and y do not fit");
    let arch = eight_lanes();
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
                widened.resize(WIDENED * in_features, 0.0);
                w.widen(some, &mut widened[..count * in_features]);
                &widened
            });
            arch.dispatch(Products { weights, x, in_features, products: &mut products, stride, at, count });
        }
        products
    };
    // As many tasks as keep all threads busy when one is slow.
    let tasks = (out_features * in_features / TASK).clamp(1, 4 * rayon::current_num_threads());
    let step = out_features.div_ceil(tasks).next_multiple_of(WIDENED);
    let ranges: Vec<Range<usize>> = (0..out_features).step_by(step).map(|o| o..(o + step).min(out_features)).collect();
    let parts: Vec<Vec<f32>> = match ranges.len() {
        1 => ranges.iter().cloned().map(part).collect(),
        _ => ranges.par_iter().cloned().map(part).collect(),
    };
    for (range, products) in ranges.into_iter().zip(parts) {
        for (y, products) in y.chunks_mut(out_features).zip(products.chunks(range.len())) {
            y[range.clone()].iter_mut().zip(products).for_each(|(y, product)| *y = combine(*y, *product));
        }
    }
}

/// products[i · stride + at + o] = x[i] · weights[o] for the first `count` of the widened weight rows.
struct Products<'a> {
    weights: &'a [f32],
    x: &'a [f32],
    in_features: usize,
    products: &'a mut [f32],
    stride: usize,
    at: usize,
    count: usize,
}

impl WithSimd for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { weights, x, in_features, products, stride, at, count } = self;
        let rows = x.len().checked_div(in_features).unwrap_or(0);
        let weights = Strided::dense(weights, WIDENED, in_features);
        let first = [weights.row(0), weights.row(1), weights.row(2), weights.row(3)];
        let second = [weights.row(4), weights.row(5), weights.row(6), weights.row(7)];
        let mut i = 0;
        while i < rows {
            let together = (rows - i).min(3);
            let x = &x[i * in_features..(i + together) * in_features];
            let mut sums = [[0f32; WIDENED]; 3];
            match together {
                3 => beside(
                    three_by_four(simd, first, x, in_features),
                    three_by_four(simd, second, x, in_features),
                    &mut sums,
                ),
                2 => beside(
                    two_by_four(simd, first, x, in_features),
                    two_by_four(simd, second, x, in_features),
                    &mut sums,
                ),
                _ => {
                    let [a, b, c, d] = first;
                    let [e, f, g, h] = second;
                    [sums[0]] = one_by_eight(simd, [a, b, c, d, e, f, g, h], x, in_features);
                }
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
        fn $name<S: Simd>(simd: S, w: [&[f32]; $outs], x: &[f32], in_features: usize) -> [[f32; $outs]; $rows] {
            $(let ($w, $tail) = S::as_simd_f32s(&w[$o][..in_features]);)*
            let (mut xs, mut tails): ([&[S::f32s]; $rows], [&[f32]; $rows]) = ([&[]; $rows], [&[]; $rows]);
            for m in 0..$rows {
                (xs[m], tails[m]) = S::as_simd_f32s(&x[m * in_features..(m + 1) * in_features]);
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

tile!(one_by_four, 1, 4: 0 w0 t0, 1 w1 t1, 2 w2 t2, 3 w3 t3);
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
        for (out_features, in_features) in [(1, 1), (3, 5), (8, 16), (13, 40), (31, 67), (500, 300)] {
            let w = waves(out_features * in_features, 0.37);
            let weight = Matrix::from_values("w", w.clone(), out_features, in_features);
            for rows in [1, 2, 3, 4, 5, 7, MAX_ROWS] {
                let x = waves(rows * in_features, 0.71);
                let expected = reference::product(rows, out_features, in_features, &x, &w);
                let mut y = vec![9f32; rows * out_features];
                product(&weight, &x, &mut y);
                let mut sum = vec![1f32; rows * out_features];
                add_product(&w, in_features, 0.5, &x, &mut sum);
                let columns: Vec<f32> = (0..out_features * in_features)
                    .map(|i| w[i % out_features * in_features + i / out_features])
                    .collect();
                let mut combined = vec![1f32; rows * out_features];
                add_combination(Strided::dense(&columns, in_features, out_features), 0.5, &x, &mut combined);
                for (sum, combined) in sum.iter().zip(&combined) {
                    assert!(
                        (sum - combined).abs() < 1e-4,
                        "({out_features}, {in_features}), {rows} rows: {combined} and {sum}"
                    );
                }
                for ((y, sum), expected) in y.iter().zip(&sum).zip(&expected) {
                    assert!(
                        (y - expected).abs() < 1e-4,
                        "({out_features}, {in_features}), {rows} rows: {y} and {expected}"
                    );
                    assert!((sum - 1.0 - 0.5 * expected).abs() < 1e-4, "({out_features}, {in_features}), {rows} rows");
                }
            }
        }
    }

    #[test]
    fn a_row_alone_and_among_others_is_the_same_bit_for_bit() {
        let (out_features, in_features, rows) = (200, 333, 11);
        let weight = Matrix::from_values("w", waves(out_features * in_features, 0.37), out_features, in_features);
        let x = waves(rows * in_features, 0.71);
        let mut together = vec![0f32; rows * out_features];
        product(&weight, &x, &mut together);
        for (x, expected) in x.chunks(in_features).zip(together.chunks(out_features)) {
            let mut alone = vec![0f32; out_features];
            product(&weight, x, &mut alone);
            assert_eq!(alone, expected);
        }
    }
}
