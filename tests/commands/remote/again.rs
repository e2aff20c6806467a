//! A server that answers otherwise by itself: it is asked some cases once more, and the gate counts no such change as the fine-tune's.

use super::record;
use super::server::{Dialect, Fault, Server};
use super::text::without_choices;

#[test]
fn what_a_server_answers_otherwise_by_itself_widens_the_gate_and_is_told() {
    let steady = Server::start(Dialect::Vllm, Fault::None);
    let found = record(&without_choices(&steady, "").run(&["run", "--format", "json"]).expect(0));
    let again = &found["run"]["again"];
    for arm in ["base", "tuned"] {
        let cases = again[arm].as_array().expect("cases");
        assert_eq!(cases.len(), 4, "{again}");
        assert!(cases.iter().all(|case| case["other_answer"] == false && case["other_verdict"] == false), "{again}");
    }
    let controls = found["run"]["scenarios"].as_array().expect("scenarios").iter().find(|s| s["role"] == "control");
    let longer = &controls.expect("controls")["cases"][1]["answers"]["base"]["samples"][0]["turns"][0]["text"];

    // Base passes this control the first time, and tuned never.
    let wavering = Server::start(Dialect::Vllm, Fault::Wavers);
    let project = without_choices(&wavering, "");
    let (target, control) = (project.read("scenarios/target.toml"), project.read("scenarios/control.toml"));
    let (before, last) = control.rsplit_once("{ max-length = 1000 }").expect("a check");
    project.write("scenarios/control.toml", &format!("{before}{{ exact = {longer} }}{last}"));
    // Of two scenarios that ask the same only one: a second question would count as asked again.
    project.write("scenarios/target.toml", &target.replace("a longer question", "a question"));
    project.write(
        "finetest.toml",
        &project.read("finetest.toml").replace("min_retention = 0.1", "max_broken_controls = 0"),
    );
    let ran = project.run(&["run", "--format", "json"]).expect(0);
    let found = record(&ran);
    let base = found["run"]["again"]["base"].as_array().expect("cases").clone();
    let other: Vec<_> = base.iter().filter(|case| case["other_verdict"] == true).collect();
    assert!(other.len() == 1 && other[0]["case"].as_str().expect("a name").starts_with("control::"), "{base:?}");
    let rule = &found["decision"]["rules"][0];
    assert_eq!((&rule["verdict"], &rule["threshold"]), (&"passed".into(), &1.0.into()), "{rule}");
    let words = rule["explanation"].as_str().expect("words");
    assert!(words.contains("1 of 4 cases have another verdict when they are asked again"), "{words}");
    let page = project.run(&["run"]).expect(0).stdout;
    assert!(page.contains("asked again 4 cases of both arms"), "{page}");
}
