//! `finetest diagnose`.

use std::path::PathBuf;

use serde::Serialize;

use super::json;
use super::options::{Global, ListFormat, Output};
use crate::diagnosis::{self, Diagnosis, Log};
use crate::error::{Error, Result, exit};
use crate::shown::visible;

/// Lines of a step that are named.
const LINES: usize = 16;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  finetest diagnose                        the adapter of the project
  finetest diagnose out/checkpoint-300     of TRL, axolotl or LLaMA-Factory
  finetest diagnose out/trainer_state.json --json

It reads the losses alone. Whether the adapter is any good is what `finetest run` says.")]
pub(super) struct Args {
    /// Path to a trainer_state.json, or to a folder with one or with checkpoints [default: the manifest's adapter]
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,
    #[command(flatten)]
    output: Output<ListFormat>,
}

#[derive(Serialize)]
struct Found<'a> {
    path: &'a std::path::Path,
    steps: usize,
    validations: usize,
    diagnoses: &'a [Diagnosis],
}

pub(super) fn diagnose(global: &Global, args: &Args) -> Result<u8> {
    let path = match &args.path {
        Some(path) => path.clone(),
        None => {
            let config = global.project()?;
            args.output.check(Some(&config))?;
            let adapter = config.adapter.as_ref().map(|adapter| adapter.path.clone());
            adapter
                .ok_or_else(|| Error::Usage("the manifest has no adapter; give the PATH of a training's log".into()))?
        }
    };
    let log = Log::read(&path)?;
    args.output.keep(&[("the log", &log.path)])?;
    let found = diagnosis::diagnose(&log);
    args.output.print(&match args.output.format() {
        ListFormat::Json => json(&Found {
            path: &log.path,
            steps: log.train.len(),
            validations: log.validation.len(),
            diagnoses: &found,
        })?,
        ListFormat::Terminal => visible(&format!(
            "{}: {} losses of training, {} of validation\n{}",
            log.path.display(),
            log.train.len(),
            log.validation.len(),
            text(&found)
        ))
        .into_owned(),
    })?;
    Ok(exit::PASS)
}

/// Two or three lines for each diagnosis.
pub(super) fn text(found: &[Diagnosis]) -> String {
    let mut text = String::new();
    for Diagnosis { sign, wrong, words, evidence, remedy, steps, .. } in found {
        text.push_str(&format!("{} {sign}: {words}\n    {evidence}\n", if *wrong { '!' } else { '✓' }));
        if !steps.is_empty() {
            let steps = steps.iter().map(|at| match at.lines.as_slice() {
                [] => at.step.to_string(),
                lines => {
                    let lines: Vec<String> = lines.iter().take(LINES).map(ToString::to_string).collect();
                    let more = if at.lines.len() > LINES { ", …" } else { "" };
                    format!("{} (lines {}{more})", at.step, lines.join(", "))
                }
            });
            text.push_str(&format!("    steps {}\n", steps.collect::<Vec<_>>().join(", ")));
        }
        if !remedy.is_empty() {
            text.push_str(&format!("    try: {remedy}\n"));
        }
    }
    text
}
