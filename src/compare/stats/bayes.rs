//! A Bayesian second opinion on paired verdicts.

use statrs::distribution::{Beta, Continuous, ContinuousCDF, Normal};

use super::flips::FlipTable;
use super::normal::bivariate_normal;
use crate::random::{SplitMix64, unit};
use crate::record::Interval;

/// What the pairs leave probable about pass rates θ of base and tuned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairedPosterior {
    /// Mean of θ_tuned − θ_base.
    pub net: f64,
    /// Its central 95 %.
    pub interval: Interval,
    /// Probability that tuned passes less than base by more than the margin.
    pub lost: f64,
}

/// Posterior of the difference of pass rates, and the probability that tuned lost more than `margin`; `None` without pairs.
///
/// The model of Bowyer et al., arXiv 2503.01747, section 3.3: θ of each arm is uniform, and a case passes in both by two correlated normals, with
/// correlation 2·Beta(4, 2) − 1. Drawn by importance sampling from the posteriors of each arm alone, `draws` times.
#[must_use]
pub fn paired_posterior(table: &FlipTable, margin: f64, draws: usize, seed: u64) -> Option<PairedPosterior> {
    let n = table.pairs();
    if n == 0 || draws == 0 {
        return None;
    }
    let passed = [table.both + table.broken, table.both + table.fixed];
    let [base, tuned] = passed.map(|k| Beta::new(1.0 + k as f64, 1.0 + (n - k) as f64).ok());
    let (base, tuned, prior) = (base?, tuned?, Beta::new(4.0, 2.0).ok()?);
    let mut random = SplitMix64::new(seed, 0);
    let normal = Normal::standard();
    let mut draw = |distribution: &Beta| distribution.inverse_cdf(unit(random.draw()).clamp(1e-12, 1.0 - 1e-12));
    let mut samples: Vec<(f64, f64)> = Vec::with_capacity(draws);
    for _ in 0..draws {
        let (a, b, correlation) = (draw(&base), draw(&tuned), 2.0 * draw(&prior) - 1.0);
        let both = bivariate_normal(normal.inverse_cdf(a), normal.inverse_cdf(b), correlation);
        let cells = [
            (both, table.both),
            (b - both, table.fixed),
            (a - both, table.broken),
            (1.0 - a - b + both, table.neither),
        ];
        let log = cells.iter().map(|(p, count)| *count as f64 * p.max(1e-300).ln()).sum::<f64>();
        samples.push((b - a, log - base.ln_pdf(a) - tuned.ln_pdf(b)));
    }
    let largest = samples.iter().map(|(_, w)| *w).fold(f64::NEG_INFINITY, f64::max);
    samples.iter_mut().for_each(|(_, weight)| *weight = (*weight - largest).exp());
    samples.sort_by(|a, b| a.0.total_cmp(&b.0));
    let total: f64 = samples.iter().map(|(_, weight)| weight).sum();
    let quantile = |p: f64| {
        let mut below = 0.0;
        let found = samples.iter().find(|(_, weight)| {
            below += weight;
            below >= p * total
        });
        found.or(samples.last()).map_or(0.0, |(net, _)| *net)
    };
    let share = |holds: &dyn Fn(f64) -> bool| {
        samples.iter().filter(|(net, _)| holds(*net)).map(|(_, w)| w).sum::<f64>() / total
    };
    Some(PairedPosterior {
        net: samples.iter().map(|(net, weight)| net * weight).sum::<f64>() / total,
        interval: Interval { low: quantile(0.025), high: quantile(0.975) },
        lost: share(&|net| net < -margin),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::close;
    use super::*;

    #[test]
    fn the_posterior_agrees_with_a_grid() {
        let table = FlipTable { both: 30, fixed: 2, broken: 11, neither: 7 };
        let posterior = paired_posterior(&table, 0.05, 20_000, 1).expect("pairs");
        // tests/fixtures/statistics/make.py: the same model on a grid of θ and ρ, with scipy's bivariate normal.
        close(posterior.net, -0.1769, 0.004);
        close(posterior.interval.low, -0.3125, 0.01);
        close(posterior.interval.high, -0.0375, 0.01);
        close(posterior.lost, 0.9673, 0.01);
        assert_eq!(paired_posterior(&FlipTable::default(), 0.05, 100, 1), None);
    }

    #[test]
    fn keeping_everything_is_probably_no_loss() {
        let kept = FlipTable { both: 60, ..FlipTable::default() };
        assert!(paired_posterior(&kept, 0.05, 5_000, 1).expect("pairs").lost < 0.05);
        let lost = FlipTable { both: 30, broken: 30, ..FlipTable::default() };
        assert!(paired_posterior(&lost, 0.05, 5_000, 1).expect("pairs").lost > 0.99);
    }
}
