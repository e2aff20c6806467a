//! Two runs compared, and runs listed, from the command line.

use serde_json::Value;

use crate::support::{Project, fixture};

/// A project with two recorded runs: of its own adapter, and of one that was trained longer and answers otherwise.
fn project() -> Project {
    let project = Project::new();
    project.append("finetest.toml", "\n[gate]\nmin_retention = 0.5\n");
    project.run(&["run", "--quiet"]).expect(0);
    std::fs::rename(project.path("adapters/tiny"), project.path("short")).expect("kept");
    let longer = project.read("finetest.toml").replace("max_steps = 4", "max_steps = 40");
    project.write("finetest.toml", &longer);
    // A run's name begins with the second it was written in.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    project.run(&["run", "--quiet"]).expect(0);
    project
}

/// The names of a project's runs, newest first.
fn names(project: &Project) -> Vec<String> {
    let listed: Value = serde_json::from_str(&project.run(&["runs", "--json"]).expect(0).stdout).expect("JSON");
    let runs = listed.as_array().expect("a list");
    runs.iter().map(|run| run["name"].as_str().expect("a name").to_owned()).collect()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn the_last_two_runs_are_compared_by_name_by_folder_and_by_file() {
    let project = project();
    let runs = names(&project);
    assert_eq!(runs.len(), 2);
    let last = format!(".finetest/runs/finetest/{}", runs[0]);
    let first = format!(".finetest/runs/finetest/{}", runs[1]);
    let first_record = format!("{first}/run.json");
    let ways: [&[&str]; 6] =
        [&[], &["previous"], &["previous", "latest"], &[&runs[1], &runs[0]], &[&first, &last], &[&first_record]];
    let told: Vec<String> = ways
        .iter()
        .map(|way| project.run(&[&["compare", "--fail-on", "never"], *way].concat()).expect(0).stdout)
        .collect();
    // By a name, and by its own link, the last run has another path.
    let shown = |text: &str| text.split("about both runs").next().expect("the comparison").to_owned();
    assert!(told.iter().all(|text| shown(text) == shown(&told[0])), "{told:#?}");
    assert!(told[0].contains("adapters/tiny (hash "), "another training is said: {}", told[0]);
    // The tiny model's answers are rubbish, and its checks allow anything.
    let compared = json(&project.run(&["compare", "--json"]).expect(0).stdout);
    assert_eq!((&compared["totals"]["all"]["compared"], &compared["exit_code"]), (&3.into(), &0.into()));
    assert_eq!(compared["cases"][0]["test"], "target::says::case_1");
    assert_eq!(compared["cases"][0]["file"], "scenarios/says.toml");
    let changed = compared["totals"]["all"]["changed"].as_u64().expect("a count");
    assert!(changed > 0, "ten times the steps change an answer: {compared}");
    project.run(&["compare", "--fail-on", "changed", "--quiet"]).expect(100);
    // Base is the same in both.
    let base = project.run(&["compare", "--arm", "base", "--fail-on", "changed"]).expect(0);
    assert!(base.stdout.contains("all 3 compared cases are the same"), "{}", base.stdout);
    let page = project.run(&["compare", "--format", "markdown", "-o", "page.md"]).expect(0);
    assert_eq!(page.stdout, "");
    assert!(project.read("page.md").starts_with("## ✅ PASS: tiny"), "{}", project.read("page.md"));
}

#[test]
fn a_case_that_fails_now_is_newly_broken_and_exits_with_100() {
    let project = project();
    let runs = names(&project);
    let record = |run: &str| format!(".finetest/runs/finetest/{run}/run.json");
    let mut broken = json(&project.read(&record(&runs[0])));
    let case = &mut broken["scenarios"][1]["cases"][0];
    assert_eq!(case["name"], "any");
    let answer = &mut case["answers"]["tuned"];
    answer["verdict"] = "failed".into();
    answer["samples"][0]["verdict"] = "failed".into();
    answer["samples"][0]["failures"] = serde_json::json!(["max-length 1000: got 2000 characters"]);
    answer["samples"][0]["turns"][0]["text"] = "\u{1b}[2Jlong".into();
    project.write("head.json", &broken.to_string());
    let ran = project.run(&["compare", "latest", "head.json"]).expect(100);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(lines[0].starts_with("FAIL  tiny: 1 newly broken, 0 fixed"), "{}", ran.stdout);
    assert!(lines.last().is_some_and(|line| line.ends_with("exit code 100")), "{}", ran.stdout);
    for part in ["control::prefers::any  scenarios/prefers.toml:6", "good day", "max-length 1000: got 2000 characters"]
    {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
    assert!(!ran.stdout.contains('\u{1b}'));
    project.run(&["compare", "latest", "head.json", "--fail-on", "never"]).expect(0);
    project.run(&["compare", "head.json", "latest"]).expect(0);
    // A case that passed has no answer now.
    let mut open = json(&project.read(&record(&runs[0])));
    open["scenarios"][1]["cases"][0]["answers"]["tuned"] =
        serde_json::json!({"verdict": "not-evaluated", "samples": []});
    project.write("open.json", &open.to_string());
    let ran = project.run(&["compare", "latest", "open.json"]).expect(1);
    assert!(ran.stdout.starts_with("INCOMPLETE") && ran.stdout.contains("1 not evaluated"), "{}", ran.stdout);
}

#[test]
fn records_of_version_1_and_the_same_file_are_compared() {
    let project = Project::new();
    let old = fixture("run_version1.json");
    let old = old.to_str().expect("a path");
    // No manifest is needed for two files.
    std::fs::remove_file(project.path("finetest.toml")).expect("removed");
    let ran = project.run(&["compare", old, old, "--fail-on", "changed"]).expect(0);
    assert!(
        ran.stdout.contains("Both runs are the same record.") && ran.stdout.contains("1 not evaluated"),
        "{}",
        ran.stdout
    );
    let compared = json(&project.run(&["compare", old, old, "--json"]).expect(0).stdout);
    let all = &compared["totals"]["all"];
    assert_eq!((&all["same"], &all["not_evaluated"], &all["compared"]), (&3.into(), &1.into(), &3.into()));
    assert_eq!((&compared["drift"], &compared["notes"]), (&"comparable".into(), &serde_json::json!([])));
}

#[test]
fn what_cannot_be_compared_is_refused_with_both_files() {
    let project = project();
    let record = project.read(".finetest/runs/finetest/latest/run.json");
    project.write("a.json", &record);
    let refused = |name: &str, change: fn(&mut Value), words: &[&str]| {
        let mut other = json(&record);
        change(&mut other);
        project.write(name, &other.to_string());
        project.run(&["compare", "a.json", name]).fails(1, &[&["a.json", name], words].concat());
    };
    refused(
        "base.json",
        |run| (run["model"]["fingerprint"], run["model"]["weights"]) = ("0123".into(), "4567".into()),
        &["the base models differ in weights", "hash 4567", "same base"],
    );
    refused(
        "checks.json",
        |run| {
            for scenario in run["scenarios"].as_array_mut().expect("scenarios") {
                for case in scenario["cases"].as_array_mut().expect("cases") {
                    case["checks"] = serde_json::json!(["json"]);
                }
            }
        },
        &["none of the 3 tests", "checks differ", "make the older run again"],
    );
    refused(
        "names.json",
        |run| {
            for scenario in run["scenarios"].as_array_mut().expect("scenarios") {
                scenario["name"] = format!("other-{}", scenario["name"].as_str().expect("a name")).into();
            }
        },
        &["no test is in both runs", "target::says::case_1", "target::other-says::case_1"],
    );
    project.write("cut.json", &record[..record.len() / 2]);
    project.run(&["compare", "a.json", "cut.json"]).fails(1, &["cut.json", "make the run again"]);
    project.run(&["compare", "cut.json", "a.json"]).fails(1, &["cut.json"]);
    project.write("empty.json", "");
    project.run(&["compare", "a.json", "empty.json"]).fails(1, &["empty.json", "is empty"]);
    project
        .run(&["compare", "a.json", "nowhere.json"])
        .fails(1, &["nowhere.json", "there is no such run", "finetest runs"]);
    project.run(&["compare", "a.json", "scenarios"]).fails(1, &["scenarios/run.json", "there is no such run"]);
    project.run(&["compare", "a.json", "20200101T000000Z-01234567"]).fails(2, &["finetest.toml has no run 20200101T"]);
    project.run(&["compare", "a.json", "latest", "--arm", "half"]).fails(2, &["no arm `half`", "base, tuned", "--arm"]);
    project.run(&["compare", "a.json", "latest", "-o", "a.json"]).fails(2, &["a.json", "the earlier run"]);
    assert_eq!(project.read("a.json"), record, "a record is never written over");
}

#[test]
fn before_there_are_two_runs_it_says_what_to_do() {
    let project = Project::new();
    project.append("finetest.toml", "\n[gate]\nmin_retention = 0.5\n");
    let ran = project.run(&["runs"]).expect(0);
    assert_eq!(ran.stdout, "finetest.toml has no run yet; `finetest run` makes one\n");
    assert_eq!(project.run(&["runs", "--json"]).expect(0).stdout, "[]\n");
    project.run(&["compare"]).fails(2, &["finetest.toml has no run before its last one", "finetest run"]);
    project.run(&["run", "--quiet"]).expect(0);
    project.run(&["compare"]).fails(2, &["no run before its last one"]);
    // A run of a part is none to compare the whole with.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    project.run(&["run", "--quiet", "prefers"]).expect(0);
    project.run(&["compare"]).fails(2, &["no run before its last one"]);
    let part = names(&project).remove(0);
    let ran = project.run(&["compare", &part]).expect(0);
    assert!(ran.stdout.contains("only in the second run; the first ran a part (1)"), "{}", ran.stdout);
}

#[test]
fn runs_are_listed_newest_first_and_a_torn_record_is_a_line() {
    let project = project();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    project.run(&["run", "--quiet", "prefers"]).expect(0);
    let runs = names(&project);
    let mut sorted = runs.clone();
    sorted.sort_by(|one, other| other.cmp(one));
    assert_eq!((runs.len(), &runs), (3, &sorted));
    let listed = json(&project.run(&["runs", "--json"]).expect(0).stdout);
    assert_eq!(
        (&listed[0]["latest"], &listed[1]["latest"], &listed[2]["latest"]),
        (&false.into(), &true.into(), &false.into())
    );
    assert_eq!((&listed[0]["selected"]["cases"], &listed[0]["selected"]["of"]), (&2.into(), &3.into()));
    assert_eq!(
        (&listed[1]["verdict"], &listed[1]["targets"], &listed[1]["broken"]),
        (&"PASS".into(), &1.into(), &0.into())
    );
    assert!(listed[1]["drift"].as_f64().is_some_and(|drift| drift > 0.0), "{listed}");
    assert!(listed[1]["path"].as_str().is_some_and(|path| project.path(path).is_file()), "{listed}");
    // One is torn.
    let torn = format!(".finetest/runs/finetest/{}/run.json", runs[2]);
    let whole = project.read(&torn);
    project.write(&torn, &whole[..whole.len() / 2]);
    let ran = project.run(&["runs"]).expect(0);
    assert!(ran.stdout.starts_with("runs in .finetest/runs/finetest, the newest first\n"), "{}", ran.stdout);
    let lines: Vec<&str> = ran.stdout.lines().skip(1).collect();
    assert!(lines[0].contains("verdict") && lines[0].contains("retention"), "{}", ran.stdout);
    assert!(lines[1].ends_with(&runs[0]) && lines[2].contains("a part: 2 of 3 cases"), "{}", ran.stdout);
    assert!(lines[3].starts_with("→ ") && lines[3].contains("PASS") && lines[3].ends_with(&runs[1]), "{}", ran.stdout);
    let told = ran.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(told.contains(&format!("{} run.json:", runs[2])) && told.contains("make the run again"), "{told}");
    // It is known by its hash too, and a comparison with it says what is wrong.
    let (_, hash) = runs[2].split_once('-').expect("a hash");
    project.run(&["compare", hash]).fails(1, &[&runs[2], "make the run again"]);
    let few = project.run(&["runs", "--limit", "1"]).expect(0);
    assert!(few.stdout.contains("… and 2 more; `finetest runs --limit 3` lists them"), "{}", few.stdout);
    project.run(&["runs", "--limit", "many"]).expect(2);
}
