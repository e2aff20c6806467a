//! `finetest init`: after it, a run gives a verdict with nothing edited, whatever folder it began in; and it loses nobody's file.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Project, Ran, fixture};

const INIT: [&str; 4] = ["init", "--yes", "--model", "model"];
/// With a name, since that of a temporary folder differs each time.
const NAMED: [&str; 6] = ["init", "--yes", "--model", "model", "--name", "tiny"];
/// More steps of writing than init makes.
const ENDLESS: usize = 200;

/// Every file of a project but the model's and what a run makes.
fn files(project: &Project) -> BTreeMap<String, String> {
    fn below(folder: &Path, root: &Path, found: &mut BTreeMap<String, String>) {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            let name = path.strip_prefix(root).expect("inside").display().to_string();
            if ["model", "cache", ".finetest", "adapters"].contains(&name.as_str()) {
                continue;
            }
            match entry.file_type().expect("a kind") {
                kind if kind.is_dir() => {
                    found.insert(format!("{name}/"), String::new());
                    below(&path, root, found);
                }
                kind if kind.is_file() => {
                    found.insert(name, String::from_utf8_lossy(&std::fs::read(&path).expect("a file")).into_owned());
                }
                _ => {
                    found.insert(name, "a link".into());
                }
            }
        }
    }
    let mut found = BTreeMap::new();
    below(&project.path(""), &project.path(""), &mut found);
    found
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}

/// Runs init and then the project, with nothing edited. The tiny model answers rubbish, so a gate that fails is a verdict too.
#[track_caller]
fn starts(project: &Project, arguments: &[&str]) -> (Ran, String) {
    let before = files(project);
    let init = project.run(&[&INIT[..], arguments].concat()).expect(0);
    let after = files(project);
    for (name, text) in before.iter().filter(|(name, _)| name.as_str() != ".gitignore") {
        assert_eq!(after.get(name), Some(text), "{name} was changed");
    }
    let run = project.run(&["run"]);
    assert!([0, 100].contains(&run.code), "{}\n{run:?}", project.read("finetest.toml"));
    let record = project.read(".finetest/runs/finetest/latest/run.json");
    let record: serde_json::Value = serde_json::from_str(&record).expect("a record");
    assert_eq!(record["scenarios"].as_array().map(Vec::len), Some(3), "{record}");
    assert!(record["decision"]["rules"].as_array().is_some_and(|rules| !rules.is_empty()), "{record}");
    project.run(&["list"]).expect(0);
    fits_the_schema(project);
    (init, project.read("finetest.toml"))
}

/// What init wrote is what the published schemas allow.
#[track_caller]
fn fits_the_schema(project: &Project) {
    for (schema, name) in [
        ("manifest", "finetest"),
        ("scenario", "scenarios/task"),
        ("scenario", "scenarios/facts"),
        ("scenario", "scenarios/instructions"),
    ] {
        let schema: serde_json::Value =
            serde_json::from_str(&project.run(&["schema", schema]).expect(0).stdout).expect("JSON");
        let validator = jsonschema::validator_for(&schema).expect("a schema");
        let written: toml::Table = toml::from_str(&project.read(&format!("{name}.toml"))).expect("TOML");
        let value = serde_json::to_value(written).expect("JSON");
        let errors: Vec<String> =
            validator.iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert_eq!(errors, Vec::<String>::new(), "{name}.toml");
    }
}

#[test]
fn an_empty_folder_gets_a_task_that_trains() {
    let project = Project::bare();
    let (init, manifest) = starts(&project, &["--name", "reviews"]);
    assert!(manifest.contains("train = \"data/train.jsonl\"") && manifest.contains("[train]"), "{manifest}");
    assert!(project.path("adapters/reviews/adapter_model.safetensors").is_file());
    assert_eq!(project.read("data/train.jsonl").lines().count(), 40);
    assert_eq!(project.read(".gitignore"), ".finetest/\n");
    for file in ["finetest.toml", "scenarios/task.toml", "scenarios/facts.toml", "data/train.jsonl"] {
        assert!(init.stdout.contains(file), "{}", init.stdout);
    }
    // No line that is learnt is asked.
    let asked = project.read("scenarios/task.toml");
    let learnt = project.read("data/train.jsonl");
    let texts = learnt.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    for text in texts.map(|line| line["messages"][0]["content"].as_str().expect("text").to_owned()) {
        assert!(!asked.contains(&text), "{text}");
    }
}

