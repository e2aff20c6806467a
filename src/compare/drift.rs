//! How far tuned's next-token distributions moved from base's, from values at every position to one summary.

use crate::compare::stats::clustered_mean;
use crate::error::{Error, Result};
use crate::record::Drift;

/// Below 0 by at most this much a KL divergence is rounding, and counts as 0; nats.
const KL_ROUNDING: f64 = 1e-3;
/// A single text is cut into this many stretches, to have something to take a standard error over.
const STRETCHES: usize = 8;

/// What was measured on one text. All four have one value a position, nats where there is a unit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DriftSample {
    /// KL(base ‖ tuned) = Σ_v p ln(p/q).
    pub kl: Vec<f64>,
    /// −ln p of the token that follows.
    pub nll_base: Vec<f64>,
    /// −ln q of the token that follows.
    pub nll_tuned: Vec<f64>,
    /// Whether both arms have the same most likely token.
    pub same_top1: Vec<bool>,
}

impl DriftSample {
    fn check(&self, source: &str, text: usize) -> Result<()> {
        let n = self.kl.len();
        for (what, len) in [
            ("nll_base", self.nll_base.len()),
            ("nll_tuned", self.nll_tuned.len()),
            ("same_top1", self.same_top1.len()),
        ] {
            if len != n {
                return Err(Error::failed(format!(
                    "drift on {source}: text {text} has {len} values of {what}, expected {n}, one for each of kl"
                )));
            }
        }
        for (what, values, least) in [
            ("KL", &self.kl, -KL_ROUNDING),
            ("NLL of base", &self.nll_base, -KL_ROUNDING),
            ("NLL of tuned", &self.nll_tuned, -KL_ROUNDING),
        ] {
            if let Some((at, value)) = values.iter().enumerate().find(|(_, v)| !v.is_finite() || **v < least) {
                return Err(Error::failed(format!(
                    "drift on {source}: {what} at position {at} of text {text} is {value}, expected a finite number of at \
                     least 0; the weights or the adapter hold NaN or infinite values"
                )));
            }
        }
        Ok(())
    }
}

/// Sums up what was measured on the texts of `source`.
///
/// Means are over all positions; standard errors are over texts as clusters (a single text is cut into eight stretches, the
/// method of batch means). Median and 99th percentile are nearest-rank.
///
/// # Errors
/// Fewer than two positions; lists of unequal length; a value that is NaN, infinite or below 0.
pub fn summarise(source: &str, samples: &[DriftSample]) -> Result<Drift> {
    for (i, sample) in samples.iter().enumerate() {
        sample.check(source, i + 1)?;
    }
    let tokens: usize = samples.iter().map(|s| s.kl.len()).sum();
    if tokens < 2 {
        return Err(Error::failed(format!("drift on {source}: {tokens} positions, expected at least 2")));
    }
    let per_text =
        |values: &dyn Fn(&DriftSample) -> Vec<f64>| -> Vec<Vec<f64>> { clusters(samples.iter().map(values).collect()) };
    let mean = |values: &dyn Fn(&DriftSample) -> Vec<f64>| {
        clustered_mean(&per_text(values)).map_or((0.0, 0.0), |m| (m.mean, m.se.unwrap_or(0.0)))
    };
    let (kl_mean, kl_se) = mean(&|s| s.kl.iter().map(|v| v.max(0.0)).collect());
    let (nll_base, _) = mean(&|s| s.nll_base.clone());
    let (nll_tuned, _) = mean(&|s| s.nll_tuned.clone());
    let (_, nll_change_se) = mean(&|s| s.nll_tuned.iter().zip(&s.nll_base).map(|(t, b)| t - b).collect());
    let mut kl: Vec<f64> = samples.iter().flat_map(|s| s.kl.iter().map(|v| v.max(0.0))).collect();
    kl.sort_by(f64::total_cmp);
    let same = samples.iter().flat_map(|s| &s.same_top1).filter(|same| **same).count();
    Ok(Drift {
        source: source.to_owned(),
        tokens,
        kl_mean,
        kl_se,
        kl_median: nearest_rank(&kl, 0.5),
        kl_p99: nearest_rank(&kl, 0.99),
        same_top1: same as f64 / tokens as f64,
        nll_base,
        nll_tuned,
        nll_change_se,
    })
}

