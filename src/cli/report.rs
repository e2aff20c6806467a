//! `finetest report RUN.json`.

use std::path::Path;

use clap::ValueEnum;

use super::{Global, config, json, print, style};
use crate::compare::Comparison;
use crate::config::Policy;
use crate::error::{Error, Result, exit};
use crate::gate;
use crate::record::RunRecord;
use crate::report::{Report, junit, markdown, terminal};

/// What a report is written as.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Format {
    Terminal,
    Markdown,
    Junit,
}

pub(super) fn report(global: &Global, path: &Path, format: Format) -> Result<u8> {
    let run = RunRecord::load(path)?;
    // Where there is no manifest, as with a record from another machine, it is what was decided when the run was made.
    let (config, decision) = match (config(global), &run.decision) {
        (Ok(config), _) => (Some(config), None),
        (Err(Error::Usage(_)), Some(decision)) if global.manifest.is_none() => (None, Some(decision.clone())),
        (Err(error), _) => return Err(error),
    };
    let decided = || gate::decide(&run, &config.as_ref().map_or_else(Policy::default, |config| config.gate.clone()));
    let decision = decision.unwrap_or_else(decided);
    let comparisons = Comparison::all(&run);
    let files = files_of(path);
    let report = Report { run: &run, comparisons: &comparisons, decision: &decision, files: &files };
    let text = match format {
        _ if global.json => json(&run)?,
        Format::Terminal => terminal(&report, style()),
        Format::Markdown => markdown(&report),
        Format::Junit => junit(&report)?,
    };
    print(&text)?;
    if let (Format::Terminal, Some(config)) = (format, &config) {
        super::run::github(global, config, &report)?;
    }
    Ok(exit::PASS)
}

pub(super) fn files_of(path: &Path) -> Vec<(String, String)> {
    vec![("record".to_owned(), path.display().to_string())]
}
