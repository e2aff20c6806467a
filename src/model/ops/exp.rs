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

/// ln x to 3 units in the last place, for normal x above 0.
///
/// x = 2ⁿ · m with m in [√½, √2), and Cephes' polynomial for ln m (Moshier 1992, `logf`).
#[inline(always)]
fn ln(x: f32) -> f32 {
    const LN_2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    // √½'s bits: what is above the exponent's own in the difference is n.
    const ROOT_HALF: u32 = 0x3f35_04f3;
    let offset = x.to_bits().wrapping_sub(ROOT_HALF);
    let n = ((offset as i32) >> 23) as f32;
    let m = f32::from_bits((offset & 0x007f_ffff).wrapping_add(ROOT_HALF)) - 1.0;
    let mut p = 7.037_683_6e-2f32;
    for c in [
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        0.333_333_3,
    ] {
        p = p * m + c;
    }
    let square = m * m;
    let tail = p * m * square + n * LN_2.1 - 0.5 * square;
    (m + tail) + n * LN_2.0
}

/// A row of logits as a distribution: p = exp(x − `largest`) / `sum`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Normaliser {
    largest: f32,
    sum: f64,
}

impl Normaliser {
    /// Of this row.
    pub(crate) fn new(row: &[f32]) -> Self {
        let largest = max(row);
        Self { largest, sum: sum_of_exp(row, largest) }
    }

    /// ln Σ exp(x).
    pub(crate) fn log(&self) -> f64 {
        f64::from(self.largest) + self.sum.ln()
    }
}

/// How far two distributions p and q are from each other.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Distances {
    /// Σ p ln(p/q), nats.
    pub(crate) kl: f64,
    /// Σ q ln(q/p), nats.
    pub(crate) reverse_kl: f64,
    /// ½ Σ |p − q|, 0 to 1.
    pub(crate) total_variation: f64,
    /// ½ KL(p ‖ m) + ½ KL(q ‖ m) with m = ½(p + q), 0 to ln 2.
    pub(crate) jensen_shannon: f64,
}

/// Distances of the distributions of two rows of logits.
///
/// Each sum is of terms that are at least 0, p(e⁻ᵈ − 1 + d) for KL with d = ln p − ln q: the terms p·d of the definition cancel in what p and q
/// have in common, and in f32 little would be left of a small divergence.
pub(crate) fn distances(x: &[f32], y: &[f32], p: Normaliser, q: Normaliser) -> Distances {
    Arch::new().dispatch(Distance { x, y, p, q })
}

struct Distance<'a> {
    x: &'a [f32],
    y: &'a [f32],
    p: Normaliser,
    q: Normaliser,
}

/// |d| below which (e⁻ᵈ − 1 + d)/d² is summed as a series.
const SMALL: f32 = 0.25;
/// |u| below which the Jensen-Shannon term is summed as a series.
const SMALL_RATIO: f32 = 0.3;

