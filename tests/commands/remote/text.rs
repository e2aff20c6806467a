//! Servers that take text or messages and tell no ids: Ollama, and any with OpenAI's interface.

use serde_json::Value;

use super::server::{Dialect, Fault, Server};
use super::{project, record};
use crate::support::Project;

const TEXT: [Dialect; 2] = [Dialect::Ollama, Dialect::OpenAi];

/// A project without a choice, which such a server cannot score, and without a rule on drift.
pub(super) fn without_choices(server: &Server, more: &str) -> Project {
    let project = project(server, &format!("model = \"base\"\n{more}"));
    for role in ["target", "control"] {
        let path = format!("scenarios/{role}.toml");
        let text = project.read(&path);
        let end = text.rfind("[[cases]]").expect("a case");
        project.write(&path, &text[..end]);
    }
    project.write("finetest.toml", &project.read("finetest.toml").replace("max_drift = 0.01\n", ""));
    project
}

fn texts(record: &Value) -> Vec<Value> {
    let scenarios = record["run"]["scenarios"].as_array().expect("scenarios").clone();
    let cases = scenarios.iter().flat_map(|scenario| scenario["cases"].as_array().expect("cases"));
    let of = |case: &Value, arm: &str| case["answers"][arm]["samples"][0]["turns"][0]["text"].clone();
    cases.flat_map(|case| [of(case, "base"), of(case, "tuned")]).collect()
}

#[test]
fn a_server_that_takes_text_answers_and_claims_no_more() {
    let tokens = Server::start(Dialect::Vllm, Fault::None);
    let by_tokens = record(&without_choices(&tokens, "").run(&["run", "--format", "json"]));
    for dialect in TEXT {
        let server = Server::start(dialect, Fault::None);
        let found = record(&without_choices(&server, "").run(&["run", "--format", "json"]));
        assert_eq!(texts(&found), texts(&by_tokens), "{dialect:?}");
        let run = &found["run"];
        assert_eq!(run["drift"], serde_json::json!({}), "{dialect:?}");
        assert!(run["proof"]["tuned"]["adapter_effect"].as_f64().expect("an effect") > 0.1, "{}", run["proof"]);
        assert!(run["proof"]["tuned"].get("by_answers").is_none());
        let backend = run["backend"].as_str().expect("a name");
        assert!(backend.contains(if dialect == Dialect::Ollama { "base 0123456789ab" } else { "version is not told" }));
    }
}

#[test]
fn what_such_a_server_cannot_show_is_refused_or_said() {
    for dialect in TEXT {
        let server = Server::start(dialect, Fault::None);
        super::project(&server, "model = \"base\"").run(&["run"]).fails(1, &["has a choice", "cannot score text"]);
        let silent = Server::start(dialect, Fault::Silent);
        let project = without_choices(&silent, "");
        let found = record(&project.run(&["run", "--format", "json"]));
        assert_eq!(found["run"]["proof"]["tuned"]["by_answers"], true);
        let shown = project.run(&["run", "-v"]).stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(shown.contains("a weak proof, since the server tells no log-probabilities"), "{shown}");
        let same = Server::start(dialect, Fault::NoEffect);
        without_choices(&same, "").run(&["run"]).fails(1, &["the adapter is not applied"]);
        let any = Server::start(dialect, Fault::AnyName);
        without_choices(&any, "").run(&["run"]).fails(1, &["answers under the name finetest-no-such-adapter"]);
        let mixing = Server::start(dialect, Fault::MixesBatches);
        without_choices(&mixing, "").run(&["run"]).fails(1, &["asked at the same time as tuned, is another"]);
        let unnamed = Server::start(dialect, Fault::None);
        let project = without_choices(&unnamed, "");
        project.write("finetest.toml", &project.read("finetest.toml").replace("model = \"base\"", ""));
        project.run(&["run"]).fails(1, &["which model is base is not said", "[backend] model"]);
    }
    let lacking = Server::start(Dialect::Ollama, Fault::None);
    let project = without_choices(&lacking, "");
    project.write("finetest.toml", &project.read("finetest.toml").replace("\"diagnostics\"", "\"nosuch\""));
    project.run(&["run"]).fails(1, &["it has no model \"nosuch\"", "diagnostics:latest", "ollama create nosuch"]);
}

#[test]
fn another_template_is_an_error_unless_it_is_let_be() {
    let server = Server::start(Dialect::OpenAi, Fault::OtherTemplate);
    without_choices(&server, "").run(&["run"]).fails(1, &["its chat template is another", "other_template = true"]);
    let ran = without_choices(&server, "other_template = true").run(&["run"]);
    assert!(ran.code == 0 || ran.code == 100, "{}", ran.stderr);
    assert!(ran.stderr.contains("the server's template"), "{}", ran.stderr);
}

#[test]
fn an_answer_that_comes_too_late_ends_the_run_with_what_helps() {
    let server = Server::start(Dialect::Vllm, Fault::Slow);
    project(&server, "timeout = 1.0").run(&["run"]).fails(1, &["gave no answer within 1 seconds", "[backend] timeout"]);
}
