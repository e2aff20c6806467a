//! What a comparison of this size could have seen.

use super::{Z_95, Z_95_ONE_SIDED, Z_POWER_80};

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

/// Smallest change of a mean that `n` clusters show with 5 % error on one side and 80 % power: (z_α + z_β)·`sd`/√n. `None` with fewer than
/// two clusters.
///
/// `sd` is the standard deviation of the clusters' differences.
#[must_use]
pub fn minimum_detectable_change(n: usize, sd: f64) -> Option<f64> {
    (n > 1).then(|| (Z_95_ONE_SIDED + Z_POWER_80) * sd / (n as f64).sqrt())
}

/// Pairs that a comparison needs to detect a difference of `effect` in pass rate, at this share of discordant pairs: (z_{α/2} + z_β)² ·
/// discordance / effect². `None` where there is no effect to detect.
#[must_use]
pub fn pairs_to_detect(effect: f64, discordance: f64) -> Option<usize> {
    (effect > 0.0 && discordance > 0.0)
        .then(|| ((Z_95 + Z_POWER_80).powi(2) * discordance / (effect * effect)).ceil() as usize)
}

#[cfg(test)]
mod tests {
    use super::super::tests::close;
    use super::*;

    #[test]
    fn twenty_cases_with_a_tenth_discordant_detect_twenty_points() {
        close(minimum_detectable_effect(20, 2).expect("cases"), 0.198_1, 1e-4);
        assert!(minimum_detectable_effect(20, 0).expect("cases") > 0.1);
        assert_eq!(minimum_detectable_effect(1, 1), Some(1.0));
        assert_eq!(minimum_detectable_effect(0, 0), None);
    }

    #[test]
    fn sizes_and_effects_are_each_others_inverse() {
        let n = pairs_to_detect(0.05, 0.1).expect("an effect");
        assert_eq!(n, 314);
        close(minimum_detectable_effect(n, n / 10).expect("cases"), 0.05, 1e-3);
        close(minimum_detectable_change(50, 1.0).expect("clusters"), 0.351_64, 1e-4);
        assert_eq!((pairs_to_detect(0.0, 0.1), minimum_detectable_change(1, 1.0)), (None, None));
    }
}
