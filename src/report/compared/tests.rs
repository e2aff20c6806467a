use super::*;
use crate::record::fixture::{self, F, N, P};
use crate::record::{CaseRecord, Commit, DriftMethod, RunRecord, Selected, TUNED};
use crate::report::paint::columns;
use crate::report::tests::example;

/// The example as it was before, and a later run in which everything happened that can.
fn runs() -> (RunRecord, RunRecord) {
    let mut before = example();
    let mut after = example();
    before.made.time = "2026-11-28T09:30:00Z".into();
    before.made.git = Some(Commit { commit: "aaaa456789abcdef0123456789abcdef01234567".into(), dirty: false });
    after.arms[1].fingerprint = "b0b0b0b0c0ffee00".into();
    after.backend = "llama-cpp 0.1.160".into();
    if let Some(drift) = after.drift.get_mut(TUNED) {
        drift.method = DriftMethod::TopK(20);
    }
    let case = |run: &mut RunRecord, scenario: usize, at: usize, change: &dyn Fn(&mut CaseRecord)| {
        change(&mut run.scenarios[scenario].cases[at]);
    };
    let says = |verdict, text: &'static str, failures: &'static [&'static str]| {
        move |case: &mut CaseRecord| {
            case.answers.insert(TUNED.into(), fixture::answer(verdict, text, failures));
        }
    };
    // Two of them are newly broken: one in other words, one that answers something else altogether.
    case(&mut after, 2, 0, &says(F, "It is 5.", &["contains \"4\": not found"]));
    case(&mut after, 0, 1, &says(F, "\u{1b}[2J@octocat </details> says no", &["json: not JSON (line 1)"]));
    // Fixed, changed, not evaluated, another question, gone, new.
    case(&mut after, 2, 3, &says(P, "17 + 25 is equal to 42.", &[]));
    case(&mut after, 4, 1, &says(P, "I am sure that it is 4.", &[]));
    case(&mut after, 5, 2, &says(N, "", &["out of memory"]));
    case(&mut after, 5, 3, &|case| case.checks = vec!["contains \"5\"".into()]);
    after.scenarios[1].cases.pop();
    after.scenarios[3].cases.push(fixture::case("sub", "Write sub(a, b).", (P, "a - b"), (P, "a - b")));
    let close = after.scenarios[2].cases[0].answers.get_mut(TUNED).expect("an answer");
    close.samples[0].turns[0].near_ties = 1;
    (before, after)
}

const PATHS: [&str; 2] = [".finetest/runs/finetest/20261128T093000Z-0123abcd/run.json", "head/run.json"];

fn with<T>(runs: &(RunRecord, RunRecord), fail_on: FailOn, check: impl FnOnce(&Compared<'_>) -> T) -> T {
    let comparison = RunComparison::of(&runs.0, &runs.1, TUNED).expect("comparable");
    check(&Compared { comparison: &comparison, paths: PATHS, fail_on })
}

const PLAIN: Style = Style { color: false, width: 100 };

/// Every form, whole: what changes in it is seen in review.
#[test]
fn whole_comparisons_are_as_approved() {
    with(&runs(), FailOn::NewlyBroken, |compared| {
        insta::assert_snapshot!("terminal", compared.terminal(PLAIN));
        insta::assert_snapshot!("markdown", compared.markdown());
        insta::assert_json_snapshot!("json", compared.data());
    });
}

#[test]
fn the_same_run_is_said_to_be_the_same() {
    let run = example();
    let text = with(&(run.clone(), run), FailOn::Changed, |compared| compared.terminal(PLAIN));
    assert!(text.starts_with("PASS  diagnostics: all 23 compared cases are the same\n"), "{text}");
    assert!(text.ends_with("PASS  all 23 compared cases are the same; exit code 0\n"), "{text}");
    assert!(!text.contains("newly broken") && !text.contains("≠"), "{text}");
}

#[test]
fn newly_broken_cases_come_first_and_are_never_cut() {
    let scenario = |verdicts: &[_]| fixture::run(vec![fixture::scenario("facts", Role::Control, verdicts)]);
    let runs = (scenario(&[(P, P); 30]), scenario(&[(P, F); 30]));
    with(&runs, FailOn::NewlyBroken, |compared| {
        let text = compared.terminal(PLAIN);
        assert!(text.starts_with("FAIL  diagnostics: 30 newly broken, 0 fixed, 0 changed, 0 the same"), "{text}");
        assert_eq!(text.matches("control::facts::case_").count(), 30, "{text}");
        assert!(text.ends_with("; exit code 100\n"), "{text}");
    });
    with(&(runs.1, runs.0), FailOn::NewlyBroken, |compared| {
        let text = compared.terminal(PLAIN);
        assert!(text.starts_with("PASS") && text.contains("… and 20 more") && text.contains("before: ✗"), "{text}");
    });
}

#[test]
fn a_comparison_fits_the_terminal_and_no_answer_reaches_it_raw() {
    with(&runs(), FailOn::NewlyBroken, |compared| {
        for width in [20, 40, 71, 72, 80, 120] {
            let text = compared.terminal(Style { color: false, width });
            assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text}");
            for line in text.lines() {
                assert!(columns(line) <= width && line == line.trim_end(), "{} of {width}: {line}", columns(line));
            }
        }
        let coloured = compared.terminal(Style { color: true, width: 100 });
        for escape in coloured.split('\u{1b}').skip(1) {
            let code = escape.strip_prefix('[').and_then(|e| e.split_once('m')).map(|(code, _)| code);
            assert!(code.is_some_and(|c| c.chars().all(|c| c.is_ascii_digit() || c == ';')), "{escape:?}");
        }
    });
}

