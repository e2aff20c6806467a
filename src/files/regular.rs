//! Regular files, read within bounds. A pipe would be waited for, and a device never ends.

use std::fs::{File, FileType, Metadata};
use std::io::{ErrorKind, Read};
use std::path::Path;

use crate::error::{Error, Result};

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

/// The content of a file that finetest itself wrote, whatever its length.
///
/// # Errors
/// As [`open_regular`].
pub(crate) fn read_own(path: &Path) -> Result<Vec<u8>> {
    read_regular(path, u64::MAX)
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

/// Refuses a pipe or a socket to write to: it would be waited for until somebody reads.
pub(super) fn refuse_pipe(path: &Path, kind: FileType) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() || kind.is_socket() {
            return refuse_other_than_regular(path, kind);
        }
    }
    let _ = (path, kind);
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