#[test]
fn a_rust_crate_gets_a_test_and_is_told_what_cargo_needs() {
    let project = Project::bare();
    project.write("Cargo.toml", "[package]\nname = \"theirs\"\nversion = \"0.1.0\"\nedition = \"2024\"\n");
    project.write("src/lib.rs", "");
    project.write(".gitignore", "/target");
    let (init, _) = starts(&project, &["--ci", "github"]);
    assert!(project.read("tests/scenarios.rs").contains("finetest::scenarios!();"));
    assert!(init.stdout.contains("[[test]]") && init.stdout.contains("harness = false"), "{}", init.stdout);
    assert_eq!(project.read(".gitignore"), "/target\n.finetest/\n");
    assert!(project.read(".github/workflows/finetest.yml").contains("FINETEST_TRAIN: auto"));
}

#[test]
fn a_python_repository_gets_the_command_line_alone() {
    let project = Project::bare();
    project.write("pyproject.toml", "[project]\nname = \"theirs\"\n");
    project.write("theirs/__init__.py", "");
    project.write(".gitignore", "dist/\n.finetest\n");
    starts(&project, &["--ci", "gitlab"]);
    assert!(!project.path("tests").exists());
    assert_eq!(project.read(".gitignore"), "dist/\n.finetest\n");
    assert!(project.path(".gitlab-ci.yml").is_file());
}

const ALPACA: &str = "{\"instruction\": \"Say the color of grass.\", \"input\": \"\", \"output\": \"green\"}\n\
                      {\"instruction\": \"Say the color of snow.\", \"input\": \"\", \"output\": \"white\"}\n";

#[test]
fn what_axolotl_wrote_is_tested_and_not_trained() {
    let project = Project::bare();
    let yaml = "base_model: NousResearch/Llama-3.2-1B\ndatasets:\n  - path: colors.jsonl\n    type: alpaca\noutput_dir: ./outputs/lora-out\n";
    project.write("config.yml", yaml);
    project.write("colors.jsonl", ALPACA);
    copy(&fixture("llama/adapter"), &project.path("outputs/lora-out"));
    copy(&fixture("llama/adapter"), &project.path("outputs/lora-out/checkpoint-10"));
    let (_, manifest) = starts(&project, &[]);
    assert!(manifest.contains("path = \"outputs/lora-out\"") && !manifest.contains("[train]"), "{manifest}");
    let task = project.read("scenarios/task.toml");
    assert!(
        task.contains("lines of colors.jsonl: the adapter may have been trained on them")
            && task.contains("exact = \"green\""),
        "{task}"
    );
    assert!(!project.path("adapters").exists());
    // Without --model the base is the configuration's: an adapter may name a path of another machine.
    let dry = project.run(&["init", "--yes", "--dry-run"]).expect(0);
    assert!(dry.stdout.contains("source = \"hf:NousResearch/Llama-3.2-1B\""), "{}", dry.stdout);
}

#[test]
fn an_adapter_alone_is_tested_with_its_template() {
    let project = Project::bare();
    copy(&fixture("llama/adapter"), &project.path("theirs"));
    project.run(&["init", "--yes"]).fails(1, &["theirs", "names \"llama\" as its base", "--model SOURCE"]);
    project.write(
        "theirs/chat_template.jinja",
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:",
    );
    let (_, manifest) = starts(&project, &[]);
    assert!(manifest.contains("chat_template = \"theirs/chat_template.jinja\""), "{manifest}");
    assert!(project.read("scenarios/task.toml").contains("TODO"));
}

#[test]
fn llama_factorys_data_are_trained_on_and_their_held_back_lines_asked() {
    let project = Project::bare();
    let info = r#"{"own": {"file_name": "own.json", "columns": {"prompt": "question", "query": "more", "response": "answer"}}, "identity": {"hf_hub_url": "x/y"}}"#;
    project.write("data/dataset_info.json", info);
    let record = |i: usize| serde_json::json!({ "question": format!("number {i} is"), "answer": (i * i).to_string() });
    let records: Vec<serde_json::Value> = (0..24).map(record).collect();
    project.write("data/own.json", &serde_json::Value::from(records).to_string());
    let (init, manifest) = starts(&project, &[]);
    assert!(init.stderr.contains("24 examples, converted to JSON Lines in data/train.jsonl"), "{}", init.stderr);
    assert_eq!(project.read("data/train.jsonl").lines().count(), 24);
    assert!(manifest.contains("val_set_size = 0.25"), "{manifest}");
    let task = project.read("scenarios/task.toml");
    assert_eq!(task.matches("[[cases]]").count(), 6, "{task}");
    assert!(task.contains("holds back from training"), "{task}");
}

