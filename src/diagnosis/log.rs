//! A training's log: `trainer_state.json` of finetest, TRL, axolotl, LLaMA-Factory and everything else that uses transformers' Trainer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::files::read_regular;

/// Bytes of a log.
const MOST_BYTES: u64 = 256 << 20;
/// The file's name.
const TRAINER_STATE: &str = "trainer_state.json";

/// What was logged, in order of the steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    /// The file.
    pub path: PathBuf,
    /// Losses of training.
    pub train: Vec<Point>,
    /// Losses of validation.
    pub validation: Vec<Point>,
    /// Lines of the data file that the examples of a step stand in, where the trainer wrote them: finetest does.
    pub lines: BTreeMap<usize, Vec<usize>>,
}

/// A loss that was logged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Optimizer step.
    pub step: usize,
    /// The loss; not finite where the training wrote so, or wrote `null`.
    pub loss: f64,
    /// Learning rate.
    pub rate: Option<f64>,
    /// Norm of the gradient before it was clipped.
    pub gradient: Option<f64>,
}

#[derive(Deserialize)]
struct State {
    log_history: Vec<Entry>,
}

/// Keys that the trainers write; one entry has the loss of training or of validation, or a summary without either.
#[derive(Deserialize)]
struct Entry {
    step: Option<f64>,
    #[serde(default, deserialize_with = "some")]
    loss: Option<Option<f64>>,
    #[serde(default, deserialize_with = "some")]
    eval_loss: Option<Option<f64>>,
    learning_rate: Option<f64>,
    grad_norm: Option<f64>,
    lines: Option<String>,
}

/// Tells a key that is `null` from one that is not there.
fn some<'de, D: serde::Deserializer<'de>>(value: D) -> std::result::Result<Option<Option<f64>>, D::Error> {
    Option::<f64>::deserialize(value).map(Some)
}

impl Log {
    /// Reads a log: the file, or a directory with a `trainer_state.json`, in it or in its last checkpoint.
    ///
    /// # Errors
    /// There is none, it cannot be read, or has no loss.
    pub fn read(path: &Path) -> Result<Self> {
        let file = if path.is_dir() { find(path)? } else { path.to_owned() };
        let bytes = read_regular(&file, MOST_BYTES)?;
        let text = String::from_utf8_lossy(&bytes);
        let state: State = serde_json::from_str(&without_nan(&text)).map_err(|error| {
            Error::input(&file, None, format!("is no {TRAINER_STATE}: {error}; expected an object with log_history"))
        })?;
        let mut log = Self { path: file, ..Self::default() };
        for entry in state.log_history {
            let Some(step) = entry.step.filter(|step| step.is_finite() && *step >= 0.0) else { continue };
            let point = |loss: Option<f64>| Point {
                step: step as usize,
                loss: loss.unwrap_or(f64::NAN),
                rate: entry.learning_rate,
                gradient: entry.grad_norm,
            };
            if let Some(lines) = &entry.lines {
                log.add_lines(step as usize, lines);
            }
            log.train.extend(entry.loss.map(point));
            log.validation.extend(entry.eval_loss.map(point));
        }
        if log.train.is_empty() {
            return Err(Error::input(
                &log.path,
                None,
                "has no loss of training in log_history; nothing can be said of it",
            ));
        }
        log.train.sort_by_key(|point| point.step);
        log.validation.sort_by_key(|point| point.step);
        Ok(log)
    }

    /// Takes up the lines of a step's examples, `12,3,40`.
    pub fn add_lines(&mut self, step: usize, lines: &str) {
        let lines: Vec<usize> = lines.split(',').filter_map(|line| line.trim().parse().ok()).collect();
        if !lines.is_empty() {
            self.lines.insert(step, lines);
        }
    }
}

/// The log in a directory, or in the last of its checkpoints.
fn find(directory: &Path) -> Result<PathBuf> {
    let own = directory.join(TRAINER_STATE);
    if own.is_file() {
        return Ok(own);
    }
    let entries = std::fs::read_dir(directory).map_err(Error::io(directory, "read"))?;
    let step = |path: &Path| path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse::<usize>().ok();
    let last = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join(TRAINER_STATE).is_file())
        .filter_map(|path| Some((step(&path)?, path)))
        .max();
    last.map(|(_, path)| path.join(TRAINER_STATE)).ok_or_else(|| {
        Error::input(directory, None, format!("has no {TRAINER_STATE}, in it or in a checkpoint-STEP; name the file"))
    })
}

/// Python writes `NaN` and `Infinity`, which are no JSON.
fn without_nan(text: &str) -> String {
    let (mut out, mut in_text, mut escaped) = (String::with_capacity(text.len()), false, false);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if !in_text && let Some(word) = ["NaN", "-Infinity", "Infinity"].into_iter().find(|word| rest.starts_with(word))
        {
            out.push_str("null");
            rest = &rest[word.len()..];
            continue;
        }
        match c {
            _ if escaped => escaped = false,
            '\\' if in_text => escaped = true,
            '"' => in_text = !in_text,
            _ => {}
        }
        out.push(c);
        rest = &rest[c.len_utf8()..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Log> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join(TRAINER_STATE);
        std::fs::write(&path, text).expect("a file");
        Log::read(&path)
    }

    #[test]
    fn losses_of_training_and_validation_are_told_apart() {
        let log = read(
            r#"{"global_step": 2, "log_history": [{"step": 1, "loss": 2.0, "grad_norm": 1.5, "learning_rate": 1e-4},
            {"step": 2, "eval_loss": 1.75, "eval_runtime": 3}, {"step": 2, "loss": NaN}, {"step": 2, "train_runtime": 9, "train_loss": 1.9}]}"#,
        )
        .expect("a log");
        assert_eq!((log.train.len(), log.validation.len()), (2, 1));
        assert_eq!((log.train[0].step, log.train[0].gradient, log.train[0].rate), (1, Some(1.5), Some(1e-4)));
        assert!(log.train[1].loss.is_nan() && (log.validation[0].loss - 1.75).abs() < 1e-12);
    }

    #[test]
    fn what_is_no_log_says_what_was_expected() {
        let why = |text: &str| read(text).expect_err("refused").to_string();
        assert!(why("{}").contains("is no trainer_state.json") && why("{}").contains("log_history"));
        assert!(why("[1]").contains("is no trainer_state.json"));
        assert!(why(r#"{"log_history": []}"#).contains("has no loss of training"));
        assert_eq!(without_nan(r#"{"a": NaN, "b": "NaN", "c": -Infinity}"#), r#"{"a": null, "b": "NaN", "c": null}"#);
        let empty = tempfile::tempdir().expect("a temporary directory");
        assert!(Log::read(empty.path()).expect_err("none").to_string().contains("has no trainer_state.json"));
    }

    #[test]
    fn the_log_of_the_last_checkpoint_is_found() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for step in [9, 10] {
            let folder = directory.path().join(format!("checkpoint-{step}"));
            std::fs::create_dir(&folder).expect("a folder");
            let text = format!("{{\"log_history\": [{{\"step\": {step}, \"loss\": 1}}]}}");
            std::fs::write(folder.join(TRAINER_STATE), text).expect("a file");
        }
        assert_eq!(Log::read(directory.path()).expect("a log").train[0].step, 10);
    }
}
