//! From what a run is made: the manifest, and the commit that its repository is at.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::config::Config;
use crate::record::{Commit, Made};
use crate::snapshot;

/// The circumstances of a run that begins now.
pub(super) fn made(config: &Config) -> Made {
    Made {
        manifest: config.relative(&config.manifest),
        git: commit(&config.root),
        ci: snapshot::is_ci(),
        ..Made::now()
    }
}

/// The commit of the repository that `root` lies in; `None` where it lies in none, or git is not there.
fn commit(root: &Path) -> Option<Commit> {
    let commit = git(root, &["rev-parse", "--verify", "HEAD"])?.trim().to_owned();
    let is_hash = matches!(commit.len(), 40 | 64) && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    let changed = git(root, &["status", "--porcelain", "--untracked-files=no"])?;
    is_hash.then(|| Commit { commit, dirty: !changed.trim().is_empty() })
}

/// What git says. A repository's own settings must not make it run a program or change a file.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let root = if root.as_os_str().is_empty() { Path::new(".") } else { root };
    let mut command = Command::new("git");
    command.args(["--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"]);
    command
        .args(arguments)
        .current_dir(root)
        .env("LC_ALL", "C")
        .env("GIT_NO_LAZY_FETCH", "1")
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_at_a_commit_and_says_whether_a_file_was_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        assert_eq!(commit(root), None, "no repository");
        let run = |arguments: &[&str]| {
            let named = ["-c", "user.name=n", "-c", "user.email=e@e", "-c", "commit.gpgsign=false"];
            let status =
                Command::new("git").args(named).args(arguments).current_dir(root).stdout(Stdio::null()).status();
            assert!(status.expect("git is there").success(), "{arguments:?}");
        };
        run(&["init", "-q"]);
        assert_eq!(commit(root), None, "no commit yet");
        std::fs::write(root.join("a"), "1").expect("a file");
        run(&["add", "a"]);
        run(&["commit", "-q", "-m", "m"]);
        let clean = commit(root).expect("a commit");
        assert!(!clean.dirty && clean.commit.len() == 40);
        std::fs::write(root.join("b"), "unknown to git").expect("a file");
        assert_eq!(commit(root).as_ref(), Some(&clean));
        std::fs::write(root.join("a"), "2").expect("a file");
        assert_eq!(commit(root), Some(Commit { dirty: true, ..clean }));
    }
}
