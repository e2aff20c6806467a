//! Files and directories that are whole or absent, files read within bounds, and one process at a time.
//!
//! A killed process leaves the old content or the new one, and at most a leftover named [`WRITING`], which [`sweep`] removes. One that is
//! interrupted takes unfinished files away itself.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use crate::error::{Error, Result};

mod regular;
mod unfinished;

pub(crate) use regular::{open_regular, read_own, read_regular, read_regular_text};
#[cfg(feature = "candle")]
pub(crate) use unfinished::remove_unfinished;

use unfinished::Unfinished;

/// How the name of everything that is not complete yet begins.
pub(crate) const WRITING: &str = ".writing-";
/// Random characters at the end of such a name.
const RANDOM: usize = 6;

/// Writes a file beside `path` and moves it there, so that a killed process leaves the old file or the new one.
///
/// # Errors
/// The directory is not writable, or the disk is full; the old file is then untouched.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically_with(path, |file| file.write_all(bytes).map_err(Error::io(path, "write")))
}

/// As [`write_atomically`], for what is too large to be held whole.
///
/// # Errors
/// As [`write_atomically`], and those of `write`.
pub(crate) fn write_atomically_with(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    if let Some(there) = path.metadata().ok().filter(|there| !there.is_file()) {
        regular::refuse_pipe(path, there.file_type())?;
        // A device is written to; it is not replaced by a file.
        let mut there = File::options().write(true).open(path).map_err(Error::io(path, "write"))?;
        write(&mut there)?;
        return there.flush().map_err(Error::io(path, "write"));
    }
    let directory = parent(path);
    std::fs::create_dir_all(directory).map_err(Error::io(directory, "create"))?;
    step().map_err(Error::io(path, "write"))?;
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    let mut file = builder.prefix(WRITING).tempfile_in(directory).map_err(Error::io(path, "write"))?;
    let _unfinished = Unfinished::new(file.path());
    write(file.as_file_mut())?;
    step().map_err(Error::io(path, "write"))?;
    file.as_file().sync_all().map_err(Error::io(path, "write"))?;
    file.persist(path).map_err(|e| Error::Io { path: path.to_path_buf(), action: "write", source: e.error })?;
    step().map_err(Error::io(path, "write"))?;
    sync_directory(directory)
}

/// Copies a file, whole or not at all.
///
/// # Errors
/// `from` cannot be read, or as [`write_atomically`].
pub(crate) fn copy_atomically(from: &Path, to: &Path) -> Result<()> {
    let mut source = File::open(from).map_err(Error::io(from, "read"))?;
    write_atomically_with(to, |file| io::copy(&mut source, file).map(|_| ()).map_err(Error::io(to, "write")))
}

