use super::*;

use crate::record::fixture::{self, F, P};
use crate::record::{BASE, ChoiceScore, Role, TUNED};

const SHOWN: How = How { exact: false, distributions: true, at_least: false };

fn spell(id: u32) -> String {
    format!("t{id}")
}

fn sample(same: &[bool]) -> DriftSample {
    let n = same.len();
    DriftSample {
        kl: vec![0.01; n],
        nll_base: vec![1.0; n],
        nll_tuned: vec![1.0; n],
        same_top1: same.to_vec(),
        ..DriftSample::default()
    }
}

fn check(verdicts: [(Verdict, Verdict); 2], same: &[bool], texts: TokenCheck) -> CrossCheck {
    let run = |v| fixture::run(vec![fixture::scenario("facts", Role::Control, &[v])]);
    let measured =
        |divergences| Measured { samples: vec![sample(same)], divergences, answers: 1, ..Measured::default() };
    let parted = Divergence {
        case: "control::facts::case_1".into(),
        at: 2,
        tokens: spelt([Some(4), Some(5)], spell),
        margin: Some(0.1),
    };
    let arms = vec![(BASE.to_owned(), measured(Vec::new())), (TUNED.to_owned(), measured(vec![parted]))];
    let runs = verdicts.map(run);
    CrossCheck::of(
        [&runs[0], &runs[1]],
        SHOWN,
        [Some(texts), Some(TokenCheck::default())],
        Ok(None),
        arms,
        Limits::default(),
    )
}

#[test]
fn equal_backends_pass_and_a_near_tie_is_no_fault() {
    let check = check([(P, P), (P, P)], &[true; 200], TokenCheck::of([("a", &[1, 2][..], &[1, 2][..])], spell));
    assert!(check.passed, "{:?}", check.problems());
    assert_eq!(check.texts.map(|texts| (texts.texts, texts.different)), Some((1, 0)));
    assert_eq!((check.arms[0].same_answers, check.arms[1].same_answers), (1, 0));
    assert_eq!(check.arms[1].clear_divergences, 0);
}

#[test]
fn each_difference_is_named() {
    let mut same = [true; 100];
    same[..2].fill(false);
    let tokens = TokenCheck::of([("1234", &[1, 2, 3][..], &[1, 9][..]), ("b", &[1][..], &[1, 2][..])], spell);
    let two = || Some(Token { id: 2, text: "t2".into() });
    let nine = Some(Token { id: 9, text: "t9".into() });
    assert_eq!(tokens.examples[0], TokenDifference { text: "1234".into(), at: 1, tokens: [two(), nine] });
    assert_eq!(tokens.examples[1].tokens, [None, two()]);
    let check = check([(P, P), (P, F)], &same, tokens);
    let problems = check.problems().join("\n");
    assert!(!check.passed);
    for part in ["2 of 2 hard texts", "base: the same first choice at 98.00 % of 100", "tuned: 1 verdict flip,"] {
        assert!(problems.contains(part), "{part} is not in {problems}");
    }
    assert_eq!(
        check.flips,
        [VerdictFlip { case: "control::facts::case_1".into(), arm: TUNED.into(), verdicts: [P, F], near_tie: true }]
    );
}

#[test]
fn hard_texts_that_are_known_to_differ_can_be_let_through_and_prompts_cannot() {
    let tokens = || TokenCheck::of([("</s>", &[1, 2][..], &[9][..])], spell);
    let mut check = check([(P, P), (P, P)], &[true; 200], tokens());
    assert_eq!(check.problems(), ["1 of 1 hard texts are tokenized differently, expected at most 0"]);
    check.limits.max_texts = 1;
    assert!(check.problems().is_empty());
    check.prompts = Some(tokens());
    assert_eq!(check.problems(), ["1 of 1 prompts are tokenized differently, expected at most 0"]);
}

#[test]
fn what_could_not_be_computed_is_an_error_and_no_flip() {
    let whole = fixture::run(vec![fixture::scenario("facts", Role::Control, &[(P, P), (P, P)])]);
    let mut lost = whole.clone();
    let answer = lost.scenarios[0].cases[1].answers.get_mut(TUNED).expect("an answer");
    *answer = fixture::answer(fixture::N, "", &["llama.cpp crashed on it: GGML_ASSERT"]);
    let errors = BTreeMap::from([("control::facts::case_1".to_owned(), "died".to_owned())]);
    let of = |errors| Measured {
        samples: vec![sample(&[true; 200])],
        divergences: Vec::new(),
        answers: 1,
        alike: 0,
        errors,
    };
    let arms = vec![(BASE.to_owned(), of(errors)), (TUNED.to_owned(), of(BTreeMap::new()))];
    let tokens = || Some(TokenCheck::default());
    let check = CrossCheck::of([&whole, &lost], SHOWN, [tokens(), tokens()], Ok(None), arms, Limits::default());
    assert_eq!(check.problems(), [""; 0]);
    assert!(!check.passed && check.flips.is_empty());
    let found: Vec<(&str, &str)> = check.errors.iter().map(|(what, why)| (what.as_str(), why.as_str())).collect();
    assert_eq!(
        found,
        [
            ("logits of base at control::facts::case_1", "died"),
            ("tuned at control::facts::case_2 on candle 0.11.1", "llama.cpp crashed on it: GGML_ASSERT"),
        ]
    );
}

#[test]
fn templates_are_compared_where_the_other_has_one() {
    let text = |text: &str| text.to_owned();
    let same = (text("<a>é"), Some(text("<a>é")));
    let check = TemplateCheck::of(&[same, (text("<a>éx"), Some(text("<a>é y"))), (text("z"), None)]);
    assert_eq!((check.conversations, check.unknown, check.different), (3, 1, 1));
    assert_eq!(check.first, Some([text("x"), text(" y")]));
}

#[test]
fn nothing_compared_is_no_pass() {
    let check = check([(P, P), (P, P)], &[], TokenCheck::default());
    assert_eq!(check.problems(), ["base: there is nothing to compare", "tuned: there is nothing to compare"]);
    assert!(!check.passed);
}

#[test]
fn a_project_of_choices_alone_is_compared_by_their_likelihoods() {
    let run = |log_likelihood| {
        let mut run = fixture::run(vec![fixture::scenario("facts", Role::Control, &[(P, P)])]);
        for answer in run.scenarios[0].cases[0].answers.values_mut() {
            let choice = ChoiceScore { text: "yes".into(), log_likelihood, tokens: 4 };
            answer.samples[0].turns[0].choices.push(choice);
        }
        run
    };
    let arms = || [BASE, TUNED].map(|arm| (arm.to_owned(), Measured::default())).to_vec();
    let of = |runs: [&RunRecord; 2]| {
        let texts = Some(TokenCheck::default());
        CrossCheck::of(runs, SHOWN, [texts.clone(), texts], Ok(None), arms(), Limits::default())
    };
    let check = of([&run(-2.0), &run(-2.5)]);
    assert!(check.passed, "{:?}", check.problems());
    assert_eq!((check.arms[0].choices, check.arms[0].choice_max), (1, 0.125));
    assert_eq!((check.arms[0].same_top1, check.arms[0].kl_mean), (None, None));
}

#[test]
fn a_limit_of_the_divergence_is_held_when_it_is_given() {
    let mut check = check([(P, P), (P, P)], &[true; 10], TokenCheck::default());
    check.limits.max_kl = Some(0.02);
    assert!(check.problems().is_empty());
    check.limits.max_kl = Some(0.005);
    assert_eq!(check.problems()[0], "base: a mean KL of 1.00e-2 nats/token, expected at most 5.00e-3");
}
