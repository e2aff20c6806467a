//! `finetest compare [BEFORE] [AFTER]`.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::json;
use super::options::{Global, Output, PageFormat};
use crate::compare::{self, Incomparable, RunComparison};
use crate::error::{Error, Result};
use crate::project;
use crate::record::{RunRecord, TUNED};
use crate::report::Compared;

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Earlier run: path to a run.json or to a run's folder, a name that `finetest runs` lists, `latest`, or `previous`
    #[arg(value_name = "BEFORE", default_value = "previous")]
    before: PathBuf,
    /// Later run
    #[arg(value_name = "AFTER", default_value = "latest")]
    after: PathBuf,
    /// Arm whose answers are compared
    #[arg(long, value_name = "NAME", default_value = TUNED)]
    arm: String,
    /// What makes the command exit with 100
    #[arg(long, value_enum, value_name = "WHAT", default_value = "newly-broken")]
    fail_on: FailOn,
    #[command(flatten)]
    output: Output<PageFormat>,
}

const EXAMPLES: &str = "\
Examples:
  finetest compare                              the last run with the one before it
  finetest compare main.json                    a record with the last run
  finetest compare main.json head.json --format markdown -o compared.md
  finetest compare --arm half --fail-on changed

Exit codes: 0 nothing is newly broken, 100 something is, 1 the runs cannot be compared, or a case
that passed has no answer now.";

/// What makes the command fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FailOn {
    /// A case that passed before and fails now
    NewlyBroken,
    /// A case with another verdict or another answer
    Changed,
    /// Nothing
    Never,
}

impl From<FailOn> for compare::FailOn {
    fn from(fail_on: FailOn) -> Self {
        match fail_on {
            FailOn::NewlyBroken => Self::NewlyBroken,
            FailOn::Changed => Self::Changed,
            FailOn::Never => Self::Never,
        }
    }
}

pub(super) fn compare(global: &Global, args: &Args) -> Result<u8> {
    let (before, after) = (record(global, &args.before)?, record(global, &args.after)?);
    // Two files need no project.
    args.output.check(global.project().ok().as_ref())?;
    args.output.keep(&[("the earlier run", &before), ("the later run", &after)])?;
    let (one, other) = rayon::join(|| RunRecord::load(&before), || RunRecord::load(&after));
    let (one, other) = (one?, other?);
    let paths = [&before, &after].map(|path| path.display().to_string());
    let comparison = RunComparison::of(&one, &other, &args.arm).map_err(|why| refused(&paths, &why))?;
    let paths = paths.each_ref().map(String::as_str);
    let compared = Compared { comparison: &comparison, paths, fail_on: args.fail_on.into() };
    args.output.print(&match args.output.format() {
        PageFormat::Terminal => compared.terminal(args.output.style(global)),
        PageFormat::Markdown => compared.markdown(),
        PageFormat::Json => json(&compared.data())?,
    })?;
    Ok(comparison.exit_code(args.fail_on.into()))
}

/// The record that a person names.
fn record(global: &Global, named: &Path) -> Result<PathBuf> {
    let path = project::record_in(named);
    if path.is_file() {
        return Ok(path);
    }
    if let Some(name) = named.to_str().filter(|name| project::is_run_name(name)) {
        return project::named_record(&global.project()?, name);
    }
    if path.symlink_metadata().is_ok() {
        return Ok(path);
    }
    let message = "there is no such run; expected a run.json, a run's folder, a name that `finetest runs` lists, `latest` or `previous`";
    Err(Error::input(path, None, message))
}

fn refused(paths: &[String; 2], why: &Incomparable) -> Error {
    let message = format!("{} and {}: {why}", paths[0], paths[1]);
    match why {
        Incomparable::NoArm { .. } => Error::Usage(message),
        _ => Error::failed(message),
    }
}
