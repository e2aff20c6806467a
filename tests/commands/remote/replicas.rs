//! Several servers that hold the same, and one server with several adapters.

use std::net::{Shutdown, TcpListener, TcpStream};

use serde_json::Value;

use super::server::{Dialect, Fault, Server};
use super::{project, record};
use crate::support::Ran;

/// A run against these servers, and the one that the project was made for.
fn run(servers: &[&Server], more: &str) -> Ran {
    let project = project(servers[0], more);
    let urls: Vec<String> = servers.iter().map(|server| format!("{:?}", server.url)).collect();
    let one = format!("url = \"{}/\"", servers[0].url);
    let several = project.read("finetest.toml").replace(&one, &format!("url = [{}]", urls.join(", ")));
    project.write("finetest.toml", &several);
    project.run(&["run", "--format", "json"])
}

fn answers(ran: &Ran) -> Vec<Value> {
    let found = record(ran);
    let scenarios = found["run"]["scenarios"].as_array().expect("scenarios").clone();
    scenarios.iter().flat_map(|s| s["cases"].as_array().expect("cases")).map(|case| case["answers"].clone()).collect()
}

#[test]
fn replicas_share_the_work_and_answer_as_one_does() {
    for dialect in [Dialect::Llama, Dialect::Vllm] {
        let alone = Server::start(dialect, Fault::None);
        let of_one = run(&[&alone], "").expect(100);
        let two = [Server::start(dialect, Fault::None), Server::start(dialect, Fault::None)];
        let of_two = run(&[&two[0], &two[1]], "").expect(100);
        assert_eq!(answers(&of_one), answers(&of_two));
        assert!(two.iter().all(|server| server.requests() > 30), "both were asked");
    }
}

/// Two replicas, one of which dies: the same answers as one server's, and a note. The record, and the server that is left.
fn with_one_dying(fault: Fault) -> (Value, Server) {
    let alone = Server::start(Dialect::Vllm, Fault::None);
    let of_one = run(&[&alone], "").expect(100);
    let [dying, left] = [fault, Fault::None].map(|fault| Server::start(Dialect::Vllm, fault));
    let of_two = run(&[&dying, &left], "").expect(100);
    assert_eq!(answers(&of_one), answers(&of_two));
    assert!(of_two.stderr.contains("a server is lost, the others go on (1 left)"), "{}", of_two.stderr);
    (record(&of_two), left)
}

#[test]
fn a_replica_that_dies_is_said_and_the_other_answers_what_it_owed() {
    let (_, left) = with_one_dying(Fault::Dies);
    // One text at a time is scored at each, also by the one that is left.
    assert_eq!(left.most_scoring(), 1);
}

#[test]
fn a_replica_that_dies_in_the_last_proof_is_said_and_the_other_is_proven() {
    let (found, _) = with_one_dying(Fault::DiesLast);
    assert!(found["run"]["proof"]["tuned"]["adapter_effect"].as_f64().expect("an effect") > 0.1);
    // The only one is missed.
    let last = Server::start(Dialect::Vllm, Fault::DiesLast);
    run(&[&last], "").fails(1, &["does not answer"]);
}

#[test]
fn replicas_that_do_not_serve_the_same_are_refused() {
    let good = Server::start(Dialect::Vllm, Fault::None);
    let version = Server::start(Dialect::Vllm, Fault::OtherVersion);
    run(&[&good, &version], "").fails(1, &["do not serve the same", "vLLM 0.32.0", "vLLM 0.33.0"]);
    let weights = Server::start(Dialect::Sglang, Fault::OtherWeights);
    let sglang = Server::start(Dialect::Sglang, Fault::None);
    run(&[&sglang, &weights], "").fails(1, &["answer the same prompts otherwise", "weights"]);
    let mixing = Server::start(Dialect::Vllm, Fault::MixesBatches);
    run(&[&good, &mixing], "").fails(1, &[&mixing.url, "--max-loras"]);
    run(&[&good, &good], "").fails(1, &["twice", "name each server once"]);
}

#[test]
fn a_server_that_loads_another_model_between_is_found_by_the_last_proof() {
    let server = Server::start(Dialect::Sglang, Fault::Reloads);
    run(&[&server], "").fails(1, &["base answers otherwise than when the run began", "loads another model"]);
}

