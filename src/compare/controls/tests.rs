use super::*;
use crate::record::fixture::{self, F, N, P};
use crate::record::{Choice, ChoiceScore, Normalize, TUNED};

fn run(verdicts: &[(Verdict, Verdict)], families: &[&str]) -> RunRecord {
    let mut scenario = fixture::scenario("facts", Role::Control, verdicts);
    for (case, family) in scenario.cases.iter_mut().zip(families) {
        case.family = Some((*family).to_owned());
    }
    fixture::run(vec![fixture::scenario("t", Role::Target, &[(F, P)]), scenario])
}

#[test]
fn paraphrases_are_one_question() {
    let run = run(&[(P, P), (P, F), (F, F), (F, F), (P, P)], &["a", "a", "b", "b"]);
    let controls = Controls::of(&run, TUNED);
    let shown: Vec<(String, usize, bool)> =
        controls.questions.iter().map(|q| (q.name(), q.cases.len(), q.dead)).collect();
    assert_eq!(
        shown,
        [
            ("control::facts::case_1".to_owned(), 2, false),
            ("control::facts::case_3".to_owned(), 2, true),
            ("control::facts::case_5".to_owned(), 1, false)
        ]
    );
    // The dead question's cases dilute nothing.
    let net = controls.net.expect("pairs");
    assert_eq!((net.table.pairs(), net.table.broken), (3, 1));
    assert!((net.loss - 1.0 / 3.0).abs() < 1e-12 && net.limits.low < net.loss && net.loss < net.limits.high);
    // Base passes both wordings of the first question and none of the second.
    assert_eq!(controls.rephrasing, Some(0.0));
    assert_eq!(controls.retention.map(|share| (share.hits, share.n)), Some((2, 3)));
}

#[test]
fn what_rephrasing_costs_base_is_measured_on_base_alone() {
    let run = run(&[(P, F), (P, F), (F, F)], &["a", "a", "a"]);
    // Two passed wordings; of the two others of each, one fails.
    assert_eq!(Controls::of(&run, TUNED).rephrasing, Some(0.5));
    let single = self::run(&[(P, P)], &[]);
    assert_eq!(Controls::of(&single, TUNED).rephrasing, None);
}

#[test]
fn nothing_to_compare_is_nothing_measured() {
    let controls = |run: &RunRecord| {
        let controls = Controls::of(run, TUNED);
        (controls.net, controls.retention, controls.choice_loss, controls.questions.len())
    };
    assert_eq!(controls(&run(&[(N, P), (P, N)], &[])), (None, None, None, 2));
    assert_eq!(controls(&run(&[], &[])), (None, None, None, 0));
    let hopeless = run(&[(F, F), (F, F)], &["a", "a"]);
    assert_eq!(Controls::of(&hopeless, TUNED).net, None);
    let mut unmeasured = run(&[(P, P)], &[]);
    unmeasured.drift.clear();
    assert_eq!(Controls::of(&unmeasured, TUNED).drift, None);
}

fn scored(run: &mut RunRecord, case: usize, base: [f64; 2], tuned: [f64; 2]) {
    let case = &mut run.scenarios[1].cases[case];
    case.choices = vec![Choice { answer: "a".into(), others: vec!["b".into()], normalize: Normalize::None }];
    for (arm, scores) in [(BASE, base), (TUNED, tuned)] {
        let score = |text: &str, log_likelihood| ChoiceScore { text: text.into(), log_likelihood, tokens: 1 };
        let sample = &mut case.answers.get_mut(arm).expect("an answer").samples[0];
        sample.turns[0].choices = vec![score("a", scores[0]), score("b", scores[1])];
    }
}

#[test]
fn choices_tell_by_how_much() {
    let mut run = run(&[(P, P), (P, P), (P, F)], &["a", "a"]);
    scored(&mut run, 0, [-1.0, -1.0], [-1.0, -1.0]);
    scored(&mut run, 1, [0.0, -30.0], [-1.0, -1.0]);
    let controls = Controls::of(&run, TUNED);
    let loss = controls.choice_loss.expect("choices");
    assert_eq!((loss.n, loss.clusters), (2, 1));
    assert!((loss.mean - std::f64::consts::LN_2 / 2.0).abs() < 1e-9, "{loss:?}");
    let asked = &run.scenarios[1].cases[0].choices[0];
    assert_eq!(asked.loss(&[]), None);
}

#[test]
fn a_question_far_out_of_reach_is_dead_and_a_near_one_is_not() {
    let mut run = run(&[(F, F), (F, F)], &[]);
    scored(&mut run, 0, [-20.0, -1.0], [-20.1, -1.0]);
    scored(&mut run, 1, [-1.2, -1.0], [-1.1, -1.0]);
    let dead: Vec<bool> = Controls::of(&run, TUNED).questions.iter().map(|q| q.dead).collect();
    assert_eq!(dead, [true, false]);
}

#[test]
fn drift_is_a_mean_over_questions() {
    let mut run = run(&[(P, P), (P, P), (P, P)], &["a", "a"]);
    let drift = run.drift.get_mut(TUNED).expect("drift");
    drift.texts = [
        ("control::facts::case_1", [0.1, 0.3]),
        ("control::facts::case_2", [0.4, 0.4]),
        ("control::facts::case_3", [0.9, 0.9]),
    ]
    .map(|(text, values)| fixture::text_drift(text, &values))
    .into();
    let found = Controls::of(&run, TUNED).drift.expect("drift");
    assert!((found.mean - (0.3 + 0.9) / 2.0).abs() < 1e-6, "{found:?}");
    assert_eq!(found.clusters, 2);
    let by = Controls::of(&run, TUNED).flips_by_scenario(TUNED);
    assert_eq!((by.len(), by[0].0.name.as_str(), by[0].1.both), (1, "facts", 3));
}

#[test]
fn guessing_between_options_flips_some() {
    // 60 % of four-choice questions: of the others a third as many are guessed right, and the arm misses 40 % of those.
    assert!((chance_flips(0.6, 0.6, 4) - 0.4 / 3.0 * 0.4).abs() < 1e-12);
    assert_eq!((chance_flips(1.0, 0.5, 4), chance_flips(0.5, 0.5, 1)), (0.0, 0.0));
}

#[test]
fn more_questions_show_a_smaller_distance() {
    assert_eq!(questions_to_show(0.1, 0.5, 0.1), None);
    // (1.645 · 0.5 / 0.1)² = 67.6
    assert_eq!(questions_to_show(0.2, 0.5, 0.1), Some(68));
}
