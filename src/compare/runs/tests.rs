use proptest::prelude::*;

use super::*;
use crate::record::fixture::{self, F, N, P};
use crate::record::{Aggregate, DriftMethod, Prompt, Sampling, TUNED};

/// A scenario's name and role, and the verdict and the answer of each of its cases.
type Asked<'a> = (&'a str, Role, &'a [(Verdict, &'a str)]);

/// A run whose tuned arm comes to these verdicts and answers, by scenario.
fn run(scenarios: &[Asked<'_>]) -> RunRecord {
    let scenario = |&(name, role, answers): &Asked<'_>| {
        let mut scenario = fixture::scenario(name, role, &[]);
        let case = |(i, &(verdict, text)): (usize, &(Verdict, &str))| {
            fixture::case(&format!("case_{i}"), &format!("What is {i} + 2?"), (P, "It is 4."), (verdict, text))
        };
        scenario.cases = answers.iter().enumerate().map(case).collect();
        scenario
    };
    fixture::run(scenarios.iter().map(scenario).collect())
}

fn facts(answers: &[(Verdict, &str)]) -> RunRecord {
    run(&[("facts", Role::Control, answers)])
}

fn changes(comparison: &RunComparison<'_>) -> Vec<CaseChange> {
    comparison.cases.iter().map(|case| case.change).collect()
}

#[test]
fn each_case_became_one_thing() {
    let before = facts(&[(P, "a"), (F, "b"), (P, "c"), (F, "d"), (P, "e"), (N, ""), (P, "g")]);
    let after = facts(&[(F, "z"), (P, "b"), (P, "z"), (F, "d"), (N, ""), (N, ""), (P, "g")]);
    let comparison = RunComparison::of(&before, &after, TUNED).expect("comparable");
    use CaseChange::{Changed, Fixed, NewlyBroken, NotEvaluated, Same};
    assert_eq!(changes(&comparison), [NewlyBroken, Fixed, Changed, Same, NotEvaluated, NotEvaluated, Same]);
    let counts = comparison.control.counts;
    assert_eq!((counts.compared(), counts.all(), counts.both_pass), (5, 7, 2));
    assert_eq!(counts.rates().map(|rate| rate.passed), [3, 3]);
    assert_eq!(counts.broken_p(), 0.75);
    let difference = comparison.control.difference.expect("pairs");
    assert_eq!((difference.gain, difference.n), (0.0, 5));
    assert!(difference.interval.low < 0.0 && difference.interval.high > 0.0);
    assert_eq!((comparison.target, comparison.all), (Total::default(), comparison.control));
    let broken = comparison.became(NewlyBroken).next().expect("a case");
    assert_eq!((broken.test().as_str(), broken.shown().texts()), ("control::facts::case_0", [Some("a"), Some("z")]));
}

#[test]
fn what_only_one_run_has_is_gone_or_new_and_never_counted() {
    let before = run(&[("facts", Role::Control, &[(P, "a"), (P, "b")]), ("old", Role::Target, &[(P, "c")])]);
    let after = run(&[("fresh", Role::Target, &[(F, "d")]), ("facts", Role::Control, &[(P, "a")])]);
    let comparison = RunComparison::of(&before, &after, TUNED).expect("comparable");
    use CaseChange::{Gone, New, Same};
    assert_eq!(changes(&comparison), [New, Same, Gone, Gone]);
    assert_eq!((comparison.all.counts.compared(), comparison.target.difference), (1, None));
    let rows: Vec<_> = comparison.scenarios.iter().map(|row| (row.scenario.name.as_str(), row.counts.all())).collect();
    assert_eq!(rows, [("fresh", 1), ("facts", 2), ("old", 1)]);
}

