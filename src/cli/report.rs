//! `finetest report [RUN.json]`.

use std::path::{Path, PathBuf};

use super::json;
use super::options::{Global, Output, ReportFormat, record_path};
use crate::compare::Comparison;
use crate::config::{Config, Policy};
use crate::error::{Error, Result, exit};
use crate::gate;
use crate::record::RunRecord;
use crate::report::{Report, junit, markdown, terminal};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Path to a run.json [default: the last run of the manifest]
    #[arg(value_name = "RUN")]
    run: Option<PathBuf>,
    #[command(flatten)]
    output: Output<ReportFormat>,
}

pub(super) fn report(global: &Global, args: &Args) -> Result<u8> {
    let path = record_path(global, args.run.as_deref())?;
    let run = RunRecord::load(&path)?;
    // Where there is no manifest, as with a record from another machine, it is what was decided when the run was made.
    let (config, decision) = match (project_of(global, &run), &run.decision) {
        (Ok(config), _) => (Some(config), None),
        (Err(Error::Usage(_)), Some(decision)) if global.config.is_none() => (None, Some(decision.clone())),
        (Err(error), _) => return Err(error),
    };
    args.output.check(config.as_ref())?;
    let decided = || gate::decide(&run, &config.as_ref().map_or_else(Policy::default, |config| config.gate.clone()));
    let decision = decision.unwrap_or_else(decided);
    let comparisons = Comparison::all(&run);
    let files = files_of(&path);
    let report = Report { run: &run, comparisons: &comparisons, decision: &decision, files: &files };
    let text = match args.output.format() {
        ReportFormat::Json => json(&run)?,
        ReportFormat::Terminal => terminal(&report, args.output.style(global)),
        ReportFormat::Markdown => markdown(&report),
        ReportFormat::Junit => junit(&report)?,
    };
    args.output.print(&text)?;
    if let (ReportFormat::Terminal, Some(config)) = (args.output.format(), &config) {
        super::run::github(global, config, &report)?;
    }
    Ok(exit::PASS)
}

pub(super) fn files_of(path: &Path) -> Vec<(String, String)> {
    vec![("record".to_owned(), path.display().to_string())]
}

/// The project that a record is judged by: the one that `--config` names, else the one of the manifest that the run was made by.
pub(super) fn project_of(global: &Global, run: &RunRecord) -> Result<Config> {
    let here = global.project()?;
    let own = here.root.join(&run.made.manifest);
    if global.config.is_some() || run.made.manifest.is_empty() || !own.is_file() {
        return Ok(here);
    }
    Config::load(own)
}
