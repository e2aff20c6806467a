//! Statistics that stay honest at twenty cases: exact or score-based, paired, and clustered.
//!
//! A *cluster* is what resembles itself: the paraphrases of one question, or the cases of one scenario. How much can be shown depends on
//! the number of clusters, not of cases. Every function names its source, and its tests hold values that were computed elsewhere.

mod bayes;
mod flips;
mod many;
mod mean;
mod normal;
mod positive;
mod power;
mod proportion;
#[cfg(test)]
mod simulation;

pub use bayes::{PairedPosterior, paired_posterior};
pub use flips::{
    FlipTable, PairedGain, e_value, expected_loss_from_jitter, mcnemar_exact, mcnemar_mid_p, newcombe_paired,
    paired_gain, tango_paired,
};
pub use many::{POCOCK_TWO_LOOKS, expected_false_alarms, holm};
pub use mean::{ClusteredMean, bca, clustered_mean, student_quantile};
pub(in crate::compare) use mean::{mean, mean_and_sd};
pub use positive::{PositiveMean, positive_mean};
pub use power::{minimum_detectable_change, minimum_detectable_effect, pairs_to_detect};
pub use proportion::{
    ClusteredShare, cases_to_show, clopper_pearson, clustered_share, losses_allowed, lower_limit, none_lost_needed,
    upper_limit, wilson,
};

/// Φ⁻¹(0.975): two-sided 95 %.
pub const Z_95: f64 = 1.959_963_984_540_054;
/// Φ⁻¹(0.95): one-sided 95 %.
pub const Z_95_ONE_SIDED: f64 = 1.644_853_626_951_472_2;
/// Φ⁻¹(0.8): a power of 80 %.
const Z_POWER_80: f64 = 0.841_621_233_572_914_3;
/// The error that a statement "shown" may have, on one side.
pub const ALPHA: f64 = 0.05;

#[cfg(test)]
mod tests {
    use crate::record::Interval;

    #[track_caller]
    pub(super) fn close(got: f64, expected: f64, tolerance: f64) {
        assert!((got - expected).abs() <= tolerance, "got {got}, expected {expected}");
    }

    #[track_caller]
    pub(super) fn is(interval: Option<Interval>, low: f64, high: f64, tolerance: f64) {
        let interval = interval.expect("an interval");
        close(interval.low, low, tolerance);
        close(interval.high, high, tolerance);
    }
}
