//! Progress on stderr: bars on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::interrupt;
use crate::backend::Progress;
use crate::model::SourceEvent;
use crate::project::Event;
use crate::shown::visible;
use crate::train::TrainEvent;

/// Without a terminal, a line at most this often.
const EVERY: Duration = Duration::from_secs(15);

/// Draws [`Event`]s.
pub(crate) struct Display {
    quiet: bool,
    terminal: bool,
    bar: Option<ProgressBar>,
    last_line: Instant,
    phase: Phase,
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
        Self { quiet, terminal, bar: None, last_line: Instant::now(), phase: Phase::default() }
    }

    pub(crate) fn show(&mut self, event: Event) {
        interrupt::note(&event);
        if self.quiet {
            return;
        }
        match event {
            Event::Note(text) => self.note(&text),
            Event::Source(event) => self.source(event),
            Event::Progress(event) => self.progress(&event),
            Event::Train(event) => self.train(event),
        }
    }

    pub(crate) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn note(&self, text: &str) {
        let line = format!("note: {}", visible(text));
        match &self.bar {
            Some(bar) if self.terminal => bar.println(line),
            _ => write_line(&line),
        }
    }

    fn begin(&mut self, what: String, total: usize, bytes: bool) {
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
            bar.set_prefix(visible(&what).into_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
            self.bar = Some(bar);
        } else {
            write_line(&visible(&what));
        }
        self.phase = Phase { what, total, started: Some(Instant::now()), ..Phase::default() };
    }

    fn source(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Started { what, bytes } => self.begin(what, bytes.unwrap_or(0) as usize, true),
            SourceEvent::Advanced { bytes } => {
                if let Some(bar) = &self.bar {
                    bar.inc(bytes);
                }
            }
            SourceEvent::Finished => self.finish(),
            SourceEvent::Waiting { what } => self.note(&format!("another process is fetching {what}; waiting")),
        }
    }

    fn progress(&mut self, event: &Progress) {
        match event {
            Progress::Started { what, units } => self.begin((*what).to_owned(), *units, false),
            Progress::Tokens(n) => {
                self.phase.tokens += n;
                self.advance(0);
            }
            Progress::Done(n) => self.advance(*n),
        }
    }

    fn advance(&mut self, units: usize) {
        self.phase.done += units;
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

    fn train(&mut self, event: TrainEvent) {
        match event {
            TrainEvent::Started { steps, resumed_at, examples, tokens, parameters } => {
                let (train, validation) = examples;
                let text = format!(
                    "{train} examples of {tokens} tokens, {validation} to validate, {steps} steps, {parameters} values"
                );
                self.begin("training".into(), steps, false);
                self.note(&text);
                if resumed_at > 0 {
                    self.note(&format!("resumed at step {resumed_at}"));
                    self.phase.done = resumed_at;
                }
            }
            TrainEvent::Step { entry, tokens, .. } => {
                self.phase.tokens += tokens;
                self.phase.done = entry.step;
                let validation = self.phase.validation.map_or_else(String::new, |v| format!(", validation {v:.3}"));
                let loss = entry.loss.unwrap_or_default();
                let message = format!("loss {loss:.3}{validation}, {:.0} tokens/s", self.rate());
                match &self.bar {
                    Some(bar) => {
                        bar.set_position(entry.step as u64);
                        bar.set_message(message);
                    }
                    None => {
                        let left = self.left();
                        let line = format!("step {}/{}: {message}, {left:.0} s left", entry.step, self.phase.total);
                        self.line(&line, entry.step == self.phase.total);
                    }
                }
            }
            TrainEvent::Validated(entry) => {
                self.phase.validation = entry.eval_loss;
                let text = format!("step {}: validation loss {:.4}", entry.step, entry.eval_loss.unwrap_or_default());
                match &self.bar {
                    Some(bar) => bar.println(text),
                    None => self.line(&text, true),
                }
            }
            TrainEvent::Saved { .. } => {}
            TrainEvent::Note(text) => self.note(&text),
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
