//! The verdicts that a snapshot shows, and which of them differ between two.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::compare::{Change, DiffLine};

/// A verdict that is not the approved one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct VerdictChange {
    /// The case's name, as the snapshot shows it.
    pub(crate) case: String,
    /// The arm.
    pub(crate) arm: String,
    /// The approved verdict; `None`: it has no approved one.
    pub(crate) approved: Option<String>,
    /// The verdict of now; `None`: there is none any more.
    pub(crate) now: Option<String>,
}

/// A verdict's case and arm.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Of {
    case: String,
    arm: String,
}

/// The words that a verdict is shown by.
const WORDS: [&str; 3] = ["passed", "failed", "not evaluated"];

/// The verdicts that two snapshots' bodies do not share: in the order of the new one, those that are gone last.
pub(super) fn changed(approved: &str, now: &str) -> Vec<VerdictChange> {
    let (mut before, after) = (verdicts(approved).collect::<BTreeMap<_, _>>(), verdicts(now));
    let mut changes = Vec::new();
    for (of, verdict) in after {
        let was = before.remove(&of);
        if was != Some(verdict) {
            changes.push(change(of, was, Some(verdict)));
        }
    }
    changes.extend(before.into_iter().map(|(of, was)| change(of, Some(was), None)));
    changes
}

fn change(of: Of, approved: Option<&str>, now: Option<&str>) -> VerdictChange {
    let owned = |verdict: Option<&str>| verdict.map(str::to_owned);
    VerdictChange { case: of.case, arm: of.arm, approved: owned(approved), now: owned(now) }
}

/// Reads what [`super::render`] wrote: the line of an arm stands at the margin, behind its case's heading.
fn verdicts(body: &str) -> impl Iterator<Item = (Of, &str)> {
    let mut case = None;
    body.lines().filter_map(move |line| {
        if let Some(name) = line.strip_prefix("## ") {
            case = Some(name.to_owned());
            return None;
        }
        if line.starts_with([' ', '>', '#']) {
            return None;
        }
        let (arm, said) = line.split_once(": ")?;
        let verdict = WORDS.into_iter().find(|word| said.starts_with(word))?;
        Some((Of { case: case.clone()?, arm: arm.to_owned() }, verdict))
    })
}

/// How many cases a diff touches.
pub(super) fn cases_touched(diff: &[DiffLine]) -> usize {
    let mut touched = 0;
    let mut is_counted = true;
    for line in diff {
        if line.text.starts_with("## ") {
            is_counted = false;
        }
        if line.change != Change::Equal && !is_counted {
            touched += 1;
            is_counted = true;
        }
    }
    touched
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::line_diff;
    use crate::record::fixture::{self, F, P};
    use crate::record::{BASE, Role, ScenarioRecord, TUNED};
    use crate::snapshot::render;

    fn body(scenario: &ScenarioRecord) -> String {
        render(scenario, &[BASE, TUNED])
    }

    #[test]
    fn only_verdicts_count_and_not_what_looks_like_one() {
        let mut before = fixture::scenario("facts", Role::Control, &[(P, P), (P, F)]);
        before.cases[0] = fixture::case("odd", "tuned: passed\n## odd", (P, "tuned: failed\nbase: failed"), (P, "a"));
        let mut after = before.clone();
        after.cases[0] = fixture::case("odd", "tuned: failed", (P, "## case_2\ntuned: failed"), (P, "b"));
        assert_eq!(changed(&body(&before), &body(&after)), []);
        assert_eq!(cases_touched(&line_diff(&body(&before), &body(&after))), 1);

        after.cases[0] = fixture::case("odd", "x", (P, "a"), (F, "a"));
        after.cases[1].name = "renamed".into();
        let changes = changed(&body(&before), &body(&after));
        let told: Vec<String> = changes
            .iter()
            .map(|c| format!("{} {} {:?} {:?}", c.case, c.arm, c.approved.as_deref(), c.now.as_deref()))
            .collect();
        assert_eq!(
            told,
            [
                "odd tuned Some(\"passed\") Some(\"failed\")",
                "renamed base None Some(\"passed\")",
                "renamed tuned None Some(\"failed\")",
                "case_2 base Some(\"passed\") None",
                "case_2 tuned Some(\"failed\") None",
            ]
        );
    }
}
