//! `finetest report RUN.json`.

use std::path::Path;

use clap::ValueEnum;

use super::{Global, config, json, print, style};
use crate::compare::Comparison;
use crate::error::{Error, Result, exit};
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
    let run = read(path)?;
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
        super::run::github(&report)?;
    }
    Ok(exit::PASS)
}

/// Reads a recorded run.
pub(super) fn read(path: &Path) -> Result<RunRecord> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
    let version = serde_json::from_str::<serde_json::Value>(&text)
        .map_err(|e| Error::input(path, e.line(), format!("is not JSON: {e}")))?
        .get("version")
        .and_then(serde_json::Value::as_u64);
    if version != Some(u64::from(RunRecord::VERSION)) {
        let got = version.map_or_else(|| "none".to_owned(), |v| v.to_string());
        let message = format!(
            "is not a run of this finetest: its version is {got}, expected {}; make the run again",
            RunRecord::VERSION
        );
        return Err(Error::input(path, None, message));
    }
    let run: RunRecord = serde_json::from_str(&text).map_err(|e| Error::input(path, e.line(), e.to_string()))?;
    if run.scenarios.iter().all(|s| s.cases.is_empty()) {
        return Err(Error::NothingRan(format!("{}: holds no case", path.display())));
    }
    Ok(run)
}

pub(super) fn files_of(path: &Path) -> Vec<(String, String)> {
    vec![("record".to_owned(), path.display().to_string())]
}