impl NullaryFnOnce for Distance<'_> {
    type Output = Distances;

    #[inline(always)]
    fn call(self) -> Distances {
        let shift = (self.p.log() - self.q.log()) as f32;
        let (p_scale, q_scale) = ((1.0 / self.p.sum) as f32, (1.0 / self.q.sum) as f32);
        let mut all = Distances::default();
        let mut terms = [[0f32; CHUNK]; 4];
        for (x, y) in self.x.chunks(CHUNK).zip(self.y.chunks(CHUNK)) {
            for (i, (x, y)) in x.iter().zip(y).enumerate() {
                let p = exp(x - self.p.largest) * p_scale;
                let q = exp(y - self.q.largest) * q_scale;
                let d = (x - y) - shift;
                let square = d * d;
                // Σ (−d)ᵏ/(k + 2)! and Σ dᵏ/(k + 2)!: the even powers are the same.
                let even = 0.5 + square * (1.0 / 24.0 + square * (1.0 / 720.0 + square / 40_320.0));
                let odd = d * (1.0 / 6.0 + square * (1.0 / 120.0 + square / 5040.0));
                let small = d.abs() < SMALL;
                terms[0][i] = if small { p * square * (even - odd) } else { p * (d - 1.0) + q };
                terms[1][i] = if small { q * square * (even + odd) } else { p - q * (d + 1.0) };
                terms[2][i] = (p - q).abs();
                // p = m(1 − u) and q = m(1 + u) with u = −tanh(d/2).
                let m = 0.5 * (p + q);
                let series = -0.5 * d * (1.0 - square * (1.0 / 12.0 - square / 120.0));
                let u = if small { series } else { (q - p) / (2.0 * m + f32::MIN_POSITIVE) };
                let v = u * u;
                let near = v * (0.5 + v * (1.0 / 12.0 + v * (1.0 / 30.0 + v * (1.0 / 56.0 + v / 90.0))));
                let (less, more) = ((1.0 - u).max(f32::MIN_POSITIVE), (1.0 + u).max(f32::MIN_POSITIVE));
                let far = 0.5 * (less * ln(less) + more * ln(more));
                terms[3][i] = m * if u.abs() < SMALL_RATIO { near } else { far };
            }
            let n = x.len();
            all.kl += f64::from(sum(&terms[0][..n]));
            all.reverse_kl += f64::from(sum(&terms[1][..n]));
            all.total_variation += 0.5 * f64::from(sum(&terms[2][..n]));
            all.jensen_shannon += f64::from(sum(&terms[3][..n]));
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
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(max(&row), largest);
            let expected: f64 = row.iter().map(|x| f64::from(x - largest).exp()).sum();
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-5 * b.abs().max(1e-3);
            assert!(near(sum_of_exp(&row, largest), expected));
            let mut changed = row.clone();
            assert!(near(exp_in_place(&mut changed, largest), expected));
            assert!(changed.iter().zip(&row).all(|(c, x)| near(f64::from(*c), f64::from(x - largest).exp())));
        }
        assert!(sum_of_exp(&[0.0, f32::NAN], 0.0).is_nan());
    }

    #[test]
    fn logarithms_are_those_of_f64() {
        let mut worst = 0f64;
        for i in 1..400_000 {
            let x = (i as f32 * 1e-5).max(f32::MIN_POSITIVE);
            let expected = f64::from(x).ln();
            worst = worst.max((f64::from(ln(x)) - expected).abs() / expected.abs().max(0.1));
        }
        assert!(worst < 4.0 * f64::from(f32::EPSILON), "{worst}");
        assert!((ln(f32::MIN_POSITIVE) - f32::MIN_POSITIVE.ln()).abs() < 1e-5);
    }

    /// The definitions, in f64.
    fn defined(x: &[f32], y: &[f32]) -> Distances {
        let wide = |row: &[f32]| -> Vec<f64> { row.iter().map(|x| f64::from(*x)).collect() };
        let log_softmax = |row: &[f32]| -> Vec<f64> {
            let row = wide(row);
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let log = largest + row.iter().map(|x| (x - largest).exp()).sum::<f64>().ln();
            row.iter().map(|x| x - log).collect()
        };
        let mut all = Distances::default();
        for (ln_p, ln_q) in log_softmax(x).into_iter().zip(log_softmax(y)) {
            let (p, q) = (ln_p.exp(), ln_q.exp());
            let ln_m = (0.5 * (p + q)).ln();
            all.kl += p * (ln_p - ln_q);
            all.reverse_kl += q * (ln_q - ln_p);
            all.total_variation += 0.5 * (p - q).abs();
            all.jensen_shannon += 0.5 * (p * (ln_p - ln_m) + q * (ln_q - ln_m));
        }
        all
    }

    #[test]
    fn distances_are_those_of_their_definitions_from_near_to_far() {
        for (n, spread) in [(50, 3.0f32), (4_000, 6.0), (50_000, 9.0)] {
            for far in [1e-3f32, 0.02, 0.3, 2.0, 12.0] {
                let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin() * spread).collect();
                let y: Vec<f32> = x.iter().enumerate().map(|(i, x)| x + far * (i as f32 * 1.3 + far).cos()).collect();
                let (found, expected) = (distances(&x, &y, Normaliser::new(&x), Normaliser::new(&y)), defined(&x, &y));
                let pairs = [
                    (found.kl, expected.kl),
                    (found.reverse_kl, expected.reverse_kl),
                    (found.total_variation, expected.total_variation),
                    (found.jensen_shannon, expected.jensen_shannon),
                ];
                for (found, expected) in pairs {
                    // A difference of a thousandth is of the size of what f32 logits are rounded to.
                    let tolerance = if far < 0.01 { 1e-3 } else { 1e-5 };
                    assert!((found - expected).abs() <= tolerance * expected, "{n} {far}: {found} {expected}");
                }
            }
        }
    }

    /// tests/fixtures/statistics/make.py: logits of sines, scipy.special.rel_entr in f64.
    #[test]
    fn distances_are_those_of_scipy() {
        let computed = [
            (4_000, 6.0, 0.02, [0.000_100_028_36, 0.000_100_022_27, 0.006_367_748_2, 2.500_601_5e-5]),
            (4_000, 6.0, 0.3, [0.022_385_913_96, 0.022_135_842_97, 0.094_653_068_94, 0.005_549_425_24]),
            (50_000, 9.0, 2.0, [0.824_069_466_27, 0.571_669_261_95, 0.467_494_179_44, 0.151_283_282_22]),
        ];
        for (n, spread, far, expected) in computed {
            let x: Vec<f32> = (0..n).map(|i| ((f64::from(i) * 0.7).sin() * spread) as f32).collect();
            let shifted = |(i, x): (usize, &f32)| (f64::from(*x) + far * (i as f64 * 1.3 + far).cos()) as f32;
            let y: Vec<f32> = x.iter().enumerate().map(shifted).collect();
            let d = distances(&x, &y, Normaliser::new(&x), Normaliser::new(&y));
            for (found, expected) in [d.kl, d.reverse_kl, d.total_variation, d.jensen_shannon].into_iter().zip(expected)
            {
                assert!((found - expected).abs() <= 1e-5 * expected, "{far}: {found} {expected}");
            }
        }
    }

    #[test]
    fn the_same_row_has_no_distance_and_opposite_ones_the_largest() {
        let x: Vec<f32> = (0..1000).map(|i| (i as f32).sin() * 5.0).collect();
        let same = distances(&x, &x, Normaliser::new(&x), Normaliser::new(&x));
        assert_eq!(same, Distances::default());
        let (mut one, mut other) = (vec![-50f32; 300], vec![-50f32; 300]);
        (one[3], other[200]) = (50.0, 50.0);
        let far = distances(&one, &other, Normaliser::new(&one), Normaliser::new(&other));
        assert!((far.total_variation - 1.0).abs() < 1e-6 && (far.jensen_shannon - std::f64::consts::LN_2).abs() < 1e-6);
        assert!((far.kl - 100.0).abs() < 1e-3 && (far.reverse_kl - 100.0).abs() < 1e-3, "{far:?}");
        let mut broken = one.clone();
        broken[7] = f32::NAN;
        assert!(distances(&broken, &other, Normaliser::new(&broken), Normaliser::new(&other)).kl.is_nan());
    }
}
