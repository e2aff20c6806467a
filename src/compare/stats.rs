//! Statistics that stay honest at twenty cases: exact or score-based, paired, and clustered by scenario.

use statrs::distribution::{Beta, ContinuousCDF, StudentsT};

use crate::record::Interval;

/// Φ⁻¹(0.975): two-sided 95 %.
pub const Z_95: f64 = 1.959_963_984_540_054;
/// Φ⁻¹(0.8): a power of 80 %.
const Z_POWER_80: f64 = 0.841_621_233_572_914_3;

/// Clusters from which on their spread says anything.
const MIN_CLUSTERS: usize = 4;

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
    let quantile = |p: f64, a: usize, b: usize| Beta::new(a as f64, b as f64).ok().map(|beta| beta.inverse_cdf(p));
    let low = if hits == 0 { 0.0 } else { quantile(0.025, hits, n - hits + 1)? };
    let high = if hits == n { 1.0 } else { quantile(0.975, hits + 1, n - hits)? };
    Some(Interval { low, high })
}

/// Exact one-sided McNemar test of "tuned breaks more than it fixes": P(X ≥ broken), X ~ Bin(broken + fixed, ½).
///
/// 1 when nothing is broken, also when nothing flipped at all. McNemar, Psychometrika 12 (1947).
#[must_use]
pub fn mcnemar_exact(broken: usize, fixed: usize) -> f64 {
    let n = broken + fixed;
    if broken == 0 {
        return 1.0;
    }
    // Terms as logarithms, so that thousands of flips do not underflow.
    let mut log_term = n as f64 * 0.5_f64.ln();
    let mut tail = 0.0;
    for k in (broken..=n).rev() {
        tail += log_term.exp();
        log_term += (k as f64).ln() - ((n - k + 1) as f64).ln();
    }
    tail.min(1.0)
}

/// A mean over cases that are grouped in clusters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClusteredMean {
    /// Mean over all values.
    pub mean: f64,
    /// Standard error; `None` with fewer than two clusters.
    pub se: Option<f64>,
    /// Values.
    pub n: usize,
    /// Clusters that hold a value.
    pub clusters: usize,
}

/// Mean and its clustered standard error: √(G/(G−1) · Σ_g (Σ_{i∈g} (x_i − x̄))²) / n.
///
/// arXiv 2411.00640, section 2.2, with the usual factor for few clusters; `None` when there is no value.
#[must_use]
pub fn clustered_mean(clusters: &[Vec<f64>]) -> Option<ClusteredMean> {
    let n: usize = clusters.iter().map(Vec::len).sum();
    if n == 0 {
        return None;
    }
    let mean = clusters.iter().flatten().sum::<f64>() / n as f64;
    let groups = clusters.iter().filter(|c| !c.is_empty()).count();
    let se = (groups > 1).then(|| {
        let squares: f64 = clusters.iter().map(|c| c.iter().map(|x| x - mean).sum::<f64>().powi(2)).sum();
        (squares * groups as f64 / (groups as f64 - 1.0)).sqrt() / n as f64
    });
    Some(ClusteredMean { mean, se, n, clusters: groups })
}

/// How the pass rate changes from base to tuned on the same cases.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairedGain {
    /// Pass rate of tuned − pass rate of base.
    pub gain: f64,
    /// Standard error, clustered by scenario; `None` with fewer than two scenarios.
    pub se: Option<f64>,
    /// 95 % interval: see [`paired_gain`].
    pub interval: Interval,
    /// Pairs.
    pub n: usize,
}

/// Gain over pairs `(base passed, tuned passed)`, one cluster a scenario; `None` without pairs.
///
/// The interval is the hull of two: the clustered one, mean ± t₀.₉₇₅(G−1)·SE (arXiv 2411.00640), which knows that cases of a
/// scenario resemble each other, and Newcombe's paired score interval (Stat. Med. 17 (1998) 2635, method 10), which does not
/// shrink to a point when every case changes alike. Three scenarios or fewer say too little about how scenarios differ; then the
/// score interval stands alone.
#[must_use]
pub fn paired_gain(clusters: &[Vec<(bool, bool)>]) -> Option<PairedGain> {
    let change = |&(base, tuned): &(bool, bool)| f64::from(i8::from(tuned) - i8::from(base));
    let changes: Vec<Vec<f64>> = clusters.iter().map(|c| c.iter().map(change).collect()).collect();
    let clustered = clustered_mean(&changes)?;
    let mut interval = newcombe_paired(clusters.iter().flatten().copied())?;
    if let Some(se) = clustered.se.filter(|_| clustered.clusters >= MIN_CLUSTERS) {
        let half = t_975(clustered.clusters - 1) * se;
        interval.low = interval.low.min(clustered.mean - half).max(-1.0);
        interval.high = interval.high.max(clustered.mean + half).min(1.0);
    }
    Some(PairedGain { gain: clustered.mean, se: clustered.se, interval, n: clustered.n })
}

