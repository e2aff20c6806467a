//! What `cargo publish` would send: small, and nothing that only the repository needs.
#![expect(clippy::print_stderr, reason = "a test that is skipped says so")]

use std::path::Path;
use std::process::{Command, Output};

/// Bytes of the compressed package.
const MOST_BYTES: u64 = 1 << 20;

/// Files that a package must have: to build, to show its page, and to be lawful to copy.
const NEEDED: [&str; 10] = [
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "CHANGELOG.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "src/lib.rs",
    "src/main.rs",
    "scenarios/packs/facts.toml",
    "schemas/manifest.schema.json",
];

/// First parts of the paths that a package has; what cargo itself adds has no folder.
const FOLDERS: [&str; 3] = ["src", "scenarios", "schemas"];

/// `cargo package` with these arguments; nothing where there is no cargo, as in a test program that was copied elsewhere.
fn package(arguments: &[&str]) -> Option<Output> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let mut command = Command::new(cargo);
    command.args(["package", "--allow-dirty", "--offline", "--manifest-path"]).arg(manifest).args(arguments);
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("skipped: cargo does not start: {error}");
            return None;
        }
    };
    assert!(output.status.success(), "cargo package {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(output)
}

#[test]
fn the_package_has_what_builds_it_and_no_more() {
    let Some(output) = package(&["--list"]) else { return };
    let list = String::from_utf8(output.stdout).expect("UTF-8").replace('\\', "/");
    let files: Vec<&str> = list.lines().collect();
    for needed in NEEDED {
        assert!(files.contains(&needed), "{needed} is missing: add it to `include` in Cargo.toml");
    }
    let foreign = |file: &&&str| file.split_once('/').is_some_and(|(folder, _)| !FOLDERS.contains(&folder));
    let foreign: Vec<&&str> = files.iter().filter(foreign).collect();
    assert!(foreign.is_empty(), "in the package, and of use in the repository alone: {foreign:?}");

    // A file that the code takes in when it is compiled, and that the package lacks, would be found only after publishing.
    for file in files.iter().filter(|file| file.ends_with(".rs")) {
        for included in included(file) {
            assert!(files.contains(&included.as_str()), "{file} includes {included}, which the package does not have");
        }
    }
}

/// The files that a source file includes as text, by their paths in the repository. Those of tests are not needed to build.
fn included(file: &str) -> Vec<String> {
    let test = ["tests.rs", "parity.rs", "reference.rs", "fixture.rs"].iter().any(|name| file.ends_with(name));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = std::fs::read_to_string(path).expect("a readable file");
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let folder = Path::new(file).parent().expect("a folder");
    let paths =
        ["include_str!(\"", "include_bytes!(\"", "include!(\""].into_iter().flat_map(|start| code.split(start).skip(1));
    let paths = paths.filter_map(|rest| rest.split_once('"')).map(|(path, _)| plain(&folder.join(path)));
    paths.filter(|_| !test).collect()
}

/// A path without `..`.
fn plain(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(parts.pop()),
            part => parts.push(part.as_os_str().to_string_lossy().into_owned()),
        }
    }
    parts.join("/")
}

#[test]
fn the_package_is_smaller_than_a_mebibyte() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let target = directory.path().to_str().expect("UTF-8");
    if package(&["--no-verify", "--target-dir", target]).is_none() {
        return;
    }
    let name = concat!(env!("CARGO_PKG_NAME"), "-", env!("CARGO_PKG_VERSION"), ".crate");
    let bytes = std::fs::metadata(directory.path().join("package").join(name)).expect("the package").len();
    assert!(bytes < MOST_BYTES, "{name} has {bytes} bytes, expected fewer than {MOST_BYTES}");
}
