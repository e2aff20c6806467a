//! Pairs of verdicts on the same cases: what was broken and what was fixed.

use std::f64::consts::LN_2;

use statrs::distribution::{ContinuousCDF, Normal};
use statrs::function::beta::{beta_reg, ln_beta};

use super::mean::{clustered_mean, student_quantile};
use super::normal::bivariate_normal;
use super::proportion::wilson;
use crate::record::Interval;

/// Clusters from which on their spread says anything.
const MIN_CLUSTERS: usize = 4;

/// Pairs of verdicts, base's first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlipTable {
    /// Both pass.
    pub both: usize,
    /// Tuned alone passes.
    pub fixed: usize,
    /// Base alone passes.
    pub broken: usize,
    /// Neither passes.
    pub neither: usize,
}

impl FlipTable {
    /// Pairs.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.both + self.fixed + self.broken + self.neither
    }

    /// Pass rate of tuned − pass rate of base; `None` without pairs.
    #[must_use]
    pub fn net(&self) -> Option<f64> {
        let n = self.pairs();
        (n > 0).then(|| (self.fixed as f64 - self.broken as f64) / n as f64)
    }
}

impl FromIterator<(bool, bool)> for FlipTable {
    fn from_iter<I: IntoIterator<Item = (bool, bool)>>(pairs: I) -> Self {
        let mut table = Self::default();
        for pair in pairs {
            match pair {
                (true, true) => table.both += 1,
                (false, true) => table.fixed += 1,
                (true, false) => table.broken += 1,
                (false, false) => table.neither += 1,
            }
        }
        table
    }
}

/// Newcombe's 95 % interval of the difference of paired proportions: Wilson's intervals of both, put together with the pairs' correlation.
///
/// Stat. Med. 17 (1998) 2635, method 10, with his continuity correction of φ. `None` without pairs.
#[must_use]
pub fn newcombe_paired(table: &FlipTable) -> Option<Interval> {
    let FlipTable { both, fixed, broken, neither } = *table;
    let n = table.pairs();
    let (tuned, base) = (wilson(both + fixed, n)?, wilson(both + broken, n)?);
    let count = n as f64;
    let (p_tuned, p_base) = ((both + fixed) as f64 / count, (both + broken) as f64 / count);
    let [a, b, c, d] = [both, fixed, broken, neither].map(|x| x as f64);
    let margins = (a + b) * (c + d) * (a + c) * (b + d);
    let numerator = a * d - b * c;
    // The correction applies to positive association only.
    let numerator = if numerator > 0.0 { (numerator - count / 2.0).max(0.0) } else { numerator };
    let phi = if margins > 0.0 { numerator / margins.sqrt() } else { 0.0 };
    let width = |x: f64, y: f64| (x * x - 2.0 * phi * x * y + y * y).max(0.0).sqrt();
    let gain = p_tuned - p_base;
    Some(Interval {
        low: (gain - width(p_tuned - tuned.low, base.high - p_base)).max(-1.0),
        high: (gain + width(tuned.high - p_tuned, p_base - base.low)).min(1.0),
    })
}

