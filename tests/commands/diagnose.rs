//! `finetest diagnose`: logs of this and of other trainers.

use serde_json::{Value, json};

use crate::support::Project;

/// A log as transformers writes it.
fn log(losses: impl Iterator<Item = f64>, validation: &[(usize, f64)]) -> String {
    let train = losses
        .enumerate()
        .map(|(i, loss)| json!({ "step": i + 1, "loss": loss, "learning_rate": 1e-4, "grad_norm": 1.0 }));
    let validation =
        validation.iter().map(|(step, loss)| json!({ "step": step, "eval_loss": loss, "eval_runtime": 3.5 }));
    json!({ "global_step": 1, "best_metric": null, "log_history": train.chain(validation).collect::<Vec<Value>>() })
        .to_string()
}

#[test]
fn a_log_of_another_trainer_is_told_in_words_and_as_json() {
    let project = Project::bare();
    let falls = (0..80).map(|i| 0.3 + 2.0 * (-f64::from(i) / 12.0).exp());
    project.write("out/checkpoint-80/trainer_state.json", &log(falls, &[(20, 1.2), (40, 1.0), (60, 1.2), (80, 1.5)]));
    let ran = project.run(&["diagnose", "out"]).expect(0);
    for part in [
        "out/checkpoint-80/trainer_state.json: 80 losses of training, 4 of validation\n",
        "! overfitting: validation was best at step 40, and is worse since",
        "    try: train again with load_best_model_at_end = true, or take the checkpoint of step 40",
    ] {
        assert!(ran.stdout.contains(part), "{part}\n{}", ran.stdout);
    }
    let json: Value =
        serde_json::from_str(&project.run(&["diagnose", "out", "--json"]).expect(0).stdout).expect("JSON");
    assert_eq!((&json["diagnoses"][0]["sign"], &json["diagnoses"][0]["since"]), (&"overfitting".into(), &40.into()));
}

#[test]
fn a_training_here_says_what_its_losses_show() {
    let project = Project::new();
    project.run(&["train"]).expect(0);
    let ran = project.run(&["diagnose"]).expect(0);
    assert!(ran.stdout.contains("adapters/tiny/trainer_state.json: 4 losses of training"), "{}", ran.stdout);
    assert!(ran.stdout.contains("✓ too short: there are too few losses to say more"), "{}", ran.stdout);
}

#[test]
fn what_is_no_log_says_what_was_expected() {
    let project = Project::bare();
    project.run(&["diagnose", "nowhere"]).fails(1, &["nowhere"]);
    project.write("empty/readme.txt", "");
    project.run(&["diagnose", "empty"]).fails(1, &["empty", "has no trainer_state.json", "checkpoint-STEP"]);
    project.write("log.json", "{\"log_history\": 3}");
    project.run(&["diagnose", "log.json"]).fails(1, &["log.json", "log_history"]);
    project.write("none.json", "{\"log_history\": [{\"step\": 1, \"eval_loss\": 2.0}]}");
    project.run(&["diagnose", "none.json"]).fails(1, &["none.json", "no loss of training"]);
    project.run(&["diagnose"]).fails(2, &["finetest.toml"]);
}

#[test]
fn rates_are_swept_without_a_change_to_the_project() {
    let project = Project::new();
    let ran = project.run(&["train", "--find-lr"]).expect(0);
    for part in ["falls fastest at", "suggested", "the recipe has 1e-2", ".finetest/find-lr.svg"] {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
    assert!(project.read(".finetest/find-lr.svg").contains("loss less base"));
    assert!(!project.path("adapters").exists() && !project.path(".finetest/checkpoints").exists());
    let json: Value =
        serde_json::from_str(&project.run(&["train", "--find-lr", "--json", "--plot", "sweep.svg"]).expect(0).stdout)
            .expect("JSON");
    assert!(json["suggested"].as_f64().expect("a rate") > 0.0 && json["points"].as_array().expect("points").len() > 8);
    project.run(&["train", "--find-lr", "--plot", "sweep.svg"]).fails(2, &["sweep.svg", "exists already"]);
    project.run(&["train", "--find-lr", "--force"]).fails(2, &["--find-lr"]);
}

#[test]
fn a_training_that_does_not_get_better_stops_and_keeps_its_best_adapter() {
    let project = Project::new();
    // A rate that breaks what it has learnt.
    let manifest = project
        .read("finetest.toml")
        .replace("max_steps = 4", "max_steps = 40\nnum_epochs = 40\neval_steps = 1\nearly_stopping_patience = 3");
    project.write("finetest.toml", &manifest.replace("learning_rate = 1e-2", "learning_rate = 0.3"));
    let ran = project.run(&["train"]).expect(0);
    assert!(
        ran.stdout.contains("; kept step ") && ran.stderr.contains("stopped after "),
        "{}\n{}",
        ran.stdout,
        ran.stderr
    );
    assert!(ran.stderr.contains("9 training examples are few"), "{}", ran.stderr);
    let state: Value = serde_json::from_str(&project.read("adapters/tiny/trainer_state.json")).expect("JSON");
    let best = state["best_global_step"].as_u64().expect("a step");
    assert_eq!((state["global_step"].as_u64(), &state["stopped_early"]), (Some(best + 3), &true.into()));
    // Its examples' lines are in the log.
    assert!(state["log_history"][0]["lines"].as_str().is_some_and(|lines| lines.split(',').count() == 2), "{state}");
    let again = project.run(&["train"]).expect(0);
    assert!(again.stdout.contains("nothing to train"), "{}", again.stdout);

    project.write("finetest.toml", &manifest.replace("val_set_size = 0.25", "val_set_size = 0.0"));
    project.run(&["train"]).fails(1, &["early_stopping_patience", "val_set_size"]);
}
