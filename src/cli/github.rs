//! In a GitHub workflow: the report goes into the job's summary, and annotations to the scenarios' lines.

use std::io::Write;
use std::path::Path;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::export::{Protected, unwritable};
use crate::report::{Report, annotations, markdown};

/// Whether the summary is written, and why it was not. A run is worth the same without it.
pub(crate) fn summary(config: &Config, report: &Report<'_>) -> Option<String> {
    let path = std::env::var_os("GITHUB_STEP_SUMMARY").filter(|path| !path.is_empty())?;
    let why = append(config, Path::new(&path), report).err()?;
    Some(format!("the report is not in GITHUB_STEP_SUMMARY: {why}"))
}

/// The annotations, a line each; none outside of a workflow.
pub(crate) fn annotated(report: &Report<'_>) -> Vec<String> {
    if std::env::var_os("GITHUB_ACTIONS").is_none() { Vec::new() } else { annotations(report) }
}

fn append(config: &Config, path: &Path, report: &Report<'_>) -> Result<()> {
    let why = unwritable(path).map(|what| format!("is {what}, expected a file"));
    if let Some(why) = why.or_else(|| Protected::project(config).conflict(path)) {
        return Err(Error::input(path, None, why));
    }
    let file = std::fs::File::options().create(true).append(true).open(path);
    let written = file.and_then(|mut file| file.write_all(markdown(report).as_bytes()));
    written.map_err(Error::io(path, "write"))
}
