//! Functions of rows of logits: argmax, log-normaliser, KL divergence, largest difference.

pub(crate) use super::exp::{Distances, Normaliser, distances};

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
    Normaliser::new(row).log()
}

/// Largest |a − b|; NaN when one is NaN, which `f64::max` would leave out.
pub(crate) fn largest_difference(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, larger)
}

/// The larger of two; NaN when one is.
pub(crate) fn larger(a: f64, b: f64) -> f64 {
    if b > a || b.is_nan() { b } else { a }
}