/// Newcombe's method 10: Wilson's intervals of both rates, put together with the pairs' correlation.
fn newcombe_paired(pairs: impl Iterator<Item = (bool, bool)>) -> Option<Interval> {
    // Cells of the 2×2 table: both pass, tuned alone (fixed), base alone (broken), neither.
    let (mut both, mut fixed, mut broken, mut neither) = (0_usize, 0_usize, 0_usize, 0_usize);
    for pair in pairs {
        match pair {
            (true, true) => both += 1,
            (false, true) => fixed += 1,
            (true, false) => broken += 1,
            (false, false) => neither += 1,
        }
    }
    let n = both + fixed + broken + neither;
    let (tuned, base) = (wilson(both + fixed, n)?, wilson(both + broken, n)?);
    let count = n as f64;
    let (p_tuned, p_base) = ((both + fixed) as f64 / count, (both + broken) as f64 / count);
    let [a, b, c, d] = [both, fixed, broken, neither].map(|x| x as f64);
    let margins = (a + b) * (c + d) * (a + c) * (b + d);
    let numerator = a * d - b * c;
    // Newcombe's continuity correction of φ, applied to positive association only.
    let numerator = if numerator > 0.0 { (numerator - count / 2.0).max(0.0) } else { numerator };
    let phi = if margins > 0.0 { numerator / margins.sqrt() } else { 0.0 };
    let width = |x: f64, y: f64| (x * x - 2.0 * phi * x * y + y * y).max(0.0).sqrt();
    let gain = p_tuned - p_base;
    Some(Interval {
        low: (gain - width(p_tuned - tuned.low, base.high - p_base)).max(-1.0),
        high: (gain + width(tuned.high - p_tuned, p_base - base.low)).min(1.0),
    })
}

/// 97.5 % quantile of Student's t with `freedom` degrees of freedom.
fn t_975(freedom: usize) -> f64 {
    StudentsT::new(0.0, 1.0, freedom.max(1) as f64).map_or(Z_95, |t| t.inverse_cdf(0.975))
}

