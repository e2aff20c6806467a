//! One share: its intervals, and how many cases show it.

use statrs::distribution::{Beta, ContinuousCDF};

use super::mean::clustered_mean;
use super::{ALPHA, Z_95};
use crate::record::Interval;

/// Cases up to which [`cases_to_show`] looks.
const MOST_CASES: usize = 100_000;

/// Wilson's 95 % score interval of a proportion; `None` when there was nothing to count.
///
/// (p̂ + z²/2n ± z √(p̂(1−p̂)/n + z²/4n²)) / (1 + z²/n). Wilson, J. Am. Stat. Assoc. 22 (1927).
/// All of 20 still allows 0.839. `passed` above `n` counts as `n`.
#[must_use]
pub fn wilson(passed: usize, n: usize) -> Option<Interval> {
    if n == 0 {
        return None;
    }
    let passed = passed.min(n);
    let (count, z2) = (n as f64, Z_95 * Z_95);
    let p = passed as f64 / count;
    let centre = p + z2 / (2.0 * count);
    let half = Z_95 * (p * (1.0 - p) / count + z2 / (4.0 * count * count)).sqrt();
    let scale = 1.0 + z2 / count;
    // At the ends the formula gives exactly 0 and 1; rounding must not leave it a hair inside.
    let low = if passed == 0 { 0.0 } else { ((centre - half) / scale).max(0.0) };
    let high = if passed == n { 1.0 } else { ((centre + half) / scale).min(1.0) };
    Some(Interval { low, high })
}

/// Clopper and Pearson's exact 95 % interval of a proportion; `None` when there was nothing to count.
///
/// Its coverage is never below 95 %, so it suits a limit on something rare. Clopper and Pearson, Biometrika 26 (1934).
#[must_use]
pub fn clopper_pearson(hits: usize, n: usize) -> Option<Interval> {
    if n == 0 {
        return None;
    }
    let hits = hits.min(n);
    let low = if hits == 0 { 0.0 } else { quantile(0.025, hits, n - hits + 1)? };
    let high = if hits == n { 1.0 } else { quantile(0.975, hits + 1, n - hits)? };
    Some(Interval { low, high })
}

/// Quantile of the beta distribution whose quantiles are Clopper and Pearson's limits.
fn quantile(p: f64, a: usize, b: usize) -> Option<f64> {
    beta_quantile(p, a as f64, b as f64)
}

fn beta_quantile(p: f64, a: f64, b: f64) -> Option<f64> {
    Beta::new(a, b).ok().map(|beta| beta.inverse_cdf(p))
}

/// A share of cases that come in clusters, and how many independent cases it is worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClusteredShare {
    /// Cases that hold.
    pub hits: usize,
    /// Cases.
    pub n: usize,
    /// Independent cases that would say as much.
    pub effective: f64,
}

/// The share of `true` over clusters of cases; `None` without any.
///
/// The effective number is n over the design effect, which is the clustered variance over that of independent cases, and never more than n.
/// Where all cases agree there is no variance to compare: each cluster counts once. Korn and Graubard, Surv. Methodol. 24 (1998) 193.
#[must_use]
pub fn clustered_share(clusters: &[Vec<bool>]) -> Option<ClusteredShare> {
    let values: Vec<Vec<f64>> =
        clusters.iter().map(|c| c.iter().map(|holds| f64::from(u8::from(*holds))).collect()).collect();
    let mean = clustered_mean(&values)?;
    let (n, share) = (mean.n as f64, mean.mean);
    let hits = clusters.iter().flatten().filter(|holds| **holds).count();
    let independent = share * (1.0 - share) / n;
    let effective = match mean.se {
        _ if mean.clusters == mean.n => n,
        Some(se) if independent > 0.0 && se > 0.0 => n * (independent / (se * se)).min(1.0),
        _ => mean.clusters as f64,
    };
    Some(ClusteredShare { hits, n: mean.n, effective })
}

impl ClusteredShare {
    /// Clopper and Pearson's limits at the effective number of cases, with an error of `alpha` on each side.
    #[must_use]
    pub fn limits(&self, alpha: f64) -> Option<Interval> {
        let share = self.hits as f64 / self.n as f64;
        let (hits, n) = (share * self.effective, self.effective);
        let low = if self.hits == 0 { 0.0 } else { beta_quantile(alpha, hits, n - hits + 1.0)? };
        let high = if self.hits == self.n { 1.0 } else { beta_quantile(1.0 - alpha, hits + 1.0, n - hits)? };
        Some(Interval { low, high })
    }
}