/// One address that hands each connection to the next of these servers.
fn router(servers: &[&Server]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let behind: Vec<String> = servers.iter().map(|server| server.url.replace("http://", "")).collect();
    std::thread::spawn(move || {
        for (client, server) in listener.incoming().flatten().zip(behind.iter().cycle()) {
            let Ok(server) = TcpStream::connect(server) else { return };
            let ways = [(client.try_clone(), server.try_clone()), (Ok(server), Ok(client))];
            for (from, to) in ways {
                let (mut from, mut to) = (from.expect("a stream"), to.expect("a stream"));
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
    url
}

#[test]
fn servers_behind_one_address_answer_as_one_does_or_are_refused() {
    let through = |servers: &[&Server]| {
        let project = project(servers[0], "");
        let routed = project.read("finetest.toml").replace(&servers[0].url, &router(servers));
        project.write("finetest.toml", &routed);
        project.run(&["run", "--format", "json"])
    };
    let [one, two] = [Server::start(Dialect::Sglang, Fault::None), Server::start(Dialect::Sglang, Fault::None)];
    let alone = run(&[&Server::start(Dialect::Sglang, Fault::None)], "").expect(100);
    assert_eq!(answers(&through(&[&one, &two]).expect(100)), answers(&alone));
    assert!(one.requests() > 10 && two.requests() > 10, "both were asked");
    // Another model behind the same address answers the same question otherwise.
    let other = Server::start(Dialect::Sglang, Fault::OtherWeights);
    through(&[&one, &other]).fails(1, &["answers in several ways", "each server's own address"]);
}

/// Many tenants of one base: each arm is proven and measured, and base is asked once, and once more to see what it answers by itself.
#[test]
fn several_adapters_of_one_base_share_its_answers() {
    let server = Server::start(Dialect::Vllm, Fault::None);
    let project = project(&server, "");
    let weights = std::fs::read(project.path("adapters/tiny/adapter_model.safetensors")).expect("weights");
    let config = project.read("adapters/tiny/adapter_config.json").replace("\"lora_alpha\": 32", "\"lora_alpha\": 31");
    project.write("adapters/second/adapter_config.json", &config);
    std::fs::write(project.path("adapters/second/adapter_model.safetensors"), weights).expect("a file");
    project.append("finetest.toml", "second = \"second\"\n[arms.second]\nadapter = \"adapters/second\"\n");
    let found = record(&project.run(&["run", "--format", "json"]).expect(100));
    let run = &found["run"];
    for arm in ["tuned", "second"] {
        assert!(run["proof"][arm]["adapter_effect"].as_f64().expect("an effect") > 0.1, "{arm}");
        assert!(run["drift"][arm]["kl"]["mean"].as_f64().expect("a bound") > 0.05, "{arm}");
    }
    let answers =
        |model: &str| server.bodies().iter().filter(|body| body["model"] == model && body["max_tokens"] == 6).count();
    assert_eq!((answers("base"), answers("diagnostics"), answers("second")), (8, 8, 8));
}

/// The scale of an arm is llama-server's to apply; a server that applies adapters whole is refused.
#[test]
fn a_scale_is_sent_or_refused_and_never_passed_over() {
    let llama = Server::start(Dialect::Llama, Fault::None);
    let half = |server: &Server| {
        let project = project(server, "");
        let manifest =
            project.read("finetest.toml").replace("path = \"adapters/tiny\"", "path = \"adapters/tiny\"\nscale = 0.5");
        project.write("finetest.toml", &manifest);
        project.run(&["run"])
    };
    half(&llama).expect(100);
    let scales: Vec<Value> = llama.bodies().iter().map(|body| body["lora"][1]["scale"].clone()).collect();
    assert!(scales.iter().all(|scale| *scale == 0.5 || *scale == 0.0) && scales.contains(&0.5.into()), "{scales:?}");
    let vllm = Server::start(Dialect::Vllm, Fault::None);
    half(&vllm).fails(1, &["applies an adapter whole", "tuned's scale is 0.5", "llama-server"]);
}
