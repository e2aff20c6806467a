//! A sweep over learning rates: one short training whose rate grows from step to step (Smith 2017, arXiv 1506.01186).
//!
//! The loss of each batch is compared with base's loss on the same batch, so that hard and easy batches do not hide the curve.

use serde::Serialize;

use super::plan::Plan;
use super::{Objective, TrainEvent, Trainer, Training};
use crate::error::{Error, Result};
use crate::train::encode::Encoded;

/// Rates that are tried, from the first to the last, evenly on a logarithmic scale.
const STEPS: usize = 60;
const FIRST: f64 = 1e-5;
const LAST: f64 = 1e-1;
/// How much of the last value a smoothed one keeps.
const KEPT: f64 = 0.6;
/// The sweep ends where the loss is so far above its lowest, in nats/token.
const BROKEN: f64 = 0.5;
/// Fewer steps show no curve.
const FEWEST: usize = 8;
/// The suggested rate is at most the lowest's divided by this: at the bottom of a sweep the training is about to break.
const MARGIN: f64 = 3.0;

/// One step of a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RatePoint {
    /// Its learning rate.
    pub rate: f64,
    /// Loss less base's on the same batch, smoothed, nats/token.
    pub change: f64,
}

/// What a sweep found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RateSweep {
    /// Every step that was made.
    pub points: Vec<RatePoint>,
    /// Where the loss falls fastest.
    pub steepest: f64,
    /// Where it is lowest.
    pub lowest: f64,
    /// A rate to begin with: the steepest, and at most a third of the lowest.
    pub suggested: f64,
}

impl Training<'_> {
    /// Sweeps over learning rates. Nothing is written.
    ///
    /// # Errors
    /// There is nothing to train on, or the loss breaks at the first rates already.
    pub(crate) fn find_rate<'a>(
        &'a self,
        objective: Box<dyn Objective + 'a>,
        on_event: &mut dyn FnMut(TrainEvent),
    ) -> Result<RateSweep> {
        let plan = Plan::new(self.recipe, self.train)?;
        if plan.len() == 0 {
            return Err(Error::failed("there are no training examples"));
        }
        let mut trainer = Trainer::begin(self, objective, STEPS)?;
        let base = trainer.adapter.clone();
        let (mut points, mut smooth): (Vec<RatePoint>, Option<f64>) = (Vec::new(), None);
        let batches = std::iter::repeat_with(|| plan.steps_from(0)).flatten();
        for (i, step) in batches.take(STEPS).enumerate() {
            let micro = self.micro_batches(&step);
            let examples: Vec<Encoded> = micro.iter().flatten().map(|example| (*example).clone()).collect();
            let before = trainer.objective.loss(&base, &examples)?;
            let rate = FIRST * (LAST / FIRST).powf(i as f64 / (STEPS - 1) as f64);
            let started = std::time::Instant::now();
            // A rate that breaks the training ends the sweep.
            let Ok(entry) = trainer.step(&micro, rate, step.epoch) else { break };
            let change = entry.loss.unwrap_or(f64::NAN) - before;
            let value = smooth.map_or(change, |last| KEPT * last + (1.0 - KEPT) * change);
            smooth = Some(value);
            points.push(RatePoint { rate, change: value });
            let tokens = examples.iter().map(|example| example.ids.len()).sum();
            on_event(TrainEvent::Step { entry, tokens, elapsed: started.elapsed() });
            let lowest = points.iter().map(|point| point.change).fold(f64::INFINITY, f64::min);
            if !value.is_finite() || value > lowest + BROKEN {
                break;
            }
        }
        RateSweep::of(points)
    }
}

impl RateSweep {
    /// Rates that are tried.
    pub(crate) const STEPS: usize = STEPS;

    /// # Errors
    /// Too few points.
    fn of(points: Vec<RatePoint>) -> Result<Self> {
        let lowest = points.iter().min_by(|a, b| a.change.total_cmp(&b.change));
        let Some(lowest) = lowest.filter(|_| points.len() >= FEWEST) else {
            let n = points.len();
            let message = format!(
                "the sweep broke after {n} rates, at {FIRST:e}: the data or the base are broken; `finetest data check` may say more"
            );
            return Err(Error::failed(message));
        };
        let lowest = lowest.rate;
        let slope = |i: &usize| points[i + 2].change - points[i - 2].change;
        let steepest =
            (2..points.len() - 2).filter(|i| points[*i].rate <= lowest).min_by(|a, b| slope(a).total_cmp(&slope(b)));
        let steepest = steepest.map_or(lowest, |i| points[i].rate);
        Ok(Self { steepest, lowest, suggested: steepest.min(lowest / MARGIN), points })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_and_the_steepest_are_found_and_a_broken_sweep_is_an_error() {
        // Falls around 1e-3, is lowest at 1e-2, and breaks.
        let change = |rate: f64| {
            let x = rate.log10();
            -2.0 / (1.0 + (-4.0 * (x + 3.0)).exp()) + if x > -2.0 { 3.0 * (x + 2.0) } else { 0.0 }
        };
        let rates = (0..STEPS).map(|i| FIRST * (LAST / FIRST).powf(i as f64 / (STEPS - 1) as f64));
        let points = rates.map(|rate| RatePoint { rate, change: change(rate) }).collect();
        let found = RateSweep::of(points).expect("a curve");
        assert!((0.0008..0.00125).contains(&found.steepest), "{}", found.steepest);
        assert!((0.008..0.0125).contains(&found.lowest), "{}", found.lowest);
        assert!((found.suggested - found.steepest).abs() < 1e-12);
        let error = RateSweep::of(vec![RatePoint { rate: 1e-5, change: 1.0 }]).expect_err("too few").to_string();
        assert!(error.contains("broke after 1 rates"), "{error}");
    }
}
