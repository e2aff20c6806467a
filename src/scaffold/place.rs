//! Puts the files of a new project into its folder: all of them or none, and over none that is there.
//!
//! They are written into a folder of their own first, and the manifest is moved last: a folder with a manifest has everything. What a
//! killed process has put there without a manifest is taken away again by the next one.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::NewFile;
use crate::config::{Config, MANIFEST, write_schemas};
use crate::error::{Error, Result};
use crate::files::{WRITING, read_own, step, sweep, sync_directory, write_atomically};
use crate::scenario;

/// The folder's file that says which folders are made, and so that files may have been moved.
const MADE: &str = "made";
/// The new files, by their paths.
const NEW: &str = "new";
/// What was there of a file that is replaced.
const OLD: &str = "old";

/// How the name of the folder begins that new files are written into.
fn prefix() -> String {
    format!("{WRITING}init-")
}

/// Writes the files of a new project below `root`.
///
/// # Errors
/// A file is there already, or lies in a folder that is a link: all of these, and nothing is written. The files are no project that can
/// be loaded, or cannot be written: what was written is taken away again.
pub(crate) fn place(root: &Path, files: &[NewFile]) -> Result<()> {
    check_free(root, files)?;
    let staged = tempfile::Builder::new().prefix(&prefix()).tempdir_in(root).map_err(Error::io(root, "write"))?;
    let stage = Stage { root, folder: staged.path() };
    let lock = stage.lock()?;
    let placed = stage.fill(files).and_then(|()| stage.move_all(files));
    if placed.is_err() {
        stage.undo(false);
    }
    drop(lock);
    drop(staged);
    placed?;
    write_schemas(&root.join(".finetest"));
    Ok(())
}

/// Takes away what a killed process has put into a folder, before anybody looks what is there. A manifest was moved last: where it is,
/// all of it is.
///
/// # Errors
/// The folder cannot be read, or another process writes a project there.
pub(crate) fn undo_killed(root: &Path) -> Result<()> {
    for entry in std::fs::read_dir(root).map_err(Error::io(root, "read"))?.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(&prefix()) {
            continue;
        }
        let folder = entry.path();
        let stage = Stage { root, folder: &folder };
        let _lock = stage.lock()?;
        stage.undo(true);
        let _ = std::fs::remove_dir_all(&folder);
    }
    Ok(())
}

/// Refuses files that would be written over something, or elsewhere than below the folder.
fn check_free(root: &Path, files: &[NewFile]) -> Result<()> {
    let mut errors = Vec::new();
    let mut folders = BTreeSet::new();
    for file in files {
        let path = at(root, &file.path);
        for folder in parents(&file.path) {
            let full = at(root, folder);
            let Ok(there) = full.symlink_metadata() else { continue };
            if !there.is_dir() && folders.insert(full.clone()) {
                let what = if there.is_symlink() { "is a link" } else { "is a file" };
                errors.push(Error::input(
                    &full,
                    None,
                    format!("{what}, expected a folder to write {} into", file.path),
                ));
            }
        }
        match path.symlink_metadata() {
            Ok(there) if file.replaces && there.is_file() => {}
            Ok(there) if there.is_symlink() => errors.push(Error::input(&path, None, "already exists, as a link")),
            Ok(_) => errors.push(Error::input(&path, None, "already exists")),
            Err(_) => {}
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    errors.push(Error::failed("nothing was written: init overwrites no file; move these away, or edit them by hand"));
    Error::collect(errors)
}

/// A path below the project's folder, as a person would write it.
fn at(root: &Path, path: impl AsRef<Path>) -> PathBuf {
    if root == Path::new(".") { path.as_ref().to_path_buf() } else { root.join(path) }
}

/// The folders that a path lies in, the outermost first.
fn parents(path: &str) -> Vec<&Path> {
    let mut above: Vec<&Path> =
        Path::new(path).ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()).collect();
    above.reverse();
    above
}

/// A folder that the new files are written into, beside their places.
struct Stage<'s> {
    root: &'s Path,
    folder: &'s Path,
}

