use proptest::prelude::*;

use super::super::tests::{close, is};
use super::*;

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
fn mid_p_counts_half_of_what_was_seen() {
    close(mcnemar_mid_p(4, 0), 0.031_25, 1e-15);
    close(mcnemar_mid_p(0, 4), 1.0 - 0.031_25, 1e-15);
    close(mcnemar_mid_p(3, 3), 0.5, 1e-15);
    assert_eq!(mcnemar_mid_p(0, 0), 1.0);
    // statsmodels: binom.cdf(2, 10, 0.5) − binom.pmf(2, 10, 0.5)/2
    close(mcnemar_mid_p(8, 2), 0.032_714_843_75, 1e-15);
}

#[test]
fn e_values_agree_with_numerical_integration() {
    close(e_value(7, 0), 31.875, 1e-9);
    close(e_value(5, 0), 10.5, 1e-9);
    close(e_value(0, 0), 1.0, 1e-12);
    // scipy.integrate.quad(lambda p: p**9 * (1 - p)**2, 0.5, 1)[0] * 2**12
    close(e_value(9, 2), 6.086_363_636_4, 1e-8);
    close(e_value(0, 7), 0.125, 1e-9);
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
    for (cells, low, high) in published {
        is(newcombe_paired(&table(cells)), low, high, 5e-4);
    }
}

#[test]
fn tango_agrees_with_a_numerical_likelihood() {
    // tests/fixtures/statistics/make.py: the constrained likelihood maximised by scipy, not by the closed form.
    let computed = [
        ([36, 12, 2, 0], 0.061_112_4, 0.344_708_7),
        ([14, 5, 0, 22], 0.025_836_4, 0.255_442_1),
        ([1, 1, 7, 12], -0.517_232_3, -0.026_003_0),
        ([80, 0, 0, 20], -0.036_993_5, 0.036_993_5),
        ([30, 2, 11, 7], -0.322_775_2, -0.044_538_6),
    ];
    for (cells, low, high) in computed {
        is(tango_paired(&table(cells), 0.025), low, high, 1e-5);
    }
    assert_eq!(tango_paired(&FlipTable::default(), 0.05), None);
}

fn table([both, fixed, broken, neither]: [usize; 4]) -> FlipTable {
    FlipTable { both, fixed, broken, neither }
}

fn pairs(both: usize, fixed: usize, broken: usize, neither: usize) -> Vec<(bool, bool)> {
    [((true, true), both), ((false, true), fixed), ((true, false), broken), ((false, false), neither)]
        .into_iter()
        .flat_map(|(pair, n)| vec![pair; n])
        .collect()
}

#[test]
fn selected_controls_are_lost_by_jitter_alone() {
    // arctan(τ)/π at a pass rate of one half.
    for jitter in [0.1, 0.3, 0.5, 0.83_f64] {
        close(expected_loss_from_jitter(0.5, jitter), jitter.atan() / std::f64::consts::PI, 1e-6);
    }
    assert_eq!((expected_loss_from_jitter(0.5, 0.0), expected_loss_from_jitter(0.0, 1.0)), (0.0, 0.0));
    assert!(expected_loss_from_jitter(0.9, 0.3) < expected_loss_from_jitter(0.5, 0.3));
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

proptest! {
    #[test]
    fn mcnemar_tails_overlap_in_one_term(broken in 0_usize..60, fixed in 0_usize..60) {
        let (up, down) = (mcnemar_exact(broken, fixed), mcnemar_exact(fixed, broken));
        prop_assert!((0.0..=1.0).contains(&up));
        prop_assert!(up + down >= 1.0 - 1e-12);
        prop_assert!(mcnemar_exact(broken + 1, fixed) <= mcnemar_exact(broken, fixed + 1) + 1e-12);
        let mid = mcnemar_mid_p(broken, fixed);
        prop_assert!(mid <= up + 1e-12);
        prop_assert!((mid + mcnemar_mid_p(fixed, broken) - 1.0).abs() < 1e-9 || broken + fixed == 0);
    }

    #[test]
    fn differences_lie_in_their_intervals(both in 0_usize..40, fixed in 0_usize..20, broken in 0_usize..20, neither in 0_usize..40) {
        let table = table([both, fixed, broken, neither]);
        if let Some(net) = table.net() {
            for interval in [newcombe_paired(&table), tango_paired(&table, 0.05)] {
                let interval = interval.expect("pairs");
                prop_assert!(-1.0 <= interval.low && interval.low <= net + 1e-9, "{interval:?} {net}");
                prop_assert!(net <= interval.high + 1e-9 && interval.high <= 1.0, "{interval:?} {net}");
            }
        }
    }

    #[test]
    fn a_gain_lies_in_its_interval(clusters in prop::collection::vec(prop::collection::vec(any::<(bool, bool)>(), 0..6), 1..8)) {
        if let Some(gain) = paired_gain(&clusters) {
            prop_assert!(-1.0 <= gain.interval.low && gain.interval.low <= gain.gain + 1e-12);
            prop_assert!(gain.gain <= gain.interval.high + 1e-12 && gain.interval.high <= 1.0);
        }
    }
}
