//! Where a project's snapshots lie: the approved ones, and those that wait for a review.

use std::path::{Component, Path, PathBuf};

use super::workspace::workspace_of;
use super::{MOST_BYTES, file_of};
use crate::error::{Error, Result};
use crate::files::{read_regular_text, step, sync_directory};

/// How the name of an approved snapshot ends.
const APPROVED: &str = ".snap";
/// How the name of a snapshot that waits for a review ends.
const PENDING: &str = ".snap.new";

/// The folders of a project's snapshots, checked: what is written there stays in the project.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The project's directory, canonical.
    pub(super) root: PathBuf,
    /// The workspace that insta counts paths from, canonical.
    pub(super) workspace: PathBuf,
    /// Folder of the approved snapshots, as the manifest names it.
    folder: PathBuf,
    /// Folder of the pending ones: the same unless `INSTA_PENDING_DIR` names another.
    pending_folder: PathBuf,
}

/// What became of a scenario's pending answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// Their file was removed.
    Removed(PathBuf),
    /// There were none.
    NothingPending,
}

impl Place {
    /// The snapshots in `folder` of the project in `root`.
    ///
    /// # Errors
    /// The folder is a link, is no folder, or is outside the project.
    pub(crate) fn of(root: &Path, folder: &Path) -> Result<Self> {
        let named = if root.as_os_str().is_empty() { Path::new(".") } else { root };
        let root = named.canonicalize().map_err(Error::io(named, "read"))?;
        let real = checked(&root, folder)?;
        let workspace = workspace_of(&root);
        let pending_folder = match std::env::var_os("INSTA_PENDING_DIR").filter(|said| !said.is_empty()) {
            None => folder.to_path_buf(),
            Some(said) => Path::new(&said).join(real.strip_prefix(&workspace).map_err(|_| {
                Error::Usage(format!(
                    "INSTA_PENDING_DIR is set, and {} lies outside of the workspace {}; unset one of INSTA_PENDING_DIR and \
                     INSTA_WORKSPACE_ROOT",
                    folder.display(),
                    workspace.display()
                ))
            })?),
        };
        Ok(Self { root, workspace, folder: folder.to_path_buf(), pending_folder })
    }

    /// The folder of the approved snapshots.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The approved snapshot of a scenario, which need not be there.
    pub(super) fn approved_file(&self, scenario: &str) -> PathBuf {
        self.folder.join(file_of(scenario))
    }

    /// Where insta puts a scenario's answers that wait for a review.
    pub(super) fn pending_file(&self, scenario: &str) -> PathBuf {
        let approved = file_of(scenario);
        self.pending_folder.join(approved.with_extension("snap.new"))
    }

    /// The names that have an approved snapshot.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(crate) fn approved_names(&self) -> Result<Vec<String>> {
        names(&self.folder, APPROVED)
    }

    /// The names that have answers which wait for a review.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(crate) fn pending_names(&self) -> Result<Vec<String>> {
        names(&self.pending_folder, PENDING)
    }

    /// Removes a scenario's pending answers; the approved ones stay.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub(crate) fn reject(&self, scenario: &str) -> Result<Rejected> {
        let path = self.pending_file(scenario);
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Rejected::NothingPending),
            Err(error) => return Err(Error::io(&path, "remove")(error)),
        }
        step().map_err(Error::io(&path, "remove"))?;
        sync_directory(&self.pending_folder)?;
        Ok(Rejected::Removed(path))
    }
}

/// The real path of a folder, which need not be there yet.
fn checked(root: &Path, folder: &Path) -> Result<PathBuf> {
    if let Ok(target) = std::fs::read_link(folder) {
        return Err(Error::input(
            folder,
            None,
            format!(
                "is a link to {}. finetest writes snapshots only into a real folder of the project; replace the link with a \
                 folder, or set [run] snapshots",
                target.display()
            ),
        ));
    }
    if folder.metadata().is_ok_and(|there| !there.is_dir()) {
        let message = "is a file, expected a folder of snapshots; move the file away, or set [run] snapshots";
        return Err(Error::input(folder, None, message));
    }
    let absolute = std::path::absolute(folder).map_err(Error::io(folder, "read"))?;
    // A folder that is not there yet lies where its nearest parent does that is.
    let there = absolute.ancestors().find_map(|parent| Some((parent, parent.canonicalize().ok()?)));
    let (parent, real) = there.unwrap_or((Path::new(""), PathBuf::new()));
    let missing = absolute.strip_prefix(parent).unwrap_or(Path::new(""));
    let is_plain = missing.components().all(|part| matches!(part, Component::Normal(_)));
    let real = if missing.as_os_str().is_empty() { real } else { real.join(missing) };
    if is_plain && real.starts_with(root) {
        return Ok(real);
    }
    Err(Error::input(
        folder,
        None,
        format!(
            "is outside the project {}. finetest writes snapshots only inside the project; set [run] snapshots to a folder in it",
            root.display()
        ),
    ))
}