/// Minimum detectable effect of a paired comparison: the smallest difference in pass rate that `n` cases show with 5 %
/// two-sided error and 80 % power, (z_{α/2} + z_β)·√(discordance / n). `None` without cases.
///
/// `discordant` is the number of cases whose verdict differs between the arms; a lucky 0 counts as 1, since a discordance of
/// nothing would promise that any effect can be seen. 20 cases with 2 discordant: 20 points. Not above 1.
#[must_use]
pub fn minimum_detectable_effect(n: usize, discordant: usize) -> Option<f64> {
    if n == 0 {
        return None;
    }
    let discordance = discordant.clamp(1, n) as f64 / n as f64;
    Some(((Z_95 + Z_POWER_80) * (discordance / n as f64).sqrt()).min(1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn close(got: f64, expected: f64, tolerance: f64) {
        assert!((got - expected).abs() <= tolerance, "got {got}, expected {expected}");
    }

    fn is(interval: Option<Interval>, low: f64, high: f64, tolerance: f64) {
        let interval = interval.expect("an interval");
        close(interval.low, low, tolerance);
        close(interval.high, high, tolerance);
    }

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
    fn mcnemar_is_the_upper_tail_of_a_fair_coin() {
        close(mcnemar_exact(5, 0), 1.0 / 32.0, 1e-15);
        close(mcnemar_exact(8, 2), 56.0 / 1024.0, 1e-15);
        close(mcnemar_exact(1, 1), 0.75, 1e-15);
        close(mcnemar_exact(0, 7), 1.0, 0.0);
        close(mcnemar_exact(0, 0), 1.0, 0.0);
        // scipy.stats.binom.sf(599, 1000, 0.5)
        close(mcnemar_exact(600, 400) / 1.364_232_078_032_974e-10, 1.0, 1e-9);
    }

    #[test]
    fn newcombe_agrees_with_published_values() {
        // Newcombe, Stat. Med. 17 (1998) 2635, method 10; cells (both, first alone, second alone, neither).
        let published = [
            ([36, 12, 2, 0], 0.0569, 0.3404),
            ([20, 12, 2, 16], 0.0562, 0.3292),
            // Altman et al., Statistics with Confidence (2000), table 6.2.
            ([14, 5, 0, 22], 0.011, 0.226),
            // Fagerland et al., BMC Med. Res. Methodol. 14 (2014), airway hyper-responsiveness.
            ([1, 1, 7, 12], -0.507, -0.026),
        ];
        for ([both, fixed, broken, neither], low, high) in published {
            let pairs = pairs(both, fixed, broken, neither);
            is(newcombe_paired(pairs.into_iter()), low, high, 5e-4);
        }
    }

    fn pairs(both: usize, fixed: usize, broken: usize, neither: usize) -> Vec<(bool, bool)> {
        [((true, true), both), ((false, true), fixed), ((true, false), broken), ((false, false), neither)]
            .into_iter()
            .flat_map(|(pair, n)| vec![pair; n])
            .collect()
    }

    #[test]
    fn standard_error_is_clustered() {
        // By hand: mean 0.5; cluster sums of deviations 1 and −1; √(2/1 · 2)/4 = 0.5. Unclustered it would be 0.289.
        let got = clustered_mean(&[vec![1.0, 1.0], vec![0.0, 0.0]]).expect("values");
        assert_eq!((got.mean, got.n, got.clusters), (0.5, 4, 2));
        close(got.se.expect("two clusters"), 0.5, 1e-15);
        // Clusters of one: the plain standard error sd/√n = √(5/3)/2.
        let got = clustered_mean(&[vec![1.0], vec![2.0], vec![3.0], vec![4.0], vec![]]).expect("values");
        close(got.se.expect("four clusters"), (5.0_f64 / 3.0).sqrt() / 2.0, 1e-15);
        assert_eq!(clustered_mean(&[vec![1.0, 3.0]]).expect("values").se, None);
        assert_eq!(clustered_mean(&[vec![]]), None);
    }

    #[test]
    fn gain_of_everything_still_has_an_interval() {
        let all = vec![vec![(false, true); 4]; 5];
        let gain = paired_gain(&all).expect("pairs");
        assert_eq!((gain.gain, gain.n, gain.se), (1.0, 20, Some(0.0)));
        assert!(gain.interval.low > 0.7 && gain.interval.low < 0.85, "{:?}", gain.interval);
        assert_eq!(gain.interval.high, 1.0);
    }

    #[test]
    fn clustering_widens_the_gains_interval() {
        let apart: Vec<Vec<_>> = pairs(0, 10, 0, 10).into_iter().map(|p| vec![p]).collect();
        let together: Vec<Vec<_>> = [true, true, false, false].map(|tuned| vec![(false, tuned); 5]).into();
        let (apart, together) = (paired_gain(&apart).expect("pairs"), paired_gain(&together).expect("pairs"));
        assert_eq!(apart.gain, together.gain);
        assert!(together.interval.high - together.interval.low > apart.interval.high - apart.interval.low);
    }

    #[test]
    fn twenty_cases_with_a_tenth_discordant_detect_twenty_points() {
        close(minimum_detectable_effect(20, 2).expect("cases"), 0.198_1, 1e-4);
        assert!(minimum_detectable_effect(20, 0).expect("cases") > 0.1);
        assert_eq!(minimum_detectable_effect(1, 1), Some(1.0));
        assert_eq!(minimum_detectable_effect(0, 0), None);
    }

    proptest! {
        #[test]
        fn intervals_hold_what_was_measured(n in 1_usize..400, part in 0.0_f64..=1.0) {
            let hits = (part * n as f64) as usize;
            for interval in [wilson(hits, n), clopper_pearson(hits, n)] {
                let interval = interval.expect("n > 0");
                let rate = hits as f64 / n as f64;
                prop_assert!(0.0 <= interval.low && interval.low <= rate && rate <= interval.high && interval.high <= 1.0);
            }
        }

        #[test]
        fn mcnemar_tails_overlap_in_one_term(broken in 0_usize..60, fixed in 0_usize..60) {
            let (up, down) = (mcnemar_exact(broken, fixed), mcnemar_exact(fixed, broken));
            prop_assert!((0.0..=1.0).contains(&up));
            prop_assert!(up + down >= 1.0 - 1e-12);
            prop_assert!(mcnemar_exact(broken + 1, fixed) <= mcnemar_exact(broken, fixed + 1) + 1e-12);
        }

        #[test]
        fn a_gain_lies_in_its_interval(clusters in prop::collection::vec(prop::collection::vec(any::<(bool, bool)>(), 0..6), 1..8)) {
            if let Some(gain) = paired_gain(&clusters) {
                prop_assert!(-1.0 <= gain.interval.low && gain.interval.low <= gain.gain + 1e-12);
                prop_assert!(gain.gain <= gain.interval.high + 1e-12 && gain.interval.high <= 1.0);
            }
        }
    }
}
