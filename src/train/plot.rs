//! Plots of a training: SVG, without a library, from the log alone.

use std::fmt::Write;

use super::find_rate::RateSweep;
use super::state::TrainerState;

const WIDTH: f64 = 720.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 48.0;
/// Heights of the losses and of the smaller panels below them, and the space between.
const LOSSES: f64 = 304.0;
const SMALL: f64 = 64.0;
const GAP: f64 = 34.0;
const BLUE: &str = "#1f77b4";
const RED: &str = "#d62728";
const GREY: &str = "#777";

/// Points (x, y).
type Points = Vec<(f64, f64)>;

/// The x axis, which all panels share.
#[derive(Clone, Copy)]
struct Across {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Across {
    fn steps(last: usize) -> Self {
        Self { low: 0.0, high: last.max(1) as f64, logarithmic: false }
    }

    fn x(self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        LEFT + part * (WIDTH - LEFT - RIGHT)
    }

    /// Where it is labelled, and with what.
    fn ticks(self) -> Vec<(f64, String)> {
        if self.logarithmic {
            let exponents = self.low.log10().ceil() as i32..=self.high.log10().floor() as i32;
            return exponents.map(|exponent| (10f64.powi(exponent), format!("1e{exponent}"))).collect();
        }
        let step = tick(self.high, 8.0).max(1.0);
        let count = (self.high / step).floor() as usize;
        (0..=count).map(|i| (i as f64 * step, format!("{:.0}", i as f64 * step))).collect()
    }
}

/// A part of the picture with a y axis of its own.
struct Panel {
    across: Across,
    top: f64,
    height: f64,
    low: f64,
    high: f64,
}

impl Panel {
    /// One that holds these values; losses begin at zero.
    fn holding(across: Across, top: f64, height: f64, values: impl Iterator<Item = f64>, from_zero: bool) -> Self {
        let (low, high) = values
            .filter(|value| value.is_finite())
            .fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
        let low = if from_zero || low > high { low.min(0.0) } else { low };
        let high = if high > low { high + 0.05 * (high - low) } else { low + 1.0 };
        Self { across, top, height, low, high }
    }

    fn y(&self, value: f64) -> f64 {
        self.top + self.height - (value - self.low) / (self.high - self.low) * self.height
    }

    fn line(&self, svg: &mut String, points: &[(f64, f64)], colour: &str, width: f64) {
        let mut path = String::new();
        for (x, y) in points.iter().filter(|(_, y)| y.is_finite()) {
            let command = if path.is_empty() { 'M' } else { 'L' };
            let _ = write!(path, "{command}{:.1} {:.1}", self.across.x(*x), self.y(*y));
        }
        if !path.is_empty() {
            let _ = writeln!(
                svg,
                "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" stroke-linejoin=\"round\"/>"
            );
        }
    }

    /// Horizontal lines with their values, and what they mean.
    fn grid(&self, svg: &mut String, lines: f64, label: &str) {
        let step = tick(self.high - self.low, lines);
        let first = (self.low / step).ceil();
        let count = ((self.high / step).floor() - first).max(0.0) as usize;
        for i in 0..=count {
            let value = (first + i as f64) * step;
            let y = self.y(value);
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#e5e5e5\"/>",
                WIDTH - RIGHT
            );
            let _ = writeln!(
                svg,
                "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#555\">{}</text>",
                LEFT - 8.0,
                y + 4.0,
                labelled(value, step)
            );
        }
        let _ = writeln!(svg, "<text x=\"16\" y=\"{:.0}\" fill=\"#555\">{label}</text>", self.top - 14.0);
    }

    /// The x axis below it.
    fn axis(&self, svg: &mut String, label: &str) {
        let y = self.top + self.height;
        for (value, text) in self.across.ticks() {
            let x = self.across.x(value);
            let _ = writeln!(
                svg,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{y:.0}\" y2=\"{:.0}\" stroke=\"#999\"/>",
                y + 5.0
            );
            let _ = writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\" fill=\"#555\">{text}</text>",
                y + 20.0
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\" fill=\"#555\">{label}</text>",
            (WIDTH + LEFT) / 2.0,
            y + 40.0
        );
    }
}

