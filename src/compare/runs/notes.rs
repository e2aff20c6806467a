//! What besides the cases differs between two runs.

use serde::Serialize;

use super::{Side, short};
use crate::record::{Arm, BASE, RunRecord};

/// What besides the cases differs between the runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// What it is: `backend`, `machine`, …
    pub what: &'static str,
    /// In the earlier run.
    pub before: String,
    /// In the later run.
    pub after: String,
}

/// What else differs, so that nobody takes its effect for the fine-tune's.
pub(super) fn notes(before: Side<'_>, after: Side<'_>) -> Vec<Note> {
    let (one, other) = (before.run, after.run);
    let selected = |run: &RunRecord| {
        let part = run.made.selected.as_ref();
        part.map_or_else(|| "all".to_owned(), |part| format!("{} of {}, {}", part.cases, part.of, part.filter))
    };
    let base = |run: &RunRecord| run.arms.iter().find(|arm| arm.name == BASE).map(|arm| arm.fingerprint.clone());
    // Base's hash covers all but the adapter.
    let engine = base(one) != base(other) && one.backend == other.backend;
    let engine = if engine { [base(one), base(other)] } else { [None, None] };
    let engine = engine.map(|hash| hash.map_or_else(String::new, |hash| short(&hash).to_owned()));
    let adapters = adapters(before, after, base(one) == base(other));
    let all = [
        ("project", one.project.clone(), other.project.clone()),
        ("manifest", one.made.manifest.clone(), other.made.manifest.clone()),
        ("selected tests", selected(one), selected(other)),
        ("adapter", adapters[0].clone(), adapters[1].clone()),
        ("backend", one.backend.clone(), other.backend.clone()),
        ("engine or context", engine[0].clone(), engine[1].clone()),
        ("machine", one.made.machine.clone(), other.made.machine.clone()),
        ("finetest", one.finetest.clone(), other.finetest.clone()),
        ("model source", one.model.source.clone(), other.model.source.clone()),
    ];
    // What an old record does not know is no difference.
    let differs = |(_, before, after): &(_, String, String)| before != after && !before.is_empty() && !after.is_empty();
    all.into_iter().filter(differs).map(|(what, before, after)| Note { what, before, after }).collect()
}

/// The adapters of both runs as a person names them; with a hash where two of the same name are not the same.
fn adapters(before: Side<'_>, after: Side<'_>, same_engine: bool) -> [String; 2] {
    let named = |arm: &Arm| match (&arm.adapter, arm.scale) {
        (None, _) => "none".to_owned(),
        (Some(path), 1.0) => path.clone(),
        (Some(path), scale) => format!("{path} at scale {scale}"),
    };
    let (one, other) = (before.arm, after.arm);
    let retrained = same_engine && one.adapter.is_some() && one.fingerprint != other.fingerprint;
    if named(one) == named(other) && retrained {
        return [one, other].map(|arm| format!("{} (hash {})", named(arm), short(&arm.fingerprint)));
    }
    [one, other].map(named)
}
