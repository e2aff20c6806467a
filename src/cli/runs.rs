//! `finetest runs`.

use std::path::Path;

use rayon::prelude::*;

use super::json;
use super::options::{Global, ListFormat, Output};
use crate::error::{Error, Result, exit};
use crate::project;
use crate::record::RunRecord;
use crate::report::{ListedRun, RunSummary, listed_runs};
use crate::shown::visible;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Maximum number of runs listed, the newest first
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    #[command(flatten)]
    output: Output<ListFormat>,
}

pub(super) fn runs(global: &Global, args: &Args) -> Result<u8> {
    let config = global.project()?;
    args.output.check(Some(&config))?;
    let (folder, mut names) = project::recorded(&config);
    let more = names.len().saturating_sub(args.limit);
    names.truncate(args.limit);
    let latest = project::last_record(&config).ok();
    // A record may be megabytes.
    let runs: Vec<ListedRun> =
        names.par_iter().map(|name| listed(&folder.join(name), name, latest.as_deref())).collect();
    args.output.print(&match args.output.format() {
        ListFormat::Json => json(&runs)?,
        ListFormat::Terminal if runs.is_empty() && more == 0 => {
            let manifest = config.relative(&config.manifest);
            visible(&format!("{manifest} has no run yet; `finetest run` makes one\n")).into_owned()
        }
        ListFormat::Terminal => listed_runs(&runs, &folder.display().to_string(), more, args.output.style(global)),
    })?;
    Ok(exit::PASS)
}

/// A record's own folder is said already.
fn why(error: &Error, path: &Path) -> String {
    let told = error.to_string();
    told.strip_prefix(&path.display().to_string()).map_or_else(|| told.clone(), |rest| format!("run.json{rest}"))
}

fn listed(folder: &Path, name: &str, latest: Option<&Path>) -> ListedRun {
    let path = project::record_in(folder);
    let read = RunRecord::load(&path).map(|run| RunSummary::of(&run));
    ListedRun {
        name: name.to_owned(),
        latest: latest == Some(path.as_path()),
        path: path.display().to_string(),
        error: read.as_ref().err().map(|error| why(error, &path)),
        summary: read.ok(),
    }
}
