//! `finetest snapshots`: answers are compared, reviewed, approved and rejected without cargo, in the bytes that insta writes.
#![expect(clippy::print_stderr, reason = "a test that is skipped says so")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use crate::own_project::{cargo_project, cargo_test, compile};
use crate::support::{CONTROL, Project, Ran, TARGET};

/// A project that was run once: nothing is approved yet.
fn project() -> Project {
    let project = Project::new();
    project.append("finetest.toml", "\n[gate]\nmin_retention = 0.0\n");
    project.run(&["run", "--quiet"]).expect(0);
    project
}

/// One whose answers are approved.
fn approved() -> Project {
    let project = project();
    project.run(&["snapshots", "accept"]).expect(0);
    project
}

/// Has `says` ask something else, so that its answers differ from the approved ones.
fn change(project: &Project) {
    project.write("scenarios/says.toml", &TARGET.replace("hello there", "good evening"));
    project.run(&["run", "--quiet"]).expect(0);
}

/// What insta leaves for a review of `says`, were `cargo test` run: the answers of the last run.
fn leave_pending(project: &Project) -> String {
    let kept = project.read("snapshots/says.snap");
    project.run(&["snapshots", "accept", "says"]).expect(0);
    let accepted = project.read("snapshots/says.snap");
    let pending = accepted.replacen("info:", "assertion_line: 3\ninfo:", 1);
    project.write("snapshots/says.snap.new", &pending);
    project.write("snapshots/says.snap", &kept);
    accepted
}

/// The folder's files, by name.
fn files(project: &Project) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(project.path("snapshots")).into_iter().flatten().flatten();
    let read = |path: PathBuf| std::fs::read_to_string(path).expect("a text");
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), read(entry.path()))).collect()
}

fn states(project: &Project, arguments: &[&str]) -> BTreeMap<String, String> {
    let ran = project.run(&[&["snapshots", "status", "--json"], arguments].concat());
    let listed: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    let all = listed["snapshots"].as_array().expect("a list");
    all.iter().map(|one| (text(&one["scenario"]), text(&one["state"]))).collect()
}

fn with(project: &Project, arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
    Ran::of(project.command(arguments).envs(environment.iter().copied()).output().expect("the binary runs"))
}

#[test]
fn answers_are_approved_changed_reviewed_and_approved_again_without_cargo() {
    let project = project();
    let new = project.run(&["snapshots"]).expect(0);
    for words in ["new  says     no answers are approved in snapshots/says.snap", "2 new", "finetest snapshots review"]
    {
        assert!(new.stdout.contains(words), "{words:?} is not in:\n{}", new.stdout);
    }
    project.run(&["snapshots", "--check"]).expect(100);
    project.run(&["run", "--check-snapshots"]).fails(100, &["`finetest snapshots accept` approves these answers"]);
    assert!(!project.path("snapshots").exists(), "nothing is written without being told to");

    let accepted = project.run(&["snapshots", "accept"]).expect(0);
    for words in ["accepted says: wrote snapshots/says.snap\n", "accepted prefers: wrote snapshots/prefers.snap\n"] {
        assert!(accepted.stdout.contains(words), "{}", accepted.stdout);
    }
    project.run(&["run", "--check-snapshots"]).fails(0, &["snapshots: all 2 as approved"]);
    let checked = project.run(&["snapshots", "status", "--check"]).expect(0);
    assert!(checked.stdout.ends_with("\n2 approved\n"), "{}", checked.stdout);
    let again = project.run(&["snapshots", "accept"]).expect(0);
    assert_eq!(again.stdout, "nothing to accept: 2 approved\n");

    let old = files(&project);
    change(&project);
    project.run(&["run", "--check-snapshots"]).fails(100, &["says changed", "`finetest snapshots review`"]);
    assert_eq!(states(&project, &["--check"])["says"], "reworded");
    let review = project.run(&["snapshots", "review"]).expect(0);
    for words in ["- > hello there\n", "+ > good evening\n", "  ## case_1\n", "finetest snapshots accept SCENARIO"] {
        assert!(review.stdout.contains(words), "{words:?} is not in:\n{}", review.stdout);
    }
    assert!(!review.stdout.contains("prefers") && !review.stdout.contains("ccept,"), "{}", review.stdout);
    assert_eq!(files(&project), old, "a review without a terminal writes nothing");

    let replaced = project.run(&["snapshots", "accept", "says"]).expect(0);
    assert_eq!(replaced.stdout, "accepted says: replaced snapshots/says.snap (reworded; 1 of 1 case changed)\n");
    project.run(&["run", "--check-snapshots"]).expect(0);
    assert_eq!(files(&project)["prefers.snap"], old["prefers.snap"]);

    // A check that no longer holds is told by the verdict.
    let never = CONTROL.replace("max-length = 1000", "contains = \"no such answer\"");
    project.write("scenarios/prefers.toml", &never);
    project.run(&["run", "--quiet"]);
    let status = project.run(&["snapshots"]).expect(0);
    assert!(
        status.stdout.contains("verdicts changed  prefers  any: base passed → failed; any: tuned passed → failed\n"),
        "{}",
        status.stdout
    );
    let colored = project.run(&["snapshots", "review", "--color", "always"]).expect(0);
    assert!(colored.stdout.contains("\u{1b}[31m- tuned: passed"), "{}", colored.stdout);
}

