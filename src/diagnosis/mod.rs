//! What a training's losses say: whether it learnt, what went wrong and since when, and one thing to try.

mod log;
mod signs;

use serde::Serialize;

pub use log::{Log, Point};

/// What a log says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diagnosis {
    /// In one or two words: `diverged`, `overfitting`.
    pub sign: &'static str,
    /// Whether something is wrong; false for what went as it should.
    pub wrong: bool,
    /// The first step that it shows at.
    pub since: usize,
    /// What happened, in words.
    pub words: String,
    /// The numbers that show it.
    pub evidence: String,
    /// One thing to try; empty where nothing is wrong.
    pub remedy: String,
    /// Steps that stand out, the first of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StandingOut>,
}

/// A step that stands out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StandingOut {
    /// The optimizer step.
    pub step: usize,
    /// Lines of the data file that its examples stand in; none where the log does not say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<usize>,
}

/// A way in which a training goes.
trait Sign {
    /// The diagnosis, where the log shows it.
    fn find(&self, curve: &Curve<'_>) -> Option<Diagnosis>;
}

/// Signs in the order of their weight. What comes later is looked for as well, but for `Falling`, which stands alone.
const SIGNS: [&dyn Sign; 7] = [
    &signs::Diverged,
    &signs::RateTooHigh,
    &signs::Jumping,
    &signs::Overfitting,
    &signs::RateTooLow,
    &signs::Plateau,
    &signs::UnderTrained,
];

/// Says what a log shows, the gravest first; at least one thing.
#[must_use]
pub fn diagnose(log: &Log) -> Vec<Diagnosis> {
    let curve = Curve::new(log);
    let mut found: Vec<Diagnosis> = SIGNS.iter().filter_map(|sign| sign.find(&curve)).collect();
    // A training that diverged shows everything else as well.
    if found.first().is_some_and(|first| first.sign == "diverged") {
        found.truncate(1);
    }
    if found.iter().all(|sign| !sign.wrong) {
        found.splice(0..0, signs::falling(&curve));
    }
    found
}

/// A log's losses of training, and the same smoothed.
struct Curve<'a> {
    log: &'a Log,
    /// Median of each loss and its neighbours; as many as there are finite losses.
    smooth: Vec<f64>,
    steps: Vec<usize>,
    losses: Vec<f64>,
}

impl<'a> Curve<'a> {
    fn new(log: &'a Log) -> Self {
        let finite: Vec<&Point> = log.train.iter().filter(|point| point.loss.is_finite()).collect();
        let losses: Vec<f64> = finite.iter().map(|point| point.loss).collect();
        let reach = (losses.len() / 40).clamp(1, 25);
        let around = |i: usize| median(&losses[i.saturating_sub(reach)..(i + reach + 1).min(losses.len())]);
        let smooth = (0..losses.len()).map(around).collect();
        Self { log, smooth, steps: finite.iter().map(|point| point.step).collect(), losses }
    }

    fn len(&self) -> usize {
        self.losses.len()
    }

    fn standing_out(&self, step: usize) -> StandingOut {
        StandingOut { step, lines: self.log.lines.get(&step).cloned().unwrap_or_default() }
    }

    /// The smoothed loss after this share of the training.
    fn at(&self, share: f64) -> f64 {
        let place = (share * self.len().saturating_sub(1) as f64).round() as usize;
        self.smooth.get(place).copied().unwrap_or(f64::NAN)
    }

    /// The loss that the training began with: before the first step has done anything.
    fn first(&self) -> f64 {
        median(&self.losses[..self.len().min(3)])
    }

    fn last(&self) -> f64 {
        let from = self.len().saturating_sub((self.len() / 20).clamp(3, 50));
        median(&self.losses[from..])
    }

    /// The highest learning rate.
    fn rate(&self) -> Option<f64> {
        self.log.train.iter().filter_map(|point| point.rate).max_by(f64::total_cmp)
    }
}

