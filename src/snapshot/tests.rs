use std::process::{Command, Output};

use super::bytes::{pending, source_of};
use super::environment::{check_variables, check_writing_with};
use super::*;
use crate::record::fixture::{self, F, N, P};
use crate::record::{BASE, ChoiceScore, Finish, Message, Prompt, Role, Sample, TUNED};
use crate::snapshot::render::steady;

fn scenario() -> ScenarioRecord {
    let mut scenario = fixture::scenario("arithmetic", Role::Control, &[(P, P)]);
    let json = r#"{"tool": "rustc"}"#;
    scenario.cases.push(fixture::case("sum", "What is\n17 + 25?", (P, "17 + 25 is 42."), (F, "17 + 25 is 41.")));
    scenario.cases.push(fixture::case("capital", "Capital of France?", (P, "Paris."), (F, json)));
    scenario.cases.push(fixture::case("open", "Anything?", (P, "Yes."), (N, "")));
    scenario.cases.push(fixture::case(
        "code",
        "Write add.",
        (P, "def add(a, b):\n\n    return a + b "),
        (P, "\u{1b}[2J\r\nx"),
    ));
    scenario
}

fn rendered(scenario: &ScenarioRecord) -> String {
    render(scenario, &[BASE, TUNED])
}

#[test]
fn a_snapshot_reads_like_a_dialogue() {
    let expected = r#"# control::arithmetic
What arithmetic is about.

## case_1
> What is 0 + 2?
base: passed
  | It is 4.
tuned: passed = base

## sum
> What is
> 17 + 25?
base: passed
  | 17 + 25 is 42.
tuned: failed
  | 17 + 25 is 41.
  ! contains "4": not found

## capital
> Capital of France?
base: passed
  | Paris.
tuned: failed
  | {"tool": "rustc"}
  ! contains "4": not found

## open
> Anything?
base: passed
  | Yes.
tuned: not evaluated

## code
> Write add.
base: passed
  | def add(a, b):
  |
  |     return a + b\u{20}
tuned: passed
  | \u{1b}[2J\u{d}
  | x
"#;
    assert_eq!(rendered(&scenario()), expected);
}

#[test]
fn a_changed_answer_changes_only_its_own_lines() {
    let before = scenario();
    let mut after = before.clone();
    after.cases[1] = fixture::case("sum", "What is\n17 + 25?", (P, "17 + 25 is 42."), (F, "17 + 25 is 40."));
    let changed: Vec<String> = line_diff(&rendered(&before), &rendered(&after))
        .into_iter()
        .filter(|l| l.change == Change::Removed)
        .map(|l| l.text)
        .collect();
    assert_eq!(changed, ["  | 17 + 25 is 41."]);
}

#[test]
fn a_failure_is_said_once_and_without_the_answer_above_it() {
    let mut one = fixture::scenario("facts", Role::Control, &[(P, F)]);
    let sample = &mut one.cases[0].answers.get_mut(TUNED).expect("an answer").samples[0];
    sample.turns[0].text = "No \"idea\".".into();
    let got = "got \"No \\\"idea\\\".\"";
    sample.failures = vec![
        format!("contains \"4\": {got}"),
        format!("contains \"4\": {got}"),
        format!("regex '5': {got} (answer was cut at 3 tokens)"),
        "max-words 1: got 2 words".into(),
    ];
    let body = rendered(&one);
    let expected = "tuned: failed\n  | No \"idea\".\n  ! contains \"4\"\n  ! regex '5'\n  ! max-words 1: got 2 words\n";
    assert!(body.ends_with(expected), "{body}");
}

#[test]
fn a_long_prompt_is_cut_in_its_middle() {
    let mut one = fixture::scenario("facts", Role::Control, &[(P, P), (P, P)]);
    let lines: Vec<String> = (1..=20).map(|i| format!("line {i}")).collect();
    one.cases[0].prompt = Prompt::Text(lines.join("\n"));
    let long = "x".repeat(500);
    one.cases[1].prompt = Prompt::Messages(vec![Message::new("system", "Be brief."), Message::new("user", long)]);
    let body = rendered(&one);
    assert!(body.contains("> line 4\n> … 13 more lines …\n> line 18\n> line 19\n> line 20\n"), "{body}");
    assert!(
        body.contains("> system: Be brief.\n> user: xxx") && body.contains(" … 266 more characters … xxx"),
        "{body}"
    );
}

#[test]
fn of_a_target_case_base_fails_only_the_beginning_is_shown() {
    let mut target = fixture::scenario("fields", Role::Target, &[]);
    let babble = format!("This error means that\n{}", "and so on ".repeat(30));
    target.cases.push(fixture::case("one", "error", (F, &babble), (P, "{}")));
    let body = rendered(&target);
    assert!(body.contains("base: failed\n  | This error means that\n  …\n  ! contains \"4\"\n"), "{body}");
    target.role = Role::Control;
    assert!(rendered(&target).contains("and so on and so on"), "of a control case all is");
}

#[test]
fn scores_of_choices_are_not_in_a_snapshot() {
    let mut one = fixture::scenario("facts", Role::Control, &[(F, F)]);
    let score = |text: &str, log_likelihood| ChoiceScore { text: text.into(), log_likelihood, tokens: 2 };
    let mut score_case = |low: f64| {
        let answer = one.cases[0].answers.get_mut(TUNED).expect("an answer");
        let Sample { turns, failures, .. } = &mut answer.samples[0];
        let completion = &mut turns[0];
        completion.text.clear();
        completion.finish = Finish::Scored;
        completion.choices = vec![score(" Rome", low), score(" Paris", low + 0.25)];
        *failures = vec![format!(
            "choice \" Rome\" over \" Paris\": \" Paris\" is likelier, {:.3} against {low:.3} nats",
            low + 0.25
        )];
        rendered(&one)
    };
    let (here, there) = (score_case(-3.5), score_case(-3.5001));
    assert_eq!(here, there);
    assert!(here.contains("tuned: failed\n  top choice: \" Paris\"\n  ! choice"), "{here}");
    assert!(here.contains("is likelier, … against … nats"), "{here}");
}

#[test]
fn numbers_that_a_check_names_are_kept() {
    assert_eq!(steady("max-length 20: got 31.5", false), "max-length 20: got 31.5");
    assert_eq!(steady("-3.250 against 4e1, 12 tokens", true), "… against 4e1, 12 tokens");
}

#[test]
fn ci_refuses_what_nobody_looked_at() {
    let check = |variables: &'static [(&str, &str)]| {
        check_variables(&move |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    };
    for refused in [
        &[("CI", "true"), ("INSTA_FORCE_PASS", "1")][..],
        &[("CI", "1"), ("INSTA_UPDATE", "always")],
        &[("CI", "yes"), ("INSTA_UPDATE", "force")],
        &[("TF_BUILD", "True"), ("INSTA_UPDATE", "unseen")],
        &[("CI", "true"), ("INSTA_FORCE_UPDATE", "1")],
    ] {
        let error = check(refused).expect_err("refused");
        assert!(error.to_string().starts_with("INSTA_") && error.exit_code() == 2, "{error}");
    }
    for allowed in [
        &[("CI", "true"), ("INSTA_UPDATE", "no")][..],
        &[("CI", "false"), ("INSTA_UPDATE", "always")],
        &[("CI", ""), ("TF_BUILD", "True"), ("INSTA_FORCE_PASS", "1")],
        &[("CI", "0"), ("INSTA_FORCE_PASS", "1")],
        &[("CI", "true"), ("INSTA_FORCE_PASS", "0"), ("INSTA_UPDATE", "new")],
        &[("INSTA_UPDATE", "force")],
        &[],
    ] {
        check(allowed).expect("allowed");
    }
}

const SCENARIO: &str = "FINETEST_SNAPSHOT_TEST";
/// A run that answers in place of the fixture's, in the project.
const RUN: &str = "run.json";

/// A project in which `assert_scenario` runs in a process of its own, so that the environment can be set.
struct Project(tempfile::TempDir);

impl Project {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn snapshots(&self) -> PathBuf {
        self.0.path().join("snapshots")
    }

    fn assert(&self, scenario: &ScenarioRecord, environment: &[(&str, &str)]) -> Output {
        let file = self.0.path().join(&scenario.path);
        std::fs::create_dir_all(file.parent().expect("a directory")).expect("created");
        std::fs::write(&file, serde_json::to_string(scenario).expect("JSON")).expect("written");
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command.args(["--exact", "snapshot::tests::child", "--ignored", "--nocapture"]);
        for name in ["CI", "TF_BUILD", "INSTA_UPDATE", "INSTA_FORCE_PASS", "INSTA_OUTPUT", "INSTA_PENDING_DIR"] {
            command.env_remove(name);
        }
        command.env("INSTA_WORKSPACE_ROOT", self.0.path()).env(SCENARIO, &file).envs(environment.iter().copied());
        command.output().expect("the test runs")
    }

    fn approve(&self, scenario: &ScenarioRecord) {
        assert!(self.assert(scenario, &[("INSTA_UPDATE", "always")]).status.success());
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.snapshots().join(file)).expect("a snapshot")
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.snapshots()).into_iter().flatten().filter_map(Result::ok);
        let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

#[test]
#[ignore = "run by the tests beside it, in a process of its own"]
fn child() {
    let Some(file) = std::env::var_os(SCENARIO).map(PathBuf::from) else { return };
    let root = file.ancestors().nth(2).expect("a project").to_path_buf();
    let scenario: ScenarioRecord = serde_json::from_str(&std::fs::read_to_string(&file).expect("read")).expect("JSON");
    let run = match std::fs::read_to_string(root.join(RUN)) {
        Ok(run) => serde_json::from_str(&run).expect("JSON"),
        Err(_) => fixture::run(Vec::new()),
    };
    let context = SnapshotContext {
        directory: &root.join("snapshots"),
        root: &root,
        run: &run,
        arms: &[BASE, TUNED],
        assertion: snapshot_assertion!(),
    };
    if let Err(message) = assert_scenario(&scenario, &context) {
        panic!("refused: {message}");
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn new_answers_wait_for_a_review() {
    let project = Project::new();
    let output = project.assert(&scenario(), &[("INSTA_UPDATE", "new")]);
    assert!(!output.status.success());
    let said = text(&output);
    assert!(said.contains("refused: snapshots/arithmetic.snap: the answers were never approved"), "{said}");
    assert!(!said.contains("snapshot assertion for"), "insta's panic is printed: {said}");
    assert_eq!(project.files(), ["arithmetic.snap.new"]);
    let pending = std::fs::read_to_string(project.snapshots().join("arithmetic.snap.new")).expect("read");
    for part in [
        "input_file: scenarios/arithmetic.toml",
        "backend: candle 0.11.1",
        "adapter: adapters/diagnostics",
        "name: base",
    ] {
        assert!(pending.contains(part), "{part:?} is not in\n{pending}");
    }
    assert!(!pending.contains("expression:") && !pending.contains("fingerprint"), "{pending}");
}

#[test]
fn approved_answers_pass_and_changed_ones_are_shown() {
    let project = Project::new();
    project.approve(&scenario());
    assert_eq!(project.files(), ["arithmetic.snap"]);
    for environment in [&[][..], &[("CI", "true")], &[("INSTA_UPDATE", "no")]] {
        let output = project.assert(&scenario(), environment);
        assert!(output.status.success(), "{}", text(&output));
    }
    assert_eq!(compare_files(&project.snapshots(), &scenario(), &[BASE, TUNED]).expect("read"), SnapshotState::Same);

    let mut changed = scenario();
    changed.cases[2] = fixture::case("capital", "Capital of France?", (P, "Paris."), (F, "Lyon, I think."));
    let output = project.assert(&changed, &[]);
    let said = text(&output);
    assert!(!output.status.success());
    let message = "## capital\n-   | {\"tool\": \"rustc\"}\n+   | Lyon, I think.\n";
    assert!(said.contains("snapshots/arithmetic.snap: the answers differ") && said.contains(message), "{said}");
    assert_eq!(project.files(), ["arithmetic.snap", "arithmetic.snap.new"]);
    let SnapshotState::Changed { diff } = compare_files(&project.snapshots(), &changed, &[BASE, TUNED]).expect("read")
    else {
        panic!("must differ")
    };
    assert_eq!(diff.iter().filter(|l| l.change != Change::Equal).count(), 2);
    assert_eq!(changed_lines(&diff, 1), "  ## capital\n-   | {\"tool\": \"rustc\"}\n  … 1 more lines");
}

#[test]
fn in_ci_nothing_is_written_and_nothing_forced() {
    let project = Project::new();
    assert!(!project.assert(&scenario(), &[("CI", "true")]).status.success());
    assert!(project.files().is_empty());
    let forced = project.assert(&scenario(), &[("CI", "true"), ("INSTA_FORCE_PASS", "1")]);
    assert!(!forced.status.success() && text(&forced).contains("INSTA_FORCE_PASS=1 in CI"));
    // The same by a file of insta's.
    std::fs::create_dir(project.0.path().join(".config")).expect("created");
    std::fs::write(project.0.path().join(".config/insta.yaml"), "behavior:\n  force_pass: true\n").expect("written");
    let forced = project.assert(&scenario(), &[("CI", "true")]);
    assert!(!forced.status.success() && text(&forced).contains("never approved"), "{}", text(&forced));
    // Outside CI a difference may be collected for a review.
    assert!(project.assert(&scenario(), &[("INSTA_UPDATE", "new")]).status.success());
    assert_eq!(project.files(), ["arithmetic.snap.new"]);
}

#[test]
fn files_are_compared_without_insta() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let compare = || compare_files(directory.path(), &scenario(), &[BASE, TUNED]);
    assert_eq!(compare().expect("missing"), SnapshotState::Missing);
    let file = directory.path().join("arithmetic.snap");
    let body = rendered(&scenario());
    for text in [
        format!("---\nsource: tests/scenarios.rs\n---\n{body}"),
        format!("---\nsource: x\n---\n{body}\n\n").replace('\n', "\r\n"),
        format!("---\n---\n{}", body.trim_end()),
    ] {
        std::fs::write(&file, text).expect("written");
        assert_eq!(compare().expect("a snapshot"), SnapshotState::Same);
    }
    std::fs::write(&file, "no header").expect("written");
    assert!(compare().expect_err("no snapshot").to_string().contains("arithmetic.snap:1: no snapshot"));
}

/// What this process of the test runs under must not say where snapshots are.
fn place(project: &Project) -> Place {
    assert!(std::env::var_os("INSTA_WORKSPACE_ROOT").is_none() && std::env::var_os("INSTA_PENDING_DIR").is_none());
    Place::of(project.0.path(), &project.snapshots()).expect("a place")
}

/// All standings, told in short, and what approving one of them wrote.
fn accept(project: &Project, run: &RunRecord, scenario: &str) -> Accepted {
    let place = place(project);
    let snapshots = Snapshots::of(&place, Path::new(RUN), run, &[BASE, TUNED]).expect("a whole run");
    let all = snapshots.all().expect("read");
    let one = named(&all, &[scenario.to_owned()], |one| &one.scenario).expect("known");
    snapshots.accept(one[0]).expect("accepted")
}

fn standing(project: &Project, run: &RunRecord) -> Vec<ScenarioSnapshot> {
    let place = place(project);
    Snapshots::of(&place, Path::new(RUN), run, &[BASE, TUNED]).expect("a whole run").all().expect("read")
}

/// A run with everything in it that YAML writes in its own way.
fn odd_run() -> RunRecord {
    let mut first = scenario();
    first.description = "  odd: \"words\", #1 & 'more' ".into();
    first.sampling.temperature = 0.5;
    let mut other = scenario();
    (other.name, other.path) = ("other".into(), "scenarios/other.toml".into());
    let mut run = fixture::run(vec![first, other]);
    run.model.source = "C:\\models\\\"a\": #b, [c] 'd'\t\u{1b}\u{7f} ü 日本 \u{200b}".into();
    run.backend = "yes".into();
    run.arms[1].adapter = Some("- an adapter: {x}".into());
    run.arms[1].scale = 0.25;
    run
}

#[test]
fn approved_bytes_are_those_that_insta_writes() {
    for run in [fixture::run(odd_run().scenarios), odd_run()] {
        let project = Project::new();
        let json = serde_json::to_string(&run).expect("JSON");
        std::fs::write(project.0.path().join(RUN), json).expect("written");
        run.scenarios.iter().for_each(|scenario| project.approve(scenario));
        let (insta, other) = (project.read("arithmetic.snap"), project.read("other.snap"));
        assert!(insta.contains("\ninput_file: scenarios/arithmetic.toml\n---\n"), "{insta}");

        // Without a snapshot of its own, where the test is says the one beside it.
        std::fs::remove_file(project.snapshots().join("arithmetic.snap")).expect("removed");
        let accepted = accept(&project, &run, "arithmetic");
        assert_eq!((accepted.is_replaced, &accepted.removed), (false, &None));
        assert_eq!(project.read("arithmetic.snap"), insta);

        // And so what insta left for a review.
        std::fs::remove_file(project.snapshots().join("arithmetic.snap")).expect("removed");
        project.assert(&run.scenarios[0], &[("INSTA_UPDATE", "new")]);
        assert!(project.read("arithmetic.snap.new").contains("\nassertion_line: "), "insta left it");
        let accepted = accept(&project, &run, "arithmetic");
        assert_eq!(accepted.removed, Some(project.snapshots().join("arithmetic.snap.new")));
        assert_eq!((project.read("arithmetic.snap"), project.read("other.snap")), (insta, other));
        assert_eq!(project.files(), ["arithmetic.snap", "other.snap"], "nothing else is left there");
        assert!(standing(&project, &run).iter().all(|one| one.state == Standing::Approved));
    }
}

#[test]
fn standings_are_told_apart() {
    let project = Project::new();
    project.approve(&scenario());
    std::fs::write(project.snapshots().join("gone.snap"), "---\nsource: x\n---\nold\n").expect("written");
    let new = fixture::scenario("new", Role::Target, &[(F, P)]);
    let told = |changed: &ScenarioRecord| -> Vec<(String, Standing, usize)> {
        let all = standing(&project, &fixture::run(vec![changed.clone(), new.clone()]));
        all.into_iter().map(|one| (one.scenario, one.state, one.changed_cases)).collect()
    };
    let expected = |state, cases| {
        [("arithmetic", state, cases), ("new", Standing::New, 1), ("gone", Standing::Orphaned, 0)]
            .map(|(name, state, cases)| (name.to_owned(), state, cases))
    };
    assert_eq!(told(&scenario()), expected(Standing::Approved, 0));
    let mut changed = scenario();
    changed.cases[2] = fixture::case("capital", "Capital of France?", (P, "Paris!"), (F, "Lyon."));
    assert_eq!(told(&changed), expected(Standing::Reworded, 1));
    changed.cases[1] = fixture::case("sum", "What is\n17 + 25?", (P, "17 + 25 is 42."), (P, "42"));
    assert_eq!(told(&changed), expected(Standing::VerdictsChanged, 2));

    // What insta left for a review is of another run, then of this one.
    project.assert(&changed, &[("INSTA_UPDATE", "new")]);
    assert_eq!(told(&scenario()), expected(Standing::Pending, 0));
    assert_eq!(told(&changed), expected(Standing::VerdictsChanged, 2));
    let run = fixture::run(vec![scenario()]);
    let (place, all) = (place(&project), standing(&project, &run));
    let snapshots = Snapshots::of(&place, Path::new(RUN), &run, &[BASE, TUNED]).expect("a whole run");
    let refused = snapshots.accept(&all[0]).expect_err("refused").to_string();
    assert!(refused.contains("arithmetic.snap.new: holds other answers than the run"), "{refused}");
    let orphan = snapshots.accept(&all[1]).expect_err("refused").to_string();
    assert!(orphan.contains("gone is no scenario of this run"), "{orphan}");
}

#[test]
fn a_run_that_does_not_hold_all_answers_is_refused() {
    let project = Project::new();
    let place = place(&project);
    let told = |change: fn(&mut RunRecord), arms: &[&str]| {
        let mut run = fixture::run(vec![fixture::scenario("facts", Role::Control, &[(P, P), (P, F)])]);
        change(&mut run);
        Snapshots::of(&place, Path::new(RUN), &run, arms).map(|_| ()).expect_err("refused").to_string()
    };
    let part = told(
        |run| run.made.selected = Some(crate::record::Selected { filter: "x".into(), cases: 1, of: 2 }),
        &[BASE, TUNED],
    );
    assert!(part.starts_with("run.json: is a run of 1 of 2 cases") && part.contains("finetest run"), "{part}");
    assert!(told(|_| {}, &[BASE, "half"]).contains("has no answers of half"));
    let lost = |run: &mut RunRecord| {
        let lost = fixture::answer(N, "", &["out of memory"]);
        run.scenarios[0].cases[1].answers.insert(TUNED.to_owned(), lost);
    };
    let message = told(lost, &[BASE, TUNED]);
    assert!(message.contains("lacks an answer: control::facts::case_2 of tuned (out of memory)"), "{message}");
    // Of an arm that is in no snapshot it does not matter.
    let mut run = fixture::run(vec![fixture::scenario("facts", Role::Control, &[(P, P), (P, F)])]);
    lost(&mut run);
    Snapshots::of(&place, Path::new(RUN), &run, &[BASE]).expect("base answered");
}

#[test]
fn a_pending_file_that_insta_did_not_write_is_refused() {
    let (path, scenario) = (Path::new("arithmetic.snap.new"), scenario());
    let body = rendered(&scenario);
    let read = |header: &str, body: &str| pending(path, &format!("---\n{header}---\n{body}"), &scenario);
    let told = |header: &str, body: &str| read(header, body).expect_err("refused").to_string();
    let good = read("source: a\nassertion_line: 7\ninfo:\n  model: x\n", &body).expect("a snapshot");
    assert_eq!(good.approved, format!("---\nsource: a\ninfo:\n  model: x\n---\n{body}"));
    assert_eq!(read("", &body).expect("a snapshot").approved, format!("---\n---\n{body}"));
    assert!(
        told("source: a\nsnapshot_kind: binary\n", &body)
            .contains("arithmetic.snap.new:3: is the header of a binary snapshot")
    );
    assert!(told("source: a\nformat: 9\n", &body).contains(":3: is not a header line"));
    assert!(told("{\"source\": 1}\n", &body).contains(":2: is not a header line"));
    assert!(
        told("source: a\n", "# control::other\n")
            .contains("begins with \"# control::other\", expected \"# control::arithmetic\"")
    );
    for text in ["", "no header", "---\nsource: a\n", "Created: 2019\nSource: a\n\nbody"] {
        let message = pending(path, text, &scenario).expect_err("refused").to_string();
        assert!(message.contains("arithmetic.snap.new:1: no snapshot"), "{message}");
    }
}

#[test]
fn where_the_test_is_stands_in_the_header_alone() {
    assert_eq!(source_of("---\nsource: tests/a.rs\n---\nx").as_deref(), Some("tests/a.rs"));
    assert_eq!(source_of("---\nsource: \"a\\\\b: c\"\n---\nx").as_deref(), Some("a\\b: c"));
    assert_eq!(source_of("---\ninfo: x\n---\nsource: no\n"), None);
    assert_eq!(source_of("source: no"), None);
}

#[test]
fn nothing_is_written_in_ci_or_where_insta_says_so() {
    let check = |variables: &'static [(&str, &str)]| {
        check_writing_with(&move |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    };
    for (variables, words) in [
        (&[("CI", "true")][..], "CI is set"),
        (&[("TF_BUILD", "True")], "TF_BUILD is set"),
        (&[("CI", "true"), ("INSTA_UPDATE", "always")], "INSTA_UPDATE=always in CI"),
        (&[("INSTA_UPDATE", "no")], "INSTA_UPDATE=no"),
        (&[("INSTA_UPDATE", "maybe")], "INSTA_UPDATE=maybe is not known"),
    ] {
        let error = check(variables).expect_err("refused");
        assert!(error.to_string().contains(words) && error.exit_code() == 2, "{error}");
    }
    for allowed in [&[][..], &[("CI", "false"), ("INSTA_UPDATE", "new")], &[("CI", ""), ("INSTA_UPDATE", "")]] {
        check(allowed).expect("allowed");
    }
}
