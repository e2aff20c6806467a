//! A kill, a full disk or a mistake at the worst moment: what a person made is still there, and the same command goes on.
//!
//! A debug build counts its steps of writing and dies, or finds the disk full, at the one that `FINETEST_TEST_FAULT` names
//! (`src/files.rs`). So every point of writing is tried, and not those that a timer happens to meet.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{self, Project, Ran};

const GATE: &str = "\n[gate]\nmin_retention = 0.5\n";
/// More steps of writing than any command here makes.
const ENDLESS: usize = 400;
const ADAPTER: [&str; 5] =
    ["finetest.json", "adapter_model.safetensors", "adapter_config.json", "trainer_state.json", "loss.svg"];

/// One checkpoint, at the end: fewer steps of writing to try.
fn project() -> Project {
    let project = Project::new();
    let manifest = project.read("finetest.toml").replace("max_steps = 4", "max_steps = 2\nsave_steps = 2");
    project.write("finetest.toml", &(manifest + GATE));
    project
}

/// Runs a command that meets a fault; `None` when it ended before it could.
fn faulty(project: &Project, arguments: &[&str], fault: &str) -> Option<Ran> {
    let output = project.command(arguments).env("FINETEST_TEST_FAULT", fault).output().expect("the binary runs");
    let met = output.status.signal().is_some() || output.status.code() == Some(1);
    let ran = Ran::of(output);
    assert!(met || ran.code == 0, "{fault}: {ran:?}");
    met.then_some(ran)
}

/// The adapter's files, by name.
fn adapter(project: &Project) -> BTreeMap<String, Vec<u8>> {
    let read = |name: &&str| Some((name.to_string(), std::fs::read(project.path("adapters/tiny").join(name)).ok()?));
    ADAPTER.iter().filter_map(read).collect()
}

/// Everything below a directory that a killed writer left.
fn leftovers(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with(".writing-") {
            found.push(path);
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(leftovers(&path));
        }
    }
    found
}

/// An adapter is there whole with the stamp of these very bytes, or not at all.
fn is_whole_or_absent(project: &Project, fault: &str) {
    let files = adapter(project);
    if files.is_empty() {
        return;
    }
    assert_eq!(files.len(), ADAPTER.len(), "{fault}: {:?}", files.keys());
    let stamp: serde_json::Value = serde_json::from_slice(&files["finetest.json"]).expect("a stamp");
    for (key, file) in [("adapter", "adapter_model.safetensors"), ("config", "adapter_config.json")] {
        assert_eq!(stamp[key], blake3::hash(&files[file]).to_hex().to_string(), "{fault}: {file}");
    }
}

/// Tries every step of writing of `finetest run` in a project that `prepare` makes; `fault` is `kill` or `full`.
fn at_every_step(fault: &str, prepare: impl Fn() -> Project, check: impl Fn(&Project, &str, &Ran)) {
    let whole = prepare();
    whole.run(&["run"]).expect(0);
    let expected = adapter(&whole);
    assert_eq!(expected.len(), ADAPTER.len());
    for step in 1..ENDLESS {
        let project = prepare();
        let fault = format!("{fault} {step}");
        let Some(ran) = faulty(&project, &["run"], &fault) else {
            assert!(step > 20, "only {step} steps of writing were met");
            return;
        };
        is_whole_or_absent(&project, &fault);
        check(&project, &fault, &ran);
        let again = project.run(&["run"]);
        assert_eq!(again.code, 0, "after {fault}: {again:?}");
        assert_eq!(adapter(&project), expected, "after {fault}");
        assert_eq!(leftovers(&project.path(".")), Vec::<PathBuf>::new(), "after {fault}");
    }
    panic!("more than {ENDLESS} steps of writing");
}

#[test]
fn a_kill_at_any_step_leaves_a_project_that_goes_on_to_the_same_bytes() {
    at_every_step("kill", project, |_, fault, ran| assert_eq!(ran.stdout, "", "{fault}"));
}

#[test]
fn a_disk_that_is_full_at_any_step_is_told_and_the_next_run_goes_on() {
    at_every_step("full", project, |_, fault, ran| {
        assert!(ran.stderr.starts_with("error: ") || ran.stderr.contains("\nerror: "), "{fault}: {}", ran.stderr);
        assert!(
            ran.stderr.contains("cannot write") && ran.stderr.contains("no storage space"),
            "{fault}: {}",
            ran.stderr
        );
    });
}

