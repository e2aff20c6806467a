//! `finetest report RUN.json`.

use std::path::Path;

use clap::ValueEnum;

use super::{Global, config, json, print, style};
use crate::compare::Comparison;
use crate::error::{Result, exit};
use crate::gate;
use crate::record::{BASE, RunRecord, TUNED};
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
    let config = config(global)?;
    let decision = gate::decide(&run, &config.gate);
    let comparison = Comparison::of(&run, BASE, TUNED);
    let files = files_of(path);
    let report = Report { run: &run, comparison: &comparison, decision: &decision, files: &files };
    let text = match format {
        _ if global.json => json(&run)?,
        Format::Terminal => terminal(&report, style()),
        Format::Markdown => markdown(&report),
        Format::Junit => junit(&report)?,
    };
    print(&text)?;
    if matches!(format, Format::Terminal) {
        super::run::github(global, &config, &report)?;
    }
    Ok(exit::PASS)
}

pub(super) fn files_of(path: &Path) -> Vec<(String, String)> {
    vec![("record".to_owned(), path.display().to_string())]
}
