use super::*;
use crate::record::Role;
use crate::record::fixture::{self, F, P};

const FOLDER: &str = ".finetest/runs/finetest";

fn runs() -> Vec<ListedRun> {
    let mut run = fixture::run(vec![
        fixture::scenario("fields", Role::Target, &[(F, P), (F, F)]),
        fixture::scenario("facts", Role::Control, &[(P, P), (P, F), (P, P)]),
    ]);
    run.decision = Some(crate::gate::decide(&run, &crate::report::tests::policy()));
    let listed = |name: &str, run: &RunRecord| ListedRun {
        name: name.into(),
        path: format!(".finetest/runs/finetest/{name}/run.json"),
        latest: name.starts_with("20261129"),
        error: None,
        summary: Some(RunSummary::of(run)),
    };
    let first = listed("20261129T120041Z-0123abcd", &run);
    run.made.git = Some(Commit { commit: "fedcba9876543210fedcba9876543210fedcba98".into(), dirty: true });
    run.made.selected = Some(Selected { filter: "test(fields)\u{1b}[2J".into(), cases: 2, of: 5 });
    run.scenarios.truncate(1);
    if let Some(drift) = run.drift.get_mut(TUNED) {
        drift.method = DriftMethod::TopK(20);
    }
    let part = listed("20261128T120041Z-0123abce", &run);
    (run.made, run.decision, run.drift) = Default::default();
    let old = listed("20261127T120041Z-0123abcf", &run);
    let torn = ListedRun {
        error: Some("run.json:3: is not a run as finetest writes it: EOF; make the run again".into()),
        summary: None,
        ..listed("20261126T120041Z-0123abc0", &run)
    };
    vec![first, part, old, torn]
}

#[test]
fn a_list_of_runs_is_as_approved() {
    insta::assert_snapshot!("runs_wide", listed_runs(&runs(), FOLDER, 0, Style { color: false, width: 120 }));
    insta::assert_snapshot!("runs", listed_runs(&runs(), FOLDER, 80, Style { color: false, width: 100 }));
    insta::assert_snapshot!("runs_narrow", listed_runs(&runs(), FOLDER, 0, Style { color: false, width: 60 }));
}

#[test]
fn a_list_fits_the_terminal_and_holds_nothing_that_it_would_obey() {
    for width in [20, 40, 89, 90, 200] {
        let text = listed_runs(&runs(), FOLDER, 1, Style { color: false, width });
        assert!(!text.contains('\u{1b}'), "{text}");
        assert!(text.lines().all(|line| columns(line) <= width && line == line.trim_end()), "{width}: {text}");
    }
}

#[test]
fn of_a_run_that_cannot_be_read_json_has_the_reason_alone() {
    let json = serde_json::to_value(runs()).expect("JSON");
    assert_eq!((&json[0]["verdict"], &json[0]["targets_passed"]), (&"FAIL".into(), &1.into()));
    assert_eq!(json[1]["selected"]["cases"], 2);
    let keys: Vec<&String> = json[3].as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["name", "path", "latest", "error"]);
}
