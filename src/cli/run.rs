//! `finetest run`.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;

use super::options::{Global, Output, ReportFormat, Subject, Train};
use super::progress::Display;
use super::{github, json, json_line, print};
use crate::compare::Comparison;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::project::{self, Outcome, RunOptions, Selection, has_snapshots, unapproved};
use crate::record::{Decision, Part, RunRecord};
use crate::report::{Report, junit, markdown, terminal};
use crate::shown::visible;

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
  finetest run --partition 1/4                   the first of four parts, for four machines
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
    /// Select one part of the tests, such as 1/4, so that several machines share them; `finetest merge` joins the parts
    #[arg(long, value_name = "I/N")]
    partition: Option<String>,
}

impl Select {
    /// These and the names, as one selection.
    ///
    /// # Errors
    /// The expression is none.
    pub(super) fn selection(&self, names: &[String]) -> Result<Selection> {
        let all = Selection::new(names, self.expression.as_deref(), self.failing)?;
        match &self.partition {
            Some(part) => all.part(part),
            None => Ok(all),
        }
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
    let asked = RunOptions {
        policy: options.train.policy()?,
        selection,
        repeat: options.repeat.map(usize::from),
        check_snapshots: options.check_snapshots,
    };
    let outcome = project::run_selected(&config, &asked, &mut |event| display.show(&event));
    display.end()?;
    let outcome = outcome?;
    if options.events {
        let Outcome { run, decision, files } = &outcome;
        let files = files.iter().map(|(label, path)| (label.as_str(), path.as_str())).collect();
        let exit_code = run.exit_code(decision);
        json_line(&Finished { event: "run-finished", decision, exit_code, files })?;
        return Ok(exit_code);
    }
    present(global, &config, &outcome, &options.output, options.check_snapshots)
}

/// Prints what came of a run, and gives its exit code.
pub(super) fn present(
    global: &Global,
    config: &Config,
    outcome: &Outcome,
    output: &Output<ReportFormat>,
    check_snapshots: bool,
) -> Result<u8> {
    let Outcome { run, decision, files } = outcome;
    let exit_code = run.exit_code(decision);
    if let (Some(part), ReportFormat::Terminal) = (&run.part, output.format()) {
        output.print(&part_summary(run, part, files))?;
        return Ok(exit_code);
    }
    let unapproved = unapproved(config, run);
    let comparisons = Comparison::all(run);
    let report = Report { run, comparisons: &comparisons, decision, files };
    let text = match output.format() {
        ReportFormat::Json => json(&Json { run, decision, files })?,
        ReportFormat::Terminal => terminal(&report, output.style(global)),
        ReportFormat::Markdown => markdown(&report),
        ReportFormat::Junit => junit(&report)?,
    };
    output.print(&text)?;
    if output.format() == ReportFormat::Terminal {
        github(global, config, &report)?;
    }
    if let Some(unapproved) = unapproved.filter(|_| !global.quiet || check_snapshots) {
        tell_snapshots(config, run, &unapproved);
    }
    Ok(exit_code)
}

/// What a part of a shared run says: it is not gated.
fn part_summary(run: &RunRecord, part: &Part, files: &[(String, String)]) -> String {
    let cases = run.cases().count();
    let of = run.made.selected.as_ref().map_or(cases, |selected| selected.of);
    let record = files.first().map_or("", |(_, path)| path.as_str());
    let mut text = format!("part {} of {}: {cases} of {of} cases answered\n", part.number, part.of);
    for error in run.all_errors() {
        text.push_str(&visible(&format!("  {}: {}\n", error.what(), error.why())));
    }
    text + &format!("  record  {record}\nNot gated: `finetest merge` joins all parts and gates the whole.\n")
}

/// In a GitHub workflow: the report into the job's summary, and annotations on the scenarios' lines.
pub(super) fn github(global: &Global, config: &Config, report: &Report<'_>) -> Result<()> {
    global.notes(github::summary(config, report));
    github::annotated(report).iter().try_for_each(|annotation| print(&format!("{annotation}\n")))
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