/// Waits until the names in a directory are on the disk: a rename that is not may be undone by a power cut.
///
/// # Errors
/// The directory cannot be read.
pub(crate) fn sync_directory(directory: &Path) -> Result<()> {
    // Only unix opens a directory as a file. Where the file system cannot do it (EINVAL), there is nothing to wait for.
    if cfg!(unix) {
        let opened = File::open(directory).map_err(Error::io(directory, "read"))?;
        match opened.sync_all() {
            Err(error) if !matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
                return Err(Error::io(directory, "write")(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Writes a directory aside and moves it to `path`, so that a killed process leaves all of the old files or all of the new ones.
///
/// `own` names the files that are removed when they are not written again; the first of them is what makes the others valid. Every other file of the old
/// directory stays in the new one. A directory that cannot be moved, or that has directories in it, which would have to be moved too,
/// keeps its place: its own files are replaced one by one, the first of `own` first.
///
/// # Errors
/// Those of `write`, or the directories cannot be written; the old directory is then untouched.
pub(crate) fn replace_directory(path: &Path, own: &[&str], write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    // What a link names is replaced, not the link.
    let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let above = parent(&real);
    std::fs::create_dir_all(above).map_err(Error::io(above, "create"))?;
    step().map_err(Error::io(path, "write"))?;
    let guard = tempfile::Builder::new()
        .prefix(&staged_prefix(&real))
        .rand_bytes(RANDOM)
        .tempdir_in(above)
        .map_err(Error::io(above, "write"))?;
    // The guard is this user's alone; what is in it has the usual permissions.
    let staged = guard.path().join("new");
    std::fs::create_dir(&staged).map_err(Error::io(&staged, "create"))?;
    write(&staged).map_err(|error| error.moved(&staged, path))?;
    let moved = is_movable(&real, &staged) && {
        if real.is_dir() {
            carry(&real, &staged, own)?;
        }
        sync_directory(&staged)?;
        step().map_err(Error::io(path, "write"))?;
        swap(&staged, &real).is_ok()
    };
    if moved {
        // What somebody put into the old one since.
        if staged.is_dir() {
            carry(&staged, &real, own)?;
        }
    } else {
        move_files(&staged, &real, own)?;
    }
    step().map_err(Error::io(path, "write"))?;
    sync_directory(above)?;
    // What was there lies beside the guard's other content now, and goes with it.
    guard.close().map_err(Error::io(above, "remove"))
}

/// Has `write` write a file aside, and moves it to `path` if that was right: until then the old file is there.
///
/// # Errors
/// Those of `write`, or the directory cannot be written; the old file is then untouched.
pub(crate) fn replace_file<T>(path: &Path, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    // A device is written to; it is not replaced by a file.
    if path.metadata().is_ok_and(|there| !there.is_file()) {
        return write(path);
    }
    let directory = parent(path);
    std::fs::create_dir_all(directory).map_err(Error::io(directory, "create"))?;
    let guard = tempfile::Builder::new()
        .prefix(&staged_prefix(path))
        .rand_bytes(RANDOM)
        .tempdir_in(directory)
        .map_err(Error::io(directory, "write"))?;
    let _unfinished = Unfinished::new(guard.path());
    let staged = guard.path().join(path.file_name().unwrap_or_default());
    let written = write(&staged).map_err(|error| error.moved(&staged, path))?;
    step().map_err(Error::io(path, "write"))?;
    std::fs::rename(&staged, path).map_err(Error::io(path, "write"))?;
    step().map_err(Error::io(path, "write"))?;
    sync_directory(directory)?;
    guard.close().map_err(Error::io(directory, "remove"))?;
    Ok(written)
}

/// Whether a new directory can take the place of an old one as it is: the old one holds files alone, and has the owner, the group and
/// the permissions that the new one can be given.
fn is_movable(old: &Path, new: &Path) -> bool {
    let Ok(metadata) = old.metadata() else { return true };
    let holds_files = std::fs::read_dir(old)
        .is_ok_and(|entries| entries.flatten().all(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir())));
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let owned = |there: std::fs::Metadata| (there.uid(), there.gid()) == (metadata.uid(), metadata.gid());
        if !new.metadata().is_ok_and(owned) {
            return false;
        }
    }
    holds_files && std::fs::set_permissions(new, metadata.permissions()).is_ok()
}

/// How the names of directories begin that are written to become `path`.
fn staged_prefix(path: &Path) -> String {
    let name = path.file_name().map_or_else(Default::default, |name| name.to_string_lossy());
    format!("{WRITING}{name}-")
}

/// Exchanges two directories, or moves the first where there is no second.
fn swap(staged: &Path, path: &Path) -> io::Result<()> {
    if !path.exists() {
        return std::fs::rename(staged, path);
    }
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        Ok(renameat_with(CWD, staged, CWD, path, RenameFlags::EXCHANGE)?)
    }
    #[cfg(not(any(target_os = "linux", target_os = "macos")))]
    Err(io::ErrorKind::Unsupported.into())
}

/// Moves files one by one: for a directory that is a mount point, or a file system without an exchange.
fn move_files(staged: &Path, path: &Path, own: &[&str]) -> Result<()> {
    std::fs::create_dir_all(path).map_err(Error::io(path, "create"))?;
    let entries = std::fs::read_dir(staged).map_err(Error::io(staged, "read"))?;
    let new = entries.flatten().map(|entry| entry.file_name()).filter(|name| own.iter().all(|own| name != own));
    for name in own.iter().map(std::ffi::OsString::from).chain(new) {
        let (from, to) = (staged.join(&name), path.join(&name));
        if from.is_file() {
            copy_atomically(&from, &to)?;
        } else if to.is_file() {
            std::fs::remove_file(&to).map_err(Error::io(&to, "remove"))?;
        }
        step().map_err(Error::io(path, "write"))?;
    }
    sync_directory(path)
}

/// Puts the files that are not `own` of an old directory into the new one too: as another name of the same file where that can be, else
/// as a copy. A file that the new directory already has is kept.
fn carry(old: &Path, new: &Path, own: &[&str]) -> Result<()> {
    for entry in std::fs::read_dir(old).map_err(Error::io(old, "read"))? {
        let entry = entry.map_err(Error::io(old, "read"))?;
        let (from, to) = (entry.path(), new.join(entry.file_name()));
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if own.contains(&name.as_ref()) || name.starts_with(WRITING) || to.symlink_metadata().is_ok() {
            continue;
        }
        let moved = if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            std::fs::rename(&from, &to)
        } else {
            std::fs::hard_link(&from, &to).or_else(|_| std::fs::copy(&from, &to).map(|_| ()))
        };
        moved.map_err(Error::io(&from, "keep"))?;
    }
    Ok(())
}

/// Removes what killed writers left in a directory; nobody else may be writing there. What cannot be removed stays.
pub(crate) fn sweep(directory: &Path) {
    sweep_named(directory, |name| name.starts_with(WRITING));
}

/// Removes what killed writers left of a directory that [`replace_directory`] writes, beside it and in it.
pub(crate) fn sweep_directory(path: &Path) {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let prefix = staged_prefix(&real);
    // Of `tiny`, and not of `tiny-2`, which another process may be writing.
    let is_random = |rest: &str| rest.len() == RANDOM && rest.bytes().all(|byte| byte.is_ascii_alphanumeric());
    sweep_named(parent(&real), |name| name.strip_prefix(&prefix).is_some_and(is_random));
    sweep(&real);
}

fn sweep_named(directory: &Path, is_leftover: impl Fn(&str) -> bool) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if is_leftover(&entry.file_name().to_string_lossy()) {
            let path = entry.path();
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let _ = if is_directory { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        }
    }
}

