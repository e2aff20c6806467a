//! What an adapter is exported to, and what is recorded, judged and reported of it.

use serde_json::{Value, json};

#[cfg(unix)]
use super::pipe;
use super::{CONFIG, LOGITS, WEIGHTS, gguf, llama, replace, sparse};
use crate::hostile::bounded;
use crate::support::{CONTROL, Project, TARGET};

/// Every file of a project, with its bytes.
fn bytes(project: &Project, files: &[&str]) -> Vec<Vec<u8>> {
    files.iter().map(|file| std::fs::read(project.path(file)).expect("readable")).collect()
}

/// Each form of export, and logits, to each place that holds something: all are refused, and no byte changes.
#[test]
fn nothing_is_written_over_what_a_project_is_made_of() {
    let project = Project::new();
    llama(&project);
    gguf(&project);
    project.write(
        "finetest.toml",
        "[model]\nsource = \"model.gguf\"\n[adapter]\npath = \"given\"\n[data]\ntrain = \"data/train.jsonl\"\n",
    );
    std::fs::hard_link(project.path("model.gguf"), project.path("hard.gguf")).expect("a link");
    #[cfg(unix)]
    std::os::unix::fs::symlink("model.gguf", project.path("soft.gguf")).expect("a link");
    #[cfg(unix)]
    std::os::unix::fs::symlink("given", project.path("soft")).expect("a link");
    let files = ["model.gguf", "data/train.jsonl", "finetest.toml", "scenarios/says.toml", CONFIG, WEIGHTS];
    let before = bytes(&project, &files);
    let outs = files.iter().copied().chain(["hard.gguf", "soft.gguf", "./given/../model.gguf", "given", "soft", "."]);
    for out in outs {
        for format in ["gguf-adapter", "merged-gguf", "peft", "peft-fused", "merged"] {
            let ran = project.run(&["export", "--format", format, "--out", out, "--force"]).expect(2);
            assert!(ran.stderr.contains("give another --output"), "{format} to {out}: {}", ran.stderr);
        }
        let logits = ["logits", "model.gguf", "--tokens", "ids.json", "--adapter", "given", "--force", "--out", out];
        project.run(&logits).fails(2, &["give another --output"]);
    }
    assert_eq!(bytes(&project, &files), before);
    // The base of a command that names none of the manifest's files, and the file of tokens.
    for out in ["model/model.safetensors", "model/config.json", "ids.json"] {
        project
            .run(&["logits", "model", "--tokens", "ids.json", "--force", "--out", out])
            .fails(2, &["give another --output"]);
    }
    project.run(&["export", "--format", "gguf-adapter", "--out", "out.gguf"]).expect(0);
    project.run(&["export", "--format", "gguf-adapter", "--out", "out.gguf", "--force"]).expect(0);
}

