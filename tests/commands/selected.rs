//! Runs of selected tests, lists, questions, checks, and projects without a manifest.

use serde_json::Value;

use super::support::{Project, Ran, copy_model};

fn project() -> Project {
    let project = Project::new();
    project.append("finetest.toml", "\n[gate]\nmin_retention = 0.0\n");
    let drawn = "role = \"control\"\ndescription = \"draws\"\ntemperature = 0.8\nmax_tokens = 3\ntags = [\"drawn\"]\n\
                 checks = [{ max-length = 1000 }]\n[[cases]]\nname = \"one\"\nprompt = \"hello\"\ntags = [\"first\"]\n\
                 [[cases]]\nname = \"two\"\nprompt = \"good day\"\n";
    project.write("scenarios/draws.toml", drawn);
    project
}

#[test]
fn tests_are_selected_by_name_expression_and_the_last_run() {
    let project = project();
    let list = |arguments: &[&str]| project.run(&[&["list"], arguments].concat()).expect(0).stdout;
    assert_eq!(list(&[]).lines().count(), 5);
    assert_eq!(list(&["control::draws"]), "control::draws::one #first #drawn\ncontrol::draws::two #drawn\n");
    assert_eq!(list(&["-E", "tag(drawn) & not tag(first)"]), "control::draws::two #drawn\n");
    project.run(&["list", "nothing"]).fails(4, &["no test is selected by test(nothing)", "shows all 5"]);
    project.run(&["list", "-E", "tag("]).fails(2, &["--expression", "character 1", "closing )"]);
    project.run(&["list", "--failing"]).fails(2, &["has no run yet"]);
    project.run(&["run", "--quiet"]).expect(0);
    let json = project.run(&["list", "--json", "-E", "verdict(passed)"]).expect(0).stdout;
    let tests: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert!(tests.as_array().is_some_and(|tests| tests.len() >= 3), "{tests}");
    assert_eq!(tests[0]["file"], "scenarios/says.toml");
    assert!(list(&["--failing"]).starts_with("control::prefers::never"));
}

#[test]
fn a_run_of_a_part_says_so_and_is_not_the_last_run() {
    let project = project();
    project.run(&["run", "--quiet"]).expect(0);
    let part = project.run(&["run", "control::draws", "--repeat", "3"]).expect(0);
    assert!(part.stdout.contains("Only 2 of 5 cases were run: test(control::draws)."), "{}", part.stdout);
    assert!(part.stdout.contains("6 computed") || part.stdout.contains("computed"), "{}", part.stdout);
    let last = project.run(&["report", "--json"]).expect(0).stdout;
    let last: serde_json::Value = serde_json::from_str(&last).expect("JSON");
    assert!(last["made"].get("selected").is_none() && last["scenarios"].as_array().is_some_and(|all| all.len() == 3));
    project.run(&["gate"]).expect(0);
    // Rules that the selected cases cannot measure are left out.
    project.append("finetest.toml", "min_target_gain = 0.0\n");
    let part = project.run(&["run", "control::draws"]).expect(0);
    assert!(!part.stdout.contains("min_target_gain"), "{}", part.stdout);
    project
        .run(&["run", "control::draws", "--check-snapshots"])
        .fails(2, &["--check-snapshots", "take out the selection"]);
    project.write("other.toml", "extends = \"finetest.toml\"\n");
    let other = project.run(&["run", "-c", "other.toml"]).expect(0);
    assert!(!other.stderr.contains("snapshots:"), "{}", other.stderr);
    project.run(&["run", "target::says", "--repeat", "2"]).fails(2, &["--repeat", "temperature"]);
}