/// An adapter that is replaced: at any moment the old one or the new one is there, what lies beside it stays, and the old one is kept.
#[test]
fn a_kill_while_an_adapter_is_replaced_loses_neither_of_them() {
    let first = project();
    first.run(&["train"]).expect(0);
    let old = adapter(&first);
    let prepare = || {
        let project = project();
        for (name, bytes) in &old {
            let path = project.path("adapters/tiny").join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            std::fs::write(path, bytes).expect("a file");
        }
        project.write("adapters/tiny/NOTES.md", "mine");
        let manifest = project.read("finetest.toml").replace("learning_rate = 1e-2", "learning_rate = 2e-2");
        project.write("finetest.toml", &manifest);
        project
    };
    at_every_step("kill", prepare, |project, fault, _| {
        assert!(!adapter(project).is_empty(), "{fault}: no adapter is there");
        assert_eq!(project.read("adapters/tiny/NOTES.md"), "mine", "{fault}");
        if adapter(project) != old {
            let kept = std::fs::read_dir(project.path(".finetest/replaced")).expect("the old one is kept");
            let kept = kept.flatten().next().expect("a directory").path();
            let same = |(name, bytes): (&String, &Vec<u8>)| std::fs::read(kept.join(name)).is_ok_and(|k| k == *bytes);
            assert!(old.iter().all(same), "{fault}: the old adapter is not kept whole");
        }
    });
}

#[test]
fn answers_of_a_killed_run_are_not_computed_again() {
    let project = project();
    project.append("finetest.toml", "\n[run]\nbatch = 2\n");
    let case =
        |i: usize| format!("\n[[cases]]\nname = \"more-{i}\"\nprompt = \"number {i}\"\nchecks = [\"not-json\"]\n");
    project.append("scenarios/says.toml", &(0..12).map(case).collect::<String>());
    project.run(&["train"]).expect(0);
    // Two steps of writing a file of answers, at most two files a batch.
    faulty(&project, &["run"], "kill 25").expect("it is killed while it answers");
    let ran = project.run(&["run", "--json"]).expect(0);
    let cost = &serde_json::from_str::<serde_json::Value>(&ran.stdout).expect("JSON")["run"]["cost"];
    let (stored, computed) = (cost["stored"].as_u64().expect("a number"), cost["computed"].as_u64().expect("a number"));
    assert_eq!(stored + computed, 2 * (13 + 2));
    assert!(stored >= 6 && computed > 0, "{stored} stored, {computed} computed");
}

/// A `pip` that says that it was asked.
fn with_pip(project: &Project, arguments: &[&str]) -> (Ran, bool) {
    let bin = project.path("bin");
    let asked = project.path("pip-was-asked");
    for name in ["python3", "python", "pip3", "pip"] {
        project.write(&format!("bin/{name}"), &format!("#!/bin/sh\ntouch '{}'\nexit 1\n", asked.display()));
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(bin.join(name), mode).expect("a mode");
    }
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let ran = Ran::of(project.command(arguments).env("PATH", path).output().expect("the binary runs"));
    (ran, asked.is_file())
}

