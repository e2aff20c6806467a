//! Progress on stderr: bars on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::verdicts::Verdicts;
use super::{interrupt, json_line};
use crate::error::Result;
use crate::run::RunEvent;
use crate::shown::visible;

/// Without a terminal, a line at most this often.
const EVERY: Duration = Duration::from_secs(15);

/// Draws [`RunEvent`]s.
pub(crate) struct Display {
    quiet: bool,
    /// Verdicts are shown without a terminal too, and of stored answers.
    verbose: bool,
    /// Answers are judged.
    judges: bool,
    terminal: bool,
    bar: Option<ProgressBar>,
    last_line: Instant,
    phase: Phase,
    verdicts: Verdicts,
    /// Events are printed as JSON lines instead of being drawn; how that went.
    lines: Option<Result<()>>,
}

/// The time that is left; nothing is known before the first unit.
fn left(state: &ProgressState, out: &mut dyn std::fmt::Write) {
    if state.pos() > 0 {
        let _ = write!(out, "{:#} left", HumanDuration(state.eta()));
    }
}

/// What the current bar counts.
#[derive(Default)]
struct Phase {
    what: String,
    bytes: bool,
    total: usize,
    done: usize,
    tokens: usize,
    started: Option<Instant>,
    validation: Option<f64>,
}

/// Columns of the terminal on stdout, if it is one.
pub(super) fn terminal_width() -> Option<usize> {
    let (_, columns) = console::Term::stdout().size_checked()?;
    Some(usize::from(columns))
}

impl Display {
    pub(crate) fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let (phase, verdicts) = (Phase::default(), Verdicts::default());
        Self {
            quiet,
            verbose: false,
            judges: true,
            terminal,
            bar: None,
            last_line: Instant::now(),
            phase,
            verdicts,
            lines: None,
        }
    }

    /// Shows verdicts without a terminal too, and those of stored answers.
    pub(super) fn verbose(self, verbose: bool) -> Self {
        Self { verbose, ..self }
    }

    /// Shows no verdicts: nothing is judged.
    pub(super) fn without_verdicts(self) -> Self {
        Self { judges: false, ..self }
    }

    /// Draws nothing, and prints each event as a line of JSON on stdout.
    pub(super) fn json_lines() -> Self {
        Self { lines: Some(Ok(())), ..Self::new(true) }
    }

    pub(crate) fn show(&mut self, event: &RunEvent) {
        interrupt::note(event);
        if let Some(lines @ Ok(())) = &mut self.lines {
            *lines = json_line(event);
        }
        if self.quiet {
            return;
        }
        match event {
            RunEvent::Note { text } => self.line_above(&format!("note: {}", visible(text))),
            RunEvent::Stage { what, units, bytes } => self.begin(what, *units, *bytes),
            RunEvent::StageFinished => self.finish(),
            RunEvent::Advanced { units, tokens } => {
                self.phase.tokens += tokens;
                self.advance(*units);
            }
            RunEvent::CaseFinished { .. } if !self.judges || (!self.terminal && !self.verbose) => {}
            RunEvent::CaseFinished { .. } => {
                let lines = self.verdicts.lines(event, console::colors_enabled_stderr(), self.verbose);
                lines.iter().for_each(|line| self.line_above(line));
            }
            RunEvent::Step { step, loss, tokens } => self.step(*step, loss.unwrap_or_default(), *tokens),
            RunEvent::Validated { step, loss } => {
                self.phase.validation = *loss;
                let text = format!("step {step}: validation loss {:.4}", loss.unwrap_or_default());
                if self.bar.is_some() { self.line_above(&text) } else { self.line(&text, true) }
            }
            RunEvent::Saved { step } => self.phase.done = self.phase.done.max(*step),
        }
    }

    /// Ends the drawing, or says why a line of JSON could not be printed.
    pub(super) fn end(mut self) -> Result<()> {
        self.finish();
        self.lines.unwrap_or(Ok(()))
    }

    pub(crate) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// A line that stays, above the bar.
    fn line_above(&self, line: &str) {
        match &self.bar {
            Some(bar) if self.terminal => bar.println(line),
            _ => write_line(line),
        }
    }

    fn begin(&mut self, what: &str, total: usize, bytes: bool) {
        self.finish();
        if self.terminal {
            let template = match (total, bytes) {
                (0, _) => "{spinner} {prefix} {msg}",
                (_, true) => "{prefix} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
                (_, false) => "{prefix} {bar:30} {pos}/{len} {msg} {left}",
            };
            let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.with_key("left", left));
            }
            bar.set_prefix(visible(what).into_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
            self.bar = Some(bar);
        } else {
            write_line(&visible(what));
        }
        self.phase = Phase { what: what.to_owned(), total, bytes, started: Some(Instant::now()), ..Phase::default() };
    }

    fn advance(&mut self, units: usize) {
        self.phase.done += units;
        if self.phase.bytes {
            return self.bar.iter().for_each(|bar| bar.inc(units as u64));
        }
        // Not every phase tells of tokens.
        let rate = if self.phase.tokens > 0 { format!("{:.0} tokens/s", self.rate()) } else { String::new() };
        match &self.bar {
            Some(bar) => {
                bar.set_position(self.phase.done.min(self.phase.total) as u64);
                bar.set_message(rate);
            }
            None => {
                let comma = if rate.is_empty() { "" } else { ", " };
                let line = format!("{}: {}/{}{comma}{rate}", self.phase.what, self.phase.done, self.phase.total);
                self.line(&line, false);
            }
        }
    }

    fn rate(&self) -> f64 {
        let seconds = self.phase.started.map_or(0.0, |s| s.elapsed().as_secs_f64());
        self.phase.tokens as f64 / seconds.max(1e-3)
    }

    fn step(&mut self, step: usize, loss: f64, tokens: usize) {
        self.phase.tokens += tokens;
        self.phase.done = step;
        let validation = self.phase.validation.map_or_else(String::new, |v| format!(", validation {v:.3}"));
        let message = format!("loss {loss:.3}{validation}, {:.0} tokens/s", self.rate());
        match &self.bar {
            Some(bar) => {
                bar.set_position(step as u64);
                bar.set_message(message);
            }
            None => {
                let left = self.left();
                let line = format!("step {step}/{}: {message}, {left:.0} s left", self.phase.total);
                self.line(&line, step == self.phase.total);
            }
        }
    }

    fn left(&self) -> f64 {
        let seconds = self.phase.started.map_or(0.0, |s| s.elapsed().as_secs_f64());
        let done = self.phase.done.max(1) as f64;
        seconds / done * self.phase.total.saturating_sub(self.phase.done) as f64
    }

    fn line(&mut self, text: &str, now: bool) {
        if now || self.last_line.elapsed() >= EVERY {
            write_line(text);
            self.last_line = Instant::now();
        }
    }
}

fn write_line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
