use super::*;
use crate::record::fixture::{self, F, N, P};
use crate::record::{Arm, AskedAgain, Role, RunError, Sample, TUNED};

fn policy() -> Policy {
    Policy {
        min_target_pass_rate: Some(0.75),
        min_target_gain: Some(0.5),
        min_retention: Some(0.75),
        max_broken_controls: Some(1),
        max_drift: Some(0.05),
        arms: Vec::new(),
        ..Policy::default()
    }
}

fn run() -> RunRecord {
    fixture::run(vec![
        fixture::scenario("fields", Role::Target, &[(F, P), (F, P), (P, P), (F, F)]),
        fixture::scenario("facts", Role::Control, &[(P, P), (P, P), (P, P), (P, F), (F, P)]),
    ])
}

fn rule(decision: &Decision, name: &str) -> Rule {
    decision.rules.iter().find(|r| r.name == name).cloned().expect("the rule")
}

#[test]
fn measures_on_their_thresholds_pass() {
    let decision = decide(&run(), &policy());
    assert!(decision.passed, "{decision:#?}");
    let measured: Vec<f64> = decision.rules.iter().filter_map(|r| r.measured).collect();
    assert_eq!(measured, [0.75, 0.5, 0.75, 1.0, 0.0213]);
    assert_eq!((decision.exit_code(), decision.summary().as_str()), (0, "all 5 rules passed"));
}

#[test]
fn each_threshold_fails_the_gate_alone() {
    for (i, name) in ["min_target_pass_rate", "min_target_gain", "min_retention", "max_broken_controls", "max_drift"]
        .iter()
        .enumerate()
    {
        let mut policy = policy();
        match i {
            0 => policy.min_target_pass_rate = Some(0.76),
            1 => policy.min_target_gain = Some(0.51),
            2 => policy.min_retention = Some(0.76),
            3 => policy.max_broken_controls = Some(0),
            _ => policy.max_drift = Some(0.02),
        }
        let decision = decide(&run(), &policy);
        assert_eq!((decision.passed, decision.exit_code()), (false, 100));
        assert_eq!(rule(&decision, name).verdict, F);
        assert_eq!(decision.rules.iter().filter(|r| r.verdict != P).count(), 1);
        assert_eq!(decision.summary(), "1 of 5 rules failed");
    }
}

#[test]
fn explanations_count() {
    let decision = decide(&run(), &policy());
    let says = |name| rule(&decision, name).explanation;
    assert_eq!(says("min_target_pass_rate"), "target pass rate 75 % (3 of 4 target cases pass), at least 75 %");
    assert_eq!(
        says("min_target_gain"),
        "target gain +50 points (base passes 1, tuned 3 of 4 target cases), at least +50 points"
    );
    assert_eq!(says("min_retention"), "retention 75 % (3 of 4 control cases that base passes), at least 75 %");
    assert_eq!(says("max_broken_controls"), "1 broken of 4 control cases that base passes, at most 1");
    assert_eq!(says("max_drift"), "drift 0.0213 nats/token (5120 tokens of base answers), at most 0.05");
}

#[test]
fn too_few_cases_are_called_underpowered() {
    let decision = decide(&run(), &policy());
    assert!(rule(&decision, "min_retention").underpowered);
    assert!(rule(&decision, "max_broken_controls").underpowered);
    assert!(!rule(&decision, "max_drift").underpowered);
    let sure = fixture::run(vec![fixture::scenario("facts", Role::Control, &[(P, P); 60])]);
    let policy = Policy { min_retention: Some(0.85), ..Policy::default() };
    assert!(!rule(&decide(&sure, &policy), "min_retention").underpowered);
    let few = fixture::run(vec![fixture::scenario("facts", Role::Control, &[(P, P); 20])]);
    let decision = decide(&few, &policy);
    assert!(decision.passed && rule(&decision, "min_retention").underpowered);
}

