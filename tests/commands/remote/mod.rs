//! Servers with base and adapter side by side: what is asked of them, what is claimed, and which are refused.

mod again;
mod crosscheck;
mod dialects;
mod loading;
mod replicas;
mod server;
mod text;

use std::sync::OnceLock;

use serde_json::Value;

use self::server::{Dialect, Fault, KEY, Server};
use crate::support::{Project, Ran};

const SCENARIO: &str = r#"
role = "ROLE"
description = "says anything, and prefers one of two"
max_tokens = 6

[[cases]]
prompt = "hello there"
checks = [{ max-length = 1000 }]

[[cases]]
prompt = "a longer question, about something else"
checks = [{ max-length = 1000 }]

[[cases]]
prompt = "which one"
checks = [{ choice = { answer = "one two", others = ["three four"] } }]
"#;

/// A project that has the model's small files, an adapter that finetest trained, and no weights.
fn project(server: &Server, more: &str) -> Project {
    // Trained once for all tests.
    static TRAINED: OnceLock<Project> = OnceLock::new();
    let trained = TRAINED.get_or_init(|| {
        let project = Project::new();
        project.run(&["train", "-q"]).expect(0);
        project
    });
    let project = Project::new();
    let adapter = std::fs::read_dir(trained.path("adapters/tiny")).expect("an adapter");
    std::fs::create_dir_all(project.path("adapters/tiny")).expect("a directory");
    for file in adapter.map(|entry| entry.expect("a file").path()) {
        let to = project.path("adapters/tiny").join(file.file_name().expect("a name"));
        std::fs::copy(&file, to).expect("a copy");
    }
    for role in ["target", "control"] {
        project.write(&format!("scenarios/{role}.toml"), &SCENARIO.replace("ROLE", role));
    }
    for old in ["scenarios/says.toml", "scenarios/prefers.toml", "model/model.safetensors"] {
        std::fs::remove_file(project.path(old)).expect("a file");
    }
    let url = &server.url;
    project.write(
        "finetest.toml",
        &format!(
            "[model]\nsource = \"model\"\n[adapter]\npath = \"adapters/tiny\"\n[gate]\nmin_retention = 0.1\nmax_drift = 0.01\n[backend]\nname = \"remote\"\nurl = \"{url}/\"\n{more}\n[backend.adapters]\ntuned = \"diagnostics\"\n"
        ),
    );
    project
}

fn run(server: &Server, more: &str) -> Ran {
    project(server, more).run(&["run", "--format", "json"])
}

fn record(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}\n{}", ran.stdout, ran.stderr))
}

/// Those that take tokens and score text.
const SCORING: [Dialect; 3] = [Dialect::Llama, Dialect::Vllm, Dialect::Sglang];

#[test]
fn dialects_that_score_answer_measure_and_prove_the_same() {
    let answers = SCORING.map(|dialect| {
        let server = Server::start(dialect, Fault::None);
        let ran = run(&server, "").expect(100);
        let found = record(&ran);
        let run = &found["run"];
        let drift = &run["drift"]["tuned"];
        assert_eq!(drift["method"], serde_json::json!({"top-k": 20}), "{drift}");
        // All that the formula knows is among twenty.
        assert!(
            drift["covered"].as_f64().expect("a share") > 0.999
                && drift["kl"]["mean"].as_f64().expect("a bound") > 0.05,
            "{drift}"
        );
        let proof = &run["proof"]["tuned"];
        assert!(
            proof["adapter_effect"].as_f64().expect("an effect") > 0.1 && proof["base_difference"] == 0.0,
            "{proof}"
        );
        let rules = found["decision"]["rules"].as_array().expect("rules");
        let of = |name: &str| rules.iter().find(|rule| rule["name"] == name).expect(name)["verdict"].clone();
        assert_eq!((of("min_retention"), of("max_drift")), ("passed".into(), "failed".into()), "{rules:#?}");
        let cases =
            run["scenarios"].as_array().expect("scenarios").iter().flat_map(|s| s["cases"].as_array().expect("cases"));
        let texts: Vec<Value> = cases.map(|case| case["answers"].clone()).collect();
        (texts, drift["kl"]["mean"].as_f64())
    });
    for other in &answers[1..] {
        assert_eq!(answers[0].0, other.0);
        assert!((answers[0].1.expect("drift") - other.1.expect("drift")).abs() < 1e-9);
    }
}