#[test]
fn what_cargo_test_leaves_is_accepted_or_rejected() {
    let project = approved();
    let old = files(&project);
    change(&project);
    let expected = leave_pending(&project);
    let status = project.run(&["snapshots"]).expect(0);
    assert!(status.stdout.contains("same verdicts; also in snapshots/says.snap.new"), "{}", status.stdout);

    let rejected = project.run(&["snapshots", "reject"]).expect(0);
    assert_eq!(rejected.stdout, "rejected says: removed snapshots/says.snap.new\n");
    assert_eq!(files(&project), old);
    assert_eq!(project.run(&["snapshots", "reject"]).expect(0).stdout, "nothing to reject: no answers are pending\n");
    let none = project.run(&["snapshots", "reject", "says"]).expect(0);
    assert!(none.stdout.contains("says: no answers are pending; the approved ones stay"), "{}", none.stdout);

    leave_pending(&project);
    let accepted = project.run(&["snapshots", "accept"]).expect(0);
    assert!(accepted.stdout.contains("replaced snapshots/says.snap (reworded"), "{}", accepted.stdout);
    assert!(accepted.stdout.contains(", removed snapshots/says.snap.new\n"), "{}", accepted.stdout);
    assert_eq!(project.read("snapshots/says.snap"), expected);
    assert!(!project.path("snapshots/says.snap.new").exists());

    // Pending answers of another run are not approved unseen.
    leave_pending(&project);
    project.write("scenarios/says.toml", &TARGET.replace("hello there", "good morning"));
    project.run(&["run", "--quiet"]).expect(0);
    assert_eq!(states(&project, &[])["says"], "pending");
    let before = files(&project);
    project
        .run(&["snapshots", "accept"])
        .fails(1, &["snapshots/says.snap.new: holds other answers than the run", "finetest snapshots reject says"]);
    assert_eq!(files(&project), before);
}

#[test]
fn a_pending_folder_of_insta_s_is_read_and_emptied() {
    let project = approved();
    change(&project);
    let expected = leave_pending(&project);
    std::fs::create_dir_all(project.path("waiting/snapshots")).expect("a folder");
    std::fs::rename(project.path("snapshots/says.snap.new"), project.path("waiting/snapshots/says.snap.new"))
        .expect("moved");
    let waiting = project.path("waiting").display().to_string();
    let environment = [("INSTA_PENDING_DIR", waiting.as_str())];
    let status = with(&project, &["snapshots"], &environment).expect(0);
    assert!(status.stdout.contains("waiting/snapshots/says.snap.new"), "{}", status.stdout);
    let accepted = with(&project, &["snapshots", "accept"], &environment).expect(0);
    assert!(accepted.stdout.contains("removed ") && !project.path("waiting/snapshots/says.snap.new").exists());
    assert_eq!(project.read("snapshots/says.snap"), expected);
}