#[test]
fn one_case_without_an_answer_is_no_pass() {
    let mut run = run();
    run.scenarios[0].cases.extend(fixture::scenario("x", Role::Target, &[(F, N)]).cases);
    let decision = decide(&run, &policy());
    let open = rule(&decision, "min_target_pass_rate");
    assert_eq!((open.verdict, decision.passed, open.measured), (N, false, Some(0.75)));
    assert!(open.explanation.contains("1 of 5 target cases have no answer"), "{}", open.explanation);
    assert_eq!(rule(&decision, "min_target_gain").verdict, N);
    assert_eq!(rule(&decision, "min_retention").verdict, P);
    assert_eq!(decision.summary(), "2 of 5 rules not evaluated");
}

#[test]
fn nothing_to_measure_is_no_pass() {
    let mut empty = fixture::run(Vec::new());
    empty.drift.clear();
    let decision = decide(&empty, &policy());
    assert!(!decision.passed);
    assert!(decision.rules.iter().all(|r| r.verdict == N && r.measured.is_none() && r.n == 0), "{decision:#?}");
    let hopeless = fixture::run(vec![fixture::scenario("facts", Role::Control, &[(F, F), (F, P)])]);
    let kept = rule(&decide(&hopeless, &policy()), "min_retention");
    assert_eq!(kept.verdict, N);
    assert!(kept.explanation.contains("base passes none"), "{}", kept.explanation);
}

#[test]
fn drift_that_is_no_number_is_no_pass() {
    let mut run = run();
    for bad in [f64::NAN, f64::INFINITY] {
        let drift = run.drift.get_mut(TUNED).expect("drift");
        drift.kl.as_mut().expect("a divergence").mean = bad;
        let drift = rule(&decide(&run, &policy()), "max_drift");
        assert_eq!((drift.verdict, drift.measured, drift.interval), (N, None, None));
    }
}

#[test]
fn a_run_with_errors_is_incomplete_and_never_passes() {
    let mut run = run();
    run.errors.push(RunError::Drift { arm: TUNED.into(), why: "the worker crashed".into() });
    let decision = decide(&run, &policy());
    assert!(!decision.passed && decision.rules_passed());
    assert_eq!((decision.ending().word(), decision.exit_code()), ("INCOMPLETE", 1));
    assert_eq!(decision.summary(), "could not compute drift; all 5 rules passed");
    assert_eq!(run.exit_code(&decision), decision.exit_code());
    let mut run = self::run();
    let case = &mut run.scenarios[1].cases[0];
    let answer = case.answers.get_mut(TUNED).expect("an answer");
    let failed = Sample { turns: Vec::new(), verdict: N, failures: Vec::new(), error: Some("out of memory".into()) };
    (answer.verdict, answer.samples) = (N, vec![failed]);
    let decision = decide(&run, &policy());
    assert_eq!(decision.errors[0].what(), "control::facts::case_1, tuned");
    assert_eq!(decision.errors[0].why(), "out of memory");
    assert!(decision.summary().starts_with("could not compute control::facts::case_1, tuned; "));
    assert_eq!((decision.exit_code(), run.exit_code(&decision)), (1, 1));
}

#[test]
fn a_rule_says_its_own_side_and_unit_and_one_of_before_is_read() {
    let decision = decide(&run(), &policy());
    let sides: Vec<(Bound, Unit)> = decision.rules.iter().map(|rule| (rule.bound, rule.unit)).collect();
    let least = |unit| (Bound::AtLeast, unit);
    let most = |unit| (Bound::AtMost, unit);
    let expected =
        [least(Unit::Share), least(Unit::Difference), least(Unit::Share), most(Unit::Count), most(Unit::Nats)];
    assert_eq!(sides, expected);
    let mut json = serde_json::to_value(&decision).expect("JSON");
    let rule = json["rules"][0].as_object_mut().expect("a rule");
    assert_eq!((rule.remove("bound"), rule.remove("unit")), (Some("at-least".into()), Some("share".into())));
    let read: Decision = serde_json::from_value(json).expect("a decision of before");
    assert_eq!(read, decision);
}

