//! The cargo workspace that insta counts paths from, found without cargo.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use crate::files::read_regular_text;

const MANIFEST: &str = "Cargo.toml";
/// Bytes of a cargo manifest.
const MOST_BYTES: u64 = 4 << 20;
/// The test that the README puts into a project.
const TEST: &str = "tests/scenarios.rs";

/// The workspace of a project in `root` (canonical): what `INSTA_WORKSPACE_ROOT` says, else that of the cargo package in `root`, else
/// `root` itself.
pub(super) fn workspace_of(root: &Path) -> PathBuf {
    let said = std::env::var_os("INSTA_WORKSPACE_ROOT").filter(|said| !said.is_empty()).map(PathBuf::from);
    let found = said.or_else(|| cargo_workspace(root)).unwrap_or_else(|| root.to_path_buf());
    found.canonicalize().unwrap_or(found)
}

/// The workspace of the cargo package in a directory; `None` where there is no package.
fn cargo_workspace(package: &Path) -> Option<PathBuf> {
    let manifest = read(package)?;
    if manifest.contains_key("workspace") {
        return Some(package.to_path_buf());
    }
    if let Some(said) = manifest.get("package").and_then(|own| own.get("workspace")).and_then(toml::Value::as_str) {
        return Some(package.join(said));
    }
    let above = package.ancestors().skip(1).find_map(|directory| {
        let workspace = read(directory)?.get("workspace").cloned()?;
        Some((directory, workspace))
    });
    let Some((directory, workspace)) = above else { return Some(package.to_path_buf()) };
    let is_excluded = excluded(&workspace).iter().any(|excluded| package.starts_with(directory.join(excluded)));
    Some(if is_excluded { package } else { directory }.to_path_buf())
}

fn read(directory: &Path) -> Option<toml::Table> {
    read_regular_text(&directory.join(MANIFEST), MOST_BYTES).ok()?.parse().ok()
}

fn excluded(workspace: &toml::Value) -> Vec<&str> {
    let listed = workspace.get("exclude").and_then(toml::Value::as_array);
    listed.into_iter().flatten().filter_map(toml::Value::as_str).collect()
}

/// The file of the test that has the snapshots of a project, as insta names it: counted from the workspace.
pub(super) fn test_source(root: &Path, workspace: &Path) -> String {
    stored(&relative(&root.join(TEST), workspace))
}

/// Whether the project has that test.
pub(super) fn has_test(root: &Path) -> bool {
    root.join(TEST).is_file()
}

/// A file of the project as insta names the input of a snapshot; `None` where it is not there or lies outside of the workspace.
pub(super) fn input_file(file: &Path, workspace: &Path) -> Option<String> {
    let file = file.canonicalize().ok()?;
    file.strip_prefix(workspace).ok().map(stored)
}

/// A path with `/`, as it is stored.
fn stored(path: &Path) -> String {
    let text = path.to_string_lossy();
    if cfg!(windows) { text.replace('\\', "/") } else { text.into_owned() }
}

/// `path` as it is reached from `base`, both absolute.
fn relative(path: &Path, base: &Path) -> PathBuf {
    let shared = path.components().zip(base.components()).take_while(|(a, b)| a == b).count();
    let up = base.components().skip(shared).map(|_| Component::ParentDir.as_os_str());
    let down = path.components().skip(shared).map(Component::as_os_str);
    up.chain(down).collect::<Vec<&OsStr>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with cargo manifests, and what they say.
    fn directory(manifests: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for (path, text) in manifests {
            let path = directory.path().join(path).join(MANIFEST);
            std::fs::create_dir_all(path.parent().expect("a directory")).expect("created");
            std::fs::write(path, text).expect("written");
        }
        let root = directory.path().canonicalize().expect("there");
        (directory, root)
    }

    #[test]
    fn a_package_lies_in_the_workspace_that_cargo_finds() {
        let (_kept, root) = directory(&[
            ("", "[workspace]\nmembers = [\"a\"]\nexclude = [\"out\"]\n"),
            ("a", "[package]\nname = \"a\"\n"),
            ("out/b", "[package]\nname = \"b\"\n"),
            ("own", "[package]\nname = \"c\"\n[workspace]\n"),
            ("named", "[package]\nname = \"d\"\nworkspace = \"../own\"\n"),
            ("broken", "[package"),
        ]);
        let found = |package: &str| cargo_workspace(&root.join(package));
        assert_eq!(found("a"), Some(root.clone()));
        assert_eq!(found("out/b"), Some(root.join("out/b")));
        assert_eq!(found("own"), Some(root.join("own")));
        assert_eq!(found("named"), Some(root.join("named/../own")));
        assert_eq!((found("broken"), found("absent")), (None, None));
        assert_eq!(test_source(&root.join("a"), &root), "a/tests/scenarios.rs");
        assert_eq!(test_source(&root.join("a"), &root.join("own")), "../a/tests/scenarios.rs");
    }

    #[test]
    fn a_package_without_a_workspace_is_its_own() {
        let (_kept, root) = directory(&[("p", "[package]\nname = \"p\"\n")]);
        // A manifest above the temporary directory is somebody else's and may be a workspace.
        let above = root.ancestors().any(|directory| directory.join(MANIFEST).exists());
        assert!(above || cargo_workspace(&root.join("p")) == Some(root.join("p")));
    }
}