/// What can be known without the model is reported before a download of it begins.
#[test]
fn what_is_wrong_is_told_before_a_download() {
    type Break = fn(&Project);
    let downloads = |project: &Project| {
        let manifest =
            project.read("finetest.toml").replace("source = \"model\"", "source = \"pypi:none==1/none.gguf\"");
        project.write("finetest.toml", &manifest);
    };
    let cases: [(&str, Break, &[&str]); 8] = [
        ("the last data line", |p| p.append("data/train.jsonl", "{\"prompt\": \"cut\n"), &["data/train.jsonl:13"]),
        ("no data", |p| std::fs::remove_file(p.path("data/train.jsonl")).expect("removed"), &["data/train.jsonl"]),
        ("a scenario", |p| p.append("scenarios/says.toml", "\nchecks = 3\n"), &["scenarios/says.toml"]),
        (
            "no drift text",
            |p| p.append("finetest.toml", "\n[run]\ndrift_text = \"data/none.txt\"\n"),
            &["data/none.txt", "cannot read"],
        ),
        (
            "a template",
            |p| {
                let manifest = p.read("finetest.toml");
                p.write("finetest.toml", &manifest.replace("[data]", "chat_template = \"bad.jinja\"\n\n[data]"));
                p.write("bad.jinja", "{% for m in messages %}");
            },
            &["bad.jinja"],
        ),
        (
            "no adapter",
            |p| p.write("finetest.toml", "[model]\nsource = \"model\"\n[adapter]\npath = \"adapters/none\"\n"),
            &["adapters/none", "no such adapter"],
        ),
        (
            "an adapter without weights",
            |p| {
                p.write("finetest.toml", "[model]\nsource = \"model\"\n[adapter]\npath = \"adapters/none\"\n");
                p.write("adapters/none/adapter_config.json", "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 2}");
            },
            &["adapter_model.safetensors"],
        ),
        (
            "an adapter that is not scaled",
            |p| p.append("finetest.toml", "\n[adapter]\npath = \"adapters/tiny\"\nscale = 0\n"),
            &["scale"],
        ),
    ];
    for (name, break_it, words) in cases {
        let project = project();
        break_it(&project);
        downloads(&project);
        let (ran, asked) = with_pip(&project, &["run"]);
        assert_eq!(ran.code, 1, "{name}: {ran:?}");
        assert!(words.iter().all(|word| ran.stderr.contains(word)), "{name}: {}", ran.stderr);
        assert!(!asked, "{name}: told after the download had begun: {}", ran.stderr);
    }
    let whole = project();
    downloads(&whole);
    let (ran, asked) = with_pip(&whole, &["run"]);
    assert!(asked && ran.code == 1, "a download does begin: {ran:?}");
}

/// What the model's header tells is reported before a training.
#[test]
fn what_does_not_fit_the_model_is_told_before_a_training() {
    type Break = fn(&Project);
    let cases: [(&str, Break, &[&str]); 3] = [
        (
            "a prompt",
            |p| {
                p.append(
                    "scenarios/says.toml",
                    &format!(
                        "\n[[cases]]\nname = \"long\"\nprompt = \"{}\"\nchecks = [\"not-json\"]\n",
                        "word ".repeat(400)
                    ),
                );
            },
            &["scenarios/says.toml", "\"long\"", "context"],
        ),
        (
            "a choice",
            |p| {
                p.append("scenarios/says.toml", &format!("\n[[cases]]\nname = \"long\"\nprompt = \"p\"\nchecks = [{{ choice = {{ answer = \"a\", others = [\"{}\"] }} }}]\n", "word ".repeat(400)));
            },
            &["scenarios/says.toml", "the choice", "context"],
        ),
        (
            "no template",
            |p| {
                let config = p.read("model/tokenizer_config.json");
                let mut config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
                config.as_object_mut().expect("an object").remove("chat_template");
                p.write("model/tokenizer_config.json", &config.to_string());
            },
            &["chat_template"],
        ),
    ];
    for (name, break_it, words) in cases {
        let project = project();
        break_it(&project);
        let ran = project.run(&["run"]);
        assert_eq!(ran.code, 1, "{name}: {ran:?}");
        assert!(words.iter().all(|word| ran.stderr.contains(word)), "{name}: {}", ran.stderr);
        assert!(!project.path(".finetest/checkpoints").exists(), "{name}: told after the training: {}", ran.stderr);
    }
}

#[test]
fn two_manifests_of_one_name_keep_a_run_each_and_no_run_replaces_another() {
    let project = project();
    project.write("recipes/finetest.toml", "extends = \"../finetest.toml\"\n[gate]\nmin_retention = 0.9\n");
    project.run(&["run"]).expect(0);
    let root = project.read(".finetest/runs/finetest/latest/run.json");
    project.run(&["run", "--manifest", "recipes/finetest.toml"]);
    assert_eq!(project.read(".finetest/runs/finetest/latest/run.json"), root);
    assert!(project.path(".finetest/runs/recipes+finetest/latest/run.json").is_file());
    let runs = |name: &str| {
        let entries = std::fs::read_dir(project.path(".finetest/runs").join(name)).expect("runs").flatten();
        entries.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).count()
    };
    // Nothing was computed and nothing found otherwise: the same run.
    project.run(&["run"]).expect(0);
    assert_eq!(runs("finetest"), 1);
    project.append(
        "scenarios/says.toml",
        "\n[[cases]]\nname = \"new\"\nprompt = \"a new one\"\nchecks = [\"not-json\"]\n",
    );
    project.run(&["run"]).expect(0);
    assert_eq!(runs("finetest"), 2);
    assert_ne!(project.read(".finetest/runs/finetest/latest/run.json"), root);
}

