//! `finetest run`.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;

use super::progress::Display;
use super::{Global, config, github, json, json_line, notes, print, style};
use crate::compare::Comparison;
use crate::config::Config;
use crate::error::Result;
use crate::project::{self, Outcome, TrainPolicy};
use crate::record::{Decision, RunRecord};
use crate::report::{Report, terminal};
use crate::snapshot::{SnapshotState, compare_files};

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

pub(super) fn run(global: &Global, events: bool) -> Result<u8> {
    let config = config(global)?;
    let mut display = if events { Display::json_lines() } else { Display::new(global.quiet) };
    let outcome = project::run(&config, TrainPolicy::from_env()?, &mut |event| display.show(&event));
    display.end()?;
    let Outcome { run, decision, files } = outcome?;
    if events {
        let files = files.iter().map(|(label, path)| (label.as_str(), path.as_str())).collect();
        let exit_code = run.exit_code(&decision);
        json_line(&Finished { event: "run-finished", decision: &decision, exit_code, files })?;
        return Ok(exit_code);
    }
    if global.json {
        print(&json(&Json { run: &run, decision: &decision, files: &files })?)?;
    } else {
        let comparisons = Comparison::all(&run);
        let report = Report { run: &run, comparisons: &comparisons, decision: &decision, files: &files };
        print(&terminal(&report, style()))?;
        github(global, &config, &report)?;
    }
    if !global.quiet {
        snapshots(&config, &run);
    }
    Ok(run.exit_code(&decision))
}

/// In a GitHub workflow: the report into the job's summary, and annotations on the scenarios' lines.
pub(super) fn github(global: &Global, config: &Config, report: &Report<'_>) -> Result<()> {
    notes(global, github::summary(config, report));
    github::annotated(report).iter().try_for_each(|annotation| print(&format!("{annotation}\n")))
}

/// Says which approved answers differ; `cargo test` is what asserts them.
fn snapshots(config: &Config, run: &RunRecord) {
    if !config.run.snapshots.is_dir() {
        return;
    }
    // The snapshots are of the project's own adapter, not of every recipe's.
    if config.manifest.file_name().is_none_or(|name| name != crate::config::MANIFEST) {
        return;
    }
    let arms: Vec<&str> = config.run.snapshot_arms.iter().map(String::as_str).collect();
    let mut changed = Vec::new();
    for scenario in &run.scenarios {
        match compare_files(&config.run.snapshots, scenario, &arms) {
            Ok(SnapshotState::Same) => {}
            Ok(SnapshotState::Changed { .. }) => changed.push(format!("{} changed", scenario.name)),
            Ok(SnapshotState::Missing) => changed.push(format!("{} is new", scenario.name)),
            Err(error) => changed.push(error.to_string()),
        }
    }
    let mut err = std::io::stderr().lock();
    if changed.is_empty() {
        let _ = writeln!(err, "snapshots: all {} as approved", run.scenarios.len());
    } else {
        let _ =
            writeln!(err, "snapshots: {}; `cargo test` shows how, `cargo insta review` approves", changed.join(", "));
    }
}
