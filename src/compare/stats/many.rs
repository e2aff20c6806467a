//! Several statements, and several looks.

/// Error of each of two looks at growing data so that both together err at 5 %: Pocock, Biometrika 64 (1977) 191.
pub const POCOCK_TWO_LOOKS: f64 = 0.0294;

/// Holm's adjusted p-values, in the order given: with all of those at most α rejected, the chance of any false one is at most α.
///
/// Scand. J. Stat. 6 (1979) 65. NaN counts as 1.
#[must_use]
pub fn holm(p: &[f64]) -> Vec<f64> {
    let value = |i: &usize| if p[*i].is_nan() { 1.0 } else { p[*i] };
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| value(a).total_cmp(&value(b)));
    let mut adjusted = vec![1.0; p.len()];
    let mut largest = 0_f64;
    for (rank, i) in order.iter().enumerate() {
        largest = largest.max((value(i) * (p.len() - rank) as f64).min(1.0));
        adjusted[*i] = largest;
    }
    adjusted
}

/// False alarms to expect among `runs` of harmless adapters, each judged at this rate, and the chance of at least one.
#[must_use]
pub fn expected_false_alarms(runs: usize, rate: f64) -> (f64, f64) {
    (runs as f64 * rate, 1.0 - (1.0 - rate).powi(runs.min(i32::MAX as usize) as i32))
}

#[cfg(test)]
mod tests {
    use super::super::tests::close;
    use super::*;

    #[test]
    fn holm_agrees_with_statsmodels() {
        // statsmodels.stats.multitest.multipletests(p, method="holm")[1]
        let expected = [0.04, 0.06, 0.06, 0.02, 0.5];
        for (got, expected) in holm(&[0.01, 0.02, 0.03, 0.004, 0.5]).into_iter().zip(expected) {
            close(got, expected, 1e-12);
        }
        assert_eq!(holm(&[f64::NAN, 0.01]), [1.0, 0.02]);
        assert!(holm(&[]).is_empty());
    }

    #[test]
    fn fifty_adapters_raise_an_alarm_nearly_surely() {
        let (alarms, any) = expected_false_alarms(50, 0.05);
        close(alarms, 2.5, 1e-12);
        close(any, 0.923_055, 1e-6);
    }
}
