//! Somebody else's project: the three files that a team adds to a cargo project, and the installed binary without one.

#![cfg(feature = "candle")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Project, Ran};

/// The target directory that this test was built in: dependencies are not built again for the project.
fn target() -> PathBuf {
    let binary = Path::new(env!("CARGO_BIN_EXE_finetest"));
    binary.ancestors().nth(2).expect("a target directory").to_path_buf()
}

/// The code blocks of the README's section on one's own project, each with its language, as they are written there.
fn readme_blocks() -> Vec<(String, String)> {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("a README");
    let section = readme.split("\n## In your own project\n").nth(1).expect("the section");
    let section = section.split("\n## ").next().expect("its text");
    let fenced = section.split("\n```").skip(1).step_by(2);
    let block = |text: &str| {
        let (language, body) = text.split_once('\n').expect("a language and a body");
        (language.to_owned(), format!("{body}\n"))
    };
    fenced.map(block).collect()
}

/// The one block of the README's section that holds all of `signs`.
fn readme_block(signs: &[&str]) -> String {
    let mut found = readme_blocks().into_iter().filter(|(_, body)| signs.iter().all(|sign| body.contains(sign)));
    let (_, body) = found.next().unwrap_or_else(|| panic!("no block of the README has {signs:?}"));
    assert!(found.next().is_none(), "two blocks of the README have {signs:?}");
    body
}

/// The README's own project: its manifest, data and scenarios as they are written. One line is replaced, `source`, by the tiny model of
/// the fixtures, since a test downloads nothing.
fn readme_project() -> Project {
    let project = Project::new();
    std::fs::remove_dir_all(project.path("scenarios")).expect("the scenarios of other tests go");
    let manifest = readme_block(&["[model]", "[gate]"]);
    let source = manifest.lines().find(|line| line.starts_with("source = ")).expect("a source");
    project.write("finetest.toml", &manifest.replace(source, "source = \"model\""));
    project.write("data/train.jsonl", &readme_block(&["{\"messages\": "]));
    for (_, body) in readme_blocks().iter().filter(|(language, _)| language == "toml") {
        if let Some(path) = body.lines().next().and_then(|line| line.strip_prefix("# ")) {
            project.write(path, body);
        }
    }
    project
}

/// A cargo project of three files, with a path instead of a version, and this crate's own profile.
fn cargo_project() -> Project {
    let project = Project::new();
    let here = env!("CARGO_MANIFEST_DIR");
    let own = std::fs::read_to_string(Path::new(here).join("Cargo.toml")).expect("a manifest");
    // With the dependencies of this crate's own tests, features are the same, and nothing is built again.
    let tests = own.split_inclusive("\n\n").find(|part| part.starts_with("[dev-dependencies]")).expect("a section");
    let tests = tests.trim_start_matches("[dev-dependencies]").trim();
    // A section may have a comment before it.
    let is_profile = |part: &&str| part.lines().any(|line| line.starts_with("[profile.dev"));
    let profiles: String = own.split_inclusive("\n\n").filter(is_profile).collect();
    // The README's block, with this crate's directory in place of the path there, and the dependencies above.
    let shown = readme_block(&["[dev-dependencies]", "[[test]]"]);
    let dependency = shown.lines().find(|line| line.starts_with("finetest = ")).expect("the dependency");
    let shown = shown.replace(dependency, &format!("finetest = {{ path = {here:?} }}\n{tests}\n"));
    project.write(
        "Cargo.toml",
        &format!(
            "[package]\nname = \"theirs\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n\
             {shown}\n{profiles}\n\
             [profile.dev.package.finetest]\nopt-level = 1\ndebug = \"line-tables-only\"\n\n[workspace]\n"
        ),
    );
    std::fs::copy(Path::new(here).join("Cargo.lock"), project.path("Cargo.lock")).expect("the same versions");
    project.write("src/lib.rs", "");
    project.write("tests/scenarios.rs", &readme_block(&["finetest::"]));
    project.append("finetest.toml", "\n[gate]\nmin_retention = 0.5\n");
    project
}

fn cargo_test(project: &Project, arguments: &[&str], ci: bool, update: &str) -> Ran {
    let mut command = Command::new(env!("CARGO"));
    command.args(["test", "--offline", "--test", "scenarios", "--"]).args(arguments).current_dir(project.path("."));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO") || name.starts_with("INSTA")) {
        if name != "CARGO_HOME" {
            command.env_remove(name);
        }
    }
    command.env("CARGO_TARGET_DIR", target()).env("INSTA_UPDATE", update).env_remove("FINETEST_TRAIN");
    command.env("FINETEST_CACHE", project.path("cache"));
    if ci {
        command.env("CI", "true");
    } else {
        command.env_remove("CI");
    }
    Ran::of(command.output().expect("cargo runs"))
}