/// The directory that `path` lies in.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// One step of writing, at which a test may have the process killed or the disk full (in a debug build alone): see [`FAULT`].
///
/// # Errors
/// The disk is full, as the test says.
pub(crate) fn step() -> io::Result<()> {
    #[cfg(debug_assertions)]
    return fault();
    #[cfg(not(debug_assertions))]
    Ok(())
}

/// `kill N`: the process dies at its N-th step of writing. `full N`: from the N-th step on the disk is full.
#[cfg(debug_assertions)]
const FAULT: &str = "FINETEST_TEST_FAULT";

#[cfg(debug_assertions)]
fn fault() -> io::Result<()> {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicUsize, Ordering};
    static STEPS: AtomicUsize = AtomicUsize::new(0);
    static WANTED: LazyLock<Option<(bool, usize)>> = LazyLock::new(|| {
        let wanted = std::env::var(FAULT).ok()?;
        let (what, at) = wanted.split_once(' ')?;
        Some((what == "kill", at.parse().ok()?))
    });
    let Some((kill, at)) = *WANTED else { return Ok(()) };
    let now = STEPS.fetch_add(1, Ordering::Relaxed) + 1;
    match kill {
        true if now == at => std::process::abort(),
        false if now >= at => Err(io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    }
}

/// Held while a process works on something; the operating system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Acquires the lock on `path`, calling `waiting` once if another process holds it.
    ///
    /// # Errors
    /// The file cannot be made or is no regular file, or its file system has no locks.
    pub(crate) fn acquire(path: &Path, waiting: impl FnOnce()) -> Result<Self> {
        let directory = parent(path);
        std::fs::create_dir_all(directory).map_err(Error::io(directory, "create"))?;
        // Opening a named pipe would wait for a reader.
        if path.metadata().is_ok_and(|there| !there.is_file()) {
            return Err(Error::input(path, None, "is not a regular file, so it cannot be locked; remove it"));
        }
        let file =
            File::options().create(true).truncate(false).write(true).open(path).map_err(Error::io(path, "create"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                waiting();
                file.lock().map_err(|source| no_locks(path, source))?;
            }
            Err(std::fs::TryLockError::Error(source)) => return Err(no_locks(path, source)),
        }
        Ok(Self { _file: file })
    }
}

