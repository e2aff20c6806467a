//! Joins the parts of a run that several machines shared: the record is the one that a whole run would have made.

use std::collections::{BTreeMap, HashMap};

use super::again::selected;
use super::measure::{LOOKED_AT, base_answers, sum_up};
use super::spilled;
use crate::error::{Error, Result};
use crate::record::{
    ArmMeasured, AskedAgain, CaseRecord, Cost, Drift, Measurements, Part, Proof, Role, RunError, RunRecord,
    ScenarioRecord,
};
use crate::scenario::Scenario;

/// Names that are shown at once.
const SHOWN: usize = 5;

/// Joins parts, each with the name of its file, to the run of `scenarios`: every case of these is in one part.
///
/// # Errors
/// There is no part; they are not of one run; a case is missing, in two parts, or is asked otherwise by now.
pub fn merge(parts: Vec<(String, RunRecord)>, scenarios: &[Scenario]) -> Result<RunRecord> {
    let Some((first_file, first)) = parts.first() else {
        return Err(Error::Usage("there is no part to merge".into()));
    };
    let mut whole = RunRecord { part: None, decision: None, ..first.clone() };
    for (file, part) in &parts {
        if part.part.is_none() {
            return Err(Error::Usage(format!(
                "{file} is a whole run and no part; make parts with `finetest run --partition 1/2`"
            )));
        }
        if let Some(what) = differs(first, part) {
            return Err(Error::Usage(format!("{first_file} and {file} are not parts of one run: {what}")));
        }
    }
    whole.made.time = parts.iter().map(|(_, part)| part.made.time.clone()).min().unwrap_or_default();
    let mut machines: Vec<&str> = parts.iter().map(|(_, part)| part.made.machine.as_str()).collect();
    machines.dedup();
    whole.made.machine = machines.join("; ");
    whole.made.ci = parts.iter().any(|(_, part)| part.made.ci);
    whole.cost = parts.iter().map(|(_, part)| &part.cost).fold(Cost::default(), added);
    whole.scenarios = scenario_records(&parts, scenarios)?;
    whole.spill_over = spilled(scenarios, &whole.scenarios, &whole.arms);
    whole.proof = proofs(&parts);
    whole.again = again(&parts);
    measured(&mut whole, &parts)?;
    Ok(whole)
}

/// What two parts do not have in common, in words.
fn differs(one: &RunRecord, other: &RunRecord) -> Option<String> {
    let of = |run: &RunRecord| run.part.as_ref().map_or(0, |part| part.of);
    let filter =
        |run: &RunRecord| run.part.as_ref().and_then(|part| part.filter.clone()).unwrap_or_else(|| "all".into());
    let commit = |run: &RunRecord| run.made.git.as_ref().map_or_else(String::new, |git| git.commit.clone());
    let arms = |run: &RunRecord| {
        let arms = run
            .arms
            .iter()
            .map(|arm| format!("{} {}", arm.name, arm.fingerprint.get(..10).unwrap_or(&arm.fingerprint)));
        arms.collect::<Vec<_>>().join(", ")
    };
    let compared = [
        ("number of parts", of(one).to_string(), of(other).to_string()),
        ("selected tests", filter(one), filter(other)),
        ("version of finetest", one.finetest.clone(), other.finetest.clone()),
        ("project", one.project.clone(), other.project.clone()),
        ("manifest", one.made.manifest.clone(), other.made.manifest.clone()),
        ("commit", commit(one), commit(other)),
        ("backend", one.backend.clone(), other.backend.clone()),
        ("model", one.model.fingerprint.clone(), other.model.fingerprint.clone()),
        ("arms", arms(one), arms(other)),
    ];
    let (what, one, other) = compared.into_iter().find(|(_, one, other)| one != other)?;
    Some(format!("{what} is {one:?} in one and {other:?} in the other"))
}

fn added(all: Cost, part: &Cost) -> Cost {
    let mut cases = all.cases;
    cases.extend(part.cases.clone());
    Cost {
        // They ran beside each other.
        seconds: all.seconds.max(part.seconds),
        prompt_tokens: all.prompt_tokens + part.prompt_tokens,
        generated_tokens: all.generated_tokens + part.generated_tokens,
        computed: all.computed + part.computed,
        stored: all.stored + part.stored,
        cases,
    }
}