/// One cluster a text; a lone text is cut into stretches.
fn clusters(texts: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let mut texts: Vec<Vec<f64>> = texts.into_iter().filter(|t| !t.is_empty()).collect();
    match (texts.pop(), texts.is_empty()) {
        (Some(only), true) => only.chunks(only.len().div_ceil(STRETCHES)).map(<[f64]>::to_vec).collect(),
        (Some(last), false) => {
            texts.push(last);
            texts
        }
        (None, _) => texts,
    }
}

/// The value at rank ⌈q·n⌉ of sorted, non-empty values.
fn nearest_rank(sorted: &[f64], q: f64) -> f64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len()) - 1).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(kl: &[f64], change: f64) -> DriftSample {
        DriftSample {
            kl: kl.to_vec(),
            nll_base: vec![1.0; kl.len()],
            nll_tuned: vec![1.0 + change; kl.len()],
            same_top1: kl.iter().map(|v| *v < 0.5).collect(),
        }
    }

    #[test]
    fn positions_are_summed_up_over_texts() {
        let drift = summarise("base answers", &[sample(&[0.0, 0.2], 0.1), sample(&[0.4, 1.0], 0.3)]).expect("finite");
        assert_eq!((drift.tokens, drift.kl_median, drift.kl_p99, drift.same_top1), (4, 0.2, 1.0, 0.75));
        assert!((drift.kl_mean - 0.4).abs() < 1e-12);
        // Sums of deviations −0.6 and 0.6: √(2 · 0.72)/4.
        assert!((drift.kl_se - 0.3).abs() < 1e-12, "{}", drift.kl_se);
        assert!((drift.nll_change() - 0.2).abs() < 1e-12);
        assert!((drift.nll_change_se - 0.1).abs() < 1e-12, "{}", drift.nll_change_se);
    }

    #[test]
    fn change_of_nll_is_paired() {
        let mut text = sample(&[0.0; 4], 0.0);
        text.nll_base = vec![1.0, 9.0, 3.0, 5.0];
        text.nll_tuned = vec![1.5, 9.5, 3.5, 5.5];
        let drift = summarise("t", &[text.clone(), text]).expect("finite");
        assert_eq!(drift.nll_change(), 0.5);
        assert!(drift.nll_change_se < 1e-12);
    }

    #[test]
    fn a_lone_text_still_has_a_standard_error() {
        let drift = summarise("t", &[sample(&[0.1, 0.9, 0.1, 0.9, 0.4], 0.0), DriftSample::default()]).expect("finite");
        assert!(drift.kl_se > 0.0);
    }

    #[test]
    fn what_is_not_a_number_is_an_error_and_no_pass() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.5] {
            let error =
                summarise("base answers", &[sample(&[0.1, 0.1], 0.0), sample(&[0.1, bad], 0.0)]).expect_err("bad");
            let message = error.to_string();
            assert!(message.contains("position 1 of text 2") && message.contains("base answers"), "{message}");
        }
        let mut text = sample(&[0.1, 0.1], 0.0);
        text.nll_tuned[0] = f64::NAN;
        assert!(summarise("t", &[text]).is_err());
    }

    #[test]
    fn nothing_measured_is_an_error() {
        assert!(summarise("t", &[]).is_err());
        assert!(summarise("t", &[sample(&[0.1], 0.0)]).is_err());
        let mut text = sample(&[0.1, 0.1], 0.0);
        text.same_top1.pop();
        assert!(summarise("t", &[text]).expect_err("uneven").to_string().contains("same_top1"));
    }

    #[test]
    fn rounding_below_zero_counts_as_zero() {
        assert_eq!(summarise("t", &[sample(&[-1e-9, 0.0], 0.0)]).expect("rounding").kl_mean, 0.0);
    }
}