#[test]
fn own_data_stay_as_they_are_and_bad_lines_are_skipped_aloud() {
    let project = Project::bare();
    let line = |i: usize| format!("{{\"prompt\": \"number {i} is\", \"completion\": \" {}\"}}\n", i * i);
    let data = (0..12).map(line).collect::<String>() + "{\"prompt\": \"cut\n";
    project.write("data/train.jsonl", &data);
    project.write("data/valid.jsonl", &line(20));
    let (_, manifest) = starts(&project, &["--plain"]);
    assert!(
        manifest.contains("# finetest cannot use 1 line") && manifest.contains("on_error = \"skip\""),
        "{manifest}"
    );
    assert!(manifest.contains("validation = \"data/valid.jsonl\"") && !manifest.contains("val_set_size"), "{manifest}");
    assert!(project.read("scenarios/task.toml").contains("text = \"number 20 is\""));
}

#[test]
fn files_that_are_there_are_all_named_and_nothing_is_written() {
    let project = Project::bare();
    project.write("finetest.toml", "mine");
    project.write("scenarios/facts.toml", "mine");
    project.write("data", "a file");
    let before = files(&project);
    let words = [
        "finetest.toml: already exists",
        "scenarios/facts.toml: already exists",
        "data: is a file",
        "nothing was written",
    ];
    project.run(&INIT).fails(1, &words);
    assert_eq!(files(&project), before);
}

#[test]
fn links_are_not_written_through() {
    let project = Project::bare();
    let elsewhere = tempfile::tempdir().expect("a folder");
    symlink(elsewhere.path(), project.path("scenarios")).expect("a link");
    symlink("nowhere", project.path("finetest.toml")).expect("a link");
    let shared = elsewhere.path().join("ignore");
    std::fs::write(&shared, "mine\n").expect("a file");
    symlink(&shared, project.path(".gitignore")).expect("a link");
    let before = files(&project);
    project.run(&INIT).fails(1, &["scenarios: is a link", "finetest.toml: already exists, as a link"]);
    assert_eq!(files(&project), before);
    for link in ["scenarios", "finetest.toml"] {
        std::fs::remove_file(project.path(link)).expect("removed");
    }
    let init = project.run(&INIT).expect(0);
    assert!(init.stdout.contains("add .finetest/ to it"), "{}", init.stdout);
    assert_eq!(std::fs::read_to_string(&shared).expect("a file"), "mine\n");
    assert_eq!(std::fs::read_dir(elsewhere.path()).expect("a folder").count(), 1);
}

#[test]
fn a_folder_that_cannot_be_written_is_told_in_one_line() {
    let project = Project::bare();
    let folder = project.path("");
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o555)).expect("a mode");
    let is_root = std::fs::File::create(folder.join("probe")).is_ok();
    let ran = if is_root {
        // Root may write anywhere, so another user tries.
        std::fs::remove_file(folder.join("probe")).expect("removed");
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", env!("CARGO_BIN_EXE_finetest")]);
        command.args(INIT).current_dir(&folder).env("FINETEST_CACHE", folder.join("cache"));
        command.output().map(Ran::of)
    } else {
        Ok(project.run(&INIT))
    };
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).expect("a mode");
    // Without setpriv, or where another user cannot reach the program, there is nothing to try with.
    if let Some(ran) = ran.ok().filter(|ran| ran.code != 126 && ran.code != 127) {
        let ran = ran.fails(1, &["cannot write", "denied"]);
        assert_eq!(ran.stderr.lines().filter(|line| line.starts_with("error")).count(), 1, "{}", ran.stderr);
        assert_eq!(files(&project), BTreeMap::new());
    }
}

