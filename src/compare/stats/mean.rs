//! Means over cases that are grouped in clusters.

use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

use crate::random::SplitMix64;
use crate::record::Interval;

/// Mean of values; 0 of none.
pub(in crate::compare) fn mean(values: &[f64]) -> f64 {
    mean_and_sd(values).0
}

/// Mean and standard deviation (n − 1) of values; 0 where there is none, or no spread.
pub(in crate::compare) fn mean_and_sd(values: &[f64]) -> (f64, f64) {
    let n = values.len();
    let mean = values.iter().sum::<f64>() / n.max(1) as f64;
    let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    (mean, (squares / n.saturating_sub(1).max(1) as f64).sqrt())
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

/// Quantile of Student's t with `freedom` degrees of freedom, at least 1.
#[must_use]
pub fn student_quantile(p: f64, freedom: usize) -> f64 {
    StudentsT::new(0.0, 1.0, freedom.max(1) as f64).map_or(f64::NAN, |t| t.inverse_cdf(p))
}

impl ClusteredMean {
    /// The mean ± t·SE, with clusters − 1 degrees of freedom and an error of `alpha` on each side; `None` with fewer than two clusters.
    #[must_use]
    pub fn interval(&self, alpha: f64) -> Option<Interval> {
        let half = student_quantile(1.0 - alpha, self.clusters - 1) * self.se?;
        Some(Interval { low: self.mean - half, high: self.mean + half })
    }
}

/// Efron's BCa bootstrap interval of the mean of `values`, one a cluster, with an error of `alpha` on each side.
///
/// Bias and acceleration are corrected (Efron, J. Am. Stat. Assoc. 82 (1987) 171); the acceleration comes from the jackknife. It is kept to be
/// compared with: on skewed values [`positive_mean`](super::positive_mean) errs less. `None` with fewer than three values.
#[must_use]
pub fn bca(values: &[f64], alpha: f64, resamples: usize, seed: u64) -> Option<Interval> {
    let n = values.len();
    if n < 3 || resamples == 0 {
        return None;
    }
    let sum: f64 = values.iter().sum();
    let mean = sum / n as f64;
    let mut random = SplitMix64::new(seed, 0);
    let mut draw = || (0..n).map(|_| values[random.below(n as u64) as usize]).sum::<f64>() / n as f64;
    let mut means: Vec<f64> = (0..resamples).map(|_| draw()).collect();
    means.sort_by(f64::total_cmp);
    let normal = Normal::standard();
    let below = means
        .iter()
        .map(|m| {
            if *m < mean {
                1.0
            } else if *m == mean {
                0.5
            } else {
                0.0
            }
        })
        .sum::<f64>();
    let bias = normal.inverse_cdf((below / resamples as f64).clamp(1e-6, 1.0 - 1e-6));
    // A left-out value moves the mean by its own distance.
    let (cubes, squares) = values.iter().fold((0.0, 0.0), |(cubes, squares), x| {
        let d = (x - mean) / (n - 1) as f64;
        (cubes + d.powi(3), squares + d * d)
    });
    let acceleration = if squares > 0.0 { cubes / (6.0 * squares.powf(1.5)) } else { 0.0 };
    let at = |z: f64| {
        let z = bias + z;
        let p = normal.cdf(bias + z / (1.0 - acceleration * z));
        means[((p * resamples as f64) as usize).min(resamples - 1)]
    };
    let z = normal.inverse_cdf(1.0 - alpha);
    Some(Interval { low: at(-z), high: at(z) })
}

#[cfg(test)]
mod tests {
    use super::super::tests::close;
    use super::*;

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
    fn students_interval_agrees_with_scipy() {
        // scipy.stats.t.ppf([0.95, 0.975], [3, 15])
        close(student_quantile(0.95, 3), 2.353_363_434_8, 1e-8);
        close(student_quantile(0.975, 15), 2.131_449_545_6, 1e-8);
        let mean = clustered_mean(&[vec![1.0], vec![2.0], vec![3.0], vec![4.0]]).expect("values");
        let interval = mean.interval(0.05).expect("clusters");
        // scipy.stats.t.interval(0.9, 3, 2.5, scipy.stats.sem([1, 2, 3, 4]))
        close(interval.low, 0.980_910_434_9, 1e-8);
        close(interval.high, 4.019_089_565_1, 1e-8);
        assert_eq!(clustered_mean(&[vec![1.0]]).expect("a value").interval(0.05), None);
    }

    #[test]
    fn bca_agrees_with_scipy() {
        let interval = bca(&[0.2, 0.1, 0.9, 0.3, 0.15, 0.4, 2.0, 0.05, 0.3, 0.6], 0.05, 20_000, 7).expect("values");
        // scipy.stats.bootstrap((values,), numpy.mean, confidence_level=0.9, n_resamples=200000, method="BCa"): a random method.
        close(interval.low, 0.290, 0.01);
        close(interval.high, 0.945, 0.03);
        assert_eq!(bca(&[1.0, 2.0], 0.05, 100, 1), None);
        let same = bca(&[0.5; 9], 0.05, 100, 1).expect("values");
        assert_eq!((same.low, same.high), (0.5, 0.5));
    }
}
