//! The loss plot: SVG, without a library, from the log alone.

use std::fmt::Write;

use super::state::TrainerState;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 48.0;

struct Axes {
    steps: f64,
    low: f64,
    high: f64,
}

impl Axes {
    fn x(&self, step: f64) -> f64 {
        LEFT + step / self.steps * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, loss: f64) -> f64 {
        HEIGHT - BOTTOM - (loss - self.low) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)
    }

    fn path(&self, points: &[(f64, f64)]) -> String {
        let mut path = String::new();
        for (i, (step, loss)) in points.iter().enumerate() {
            let command = if i == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{command}{:.1} {:.1}", self.x(*step), self.y(*loss));
        }
        path
    }
}

/// 1, 2 or 5 times a power of ten, so that about `count` fit into `span`.
fn tick(span: f64, count: f64) -> f64 {
    let raw = (span / count).max(1e-9);
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

/// Training loss (thin: each step; thick: its running mean) and validation loss by optimizer step.
#[must_use]
pub fn loss_plot(state: &TrainerState) -> String {
    let raw: Vec<(f64, f64)> = state.log_history.iter().filter_map(|e| Some((e.step as f64, e.loss?))).collect();
    let validation: Vec<(f64, f64)> = state.validations().map(|(step, loss)| (step as f64, loss)).collect();
    let mut mean = Vec::with_capacity(raw.len());
    let mut running = None;
    for (step, loss) in &raw {
        let value = running.map_or(*loss, |r: f64| 0.9 * r + 0.1 * loss);
        running = Some(value);
        mean.push((*step, value));
    }
    let losses = || raw.iter().chain(&validation).map(|(_, loss)| *loss);
    let high = losses().fold(f64::MIN, f64::max);
    let low = losses().fold(f64::MAX, f64::min).min(0.0);
    let high = if high > low { high * 1.05 } else { low + 1.0 };
    let axes = Axes { steps: state.max_steps.max(1) as f64, low, high };
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"system-ui, sans-serif\" font-size=\"12\" role=\"img\" aria-label=\"training and validation loss by step\">"
    );
    let _ = writeln!(svg, "<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>");
    grid(&mut svg, &axes);
    line(&mut svg, &axes.path(&raw), "#9ec5e8", 1.0);
    line(&mut svg, &axes.path(&mean), "#1f77b4", 2.5);
    line(&mut svg, &axes.path(&validation), "#d62728", 2.5);
    for (step, loss) in &validation {
        let _ =
            writeln!(svg, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"#d62728\"/>", axes.x(*step), axes.y(*loss));
    }
    legend(&mut svg, validation.last().map(|(_, loss)| *loss));
    svg.push_str("</svg>\n");
    svg
}

fn grid(svg: &mut String, axes: &Axes) {
    let step = tick(axes.high - axes.low, 6.0);
    let mut value = (axes.low / step).ceil() * step;
    while value <= axes.high {
        let y = axes.y(value);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#e5e5e5\"/>",
            WIDTH - RIGHT
        );
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#555\">{value:.*}</text>",
            LEFT - 8.0,
            y + 4.0,
            decimals(step)
        );
        value += step;
    }
    let step = tick(axes.steps, 8.0).max(1.0);
    let mut value = 0.0;
    while value <= axes.steps {
        let (x, y) = (axes.x(value), HEIGHT - BOTTOM);
        let _ =
            writeln!(svg, "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{y:.0}\" y2=\"{:.0}\" stroke=\"#999\"/>", y + 5.0);
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\" fill=\"#555\">{value:.0}</text>",
            y + 20.0
        );
        value += step;
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\" fill=\"#555\">optimizer step</text>",
        (WIDTH + LEFT) / 2.0,
        HEIGHT - 8.0
    );
    let _ = writeln!(svg, "<text x=\"16\" y=\"{:.0}\" fill=\"#555\">loss, nats/token</text>", TOP - 14.0);
}

fn decimals(step: f64) -> usize {
    if step >= 1.0 {
        0
    } else if step >= 0.1 {
        1
    } else {
        2
    }
}

fn line(svg: &mut String, path: &str, colour: &str, width: f64) {
    if !path.is_empty() {
        let _ = writeln!(
            svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" stroke-linejoin=\"round\"/>"
        );
    }
}

fn legend(svg: &mut String, validation: Option<f64>) {
    let mut entry = |x: f64, colour: &str, text: &str| {
        let _ = writeln!(
            svg,
            "<line x1=\"{x}\" x2=\"{}\" y1=\"20\" y2=\"20\" stroke=\"{colour}\" stroke-width=\"3\"/>",
            x + 22.0
        );
        let _ = writeln!(svg, "<text x=\"{}\" y=\"24\" fill=\"#222\">{text}</text>", x + 28.0);
    };
    entry(LEFT + 140.0, "#1f77b4", "training (running mean)");
    match validation {
        Some(loss) => entry(LEFT + 340.0, "#d62728", &format!("validation (last {loss:.3})")),
        None => entry(LEFT + 340.0, "#d62728", "validation: none"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::state::LogEntry;

    fn entry(step: usize, loss: Option<f64>, eval_loss: Option<f64>) -> LogEntry {
        LogEntry { step, epoch: 0.0, loss, learning_rate: None, grad_norm: None, eval_loss }
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
    fn an_empty_log_is_still_a_picture() {
        let svg = loss_plot(&TrainerState::default());
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && !svg.contains("NaN"));
    }

    #[test]
    fn ticks_are_round() {
        assert!((tick(3.2, 6.0) - 0.5).abs() < 1e-12);
        assert!((tick(120.0, 8.0) - 20.0).abs() < 1e-12);
    }
}