/// A killed init leaves no manifest, or everything; the next one takes away what it put there without a manifest.
#[test]
fn a_kill_at_any_step_leaves_the_old_state_or_the_new() {
    let prepare = || {
        let project = Project::bare();
        project.write(".gitignore", "mine\n");
        project
    };
    let whole = prepare();
    whole.run(&NAMED).expect(0);
    let expected = files(&whole);
    for step in 1..ENDLESS {
        let project = prepare();
        let fault = format!("kill {step}");
        let output = project.command(&NAMED).env("FINETEST_TEST_FAULT", &fault).output().expect("the binary runs");
        if output.status.signal().is_none() {
            assert!(output.status.success() && step > 20, "{fault}: {output:?}");
            return;
        }
        let left: BTreeMap<String, String> =
            files(&project).into_iter().filter(|(name, _)| !name.starts_with(".writing-")).collect();
        if left.contains_key("finetest.toml") {
            assert_eq!(left, expected, "{fault}");
            // It already exists; what the killed one left aside is swept.
            project.run(&NAMED).fails(1, &["already exists"]);
        } else {
            project.run(&NAMED).expect(0);
        }
        assert_eq!(files(&project), expected, "after {fault}");
    }
    panic!("more than {ENDLESS} steps of writing");
}

#[test]
fn a_full_disk_at_any_step_leaves_nothing() {
    for step in 1..ENDLESS {
        let project = Project::bare();
        project.write(".gitignore", "mine\n");
        let before = files(&project);
        let fault = format!("full {step}");
        let output = project.command(&NAMED).env("FINETEST_TEST_FAULT", &fault).output().expect("the binary runs");
        let ran = Ran::of(output);
        if ran.code == 0 {
            assert!(step > 20, "only {step} steps of writing were met");
            return;
        }
        ran.fails(1, &["cannot write", "no storage space"]);
        assert_eq!(files(&project), before, "{fault}");
    }
    panic!("more than {ENDLESS} steps of writing");
}

#[test]
fn nothing_is_asked_without_a_terminal_and_a_dry_run_writes_nothing() {
    let project = Project::bare();
    let dry = project.run(&["init", "--model", "model", "--dry-run", "--ci", "github"]).expect(0);
    for file in ["--- finetest.toml", "--- scenarios/task.toml", "--- .github/workflows/finetest.yml", "min_retention"]
    {
        assert!(dry.stdout.contains(file), "{file}: {}", dry.stdout);
    }
    assert_eq!(files(&project), BTreeMap::new());
    let mut asked = project.command(&["init", "--model", "model"]);
    let output = asked.stdin(std::process::Stdio::null()).output().expect("it ends by itself");
    let ran = Ran::of(output).expect(0);
    assert!(!ran.stderr.contains("[none]:"), "{}", ran.stderr);
}

#[test]
fn what_cannot_be_told_is_asked_for_by_its_flag() {
    let project = Project::bare();
    project.run(&["init", "--yes", "--no-train"]).fails(2, &["--no-train needs an adapter"]);
    project.run(&["init", "--yes", "--model", "gone.gguf"]).fails(1, &["gone.gguf", "--model is a path"]);
    project.run(&["init", "--yes", "--data", "gone.jsonl"]).fails(1, &["gone.jsonl"]);
    project.run(&["init", "--yes", "--name", "a/b"]).fails(2, &["--name is"]);
    for folder in ["a", "b"] {
        copy(&fixture("llama/adapter"), &project.path(folder));
    }
    project.run(&INIT).fails(2, &["several adapters here: a, b", "--adapter PATH"]);
    let init = project.run(&[&INIT[..], &["--adapter", "b"]].concat()).expect(0);
    assert!(init.stderr.contains("adapter b: trained on llama, rank 4"), "{}", init.stderr);
}

/// Unsloth names copies in 4 bits, which only bitsandbytes reads.
#[test]
fn the_base_of_a_quantised_copy_is_what_it_was_made_from() {
    let project = Project::bare();
    copy(&fixture("llama/adapter"), &project.path("out"));
    let config = project.read("out/adapter_config.json").replace(
        "\"base_model_name_or_path\": \"llama\"",
        "\"base_model_name_or_path\": \"unsloth/Qwen2.5-7B-Instruct-bnb-4bit\"",
    );
    project.write("out/adapter_config.json", &config);
    let dry = project.run(&["init", "--yes", "--dry-run"]).expect(0);
    assert!(dry.stdout.contains("source = \"hf:unsloth/Qwen2.5-7B-Instruct\"\n"), "{}", dry.stdout);
    assert!(dry.stderr.contains("only bitsandbytes reads"), "{}", dry.stderr);
    let kept: PathBuf = project.path("finetest.toml");
    assert!(!kept.exists());
}
