//! How often the statistics err, on suites that are drawn with a known truth.

#![expect(clippy::print_stdout, reason = "what is printed are the tables of docs/explanation/statistics.md")]

use rayon::prelude::*;

use super::*;
use crate::random::{SplitMix64, unit};

/// A standard normal number: Box and Muller's.
fn normal(random: &mut SplitMix64) -> f64 {
    let (u, v) = (unit(random.draw()).max(1e-300), unit(random.draw()));
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// Means of clusters of 1 to 8 log-normal cases, whose logarithms have this standard deviation, half of its square shared within a cluster.
fn suite(random: &mut SplitMix64, clusters: usize, log_sd: f64) -> Vec<f64> {
    let half = 0.5_f64.sqrt();
    let cluster = |_| {
        let (cases, shared) = (1 + random.below(8), normal(random));
        (0..cases).map(|_| (log_sd * half * (shared + normal(random))).exp()).sum::<f64>() / cases as f64
    };
    (0..clusters).map(cluster).collect()
}

/// Of suites whose true mean is exactly the threshold, the share that is shown below it, and the share that is shown above it.
fn errors(clusters: usize, log_sd: f64, suites: u64) -> (f64, f64) {
    let truth = (log_sd * log_sd / 2.0).exp();
    let shown = (0..suites).into_par_iter().map(|stream| {
        let values = suite(&mut SplitMix64::new(17, stream), clusters, log_sd);
        let limits = positive_mean(&values).and_then(|found| found.limits).expect("limits");
        (u64::from(limits.high < truth), u64::from(limits.low > truth))
    });
    let (below, above) = shown.reduce(|| (0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    (below as f64 / suites as f64, above as f64 / suites as f64)
}

/// The table of `docs/explanation/statistics.md` is this test's output.
#[test]
fn a_drift_on_the_threshold_is_rarely_shown_below_it() {
    println!("| clusters | log-sd | shown below | shown above |\n|---|---|---|---|");
    for (clusters, most) in [(16, 0.09), (50, 0.06), (100, 0.06)] {
        for log_sd in [0.4, 0.6] {
            let (below, above) = errors(clusters, log_sd, 2_000);
            println!("| {clusters} | {log_sd} | {:.1} % | {:.1} % |", 100.0 * below, 100.0 * above);
            assert!(below <= most && above <= 0.07, "{clusters} clusters of log-sd {log_sd}: {below}, {above}");
        }
    }
}

/// Pairs of which `broken` and `fixed` are the shares that flip.
fn flips(random: &mut SplitMix64, n: usize, broken: f64, fixed: f64) -> FlipTable {
    let mut table = FlipTable::default();
    for _ in 0..n {
        let drawn = unit(random.draw());
        let cell = match drawn {
            drawn if drawn < broken => &mut table.broken,
            drawn if drawn < broken + fixed => &mut table.fixed,
            drawn if drawn < broken + fixed + 0.3 => &mut table.neither,
            _ => &mut table.both,
        };
        *cell += 1;
    }
    table
}

#[test]
fn tests_of_flips_err_no_more_than_they_say() {
    let suites = 4_000;
    for n in [20, 50, 100] {
        let mut wrong = [0_u32; 4];
        for stream in 0..suites {
            let mut random = SplitMix64::new(23, stream);
            let even = flips(&mut random, n, 0.08, 0.08);
            wrong[0] += u32::from(mcnemar_exact(even.broken, even.fixed) <= ALPHA);
            wrong[1] += u32::from(mcnemar_mid_p(even.broken, even.fixed) <= ALPHA);
            wrong[2] += u32::from(e_value(even.broken, even.fixed) >= 20.0);
            // A net loss of exactly 5 points, said to be less.
            let lost = flips(&mut random, n, 0.10, 0.05);
            wrong[3] += u32::from(tango_paired(&lost, ALPHA).expect("pairs").low > -0.05);
        }
        let shares = wrong.map(|wrong| f64::from(wrong) / suites as f64);
        println!("n = {n}: exact, mid-p, e-value, Tango err in {shares:?}");
        // Two standard errors of 4 000 draws are 0.7 points.
        assert!(shares[0] <= 0.05 && shares[1] <= 0.057 && shares[2] <= 0.02 && shares[3] <= 0.065, "{n}: {shares:?}");
    }
}

#[test]
fn retention_is_shown_wrongly_in_one_of_twenty_at_most() {
    let suites = 4_000;
    for (n, least) in [(50, 0.9), (100, 0.9), (200, 0.95)] {
        let allowed = losses_allowed(n, least);
        let wrong = (0..suites).filter(|stream| {
            let mut random = SplitMix64::new(29, *stream);
            let lost = (0..n).filter(|_| unit(random.draw()) >= least).count();
            allowed.is_some_and(|allowed| lost <= allowed)
        });
        let share = wrong.count() as f64 / suites as f64;
        assert!(share <= 0.057, "{n} {least}: {share}");
    }
}

/// Cases of one family change together: the interval has to know.
#[test]
fn a_clustered_interval_covers_where_a_naive_one_does_not() {
    let suites = 2_000;
    let (mut clustered, mut naive) = (0_u32, 0_u32);
    for stream in 0..suites {
        let mut random = SplitMix64::new(31, stream);
        let families: Vec<Vec<f64>> = (0..25)
            .map(|_| {
                let shared = normal(&mut random);
                (0..4).map(|_| shared + 0.3 * normal(&mut random)).collect()
            })
            .collect();
        let alone: Vec<Vec<f64>> = families.iter().flatten().map(|value| vec![*value]).collect();
        let misses = |values: &[Vec<f64>]| {
            let interval = clustered_mean(values).and_then(|mean| mean.interval(ALPHA)).expect("clusters");
            u32::from(interval.high < 0.0)
        };
        clustered += misses(&families);
        naive += misses(&alone);
    }
    let share = |misses: u32| f64::from(misses) / suites as f64;
    assert!(share(clustered) <= 0.065 && share(naive) >= 0.15, "{} {}", share(clustered), share(naive));
}
