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
        (_, others): (usize, &[usize]),
        _: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Vec<Measured<DriftSample>>>> {
        let of = |arm: usize, text: &DriftText<'_>| match text {
            DriftText::Answer(prompt, tokens) => {
                let of = [shown(prompt), arm.to_string()];
                let failed = hash(&of).is_multiple_of(29);
                vec![if failed { Err("no".to_owned()) } else { Ok(sample(&of, tokens.len())) }]
            }
            DriftText::Plain(text) => {
                ["a", "b"].map(|part| Ok(sample(&[(*text).to_owned(), part.to_owned()], 7))).to_vec()
            }
        };
        Ok(others.iter().map(|arm| texts.iter().flat_map(|text| of(*arm, text)).collect()).collect())
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
            text.push_str(&format!("[[cases]]\nprompt = \"{salt} {i} {case}\"\nchecks = [{{ contains = \"yes\" }}]\n"));
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
    refused(changed(&|run| run.part.as_mut().expect("a part").of = 3), &["number of parts is \"2\" in one and \"3\""]);
    let asked = &|run: &mut RunRecord| run.scenarios[0].cases[0].prompt = Prompt::Text("else".into());
    refused(changed(asked), &["is asked otherwise by now than in part-2.json"]);
    let strange = &|run: &mut RunRecord| {
        let mut case = run.scenarios[0].cases[0].clone();
        case.name = "nobody".into();
        run.scenarios[0].cases.push(case);
    };
    refused(changed(strange), &["1 case is in a part, and the project has no such case", "nobody"]);
}