/// Clopper and Pearson's exact lower limit of a proportion, with an error of `alpha` on this side alone; `None` without cases.
///
/// All of 20 show 0.861 at an error of 5 %.
#[must_use]
pub fn lower_limit(hits: usize, n: usize, alpha: f64) -> Option<f64> {
    match hits.min(n) {
        _ if n == 0 => None,
        0 => Some(0.0),
        hits => quantile(alpha, hits, n - hits + 1),
    }
}

/// Clopper and Pearson's exact upper limit of a proportion, with an error of `alpha` on this side alone; `None` without cases.
#[must_use]
pub fn upper_limit(hits: usize, n: usize, alpha: f64) -> Option<f64> {
    lower_limit(n - hits.min(n), n, alpha).map(|low| 1.0 - low)
}

/// Most cases of `n` that may be lost, and the [lower limit](lower_limit) of what is kept is still at least `least`; `None` when not even
/// keeping all `n` shows that.
#[must_use]
pub fn losses_allowed(n: usize, least: f64) -> Option<usize> {
    let shows = |lost: usize| lower_limit(n - lost, n, ALPHA).is_some_and(|low| low >= least);
    if n == 0 || !shows(0) {
        return None;
    }
    // The limit falls with every loss.
    let (mut low, mut high) = (0, n);
    while low < high {
        let middle = usize::midpoint(low, high + 1);
        if shows(middle) { low = middle } else { high = middle - 1 }
    }
    Some(low)
}

/// Fewest cases that can show a share of at least `least`, when all of them hold: ⌈ln α / ln least⌉. `None` for a share of 1, which no number
/// shows.
#[must_use]
pub fn none_lost_needed(least: f64) -> Option<usize> {
    match least {
        least if least >= 1.0 => None,
        least if least <= ALPHA => Some(1),
        least => {
            let n = (ALPHA.ln() / least.ln()).ceil() as usize;
            (n.saturating_sub(1)..).find(|n| losses_allowed(*n, least).is_some())
        }
    }
}

