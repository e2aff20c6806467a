//! How far tuned's next-token distributions moved from base's, from values at every position to one summary.

use crate::compare::stats::{clustered_mean, mean};
use crate::error::{Error, Result};
use crate::record::{
    Divergence, Drift, DriftMethod, DriftSample, Floor, MOST_POSITIONS, Measures, TextDrift, TextMeans,
};

/// Below 0 by at most this much a KL divergence is rounding, and counts as 0; nats.
const KL_ROUNDING: f64 = 1e-3;
/// A single text is cut into this many stretches, to have something to take a standard error over.
const STRETCHES: usize = 8;

impl DriftSample {
    fn check(&self, source: &str, text: usize, method: DriftMethod) -> Result<()> {
        let n = self.len();
        let divergences = if method == DriftMethod::Nll { 0 } else { n };
        for (what, len, expected) in [
            ("kl", self.kl.len(), divergences),
            ("nll_tuned", self.nll_tuned.len(), n),
            ("same_top1", self.same_top1.len(), divergences),
            ("reverse_kl", self.reverse_kl.len(), if self.reverse_kl.is_empty() { 0 } else { divergences }),
            ("total_variation", self.total_variation.len(), self.reverse_kl.len()),
            ("jensen_shannon", self.jensen_shannon.len(), self.reverse_kl.len()),
            ("covered", self.covered.len(), if self.covered.is_empty() { 0 } else { divergences }),
        ] {
            if len != expected {
                return Err(Error::failed(format!(
                    "drift on {source}: text {text} has {len} values of {what}, expected {expected}: {n} positions were measured by \
                     {method}"
                )));
            }
        }
        for (what, values, least) in [
            ("KL", &self.kl, -KL_ROUNDING),
            ("reverse KL", &self.reverse_kl, -KL_ROUNDING),
            ("total variation", &self.total_variation, -KL_ROUNDING),
            ("Jensen-Shannon divergence", &self.jensen_shannon, -KL_ROUNDING),
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

    /// What a method sees that sees likelihoods alone.
    #[cfg(feature = "candle")]
    pub(crate) fn likelihoods(self) -> Self {
        Self { nll_base: self.nll_base, nll_tuned: self.nll_tuned, ..Self::default() }
    }

    /// KL of each position, or the change of NLL where there is none, for a record.
    fn values(&self) -> Vec<f32> {
        let values = if self.kl.is_empty() { self.nll_changes() } else { above_zero(&self.kl) };
        values.into_iter().take(MOST_POSITIONS).map(four_digits).collect()
    }
}

/// Values with rounding below 0 as 0.
fn above_zero(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| value.max(0.0)).collect()
}

impl DriftSample {
    /// NLL of tuned − NLL of base, position by position.
    fn nll_changes(&self) -> Vec<f64> {
        self.nll_tuned.iter().zip(&self.nll_base).map(|(tuned, base)| tuned - base).collect()
    }

    fn measures(&self) -> Option<Measures> {
        let positive = |values: &[f64]| mean(&above_zero(values));
        let pairs = self.nll_tuned.iter().zip(&self.nll_base);
        let change: Vec<f64> = pairs.map(|(tuned, base)| (-tuned).exp() - (-base).exp()).collect();
        (!self.reverse_kl.is_empty()).then(|| Measures {
            reverse_kl: positive(&self.reverse_kl),
            total_variation: positive(&self.total_variation),
            jensen_shannon: positive(&self.jensen_shannon),
            probability_change: mean(&change),
        })
    }

