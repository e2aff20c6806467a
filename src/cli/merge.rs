//! `finetest merge`.

use std::path::PathBuf;

use super::options::{Global, Output, ReportFormat};
use super::run::present;
use crate::error::{Error, Result};
use crate::project::{self, has_snapshots};

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Paths to the records of all parts, or to the folders that hold them
    #[arg(value_name = "RUN", required = true)]
    parts: Vec<PathBuf>,
    /// Fail if an approved snapshot is missing or differs
    #[arg(long)]
    check_snapshots: bool,
    #[command(flatten)]
    output: Output<ReportFormat>,
}

const EXAMPLES: &str = "\
Examples:
  finetest run --partition 1/2 --format json -o part-1.json     on one machine
  finetest run --partition 2/2 --format json -o part-2.json     on another
  finetest merge part-1.json part-2.json                        the run of both, gated";

pub(super) fn merge(global: &Global, args: &Args) -> Result<u8> {
    let config = global.project()?;
    args.output.check(Some(&config))?;
    if args.check_snapshots && !has_snapshots(&config) {
        return Err(Error::Usage("--check-snapshots compares the answers of finetest.toml with the approved ones: take out the other manifest".into()));
    }
    let outcome = project::merge(&config, &args.parts, args.check_snapshots)?;
    present(global, &config, &outcome, &args.output, args.check_snapshots)
}
