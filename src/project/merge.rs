//! A run that several machines share: which part this one asks, and how the parts become one run again.

use std::path::{Path, PathBuf};

use super::asked::Checked;
use super::{Outcome, Selection, runs, settle};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::record::{RunRecord, Selected};
use crate::run::{self, Shared};
use crate::scenario;

/// Leaves only the selected cases, and notes which part of a shared run they are.
///
/// # Errors
/// As [`Selection::apply`].
pub(super) fn share(config: &Config, selection: &Selection, checked: &mut Checked) -> Result<Option<Selected>> {
    let Some((number, of, all)) = selection.shared() else {
        return selection.apply(config, &mut checked.scenarios);
    };
    all.apply(config, &mut checked.scenarios)?;
    let whole = checked.scenarios.clone();
    let selected = selection.apply(config, &mut checked.scenarios).map_err(|error| match error {
        Error::NothingRan(_) => Error::NothingRan(format!(
            "part {number} of {of} has no case; make fewer parts. A part without a case is not needed by `finetest merge`"
        )),
        error => error,
    })?;
    let first = |scenarios: &[scenario::Scenario]| {
        scenarios
            .first()
            .and_then(|scenario| Some((scenario.test_name(scenario.cases.first()?), scenario.path.clone())))
    };
    let is_first = first(&whole) == first(&checked.scenarios);
    checked.part = Some(Shared::new(number, of, all.expression(), &whole, is_first));
    Ok(selected)
}

/// Joins the parts of a shared run, gates the whole, and writes it as [`run()`](super::run()) does. `paths` are records of parts, or the
/// folders that hold them.
///
/// # Errors
/// A file is no part; or as [`run::merge`].
pub fn merge(config: &Config, paths: &[PathBuf], check_snapshots: bool) -> Result<Outcome> {
    let load = |path: &PathBuf| -> Result<(String, RunRecord)> {
        let path = runs::record_in(path);
        Ok((shown(&path), RunRecord::load(&path)?))
    };
    let parts = paths.iter().map(load).collect::<Result<Vec<_>>>()?;
    let filter = parts.first().and_then(|(_, run)| run.part.as_ref()?.filter.clone());
    let mut scenarios = scenario::load_all(config)?;
    let selected = Selection::new(&[], filter.as_deref(), false)?.apply(config, &mut scenarios)?;
    let mut run = run::merge(parts, &scenarios)?;
    run.made.selected = selected;
    settle(config, run, check_snapshots)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
