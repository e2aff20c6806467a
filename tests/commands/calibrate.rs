//! `finetest calibrate`: what is refused before anything is asked, and a base that can do nothing.

use crate::support::Project;

#[test]
fn what_cannot_be_calibrated_is_refused_before_the_model_is_loaded() {
    let project = Project::new();
    project.run(&["calibrate", "--nulls", "3"]).fails(2, &["--nulls is 3, expected at least 19"]);
    project
        .run(&["calibrate", "--pack", "fact"])
        .fails(2, &["there is no pack \"fact\"", "did you mean facts?", "completion-text"]);
    project.write("scenarios/pack-facts.toml", "mine");
    project
        .run(&["calibrate", "--pack", "facts", "--pack", "tone"])
        .fails(1, &["scenarios/pack-facts.toml: already exists", "calibrate overwrites no scenario"]);
    assert_eq!(project.read("scenarios/pack-facts.toml"), "mine");
    assert!(!project.path("scenarios/pack-tone.toml").exists());
    project.run(&["calibrate", "--model", "nowhere", "--pack", "tone"]).fails(1, &["nowhere: there is no such file"]);
}

#[test]
fn a_base_that_passes_nothing_has_nothing_to_lose() {
    let project = Project::new();
    let manifest = project.read("finetest.toml");
    // Random weights: the texts are noise, whatever the choices say.
    project.run(&["calibrate", "--pack", "facts"]).fails(1, &["passes no question of facts", "chat template"]);
    assert!(!project.path("scenarios/pack-facts.toml").exists());
    assert_eq!(project.read("finetest.toml"), manifest);
}