#[test]
fn a_lost_log_or_plot_of_an_adapter_comes_back() {
    let project = project();
    project.run(&["train"]).expect(0);
    let whole = adapter(&project);
    for lost in [vec!["trainer_state.json"], vec!["loss.svg"], vec!["trainer_state.json", "loss.svg"]] {
        for name in &lost {
            std::fs::remove_file(project.path("adapters/tiny").join(name)).expect("removed");
        }
        let ran = project.run(&["run"]).expect(0);
        assert!(!ran.stderr.contains("training"), "{}", ran.stderr);
        assert_eq!(adapter(&project), whole, "{lost:?}");
    }
}

#[test]
fn an_edited_or_deleted_adapter_config_is_not_taken_for_what_was_trained() {
    let project = project();
    project.run(&["train"]).expect(0);
    let whole = adapter(&project);
    let config = "adapters/tiny/adapter_config.json";
    let edits: [&dyn Fn(); 2] = [
        &|| {
            let edited = project.read(config).replace("\"lora_alpha\": 32", "\"lora_alpha\": 1000");
            project.write(config, &edited);
        },
        &|| std::fs::remove_file(project.path(config)).expect("removed"),
    ];
    for edit in edits {
        edit();
        let never = project.command(&["run"]).env("FINETEST_TRAIN", "never").output().expect("the binary runs");
        Ran::of(never).fails(1, &["adapter_config.json is not what was trained"]);
        let ran = project.run(&["run"]).expect(0);
        assert!(ran.stderr.contains("adapter_config.json is not what was trained"), "{}", ran.stderr);
        assert_eq!(adapter(&project), whole);
    }
    // Without [train] it is tested as it is, and that is said.
    let edited = project.read(config).replace("\"lora_alpha\": 32", "\"lora_alpha\": 64");
    project.write(config, &edited);
    project
        .write("finetest.toml", &format!("[model]\nsource = \"model\"\n[adapter]\npath = \"adapters/tiny\"\n{GATE}"));
    let ran = project.run(&["run"]).expect(0);
    assert!(ran.stderr.contains("adapter_config.json is not what finetest trained"), "{}", ran.stderr);
}

#[test]
fn a_store_keeps_itself_out_of_a_repository_and_leaves_a_list_that_is_there() {
    let project = project();
    project.run(&["run"]).expect(0);
    assert!(project.read(".finetest/.gitignore").ends_with("\n*\n"));
    project.write(".finetest/.gitignore", "store\n");
    project.run(&["run"]).expect(0);
    assert_eq!(project.read(".finetest/.gitignore"), "store\n");
}

#[test]
fn a_broken_stamp_says_what_to_do() {
    let project = project();
    project.run(&["train"]).expect(0);
    project.write("adapters/tiny/finetest.json", "{\"recipe\": 1");
    project.run(&["run"]).fails(1, &["adapters/tiny/finetest.json:1", "finetest train --force"]);
    project.run(&["train", "--force"]).expect(0);
    project.run(&["run"]).expect(0);
}