/// Tango's score interval of the difference of paired proportions, tuned − base, with an error of `alpha` on each side.
///
/// The ends are the differences δ whose score statistic (f − b − nδ) / √(n(2q̂ + δ(1 − δ))) is ±z, where f pairs are fixed and b broken, and
/// q̂ is the likeliest share of broken pairs at δ. Tango, Stat. Med. 17 (1998) 891. `None` without pairs.
#[must_use]
pub fn tango_paired(table: &FlipTable, alpha: f64) -> Option<Interval> {
    let net = table.net()?;
    let (n, fixed, broken) = (table.pairs() as f64, table.fixed as f64, table.broken as f64);
    let z = Normal::standard().inverse_cdf(1.0 - alpha);
    let score = |delta: f64| {
        let b = (2.0 * n - fixed + broken) * delta - fixed - broken;
        let c = -broken * delta * (1.0 - delta);
        let q = ((b * b - 8.0 * n * c).max(0.0).sqrt() - b) / (4.0 * n);
        let variance = n * (2.0 * q + delta * (1.0 - delta));
        let distance = fixed - broken - n * delta;
        if variance > 0.0 { distance / variance.sqrt() } else { distance.signum() * f64::INFINITY }
    };
    // The statistic falls as δ grows.
    let root = |mut low: f64, mut high: f64, at: f64| {
        for _ in 0..60 {
            let middle = f64::midpoint(low, high);
            if score(middle) > at { low = middle } else { high = middle }
        }
        f64::midpoint(low, high)
    };
    let low = if net <= -1.0 { -1.0 } else { root(-1.0, net, z) };
    let high = if net >= 1.0 { 1.0 } else { root(net, 1.0, -z) };
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

/// Mid-p of the one-sided McNemar test: P(X > broken) + ½ P(X = broken), X ~ Bin(broken + fixed, ½).
///
/// Less cautious than the [exact](mcnemar_exact) one and still at most 5 % wrong at 5 %: four broken and none fixed suffice, in place of five.
/// Fagerland, Lydersen and Laake, BMC Med. Res. Methodol. 13 (2013) 91. 1 where nothing flipped.
#[must_use]
pub fn mcnemar_mid_p(broken: usize, fixed: usize) -> f64 {
    if broken + fixed == 0 {
        return 1.0;
    }
    let at_least = if broken == 0 { 1.0 } else { mcnemar_exact(broken, fixed) };
    let more = if fixed == 0 { 0.0 } else { mcnemar_exact(broken + 1, fixed - 1) };
    f64::midpoint(at_least, more)
}

/// E-value of "tuned breaks more than it fixes": 2ⁿ · 2∫_½¹ p^broken (1 − p)^fixed dp, with n = broken + fixed.
///
/// The mixture of likelihood ratios over a uniform p above ½. At 20 the error is at most 5 % however often one looked before (Ville), which
/// costs power: seven broken and none fixed are needed, in place of four. Ramdas et al., Stat. Sci. 38 (2023) 576. 1 where nothing flipped.
#[must_use]
pub fn e_value(broken: usize, fixed: usize) -> f64 {
    let (a, b) = (broken as f64 + 1.0, fixed as f64 + 1.0);
    // The part of the beta distribution above ½, by its symmetry.
    let above = beta_reg(b, a, 0.5);
    ((broken + fixed + 1) as f64 * LN_2 + ln_beta(a, b)).exp() * above
}

/// Share of the cases that base passes which a harmless change would break all the same.
///
/// Base's margins are taken as normal, with `pass_rate` of them above 0, and the change as normal noise of `jitter` times their spread
/// without any shift: P(m + τe ≤ 0 | m > 0). At a pass rate of ½ it is arctan(τ)/π. 0 without jitter.
#[must_use]
pub fn expected_loss_from_jitter(pass_rate: f64, jitter: f64) -> f64 {
    if jitter <= 0.0 || pass_rate <= 0.0 || pass_rate.is_nan() || jitter.is_nan() {
        return 0.0;
    }
    let mean = Normal::standard().inverse_cdf(pass_rate.clamp(1e-9, 1.0 - 1e-9));
    // m > 0 and m + τe ≤ 0: one orthant of two correlated normals.
    let spread = jitter.hypot(1.0);
    let both = bivariate_normal(mean, -mean / spread, -1.0 / spread);
    (both / pass_rate).clamp(0.0, 1.0)
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
    let table: FlipTable = clusters.iter().flatten().copied().collect();
    let mut interval = newcombe_paired(&table)?;
    if let Some(se) = clustered.se.filter(|_| clustered.clusters >= MIN_CLUSTERS) {
        let half = student_quantile(0.975, clustered.clusters - 1) * se;
        interval.low = interval.low.min(clustered.mean - half).max(-1.0);
        interval.high = interval.high.max(clustered.mean + half).min(1.0);
    }
    Some(PairedGain { gain: clustered.mean, se: clustered.se, interval, n: clustered.n })
}

#[cfg(test)]
mod tests;