/// What stands before `ending` in the names of a folder's files. A folder that is not there has none.
fn names(folder: &Path, ending: &str) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(folder, "read")(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(Error::io(folder, "read"))?.file_name();
        // A name that begins with a dot is of a file that is still written.
        if let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(ending)).filter(|s| !s.starts_with('.')) {
            names.push(stem.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The text of a snapshot with `\n` at the ends of its lines; `None` where there is no file.
///
/// # Errors
/// The file is a link, is no regular file, or cannot be read.
pub(super) fn read(path: &Path) -> Result<Option<String>> {
    if let Ok(target) = std::fs::read_link(path) {
        let message =
            format!("is a link to {}, expected a regular file; replace the link with the file", target.display());
        return Err(Error::input(path, None, message));
    }
    match read_regular_text(path, MOST_BYTES) {
        Ok(text) => Ok(Some(text.replace("\r\n", "\n"))),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A project, and a folder beside it.
    fn project() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for folder in ["project/snapshots", "project/inner", "outside"] {
            std::fs::create_dir_all(directory.path().join(folder)).expect("created");
        }
        let root = directory.path().join("project");
        (directory, root)
    }

    fn told(root: &Path, folder: &Path) -> String {
        Place::of(root, folder).expect_err("refused").to_string()
    }

    #[test]
    fn a_folder_of_the_project_is_taken_whether_or_not_it_is_there() {
        let (_kept, root) = project();
        for folder in ["snapshots", "inner/../snapshots", "absent", "absent/deeper"] {
            let place = Place::of(&root, &root.join(folder)).expect(folder);
            assert_eq!(place.approved_names().expect("read"), Vec::<String>::new());
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_and_what_leaves_the_project_are_refused() {
        use std::os::unix::fs::symlink;
        let (_kept, root) = project();
        symlink(root.join("../outside"), root.join("link")).expect("a link");
        symlink("nowhere", root.join("dangling")).expect("a link");
        symlink(root.join("inner"), root.join("within")).expect("a link");
        std::fs::write(root.join("file"), "mine").expect("written");
        for folder in ["link", "dangling", "within"] {
            let message = told(&root, &root.join(folder));
            assert!(message.contains("is a link to") && message.contains("[run] snapshots"), "{message}");
        }
        for folder in ["../outside", "link/snapshots", "absent/../../outside/new", ".."] {
            let message = told(&root, &root.join(folder));
            assert!(message.contains("is outside the project"), "{folder}: {message}");
        }
        assert!(told(&root, &root.join("file")).contains("is a file, expected a folder"));
    }

    #[test]
    fn names_are_those_of_whole_files_and_sorted() {
        let (_kept, root) = project();
        let folder = root.join("snapshots");
        for file in ["b.snap", "a.snap", "a.snap.new", "c.d.snap.new", ".writing-x.snap", "notes.txt", "x.snap.old"] {
            std::fs::write(folder.join(file), "").expect("written");
        }
        let place = Place::of(&root, &folder).expect("a place");
        assert_eq!(place.approved_names().expect("read"), ["a", "b"]);
        assert_eq!(place.pending_names().expect("read"), ["a", "c.d"]);
        assert_eq!(place.pending_file("c.d"), folder.join("c.d.snap.new"));
        assert_eq!(place.reject("a").expect("removed"), Rejected::Removed(folder.join("a.snap.new")));
        assert_eq!(place.reject("a").expect("nothing"), Rejected::NothingPending);
        assert!(folder.join("a.snap").exists() && folder.join("c.d.snap.new").exists());
    }
}
