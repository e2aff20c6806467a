//! vLLM loads adapters while it runs.

use serde_json::Value;

use super::server::{Dialect, Fault, Server};
use super::{project, record};
use crate::support::Project;

/// A project whose server loads the adapter from `at`.
fn loading(server: &Server, at: &str) -> Project {
    let project = project(server, &format!("adapters_at = {at:?}"));
    let manifest = project.read("finetest.toml");
    project.write("finetest.toml", manifest.split("[backend.adapters]").next().expect("a manifest"));
    project
}

fn answers(record: &Value) -> Vec<Value> {
    let scenarios = record["run"]["scenarios"].as_array().expect("scenarios").clone();
    scenarios.iter().flat_map(|s| s["cases"].as_array().expect("cases")).map(|c| c["answers"].clone()).collect()
}

#[test]
fn an_adapter_is_loaded_once_under_a_name_that_has_its_hash() {
    let named = Server::start(Dialect::Vllm, Fault::None);
    let expected = record(&project(&named, "").run(&["run", "--format", "json"]).expect(100));
    let server = Server::start(Dialect::Vllm, Fault::None);
    let here = loading(&server, ".");
    let found = record(&here.run(&["run", "--format", "json"]).expect(100));
    assert_eq!(answers(&found), answers(&expected));
    let loaded = server.loaded();
    let [(name, path)] = loaded.as_slice() else { panic!("{loaded:?}") };
    let hash = name.strip_prefix("tuned-").expect("the arm's name");
    assert!(hash.len() == 12 && hash.chars().all(|c| c.is_ascii_hexdigit()), "{name}");
    assert!(path.starts_with('/') && path.ends_with("adapters/tiny"), "{path}");
    // Another run, whose answers are not stored, finds it there.
    std::fs::remove_dir_all(here.path(".finetest/store")).expect("a store");
    here.run(&["run", "-q"]).expect(100);
    assert_eq!(server.loaded(), loaded);
    // The same directory under another path at the server.
    let elsewhere = Server::start(Dialect::Vllm, Fault::None);
    loading(&elsewhere, "/mnt/project/").run(&["run", "-q"]).expect(100);
    assert_eq!(elsewhere.loaded(), [(name.clone(), "/mnt/project/adapters/tiny".to_owned())]);
}

#[test]
fn a_server_that_does_not_load_it_is_told_with_what_to_do() {
    let cases = [
        (Dialect::Vllm, Fault::LowRank, ["max_lora_rank 4", "take a rank of"]),
        (Dialect::Vllm, Fault::LoadsNone, ["answered 404", "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"]),
        (Dialect::Llama, Fault::None, ["llama-server, which loads adapters when it starts", "--lora"]),
        (Dialect::Sglang, Fault::None, ["which only vLLM is", "take [backend] adapters_at out"]),
    ];
    for (dialect, fault, parts) in cases {
        let server = Server::start(dialect, fault);
        loading(&server, ".").run(&["run"]).fails(1, &parts);
        assert!(server.bodies().is_empty(), "{dialect:?}");
    }
    let server = Server::start(Dialect::Vllm, Fault::None);
    loading(&server, "here").run(&["run"]).fails(1, &["[backend] adapters_at", "is \"here\"", "whole path"]);
    project(&server, "adapters_at = \".\"").run(&["run"]).fails(1, &["[backend.adapters] names some", "take one"]);
}