/// All cases in the project's order, each out of its part.
fn scenario_records(parts: &[(String, RunRecord)], scenarios: &[Scenario]) -> Result<Vec<ScenarioRecord>> {
    let mut found: HashMap<String, (&str, &ScenarioRecord, &CaseRecord)> = HashMap::new();
    for (file, part) in parts {
        for (scenario, case) in part.cases() {
            let name = scenario.test_name(case);
            if let Some((other, ..)) = found.insert(name.clone(), (file, scenario, case)) {
                return Err(Error::Usage(format!("{name} is in {other} and in {file}; each part is merged once")));
            }
        }
    }
    let (mut records, mut missing) = (Vec::new(), Vec::new());
    for scenario in scenarios {
        let mut record: Option<ScenarioRecord> = None;
        for case in &scenario.cases {
            let name = format!("{}::{}::{}", scenario.role, scenario.name, case.name);
            let Some((file, of, answered)) = found.remove(&name) else {
                missing.push(name);
                continue;
            };
            if answered.prompt != case.request.prompt {
                return Err(Error::Usage(format!(
                    "{name} is asked otherwise by now than in {file}; merge where the parts were made from, or make them again"
                )));
            }
            record
                .get_or_insert_with(|| ScenarioRecord { cases: Vec::new(), ..of.clone() })
                .cases
                .push(answered.clone());
        }
        records.extend(record);
    }
    let mut strange: Vec<String> = found.into_keys().collect();
    strange.sort_unstable();
    for (names, what) in [
        (missing, "in no part; make the parts that are missing, and merge all of them"),
        (strange, "in a part, and the project has no such case; merge where the parts were made from"),
    ] {
        if let Some(more) = names.len().checked_sub(1) {
            let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
            let rest = if more >= SHOWN { format!(" and {} more", more + 1 - SHOWN) } else { String::new() };
            let (are, cases) = if more == 0 { ("is", "case") } else { ("are", "cases") };
            return Err(Error::Usage(format!("{} {cases} {are} {what}: {shown}{rest}", more + 1)));
        }
    }
    Ok(records)
}

/// Each arm's proof, of all parts: the largest effect, and the largest difference of base. A part
/// without an answer has none, and one that failed is an error.
fn proofs(parts: &[(String, RunRecord)]) -> BTreeMap<String, Proof> {
    let mut all = BTreeMap::new();
    for arm in parts.iter().flat_map(|(_, part)| part.proof.keys()) {
        let of: Vec<&Proof> = parts.iter().filter_map(|(_, part)| part.proof.get(arm)).collect();
        let largest = |value: fn(&Proof) -> f64| of.iter().map(|proof| value(proof)).fold(0.0, f64::max);
        if let Some(first) = of.first() {
            let proof = Proof {
                adapter_effect: largest(|proof| proof.adapter_effect),
                base_difference: largest(|proof| proof.base_difference),
                ..(*first).clone()
            };
            all.insert(arm.clone(), proof);
        }
    }
    all
}

/// The cases of each arm that a whole run would have asked again.
fn again(parts: &[(String, RunRecord)]) -> BTreeMap<String, Vec<AskedAgain>> {
    let mut all: BTreeMap<String, Vec<AskedAgain>> = BTreeMap::new();
    for (arm, cases) in parts.iter().flat_map(|(_, part)| &part.again) {
        all.entry(arm.clone()).or_default().extend(cases.iter().cloned());
    }
    all.values_mut().for_each(selected);
    all
}

/// Drift of each arm out of what all parts measured, in the order of a whole run; and what could not be computed.
fn measured(whole: &mut RunRecord, parts: &[(String, RunRecord)]) -> Result<()> {
    let base = whole.arms.first().map(|arm| arm.name.clone()).unwrap_or_default();
    (whole.drift, whole.target_drift, whole.errors) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for arm in whole.arms.iter().skip(1).map(|arm| arm.name.clone()) {
        for role in [Role::Control, Role::Target] {
            let order: Vec<String> =
                base_answers(&whole.scenarios, role, &base).into_iter().map(|(name, ..)| name).collect();
            let of = |measured: &ArmMeasured| match role {
                Role::Control => measured.drift.clone(),
                Role::Target => measured.target_drift.clone(),
            };
            let of_part = |part: &Part| part.measured.get(&arm).and_then(of);
            let found = parts.iter().filter_map(|(_, run)| run.part.as_ref().and_then(of_part));
            let Some(joined) = found.reduce(joined) else { continue };
            let joined = in_order(joined, &order);
            let (drift, error) = sum_up(&joined, &arm)?;
            let all: &mut BTreeMap<String, Drift> = match role {
                Role::Control => &mut whole.drift,
                Role::Target => &mut whole.target_drift,
            };
            all.extend(drift.map(|drift| (arm.clone(), drift)));
            whole.errors.extend(error);
        }
        let of_arm = |error: &&RunError| matches!(error, RunError::Proof { arm: of, .. } if *of == arm);
        let proof = parts.iter().flat_map(|(_, part)| &part.errors).find(of_arm).cloned();
        whole.errors.extend(proof);
    }
    Ok(())
}

fn joined(mut all: Measurements, part: Measurements) -> Measurements {
    all.texts.extend(part.texts);
    all.again.extend(part.again);
    all.decided_by.extend(part.decided_by);
    all.left_out.extend(part.left_out);
    all
}

/// Texts in the order of base's answers, and then the stretches of the project's text; of those that were measured once more, the first.
fn in_order(mut all: Measurements, order: &[String]) -> Measurements {
    let places: HashMap<&str, usize> = order.iter().enumerate().map(|(i, name)| (name.as_str(), i)).collect();
    let place = |name: &str| places.get(name).copied().unwrap_or(usize::MAX);
    // A stable sort: stretches of a text stay as they were measured.
    all.texts.sort_by_key(|(name, _)| place(name));
    all.again.sort_by_key(|(name, _)| place(name));
    all.again.truncate(all.repeated);
    all.decided_by.sort_by_key(|(name, _)| place(name));
    all.decided_by.truncate(LOOKED_AT);
    all
}

#[cfg(test)]
mod tests;
