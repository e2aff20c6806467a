//! `finetest gate RUN.json`.

use std::path::Path;

use super::report::files_of;
use super::{Global, config, json, print, style};
use crate::compare::Comparison;
use crate::error::Result;
use crate::gate;
use crate::record::RunRecord;
use crate::report::{Report, terminal_gate};

pub(super) fn gate(global: &Global, path: &Path) -> Result<u8> {
    let config = config(global)?;
    let run = RunRecord::load(path)?;
    let decision = gate::decide(&run, &config.gate);
    if global.json {
        print(&json(&decision)?)?;
    } else {
        let comparisons = Comparison::all(&run);
        let files = files_of(path);
        let report = Report { run: &run, comparisons: &comparisons, decision: &decision, files: &files };
        print(&terminal_gate(&report, style()))?;
    }
    Ok(run.exit_code(&decision))
}
