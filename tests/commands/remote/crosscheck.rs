//! A server compared with the weights that are here.

use serde_json::Value;

use super::project;
use super::server::{Dialect, Fault, Server};
use super::text::without_choices;
use crate::support::Project;

/// The scripted server does not have the model that is here, so nearly every answer differs.
#[test]
fn what_a_server_does_otherwise_is_told() {
    for (dialect, parts) in [
        (Dialect::Llama, ["KL at least", "first choice", "what a run shows may be the serving"]),
        (
            Dialect::OpenAi,
            ["tokens up to where answers part", "the server does not tell its tokens", "answers the same"],
        ),
    ] {
        let server = Server::start(dialect, Fault::None);
        let scores = dialect == Dialect::Llama;
        let project = if scores { project(&server, "") } else { without_choices(&server, "") };
        let weights = "model/model.safetensors";
        std::fs::copy(Project::new().path(weights), project.path(weights)).expect("a copy");
        let ran = project.run(&["crosscheck", "--against", "remote"]).expect(100);
        let told = ran.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in parts {
            assert!(told.contains(part), "{part:?} is not in\n{}{}", ran.stdout, ran.stderr);
        }
        let json = project.run(&["crosscheck", "--json"]).expect(100);
        let found: Value = serde_json::from_str(&json.stdout).expect("JSON");
        assert_eq!(found["distributions"], scores, "{found}");
        for arm in found["arms"].as_array().expect("arms") {
            assert_eq!(arm["kl_mean"].is_number(), scores, "{arm}");
            assert!(arm["positions"].as_u64().expect("a number") > 0, "{arm}");
        }
    }
}

#[test]
fn what_cannot_be_compared_is_refused_before_anything_is_asked() {
    let server = Server::start(Dialect::Llama, Fault::None);
    let project = project(&server, "");
    project.run(&["crosscheck", "--max-kl", "0.1"]).fails(2, &["can be shown to be below --max-kl"]);
    project.run(&["crosscheck", "--against", "candle"]).fails(2, &["which is the reference"]);
    project.run(&["crosscheck", "--against", "remote", "--exact"]).fails(2, &["cannot be used with"]);
    assert!(server.bodies().is_empty());
    Project::new().run(&["crosscheck", "--against", "remote"]).fails(2, &["there is no server", "[backend] name"]);
}

/// The scripted server has another model's probabilities: that is refused before anything is asked of it.
#[test]
fn a_server_with_other_weights_is_refused_where_they_are_compared() {
    let server = Server::start(Dialect::Llama, Fault::None);
    let project = project(&server, "prove_weights = true");
    let weights = "model/model.safetensors";
    std::fs::copy(Project::new().path(weights), project.path(weights)).expect("a copy");
    project.run(&["run"]).fails(
        1,
        &["the control group is not proven: what the server computes as", "by the weights here", "crosscheck"],
    );
    assert!(server.bodies().iter().all(|body| body["grammar"].is_string()), "only given text was scored");
    let blind = Server::start(Dialect::OpenAi, Fault::None);
    let project = without_choices(&blind, "prove_weights = true");
    std::fs::copy(Project::new().path(weights), project.path(weights)).expect("a copy");
    project.run(&["run"]).fails(2, &["prove_weights compares log-probabilities", "take it out"]);
    let manifest = project.read("finetest.toml").replace("\"remote\"", "\"candle\"");
    let only: String = manifest
        .lines()
        .filter(|line| !line.starts_with("url") && !line.starts_with("model ="))
        .map(|line| format!("{line}\n"))
        .collect();
    project.write("finetest.toml", only.split("[backend.adapters]").next().expect("a manifest"));
    project.run(&["run"]).fails(1, &["[backend] prove_weights is a server's"]);
}
