//! Paths that a manifest names.

use std::path::{Component, Path, PathBuf};

/// Where an adapter is: `path`, or `adapters/<project>`.
pub(super) fn adapter_path(root: &Path, path: Option<PathBuf>, project: &str) -> PathBuf {
    under(root, path.unwrap_or_else(|| Path::new("adapters").join(project)))
}

/// `path`, which is relative to `root` unless it is absolute; a root that is the working directory is not spelt out.
pub(super) fn under(root: &Path, path: impl AsRef<Path>) -> PathBuf {
    if root == Path::new(".") { path.as_ref().to_path_buf() } else { root.join(path) }
}

/// What is the same for two paths of one file, whether or not it is there.
pub(super) fn identity(path: &Path) -> PathBuf {
    path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_path_buf())
}

/// Takes `./` and `a/../` out of a path, so that messages show it as a person would write it.
pub(super) fn normalise(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match (part, parts.components().next_back()) {
            (Component::CurDir, _) | (Component::ParentDir, Some(Component::RootDir)) => {}
            (Component::ParentDir, Some(Component::Normal(_))) => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    if parts.as_os_str().is_empty() { PathBuf::from(".") } else { parts }
}

/// `path` relative to `root` where it lies in it, with `/`.
#[must_use]
pub(crate) fn relative(root: &Path, path: &Path) -> String {
    let absolute = |p: &Path| normalise(&std::path::absolute(p).unwrap_or_else(|_| p.to_path_buf()));
    let (inside, root) = (absolute(path), absolute(root));
    let path = inside.strip_prefix(root).unwrap_or(path);
    path.to_string_lossy().replace('\\', "/")
}

/// The last name of a directory.
pub(super) fn directory_name(root: &Path) -> String {
    identity(root).file_name().map_or_else(|| "project".to_owned(), |n| n.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_shown_without_detours() {
        for (given, expected) in [
            ("recipes/../finetest.toml", "finetest.toml"),
            ("../a/./b", "../a/b"),
            ("../../a", "../../a"),
            ("./a", "a"),
            ("a/..", "."),
            ("/../a", "/a"),
        ] {
            assert_eq!(normalise(Path::new(given)), Path::new(expected), "{given}");
        }
    }

    #[test]
    fn a_path_in_the_project_is_relative_however_the_root_is_written() {
        let here = std::env::current_dir().expect("a working directory");
        assert_eq!(relative(Path::new("."), &here.join("scenarios/a.toml")), "scenarios/a.toml");
        assert_eq!(relative(&here, Path::new("./scenarios/a.toml")), "scenarios/a.toml");
        assert_eq!(relative(Path::new("p/q/.."), Path::new("p/a.toml")), "a.toml");
        assert_eq!(relative(Path::new("p"), Path::new("q/a.toml")), "q/a.toml");
    }
}
