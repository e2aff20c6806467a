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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backend::{Answered, Backend, Capabilities, DriftText, Logits, Measured, OnAnswers, Progress, Question};
    use crate::random::{SplitMix64, unit};
    use crate::record::{Completion, DriftSample, Finish, Made, Prompt};
    use crate::run::{Inputs, Shared, Store, execute};

    /// Says and measures what a hash of the question makes it.
    struct Hashing;

    fn hash(of: &[String]) -> u64 {
        let hash = blake3::hash(of.join("\n").as_bytes());
        u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("bytes"))
    }

    fn sample(of: &[String], positions: usize) -> DriftSample {
        let mut random = SplitMix64::new(hash(of), 1);
        let mut values = || (0..positions).map(|_| unit(random.draw())).collect::<Vec<f64>>();
        let kl = values();
        let same_top1 = kl.iter().map(|value| *value < 0.5).collect();
        DriftSample { nll_base: values(), nll_tuned: values(), kl, same_top1, ..DriftSample::default() }
    }

    fn shown(prompt: &Prompt) -> String {
        format!("{prompt:?}")
    }

    impl Backend for Hashing {
        fn name(&self) -> String {
            "hashing".into()
        }

        fn capabilities(&self) -> Capabilities {
            Capabilities { logits: Logits::Full, adapters: true, proves_anew: true, ..Capabilities::default() }
        }

        fn answer(
            &mut self,
            questions: &[Question<'_>],
            on_answers: OnAnswers<'_>,
            _: &mut dyn FnMut(Progress),
        ) -> Result<()> {
            let answer = |question: &Question<'_>| -> Answered {
                let hash = hash(&[shown(&question.request.prompt), question.arm.to_string()]);
                if hash.is_multiple_of(31) {
                    return Err("it was too hard".into());
                }
                // Drift of one position is an error, of a whole run as of its parts.
                let tokens = (0..2 + (hash % 4) as u32).collect::<Vec<u32>>();
                let text = if hash.is_multiple_of(2) { "yes" } else { "no" };
                Ok(Completion {
                    text: text.into(),
                    tokens,
                    finish: Finish::Stop,
                    prompt_tokens: 3,
                    choices: Vec::new(),
                    near_ties: 0,
                })
            };
            on_answers(questions.iter().map(answer).enumerate().collect())
        }

        fn drift(
            &mut self,
            texts: &[DriftText<'_>],
            arms: (usize, usize),
            _: &mut dyn FnMut(Progress),
        ) -> Result<Vec<Measured<DriftSample>>> {
            let of = |text: &DriftText<'_>| match text {
                DriftText::Answer(prompt, tokens) => {
                    let of = [shown(prompt), arms.1.to_string()];
                    let failed = hash(&of).is_multiple_of(29);
                    vec![if failed { Err("no".to_owned()) } else { Ok(sample(&of, tokens.len())) }]
                }
                DriftText::Plain(text) => {
                    ["a", "b"].map(|part| Ok(sample(&[(*text).to_owned(), part.to_owned()], 7))).to_vec()
                }
            };
            Ok(texts.iter().flat_map(of).collect())
        }

        fn probe_adapter(&mut self, prompts: &[&Prompt], _: (usize, usize)) -> Result<Measured<Proof>> {
            let effect = prompts.iter().map(|prompt| (hash(&[shown(prompt)]) % 100) as f64 / 10.0).fold(0.1, f64::max);
            Ok(Ok(Proof {
                adapter_effect: effect,
                base_difference: 0.0,
                adapted_modules: 2,
                by_answers: false,
                weights: None,
            }))
        }
    }

    /// So many cases of each scenario; every second scenario is a control.
    fn scenarios(directory: &std::path::Path, sizes: &[usize], salt: u32) -> Vec<Scenario> {
        let one = |(i, cases): (usize, &usize)| {
            let role = if i % 2 == 0 { "target" } else { "control" };
            let mut text = format!("role = \"{role}\"\ndescription = \"d\"\n");
            for case in 0..*cases {
                text.push_str(&format!(
                    "[[cases]]\nprompt = \"{salt} {i} {case}\"\nchecks = [{{ contains = \"yes\" }}]\n"
                ));
                if case % 3 == 1 {
                    text.push_str("then = [{ prompt = \"why\" }]\n");
                }
            }
            let path = directory.join(format!("s{i}.toml"));
            std::fs::write(&path, text).expect("a file");
            Scenario::load(&path, directory).expect("a scenario")
        };
        sizes.iter().enumerate().map(one).collect()
    }

    fn run(directory: &std::path::Path, scenarios: &[Scenario], part: Option<Shared>) -> RunRecord {
        let mut inputs = Inputs::new("p", "m", &Hashing, scenarios);
        inputs.made = Made::default();
        (inputs.target_drift, inputs.part) = (true, part);
        inputs.drift_text = Some(("notes.txt".into(), "some text".into()));
        let store = Store::new(directory.join("store"));
        let found = execute(&inputs, &mut Hashing, &store, &mut |_| {}).expect("a run");
        // A part crosses machines as JSON.
        serde_json::from_str(&serde_json::to_string(&found).expect("JSON")).expect("a record")
    }

    /// The parts of a run that have cases.
    fn parts(directory: &std::path::Path, scenarios: &[Scenario], of: usize) -> Vec<(String, RunRecord)> {
        let name = |scenario: &Scenario, case: &crate::scenario::Case| {
            format!("{}::{}::{}", scenario.role, scenario.name, case.name)
        };
        let in_part = |number: usize| -> Vec<Scenario> {
            let mut own = scenarios.to_vec();
            for scenario in &mut own {
                let whole = scenario.clone();
                scenario.cases.retain(|case| hash(&[name(&whole, case)]) % of as u64 == number as u64 - 1);
            }
            own.retain(|scenario| !scenario.cases.is_empty());
            own
        };
        let first = |of: &[Scenario]| of.first().map(|scenario| name(scenario, &scenario.cases[0]));
        let made = (1..=of).map(|number| (number, in_part(number))).filter(|(_, own)| !own.is_empty());
        let run = |(number, own): (usize, Vec<Scenario>)| {
            let part = Shared::new(number, of, None, scenarios, first(scenarios) == first(&own));
            (format!("part-{number}.json"), run(&directory.join(number.to_string()), &own, Some(part)))
        };
        made.map(run).collect()
    }

    fn found(mut run: RunRecord) -> RunRecord {
        (run.made, run.cost) = (Made::default(), Cost::default());
        run
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn parts_of_a_run_make_the_record_of_a_whole_run(
            sizes in proptest::collection::vec(1_usize..9, 1..6),
            of in 1_usize..7,
            salt in 0_u32..1000,
            shift in 0_usize..6,
        ) {
            let directory = tempfile::tempdir().expect("a directory");
            let scenarios = scenarios(directory.path(), &sizes, salt);
            let whole = found(run(directory.path(), &scenarios, None));
            let mut parts = parts(directory.path(), &scenarios, of);
            let n = parts.len();
            // In whatever order they come.
            parts.rotate_left(shift % n);
            let merged = found(merge(parts, &scenarios).expect("merged"));
            // A part proves its arms on the prompts of the whole run, but for those that it knows to have failed.
            let prove = |run: &RunRecord| run.proof.values().map(|proof| proof.adapted_modules).collect::<Vec<_>>();
            prop_assert_eq!(prove(&merged), prove(&whole));
            let without_proof = |run: RunRecord| RunRecord { proof: BTreeMap::new(), ..run };
            let failed = whole.cases().any(|(_, case)| case.errors().next().is_some());
            if failed {
                prop_assert_eq!(without_proof(merged), without_proof(whole));
            } else {
                prop_assert_eq!(merged, whole);
            }
        }
    }

    #[test]
    fn parts_that_are_missing_doubled_or_of_other_runs_are_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let scenarios = scenarios(directory.path(), &[4, 6, 5], 1);
        let good = parts(directory.path(), &scenarios, 2);
        assert_eq!(good.len(), 2);
        let refused = |parts: Vec<(String, RunRecord)>, says: &[&str]| {
            let error = merge(parts, &scenarios).expect_err("refused").to_string();
            for words in says {
                assert!(error.contains(words), "{words:?} is not in {error}");
            }
        };
        refused(Vec::new(), &["no part to merge"]);
        refused(vec![good[0].clone()], &["in no part", "make the parts that are missing"]);
        refused(vec![good[0].clone(), good[1].clone(), good[0].clone()], &["is in part-1.json and in part-1.json"]);
        let whole = run(directory.path(), &scenarios, None);
        refused(vec![("whole.json".into(), whole)], &["whole.json is a whole run and no part", "--partition"]);
        let changed = |change: &dyn Fn(&mut RunRecord)| {
            let mut parts = good.clone();
            change(&mut parts[1].1);
            parts
        };
        refused(
            changed(&|run| run.arms[1].fingerprint = "other".into()),
            &["not parts of one run: arms is", "tuned other"],
        );
        refused(changed(&|run| run.model.fingerprint = "other".into()), &["model is"]);
        refused(changed(&|run| run.backend = "other".into()), &["backend is"]);
        refused(
            changed(&|run| run.part.as_mut().expect("a part").of = 3),
            &["number of parts is \"2\" in one and \"3\""],
        );
        let asked = &|run: &mut RunRecord| run.scenarios[0].cases[0].prompt = Prompt::Text("else".into());
        refused(changed(asked), &["is asked otherwise by now than in part-2.json"]);
        let strange = &|run: &mut RunRecord| {
            let mut case = run.scenarios[0].cases[0].clone();
            case.name = "nobody".into();
            run.scenarios[0].cases.push(case);
        };
        refused(changed(strange), &["1 case is in a part, and the project has no such case", "nobody"]);
    }
}