/// The median; of none not a number.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix64;

    /// A log with these losses, a little noise on them, and these losses of validation.
    fn log(losses: impl Iterator<Item = f64>, validation: &[(usize, f64)]) -> Log {
        let mut random = SplitMix64::new(3, 1);
        let mut noise = || (random.below(2001) as f64 / 1000.0 - 1.0) * 0.04;
        let point = |step, loss| Point { step, loss, rate: Some(2e-4), gradient: Some(1.0) };
        Log {
            train: losses.enumerate().map(|(i, loss)| point(i + 1, loss * (1.0 + noise()))).collect(),
            validation: validation.iter().map(|(step, loss)| point(*step, *loss)).collect(),
            ..Log::default()
        }
    }

    fn falls(n: usize, to: f64) -> impl Iterator<Item = f64> {
        (0..n).map(move |i| to + (2.5 - to) * (-(i as f64) / (n as f64 / 8.0)).exp())
    }

    fn signs(log: &Log) -> Vec<&'static str> {
        diagnose(log).into_iter().map(|found| found.sign).collect()
    }

    #[test]
    fn a_training_that_went_well_is_said_to_have() {
        let log = log(falls(120, 0.4), &[(40, 0.8), (80, 0.52), (120, 0.5)]);
        let found = diagnose(&log);
        assert_eq!(found[0].sign, "falling");
        assert!(found.iter().all(|found| !found.wrong && found.remedy.is_empty()), "{found:?}");
    }

    #[test]
    fn a_loss_that_is_no_number_or_rises_for_good_has_diverged() {
        let nan = falls(30, 1.0).chain(std::iter::repeat_n(f64::NAN, 20));
        let found = diagnose(&log(nan, &[]));
        assert_eq!((found[0].sign, found[0].since, found.len()), ("diverged", 31, 1));
        let rises = falls(40, 1.0).chain((0..40).map(|i| 1.0 + 0.2 * f64::from(i)));
        let found = diagnose(&log(rises, &[]));
        assert_eq!(found[0].sign, "diverged");
        assert!((20..46).contains(&found[0].since), "{found:?}");
    }

    #[test]
    fn steps_that_jump_are_named() {
        let mut losses: Vec<f64> = falls(100, 0.6).collect();
        for step in [30, 55, 90] {
            losses[step - 1] *= 4.0;
        }
        let found = diagnose(&log(losses.iter().copied(), &[]));
        let jumping = found.iter().find(|found| found.sign == "jumping").expect("jumping");
        assert_eq!(jumping.steps.iter().map(|at| at.step).collect::<Vec<_>>(), [30, 55, 90]);
        losses[29] /= 4.0;
        losses[89] /= 4.0;
        let found = diagnose(&log(losses.into_iter(), &[]));
        let one = found.iter().find(|found| found.sign == "one batch stands out").expect("one batch");
        assert_eq!(one.steps, [StandingOut { step: 55, lines: Vec::new() }]);
    }

    #[test]
    fn an_example_that_is_in_every_batch_that_jumps_is_named() {
        let mut losses: Vec<f64> = falls(100, 0.6).collect();
        for step in [30, 60, 90] {
            losses[step - 1] *= 4.0;
        }
        let mut log = log(losses.into_iter(), &[]);
        for step in 1..=100 {
            log.add_lines(step, &format!("{}, {}", step, if step % 30 == 0 { 777 } else { 500 + step }));
        }
        let found = diagnose(&log);
        let one = found.iter().find(|found| found.sign == "one bad example").expect("one example");
        assert!(
            one.words.contains("line 777") && one.steps[1] == StandingOut { step: 60, lines: vec![60, 777] },
            "{one:?}"
        );
        // A second one that is common tells nothing of either.
        for step in [30, 60, 90] {
            log.add_lines(step, "777,778");
        }
        assert!(signs(&log).contains(&"jumping"));
    }

    #[test]
    fn validation_that_turns_while_training_falls_is_overfitting_since_then() {
        let validation = [(20, 1.4), (40, 1.1), (60, 1.0), (80, 1.08), (100, 1.2), (120, 1.35)];
        let found = diagnose(&log(falls(120, 0.05), &validation));
        let over = found.iter().find(|found| found.sign == "overfitting").expect("overfitting");
        assert_eq!(over.since, 60);
        assert!(over.remedy.contains("step 60"), "{over:?}");
        // Noise of a few thousandths is none.
        let flat = [(40, 1.0), (60, 1.002), (80, 1.001), (100, 1.003)];
        assert!(!signs(&log(falls(120, 0.9), &flat)).contains(&"overfitting"));
    }

    #[test]
    fn a_rate_is_too_low_or_too_high_by_how_the_loss_begins() {
        let low = log((0..60).map(|i| 2.5 - 0.0015 * f64::from(i)), &[]);
        assert_eq!(signs(&low)[0], "rate too low");
        let hump = (0..80)
            .map(|i| if i < 20 { 2.0 + 0.12 * f64::from(i) } else { 1.0 + 3.3 * (-f64::from(i - 20) / 9.0).exp() });
        assert!(signs(&log(hump, &[])).contains(&"rate too high"), "{:?}", signs(&log((0..2).map(f64::from), &[])));
    }

    #[test]
    fn a_training_that_still_falls_is_under_trained_and_one_that_rests_is_a_plateau() {
        let still = log((0..100).map(|i| 2.5 - 0.015 * f64::from(i)), &[]);
        assert!(signs(&still).contains(&"under-trained"), "{:?}", signs(&still));
        let rests = log((0..100).map(|i| if i < 20 { 2.5 - 0.05 * f64::from(i) } else { 1.5 }), &[]);
        assert!(signs(&rests).contains(&"plateau"), "{:?}", signs(&rests));
    }

    /// Trainings of the default model that were made to go wrong, by `benches/diagnosis/wrong.py`. The signs were written with one half at
    /// hand; the other was read when they were done.
    #[test]
    fn real_trainings_that_went_wrong_are_told() {
        let expected: [(&str, &[&str]); 8] = [
            ("well", &["falling", "plateau"]),
            ("diverged", &["diverged"]),
            ("rate-too-high", &["rate too high", "diverged"]),
            ("rate-too-low", &["rate too low"]),
            ("under-trained", &["under-trained"]),
            ("overfitting", &["overfitting"]),
            ("bad-example", &["one bad example", "jumping"]),
            ("bad-batch", &["one batch stands out", "jumping", "one bad example"]),
        ];
        for half in ["tuned", "held"] {
            for (name, signs) in expected {
                let path = format!("tests/fixtures/training_logs/{half}/{name}.json");
                let log = Log::read(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(&path)).expect("a log");
                let diagnoses = diagnose(&log);
                let found: Vec<&str> = diagnoses.iter().map(|one| one.sign).collect();
                assert!(name != "well" || diagnoses.iter().all(|one| !one.wrong), "{path}: {diagnoses:?}");
                // A rate that comes down to 0 lets the loss rest, however little was learnt. The losses do not show it.
                let missed = (half, name) == ("held", "under-trained");
                assert_eq!(found.iter().any(|sign| signs.contains(sign)), !missed, "{path}: {found:?}");
            }
        }
    }

    #[test]
    fn a_few_steps_say_little_and_do_not_panic() {
        for n in 1..6 {
            let found = diagnose(&log(falls(n, 1.0), &[]));
            assert!(!found.is_empty(), "{n}");
        }
        let nothing = diagnose(&log(std::iter::once(f64::NAN), &[(1, f64::NAN)]));
        assert_eq!(nothing[0].sign, "diverged");
    }
}