/// Nothing is left to a server's defaults, and no key reaches a record.
#[test]
fn every_request_names_its_arm_and_its_sampling_and_the_key_stays_secret() {
    let server = Server::start(Dialect::Llama, Fault::Locked);
    let project = project(&server, "api_key_env = \"FINETEST_TEST_KEY\"");
    project.run(&["run"]).fails(2, &["api_key_env names FINETEST_TEST_KEY", "not set"]);
    let with = |key: &str| {
        Ran::of(
            project.command(&["run", "--format", "json"]).env("FINETEST_TEST_KEY", key).output().expect("a process"),
        )
    };
    let wrong = with("sk-wrong").fails(1, &["answered 401"]);
    assert!(!wrong.stderr.contains("sk-wrong"), "{}", wrong.stderr);
    let ran = with(KEY).expect(100);
    assert!(!ran.stdout.contains(KEY) && !ran.stderr.contains(KEY));
    let bodies = server.bodies();
    assert!(!bodies.is_empty());
    for body in bodies {
        assert_eq!(body["lora"].as_array().expect("all adapters").len(), 2, "{body}");
        assert_eq!(
            (&body["cache_prompt"], &body["top_k"], &body["temperature"]),
            (&false.into(), &0.into(), &0.0.into()),
            "{body}"
        );
    }
    let vllm = Server::start(Dialect::Vllm, Fault::None);
    run(&vllm, "").expect(100);
    assert_eq!(vllm.most_scoring(), 1, "two scored texts at once take vLLM's engine down");
}

#[test]
fn a_server_that_mixes_arms_up_is_refused_with_the_trap_and_its_remedy() {
    let faults = [
        (Fault::MixesBatches, ["asked at the same time as tuned, is another", "--max-loras"]),
        (Fault::MixesCaches, ["asked again after tuned, is another", "prompt cache off"]),
        (Fault::NoEffect, ["the adapter is not applied", "its scale not 0"]),
        (Fault::OtherTokenizer, ["reads a prompt otherwise from token", "another model than [model] source"]),
        (Fault::ForgetsInText, ["another log-probability when it is given it", "neither choices nor drift"]),
        (Fault::Page, ["expected JSON", "is this the server's address"]),
        (Fault::Elsewhere, ["sends elsewhere to http://elsewhere.example/", "302"]),
    ];
    // Each waits for its server most of the time.
    std::thread::scope(|scope| {
        for (dialect, (fault, words)) in SCORING.into_iter().flat_map(|dialect| faults.map(|fault| (dialect, fault))) {
            scope.spawn(move || {
                let server = Server::start(dialect, fault);
                let ran = run(&server, "").fails(1, &words);
                assert!(!ran.stderr.contains('\u{1b}'), "{dialect:?} {fault:?}: {}", ran.stderr);
            });
        }
    });
    let cached = Server::start(Dialect::Llama, Fault::UsesCache);
    run(&cached, "").fails(1, &["from its cache, although it was told not to", "--cache-ram 0"]);
    let any = Server::start(Dialect::Vllm, Fault::AnyName);
    run(&any, "").fails(1, &["answers under the name finetest-no-such-adapter", "router"]);
    let cut = Server::start(Dialect::Llama, Fault::Truncates);
    run(&cut, "").fails(1, &["the prompt was cut by the server", "larger context"]);
}

#[test]
fn a_busy_server_is_asked_again_and_what_was_answered_is_kept_when_one_dies() {
    std::thread::scope(|scope| {
        for (dialect, fault) in
            SCORING.into_iter().flat_map(|dialect| [(dialect, Fault::Busy), (dialect, Fault::BreaksOff)])
        {
            scope.spawn(move || {
                let server = Server::start(dialect, fault);
                run(&server, "").expect(100);
                assert!(server.requests() > 60, "{fault:?}");
            });
        }
    });
    let dying = Server::start(Dialect::Llama, Fault::Dies);
    let project = project(&dying, "");
    project.run(&["run"]).fails(1, &["does not answer"]);
    let kept = std::fs::read_dir(project.path(".finetest/store")).map_or(0, |entries| entries.count());
    assert!(kept > 0, "answers of before are stored");
}

