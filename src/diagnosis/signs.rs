//! One `impl` for each way in which a training goes.

use super::{Curve, Diagnosis, Sign, StandingOut, median};
use crate::compare::number;

/// Losses below which little is said of the shape of a curve.
const FEW: usize = 12;
/// Steps that are named.
const NAMED: usize = 8;

/// The loss is no number, or ends far above where it was.
pub(super) struct Diverged;

impl Sign for Diverged {
    fn find(&self, curve: &Curve<'_>) -> Option<Diagnosis> {
        let broken = curve.log.train.iter().chain(&curve.log.validation).find(|point| !point.loss.is_finite());
        let found = |since: usize, words: String, evidence: String| Diagnosis {
            sign: "diverged",
            wrong: true,
            since,
            words,
            evidence,
            remedy: "divide learning_rate by ten, and keep max_grad_norm at 1".to_owned(),
            steps: Vec::new(),
        };
        if let Some(point) = broken {
            let before = curve
                .losses
                .last()
                .map_or_else(String::new, |loss| format!("the last loss before was {}", number(*loss)));
            return Some(found(point.step, format!("the loss is no number from step {} on", point.step), before));
        }
        let least = (0..curve.len()).min_by(|a, b| curve.smooth[*a].total_cmp(&curve.smooth[*b]))?;
        // The first loss alone: the second step may have broken it already.
        let (low, last, first) = (curve.smooth[least], curve.last(), curve.losses[0]);
        // Above where it began, and not by the noise of a small set.
        let rose = curve.len() >= FEW && last > 1.3 * first && last - first > 0.5;
        // Or most of what was gained is lost again.
        let lost = curve.len() >= FEW && last > 2.0 * low && last - low > 0.5 && last - low > 0.5 * (first - low);
        // What breaks at once is lowest at a single step, which is smoothed away.
        let lowest = (0..curve.len()).min_by(|a, b| curve.losses[*a].total_cmp(&curve.losses[*b]))?;
        let (least, low) = if rose { (lowest, curve.losses[lowest]) } else { (least, low) };
        (rose || lost).then(|| {
            let step = curve.steps[least];
            let words = if rose {
                format!("the loss ends above where it began; it was lowest at step {step}")
            } else {
                format!("the loss was lowest at step {step}, and has risen since")
            };
            found(
                step,
                words,
                format!(
                    "{} at the beginning, {} at step {step}, {} at the end",
                    number(first),
                    number(low),
                    number(last)
                ),
            )
        })
    }
}

/// The loss rises before it falls.
pub(super) struct RateTooHigh;

impl Sign for RateTooHigh {
    fn find(&self, curve: &Curve<'_>) -> Option<Diagnosis> {
        if curve.len() < FEW {
            return None;
        }
        let early = curve.len() * 2 / 5;
        let highest = (0..early).max_by(|a, b| curve.smooth[*a].total_cmp(&curve.smooth[*b]))?;
        let (first, high) = (curve.first(), curve.smooth[highest]);
        (highest > 0 && high > 1.2 * first && high - first > 0.2).then(|| Diagnosis {
            sign: "rate too high",
            wrong: true,
            since: curve.steps[0],
            words: format!("the loss rose until step {} before it fell", curve.steps[highest]),
            evidence: format!(
                "{} at the beginning, {} at step {}{}",
                number(first),
                number(high),
                curve.steps[highest],
                rate(curve)
            ),
            remedy: "divide learning_rate by three, or give warmup_ratio = 0.1".to_owned(),
            steps: Vec::new(),
        })
    }
}

/// Single batches are far above their neighbours.
pub(super) struct Jumping;