/// 1, 2 or 5 times a power of ten, so that about `count` fit into `span`.
fn tick(span: f64, count: f64) -> f64 {
    let raw = (span / count).max(1e-12);
    let power = 10f64.powf(raw.log10().floor());
    let fraction = raw / power;
    let nice = if fraction < 1.5 {
        1.0
    } else if fraction < 3.5 {
        2.0
    } else if fraction < 7.5 {
        5.0
    } else {
        10.0
    };
    nice * power
}

/// A value with the digits that tell it from its neighbours.
fn labelled(value: f64, step: f64) -> String {
    if step < 0.005 {
        return if value.abs() < step / 2.0 { "0".to_owned() } else { format!("{value:.0e}") };
    }
    let digits = if step >= 1.0 {
        0
    } else if step >= 0.1 {
        1
    } else {
        2
    };
    // No minus before a zero.
    format!("{:.digits$}", if value.abs() < step / 2.0 { 0.0 } else { value })
}

fn picture(height: f64, label: &str, draw: impl FnOnce(&mut String)) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, sans-serif\" font-size=\"12\" role=\"img\" aria-label=\"{label}\">\n"
    );
    let _ = writeln!(svg, "<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>");
    draw(&mut svg);
    svg.push_str("</svg>\n");
    svg
}

fn key(svg: &mut String, x: f64, colour: &str, text: &str) {
    let _ = writeln!(
        svg,
        "<line x1=\"{x}\" x2=\"{}\" y1=\"20\" y2=\"20\" stroke=\"{colour}\" stroke-width=\"3\"/>",
        x + 22.0
    );
    let _ = writeln!(svg, "<text x=\"{}\" y=\"24\" fill=\"#222\">{text}</text>", x + 28.0);
}

/// By optimizer step: training loss (thin: each step; thick: its running mean), validation loss, and below them, where they are logged,
/// the learning rate and the gradient's norm.
#[must_use]
pub fn loss_plot(state: &TrainerState) -> String {
    let of = |value: &dyn Fn(&super::LogEntry) -> Option<f64>| -> Points {
        state.log_history.iter().filter_map(|entry| Some((entry.step as f64, value(entry)?))).collect()
    };
    let (raw, validation) = (of(&|entry| entry.loss), of(&|entry| entry.eval_loss));
    let mut running = None;
    let mean: Points = raw
        .iter()
        .map(|(step, loss)| {
            let value = running.map_or(*loss, |r: f64| 0.9 * r + 0.1 * loss);
            running = Some(value);
            (*step, value)
        })
        .collect();
    let small = [("learning rate", of(&|entry| entry.learning_rate)), ("gradient norm", of(&|entry| entry.grad_norm))];
    let small: Vec<_> = small.into_iter().filter(|(_, points)| !points.is_empty()).collect();
    let across = Across::steps(state.max_steps.max(state.global_step));
    let height = TOP + LOSSES + small.len() as f64 * (GAP + SMALL) + BOTTOM;
    picture(height, "training and validation loss by step", |svg| {
        let values = raw.iter().chain(&validation).map(|(_, loss)| *loss);
        let losses = Panel::holding(across, TOP, LOSSES, values, true);
        losses.grid(svg, 6.0, "loss, nats/token");
        losses.line(svg, &raw, "#9ec5e8", 1.0);
        losses.line(svg, &mean, BLUE, 2.5);
        losses.line(svg, &validation, RED, 2.5);
        for (step, loss) in validation.iter().filter(|(_, loss)| loss.is_finite()) {
            let (x, y) = (across.x(*step), losses.y(*loss));
            let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{RED}\"/>");
        }
        let mut lowest = losses;
        for (label, points) in &small {
            let top = lowest.top + lowest.height + GAP;
            lowest = Panel::holding(across, top, SMALL, points.iter().map(|(_, value)| *value), true);
            lowest.grid(svg, 2.0, label);
            lowest.line(svg, points, GREY, 1.5);
        }
        lowest.axis(svg, "optimizer step");
        key(svg, LEFT + 140.0, BLUE, "training (running mean)");
        match validation.last() {
            Some((_, loss)) => key(svg, LEFT + 340.0, RED, &format!("validation (last {loss:.3})")),
            None => key(svg, LEFT + 340.0, RED, "validation: none"),
        }
    })
}