#[test]
fn each_arm_that_the_policy_names_is_gated() {
    let mut run = run();
    let half = Arm { name: "half".into(), scale: 0.5, ..run.arms[1].clone() };
    run.arms.push(half);
    for case in run.scenarios.iter_mut().flat_map(|s| &mut s.cases) {
        let base = case.answers[BASE].clone();
        case.answers.insert("half".into(), base);
    }
    let policy = Policy { arms: vec!["tuned".into(), "half".into()], max_drift: None, ..policy() };
    let decision = decide(&run, &policy);
    let label = |rule: &Rule| rule.label();
    let failed: Vec<String> = decision.rules.iter().filter(|r| r.verdict == F).map(label).collect();
    assert_eq!(failed, ["half::min_target_pass_rate", "half::min_target_gain"]);
    assert_eq!((decision.rules.len(), decision.summary().as_str()), (8, "2 of 8 rules failed"));
    assert_eq!(decision.rules[0].label(), "min_target_pass_rate");
    let absent = decide(&run, &Policy { arms: vec!["third".into()], ..policy });
    assert!(absent.rules.iter().all(|rule| rule.verdict == N), "{absent:#?}");
}

#[test]
fn drift_by_another_method_is_not_held_against_the_threshold() {
    let mut run = run();
    for (method, kl) in [(DriftMethod::TopK(20), fixture::drift().kl), (DriftMethod::Nll, None)] {
        run.drift.insert(TUNED.into(), Drift { method, kl, ..fixture::drift() });
        let rule = rule(&decide(&run, &policy()), "max_drift");
        assert_eq!(rule.verdict, N);
        assert!(rule.explanation.contains("bounds KL over the whole vocabulary, and this run measured"), "{rule:?}");
    }
}

#[test]
fn without_thresholds_nothing_is_green() {
    let decision = decide(&run(), &Policy::default());
    assert_eq!((decision.passed, decision.rules.len(), decision.exit_code()), (false, 0, 100));
    assert!(decision.summary().contains("nothing was gated"));
}

#[test]
fn what_a_server_answers_otherwise_by_itself_is_not_held_against_the_fine_tune() {
    let noisy = |arm: &str, other: usize| {
        let mut run = run();
        for name in [BASE, TUNED] {
            let asked = |i: usize| AskedAgain {
                case: format!("control::facts::case_{i}"),
                other_answer: name == arm && i < other,
                other_verdict: name == arm && i < other,
            };
            run.again.insert(name.to_owned(), (0..8).map(asked).collect());
        }
        run
    };
    let strict = Policy {
        min_retention: Some(0.8),
        max_broken_controls: Some(0),
        max_net_loss: Some(0.05),
        arms: Vec::new(),
        ..Policy::default()
    };
    let steady = decide(&noisy(BASE, 0), &strict);
    assert_eq!((rule(&steady, "min_retention").verdict, rule(&steady, "min_retention").threshold), (F, 0.8));
    // One verdict of eight, whoever gives it.
    assert_eq!(rule(&decide(&noisy(TUNED, 1), &strict), "min_retention").threshold, 0.8);
    for arm in [BASE, TUNED] {
        let widened = decide(&noisy(arm, 2), &strict);
        let kept = rule(&widened, "min_retention");
        assert_eq!((kept.verdict, kept.threshold, rule(&widened, "max_net_loss").threshold), (P, 0.75, 0.25));
        assert!(
            kept.explanation
                .ends_with("at least 75 %, since 2 of 8 cases have another verdict when they are asked again"),
            "{}",
            kept.explanation
        );
        assert_eq!(
            (rule(&widened, "max_broken_controls").verdict, rule(&widened, "max_broken_controls").threshold),
            (P, 1.0)
        );
        let lost = decide(&noisy(arm, 3), &strict);
        for name in ["min_retention", "max_broken_controls", "max_net_loss"] {
            let rule = rule(&lost, name);
            assert_eq!(rule.verdict, N, "{rule:?}");
            assert!(rule.explanation.contains("verdicts say nothing of the fine-tune"), "{}", rule.explanation);
        }
        assert!(
            !lost.passed && lost.controls.iter().all(|controls| controls.measures.iter().all(|of| of.name == "drift"))
        );
    }
}
