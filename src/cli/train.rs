//! `finetest train`.

use std::path::{Path, PathBuf};

use super::diagnose;
use super::options::{Global, ListFormat, Output, backends};
use super::progress::Display;
use super::{json, json_line};
use crate::config::{BackendName, Config};
use crate::diagnosis::{self, Diagnosis, Log};
use crate::error::{Error, Result, exit};
use crate::files::write_atomically;
use crate::project::{self, TrainPolicy};
use crate::shown::visible;
use crate::train::rate_plot;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Train even if the adapter is up to date. Resumes an interrupted training; restarts a finished one
    #[arg(long)]
    force: bool,
    /// Try learning rates from 1e-5 to 1e-1 in one short training, and suggest one; nothing is trained for good
    #[arg(long, conflicts_with_all = ["force", "events"])]
    find_lr: bool,
    /// Path of the sweep's plot [default: find-lr.svg beside the manifest's store]
    #[arg(long, value_name = "FILE", requires = "find_lr")]
    plot: Option<PathBuf>,
    /// Backend that trains [default: from the manifest, or candle]
    #[arg(long, value_name = "NAME", value_parser = backends())]
    backend: Option<BackendName>,
    /// Print events as JSON lines, the training's summary last
    #[arg(long, conflicts_with_all = ["json", "format", "output"])]
    events: bool,
    #[command(flatten)]
    output: Output<ListFormat>,
}

pub(super) fn train(global: &Global, args: &Args) -> Result<u8> {
    let mut config = global.project()?;
    config.backend = args.backend.unwrap_or(config.backend);
    args.output.check(Some(&config))?;
    if config.recipe.is_none() {
        return Err(Error::input(&config.manifest, None, "[train] is missing: there is no recipe to train by"));
    }
    if args.find_lr {
        return find_rate(global, args, &config);
    }
    let policy = if args.force { TrainPolicy::Always } else { TrainPolicy::Auto };
    let mut display = if args.events { Display::json_lines() } else { global.display() };
    let summary = project::train(&config, policy, &mut |event| display.show(&event));
    display.end()?;
    let summary = summary?;
    if args.events {
        json_line(&serde_json::json!({ "event": "training-finished", "summary": summary }))?;
        return Ok(exit::PASS);
    }
    if args.output.format() == ListFormat::Json {
        args.output.print(&json(&summary)?)?;
        return Ok(exit::PASS);
    }
    let text = match &summary.state {
        None => format!("{}: fits recipe, data and base; nothing to train\n", summary.directory),
        Some(state) => {
            let loss = state.log_history.iter().rev().find_map(|e| e.loss).unwrap_or_default();
            let validation = state.validations().last();
            let mut validation =
                validation.map_or_else(String::new, |(_, loss)| format!(", validation loss {loss:.4}"));
            if let (Some(step), Some(loss)) = (state.best_global_step, state.best_metric) {
                validation.push_str(&format!("; kept step {step}, validation loss {loss:.4}"));
            }
            format!(
                "{}: trained {} steps, last loss {loss:.4}{validation}\n  log   {}/trainer_state.json\n  plot  {}/loss.svg\n",
                summary.directory, state.global_step, summary.directory, summary.directory
            ) + &wrong(&config.root.join(&summary.directory))
        }
    };
    args.output.print(&text)?;
    Ok(exit::PASS)
}

fn find_rate(global: &Global, args: &Args, config: &Config) -> Result<u8> {
    let plot = args.plot.clone().unwrap_or_else(|| config.store().join("find-lr.svg"));
    if args.plot.is_some() && plot.exists() {
        return Err(Error::Usage(format!("{} exists already; remove it, or give another --plot", plot.display())));
    }
    let mut display = global.display();
    let sweep = project::find_rate(config, &mut |event| display.show(&event));
    display.end()?;
    let sweep = sweep?;
    write_atomically(&plot, rate_plot(&sweep).as_bytes())?;
    if args.output.format() == ListFormat::Json {
        args.output.print(&json(&sweep)?)?;
        return Ok(exit::PASS);
    }
    let now = config.recipe.as_ref().map_or(0.0, |recipe| recipe.learning_rate);
    args.output.print(&format!(
        "{} rates tried\n  falls fastest at  {:.1e}\n  is lowest at      {:.1e}\n  suggested         {:.1e}; the recipe has {now:e}\n  plot              {}\nA sweep says where a training breaks, not what is forgotten: the gate does.\n",
        sweep.points.len(),
        sweep.steepest,
        sweep.lowest,
        sweep.suggested,
        visible(&plot.display().to_string())
    ))?;
    Ok(exit::PASS)
}

/// What the losses of a training that has just ended say is wrong, if anything.
fn wrong(directory: &Path) -> String {
    let Ok(log) = Log::read(directory) else { return String::new() };
    let found: Vec<Diagnosis> = diagnosis::diagnose(&log).into_iter().filter(|found| found.wrong).collect();
    diagnose::text(&found)
}