/// `--force` replaces what the same command wrote before. Whatever else is there stays, also what belongs to no project.
#[test]
fn force_replaces_nothing_that_the_command_did_not_write() {
    let project = Project::new();
    llama(&project);
    gguf(&project);
    project.write("finetest.toml", "[model]\nsource = \"model.gguf\"\n[adapter]\npath = \"given\"\n");
    let others = [
        "model2/model.safetensors",
        "model2/config.json",
        "adapters/other/adapter_config.json",
        "recipes/other.toml",
        "other.jsonl",
        "other.gguf",
        "other.safetensors",
    ];
    for (other, from) in others.iter().zip([
        "model/model.safetensors",
        "model/config.json",
        CONFIG,
        "finetest.toml",
        "data/train.jsonl",
        "model.gguf",
        WEIGHTS,
    ]) {
        std::fs::create_dir_all(project.path(other).parent().expect("a parent")).expect("a directory");
        std::fs::copy(project.path(from), project.path(other)).expect("a copy");
    }
    let export = |format: &str, out: &str| project.run(&["export", "--format", format, "--out", out, "--force"]);
    let logits = |out: &str| {
        project.run(&["logits", "model", "--adapter", "given", "--tokens", "ids.json", "--out", out, "--force"])
    };
    export("gguf-adapter", "a-out.gguf").expect(0);
    export("peft", "peft-out").expect(0);
    logits("logits.safetensors").expect(0);
    let before = bytes(&project, &others);
    for out in others.iter().copied().chain(["model2", "adapters/other", "recipes"]) {
        for format in ["gguf-adapter", "merged-gguf", "peft", "merged"] {
            export(format, out).fails(2, &[out, "give another --output"]);
        }
        logits(out).fails(2, &[out, "give another --output"]);
    }
    // Nor does one command replace what another wrote.
    export("gguf-adapter", "logits.safetensors").fails(2, &["this command did not write it"]);
    logits("a-out.gguf").fails(2, &["this command did not write it"]);
    assert_eq!(bytes(&project, &others), before);
    export("gguf-adapter", "a-out.gguf").expect(0);
    export("merged-gguf", "a-out.gguf").expect(0);
    export("merged-gguf", "a-out.gguf").expect(0);
    logits("logits.safetensors").expect(0);
    // A recipe that somebody changed is theirs; what lies beside an exported directory's files stays.
    project.append("a-out.Modelfile", "SYSTEM mine\n");
    export("merged-gguf", "a-out.gguf").fails(2, &["a-out.Modelfile", "this command did not write it"]);
    project.write("peft-out/README.md", "mine");
    export("merged", "peft-out").expect(0);
    assert_eq!(project.read("peft-out/README.md"), "mine");
    assert!(!project.path("peft-out/adapter_config.json").exists(), "of the export before");
    project.run(&["logits", "peft-out", "--text", "a", "--out", "merged.safetensors"]).expect(0);
    std::fs::create_dir(project.path("empty")).expect("a directory");
    project.run(&["export", "--format", "peft", "--out", "empty"]).expect(0);
}

#[test]
fn a_precision_that_would_be_ignored_is_refused() {
    let project = Project::new();
    llama(&project);
    for format in ["peft", "peft-fused", "gguf-adapter"] {
        let export = ["export", "--format", format, "--dtype", "f16", "--out", "out", "--adapter", "given"];
        project.run(&export).fails(2, &["--dtype applies to merged weights only"]);
        assert!(!project.path("out").exists());
    }
}

/// NaN in a weight of the base is named by every command that meets it.
#[test]
fn a_base_with_nan_is_named_by_its_tensor() {
    let project = Project::new();
    llama(&project);
    let path = project.path("model/model.safetensors");
    let mut bytes = std::fs::read(&path).expect("weights");
    let (name, at) = {
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("weights");
        let name = "model.layers.1.mlp.up_proj.weight";
        let tensor = file.tensor(name).expect("a tensor");
        assert_eq!(tensor.dtype(), safetensors::Dtype::F32);
        (name, tensor.data().as_ptr() as usize - bytes.as_ptr() as usize)
    };
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).expect("written");
    project.run(LOGITS).fails(1, &["not finite", name]);
    for format in ["merged", "peft", "gguf-adapter"] {
        project.run(&["export", "--format", format, "--out", "out", "--adapter", "given"]).fails(1, &[name, "NaN"]);
    }
}

/// A project with a run that passed its gate.
fn passed() -> Project {
    let project = Project::new();
    llama(&project);
    project.write("scenarios/says.toml", TARGET);
    project.write("scenarios/prefers.toml", CONTROL);
    project.write(
        "finetest.toml",
        "[model]\nsource = \"model\"\n[adapter]\npath = \"given\"\n[gate]\nmin_retention = 0.0\n",
    );
    let ran = project.run(&["run", "--json"]).expect(0);
    let all: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    project.write("run.json", &all["run"].to_string());
    project
}

/// The recorded run with a change.
fn recorded(project: &Project, change: impl FnOnce(&mut Value)) {
    let mut run: Value = serde_json::from_str(&project.read("run.json")).expect("JSON");
    change(&mut run);
    project.write("changed.json", &run.to_string());
}