/// What a sweep over learning rates found: the loss less base's by the rate, and the rate that is suggested.
#[must_use]
pub fn rate_plot(sweep: &RateSweep) -> String {
    let points: Points = sweep.points.iter().map(|point| (point.rate, point.change)).collect();
    let ends = (points.first(), points.last());
    let across = match ends {
        (Some((low, _)), Some((high, _))) if high > low => Across { low: *low, high: *high, logarithmic: true },
        _ => Across { low: 1e-5, high: 1e-1, logarithmic: true },
    };
    picture(TOP + LOSSES + BOTTOM, "loss by learning rate", |svg| {
        let panel = Panel::holding(across, TOP, LOSSES, points.iter().map(|(_, change)| *change).chain([0.0]), false);
        panel.grid(svg, 6.0, "loss less base's, nats/token");
        panel.line(svg, &points, BLUE, 2.5);
        for (rate, colour) in [(sweep.suggested, RED), (sweep.lowest, GREY)] {
            if (across.low..=across.high).contains(&rate) {
                panel.line(svg, &[(rate, panel.low), (rate, panel.high)], colour, 1.5);
            }
        }
        panel.axis(svg, "learning rate");
        key(svg, LEFT + 140.0, RED, &format!("suggested: {:.1e}", sweep.suggested));
        key(svg, LEFT + 340.0, GREY, &format!("lowest: {:.1e}", sweep.lowest));
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::find_rate::RatePoint;
    use crate::train::state::LogEntry;

    fn entry(step: usize, loss: Option<f64>, eval_loss: Option<f64>) -> LogEntry {
        LogEntry { step, loss, eval_loss, ..LogEntry::default() }
    }

    #[test]
    fn every_step_and_every_validation_is_drawn() {
        let log_history = vec![entry(1, Some(2.0), None), entry(2, Some(1.0), None), entry(2, None, Some(1.2))];
        let svg = loss_plot(&TrainerState { max_steps: 2, log_history, ..TrainerState::default() });
        assert_eq!(svg.matches("<circle").count(), 1);
        assert_eq!(svg.matches("<path").count(), 3);
        assert!(svg.contains("last 1.200"));
    }

    #[test]
    fn the_rate_and_the_gradient_have_panels_where_they_are_logged() {
        let logged =
            |step| LogEntry { learning_rate: Some(2e-4), grad_norm: Some(1.5), ..entry(step, Some(1.0), None) };
        let state = TrainerState { max_steps: 2, log_history: vec![logged(1), logged(2)], ..TrainerState::default() };
        let svg = loss_plot(&state);
        assert!(svg.contains("learning rate") && svg.contains("gradient norm") && svg.contains(">2e-4<"), "{svg}");
        assert_eq!(svg.matches("<path").count(), 4);
    }

    #[test]
    fn an_empty_log_and_one_without_numbers_are_still_pictures() {
        let nan =
            TrainerState { log_history: vec![entry(1, Some(f64::NAN), Some(f64::NAN))], ..TrainerState::default() };
        for state in [TrainerState::default(), nan] {
            let svg = loss_plot(&state);
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"), "{svg}");
            assert!(!svg.contains("\"NaN") && !svg.contains("MNaN"), "{svg}");
        }
    }

    #[test]
    fn a_sweep_is_drawn_over_decades() {
        let points =
            (0..=40).map(|i| RatePoint { rate: 1e-5 * 10f64.powf(f64::from(i) / 10.0), change: -0.01 * f64::from(i) });
        let sweep = RateSweep { points: points.collect(), steepest: 1e-3, lowest: 1e-2, suggested: 1e-3 };
        let svg = rate_plot(&sweep);
        assert!(svg.contains(">1e-5<") && svg.contains(">1e-1<") && svg.contains("suggested: 1.0e-3"), "{svg}");
    }

    #[test]
    fn ticks_are_round() {
        assert!((tick(3.2, 6.0) - 0.5).abs() < 1e-12);
        assert!((tick(120.0, 8.0) - 20.0).abs() < 1e-12);
        assert_eq!([labelled(-0.0, 0.5), labelled(2e-4, 1e-4), labelled(0.25, 0.05)], ["0.0", "2e-4", "0.25"]);
    }
}