/// An export over an earlier one: at any moment the old one is there whole, or the new one is.
#[test]
fn an_export_that_is_cut_or_wrong_leaves_the_earlier_one() {
    let files = |project: &Project, names: &[&str]| -> Vec<Option<Vec<u8>>> {
        names.iter().map(|name| std::fs::read(project.path(name)).ok()).collect()
    };
    let cases: [(&str, &str, &[&str]); 3] = [
        ("gguf-adapter", "out.gguf", &["out.gguf"]),
        ("peft", "out", &["out/finetest_export.json", "out/adapter_config.json", "out/adapter_model.safetensors"]),
        ("merged", "out", &["out/finetest_export.json", "out/config.json", "out/model.safetensors"]),
    ];
    let project = project();
    project.run(&["train"]).expect(0);
    for (format, out, names) in cases {
        let export = ["export", "--format", format, "--out", out, "--force"];
        let scaled = |scale: f64| {
            let config = project.read("adapters/tiny/adapter_config.json");
            let mut config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
            config["lora_alpha"] = scale.into();
            project.write("adapters/tiny/adapter_config.json", &config.to_string());
        };
        scaled(8.0);
        project.run(&export).expect(0);
        let old = files(&project, names);
        assert!(old.iter().all(Option::is_some), "{format}");
        // What cannot be computed is not exported, and what was stays.
        scaled(1e30);
        project.run(&export).fails(1, &["the logits of base and adapter are not finite"]);
        assert_eq!(files(&project, names), old, "{format}");
        scaled(16.0);
        let mut new = None;
        for fault in ["kill", "full"] {
            for step in 1..ENDLESS {
                let Some(ran) = faulty(&project, &export, &format!("{fault} {step}")) else {
                    assert!(step > 4, "only {step} steps of writing were met");
                    break;
                };
                assert!(!ran.stderr.contains(".writing-"), "{format}, {fault} {step}: {}", ran.stderr);
                let now = files(&project, names);
                if now != old {
                    assert_eq!(new.get_or_insert_with(|| now.clone()), &now, "{format}, {fault} {step}");
                }
            }
            project.run(&export).expect(0);
            assert_eq!(new.as_ref(), Some(&files(&project, names)), "{format}, {fault}");
            assert_eq!(leftovers(&project.path(".")), Vec::<PathBuf>::new(), "{format}, {fault}");
            scaled(8.0);
            project.run(&export).expect(0);
            scaled(16.0);
        }
        let _ = std::fs::remove_dir_all(project.path("out"));
        scaled(32.0);
    }
}

/// One flipped bit, or a step that somebody wrote.
#[test]
fn a_damaged_checkpoint_is_passed_over_and_said() {
    let whole = project();
    whole.run(&["train"]).expect(0);
    type Damage = fn(&Path);
    let damage: [(&str, Damage); 3] = [
        ("optimizer.safetensors", |file| {
            let mut bytes = std::fs::read(file).expect("a file");
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            std::fs::write(file, bytes).expect("a file");
        }),
        ("trainer_state.json", |file| {
            let text = std::fs::read_to_string(file).expect("a file");
            std::fs::write(file, text.replace("\"global_step\": 2", "\"global_step\": 1000000000")).expect("a file");
        }),
        ("checksums.json", |file| std::fs::remove_file(file).expect("removed")),
    ];
    for (name, break_it) in damage {
        let project = project();
        project.run(&["train"]).expect(0);
        std::fs::remove_dir_all(project.path("adapters/tiny")).expect("removed");
        let checkpoints = std::fs::read_dir(project.path(".finetest/checkpoints")).expect("checkpoints");
        let of_training = checkpoints.flatten().next().expect("one").path();
        break_it(&of_training.join("checkpoint-2").join(name));
        let ran = project.run(&["train"]).expect(0);
        assert!(
            ran.stderr.contains("a checkpoint cannot be used") && ran.stderr.contains(name),
            "{name}: {}",
            ran.stderr
        );
        assert_eq!(adapter(&project), adapter(&whole), "{name}");
    }
}

/// Ctrl-C and a scheduler's signal say what is kept and how to go on.
#[test]
fn an_interrupted_training_says_how_to_go_on() {
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let project = project();
        let manifest =
            project.read("finetest.toml").replace("max_steps = 2\nsave_steps = 2", "num_epochs = 3000\nsave_steps = 1");
        project.write("finetest.toml", &manifest);
        let child = project.command(&["run"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let started = Instant::now();
        let saved = || {
            let found = std::fs::read_dir(project.path(".finetest/checkpoints")).into_iter().flatten().flatten();
            found
                .flat_map(|of| std::fs::read_dir(of.path()).into_iter().flatten().flatten())
                .any(|checkpoint| checkpoint.file_name().to_string_lossy().starts_with("checkpoint-"))
        };
        while !saved() {
            assert!(started.elapsed() < Duration::from_secs(30), "no checkpoint");
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(50));
        let pid = child.id().to_string();
        let sent = std::process::Command::new("kill").args([&format!("-{signal}"), &pid]).status().expect("kill");
        assert!(sent.success());
        let ran = Ran::of(child.wait_with_output().expect("it ends"));
        assert_eq!(ran.code, code, "{ran:?}");
        let words = ["interrupted", "checkpoint of step", "same command"];
        assert!(words.iter().all(|word| ran.stderr.contains(word)), "{}", ran.stderr);
    }
}

/// What finetest writes lies in directories of its own.
#[test]
fn an_adapter_or_a_store_is_not_put_into_what_a_person_made() {
    let adapter = |path: &str| format!("\n[adapter]\npath = \"{path}\"\n");
    let store = |path: &str| format!("\n[run]\nstore = \"{path}\"\n");
    let places = [".", "..", "model", "model/deep", "data", "scenarios", ".finetest", ".finetest/store"].map(adapter);
    let stores = [".", "model", "data", "scenarios/deep"].map(store);
    for wrong in places.into_iter().chain(stores) {
        let project = project();
        project.append("finetest.toml", &wrong);
        project.run(&["run"]).fails(1, &["finetest.toml: [", "give another place"]);
        assert!(!project.path(".finetest").exists() && !project.path("model/lock").exists(), "{wrong}");
    }
    // A model's directory may be the project.
    let project = project();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::rename(project.path("model").join(file), project.path(file)).expect("moved");
    }
    let manifest = project.read("finetest.toml").replace("source = \"model\"", "source = \".\"");
    project.write("finetest.toml", &manifest);
    project.run(&["run"]).expect(0);
}