    fn means(&self) -> TextMeans {
        let same: Vec<f64> = self.same_top1.iter().map(|same| f64::from(u8::from(*same))).collect();
        TextMeans {
            tokens: self.len(),
            kl: (!self.kl.is_empty()).then(|| mean(&above_zero(&self.kl))),
            same_top1: (!self.same_top1.is_empty()).then(|| mean(&same)),
            nll_change: mean(&self.nll_changes()),
            measures: self.measures(),
        }
    }
}

/// Means over the positions of all texts, out of the texts' own; `None` where a text has none.
fn all_measures(texts: &[TextDrift]) -> Option<Measures> {
    let mut all = Measures::default();
    let mut tokens = 0.0;
    for means in texts.iter().filter_map(|text| text.means.as_ref()).filter(|means| means.tokens > 0) {
        let (measures, n) = (means.measures?, means.tokens as f64);
        tokens += n;
        all.reverse_kl += n * measures.reverse_kl;
        all.total_variation += n * measures.total_variation;
        all.jensen_shannon += n * measures.jensen_shannon;
        all.probability_change += n * measures.probability_change;
    }
    let values = [&mut all.reverse_kl, &mut all.total_variation, &mut all.jensen_shannon, &mut all.probability_change];
    values.into_iter().for_each(|value| *value /= tokens);
    (tokens > 0.0).then_some(all)
}

/// A value to four significant digits: a record of thousands of positions is read, and kept, for that.
fn four_digits(value: f64) -> f32 {
    format!("{value:.3e}").parse().unwrap_or(f32::NAN)
}

/// Sums up what was measured by `method` on the texts of `source`; each sample has its text's name.
///
/// Means are over all positions; standard errors are over texts as clusters (a single text is cut into eight stretches, the
/// method of batch means). Median and 99th percentile are nearest-rank.
///
/// # Errors
/// Fewer than two positions; lists of unequal length; a value that is NaN, infinite or below 0.
pub fn summarise(source: &str, method: DriftMethod, texts: &[(String, DriftSample)]) -> Result<Drift> {
    for (i, (_, sample)) in texts.iter().enumerate() {
        sample.check(source, i + 1, method)?;
    }
    let tokens: usize = texts.iter().map(|(_, sample)| sample.len()).sum();
    if tokens < 2 {
        return Err(Error::failed(format!("drift on {source}: {tokens} positions, expected at least 2")));
    }
    let samples = || texts.iter().map(|(_, sample)| sample);
    let over_texts = |values: &dyn Fn(&DriftSample) -> Vec<f64>| {
        let of_texts = clusters(samples().map(values).collect());
        clustered_mean(&of_texts).map_or((0.0, 0.0), |m| (m.mean, m.se.unwrap_or(0.0)))
    };
    let (nll_base, _) = over_texts(&|s| s.nll_base.clone());
    let (nll_tuned, _) = over_texts(&|s| s.nll_tuned.clone());
    let (_, nll_change_se) = over_texts(&DriftSample::nll_changes);
    let mut sorted: Vec<f64> = samples().flat_map(|s| above_zero(&s.kl)).collect();
    sorted.sort_by(f64::total_cmp);
    let kl = (method != DriftMethod::Nll).then(|| {
        let (mean, se) = over_texts(&|s| above_zero(&s.kl));
        Divergence { mean, se, median: nearest_rank(&sorted, 0.5), p99: nearest_rank(&sorted, 0.99) }
    });
    let same = samples().flat_map(|s| &s.same_top1).filter(|same| **same).count();
    let covered: Vec<f64> = samples().flat_map(|s| s.covered.iter().copied()).collect();
    let kept = texts.iter().map(|(text, sample)| TextDrift {
        text: text.clone(),
        values: sample.values(),
        means: Some(sample.means()),
        divergence: sample.divergence.clone(),
        moved: sample.moved.clone(),
    });
    let kept: Vec<TextDrift> = kept.collect();
    Ok(Drift {
        source: source.to_owned(),
        method,
        tokens,
        kl,
        covered: (!covered.is_empty()).then(|| mean(&covered)),
        decided_by: None,
        same_top1: kl.map(|_| same as f64 / tokens as f64),
        nll_base,
        nll_tuned,
        nll_change_se,
        measures: all_measures(&kept),
        floor: None,
        texts: kept,
    })
}

/// What differs between two measurements of the same texts; `None` without a text that both have at the same length.
#[must_use]
pub fn floor(first: &[DriftSample], second: &[DriftSample]) -> Option<Floor> {
    let pairs: Vec<(&DriftSample, &DriftSample)> =
        first.iter().zip(second).filter(|(a, b)| !a.is_empty() && a.len() == b.len()).collect();
    if pairs.is_empty() {
        return None;
    }
    let changes = |of: fn(&DriftSample) -> &Vec<f64>| -> Vec<f64> {
        pairs.iter().flat_map(|(a, b)| of(a).iter().zip(of(b)).map(|(a, b)| (a - b).abs())).collect()
    };
    let kl = changes(|sample| &sample.kl);
    let nll = changes(|sample| &sample.nll_base).into_iter().chain(changes(|sample| &sample.nll_tuned));
    Some(Floor { texts: pairs.len(), kl: (!kl.is_empty()).then(|| mean(&kl)), nll: nll.fold(0.0, f64::max) })
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
            ..DriftSample::default()
        }
    }

    fn full(source: &str, samples: &[DriftSample]) -> Result<Drift> {
        let named: Vec<(String, DriftSample)> = samples.iter().map(|sample| ("text".into(), sample.clone())).collect();
        summarise(source, DriftMethod::FullKl, &named)
    }

    fn kl(drift: &Drift) -> Divergence {
        drift.kl.expect("a divergence")
    }

    #[test]
    fn each_position_is_kept_to_four_digits_and_no_more_than_so_many() {
        let long = sample(&vec![0.123_456; MOST_POSITIONS + 9], 0.0);
        let drift = full("base answers", &[sample(&[-1e-9, 0.25], 0.0), long]).expect("finite");
        assert_eq!(drift.texts[0].values, [0.0, 0.25]);
        assert_eq!((drift.texts[1].values.len(), drift.texts[1].values[0]), (MOST_POSITIONS, 0.1235));
        assert_eq!(drift.tokens, MOST_POSITIONS + 11);
    }

    #[test]
    fn without_distributions_there_is_no_divergence() {
        let text = DriftSample { nll_base: vec![1.0, 3.0], nll_tuned: vec![1.5, 3.0], ..DriftSample::default() };
        let drift = summarise("t", DriftMethod::Nll, &[("a".into(), text.clone())]).expect("finite");
        assert_eq!((drift.kl, drift.same_top1, drift.tokens), (None, None, 2));
        assert!((drift.nll_change() - 0.25).abs() < 1e-12);
        assert_eq!(drift.texts[0].values, [0.5, 0.0]);
        assert!(full("t", &[text]).expect_err("no KL").to_string().contains("0 values of kl, expected 2"));
    }

    #[test]
    fn positions_are_summed_up_over_texts() {
        let drift = full("base answers", &[sample(&[0.0, 0.2], 0.1), sample(&[0.4, 1.0], 0.3)]).expect("finite");
        assert_eq!((drift.tokens, kl(&drift).median, kl(&drift).p99, drift.same_top1), (4, 0.2, 1.0, Some(0.75)));
        assert!((kl(&drift).mean - 0.4).abs() < 1e-12);
        // Sums of deviations −0.6 and 0.6: √(2 · 0.72)/4.
        assert!((kl(&drift).se - 0.3).abs() < 1e-12, "{}", kl(&drift).se);
        assert!((drift.nll_change() - 0.2).abs() < 1e-12);
        assert!((drift.nll_change_se - 0.1).abs() < 1e-12, "{}", drift.nll_change_se);
    }

    #[test]
    fn change_of_nll_is_paired() {
        let mut text = sample(&[0.0; 4], 0.0);
        text.nll_base = vec![1.0, 9.0, 3.0, 5.0];
        text.nll_tuned = vec![1.5, 9.5, 3.5, 5.5];
        let drift = full("t", &[text.clone(), text]).expect("finite");
        assert_eq!(drift.nll_change(), 0.5);
        assert!(drift.nll_change_se < 1e-12);
    }

    #[test]
    fn a_lone_text_still_has_a_standard_error() {
        let drift = full("t", &[sample(&[0.1, 0.9, 0.1, 0.9, 0.4], 0.0), DriftSample::default()]).expect("finite");
        assert!(kl(&drift).se > 0.0);
    }

    #[test]
    fn what_is_not_a_number_is_an_error_and_no_pass() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.5] {
            let error = full("base answers", &[sample(&[0.1, 0.1], 0.0), sample(&[0.1, bad], 0.0)]).expect_err("bad");
            let message = error.to_string();
            assert!(message.contains("position 1 of text 2") && message.contains("base answers"), "{message}");
        }
        let mut text = sample(&[0.1, 0.1], 0.0);
        text.nll_tuned[0] = f64::NAN;
        assert!(full("t", &[text]).is_err());
    }

    #[test]
    fn what_a_measurement_differs_by_itself_is_its_floor() {
        let (first, mut second) = (sample(&[0.1, 0.3], 0.2), sample(&[0.1, 0.5], 0.2));
        second.nll_tuned[1] += 0.25;
        let found = floor(std::slice::from_ref(&first), &[second]).expect("a floor");
        assert_eq!((found.texts, found.nll), (1, 0.25));
        assert!((found.kl.expect("KL") - 0.1).abs() < 1e-12);
        let once = std::slice::from_ref(&first);
        assert_eq!(floor(once, once).expect("a floor").kl, Some(0.0));
        assert_eq!(floor(&[], &[]), None);
    }

    #[test]
    fn nothing_measured_is_an_error() {
        assert!(full("t", &[]).is_err());
        assert!(full("t", &[sample(&[0.1], 0.0)]).is_err());
        let mut text = sample(&[0.1, 0.1], 0.0);
        text.same_top1.pop();
        assert!(full("t", &[text]).expect_err("uneven").to_string().contains("same_top1"));
    }

    #[test]
    fn rounding_below_zero_counts_as_zero() {
        assert_eq!(full("t", &[sample(&[-1e-9, 0.0], 0.0)]).expect("rounding").kl.expect("KL").mean, 0.0);
    }
}
