//! Files that are whole or absent, and one process at a time.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use fs4::FileExt;

use crate::error::{Error, Result};

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
    if path.metadata().is_ok_and(|m| !m.is_file()) {
        // A device or a pipe is written to; it is not replaced by a file.
        let mut there = File::options().write(true).open(path).map_err(Error::io(path, "write"))?;
        write(&mut there)?;
        return there.flush().map_err(Error::io(path, "write"));
    }
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory).map_err(Error::io(directory, "create"))?;
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    let mut file = builder.prefix(".writing-").tempfile_in(directory).map_err(Error::io(path, "write"))?;
    write(file.as_file_mut())?;
    file.as_file().sync_all().map_err(Error::io(path, "write"))?;
    file.persist(path).map_err(|e| Error::Io { path: path.to_path_buf(), action: "write", source: e.error })?;
    Ok(())
}

/// Held while a process works on a project; the operating system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for `path`'s lock; `waiting` is called once when another process has it.
    ///
    /// # Errors
    /// The file cannot be made or locked.
    pub(crate) fn acquire(path: &Path, waiting: impl FnOnce()) -> Result<Self> {
        let directory = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory).map_err(Error::io(directory, "create"))?;
        let file =
            File::options().create(true).truncate(false).write(true).open(path).map_err(Error::io(path, "create"))?;
        if FileExt::try_lock(&file).is_err() {
            waiting();
            FileExt::lock(&file).map_err(Error::io(path, "lock"))?;
        }
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_file_is_replaced_whole() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("deep/file");
        write_atomically(&path, b"one").expect("written");
        write_atomically(&path, b"two").expect("written again");
        assert_eq!(std::fs::read(&path).expect("readable"), b"two");
        assert_eq!(
            std::fs::read_dir(directory.path().join("deep")).expect("readable").count(),
            1,
            "nothing is left beside it"
        );
    }
}