impl Sign for Jumping {
    fn find(&self, curve: &Curve<'_>) -> Option<Diagnosis> {
        if curve.len() < FEW {
            return None;
        }
        let beside = |i: usize| median(&curve.losses[i.saturating_sub(4)..(i + 5).min(curve.len())]);
        let away: Vec<f64> = (0..curve.len()).map(|i| curve.losses[i] - beside(i)).collect();
        let usual = 1.4826 * median(&away.iter().map(|distance| distance.abs()).collect::<Vec<f64>>());
        // The first losses are high by themselves.
        let jumps = |i: &usize| *i >= 4 && away[*i] > 6.0 * usual && away[*i] > 0.5 * beside(*i) && away[*i] > 0.3;
        let found: Vec<usize> = (0..curve.len()).filter(jumps).collect();
        let worst = found.iter().copied().max_by(|a, b| away[*a].total_cmp(&away[*b]))?;
        let all: Vec<StandingOut> = found.iter().map(|i| curve.standing_out(curve.steps[*i])).collect();
        let evidence = format!(
            "{} at step {}, {} beside it",
            number(curve.losses[worst]),
            curve.steps[worst],
            number(beside(worst))
        );
        let (sign, words) = match (found.len(), common(&all)) {
            (1, _) => {
                ("one batch stands out", format!("the loss of step {} is far above those beside it", all[0].step))
            }
            (n, Some(line)) => (
                "one bad example",
                format!(
                    "the losses of {n} steps are far above those beside them, and the example of line {line} is in each"
                ),
            ),
            (n, None) => ("jumping", format!("the losses of {n} steps are far above those beside them")),
        };
        Some(Diagnosis {
            sign,
            wrong: true,
            since: curve.steps[found[0]],
            words,
            evidence,
            remedy: "read the examples of these batches: they are long, broken, or answered wrongly; `finetest data check` may name them".to_owned(),
            steps: all.into_iter().take(NAMED).collect(),
        })
    }
}

/// The line whose example is in every one of several steps, if there is one and no other.
fn common(steps: &[StandingOut]) -> Option<usize> {
    let (first, rest) = steps.split_first().filter(|(_, rest)| !rest.is_empty())?;
    let mut lines = first.lines.iter().filter(|line| rest.iter().all(|step| step.lines.contains(line)));
    lines.next().copied().filter(|_| lines.next().is_none())
}

/// Validation turns while training goes on to fall.
pub(super) struct Overfitting;

impl Sign for Overfitting {
    fn find(&self, curve: &Curve<'_>) -> Option<Diagnosis> {
        let validation: Vec<_> = curve.log.validation.iter().filter(|point| point.loss.is_finite()).collect();
        let least = (0..validation.len()).min_by(|a, b| validation[*a].loss.total_cmp(&validation[*b].loss))?;
        let (best, after) = (validation[least], &validation[least + 1..]);
        let last = after.last()?;
        let rises = last.loss > 1.03 * best.loss && after.iter().all(|point| point.loss > 1.005 * best.loss);
        let trained = |step: usize| curve.smooth.get(curve.steps.partition_point(|other| *other < step)).copied();
        let falls = trained(best.step).is_none_or(|then| curve.last() < then);
        // Where only one validation came after, it has to be far above.
        (rises && falls && (after.len() >= 2 || last.loss > 1.1 * best.loss)).then(|| Diagnosis {
            sign: "overfitting",
            wrong: true,
            since: best.step,
            words: format!(
                "validation was best at step {}, and is worse since, while training goes on to fall",
                best.step
            ),
            evidence: format!(
                "validation {} at step {}, {} at step {}; training ends at {}",
                number(best.loss),
                best.step,
                number(last.loss),
                last.step,
                number(curve.last())
            ),
            remedy: format!("train again with load_best_model_at_end = true, or take the checkpoint of step {}; fewer epochs do too", best.step),
            steps: Vec::new(),
        })
    }
}

/// Nothing was learnt, evenly.
pub(super) struct RateTooLow;

