//! Which tests of a project a run asks.

use std::collections::HashMap;

use super::runs;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::record::{BASE, Role, RunRecord, Selected, TUNED, Verdict};
use crate::scenario::{Filter, Scenario, Test};

/// Which tests of a project a run asks; by default all.
#[derive(Clone, Debug)]
pub struct Selection(Filter);

impl Default for Selection {
    fn default() -> Self {
        Self(Filter::All)
    }
}

impl Selection {
    /// The tests whose name contains one of `names` (all when there are none), and that an expression selects; with `failing` only
    /// those that tuned failed in the last run.
    ///
    /// # Errors
    /// The expression is none: what is wrong, and where.
    pub fn new(names: &[String], expression: Option<&str>, failing: bool) -> Result<Self> {
        let refused = |why| Error::Usage(format!("--expression: {why}"));
        let expression = expression.map_or(Ok(Filter::All), Filter::parse).map_err(refused)?;
        let failing = if failing { Filter::Verdict("failed") } else { Filter::All };
        Ok(Self(Filter::names(names).and(expression).and(failing)))
    }

    /// Whether all tests are selected.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.0 == Filter::All
    }

    /// One part of these tests, such as `1/4`, that several machines share.
    ///
    /// # Errors
    /// It is no part, or the selection depends on this machine's last run.
    pub fn part(self, text: &str) -> Result<Self> {
        let part = Filter::part(text).map_err(|why| Error::Usage(format!("--partition: {why}")))?;
        if self.0.needs_verdicts() {
            let message = "--partition shares out the same tests on every machine, and which failed in the last run differs: take --failing and verdict(…) out";
            return Err(Error::Usage(message.into()));
        }
        Ok(Self(self.0.and(part)))
    }

    /// The part that this is, and the selection that it is a part of.
    pub(super) fn shared(&self) -> Option<(usize, usize, Self)> {
        match &self.0 {
            Filter::Part(number, of) => Some((*number, *of, Self::default())),
            Filter::And(all, part) => match **part {
                Filter::Part(number, of) => Some((number, of, Self((**all).clone()))),
                _ => None,
            },
            _ => None,
        }
    }

    /// As an expression.
    pub(super) fn expression(&self) -> Option<String> {
        (!self.is_all()).then(|| self.0.to_string())
    }

    /// Leaves only the selected cases in `scenarios`; says how many there are, unless all are selected.
    ///
    /// # Errors
    /// None is selected; or the last run decides, and there is none.
    pub(super) fn apply(&self, config: &Config, scenarios: &mut Vec<Scenario>) -> Result<Option<Selected>> {
        if self.is_all() {
            return Ok(None);
        }
        let verdicts = if self.0.needs_verdicts() {
            last_verdicts(&RunRecord::load(&runs::last_record(config)?)?)
        } else {
            HashMap::new()
        };
        let count = |scenarios: &[Scenario]| scenarios.iter().map(|scenario| scenario.cases.len()).sum();
        let of = count(scenarios);
        for scenario in scenarios.iter_mut() {
            let (role, name) = (scenario.role, scenario.name.clone());
            scenario.cases.retain(|case| {
                let verdicts = verdicts.get(&format!("{role}::{name}::{}", case.name)).map_or(&[][..], Vec::as_slice);
                let (scenario, tags) = (name.as_str(), case.tags.as_slice());
                self.0.selects(&Test { role, scenario, case: &case.name, tags, verdicts })
            });
        }
        scenarios.retain(|scenario| !scenario.cases.is_empty());
        let selected = Selected { filter: self.0.to_string(), cases: count(scenarios), of };
        if selected.cases == 0 {
            let message = format!("no test is selected by {}; `finetest list` shows all {of}", selected.filter);
            return Err(Error::NothingRan(message));
        }
        Ok(Some(selected))
    }
}

/// What became of each test in a run, by its name.
pub(super) fn last_verdicts(run: &RunRecord) -> HashMap<String, Vec<&'static str>> {
    let of = |role: Role, base: Verdict, tuned: Verdict| match (role, base, tuned) {
        (_, _, Verdict::NotEvaluated) | (_, Verdict::NotEvaluated, _) => vec!["not-evaluated"],
        (_, Verdict::Failed, Verdict::Passed) => vec!["passed", "fixed"],
        (_, Verdict::Passed, Verdict::Passed) => vec!["passed"],
        (_, Verdict::Passed, Verdict::Failed) => vec!["failed", "broken"],
        (_, Verdict::Failed, Verdict::Failed) => vec!["failed"],
    };
    let cases = run.scenarios.iter().flat_map(|scenario| scenario.cases.iter().map(move |case| (scenario, case)));
    let one = |(scenario, case): (&crate::record::ScenarioRecord, &crate::record::CaseRecord)| {
        (scenario.test_name(case), of(scenario.role, case.verdict(BASE), case.verdict(TUNED)))
    };
    cases.map(one).collect()
}

/// A test of a project, as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Listed {
    /// `control::facts::france`.
    pub test: String,
    /// The scenario's file, relative to the project.
    pub file: String,
    /// Its line there.
    pub line: usize,
    /// The case's tags, and the file's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// What became of it in the last run: `passed`, `failed`, `broken`, `fixed` or `not-evaluated`; nothing when it was not asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub last: Vec<&'static str>,
}

/// The selected tests of a project. No model is needed.
///
/// # Errors
/// A scenario cannot be read; no test is selected.
pub fn list(config: &Config, selection: &Selection) -> Result<Vec<Listed>> {
    let mut scenarios = crate::scenario::load_all(config)?;
    selection.apply(config, &mut scenarios)?;
    let last = runs::last_record(config).and_then(|path| RunRecord::load(&path));
    let last = last.map(|run| last_verdicts(&run)).unwrap_or_default();
    let mut listed = Vec::new();
    for scenario in &scenarios {
        for case in &scenario.cases {
            let test = scenario.test_name(case);
            let last = last.get(&test).cloned().unwrap_or_default();
            listed.push(Listed { last, test, file: scenario.path.clone(), line: case.line, tags: case.tags.clone() });
        }
    }
    Ok(listed)
}
