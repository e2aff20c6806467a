//! Somebody else's project: the three files that a team adds to a cargo project, and the installed binary without one.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Project, Ran};

/// The target directory that this test was built in: dependencies are not built again for the project.
fn target() -> PathBuf {
    let binary = Path::new(env!("CARGO_BIN_EXE_finetest"));
    binary.ancestors().nth(2).expect("a target directory").to_path_buf()
}

/// What the README shows, with a path instead of a version, and this crate's own profile.
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
    project.write(
        "Cargo.toml",
        &format!(
            "[package]\nname = \"theirs\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n\
             [dev-dependencies]\nfinetest = {{ path = {here:?} }}\n{tests}\n\n\
             [[test]]\nname = \"scenarios\"\nharness = false\n\n{profiles}\n\
             [profile.dev.package.finetest]\nopt-level = 1\ndebug = \"line-tables-only\"\n\n[workspace]\n"
        ),
    );
    std::fs::copy(Path::new(here).join("Cargo.lock"), project.path("Cargo.lock")).expect("the same versions");
    project.write("src/lib.rs", "");
    project.write("tests/scenarios.rs", "finetest::scenarios!();\n");
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