#[test]
fn one_question_that_is_refused_is_not_evaluated_and_impossible_numbers_are_none() {
    for dialect in SCORING {
        let server = Server::start(dialect, Fault::RefusesOne);
        let ran = run(&server, "").expect(1);
        assert!(ran.stdout.contains("this prompt is not liked"), "{}", ran.stdout);
        let server = Server::start(dialect, Fault::Impossible);
        let ran = run(&server, "");
        assert!(
            ran.code != 0 && (ran.stdout.clone() + &ran.stderr).contains("log-probabilit"),
            "{}\n{}",
            ran.stdout,
            ran.stderr
        );
    }
    let few = Server::start(Dialect::Vllm, Fault::FewProbabilities);
    let ran = run(&few, "top_logprobs = 1000").expect(1);
    assert!(ran.stdout.contains("greater than max allowed: 20"), "{}", ran.stdout);
    let part = Server::start(Dialect::Llama, Fault::None);
    let ran = run(&part, "top_logprobs = 2").expect(100);
    let drift = record(&ran)["run"]["drift"]["tuned"].clone();
    assert!(drift["covered"].as_f64().expect("a share") < 0.99, "{drift}");
    let none = Server::start(Dialect::Llama, Fault::None);
    let ran = run(&none, "top_logprobs = 0").expect(100);
    assert_eq!(record(&ran)["run"]["drift"]["tuned"]["method"], "nll");
}

#[test]
fn an_adapter_the_server_lacks_and_keys_of_another_backend_are_said() {
    let llama = Server::start(Dialect::Llama, Fault::None);
    let at_llama = project(&llama, "");
    let of = |from: &str, to: &str| {
        at_llama.write("finetest.toml", &at_llama.read("finetest.toml").replace(from, to));
        at_llama.run(&["run"])
    };
    of("\"diagnostics\"", "\"nosuch\"")
        .fails(1, &["no adapter \"nosuch\" for tuned", "3: m/diagnostics.gguf", "[backend.adapters] tuned"]);
    of("tuned = \"nosuch\"", "").fails(1, &["which adapter is tuned's is not said"]);
    let vllm = Server::start(Dialect::Vllm, Fault::None);
    let at_vllm = project(&vllm, "");
    let of = |from: &str, to: &str| {
        at_vllm.write("finetest.toml", &at_vllm.read("finetest.toml").replace(from, to));
        at_vllm.run(&["run"])
    };
    of("\"diagnostics\"", "\"nosuch\"")
        .fails(1, &["it has no model \"nosuch\" for tuned", "its adapters are diagnostics, second", "--lora-modules"]);
    of("\"nosuch\"", "\"stranger\"").fails(1, &["is on \"other\" and not on base, \"base\""]);
    let text = at_vllm.read("finetest.toml");
    let with = |change: &dyn Fn(&str) -> String| {
        at_vllm.write("finetest.toml", &change(&text));
        at_vllm.run(&["run"])
    };
    let url = format!("{}/", vllm.url);
    with(&|text| text.replace("url = ", "# url = ")).fails(1, &["[backend] url is missing", "http://localhost:8000"]);
    with(&|text| text.replace(&url, "localhost:8000"))
        .fails(1, &["[backend] url is \"localhost:8000\"", "http://HOST:PORT"]);
    let secret = with(&|text| text.replace("http://", "http://me:hunter2@"))
        .fails(1, &["[backend] url holds a name, a password or a key", "api_key_env"]);
    assert!(!secret.stderr.contains("hunter2"), "{}", secret.stderr);
    with(&|text| text.replace(&url, "http://127.0.0.1:9"))
        .fails(1, &["http://127.0.0.1:9 does not answer", "is the server running?"]);
    with(&|text| text.replace("\"remote\"", "\"candle\""))
        .fails(1, &["[backend] url is a server's, and the backend is candle"]);
    with(&|text| text.replace("name = \"remote\"", "name = \"remote\"\ntimeout = 0"))
        .fails(1, &["[backend] timeout is 0"]);
    with(&|text| text.replace("name = \"remote\"", "name = \"remote\"\nconcurrency = 0"))
        .fails(1, &["[backend] concurrency is 0"]);
    with(&|text| text.replace("name = \"remote\"", "name = \"remote\"\nserver = \"triton\""))
        .fails(1, &["triton", "llama-server"]);
    let other = Project::new();
    other.run(&["run", "--backend", "remote"]).fails(2, &["names no server", "[backend] url"]);
}