#[test]
fn a_case_that_asks_something_else_is_listed_apart() {
    type Change = fn(&mut RunRecord);
    let all: [(Change, Difference); 6] = [
        (|run| run.scenarios[0].cases[0].prompt = Prompt::Text("What is it?".into()), Difference::Prompt),
        (|run| run.scenarios[0].cases[0].follow_ups = vec!["And now?".into()], Difference::Prompt),
        (|run| run.scenarios[0].cases[0].checks = vec!["contains \"5\"".into()], Difference::Checks),
        (|run| run.scenarios[0].sampling = Sampling { temperature: 0.5, ..Sampling::default() }, Difference::Sampling),
        (|run| run.scenarios[0].aggregate = Aggregate::Any, Difference::Aggregate),
        (
            |run| {
                let answer = run.scenarios[0].cases[0].answers.get_mut(TUNED).expect("an answer");
                answer.samples = vec![answer.samples[0].clone(); 2];
            },
            Difference::Samples,
        ),
    ];
    let before = run(&[("facts", Role::Control, &[(P, "a")]), ("sums", Role::Control, &[(P, "b")])]);
    for (change, difference) in all {
        let mut after = before.clone();
        change(&mut after);
        let comparison = RunComparison::of(&before, &after, TUNED).expect("another case is the same question");
        assert_eq!(changes(&comparison), [CaseChange::ChangedQuestion, CaseChange::Same], "{difference}");
        assert_eq!(comparison.cases[0].differences, [difference]);
        assert_eq!(comparison.all.counts.compared(), 1);
        // Without any other case there is nothing to compare.
        let mut before = before.clone();
        before.scenarios.truncate(1);
        after.scenarios.truncate(1);
        let refused = RunComparison::of(&before, &after, TUNED).expect_err("nothing in common").to_string();
        assert!(refused.contains(&format!("{difference} differ, as in control::facts::case_0")), "{refused}");
    }
}

#[test]
fn runs_of_other_bases_arms_and_scenarios_are_refused() {
    let before = facts(&[(P, "a")]);
    let refused = |change: fn(&mut RunRecord), words: &[&str]| {
        let mut after = before.clone();
        change(&mut after);
        let why = RunComparison::of(&before, &after, TUNED).expect_err("incomparable").to_string();
        assert!(words.iter().all(|word| why.contains(word)), "{words:?}: {why}");
    };
    refused(
        |run| {
            run.model.fingerprint = "0123".into();
            run.model.weights = "4567".into();
        },
        &["base models differ in weights", "(hash 5e1f0c77a1)", "(hash 4567)", "on the same base"],
    );
    refused(|run| run.model.fingerprint = "0123".into(), &["differ in tokenizer or chat template", "(hash 0123)"]);
    refused(
        |run| run.scenarios[0].name = "other".into(),
        &["no test is in both runs", "the first has 1 (control::facts::case_0, …)", "(control::other::case_0, …)"],
    );
    let why = RunComparison::of(&before, &before, "half").expect_err("no such arm").to_string();
    assert!(why.contains("the first run has no arm `half`; its arms are: base, tuned"), "{why}");
}

#[test]
fn runs_of_a_backend_without_hashes_are_compared_by_their_source() {
    let mut before = facts(&[(P, "a")]);
    (before.model.fingerprint, before.model.weights) = (String::new(), String::new());
    let mut after = before.clone();
    assert!(RunComparison::of(&before, &after, TUNED).is_ok());
    after.model.source = "another script".into();
    assert!(RunComparison::of(&before, &after, TUNED).is_err());
}

#[test]
fn drift_of_other_methods_is_not_read_side_by_side() {
    let before = facts(&[(P, "a")]);
    let of = |change: fn(&mut RunRecord)| {
        let mut after = before.clone();
        change(&mut after);
        RunComparison::of(&before, &after, TUNED).expect("comparable").drift()
    };
    assert_eq!(of(|_| ()), DriftPair::Comparable);
    assert_eq!(of(|run| run.drift.clear()), DriftPair::OnlyOne);
    assert_eq!(
        of(|run| run.drift.values_mut().for_each(|drift| drift.method = DriftMethod::TopK(20))),
        DriftPair::OtherMethod
    );
    assert_eq!(of(|run| run.drift.values_mut().for_each(|drift| drift.source = "a.txt".into())), DriftPair::OtherText);
}

