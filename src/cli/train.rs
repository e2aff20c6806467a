//! `finetest train`.

use std::path::Path;

use super::diagnose;
use super::options::{Global, ListFormat, Output, backends};
use super::progress::Display;
use super::{json, json_line};
use crate::config::BackendName;
use crate::diagnosis::{self, Diagnosis, Log};
use crate::error::{Error, Result, exit};
use crate::project::{self, TrainPolicy};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Train even if the adapter is up to date. Resumes an interrupted training; restarts a finished one
    #[arg(long)]
    force: bool,
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
            let validation = validation.map_or_else(String::new, |(_, loss)| format!(", validation loss {loss:.4}"));
            format!(
                "{}: trained {} steps, last loss {loss:.4}{validation}\n  log   {}/trainer_state.json\n  plot  {}/loss.svg\n",
                summary.directory, state.global_step, summary.directory, summary.directory
            ) + &wrong(&config.root.join(&summary.directory))
        }
    };
    args.output.print(&text)?;
    Ok(exit::PASS)
}

/// What the losses of a training that has just ended say is wrong, if anything.
fn wrong(directory: &Path) -> String {
    let Ok(log) = Log::read(directory) else { return String::new() };
    let found: Vec<Diagnosis> = diagnosis::diagnose(&log).into_iter().filter(|found| found.wrong).collect();
    diagnose::text(&found)
}
