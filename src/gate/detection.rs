//! How often the verdict on the controls was right: what finetest's own study measured.
//!
//! `benches/detection/analyse.py` writes `detection.json` from the states of models that the study judged.

use std::sync::LazyLock;

use serde::Deserialize;

use crate::record::Detection;

/// The result of the study.
#[derive(Deserialize)]
struct Study {
    /// Drift below which 5 % of its harmful adapters were, and above which 5 % of its harmless ones were; nats/token.
    #[cfg_attr(not(test), expect(dead_code, reason = "a test compares them with the defaults"))]
    thresholds: [f64; 2],
    /// One for each size of suite, the smallest first.
    suites: Vec<Detection>,
}

static STUDY: LazyLock<Study> =
    LazyLock::new(|| serde_json::from_str(include_str!("detection.json")).expect("the study's result is JSON"));

/// What the study measured of the largest suite that has at most so many control questions; `None` below its smallest.
pub(super) fn detection(questions: usize) -> Option<Detection> {
    STUDY.suites.iter().rev().find(|suite| suite.questions <= questions).cloned()
}

#[cfg(test)]
mod tests {
    use super::super::{DEFAULT_MAX_DRIFT, KEPT_DRIFT};
    use super::*;

    #[test]
    fn the_default_thresholds_are_those_that_the_study_found() {
        for (own, found) in [KEPT_DRIFT, DEFAULT_MAX_DRIFT].into_iter().zip(STUDY.thresholds) {
            assert!((own - found).abs() < 0.0051, "{own} is not {found}");
        }
    }

    #[test]
    fn a_suite_has_the_rates_of_the_largest_studied_one_that_is_no_larger() {
        let sizes: Vec<usize> = STUDY.suites.iter().map(|suite| suite.questions).collect();
        assert!(sizes.is_sorted() && sizes.len() >= 3, "{sizes:?}");
        assert_eq!(detection(sizes[0] - 1), None);
        assert_eq!(detection(sizes[1]).map(|suite| suite.questions), Some(sizes[1]));
        assert_eq!(detection(sizes[1] - 1).map(|suite| suite.questions), Some(sizes[0]));
        assert_eq!(detection(100_000).map(|suite| suite.questions), sizes.last().copied());
    }

    #[test]
    fn counts_are_within_what_was_judged() {
        for suite in &STUDY.suites {
            assert!(
                suite.caught + suite.passed <= suite.harmful && suite.kept + suite.blamed <= suite.harmless,
                "{suite:?}"
            );
        }
    }
}
