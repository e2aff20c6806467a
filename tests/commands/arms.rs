//! Several arms, several turns and several samples, from the manifest to the reports.

use serde_json::Value;

use crate::support::{Project, Ran};

/// A project whose trained adapter is asked at three scales, and as somebody else's.
fn project() -> Project {
    let project = Project::new();
    project.run(&["train", "--quiet"]).expect(0);
    let copied = project.path("theirs");
    std::fs::create_dir_all(&copied).expect("a directory");
    for file in ["adapter_model.safetensors", "adapter_config.json"] {
        std::fs::copy(project.path("adapters/tiny").join(file), copied.join(file)).expect("a copy");
    }
    project.append(
        "finetest.toml",
        "\n[arms.half]\nscale = 0.5\n[arms.theirs]\nadapter = \"theirs\"\nscale = 2\n\
         [gate]\nmin_retention = 0.0\nmax_drift = 100.0\narms = [\"tuned\", \"half\"]\n",
    );
    project
}

fn record(ran: &Ran) -> Value {
    let all: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    all["run"].clone()
}

#[test]
fn every_arm_is_asked_compared_gated_and_reported() {
    let project = project();
    let ran = project.run(&["run", "--json"]).expect(0);
    let run = record(&ran);
    let names: Vec<&str> =
        run["arms"].as_array().expect("arms").iter().filter_map(|arm| arm["name"].as_str()).collect();
    assert_eq!(names, ["base", "tuned", "half", "theirs"]);
    let answers = &run["scenarios"][0]["cases"][0]["answers"];
    assert_eq!(answers.as_object().expect("answers").len(), 4);
    let drift = |arm: &str| run["drift"][arm]["kl"]["mean"].as_f64().expect("a number");
    let (half, tuned, twice) = (drift("half"), drift("tuned"), drift("theirs"));
    assert!(0.0 < half && half < tuned && tuned < twice, "a larger scale drifts further: {half} {tuned} {twice}");
    let positions = run["drift"]["half"]["texts"][0]["values"].as_array().expect("positions");
    assert!(!positions.is_empty() && run["proof"]["theirs"]["adapter_effect"].as_f64().expect("a number") > 0.0);
    let rules = run["decision"]["rules"].as_array().expect("rules");
    let gated: Vec<&str> = rules.iter().filter_map(|rule| rule["arm"].as_str()).collect();
    assert_eq!(gated, ["tuned", "tuned", "half", "half"]);
    assert!(run["made"]["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{}", run["made"]);
    assert_eq!(run["made"]["manifest"], "finetest.toml");
    assert_eq!(run["scenarios"][0]["cases"][0]["line"], 6);

    let again = project.run(&["run"]).expect(0);
    for said in ["arms against base (3)", "half::min_retention", "theirs at scale 2", "0 computed"] {
        assert!(again.stdout.contains(said), "{said}: {}", again.stdout);
    }
    let junit = project.read(".finetest/runs/finetest/latest/junit.xml");
    assert!(junit.contains("name=\"half::control::prefers::any\"") && junit.contains("line=\"6\""), "{junit}");
    // Without the manifest, a record is reported as it was decided.
    std::fs::rename(project.path(".finetest/runs"), project.path("runs")).expect("moved");
    std::fs::remove_file(project.path("finetest.toml")).expect("removed");
    let run = std::fs::read_link(project.path("runs/finetest/latest")).expect("a link");
    let run = format!("runs/finetest/{}/run.json", run.display());
    let told = project.run(&["report", &run]).expect(0);
    assert!(told.stdout.contains("PASS  all 4 rules passed"), "{}", told.stdout);
    project.run(&["gate", &run]).fails(2, &["no finetest.toml"]);
}

#[test]
fn arms_that_cannot_be_asked_are_refused_before_the_model_is_loaded() {
    for (arm, words) in [
        ("[arms.base]\nscale = 2", "[arms.base] is the name of the untouched model"),
        ("[arms.x]", "[arms.x] is empty"),
        ("[arms.x]\nadapter = \"nowhere\"", "[arms.x]: nowhere: there is no such adapter"),
        ("[arms.x]\nscale = 2\n[arms.x]\nscale = 3", "duplicate key"),
        ("[gate]\narms = [\"x\"]", "there is no such arm"),
    ] {
        let project = Project::new();
        project.append("finetest.toml", &format!("\n{arm}\n"));
        std::fs::remove_file(project.path("model/model.safetensors")).expect("removed");
        project.run(&["run"]).fails(1, &["finetest.toml", words]);
    }
    let project = project();
    project.append("finetest.toml", "[arms.same]\nadapter = \"theirs\"\nscale = 1\n");
    project.run(&["run"]).fails(1, &["[arms.same] is the same adapter at the same scale as tuned"]);
}

#[test]
fn a_checkpoint_is_an_arm_while_it_is_kept() {
    let project = Project::new();
    let manifest =
        project.read("finetest.toml").replace("max_steps = 4", "max_steps = 4\nsave_steps = 2\nsave_total_limit = 5");
    project.write("finetest.toml", &format!("{manifest}\n[arms.early]\ncheckpoint = 2\n[gate]\nmin_retention = 0.0\n"));
    let run = record(&project.run(&["run", "--json"]).expect(0));
    let early = run["drift"]["early"]["kl"]["mean"].as_f64().expect("a number");
    assert!(early > 0.0 && early != run["drift"]["tuned"]["kl"]["mean"].as_f64().expect("a number"));
    project.write("finetest.toml", &project.read("finetest.toml").replace("checkpoint = 2", "checkpoint = 3"));
    project.run(&["run"]).fails(1, &["[arms.early] checkpoint 3 is not kept (there are 2, 4)", "save_steps"]);
}

#[test]
fn turns_and_samples_are_asked_judged_and_approved() {
    let project = Project::new();
    project.append("finetest.toml", "\n[gate]\nmin_retention = 0.0\n");
    project.write(
        "scenarios/drawn.toml",
        "role = \"control\"\ndescription = \"drawn\"\nmax_tokens = 4\ntemperature = 1.0\nrepeat = 3\naggregate = \"any\"\n\
         checks = [{ max-length = 1000 }]\n[[cases]]\nprompt = \"hello\"\nthen = [{ prompt = \"and then?\" }]\n",
    );
    let run = record(&project.run(&["run", "--json"]).expect(0));
    let drawn = run["scenarios"].as_array().expect("scenarios").iter().find(|s| s["name"] == "drawn").expect("it ran");
    let answer = &drawn["cases"][0]["answers"]["tuned"];
    let samples = answer["samples"].as_array().expect("samples");
    assert_eq!((samples.len(), samples[0]["turns"].as_array().expect("turns").len()), (3, 2));
    assert_ne!(samples[0]["turns"], samples[1]["turns"], "seeds differ");
    assert_eq!((&drawn["aggregate"], &answer["verdict"]), (&"any".into(), &"passed".into()));
    let again = record(&project.run(&["run", "--json"]).expect(0));
    assert_eq!((&again["cost"]["computed"], &again["scenarios"]), (&0.into(), &run["scenarios"]));
    let text = project.read("scenarios/drawn.toml");
    project.write("scenarios/drawn.toml", &text.replace("temperature = 1.0\n", ""));
    project.run(&["run"]).fails(1, &["drawn.toml:4", "without a temperature above 0"]);
}

#[test]
fn a_turn_that_may_not_fit_is_told_before_the_model_is_loaded() {
    let project = Project::new();
    project.append("finetest.toml", "\n[gate]\nmin_retention = 0.0\n");
    let then = |prompt: &str, max_tokens: usize| {
        let turns = format!("then = [{{ prompt = {prompt:?}, max_tokens = {max_tokens} }}]");
        let head = "role = \"control\"\ndescription = \"d\"\nmax_tokens = 100\nchecks = [{ max-length = 1000 }]\n";
        project.write("scenarios/turns.toml", &format!("{head}[[cases]]\nprompt = \"hello\"\n{turns}\n"));
    };
    then("and then?", 4);
    project.run(&["run", "--quiet"]).expect(0);
    project.write("model/model.safetensors", "no weights");
    // Each turn alone would fit.
    then("and then?", 160);
    project.run(&["run"]).fails(1, &["turns.toml", "case \"case_1\", turn 2", "context is 256"]);
}

#[test]
fn events_are_lines_of_json_and_the_decision_is_the_last() {
    let project = Project::new();
    project.append("finetest.toml", "\n[gate]\nmin_retention = 0.5\n");
    let ran = project.run(&["run", "--events"]).expect(0);
    let events: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of = |name: &str| events.iter().filter(|event| event["event"] == name).collect::<Vec<_>>();
    assert_eq!((of("case-finished").len(), of("step").len()), (6, 4));
    let finished = of("case-finished");
    let case = finished.iter().find(|event| event["test"] == "control::prefers::never" && event["arm"] == "tuned");
    let case = case.expect("a case");
    assert_eq!(
        (&case["verdict"], &case["file"], &case["line"]),
        (&"failed".into(), &"scenarios/prefers.toml".into(), &11.into())
    );
    assert!(case["why"].as_str().is_some_and(|why| why.starts_with("contains")), "{case}");
    let last = events.last().expect("an event");
    assert_eq!(
        (&last["event"], &last["exit_code"], &last["decision"]["passed"]),
        (&"run-finished".into(), &0.into(), &true.into())
    );
    let trained = project.run(&["train", "--events"]).expect(0);
    assert!(trained.stdout.lines().last().is_some_and(|line| line.contains("training-finished")), "{}", trained.stdout);
    project.run(&["run", "--events", "--json"]).fails(2, &["--events", "--json"]);
}

#[test]
fn a_latest_that_points_nowhere_and_a_folder_that_cannot_be_written_are_told_or_mended() {
    let project = Project::new();
    project.append("finetest.toml", "\n[gate]\nmin_retention = 0.5\n");
    project.run(&["run", "--quiet"]).expect(0);
    let latest = project.path(".finetest/runs/finetest/latest");
    std::fs::remove_file(&latest).expect("removed");
    #[cfg(unix)]
    std::os::unix::fs::symlink("20000101T000000Z-00000000", &latest).expect("a link");
    project.run(&["report", ".finetest/runs/finetest/latest/run.json"]).fails(1, &["latest/run.json", "cannot read"]);
    project.run(&["run", "--quiet"]).expect(0);
    assert!(latest.join("run.json").is_file(), "the next run leads there again");
    // A file where the folder of runs would be: the run is reported to fail, and its answers stay.
    std::fs::remove_dir_all(project.path(".finetest/runs")).expect("removed");
    project.write(".finetest/runs", "mine");
    let ran = project.run(&["run", "--quiet"]);
    ran.fails(1, &["runs", "cannot"]);
    assert_eq!(project.read(".finetest/runs"), "mine");
}