/// A lock that failed although nobody holds it.
fn no_locks(path: &Path, source: io::Error) -> Error {
    let advice =
        "the file system may not support locks; put the project's store on a local disk: [run] store = \"DIR\"";
    Error::input(path, None, format!("cannot lock: {source}; {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<std::ffi::OsString> {
        std::fs::read_dir(directory).expect("readable").map(|e| e.expect("an entry").file_name()).collect()
    }

    #[test]
    fn a_second_holder_waits_for_the_first() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("lock");
        let first = Lock::acquire(&path, || panic!("nobody has it")).expect("the lock");
        let (sender, receiver) = std::sync::mpsc::channel();
        let other = std::thread::spawn({
            let path = path.clone();
            move || {
                let lock = Lock::acquire(&path, || sender.send("waiting").expect("a receiver"));
                lock.map(|_| ())
            }
        });
        assert_eq!(receiver.recv().expect("a message"), "waiting");
        drop(first);
        other.join().expect("no panic").expect("the lock");
    }

    #[test]
    fn what_cannot_be_locked_is_no_other_process() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let taken = directory.path().join("lock");
        std::fs::create_dir(&taken).expect("a directory");
        let error = Lock::acquire(&taken, || panic!("nobody has it")).expect_err("a directory");
        assert!(error.to_string().contains("not a regular file"), "{error}");
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("deep/file");
        write_atomically(&path, b"one").expect("written");
        write_atomically(&path, b"two").expect("written again");
        assert_eq!(std::fs::read(&path).expect("readable"), b"two");
        assert_eq!(names(&directory.path().join("deep")).len(), 1, "nothing is left beside it");
    }

    const OWN: [&str; 3] = ["provenance", "weights", "old"];

    fn write_new(staged: &Path) -> Result<()> {
        write_atomically(&staged.join("weights"), b"new")?;
        write_atomically(&staged.join("provenance"), b"new")
    }

    fn old(directory: &Path) {
        for (name, text) in [("provenance", "old"), ("weights", "old"), ("old", "old"), ("notes", "mine")] {
            write_atomically(&directory.join(name), text.as_bytes()).expect("written");
        }
    }

    fn is_new(directory: &Path) {
        let read = |name: &str| std::fs::read_to_string(directory.join(name)).expect("readable");
        assert_eq!(["provenance", "weights", "notes"].map(read), ["new", "new", "mine"]);
        assert!(!directory.join("old").exists());
    }

    #[test]
    fn a_directory_is_replaced_whole_and_keeps_what_is_not_ours() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let path = root.path().join("adapter");
        replace_directory(&path, &OWN, write_new).expect("a new one");
        assert_eq!(names(&path).len(), 2);
        old(&path);
        replace_directory(&path, &OWN, write_new).expect("replaced");
        is_new(&path);
        assert_eq!(names(root.path()).len(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_directory_that_cannot_be_exchanged_is_filled_file_by_file() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let (path, staged) = (root.path().join("adapter"), root.path().join("staged"));
        old(&path);
        write_new(&staged).expect("written");
        move_files(&staged, &path, &OWN).expect("moved");
        is_new(&path);
    }

    #[test]
    fn a_failed_write_leaves_the_old_directory_alone() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let path = root.path().join("adapter");
        old(&path);
        replace_directory(&path, &OWN, |_| Err(Error::failed("no"))).expect_err("failed");
        assert_eq!(std::fs::read_to_string(path.join("weights")).expect("readable"), "old");
        assert_eq!(names(root.path()).len(), 1, "nothing is left beside it");
    }

    /// A directory inside has permissions, mounts and open files of its own: it is left where it is.
    #[cfg(unix)]
    #[test]
    fn a_directory_keeps_its_permissions_and_the_directories_in_it() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let root = tempfile::tempdir().expect("a temporary directory");
        let path = root.path().join("adapter");
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("permissions");
        };
        let now = |path: &Path| path.metadata().expect("there").mode() & 0o7777;
        old(&path);
        mode(&path, 0o2770);
        replace_directory(&path, &OWN, write_new).expect("replaced");
        is_new(&path);
        assert_eq!(now(&path), 0o2770);
        let inside = path.join("private");
        write_atomically(&inside.join("mine"), b"mine").expect("written");
        mode(&inside, 0o700);
        let inode = |path: &Path| path.metadata().expect("there").ino();
        let before = (inode(&path), inode(&inside));
        old(&path);
        replace_directory(&path, &OWN, write_new).expect("replaced");
        is_new(&path);
        assert_eq!((inode(&path), inode(&inside)), before);
        assert_eq!((now(&path), now(&inside)), (0o2770, 0o700));
        assert_eq!(names(root.path()).len(), 1, "nothing is left beside it");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_a_directory_stays_one() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let (real, link) = (root.path().join("real"), root.path().join("link"));
        old(&real);
        std::os::unix::fs::symlink(&real, &link).expect("a link");
        replace_directory(&link, &OWN, write_new).expect("replaced");
        is_new(&real);
        assert!(link.symlink_metadata().expect("a link").is_symlink());
    }

    #[test]
    fn leftovers_are_swept_and_nothing_else() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let path = root.path().join("adapter");
        old(&path);
        for leftover in [
            ".writing-adapter-xyz123/weights",
            ".writing-adapter-2-xyz123/weights",
            ".writing-other-xyz123/weights",
            "adapter/.writing-y",
        ] {
            write_atomically(&root.path().join(leftover), b"half").expect("written");
        }
        sweep_directory(&path);
        assert!(!root.path().join(".writing-adapter-xyz123").exists() && !path.join(".writing-y").exists());
        for other in [".writing-adapter-2-xyz123", ".writing-other-xyz123"] {
            assert!(root.path().join(other).exists(), "another adapter's writer may be at work: {other}");
        }
        assert_eq!(names(&path).len(), 4);
    }
}