#[test]
fn a_run_with_errors_is_incomplete_in_every_output() {
    let project = passed();
    let gate = |arguments: &[&str]| project.run(&[&["gate", "changed.json"], arguments].concat());
    recorded(&project, |_| {});
    assert!(gate(&[]).expect(0).stdout.contains("PASS  the only rule passed; exit code 0"));
    recorded(&project, |run| run["errors"] = json!([{"of": "drift", "arm": "tuned", "why": "the worker crashed"}]));
    let ran = gate(&[]).expect(1);
    for word in ["INCOMPLETE  could not compute drift; the only rule passed; exit code 1", "the worker crashed"] {
        assert!(ran.stdout.contains(word), "{}", ran.stdout);
    }
    assert!(!ran.stdout.contains("PASS"), "{}", ran.stdout);
    let decision: Value = serde_json::from_str(&gate(&["--json"]).expect(1).stdout).expect("JSON");
    assert_eq!((&decision["passed"], &decision["errors"][0]["why"]), (&json!(false), &json!("the worker crashed")));
    let report = |format: &str| project.run(&["report", "changed.json", "--format", format]).expect(0).stdout;
    assert!(report("markdown").contains("INCOMPLETE") && !report("markdown").contains("PASS"));
    assert!(report("terminal").contains("INCOMPLETE") && !report("terminal").contains("PASS"));
    assert!(report("junit").contains("errors=\"1\""), "{}", report("junit"));
}

#[test]
fn a_recorded_run_that_is_none_is_refused() {
    let project = passed();
    let refused = |words: &[&str]| {
        for command in ["gate", "report"] {
            let ran = bounded(&mut project.command(&[command, "changed.json"]), command);
            ran.fails(1, &[&["changed.json"], words].concat());
        }
    };
    recorded(&project, |run| run["arms"][1]["name"] = json!("base"));
    refused(&["has two arms with the name `base`", "make the run again"]);
    recorded(&project, |run| run["drift"]["tuned"]["kl"]["mean"] = Value::Null);
    refused(&["expected a number", "make the run again"]);
    recorded(&project, |run| run["scenarios"] = json!(7));
    refused(&["expected a list"]);
    project.write("changed.json", "");
    refused(&["is empty"]);
    project.write("changed.json", &format!("{{\"version\": 1, \"more\": {}", "[".repeat(1_000_000)));
    refused(&["is not a run as finetest writes it"]);
    replace(&project, "changed.json", sparse);
    refused(&["has 107374182400 bytes"]);
    #[cfg(unix)]
    {
        replace(&project, "changed.json", pipe);
        refused(&["is a named pipe"]);
    }
    replace(&project, "changed.json", |path| std::fs::create_dir(path).expect("made"));
    refused(&["is a directory"]);
}

/// What cannot be written into a job's summary is a note, and the run counts.
#[cfg(unix)]
#[test]
fn a_job_s_summary_that_cannot_be_written_fails_no_run() {
    let project = passed();
    pipe(&project.path("pipe"));
    let base = std::fs::read(project.path("model/config.json")).expect("readable");
    for (summary, why) in [
        ("pipe", "is a named pipe"),
        ("given", "is a directory"),
        ("absent/summary.md", "cannot write"),
        ("model/config.json", "is a file of the base"),
    ] {
        for command in [&["run"][..], &["report", "run.json"]] {
            let mut command = project.command(command);
            command.env("GITHUB_STEP_SUMMARY", project.path(summary));
            let ran = bounded(&mut command, summary).expect(0);
            assert!(ran.stderr.contains("note: the report is not in GITHUB_STEP_SUMMARY"), "{}", ran.stderr);
            assert!(ran.stderr.contains(why), "{summary}: {}", ran.stderr);
        }
    }
    assert_eq!(std::fs::read(project.path("model/config.json")).expect("readable"), base);
    let mut command = project.command(&["run"]);
    command.env("GITHUB_STEP_SUMMARY", project.path("summary.md"));
    bounded(&mut command, "a file").expect(0);
    assert!(project.read("summary.md").contains("PASS"));
}
