//! Exponentials of rows, and sums and maxima beside them: the standard library's are computed one at a time.
//!
//! Sums are in an order that never changes, whatever the processor.

use pulp::{Arch, NullaryFnOnce};

/// Values that are summed or compared beside each other.
const LANES: usize = 16;
/// Values that are summed in f32 before they are added in f64.
const CHUNK: usize = 256;

/// eˣ to 2 units in the last place, for x in [−87.3, 88]; the ends' values outside of it. NaN stays NaN.
///
/// 2ⁿ · eʳ with r = x − n ln 2 (Cody and Waite 1980), and Cephes' polynomial for eʳ (Moshier 1992, `expf`).
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Added to a number it leaves its nearest integer in the last bits.
    const INTEGER: f32 = 12_582_912.0;
    const LN_2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    let x = x.clamp(-87.3, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + INTEGER;
    let n = shifted - INTEGER;
    let r = x - n * LN_2.0 - n * LN_2.1;
    let mut p = 1.987_569_1e-4f32;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = p * r + c;
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    (p * r * r + r + 1.0) * power
}

/// The largest value; NaN is passed over.
pub(crate) fn max(row: &[f32]) -> f32 {
    Arch::new().dispatch(Max(row))
}

struct Max<'a>(&'a [f32]);

impl NullaryFnOnce for Max<'_> {
    type Output = f32;

    #[inline(always)]
    fn call(self) -> f32 {
        let (chunks, rest) = self.0.as_chunks::<LANES>();
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for chunk in chunks {
            for i in 0..LANES {
                lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
            }
        }
        lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
    }
}

#[inline(always)]
fn sum(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [0f32; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += chunk[i];
        }
    }
    lanes.iter().chain(rest).sum()
}

/// Replaces x by exp(x − `less`); returns their sum.
pub(crate) fn exp_in_place(row: &mut [f32], less: f32) -> f64 {
    Arch::new().dispatch(InPlace { row, less })
}

struct InPlace<'a> {
    row: &'a mut [f32],
    less: f32,
}

impl NullaryFnOnce for InPlace<'_> {
    type Output = f64;

    #[inline(always)]
    fn call(self) -> f64 {
        let mut all = 0f64;
        for chunk in self.row.chunks_mut(CHUNK) {
            for x in chunk.iter_mut() {
                *x = exp(*x - self.less);
            }
            all += f64::from(sum(chunk));
        }
        all
    }
}

/// Σ exp(x − `less`).
pub(crate) fn sum_of_exp(row: &[f32], less: f32) -> f64 {
    let mut buffer = [0f32; CHUNK];
    let part = |chunk: &[f32]| {
        let buffer = &mut buffer[..chunk.len()];
        buffer.copy_from_slice(chunk);
        exp_in_place(buffer, less)
    };
    row.chunks(CHUNK).map(part).sum()
}

/// Σ p ln(p/q), with p = exp(x − `log_p`) and q = exp(y − `log_q`).
pub(crate) fn divergence(x: &[f32], y: &[f32], log_p: f32, log_q: f32) -> f64 {
    Arch::new().dispatch(Divergence { x, y, log_p, log_q })
}

struct Divergence<'a> {
    x: &'a [f32],
    y: &'a [f32],
    log_p: f32,
    log_q: f32,
}

impl NullaryFnOnce for Divergence<'_> {
    type Output = f64;

    #[inline(always)]
    fn call(self) -> f64 {
        let mut all = 0f64;
        for (x, y) in self.x.chunks(CHUNK).zip(self.y.chunks(CHUNK)) {
            let mut terms = [0f32; CHUNK];
            for ((term, x), y) in terms.iter_mut().zip(x).zip(y) {
                let (ln_p, ln_q) = (x - self.log_p, y - self.log_q);
                *term = exp(ln_p) * (ln_p - ln_q);
            }
            all += f64::from(sum(&terms[..x.len()]));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_those_of_f64() {
        let mut worst = 0f64;
        for i in -873_000..880_000 {
            let x = i as f32 * 1e-4;
            let expected = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - expected).abs() / expected);
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "{worst}");
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(f32::NEG_INFINITY), exp(-87.3));
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn rows_of_every_length_agree_with_plain_loops() {
        for n in [1, 15, 16, 17, 255, 256, 257, 1000] {
            let row: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin() * 9.0).collect();
            let other: Vec<f32> = row.iter().rev().copied().collect();
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(max(&row), largest);
            let expected: f64 = row.iter().map(|x| f64::from(x - largest).exp()).sum();
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-5 * b.abs().max(1e-3);
            assert!(near(sum_of_exp(&row, largest), expected));
            let mut changed = row.clone();
            assert!(near(exp_in_place(&mut changed, largest), expected));
            assert!(changed.iter().zip(&row).all(|(c, x)| near(f64::from(*c), f64::from(x - largest).exp())));
            let (log_p, log_q) = (3.0, 2.5);
            let terms = row.iter().zip(&other).map(|(x, y)| {
                let (ln_p, ln_q) = (f64::from(*x) - 3.0, f64::from(*y) - 2.5);
                ln_p.exp() * (ln_p - ln_q)
            });
            assert!((divergence(&row, &other, log_p, log_q) - terms.sum::<f64>()).abs() < 1e-3 * n as f64);
        }
        assert!(sum_of_exp(&[0.0, f32::NAN], 0.0).is_nan());
    }
}