#[test]
fn nothing_is_approved_in_ci_or_where_insta_says_so() {
    let project = project();
    for (variable, value, words) in [
        ("CI", "true", "CI is set"),
        ("INSTA_UPDATE", "no", "INSTA_UPDATE=no"),
        ("INSTA_UPDATE", "perhaps", "INSTA_UPDATE=perhaps is not known"),
    ] {
        for action in ["accept", "reject"] {
            with(&project, &["snapshots", action], &[(variable, value)]).fails(2, &[words]);
        }
    }
    let forced = [("CI", "true"), ("INSTA_UPDATE", "always")];
    with(&project, &["snapshots", "accept"], &forced).fails(2, &["INSTA_UPDATE=always in CI"]);
    with(&project, &["snapshots", "--check"], &[("CI", "true")]).expect(100);
    assert!(!project.path("snapshots").exists());
}

/// One broken thing, and what is said of it.
struct Case {
    prepare: fn(&Project),
    arguments: &'static [&'static str],
    code: i32,
    words: &'static [&'static str],
}

/// Edits the record of the last run.
fn edit_record(project: &Project, change: fn(&mut serde_json::Value)) {
    let path = ".finetest/runs/finetest/latest/run.json";
    let mut run: serde_json::Value = serde_json::from_str(&project.read(path)).expect("JSON");
    change(&mut run);
    project.write(path, &run.to_string());
}

#[cfg(unix)]
fn link_folder(project: &Project) {
    std::fs::create_dir_all(project.path("elsewhere")).expect("a folder");
    std::os::unix::fs::symlink("elsewhere", project.path("snapshots")).expect("a link");
}

#[cfg(unix)]
fn link_file(project: &Project) {
    project.write("mine.txt", "---\n---\nmine\n");
    std::fs::create_dir_all(project.path("snapshots")).expect("a folder");
    std::os::unix::fs::symlink("../mine.txt", project.path("snapshots/says.snap")).expect("a link");
}

#[cfg(unix)]
fn link_pending(project: &Project) {
    project.write("mine.txt", "---\n---\n# target::says\n");
    std::fs::create_dir_all(project.path("snapshots")).expect("a folder");
    std::os::unix::fs::symlink("../mine.txt", project.path("snapshots/says.snap.new")).expect("a link");
}

fn pending(project: &Project, text: &str) {
    project.write("snapshots/says.snap.new", text);
}

#[cfg(unix)]
const LINKS: &[Case] = &[
    Case {
        prepare: link_folder,
        arguments: &["accept"],
        code: 1,
        words: &["snapshots: is a link to elsewhere", "[run] snapshots"],
    },
    Case { prepare: link_folder, arguments: &["reject"], code: 1, words: &["snapshots: is a link to elsewhere"] },
    Case {
        prepare: link_file,
        arguments: &["accept"],
        code: 1,
        words: &["snapshots/says.snap: is a link to ../mine.txt"],
    },
    Case {
        prepare: link_pending,
        arguments: &["accept"],
        code: 1,
        words: &["snapshots/says.snap.new: is a link to ../mine.txt", "reject says"],
    },
];
#[cfg(not(unix))]
const LINKS: &[Case] = &[];

