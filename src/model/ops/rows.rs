//! Functions of rows of logits: argmax, log-normaliser, KL divergence, largest difference.

use super::exp;

/// Index of the largest value; the first of equal ones.
pub(crate) fn argmax(row: &[f32]) -> u32 {
    let mut best = 0;
    for (i, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = i;
        }
    }
    best as u32
}

/// ln Σ exp(x).
pub(crate) fn log_normaliser(row: &[f32]) -> f64 {
    let largest = exp::max(row);
    f64::from(largest) + exp::sum_of_exp(row, largest).ln()
}

/// Σ_v p ln(p/q) of two rows of logits; rounding below 0 is 0, and NaN stays NaN.
pub(crate) fn divergence(p: &[f32], q: &[f32], log_p: f64, log_q: f64) -> f64 {
    let sum = exp::divergence(p, q, log_p as f32, log_q as f32);
    // `f64::max` would make 0 of NaN.
    if sum < 0.0 { 0.0 } else { sum }
}

/// Largest |a − b|; NaN when one is NaN, which `f64::max` would leave out.
pub(crate) fn largest_difference(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, larger)
}

/// The larger of two; NaN when one is.
pub(crate) fn larger(a: f64, b: f64) -> f64 {
    if b > a || b.is_nan() { b } else { a }
}
