//! Somebody else's project: the three files that a team adds to a cargo project, and the installed binary without one.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::pages::Page;
use crate::support::{Project, Ran};

/// The target directory that this test was built in: dependencies are not built again for the project.
fn target() -> PathBuf {
    let binary = Path::new(env!("CARGO_BIN_EXE_finetest"));
    binary.ancestors().nth(2).expect("a target directory").to_path_buf()
}

/// The cargo project of the tutorial, with the path of this crate and the model, data and scenarios of other tests.
pub(crate) fn cargo_project() -> Project {
    let project = Project::new();
    let tutorial = Page::read("docs/tutorials/train-and-test.md");
    let manifest = tutorial.block_of("Cargo.toml").body;
    let shorter = Page::read("README.md").block_with("toml", &["[dev-dependencies]", "[[test]]"]).body;
    assert!(manifest.ends_with(&shorter), "the README and the tutorial show the same lines");
    let dependency = manifest.lines().find(|line| line.starts_with("finetest = ")).expect("the dependency");
    let here = env!("CARGO_MANIFEST_DIR");
    let manifest = manifest.replace(dependency, &format!("finetest = {{ path = {here:?} }}"));
    project.write("Cargo.toml", &format!("{manifest}\n[workspace]\n"));
    std::fs::copy(Path::new(here).join("Cargo.lock"), project.path("Cargo.lock")).expect("the same versions");
    project.write("src/lib.rs", "");
    project.write("tests/scenarios.rs", &tutorial.block_of("tests/scenarios.rs").body);
    project.append("finetest.toml", "\n[gate]\nmin_retention = 0.5\n");
    project
}

fn cargo(arguments: &[&str], directory: &Path) -> Ran {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments).current_dir(directory);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO")) {
        if name != "CARGO_HOME" {
            command.env_remove(name);
        }
    }
    Ran::of(command.env("CARGO_TARGET_DIR", target()).output().expect("cargo runs")).expect(0)
}

/// The library that this test was linked with: what cargo would build for the project, had it not been built.
fn library() -> PathBuf {
    let mut arguments =
        vec!["test", "--no-run", "--offline", "--locked", "--test", "commands", "--message-format", "json"];
    if cfg!(feature = "llama-cpp") {
        arguments.extend(["--features", "llama-cpp"]);
    }
    let told = cargo(&arguments, Path::new(env!("CARGO_MANIFEST_DIR"))).stdout;
    let messages = told.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let is_library = |message: &serde_json::Value| {
        message["target"]["name"] == "finetest"
            && message["target"]["kind"][0] == "lib"
            && message["profile"]["test"] == false
    };
    let built = messages.into_iter().find(is_library).expect("the library's artifact");
    let files = built["filenames"].as_array().expect("files").iter().filter_map(serde_json::Value::as_str);
    PathBuf::from(files.into_iter().find(|file| file.ends_with(".rlib")).expect("an rlib"))
}

/// Compiles the project's `tests/scenarios.rs` as cargo would, but for the library, which is not compiled a second time.
pub(crate) fn compile(project: &Project) -> PathBuf {
    let (library, program) = (library(), project.path("scenarios-test"));
    let dependencies = target().join("debug/deps");
    let mut command = Command::new("rustc");
    command.args(["--edition", "2024", "--crate-name", "scenarios", "tests/scenarios.rs", "-C", "debuginfo=0"]);
    command.arg("-L").arg(format!("dependency={}", dependencies.display()));
    for native in std::fs::read_dir(target().join("debug/build")).expect("build scripts").flatten() {
        command.arg("-L").arg(format!("native={}", native.path().join("out").display()));
    }
    command.arg("--extern").arg(format!("finetest={}", library.display())).arg("-o").arg(&program);
    command.current_dir(project.path(".")).env("CARGO_MANIFEST_DIR", project.path("."));
    Ran::of(command.output().expect("rustc runs")).expect(0);
    program
}

pub(crate) fn cargo_test(project: &Project, program: &Path, arguments: &[&str], ci: bool, update: &str) -> Ran {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(project.path("."));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO") || name.starts_with("INSTA")) {
        command.env_remove(name);
    }
    // As cargo sets them for a test.
    command.env("CARGO", env!("CARGO")).env("CARGO_MANIFEST_DIR", project.path("."));
    command.env("INSTA_UPDATE", update).env_remove("FINETEST_TRAIN").env("FINETEST_CACHE", project.path("cache"));
    if ci {
        command.env("CI", "true");
    } else {
        command.env_remove("CI");
    }
    Ran::of(command.output().expect("the test runs"))
}

#[test]
fn three_files_make_a_cargo_project_test_its_fine_tune() {
    let project = cargo_project();
    // Cargo takes the manifest, finds the test in it and resolves the dependency, all but compiling it.
    let version = Ran::of(Command::new("rustc").arg("-vV").output().expect("rustc runs")).expect(0).stdout;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host");
    let ask = ["metadata", "--offline", "--format-version", "1", "--filter-platform", host];
    let metadata = cargo(&ask, &project.path(".")).stdout;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let theirs = packages.iter().find(|package| package["name"] == "tickets").expect("the project");
    let targets = theirs["targets"].as_array().expect("targets");
    assert!(targets.iter().any(|target| target["name"] == "scenarios" && target["kind"][0] == "test"), "{targets:?}");
    assert!(packages.iter().any(|package| package["name"] == "finetest"), "the dependency is resolved");

    let program = compile(&project);
    let cargo_test = |arguments: &[&str], ci, update| cargo_test(&project, &program, arguments, ci, update);
    let listed = cargo_test(&["--list", "--format", "terse"], false, "no").expect(0);
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

    let new = cargo_test(&[], false, "new").expect(101);
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
    let ran = cargo_test(&[], true, "no").expect(0);
    assert!(ran.stdout.contains("test result: ok"), "{}", ran.stdout);
    assert!(ran.stdout.contains("ignored (base fails it too"), "{}", ran.stdout);
    let one = cargo_test(&["control::prefers::any", "--exact"], true, "no").expect(0);
    assert!(one.stdout.contains("1 passed"), "{}", one.stdout);

    let snapshot = project.read("snapshots/says.snap");
    project.write("snapshots/says.snap", &snapshot.replace("hello there", "hello where"));
    let changed = cargo_test(&["snapshot::says"], true, "no").expect(101);
    assert!(changed.stdout.contains("hello where"), "{}", changed.stdout);
    let forced = cargo_test(&["snapshot::says"], true, "always").expect(101);
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