#[test]
fn hostile_text_makes_no_markup_and_endless_text_does_not_fill_the_page() {
    let (before, mut after) = runs();
    let hostile = "</summary><script>x</script> @octocat | [l](http://evil.example) #12\n\n# h";
    after.scenarios[2].name = hostile.into();
    after.scenarios[2].cases[1].name = hostile.into();
    after.backend = hostile.into();
    after.made.selected = Some(Selected { filter: hostile.into(), cases: 1, of: 2 });
    after.scenarios[5].cases[2].answers.insert(TUNED.into(), fixture::answer(N, "", &[hostile]));
    let page = with(&(before.clone(), after.clone()), FailOn::NewlyBroken, |compared| compared.markdown());
    for active in ["<script", "](http", "http://"] {
        assert!(!page.contains(active), "{active}: {page}");
    }
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| ") && line.ends_with(" |")).collect();
    let cells = |row: &str| row.matches(" | ").count();
    assert!(rows.iter().all(|row| cells(row) <= 5), "{rows:#?}");

    let endless = "words and <more> words\n".repeat(2000);
    let many = |verdict| {
        let mut scenario = fixture::scenario("facts", Role::Control, &[]);
        scenario.cases = (0..300)
            .map(|i| fixture::case(&format!("case_{i}"), &endless, (P, "A"), (verdict, &format!("{i}{endless}"))))
            .collect();
        fixture::run(vec![scenario])
    };
    let page = with(&(many(P), many(F)), FailOn::NewlyBroken, |compared| compared.markdown());
    assert!(page.len() <= 60_000, "{} bytes", page.len());
    let shown = page.matches("<details>").count();
    assert!(shown > 3 && page.matches("</details>").count() == shown);
    assert!(page.contains(&format!("_{} more cases left out", 300 - shown)), "{shown}");
}

#[test]
fn what_a_part_did_not_run_is_not_called_gone() {
    let (before, mut after) = runs();
    after.made.selected = Some(Selected { filter: "test(facts)".into(), cases: 5, of: 23 });
    after.scenarios.retain(|scenario| scenario.name == "facts");
    let text = with(&(before, after), FailOn::NewlyBroken, |compared| compared.terminal(PLAIN));
    assert!(text.contains("only in the first run; the second ran a part"), "{text}");
    assert!(text.contains("selected tests") && text.contains("5 of 23, test(facts)"), "{text}");
}

#[test]
fn drift_by_another_method_has_no_value_beside_it() {
    let (before, mut after) = runs();
    let told = |runs: &(RunRecord, RunRecord)| {
        let text = with(runs, FailOn::NewlyBroken, |compared| compared.terminal(PLAIN));
        text.split("about both runs").nth(1).expect("the section").to_owned()
    };
    let text = told(&(before.clone(), after.clone()));
    assert!(text.contains("not compared: measured by KL over the whole vocabulary"), "{text}");
    assert!(text.contains("not compared: measured by KL over the top 20 tokens"), "{text}");
    assert!(!text.contains("0.0213"), "{text}");
    if let Some(drift) = after.drift.get_mut(TUNED) {
        drift.method = DriftMethod::FullKl;
    }
    let text = told(&(before, after));
    assert_eq!(text.matches("0.0213 ± 0.0031 nats/token").count(), 2, "{text}");
}

#[test]
fn what_is_not_known_yet_is_incomplete() {
    let run = |verdict| fixture::run(vec![fixture::scenario("facts", Role::Control, &[(P, P), (P, verdict)])]);
    with(&(run(P), run(N)), FailOn::NewlyBroken, |compared| {
        let text = compared.terminal(PLAIN);
        assert!(text.starts_with("INCOMPLETE") && text.ends_with("same, 1 not evaluated; exit code 1\n"), "{text}");
        assert!(text.contains("? control::facts::case_2  now: no answer"), "{text}");
    });
}
