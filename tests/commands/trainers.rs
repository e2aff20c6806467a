//! Trainers other than finetest: what they are given, what is taken from them, and what is refused. A script stands in for each.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::support::Project;

/// Reads the configuration as a trainer does, copies an adapter, and goes wrong as `fault` says.
const TRAINER: &str = r#"#!/bin/sh
for config; do :; done
here=$(dirname "$config")
echo "$0 $*" > "$here/arguments"
env > "$here/environment"
value() { sed -n "s/^$1: \"\(.*\)\"\$/\1/p" "$config"; }
output=$(value output_dir)
model=$(value model_name_or_path)$(value base_model)
fault=$(value fault)
epoch=0.8
mkdir -p "$output/checkpoint-4"
echo "{'loss': '2.5', 'grad_norm': '1.0'}"
printf ' 50%%\r{"loss": 1.5}\n' >&2
case "$fault" in
  dies) echo "Traceback: out of memory $(printf '\033[31m')" >&2; exit 3 ;;
  writes-nothing) exit 0 ;;
  pickled) echo '{}' > "$output/adapter_config.json"; echo x > "$output/adapter_model.bin"; exit 0 ;;
  hangs) sleep 600 & echo $! > "$here/child"; wait ;;
  other-base) model=somebody/else ;;
  half) cp TRAINED/adapter_config.json "$output/"; head -c 100 TRAINED/adapter_model.safetensors > "$output/adapter_model.safetensors"; exit 0 ;;
  alone) epoch=0.8 ;;
  template) echo '{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}' > "$output/checkpoint-4/chat_template.jinja" ;;
esac
cp TRAINED/adapter_model.safetensors "$output/checkpoint-4/"
sed "s|\"base_model_name_or_path\": \"[^\"]*\"|\"base_model_name_or_path\": \"$model\"|" TRAINED/adapter_config.json > "$output/checkpoint-4/adapter_config.json"
cat > "$output/checkpoint-4/trainer_state.json" <<STATE
{"global_step": 4, "epoch": $epoch, "log_history": [
  {"step": 1, "loss": 2.5, "learning_rate": 0.01, "grad_norm": 1.0}, {"step": 2, "loss": 1.5}, {"step": 4, "loss": 1.0}, {"step": 4, "eval_loss": 1.25}]}
STATE
"#;

/// The folder of an adapter of the tiny model.
fn trained() -> PathBuf {
    static TRAINED: OnceLock<Project> = OnceLock::new();
    let project = TRAINED.get_or_init(|| {
        let project = Project::new();
        project.run(&["train", "-q"]).expect(0);
        project
    });
    project.path("adapters/tiny")
}

/// A project that this engine trains, with further lines of `[train.launch]`.
fn project(engine: &str, launch: &str) -> Project {
    let project = Project::new();
    let script = TRAINER.replace("TRAINED", &trained().display().to_string());
    project.write("bin/python", &script);
    let path = project.path("bin/python");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a program");
    let line = |i: usize| {
        let chat = serde_json::json!({"messages": [
            {"role": "user", "content": format!("number {i} is")}, {"role": "assistant", "content": format!("{}", i * i)}]});
        format!("{chat}\n")
    };
    project.write("data/train.jsonl", &(0..12).map(line).collect::<String>());
    let manifest = project.read("finetest.toml").replace("[train]\n", &format!("[train]\nengine = \"{engine}\"\n"));
    project.write("finetest.toml", &format!("{manifest}\n[train.launch]\n{launch}\n"));
    project
}

const PYTHON: &str = "python = \"bin/python\"";