/// Fewest cases that would show a share of at least `least` if they hold as often as `share` says; `None` when it is not above `least`, or
/// would take more than 100 000.
#[must_use]
pub fn cases_to_show(share: f64, least: f64) -> Option<usize> {
    if share.is_nan() || share <= least {
        return None;
    }
    let shows = |n: usize| {
        let lost = ((1.0 - share) * n as f64).round() as usize;
        losses_allowed(n, least).is_some_and(|allowed| lost <= allowed)
    };
    // Not monotone, since losses are whole: doubling finds a size that does, and halving a small one.
    let mut high = none_lost_needed(least)?;
    while !shows(high) {
        high *= 2;
        if high > MOST_CASES {
            return None;
        }
    }
    let mut low = high / 2;
    while low + 1 < high {
        let middle = usize::midpoint(low, high);
        if shows(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{close, is};
    use super::*;

    #[test]
    fn wilson_agrees_with_published_and_scipy_values() {
        // scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
        is(wilson(20, 20), 0.838_874_841_947, 1.0, 1e-9);
        is(wilson(0, 20), 0.0, 0.161_125_158_053, 1e-9);
        is(wilson(42, 45), 0.821_433_980_364, 0.977_067_967_401, 1e-9);
        // Newcombe, Stat. Med. 17 (1998) 857, table I: 81/263 and 15/148.
        is(wilson(81, 263), 0.2553, 0.3662, 5e-5);
        is(wilson(15, 148), 0.0624, 0.1605, 5e-5);
        assert_eq!(wilson(0, 0), None);
    }

    #[test]
    fn clopper_pearson_agrees_with_published_values() {
        // Newcombe, Stat. Med. 17 (1998) 857, table I, method 5; and 1 − 0.025^(1/20) in closed form.
        is(clopper_pearson(81, 263), 0.2527, 0.3676, 5e-5);
        is(clopper_pearson(15, 148), 0.0578, 0.1617, 5e-5);
        // scipy.stats.binomtest(42, 45).proportion_ci(method="exact")
        is(clopper_pearson(42, 45), 0.817_315_543_422, 0.986_034_902_956, 1e-9);
        is(clopper_pearson(0, 20), 0.0, 1.0 - 0.025_f64.powf(1.0 / 20.0), 1e-9);
        is(clopper_pearson(20, 20), 0.025_f64.powf(1.0 / 20.0), 1.0, 1e-9);
    }

    #[test]
    fn one_sided_limits_agree_with_scipy() {
        // scipy.stats.beta.ppf(0.05, k, n - k + 1) and ppf(0.95, k + 1, n - k)
        close(lower_limit(24, 24, 0.05).expect("cases"), 0.882_653_843_8, 1e-9);
        close(lower_limit(20, 20, 0.05).expect("cases"), 0.05_f64.powf(1.0 / 20.0), 1e-9);
        close(lower_limit(47, 50, 0.05).expect("cases"), 0.852_162_823_6, 1e-9);
        close(upper_limit(47, 50, 0.05).expect("cases"), 0.983_448_140_8, 1e-9);
        close(upper_limit(0, 60, 0.05).expect("cases"), 1.0 - 0.05_f64.powf(1.0 / 60.0), 1e-12);
        assert_eq!(
            (lower_limit(0, 9, 0.05), upper_limit(9, 9, 0.05), lower_limit(0, 0, 0.05)),
            (Some(0.0), Some(1.0), None)
        );
    }

    /// How many controls may be lost, and a retention is still shown.
    #[test]
    fn losses_that_still_show_a_retention() {
        let table = [0.8, 0.85, 0.9, 0.95];
        let row = |n: usize| table.map(|least| losses_allowed(n, least));
        assert_eq!(row(20), [Some(0), Some(0), None, None]);
        assert_eq!(row(50), [Some(5), Some(3), Some(1), None]);
        assert_eq!(row(100), [Some(13), Some(8), Some(4), Some(1)]);
        assert_eq!(row(200), [Some(30), Some(21), Some(12), Some(4)]);
        assert_eq!((losses_allowed(0, 0.5), losses_allowed(9, 0.0)), (None, Some(9)));
    }

    #[test]
    fn cases_that_resemble_each_other_are_worth_fewer() {
        let alone: Vec<Vec<bool>> = (0..20).map(|i| vec![i > 1]).collect();
        let share = clustered_share(&alone).expect("cases");
        assert_eq!((share.hits, share.n, share.effective), (18, 20, 20.0));
        let limits = share.limits(ALPHA).expect("limits");
        close(limits.low, lower_limit(18, 20, ALPHA).expect("cases"), 1e-12);
        close(limits.high, upper_limit(18, 20, ALPHA).expect("cases"), 1e-12);
        // Four cases of a question that always agree: five questions, not twenty cases.
        let alike: Vec<Vec<bool>> = (0..5).map(|i| vec![i > 0; 4]).collect();
        let share = clustered_share(&alike).expect("cases");
        assert!((share.effective - 4.0).abs() < 1e-9 || share.effective < 5.0, "{share:?}");
        assert!(share.limits(ALPHA).expect("limits").low < 0.45);
        let all = clustered_share(&[vec![true; 3], vec![true; 2]]).expect("cases");
        assert_eq!((all.n, all.effective), (5, 2.0));
        assert_eq!(clustered_share(&[]), None);
    }

    #[test]
    fn cases_that_a_threshold_needs() {
        assert_eq!([0.8, 0.9, 0.95].map(none_lost_needed), [Some(14), Some(29), Some(59)]);
        assert_eq!((none_lost_needed(1.0), none_lost_needed(0.0)), (None, Some(1)));
        assert_eq!(cases_to_show(1.0, 0.9), Some(29));
        assert_eq!((cases_to_show(0.9, 0.9), cases_to_show(f64::NAN, 0.9)), (None, None));
        let n = cases_to_show(0.97, 0.9).expect("a number");
        assert!((46..=110).contains(&n), "{n}");
    }

    proptest! {
        #[test]
        fn intervals_hold_what_was_measured(n in 1_usize..400, part in 0.0_f64..=1.0) {
            let hits = (part * n as f64) as usize;
            let rate = hits as f64 / n as f64;
            for interval in [wilson(hits, n), clopper_pearson(hits, n)] {
                let interval = interval.expect("n > 0");
                prop_assert!(0.0 <= interval.low && interval.low <= rate && rate <= interval.high && interval.high <= 1.0);
            }
            let (low, high) = (lower_limit(hits, n, ALPHA).expect("cases"), upper_limit(hits, n, ALPHA).expect("cases"));
            prop_assert!(low <= rate && rate <= high);
        }

        #[test]
        fn one_loss_more_than_allowed_shows_less(n in 1_usize..300, least in 0.05_f64..0.99) {
            if let Some(allowed) = losses_allowed(n, least) {
                prop_assert!(lower_limit(n - allowed, n, ALPHA).expect("cases") >= least);
                prop_assert!(allowed == n || lower_limit(n - allowed - 1, n, ALPHA).expect("cases") < least);
            }
        }
    }
}