/// A pipe instead of a file that finetest wrote would be waited for, for ever.
#[test]
fn no_file_of_finetest_s_own_is_waited_for() {
    let whole = project();
    whole.run(&["run"]).expect(0);
    let mut files = Vec::new();
    all_files(&whole.path("."), &mut files);
    let own = files.iter().filter(|path| {
        let shown = path.display().to_string();
        ["/.finetest/", "/adapters/", "/cache/"].iter().any(|room| shown.contains(room))
    });
    let mut tried = 0;
    for path in own {
        let kept = std::fs::read(path).expect("a file");
        std::fs::remove_file(path).expect("removed");
        let made = std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo");
        assert!(made.success());
        let child = whole.command(&["run", "--quiet"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("it starts");
        let started = Instant::now();
        let status = loop {
            match child.try_wait().expect("a child") {
                Some(status) => break status,
                None if started.elapsed() > Duration::from_secs(20) => {
                    child.kill().expect("killed");
                    panic!("{} is waited for", path.display());
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        assert!(matches!(status.code(), Some(0 | 1)), "{}: {status}", path.display());
        let _ = std::fs::remove_file(path);
        std::fs::write(path, kept).expect("put back");
        tried += 1;
    }
    assert!(tried > 15, "only {tried} files");
}

fn all_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
        let kind = entry.file_type().expect("a kind");
        if kind.is_dir() {
            all_files(&entry.path(), found);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
}

/// Pickled weights, or weights on a disk that is away, are somebody's adapter all the same.
#[test]
fn an_adapter_without_readable_weights_is_not_trained_over() {
    for name in ["adapter_config.json", "adapter_model.bin"] {
        let project = project();
        project.write(&format!("adapters/tiny/{name}"), "{}");
        project.run(&["run"]).fails(1, &["adapters/tiny", "finetest did not train", "another [adapter] path"]);
        assert_eq!(project.read(&format!("adapters/tiny/{name}")), "{}");
    }
}

/// Also where nothing is trained, a prompt that does not fit is reported with its file and case.
#[test]
fn a_prompt_that_does_not_fit_an_adapter_that_is_tested_as_it_is_names_its_case() {
    let project = project();
    project.run(&["train"]).expect(0);
    project
        .write("finetest.toml", &format!("[model]\nsource = \"model\"\n[adapter]\npath = \"adapters/tiny\"\n{GATE}"));
    let long = format!("\n[[cases]]\nname = \"long\"\nprompt = \"{}\"\nchecks = [\"not-json\"]\n", "word ".repeat(400));
    project.append("scenarios/says.toml", &long);
    project.run(&["run"]).fails(1, &["scenarios/says.toml", "\"long\"", "context"]);
    // It needs no weights: these cannot be read.
    std::fs::remove_file(project.path("adapters/tiny/finetest.json")).expect("removed");
    project.write("model/model.safetensors", "no weights");
    project.run(&["run"]).fails(1, &["scenarios/says.toml", "\"long\"", "context"]);
    project.write("scenarios/says.toml", support::TARGET);
    project.run(&["run"]).fails(1, &["model.safetensors", "not a safetensors file"]);
}
