//! `finetest run`.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;

use super::options::{Global, Output, ReportFormat, Subject, Train};
use super::progress::Display;
use super::{github, json, json_line, print};
use crate::compare::Comparison;
use crate::config::Config;
use crate::error::{Error, Result, exit};
use crate::project::{self, Outcome, RunOptions, Selection};
use crate::record::{Decision, RunRecord};
use crate::report::{Report, junit, markdown, terminal};
use crate::snapshot::{SnapshotState, compare_files};

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Run only the tests whose name contains one of these, such as `control::facts`
    #[arg(value_name = "NAME")]
    pub(super) filters: Vec<String>,
    #[command(flatten)]
    pub(super) options: Options,
}

const EXAMPLES: &str = "\
Examples:
  finetest run                                   all scenarios of finetest.toml
  finetest run control::facts                    only these tests
  finetest run -E 'role(control) & not tag(slow)'
  finetest run --failing                         what failed in the last run
  finetest run --model hf:Qwen/Qwen2.5-0.5B-Instruct --adapter out/
  finetest run --format junit -o junit.xml";

/// Options of a run.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    train: Train,
    #[command(flatten)]
    select: Select,
    /// Number of samples of each case of a scenario that has a temperature, instead of its own `repeat`
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeat: Option<u16>,
    /// Fail if an approved snapshot is missing or differs
    #[arg(long)]
    check_snapshots: bool,
    /// Print events as JSON lines, the gate's decision last, instead of a report
    #[arg(long, conflicts_with_all = ["json", "format", "output"])]
    events: bool,
    #[command(flatten)]
    output: Output<ReportFormat>,
}

impl Default for Options {
    fn default() -> Self {
        let (subject, train, select) = (Subject::default(), Train::default(), Select::default());
        let output = Output::default();
        Self { subject, train, select, repeat: None, check_snapshots: false, events: false, output }
    }
}

/// Which tests.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub(super) struct Select {
    /// Select tests by an expression of role(…), scenario(…), case(…), tag(…), test(…), verdict(…), and &, |, not
    #[arg(long, short = 'E', value_name = "EXPRESSION")]
    expression: Option<String>,
    /// Select the tests that tuned failed in the last run
    #[arg(long)]
    failing: bool,
}

impl Select {
    /// These and the names, as one selection.
    ///
    /// # Errors
    /// The expression is none.
    pub(super) fn selection(&self, names: &[String]) -> Result<Selection> {
        Selection::new(names, self.expression.as_deref(), self.failing)
    }
}

#[derive(Serialize)]
struct Json<'a> {
    run: &'a RunRecord,
    decision: &'a Decision,
    files: &'a [(String, String)],
}

/// The last line of `--events`.
#[derive(Serialize)]
struct Finished<'a> {
    event: &'static str,
    decision: &'a Decision,
    exit_code: u8,
    files: BTreeMap<&'a str, &'a str>,
}

pub(super) fn run(global: &Global, options: &Options, filters: &[String]) -> Result<u8> {
    let selection = options.select.selection(filters)?;
    let config = options.subject.project(global)?;
    options.output.check(Some(&config))?;
    if options.check_snapshots && !(has_snapshots(&config) && selection.is_all()) {
        let message = "--check-snapshots compares all answers of finetest.toml with the approved ones: take out the selection, or the \
                       other manifest";
        return Err(Error::Usage(message.into()));
    }
    let mut display = if options.events { Display::json_lines() } else { global.display() };
    let asked = RunOptions { policy: options.train.policy()?, selection, repeat: options.repeat.map(usize::from) };
    let outcome = project::run_selected(&config, &asked, &mut |event| display.show(&event));
    display.end()?;
    let Outcome { run, decision, files } = outcome?;
    let unapproved = snapshots(&config, &run);
    let mut exit_code = run.exit_code(&decision);
    let differs = unapproved.as_ref().is_some_and(|unapproved| !unapproved.is_empty());
    if options.check_snapshots && differs && exit_code == exit::PASS {
        exit_code = exit::GATE_FAILED;
    }
    if options.events {
        let files = files.iter().map(|(label, path)| (label.as_str(), path.as_str())).collect();
        json_line(&Finished { event: "run-finished", decision: &decision, exit_code, files })?;
        return Ok(exit_code);
    }
    let comparisons = Comparison::all(&run);
    let report = Report { run: &run, comparisons: &comparisons, decision: &decision, files: &files };
    let text = match options.output.format() {
        ReportFormat::Json => json(&Json { run: &run, decision: &decision, files: &files })?,
        ReportFormat::Terminal => terminal(&report, options.output.style(global)),
        ReportFormat::Markdown => markdown(&report),
        ReportFormat::Junit => junit(&report)?,
    };
    options.output.print(&text)?;
    if options.output.format() == ReportFormat::Terminal {
        github(global, &config, &report)?;
    }
    if let Some(unapproved) = unapproved.filter(|_| !global.quiet || options.check_snapshots) {
        tell_snapshots(&config, &run, &unapproved);
    }
    Ok(exit_code)
}

/// In a GitHub workflow: the report into the job's summary, and annotations on the scenarios' lines.
pub(super) fn github(global: &Global, config: &Config, report: &Report<'_>) -> Result<()> {
    global.notes(github::summary(config, report));
    github::annotated(report).iter().try_for_each(|annotation| print(&format!("{annotation}\n")))
}

/// Whether a manifest's answers are approved: snapshots are of the project's own adapter, not of every recipe's.
fn has_snapshots(config: &Config) -> bool {
    config.manifest.file_name().is_some_and(|name| name == crate::config::MANIFEST)
}

/// The snapshots that are not as approved, a phrase each; `None` where answers are not compared with them.
fn snapshots(config: &Config, run: &RunRecord) -> Option<Vec<String>> {
    if !has_snapshots(config) || run.made.selected.is_some() {
        return None;
    }
    let arms: Vec<&str> = config.run.snapshot_arms.iter().map(String::as_str).collect();
    let state = |scenario| match compare_files(&config.run.snapshots, scenario, &arms) {
        Ok(SnapshotState::Same) => None,
        Ok(SnapshotState::Changed { .. }) => Some(format!("{} changed", scenario.name)),
        Ok(SnapshotState::Missing) => Some(format!("{} is new", scenario.name)),
        Err(error) => Some(error.to_string()),
    };
    Some(run.scenarios.iter().filter_map(state).collect())
}

fn tell_snapshots(config: &Config, run: &RunRecord, unapproved: &[String]) {
    let mut err = std::io::stderr().lock();
    let _ = match unapproved {
        [] => writeln!(err, "snapshots: all {} as approved", run.scenarios.len()),
        all if all.len() == run.scenarios.len() && !config.run.snapshots.is_dir() => {
            writeln!(err, "snapshots: none is approved yet; `finetest snapshots accept` approves these answers")
        }
        some => {
            writeln!(err, "snapshots: {}; `finetest snapshots review` shows and approves them", some.join(", "))
        }
    };
}