#[test]
fn what_else_differs_is_noted() {
    let before = facts(&[(P, "a")]);
    let mut after = before.clone();
    assert_eq!(RunComparison::of(&before, &after, TUNED).expect("comparable").notes, []);
    after.backend = "llama-cpp 0.1.160".into();
    after.made.machine = "linux x86_64 (AVX2), 8 threads".into();
    after.made.manifest = String::new();
    after.finetest = "0.2.0".into();
    after.arms[1].fingerprint = "7777aaaa18293a4b".into();
    let comparison = RunComparison::of(&before, &after, TUNED).expect("comparable");
    let told: Vec<&str> = comparison.notes.iter().map(|note| note.what).collect();
    assert_eq!(told, ["adapter", "backend", "machine", "finetest"], "what is not known is no difference");
    assert_eq!(comparison.notes[0].before, "adapters/diagnostics (hash 9d0e77aa18)");
    // Base's hash changed with it: it is not the adapter.
    after.arms[0].fingerprint = "8888".into();
    after.backend.clone_from(&before.backend);
    let comparison = RunComparison::of(&before, &after, TUNED).expect("comparable");
    let told: Vec<&str> = comparison.notes.iter().map(|note| note.what).collect();
    assert_eq!(told, ["engine or context", "machine", "finetest"]);
}

#[test]
fn of_several_turns_and_samples_those_are_shown_that_differ() {
    let said = |texts: &[&str]| {
        let mut answer = fixture::answer(P, "", &[]);
        let turn = answer.samples[0].turns[0].clone();
        answer.samples[0].turns =
            texts.iter().map(|text| crate::record::Completion { text: (*text).into(), ..turn.clone() }).collect();
        answer.samples.remove(0)
    };
    let answered = |samples: Vec<crate::record::Sample>| {
        let mut run = facts(&[(P, "a")]);
        let answer = run.scenarios[0].cases[0].answers.get_mut(TUNED).expect("an answer");
        answer.samples = samples;
        run
    };
    let before = answered(vec![said(&["one", "two"]), said(&["three", "four"])]);
    let shown = |after: &RunRecord| {
        let comparison = RunComparison::of(&before, after, TUNED).expect("comparable");
        let shown = comparison.cases[0].shown();
        let texts = shown.texts().map(|text| text.expect("an answer").to_owned());
        (comparison.cases[0].change, shown.turn, texts)
    };
    let texts = |one: &str, other: &str| [one.to_owned(), other.to_owned()];
    assert_eq!(shown(&before), (CaseChange::Same, 1, texts("two", "two")));
    let after = answered(vec![said(&["one", "two"]), said(&["three", "five"])]);
    assert_eq!(shown(&after), (CaseChange::Changed, 1, texts("four", "five")));
    let after = answered(vec![said(&["zero", "two"]), said(&["three", "four"])]);
    assert_eq!(shown(&after), (CaseChange::Changed, 0, texts("one", "zero")));
}

#[test]
fn a_comparison_fails_on_what_it_is_told_to() {
    let ending = |before: &[(Verdict, &str)], after: &[(Verdict, &str)]| {
        let (before, after) = (facts(before), facts(after));
        let comparison = RunComparison::of(&before, &after, TUNED).expect("comparable");
        [FailOn::NewlyBroken, FailOn::Changed, FailOn::Never].map(|on| comparison.exit_code(on))
    };
    assert_eq!(ending(&[(P, "a"), (P, "b")], &[(P, "a"), (P, "b")]), [0, 0, 0]);
    assert_eq!(ending(&[(P, "a"), (P, "b")], &[(P, "a"), (F, "b")]), [100, 100, 0]);
    assert_eq!(ending(&[(P, "a"), (F, "b")], &[(P, "a"), (P, "b")]), [0, 100, 0]);
    assert_eq!(ending(&[(P, "a"), (F, "b")], &[(P, "a"), (F, "c")]), [0, 100, 0]);
    // A case that passed has no answer now: nobody knows whether it is broken.
    assert_eq!(ending(&[(P, "a"), (P, "b")], &[(P, "a"), (N, "")]), [1, 1, 0]);
    assert_eq!(ending(&[(P, "a"), (F, "b")], &[(P, "a"), (N, "")]), [0, 1, 0]);
    assert_eq!(ending(&[(P, "a"), (N, "")], &[(P, "a"), (N, "")]), [0, 0, 0]);
    assert_eq!(ending(&[(N, ""), (N, "")], &[(P, "a"), (N, "")]), [1, 1, 0], "nothing was compared");
    assert_eq!(ending(&[(P, "a"), (P, "b")], &[(F, "a"), (N, "")]), [100, 100, 0]);
}