#[test]
fn three_files_make_a_cargo_project_test_its_fine_tune() {
    let project = cargo_project();
    let listed = cargo_test(&project, &["--list", "--format", "terse"], false, "no").expect(0);
    let names: Vec<&str> = listed.stdout.lines().collect();
    for name in [
        "target::says::case_1: test",
        "control::prefers::any: test",
        "snapshot::says: test",
        "gate::min_retention: test",
    ] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    assert!(!project.path("adapters").exists(), "listing trains and loads nothing");

    let new = cargo_test(&project, &[], false, "new").expect(101);
    assert!(new.stderr.contains("training adapters/tiny"), "{}", new.stderr);
    assert!(new.stdout.contains("test gate::min_retention") && new.stdout.contains("snapshot::says"), "{}", new.stdout);
    let fresh = project.path("snapshots/says.snap.new");
    assert!(fresh.is_file(), "new answers wait for a review in the project's own folder");

    // What `cargo insta accept` does.
    for name in ["says", "prefers"] {
        std::fs::rename(
            project.path(&format!("snapshots/{name}.snap.new")),
            project.path(&format!("snapshots/{name}.snap")),
        )
        .expect("accepted");
    }
    let ran = cargo_test(&project, &[], true, "no").expect(0);
    assert!(ran.stdout.contains("test result: ok"), "{}", ran.stdout);
    let one = cargo_test(&project, &["control::prefers::any", "--exact"], true, "no").expect(0);
    assert!(one.stdout.contains("1 passed"), "{}", one.stdout);

    let snapshot = project.read("snapshots/says.snap");
    project.write("snapshots/says.snap", &snapshot.replace("hello there", "hello where"));
    let changed = cargo_test(&project, &["snapshot::says"], true, "no").expect(101);
    assert!(changed.stdout.contains("hello where"), "{}", changed.stdout);
    let forced = cargo_test(&project, &["snapshot::says"], true, "always").expect(101);
    assert!(forced.stdout.contains("INSTA_UPDATE"), "{}", forced.stdout);
    assert!(project.read("snapshots/says.snap").contains("hello where"), "nothing is approved in CI");
}

#[test]
fn the_readme_s_own_project_runs_as_it_is_written() {
    let project = readme_project();
    let ran = project.run(&["--json"]);
    assert!([0, 100].contains(&ran.code), "stdout:\n{}\nstderr:\n{}", ran.stdout, ran.stderr);
    let record: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    let rules = record["decision"]["rules"].as_array().expect("rules");
    let names: Vec<&str> = rules.iter().filter_map(|rule| rule["name"].as_str()).collect();
    assert_eq!(names, ["min_target_gain", "min_retention"]);
    for rule in rules {
        // A random model need not pass a rule, but each must have cases to judge: one without them can never pass.
        assert!(["passed", "failed"].contains(&rule["verdict"].as_str().expect("a verdict")), "{rule}");
        assert!(rule["n"].as_u64().expect("a count") > 0, "{rule}");
    }
    assert!(project.path("adapters").is_dir(), "its recipe trains");
    for name in ["target::tickets::refund", "gate::min_target_gain"] {
        assert!(include_str!("../README.md").contains(name), "{name}");
    }
}

#[test]
fn the_installed_binary_needs_no_cargo_project() {
    let project = Project::new();
    project.append("finetest.toml", "\n[gate]\nmin_retention = 0.5\n");
    let mut command = project.command(&[]);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO")) {
        command.env_remove(name);
    }
    let ran = Ran::of(command.output().expect("the binary runs")).expect(0);
    assert!(ran.stdout.contains("PASS"), "{}", ran.stdout);
    assert!(!project.path("Cargo.toml").exists() && !project.path("snapshots").exists());

    // Approved answers, when a colleague with cargo has put them there, are compared and left alone.
    project.write("snapshots/says.snap", "---\nsource: tests/scenarios.rs\n---\nother answers\n");
    let ran = project.run(&["run"]).expect(0);
    assert!(ran.stderr.contains("says changed") && ran.stderr.contains("prefers is new"), "{}", ran.stderr);
    assert!(project.read("snapshots/says.snap").contains("other answers"));
}
