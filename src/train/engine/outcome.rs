//! What an engine leaves: an adapter, found by what it holds, and the log of its training.

use std::path::{Path, PathBuf};

use super::Job;
use crate::diagnosis::Log;
use crate::error::{Error, Result};
use crate::files::read_regular_text;
use crate::model::lora::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};
use crate::train::{LogEntry, TrainerState};

/// Folders below the output that are looked into.
const DEEPEST: usize = 4;
/// Bytes of a trainer's state.
const MOST_BYTES: u64 = 256 << 20;

/// What was found.
pub(crate) struct Found {
    /// The adapter's directory.
    pub(crate) directory: PathBuf,
    /// A chat template beside it.
    pub(crate) template: Option<PathBuf>,
}

/// Finds the adapter that an engine wrote: the one that lies highest, and of several checkpoints the last.
///
/// # Errors
/// There is none, or only a pickled one.
pub(crate) fn find(output: &Path) -> Result<Found> {
    let mut found = Vec::new();
    search(output, 0, &mut found);
    let step = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.strip_prefix("checkpoint-").and_then(|step| step.parse::<usize>().ok()).unwrap_or(0)
    };
    found.sort_by_key(|path| (path.components().count(), std::cmp::Reverse(step(path))));
    match found.into_iter().next() {
        Some(directory) if directory.join(ADAPTER_WEIGHTS).is_file() => {
            let template = directory.join("chat_template.jinja");
            let template = Some(template).filter(|path| path.is_file());
            Ok(Found { directory, template })
        }
        Some(directory) => Err(Error::model(
            &directory,
            "the engine wrote a pickled adapter, and no adapter_model.safetensors; have it save safetensors",
        )),
        None => Err(Error::failed(format!(
            "the engine ended well, and wrote no adapter into {}: a folder with {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}",
            output.display()
        ))),
    }
}

fn search(directory: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    if directory.join(ADAPTER_CONFIG).is_file()
        && [ADAPTER_WEIGHTS, "adapter_model.bin"].iter().any(|name| directory.join(name).is_file())
    {
        found.push(directory.to_path_buf());
    }
    if depth < DEEPEST {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .for_each(|entry| search(&entry.path(), depth + 1, found));
    }
}

/// The log of a training in finetest's form, and a check that as many processes took part as were asked for. `None` where the engine
/// wrote no log.
///
/// # Errors
/// Another number of processes took part.
pub(crate) fn state(job: &Job<'_>, fingerprint: &str) -> Result<Option<TrainerState>> {
    let Ok(log) = Log::read(&job.output()) else { return Ok(None) };
    let mut entries: Vec<LogEntry> = Vec::new();
    for point in &log.train {
        let (loss, learning_rate, grad_norm) = (Some(point.loss), point.rate, point.gradient);
        entries.push(LogEntry { step: point.step, loss, learning_rate, grad_norm, ..LogEntry::default() });
    }
    for point in &log.validation {
        entries.push(LogEntry { step: point.step, eval_loss: Some(point.loss), ..LogEntry::default() });
    }
    entries.sort_by_key(|entry| entry.step);
    let progress = progress(&log.path)?;
    check_processes(job, progress)?;
    let global_step = entries.last().map_or(0, |entry| entry.step);
    if let Some((steps, epoch)) = progress.filter(|(steps, _)| *steps > 0) {
        entries.iter_mut().for_each(|entry| entry.epoch = epoch * entry.step as f64 / steps as f64);
    }
    Ok(Some(TrainerState {
        global_step,
        max_steps: global_step,
        epoch: progress.map_or(0.0, |(_, epoch)| epoch),
        num_train_epochs: job.recipe.num_epochs,
        fingerprint: fingerprint.to_owned(),
        log_history: entries,
        ..TrainerState::default()
    }))
}

/// Steps, and passes over the data, that a trainer's state tells.
fn progress(path: &Path) -> Result<Option<(usize, f64)>> {
    #[derive(serde::Deserialize)]
    struct Progress {
        global_step: Option<usize>,
        epoch: Option<f64>,
    }
    let text = read_regular_text(path, MOST_BYTES)?;
    let found = serde_json::from_str::<Progress>(&text).ok();
    Ok(found.and_then(|found| Some((found.global_step?, found.epoch?))))
}

/// One process alone sees all examples in more steps than several do: so the passes over the data that a number of steps made tell how many
/// there were.
fn check_processes(job: &Job<'_>, progress: Option<(usize, f64)>) -> Result<()> {
    let asked = job.recipe.launch.processes;
    let Some((steps, epoch)) = progress.filter(|(steps, epoch)| *steps > 0 && *epoch > 0.0) else { return Ok(()) };
    if job.recipe.sample_packing
        || job.recipe.launch.config.is_some()
        || !job.recipe.launch.command.is_empty() && asked == 1
    {
        return Ok(());
    }
    let measured = steps as f64 / epoch;
    let away = |processes: usize| (measured / job.steps_per_epoch(processes) as f64).ln().abs();
    let likeliest = (1..=asked.max(8)).min_by(|a, b| away(*a).total_cmp(&away(*b))).unwrap_or(asked);
    // Near numbers of steps tell nothing of small data.
    if away(asked) - away(likeliest) < 0.2 {
        return Ok(());
    }
    Err(Error::failed(format!(
        "{asked} processes were asked for, and {likeliest} took part: {steps} steps made {epoch:.2} passes over the data, and with {asked} a pass has {} steps. \
         accelerate launch runs one process on a CPU without a word, and so does TRL unless [train.launch.keys] has use_cpu = true. Mend the launch, or ask for {likeliest}: [train.launch] processes",
        job.steps_per_epoch(asked)
    )))
}