#[test]
fn output_goes_into_a_file_in_every_form_and_never_over_the_project() {
    let project = project();
    for (format, begins) in [("json", "{"), ("junit", "<?xml"), ("markdown", "## "), ("terminal", "PASS")] {
        let ran = project.run(&["run", "--quiet", "--format", format, "-o", "out/report"]);
        assert!(ran.expect(0).stdout.is_empty());
        assert!(project.read("out/report").starts_with(begins), "{format}: {}", project.read("out/report"));
    }
    let manifest = project.read("finetest.toml");
    project.run(&["report", "-o", "finetest.toml"]).fails(2, &["finetest.toml", "never writes over"]);
    project.run(&["list", "--output", "scenarios"]).fails(2, &["scenarios", "a directory"]);
    assert_eq!(project.read("finetest.toml"), manifest);
    project.run(&["run", "--json", "--format", "junit"]).fails(2, &["cannot be used with"]);
    project.run(&["--format", "junit", "list"]).fails(2, &["belongs behind it"]);
}

#[test]
fn one_question_is_answered_by_base_and_tuned() {
    let project = project();
    let ran = project.run(&["ask", "hello there", "--max-tokens", "4"]).expect(0);
    assert!(ran.stdout.starts_with("base  ") && ran.stdout.contains("\ntuned  "), "{}", ran.stdout);
    let json = project.run(&["ask", "hello there", "--max-tokens", "4", "--json", "--quiet"]).expect(0).stdout;
    let answers: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(answers["answers"][1]["arm"], "tuned");
    assert_eq!(answers["prompt"], "hello there");
    project.run(&["ask", " "]).fails(2, &["the question is empty"]);
    project.run(&["ask"]).fails(2, &["PROMPT"]);
    project.run(&["ask", "x", "--max-tokens", "100000"]).fails(1, &["context"]);
    project.run(&["ask", "x", "--temperature", "nan"]).fails(2, &["--temperature"]);
    // No run is written.
    project.run(&["gate"]).fails(2, &["has no run yet"]);
}

#[test]
fn a_project_is_checked_without_its_weights() {
    let project = project();
    project.write("model/model.safetensors", "no weights");
    let ran = project.run(&["check"]).expect(0);
    for expected in
        ["✓ scenarios", "1 target cases, 4 control cases", "✓ training", "4 steps", "~ estimate", "to train"]
    {
        assert!(ran.stdout.contains(expected), "{expected}: {}", ran.stdout);
    }
    project.append("data/train.jsonl", "{\"prompt\": 3}\n");
    project.write("scenarios/bad.toml", "role = \"control\"\n");
    let ran = project.run(&["check"]).expect(1);
    assert!(ran.stdout.contains("✗ scenarios") && ran.stdout.contains("train.jsonl:13"), "{}", ran.stdout);
    project.run(&["check", "--model", "hf:nobody/nothing"]).expect(1);
}

#[test]
fn an_adapter_is_tested_without_a_manifest() {
    let project = project();
    project.run(&["train", "--quiet"]).expect(0);
    std::fs::rename(project.path("adapters/tiny"), project.path("out")).expect("it moves");
    std::fs::remove_file(project.path("finetest.toml")).expect("it is removed");
    project.run(&["run"]).fails(2, &["no finetest.toml", "--config FILE", "finetest init"]);
    project.run(&["run", "--model", "model"]).fails(1, &["--adapter DIR"]);
    let ran = project.run(&["run", "--model", "model", "--adapter", "out"]).expect(100);
    for expected in ["NOT GATED", "[gate]", "min_retention = ", "max_drift = "] {
        assert!(ran.stdout.contains(expected), "{expected}: {}", ran.stdout);
    }
    project
        .run(&["run", "--model", "Qwen/Qwen2.5-0.5B", "--adapter", "out"])
        .fails(1, &["did you mean hf:Qwen/Qwen2.5-0.5B?"]);
    copy_model(&project.path("elsewhere"));
    project.run(&["ask", "--model", "elsewhere", "--adapter", "out", "hello", "--max-tokens", "2"]).expect(0);
}

#[test]
fn in_ci_nothing_is_trained_unless_it_is_asked_for() {
    let project = project();
    let run = |arguments: &[&str]| {
        super::support::Ran::of(project.command(arguments).env("CI", "true").output().expect("the binary runs"))
    };
    run(&["run"]).fails(1, &["has to be trained", "CI is set", "--train auto"]);
    run(&["run", "--train", "auto", "--quiet"]).expect(0);
    run(&["run", "--quiet"]).expect(0);
    run(&["run", "--train", "often"]).fails(2, &["auto, never, always"]);
}