/// Runs of up to three scenarios, in which a case may be there or not, ask one of two questions, and have one of two answers.
fn any_run() -> impl Strategy<Value = RunRecord> {
    let verdict = prop_oneof![3 => Just(P), 3 => Just(F), 1 => Just(N)];
    let case = prop::option::weighted(0.8, (verdict, any::<bool>(), prop::bool::weighted(0.2)));
    let scenario = (any::<bool>(), prop::collection::vec(case, 0..6));
    prop::collection::vec(scenario, 1..4).prop_map(|scenarios| {
        let scenario = |(at, (is_target, cases)): (usize, (bool, Vec<_>))| {
            let role = if is_target { Role::Target } else { Role::Control };
            let mut scenario = fixture::scenario(&format!("s{at}"), role, &[]);
            for (i, case) in cases.into_iter().enumerate() {
                let Some((verdict, text, question)) = case else { continue };
                let (text, question) = (if text { "one" } else { "two" }, if question { "Why?" } else { "What?" });
                scenario.cases.push(fixture::case(&format!("c{i}"), question, (P, "It is 4."), (verdict, text)));
            }
            scenario
        };
        fixture::run(scenarios.into_iter().enumerate().map(scenario).collect())
    })
}

fn by_test(comparison: &RunComparison<'_>) -> HashMap<String, CaseChange> {
    comparison.cases.iter().map(|case| (case.test(), case.change)).collect()
}

proptest! {
    #[test]
    fn a_run_compared_with_itself_has_nothing_but_the_same(run in any_run()) {
        match RunComparison::of(&run, &run, TUNED) {
            Ok(comparison) => {
                for case in &comparison.cases {
                    let open = case.verdicts()[0] == N;
                    prop_assert_eq!(case.change, if open { CaseChange::NotEvaluated } else { CaseChange::Same });
                }
                prop_assert_eq!(comparison.all.difference.map_or(0.0, |difference| difference.gain), 0.0);
                prop_assert!(comparison.notes.is_empty());
                prop_assert_eq!(comparison.drift(), DriftPair::Comparable);
            }
            Err(_) => prop_assert_eq!(run.cases().count(), 0),
        }
    }

    #[test]
    fn the_other_way_round_is_the_mirror(before in any_run(), after in any_run()) {
        let (there, back) = (RunComparison::of(&before, &after, TUNED), RunComparison::of(&after, &before, TUNED));
        prop_assert_eq!(there.is_ok(), back.is_ok());
        let (Ok(there), Ok(back)) = (there, back) else { return Ok(()) };
        let mirrored: HashMap<String, CaseChange> =
            by_test(&back).into_iter().map(|(test, change)| (test, change.mirrored())).collect();
        prop_assert_eq!(by_test(&there), mirrored);
        let [one, other] = there.all.counts.rates();
        prop_assert_eq!([other, one], back.all.counts.rates());
        let gain = |comparison: &RunComparison<'_>| comparison.all.difference.map_or(0.0, |difference| difference.gain);
        prop_assert!((gain(&there) + gain(&back)).abs() < 1e-12);
    }

    #[test]
    fn counts_add_up(before in any_run(), after in any_run()) {
        let Ok(comparison) = RunComparison::of(&before, &after, TUNED) else { return Ok(()) };
        let counts = |total: &Total| CaseChange::ALL.map(|change| total.counts.count(change));
        let (target, control, all) = (counts(&comparison.target), counts(&comparison.control), counts(&comparison.all));
        let tests: std::collections::HashSet<String> =
            before.cases().chain(after.cases()).map(|(scenario, case)| scenario.test_name(case)).collect();
        prop_assert_eq!(all.iter().sum::<usize>(), tests.len());
        for (at, change) in CaseChange::ALL.into_iter().enumerate() {
            prop_assert_eq!(all[at], target[at] + control[at]);
            prop_assert_eq!(all[at], comparison.became(change).count());
            prop_assert_eq!(all[at], comparison.scenarios.iter().map(|row| row.counts.count(change)).sum::<usize>());
        }
        let [one, other] = comparison.all.counts.rates();
        prop_assert_eq!(other.passed + all[0], one.passed + all[1]);
        prop_assert!(one.passed <= one.evaluated && other.passed <= other.evaluated);
        prop_assert_eq!(comparison.all.difference.map_or(0, |difference| difference.n), comparison.all.counts.compared());
    }
}