impl Stage<'_> {
    /// Held while a process works with the folder.
    fn lock(&self) -> Result<File> {
        let path = self.folder.join("lock");
        let file =
            File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::io(&path, "create"))?;
        match file.try_lock() {
            Err(std::fs::TryLockError::WouldBlock) => {
                let message = "another finetest writes a project here; wait until it ends";
                Err(Error::input(self.root, None, message))
            }
            // Where there are no locks, one process at a time is all that can be asked for.
            _ => Ok(file),
        }
    }

    fn new_file(&self, path: &str) -> PathBuf {
        self.folder.join(NEW).join(path)
    }

    /// Writes all files, and reads them as a run would.
    fn fill(&self, files: &[NewFile]) -> Result<()> {
        let new = self.folder.join(NEW);
        for file in files {
            let path = self.new_file(&file.path);
            write_atomically(&path, file.text.as_bytes()).map_err(|error| error.moved(&new, self.root))?;
        }
        let config = Config::load(new.join(MANIFEST)).map_err(|error| error.moved(&new, self.root))?;
        scenario::load_all(&config).map(|_| ()).map_err(|error| error.moved(&new, self.root))
    }

    /// Moves all files to their places, the manifest last.
    fn move_all(&self, files: &[NewFile]) -> Result<()> {
        let folders: BTreeSet<&Path> = files.iter().flat_map(|file| parents(&file.path)).collect();
        let made: Vec<&Path> =
            folders.into_iter().filter(|folder| self.root.join(folder).symlink_metadata().is_err()).collect();
        let list: String = made.iter().map(|folder| format!("{}\n", folder.display())).collect();
        write_atomically(&self.folder.join(MADE), list.as_bytes())?;
        for folder in &made {
            let path = at(self.root, folder);
            std::fs::create_dir(&path).map_err(Error::io(&path, "create"))?;
        }
        let (manifest, others): (Vec<&NewFile>, Vec<&NewFile>) = files.iter().partition(|file| file.path == MANIFEST);
        for file in others.into_iter().chain(manifest) {
            let (from, to) = (self.new_file(&file.path), at(self.root, &file.path));
            step().map_err(Error::io(&to, "write"))?;
            if file.replaces && to.is_file() {
                self.replace(file, &to)?;
            } else {
                put(&from, &to)?;
            }
            step().map_err(Error::io(&to, "write"))?;
            sync_directory(to.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(self.root))?;
        }
        Ok(())
    }

    /// Puts a file at the place of another, of which a copy is kept until all files are moved.
    fn replace(&self, file: &NewFile, to: &Path) -> Result<()> {
        let old = self.folder.join(OLD).join(&file.path);
        let above = old.parent().unwrap_or(self.folder);
        std::fs::create_dir_all(above).map_err(Error::io(above, "create"))?;
        std::fs::copy(to, &old).map_err(Error::io(&old, "write"))?;
        step().map_err(Error::io(to, "write"))?;
        // It is written in the folder of its own, where nothing of it is left when the process is killed.
        let replacing = self.folder.join("replacing");
        write_atomically(&replacing, file.text.as_bytes())?;
        let permissions = to.metadata().map_err(Error::io(to, "read"))?.permissions();
        std::fs::set_permissions(&replacing, permissions).map_err(Error::io(to, "write"))?;
        std::fs::rename(&replacing, to).map_err(Error::io(to, "write"))
    }

    /// Takes away the files that were moved, the manifest first. `keep_whole`: unless all of them were.
    fn undo(&self, keep_whole: bool) {
        let is_ours = |path: &Path| {
            let content = |path: &Path| read_own(path).ok();
            let (ours, there) = (content(&self.folder.join(NEW).join(path)), content(&self.root.join(path)));
            ours.is_some() && ours == there
        };
        let Ok(made) = read_own(&self.folder.join(MADE)) else { return };
        if is_ours(Path::new(MANIFEST)) {
            if keep_whole {
                return;
            }
            let _ = std::fs::remove_file(self.root.join(MANIFEST));
        }
        let mut files = Vec::new();
        files_below(&self.folder.join(NEW), Path::new(""), &mut files);
        for file in files.iter().filter(|file| is_ours(file)) {
            let (there, old) = (self.root.join(file), self.folder.join(OLD).join(file));
            let _ = if old.is_file() { std::fs::rename(old, there) } else { std::fs::remove_file(there) };
        }
        let made = String::from_utf8_lossy(&made).into_owned();
        // A folder that somebody has put something into stays.
        made.lines().rev().for_each(|folder| {
            let _ = std::fs::remove_dir(self.root.join(folder));
        });
    }
}

/// Writes a file where nothing is yet, whole or not at all.
///
/// # Errors
/// Something is there, or the folder cannot be written.
pub(super) fn write_new(path: &Path, text: &str) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        return Err(Error::input(path, None, "already exists, and nothing was written; choose another name"));
    }
    let folder = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
    sweep(folder);
    let staged = tempfile::Builder::new().prefix(WRITING).tempdir_in(folder).map_err(Error::io(folder, "write"))?;
    let file = staged.path().join(NEW);
    write_atomically(&file, text.as_bytes()).map_err(|error| error.moved(&file, path))?;
    put(&file, path)?;
    sync_directory(folder)
}

/// Puts a file at its place, where nothing may be: as another name of the same file, or as a copy where the file system has none.
fn put(from: &Path, to: &Path) -> Result<()> {
    match std::fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(Error::io(to, "create")(error)),
        Err(_) => {
            let mut source = File::open(from).map_err(Error::io(from, "read"))?;
            let mut copy = File::create_new(to).map_err(Error::io(to, "create"))?;
            std::io::copy(&mut source, &mut copy).and_then(|_| copy.sync_all()).map_err(Error::io(to, "write"))
        }
    }
}

/// The files below a folder, relative to it.
fn files_below(folder: &Path, inside: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder.join(inside)).into_iter().flatten().flatten() {
        let path = inside.join(entry.file_name());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(folder, &path, found),
            _ => found.push(path),
        }
    }
}