/// What the engine was given.
fn given(project: &Project, file: &str) -> String {
    let all = std::fs::read_dir(project.path(".finetest/engine")).expect("a folder");
    let folder = all.map(|entry| entry.expect("a folder").path()).max().expect("a training");
    std::fs::read_to_string(folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

#[test]
fn each_engine_is_given_its_own_keys_and_an_adapter_is_stamped_as_one_of_ours() {
    let engines: [(&str, &str, &[&str]); 3] = [
        (
            "trl",
            "trl.scripts.sft --config",
            &[
                "completion_only_loss: true",
                "lora_r: 2",
                "max_length: 512",
                "per_device_train_batch_size: 2",
                "learning_rate: 0.01",
            ],
        ),
        (
            "llamafactory",
            "llamafactory.cli train",
            &[
                "train_on_prompt: false",
                "lora_rank: 2",
                "cutoff_len: 512",
                "lora_target: \"all\"",
                "adam_epsilon: 0.00000001",
            ],
        ),
        (
            "axolotl",
            "axolotl.cli.train",
            &["\"roles_to_train\":[\"assistant\"]", "lora_target_linear: true", "micro_batch_size: 2", "max_steps: 4"],
        ),
    ];
    for (engine, module, keys) in engines {
        let project = project(engine, PYTHON);
        let ran = project.run(&["train"]).expect(0);
        assert!(ran.stdout.contains("trained 4 steps, last loss 1.0000, validation loss 1.25"), "{}", ran.stdout);
        let config = given(&project, "config.yaml");
        keys.iter().for_each(|key| assert!(config.contains(key), "{engine}: {key} is not in\n{config}"));
        let arguments = given(&project, "arguments");
        assert!(arguments.contains(&format!("/bin/python -m {module}")), "{arguments}");
        let environment = given(&project, "environment");
        for expected in ["HF_HUB_OFFLINE=1", "DO_NOT_TRACK=1", "PYTHONUNBUFFERED=1"] {
            assert!(environment.lines().any(|line| line == expected), "{expected}");
        }
        let data = given(&project, "data/train.jsonl");
        assert_eq!((data.lines().count(), given(&project, "data/validation.jsonl").lines().count()), (9, 3));
        let first: Value = serde_json::from_str(data.lines().next().expect("a line")).expect("JSON");
        assert_eq!(first.get("completion").is_some(), engine == "trl", "{first}");

        let config = project.read("adapters/tiny/adapter_config.json");
        assert!(config.contains("\"base_model_name_or_path\": \"model\""), "no path of this machine: {config}");
        for file in ["finetest.json", "loss.svg", "trainer_state.json"] {
            assert!(project.path("adapters/tiny").join(file).is_file(), "{file}");
        }
        // It fits until the recipe, the data or the base changes.
        let again = project.run(&["train"]).expect(0);
        assert!(again.stdout.contains("nothing to train"), "{}", again.stdout);
        project.write("finetest.toml", &project.read("finetest.toml").replace("lora_r = 2", "lora_r = 3"));
        project.run(&["run", "--train", "never"]).fails(1, &["its recipe changed"]);
    }
}

#[test]
fn a_command_and_a_configuration_of_the_users_are_filled_in() {
    let command = "command = [\"bin/python\", \"--lr\", \"3\", \"{config}\"]\nconfig = \"mine.yaml\"";
    let project = project("command", &command.replace("bin/python", &format!("{}", PathBuf::from("BIN").display())));
    let program = project.path("bin/python").display().to_string();
    project.write("finetest.toml", &project.read("finetest.toml").replace("BIN", &program));
    project.write(
        "mine.yaml",
        "model_name_or_path: \"{model}\"\noutput_dir: \"{output}\"\nfiles: [\"{data}\", \"{validation}\"]\n",
    );
    project.run(&["train"]).expect(0);
    let config = given(&project, "config.yaml");
    assert!(config.contains("/data/train.jsonl\"") && !config.contains('{'), "{config}");
    assert!(given(&project, "arguments").contains("--lr 3 "));
    // The configuration is part of what decides the adapter.
    project.write("mine.yaml", &(project.read("mine.yaml") + "more: 1\n"));
    project.run(&["run", "--train", "never"]).fails(1, &["its recipe changed"]);
    project.write("mine.yaml", "output_dir: elsewhere\n");
    project.run(&["train"]).fails(1, &["mine.yaml", "does not say where the adapter goes: write {output}"]);
}

#[test]
fn a_trainer_that_goes_wrong_is_told_with_its_own_words() {
    let faults: [(&str, &[&str]); 6] = [
        ("dies", &["ended with exit status: 3", "engine.log", "Traceback: out of memory"]),
        ("writes-nothing", &["the engine ended well, and wrote no adapter into", "adapter_model.safetensors"]),
        ("pickled", &["a pickled adapter", "save safetensors"]),
        ("other-base", &["trained an adapter of \"somebody/else\"", "was told to train"]),
        ("half", &["adapter_model.safetensors"]),
        ("alone", &["2 processes were asked for, and 1 took part", "use_cpu = true"]),
    ];
    for (fault, words) in faults {
        let processes = if fault == "alone" { "processes = 2\n" } else { "" };
        let project = project("trl", &format!("{PYTHON}\n{processes}[train.launch.keys]\nfault = \"{fault}\""));
        if fault == "alone" {
            let manifest = project.read("finetest.toml").replace("max_steps = 4", "max_steps = 40\nnum_epochs = 1");
            project.write("finetest.toml", &manifest);
        }
        let ran = project.run(&["train"]).fails(1, words);
        assert!(!ran.stderr.contains('\u{1b}'), "{}", ran.stderr);
        assert!(!project.path("adapters/tiny").exists(), "{fault}");
    }
    let project = project("trl", &format!("{PYTHON}\n[train.launch.keys]\nfault = \"template\""));
    let says = ["base and tuned would be asked other prompts", "chat_template.jinja", "set [model] chat_template"];
    project.run(&["train"]).fails(1, &says);
    project.run(&["run"]).fails(1, &says);
}

#[test]
fn a_trainer_that_hangs_is_ended_with_all_that_it_started() {
    let gone = |project: &Project| {
        let child = given(project, "child");
        let until = Instant::now() + Duration::from_secs(10);
        let alive = || {
            let state = std::fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
            !state.is_empty() && !state.contains(") Z ")
        };
        while alive() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(!alive(), "what the trainer started goes on");
    };
    let launch = |hours: &str| format!("{PYTHON}\n{hours}\n[train.launch.keys]\nfault = \"hangs\"");
    let late = project("axolotl", &launch("timeout_hours = 0.0003"));
    late.run(&["train"]).fails(1, &["was ended after 1 s", "timeout_hours"]);
    gone(&late);

    let stopped = project("axolotl", &launch(""));
    let child = stopped.command(&["train"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("a process");
    let until = Instant::now() + Duration::from_secs(30);
    let started = || {
        let all = std::fs::read_dir(stopped.path(".finetest/engine")).into_iter().flatten().flatten();
        all.map(|entry| entry.path().join("child"))
            .any(|path| std::fs::read_to_string(path).is_ok_and(|pid| !pid.is_empty()))
    };
    while !started() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &id]).status().expect("kill").success());
    let ended = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(
        ended.status.code() == Some(130) && said.contains("the trainer and all that it started are ended"),
        "{said}"
    );
    gone(&stopped);
}

#[test]
fn what_an_engine_cannot_be_given_is_refused_before_anything_is_fetched() {
    let with = |engine: &str, launch: &str, change: &dyn Fn(&str) -> String| {
        let project = project(engine, launch);
        project.write("finetest.toml", &change(&project.read("finetest.toml")));
        project.run(&["train"])
    };
    let same = |text: &str| text.to_owned();
    with("trl", "", &same).fails(2, &["TRL is installed in a Python environment of its own", "FINETEST_TRL_PYTHON"]);
    with("trl", "python = \"nosuch/python\"", &same).fails(2, &["there is no such Python", "[train.launch] python"]);
    with("command", "", &same).fails(1, &["[train] launch.command is missing"]);
    with("trl", &format!("{PYTHON}\nprocesses = 0"), &same).fails(1, &["launch.processes is 0"]);
    with("triton", PYTHON, &same).fails(1, &["triton", "axolotl"]);
    let learns = |line: &'static str| move |text: &str| text.replace("lora_r = 2", &format!("lora_r = 2\n{line}"));
    with("trl", PYTHON, &learns("early_stopping_patience = 2"))
        .fails(1, &["early_stopping_patience has nothing like it in TRL"]);
    with("axolotl", PYTHON, &learns("train_on_inputs = true"))
        .fails(1, &["train_on_inputs has nothing like it in axolotl"]);
    with("llamafactory", PYTHON, &learns("lora_alpha = 1.5"))
        .fails(1, &["lora_alpha has nothing like it in LLaMA-Factory"]);
    let auto = |text: &str| text.replace("micro_batch_size = 2", "micro_batch_size = \"auto\"");
    with("trl", PYTHON, &auto).fails(1, &["micro_batch_size has nothing like it in TRL; give a number"]);
    let own = |text: &str| text.replace("engine = \"trl\"\n", "");
    with("trl", PYTHON, &own).fails(1, &["[train] launch is for another engine"]);
    let gguf = |text: &str| text.replace("source = \"model\"", "source = \"base.gguf\"");
    with("trl", PYTHON, &gguf).fails(1, &["TRL does not train a GGUF file", "[train.launch] model"]);
    let project = project("trl", PYTHON);
    project.run(&["train", "--find-lr"]).fails(2, &["--find-lr sweeps with finetest's own training"]);
    let turns: Vec<Value> = ["user", "assistant", "user", "assistant"]
        .iter()
        .map(|role| serde_json::json!({"role": role, "content": "x"}))
        .collect();
    let line = serde_json::json!({"messages": turns}).to_string();
    project.write("data/train.jsonl", &format!("{}{line}\n", project.read("data/train.jsonl")));
    project.run(&["train"]).fails(1, &["train.jsonl:13", "TRL would learn the last one alone"]);
}
