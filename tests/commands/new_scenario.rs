//! `finetest new scenario`, and scenarios whose cases are the rows of a file.

use crate::support::Project;

/// The names of all tests.
fn listed(project: &Project) -> Vec<String> {
    let list = project.run(&["list"]).expect(0);
    list.stdout.lines().map(|line| line.split_whitespace().next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_template_can_be_run_as_it_is_and_is_never_written_over() {
    let project = Project::new();
    let made = project.run(&["new", "scenario", "capitals", "--role", "control"]).expect(0);
    assert_eq!(made.stdout, "scenarios/capitals.toml: 1 case\n");
    assert!(listed(&project).contains(&"control::capitals::first".to_owned()));
    let text = project.read("scenarios/capitals.toml");
    project
        .run(&["new", "scenario", "capitals"])
        .fails(1, &["scenarios/capitals.toml: already exists", "nothing was written"]);
    assert_eq!(project.read("scenarios/capitals.toml"), text);
    for name in ["../x", "A", "", "a b"] {
        project.run(&["new", "scenario", name]).fails(2, &["expected letters a to z"]);
    }
    assert!(!project.path("x.toml").exists());
}

#[test]
fn rows_are_written_out_as_cases() {
    let project = Project::new();
    project.write("q.csv", "\u{feff}question;answer\r\n\"2 + 2;\r\nso?\";4\r\n\"a \"\"b\"\"\";6\r\n3;9\r\n");
    let from = ["new", "scenario", "sums", "--from", "q.csv", "--prompt", "What is {{question}}?"];
    let checks =
        ["--check", "contains = \"{{answer}}\"", "--check", "no-repetition", "--limit", "2", "--description", "sums"];
    project.run(&[&from[..], &checks].concat()).expect(0);
    let text = project.read("scenarios/sums.toml");
    assert!(text.starts_with("# Made from q.csv.\nrole = \"target\"\ndescription = \"sums\"\n"), "{text}");
    assert!(text.contains("checks = [{ contains = \"4\" }, \"no-repetition\"]"), "{text}");
    let names = listed(&project);
    assert!(
        names.contains(&"target::sums::line_2".to_owned()) && names.contains(&"target::sums::line_4".to_owned()),
        "{names:?}"
    );
    assert!(!names.contains(&"target::sums::line_5".to_owned()));
    let other =
        |arguments: &[&str]| project.run(&[&["new", "scenario", "other", "--from", "q.csv"], arguments].concat());
    other(&[]).fails(2, &["--prompt", "{{question}}, {{answer}}"]);
    other(&["--prompt", "x"]).fails(2, &["needs a check"]);
    other(&["--prompt", "{{questoin}}", "--check", "json"]).fails(1, &["q.csv:2", "did you mean `question`?"]);
    other(&["--prompt", "x", "--check", "contains = "]).fails(2, &["is no check"]);
    other(&["--prompt", "x", "--check", "containz = \"a\""])
        .fails(1, &["did you mean `contains`?", "nothing was written"]);
    assert!(!project.path("scenarios/other.toml").exists());
}

#[test]
fn lines_of_training_data_become_cases_by_their_answers() {
    let project = Project::new();
    project.run(&["new", "scenario", "squares", "--from", "data/train.jsonl", "--limit", "3"]).expect(0);
    let text = project.read("scenarios/squares.toml");
    assert!(text.contains("text = \"number 2 is\"\nchecks = [{ exact = \"4\" }]"), "{text}");
    assert_eq!(listed(&project).iter().filter(|name| name.starts_with("target::squares::")).count(), 3);
}

const ROWS: &str = "role = \"target\"\ndescription = \"d\"\nmax_tokens = 4\ncases = \"rows.jsonl\"\n\n\
                    [case]\nname = \"{{id}}\"\nprompt = \"say {{word}}\"\nchecks = [{ contains = \"{{word}}\" }]\n";

#[test]
fn cases_out_of_a_file_are_listed_run_and_reported_like_any_other() {
    let project = Project::new();
    project.write("scenarios/rows.toml", ROWS);
    project.write("scenarios/rows.jsonl", "{\"id\": \"a\", \"word\": \"one\"}\n{\"id\": \"b\", \"word\": \"two\"}\n");
    let names = listed(&project);
    assert!(
        names.contains(&"target::rows::a".to_owned()) && names.contains(&"target::rows::b".to_owned()),
        "{names:?}"
    );
    let tests: serde_json::Value =
        serde_json::from_str(&project.run(&["list", "--json"]).expect(0).stdout).expect("JSON");
    let place =
        tests.as_array().expect("tests").iter().find(|test| test["test"] == "target::rows::a").expect("the test");
    assert_eq!((place["file"].as_str(), place["line"].as_u64()), (Some("scenarios/rows.toml"), Some(4)));
    project.append("finetest.toml", "\n[gate]\nmin_retention = 0.5\n");
    let run = project.run(&["run"]).expect(0);
    assert!(!run.stderr.contains("not read"), "the rows are no scenario that was passed over: {}", run.stderr);
    project.write("scenarios/rows.jsonl", "{\"id\": \"a\", \"word\": \"one\"}\n{\"id\": \"a\", \"words\": \"two\"}\n");
    project
        .run(&["run"])
        .fails(1, &["scenarios/rows.jsonl:2: has no column `word`; did you mean `words`?", "scenarios/rows.toml:9"]);
}
