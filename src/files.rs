//! Files that are whole or absent, read within bounds, and one process at a time.

use std::fs::{File, FileType, Metadata};
use std::io::{ErrorKind, Read, Write};
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

/// Opens a file to read it. Links are followed.
///
/// A named pipe would be waited on and a device may never end, so those are not opened at all.
///
/// # Errors
/// The file is not there, cannot be opened, or is not a regular file.
pub(crate) fn open_regular(path: &Path) -> Result<(File, Metadata)> {
    let unread = |e: std::io::Error| Error::io(path, "read")(dangling(path, e));
    refuse_other_than_regular(path, path.metadata().map_err(unread)?.file_type())?;
    let file = File::open(path).map_err(unread)?;
    // Another file may have been put there since.
    let metadata = file.metadata().map_err(Error::io(path, "read"))?;
    refuse_other_than_regular(path, metadata.file_type())?;
    Ok((file, metadata))
}

/// The content of a regular file of at most `most` bytes. A longer one is refused before it is read.
///
/// # Errors
/// As [`open_regular`], and a file that is longer.
pub(crate) fn read_regular(path: &Path, most: u64) -> Result<Vec<u8>> {
    let (file, metadata) = open_regular(path)?;
    let too_long = |got: String| Error::input(path, None, format!("has {got} bytes, expected at most {most}"));
    if metadata.len() > most {
        return Err(too_long(metadata.len().to_string()));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    // The file may grow while it is read.
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(Error::io(path, "read"))?;
    if bytes.len() as u64 > most { Err(too_long(format!("more than {most}"))) } else { Ok(bytes) }
}

/// As [`read_regular`], for text. Nothing is removed from it.
///
/// # Errors
/// As [`read_regular`], and bytes that are not UTF-8.
pub(crate) fn read_regular_text(path: &Path, most: u64) -> Result<String> {
    String::from_utf8(read_regular(path, most)?).map_err(|e| {
        let read = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = read.iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::input(path, line, "is not UTF-8 text; save it as UTF-8")
    })
}

fn refuse_other_than_regular(path: &Path, kind: FileType) -> Result<()> {
    let what = match kind {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => "a directory",
        kind => special(kind),
    };
    Err(Error::input(path, None, format!("is {what}, expected a regular file")))
}

#[cfg(unix)]
fn special(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        kind if kind.is_fifo() => "a named pipe",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_char_device() || kind.is_block_device() => "a device",
        _ => "a special file",
    }
}

#[cfg(not(unix))]
fn special(_: FileType) -> &'static str {
    "a special file"
}

/// The error of a file that cannot be opened, which says so when it is a link to something that is not there.
fn dangling(path: &Path, error: std::io::Error) -> std::io::Error {
    match std::fs::read_link(path) {
        Ok(target) if error.kind() == ErrorKind::NotFound => std::io::Error::new(
            ErrorKind::NotFound,
            format!("it is a link to {}, which is not there", target.display()),
        ),
        _ => error,
    }
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

    fn told<T: std::fmt::Debug>(result: Result<T>) -> String {
        result.expect_err("refused").to_string()
    }

    #[test]
    fn a_file_is_read_up_to_its_bound() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("file");
        std::fs::write(&path, "four").expect("written");
        assert_eq!(read_regular(&path, 4).expect("read"), b"four");
        assert!(told(read_regular(&path, 3)).ends_with("has 4 bytes, expected at most 3"));
        let sparse = File::create(&path).expect("a file");
        sparse.set_len(1 << 40).expect("a sparse file");
        assert!(told(read_regular(&path, 1 << 20)).contains("has 1099511627776 bytes"));
    }

    #[test]
    fn text_is_utf8_and_kept_as_it_is() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("file");
        std::fs::write(&path, "\u{feff}a\r\n").expect("written");
        assert_eq!(read_regular_text(&path, 100).expect("read"), "\u{feff}a\r\n");
        std::fs::write(&path, b"a\nb\xff").expect("written");
        assert!(told(read_regular_text(&path, 100)).ends_with(":2: is not UTF-8 text; save it as UTF-8"));
    }

    #[test]
    fn what_is_missing_is_an_io_error_that_names_the_link() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("none");
        assert!(
            matches!(open_regular(&path), Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound),
            "a file that is not there"
        );
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("nowhere", &path).expect("a link");
            assert!(told(open_regular(&path)).ends_with("cannot read: it is a link to nowhere, which is not there"));
            assert!(
                matches!(open_regular(&path), Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound)
            );
        }
    }

    #[cfg(unix)]
    #[test]
    fn only_regular_files_are_read() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        assert!(told(read_regular(directory.path(), 9)).ends_with("is a directory, expected a regular file"));
        assert!(told(read_regular(Path::new("/dev/zero"), 9)).ends_with("is a device, expected a regular file"));
        let socket = directory.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        assert!(told(read_regular(&socket, 9)).ends_with("is a socket, expected a regular file"));
        let pipe = directory.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
        assert!(made.success());
        assert!(told(read_regular(&pipe, 9)).ends_with("is a named pipe, expected a regular file"));
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&pipe, &link).expect("a link");
        assert!(told(read_regular_text(&link, 9)).ends_with("is a named pipe, expected a regular file"));
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