const CASES: &[Case] = &[
    Case {
        prepare: |project| project.append("finetest.toml", "\n[run]\nsnapshots = \"../outside\"\n"),
        arguments: &["accept"],
        code: 1,
        words: &["is outside the project", "[run] snapshots"],
    },
    Case {
        prepare: |project| project.write("snapshots", "mine"),
        arguments: &["accept"],
        code: 1,
        words: &["snapshots: is a file, expected a folder"],
    },
    Case {
        prepare: |project| project.write("snapshots/says.snap", "my notes"),
        arguments: &["accept"],
        code: 1,
        words: &["snapshots/says.snap:1: no snapshot", "delete it"],
    },
    Case {
        prepare: |project| pending(project, "my notes"),
        arguments: &["accept"],
        code: 1,
        words: &["snapshots/says.snap.new:1: no snapshot", "`finetest snapshots reject says` removes it"],
    },
    Case {
        prepare: |project| pending(project, "---\nsource: x\nformat: 9\n---\n# target::says\n"),
        arguments: &["accept", "says"],
        code: 1,
        words: &["snapshots/says.snap.new:3: is not a header line", "another format"],
    },
    Case {
        prepare: |project| pending(project, "---\nsource: x\n---\n# target::tells\n"),
        arguments: &["accept"],
        code: 1,
        words: &["begins with \"# target::tells\", expected \"# target::says\""],
    },
    Case {
        prepare: |_| {},
        arguments: &["accept", "say"],
        code: 2,
        words: &["there is no scenario `say`; did you mean `says`?"],
    },
    Case {
        prepare: |_| {},
        arguments: &["review", "something-else"],
        code: 2,
        words: &["there is no scenario `something-else`; expected one of says, prefers"],
    },
    Case { prepare: |_| {}, arguments: &["reject", "says"], code: 2, words: &["there is no scenario `says`"] },
    Case { prepare: |_| {}, arguments: &["accept", "--run", "no.json"], code: 1, words: &["no.json: cannot read"] },
    Case { prepare: |_| {}, arguments: &["aproove"], code: 2, words: &["unrecognized subcommand"] },
    Case {
        prepare: |project| {
            edit_record(project, |run| {
                run["made"]["selected"] = serde_json::json!({"filter": "x", "cases": 1, "of": 3});
            });
        },
        arguments: &["accept"],
        code: 1,
        words: &["run.json: is a run of 1 of 3 cases", "finetest run"],
    },
    Case {
        prepare: |project| {
            edit_record(project, |run| {
                run["scenarios"][0]["cases"][0]["answers"]["tuned"] = serde_json::json!({
                    "verdict": "not-evaluated",
                    "samples": [{"turns": [], "verdict": "not-evaluated", "error": "out of memory"}],
                });
            });
        },
        arguments: &["status"],
        code: 1,
        words: &["lacks an answer: target::says::case_1 of tuned (out of memory)"],
    },
    Case {
        prepare: |project| edit_record(project, |run| run["made"]["manifest"] = "recipes/other.toml".into()),
        arguments: &["accept"],
        code: 1,
        words: &["is a run of recipes/other.toml, and snapshots hold the answers of finetest.toml", "finetest run"],
    },
    Case {
        prepare: |project| {
            let manifest = "\n[arms.half]\nscale = 0.5\n[run]\nsnapshot_arms = [\"base\", \"half\"]\n";
            project.append("finetest.toml", manifest);
        },
        arguments: &["accept"],
        code: 1,
        words: &["has no answers of half"],
    },
    Case {
        prepare: |project| project.write("recipes/other.toml", "extends = \"../finetest.toml\"\n"),
        arguments: &["accept", "--config", "recipes/other.toml"],
        code: 2,
        words: &["recipes/other.toml has no snapshots: they belong to finetest.toml"],
    },
    Case {
        prepare: |project| std::fs::remove_dir_all(project.path(".finetest/runs")).expect("removed"),
        arguments: &["status"],
        code: 2,
        words: &["finetest.toml has no run yet", "`finetest run`"],
    },
];