/// Parts of a project on "machines" of their own, merged, are the whole run: the same record and decision.
#[test]
fn parts_are_merged_to_the_run_of_all() {
    let whole = Project::new();
    whole.run(&["train", "-q"]).expect(0);
    let parse = |ran: &Ran| -> Value { serde_json::from_str(&ran.stdout).expect("JSON") };
    let of_all = whole.run(&["run", "--format", "json"]);
    // Numbers to four digits: candle rounds otherwise in a batch of another size.
    fn rounded(value: &Value) -> Value {
        match value {
            Value::Number(n) if n.is_f64() => format!("{:.4}", n.as_f64().expect("a number")).into(),
            Value::Array(list) => list.iter().map(rounded).collect(),
            Value::Object(map) => {
                let left_out = ["made", "cost", "floor", "time"];
                let kept = map.iter().filter(|(key, _)| !left_out.contains(&key.as_str()));
                kept.map(|(key, value)| (key.clone(), rounded(value))).collect()
            }
            other => other.clone(),
        }
    }
    let found = |printed: &Value| [rounded(&printed["run"]), rounded(&printed["decision"])];
    let mut made = Vec::new();
    for part in ["1/3", "2/3", "3/3"] {
        let _ = std::fs::remove_dir_all(whole.path(".finetest/store"));
        let file = format!("part-{}.json", &part[..1]);
        let ran = whole.run(&["run", "--partition", part, "--format", "json", "-o", &file]);
        match ran.code {
            0 => made.push(file),
            4 => assert!(ran.stderr.contains("has no case; make fewer parts"), "{}", ran.stderr),
            code => panic!("{code}: {}", ran.stderr),
        }
    }
    assert!(made.len() > 1, "{made:?}");
    let with = |more: &[&str], files: &[String]| {
        let args: Vec<&str> =
            ["merge"].into_iter().chain(more.iter().copied()).chain(files.iter().map(String::as_str)).collect();
        whole.run(&args)
    };
    let merged = with(&["--format", "json"], &made);
    assert_eq!(merged.code, of_all.code, "{}", merged.stderr);
    assert!(found(&parse(&merged)) == found(&parse(&of_all)), "{}\n{}", merged.stdout, of_all.stdout);
    // It is the manifest's last run now; a part is not.
    let latest = whole.run(&["gate"]);
    assert_eq!(latest.code, of_all.code);
    let first = whole.run(&["run", "--partition", "1/1"]).expect(0);
    assert!(first.stdout.contains("part 1 of 1: ") && first.stdout.contains("Not gated"), "{}", first.stdout);

    with(&[], &made[1..]).fails(2, &["in no part", "make the parts that are missing"]);
    with(&[], &[made[0].clone(), made[0].clone()]).fails(2, &["each part is merged once"]);
    with(&[], &["nosuch.json".into()]).fails(1, &["nosuch.json"]);
    whole.run(&["merge"]).fails(2, &["required"]);
    whole.run(&["run", "--partition", "0/3"]).fails(2, &["--partition", "\"0/3\" is no part"]);
    whole.run(&["run", "--partition", "4/3"]).fails(2, &["\"4/3\" is no part"]);
    whole.run(&["run", "--partition", "1/2", "--failing"]).fails(2, &["take --failing and verdict(…) out"]);
    let kept = whole.read(&made[0]);
    whole.write("newer.json", &kept.replacen("\"version\": 2", "\"version\": 9", 1));
    with(&[], &["newer.json".into()]).fails(1, &["newer.json", "version 9"]);
    let path = "scenarios/says.toml";
    whole.write(path, &whole.read(path).replace("prompt = \"", "prompt = \"well, "));
    with(&[], &made).fails(2, &["is asked otherwise by now than in"]);
}
