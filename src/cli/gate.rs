//! `finetest gate [RUN.json]`.

use std::path::PathBuf;

use super::json;
use super::options::{Global, ListFormat, Output, record_path};
use super::report::{files_of, project_of};
use crate::compare::Comparison;
use crate::error::Result;
use crate::gate;
use crate::record::RunRecord;
use crate::report::{Report, terminal_gate};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Path to a run.json [default: the last run of the manifest]
    #[arg(value_name = "RUN")]
    run: Option<PathBuf>,
    #[command(flatten)]
    output: Output<ListFormat>,
}

pub(super) fn gate(global: &Global, args: &Args) -> Result<u8> {
    let path = record_path(global, args.run.as_deref())?;
    let run = RunRecord::load(&path)?;
    let config = project_of(global, &run)?;
    args.output.check(Some(&config))?;
    let decision = gate::decide(&run, &config.gate);
    let text = match args.output.format() {
        ListFormat::Json => json(&decision)?,
        ListFormat::Terminal => {
            let comparisons = Comparison::all(&run);
            let files = files_of(&path);
            let report = Report { run: &run, comparisons: &comparisons, decision: &decision, files: &files };
            terminal_gate(&report, args.output.style(global))
        }
    };
    args.output.print(&text)?;
    Ok(run.exit_code(&decision))
}