impl Sign for RateTooLow {
    fn find(&self, curve: &Curve<'_>) -> Option<Diagnosis> {
        let (first, last) = (curve.first(), curve.last());
        let spread = median(&curve.losses.iter().zip(&curve.smooth).map(|(a, b)| (a - b).abs()).collect::<Vec<f64>>());
        let moved = first - last;
        let still = moved.abs() < 0.1 * first && spread < 0.1 * first;
        // Batches differ by more than a low rate moves them; validation is of the same examples each time.
        let (mut validated, validation) = (false, &curve.log.validation);
        if let (true, [from, .., to]) = (validation.len() >= 3, validation.as_slice()) {
            validated = (from.loss - to.loss).abs() < 0.03 * from.loss && moved.abs() < 0.25 * first;
        }
        (curve.len() >= FEW && first > 0.3 && (still || validated)).then(|| {
            let (of, from, to) = match (validated, validation.first(), validation.last()) {
                (true, Some(from), Some(to)) => ("validation ", from.loss, to.loss),
                _ => ("", first, last),
            };
            Diagnosis {
                sign: "rate too low",
                wrong: true,
                since: curve.steps[0],
                words: format!("the loss has hardly moved in {} steps", curve.len()),
                evidence: format!("{of}{} at the beginning, {} at the end{}", number(from), number(to), rate(curve)),
                remedy: "multiply learning_rate by five; for LoRA 1e-4 to 5e-4 is common".to_owned(),
                steps: Vec::new(),
            }
        })
    }
}

/// It fell, and rests high.
pub(super) struct Plateau;

impl Sign for Plateau {
    fn find(&self, curve: &Curve<'_>) -> Option<Diagnosis> {
        let (first, half, last) = (curve.first(), curve.at(0.5), curve.last());
        let fell = first - half > 0.1 * first;
        (curve.len() >= 2 * FEW && fell && half - last < 0.03 * half && half - last > -0.1 * half && last > 0.5).then(
            || Diagnosis {
                sign: "plateau",
                wrong: false,
                since: curve.steps[curve.len() / 2],
                words: "the loss did not fall in the second half".to_owned(),
                evidence: format!(
                    "{} at the beginning, {} in the middle, {} at the end",
                    number(first),
                    number(half),
                    number(last)
                ),
                remedy: String::new(),
                steps: Vec::new(),
            },
        )
    }
}

/// It still falls at its end.
pub(super) struct UnderTrained;

impl Sign for UnderTrained {
    fn find(&self, curve: &Curve<'_>) -> Option<Diagnosis> {
        let (late, last, first) = (curve.at(0.75), curve.last(), curve.first());
        let turned = Overfitting.find(curve).is_some();
        let falls = late - last > 0.08 * late && last > 0.2 && first - last > 0.1 * first;
        (curve.len() >= FEW && falls && !turned).then(|| Diagnosis {
            sign: "under-trained",
            wrong: true,
            since: curve.steps[curve.len() * 3 / 4],
            words: "the loss still fell when the training ended".to_owned(),
            evidence: format!("{} after three quarters, {} at the end", number(late), number(last)),
            remedy: "train for one more epoch, three at most".to_owned(),
            steps: Vec::new(),
        })
    }
}

/// Nothing is wrong: how far it fell, or that it cannot be told.
pub(super) fn falling(curve: &Curve<'_>) -> Option<Diagnosis> {
    let (first, last) = (curve.first(), curve.last());
    let validation = curve
        .log
        .validation
        .last()
        .map_or_else(String::new, |point| format!("; validation ends at {}", number(point.loss)));
    let sign = |sign, words: &str| Diagnosis {
        sign,
        wrong: false,
        since: curve.steps.first().copied().unwrap_or(0),
        words: words.to_owned(),
        evidence: format!(
            "{} at the beginning, {} at the end of {} losses{validation}",
            number(first),
            number(last),
            curve.len()
        ),
        remedy: String::new(),
        steps: Vec::new(),
    };
    match curve.len() {
        n if n < FEW => Some(sign("too short", "there are too few losses to say more")),
        _ if last < first => Some(sign("falling", "the loss falls as it should")),
        _ => Some(sign("not falling", "the loss does not fall, and no cause shows")),
    }
}

/// `, at a rate of 2e-4`.
fn rate(curve: &Curve<'_>) -> String {
    curve.rate().map_or_else(String::new, |rate| format!(", at a rate of {rate:e}"))
}