#[test]
fn what_cannot_be_approved_is_told_and_nothing_is_written() {
    let fresh = project();
    for case in CASES.iter().chain(LINKS) {
        let project = Project::new();
        let copy = |from: &str| {
            let copied = Command::new("cp").arg("-a").arg(fresh.path(from)).arg(project.path(".")).status();
            assert!(copied.expect("cp runs").success());
        };
        ["finetest.toml", ".finetest", "adapters"].iter().for_each(|from| copy(from));
        (case.prepare)(&project);
        let before = files(&project);
        project.run(&[&["snapshots"], case.arguments].concat()).fails(case.code, case.words);
        assert_eq!(files(&project), before, "{:?}", case.words);
        assert!(!project.path("../outside").exists());
        let mine = project.path("mine.txt");
        assert!(!mine.exists() || project.read("mine.txt").ends_with("\n"), "what a link leads to is untouched");
    }
}

/// A kill while answers are approved: each file is the old one or the new one, and the next approval leaves nothing behind.
#[cfg(unix)]
#[test]
fn a_kill_or_a_full_disk_at_any_step_leaves_each_snapshot_whole() {
    let prepared = approved();
    let old = files(&prepared);
    prepared.write("scenarios/prefers.toml", &CONTROL.replace("good day", "good evening"));
    change(&prepared);
    leave_pending(&prepared);
    let pending = files(&prepared);
    for fault in ["kill", "full"] {
        for step in 1..40 {
            let _ = std::fs::remove_dir_all(prepared.path("snapshots"));
            pending.iter().for_each(|(name, text)| prepared.write(&format!("snapshots/{name}"), text));
            let told = format!("{fault} {step}");
            let output = prepared.command(&["snapshots", "accept"]).env("FINETEST_TEST_FAULT", &told).output();
            let is_over = output.expect("it runs").status.success();
            let found = files(&prepared);
            prepared.run(&["snapshots", "accept"]).expect(0);
            let new = files(&prepared);
            for name in ["says.snap", "prefers.snap"] {
                assert!(found[name] == old[name] || found[name] == new[name], "{told}: {name} is torn");
            }
            assert_eq!(new.keys().collect::<Vec<_>>(), ["prefers.snap", "says.snap"], "after {told}");
            prepared.run(&["snapshots", "--check"]).expect(0);
            if is_over {
                assert!(step > 6, "only {step} steps of writing were met");
                break;
            }
            assert!(step < 39, "more steps of writing than expected");
        }
    }
}

/// The same answers, left by a real `cargo test`: `cargo insta accept` and `finetest snapshots accept` write the same bytes, and so does
/// finetest from the run alone.
#[test]
fn cargo_insta_and_finetest_approve_the_same_bytes() {
    let project = cargo_project();
    let program = compile(&project);
    cargo_test(&project, &program, &[], false, "new").expect(101);
    let pending = files(&project);
    assert_eq!(pending.keys().collect::<Vec<_>>(), ["prefers.snap.new", "says.snap.new"]);

    // What insta itself writes in place.
    std::fs::remove_dir_all(project.path("snapshots")).expect("removed");
    cargo_test(&project, &program, &[], false, "always").expect(0);
    let insta = files(&project);
    assert_eq!(insta.keys().collect::<Vec<_>>(), ["prefers.snap", "says.snap"]);

    std::fs::remove_dir_all(project.path("snapshots")).expect("removed");
    project.run(&["snapshots", "accept"]).expect(0);
    assert_eq!(files(&project), insta, "from the run alone");

    let leave = || {
        std::fs::remove_dir_all(project.path("snapshots")).expect("removed");
        pending.iter().for_each(|(name, text)| project.write(&format!("snapshots/{name}"), text));
    };
    leave();
    project.run(&["snapshots", "accept"]).expect(0);
    assert_eq!(files(&project), insta, "from what waits");

    let tool = std::env::var("FINETEST_TEST_CARGO_INSTA").unwrap_or_else(|_| "cargo-insta".into());
    leave();
    match Command::new(&tool).arg("accept").current_dir(project.path(".")).env_remove("CI").output() {
        Ok(output) => {
            Ran::of(output).expect(0);
            assert_eq!(files(&project), insta, "by cargo-insta");
        }
        Err(error) => {
            eprintln!("skipped: {tool} cannot be run ({error}); pip install astral-dev-toolchain-cargo-insta");
        }
    }
}
