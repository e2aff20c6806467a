//! Files that finetest itself keeps between runs, and the hashes of files it has read.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::{Events, SourceEvent};
use crate::error::{Error, Result};
use crate::files::{Lock, open_regular, read_own, sweep, write_atomically};

/// `FINETEST_CACHE`, else `$XDG_CACHE_HOME/finetest`, else `~/.cache/finetest` (Windows: `%LOCALAPPDATA%\finetest`).
///
/// # Errors
/// None of them is set.
pub fn cache_dir() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(path) = set("FINETEST_CACHE") {
        return Ok(path);
    }
    let base = if cfg!(windows) {
        set("LOCALAPPDATA")
    } else {
        // The specification says that a relative path is to be ignored.
        set("XDG_CACHE_HOME").filter(|p| p.is_absolute()).or_else(|| set("HOME").map(|home| home.join(".cache")))
    };
    base.map(|base| base.join("finetest")).ok_or_else(|| {
        Error::failed(
            "there is no directory for downloads: neither HOME nor FINETEST_CACHE is set; set FINETEST_CACHE=DIR",
        )
    })
}

/// Which hash of a file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Digest {
    /// As manifests pin it.
    Sha256,
    /// As fingerprints use it.
    Blake3,
}

/// The hashes of one file as they were when it had this size and these times. Whoever copies a file may set the time at which its content
/// was modified; the inode and the time of its last change are the system's own.
#[derive(Default, Deserialize, Serialize)]
struct Memo {
    path: PathBuf,
    size: u64,
    modified: u128,
    /// Device, inode, and time of change in seconds and nanoseconds; zeros where the system has none.
    #[serde(default)]
    identity: [i128; 4],
    sha256: Option<String>,
    blake3: Option<String>,
}

/// The directory of downloads and hashes.
pub(super) struct Cache {
    root: PathBuf,
}

impl Cache {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    /// A directory of this cache, made if it is not there.
    pub(super) fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.root.join(name);
        std::fs::create_dir_all(&path).map_err(Error::io(&path, "create"))?;
        Ok(path)
    }

    /// A path in this cache; nothing is made.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Waits until no other process works in `dir`.
    pub(super) fn lock(&self, dir: &Path, what: &str, events: Events<'_>) -> Result<Lock> {
        Lock::acquire(&dir.join(".lock"), || events(SourceEvent::Waiting { what: what.to_owned() }))
    }

    /// The hash of a file, in hex; remembered by the file's path, size, inode and times.
    pub(super) fn digest(&self, path: &Path, kind: Digest, events: Events<'_>) -> Result<String> {
        let known = self.memo(&Self::stat(path)?);
        self.digest_of(path, kind, known, events)
    }

    /// The hash of a file's content as it is now, in hex, whatever is remembered: what a manifest pins.
    pub(super) fn digest_anew(&self, path: &Path, kind: Digest, events: Events<'_>) -> Result<String> {
        self.digest_of(path, kind, Memo::default(), events)
    }

    fn digest_of(&self, path: &Path, kind: Digest, known: Memo, events: Events<'_>) -> Result<String> {
        let now = Self::stat(path)?;
        let found = match kind {
            Digest::Sha256 => &known.sha256,
            Digest::Blake3 => &known.blake3,
        };
        if let Some(found) = found {
            return Ok(found.clone());
        }
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        events(SourceEvent::Started { what: format!("checking {name}"), bytes: Some(now.size) });
        let (file, _) = open_regular(path)?;
        let hex = match kind {
            Digest::Sha256 => {
                let mut hash = sha2::Sha256::new();
                each_block(file, |block| hash.update(block), events).map_err(Error::io(path, "read"))?;
                hex(&hash.finalize())
            }
            Digest::Blake3 => {
                let mut hash = blake3::Hasher::new();
                let update = |block: &[u8]| {
                    hash.update(block);
                };
                each_block(file, update, events).map_err(Error::io(path, "read"))?;
                hash.finalize().to_hex().to_string()
            }
        };
        events(SourceEvent::Finished);
        self.remember(Memo {
            sha256: matches!(kind, Digest::Sha256).then(|| hex.clone()).or(known.sha256),
            blake3: matches!(kind, Digest::Blake3).then(|| hex.clone()).or(known.blake3),
            ..now
        });
        Ok(hex)
    }

    /// Remembers the hash of a file that was just written.
    pub(super) fn remember_sha256(&self, path: &Path, sha256: &str) {
        if let Ok(now) = Self::stat(path) {
            self.remember(Memo { sha256: Some(sha256.to_owned()), ..now });
        }
    }

    fn stat(path: &Path) -> Result<Memo> {
        let real = path.canonicalize().map_err(Error::io(path, "read"))?;
        let metadata = std::fs::metadata(&real).map_err(Error::io(path, "read"))?;
        let modified = metadata.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        let modified = modified.map_or(0, |d| d.as_nanos());
        Ok(Memo { path: real, size: metadata.len(), modified, identity: identity(&metadata), ..Memo::default() })
    }

    fn memo_path(&self, path: &Path) -> PathBuf {
        let key = blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex();
        self.root.join("hashes").join(format!("{}.json", &key[..32]))
    }

    fn memo(&self, now: &Memo) -> Memo {
        let read = read_own(&self.memo_path(&now.path)).ok().and_then(|b| serde_json::from_slice::<Memo>(&b).ok());
        let same = |m: &Memo| {
            let file = m.path == now.path && m.size == now.size && m.identity == now.identity;
            file && m.modified == now.modified && now.modified != 0
        };
        read.filter(same).unwrap_or_default()
    }

    /// A memo that cannot be kept costs time in the next run, nothing else.
    fn remember(&self, memo: Memo) {
        let path = self.memo_path(&memo.path);
        if let Ok(bytes) = serde_json::to_vec(&memo)
            && let Ok(directory) = self.directory("hashes")
            && let Ok(_lock) = Lock::acquire(&directory.join(".lock"), || ())
        {
            sweep(&directory);
            let _ = write_atomically(&path, &bytes);
        }
    }
}

#[cfg(unix)]
fn identity(metadata: &std::fs::Metadata) -> [i128; 4] {
    use std::os::unix::fs::MetadataExt;
    [metadata.dev().into(), metadata.ino().into(), metadata.ctime().into(), metadata.ctime_nsec().into()]
}

#[cfg(not(unix))]
fn identity(_: &std::fs::Metadata) -> [i128; 4] {
    [0; 4]
}

/// Puts a finished temporary file in its place, on the disk and not only in memory.
pub(super) fn persist(temporary: tempfile::NamedTempFile, path: &Path) -> Result<()> {
    temporary.as_file().sync_all().map_err(Error::io(path, "write"))?;
    temporary.persist(path).map_err(|e| Error::io(path, "rename")(e.error))?;
    #[cfg(unix)]
    if let Some(dir) = path.parent()
        && let Ok(dir) = File::open(dir)
    {
        let _ = dir.sync_all();
    }
    Ok(())
}

/// An error before a long write that cannot end well.
pub(super) fn check_space(dir: &Path, bytes: u64) -> Result<()> {
    match fs4::available_space(dir) {
        Ok(free) if free < bytes => {
            let reason = format!("{bytes} bytes are needed and {free} are free");
            Err(Error::io(dir, "write")(std::io::Error::new(std::io::ErrorKind::StorageFull, reason)))
        }
        _ => Ok(()),
    }
}

/// Calls `each` with every block of `reader` and tells how far it is.
pub(super) fn each_block(
    mut reader: impl Read,
    mut each: impl FnMut(&[u8]),
    events: Events<'_>,
) -> std::io::Result<u64> {
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    loop {
        let n = match reader.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        each(&buffer[..n]);
        total += n as u64;
        events(SourceEvent::Advanced { bytes: n as u64 });
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_hash_is_remembered_until_the_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (cache, file) = (Cache::new(&dir.path().join("cache")), dir.path().join("file"));
        std::fs::write(&file, "abc").unwrap();
        let mut read = 0;
        let mut count = |event| {
            if let SourceEvent::Advanced { bytes } = event {
                read += bytes;
            }
        };
        assert_eq!(cache.digest(&file, Digest::Sha256, &mut count).unwrap(), ABC);
        assert_eq!(cache.digest(&file, Digest::Sha256, &mut count).unwrap(), ABC);
        let blake = cache.digest(&file, Digest::Blake3, &mut count).unwrap();
        assert_eq!(blake, blake3::hash(b"abc").to_hex().to_string());
        assert_eq!(cache.digest(&file, Digest::Sha256, &mut count).unwrap(), ABC);
        std::fs::write(&file, "abcd").unwrap();
        assert_ne!(cache.digest(&file, Digest::Sha256, &mut count).unwrap(), ABC);
        assert_eq!(read, 3 + 3 + 4);
    }

    /// As `rsync -a`, tar and `cp -p` leave it: other content, the same size and time of modification.
    #[cfg(unix)]
    #[test]
    fn a_file_that_keeps_its_time_and_size_is_hashed_again() {
        let dir = tempfile::tempdir().unwrap();
        let (cache, path) = (Cache::new(&dir.path().join("cache")), dir.path().join("file"));
        std::fs::write(&path, "abc").unwrap();
        let time = path.metadata().unwrap().modified().unwrap();
        let digest = || cache.digest(&path, Digest::Sha256, &mut |_| ()).unwrap();
        let again = || cache.digest_anew(&path, Digest::Sha256, &mut |_| ()).unwrap();
        assert_eq!((digest(), again()), (ABC.to_owned(), ABC.to_owned()));
        let set_time = |path: &Path| File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        // In place: the time of change differs.
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::write(&path, "abd").unwrap();
        set_time(&path);
        let second = digest();
        assert_ne!(second, ABC);
        assert_eq!(again(), second);
        // Another file moved there: the inode differs too.
        let other = dir.path().join("other");
        std::fs::write(&other, "abe").unwrap();
        set_time(&other);
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(path.metadata().unwrap().modified().unwrap(), time);
        assert!(![ABC, second.as_str()].contains(&digest().as_str()));
    }

    #[test]
    fn a_pin_does_not_trust_what_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let (cache, path) = (Cache::new(&dir.path().join("cache")), dir.path().join("file"));
        std::fs::write(&path, "abc").unwrap();
        cache.remember_sha256(&path, "not its hash");
        assert_eq!(cache.digest(&path, Digest::Sha256, &mut |_| ()).unwrap(), "not its hash");
        assert_eq!(cache.digest_anew(&path, Digest::Sha256, &mut |_| ()).unwrap(), ABC);
        assert_eq!(cache.digest(&path, Digest::Sha256, &mut |_| ()).unwrap(), ABC, "and it is remembered");
    }

    #[test]
    fn a_hash_is_found_without_a_writable_cache() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "abc").unwrap();
        let cache = Cache::new(&file.join("not-a-directory"));
        assert_eq!(cache.digest(&file, Digest::Sha256, &mut |_| ()).unwrap(), ABC);
        assert!(matches!(cache.directory("x").unwrap_err(), Error::Io { action: "create", .. }));
    }

    #[test]
    fn a_second_process_waits_for_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        let held = cache.lock(dir.path(), "first", &mut |_| panic!("nobody holds it")).unwrap();
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| cache.lock(dir.path(), "second", &mut |event| send.send(event).unwrap()).map(drop).unwrap());
            assert_eq!(receive.recv().unwrap(), SourceEvent::Waiting { what: "second".into() });
            drop(held);
        });
    }

    #[test]
    fn a_disk_too_small_is_said_before_writing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check_space(dir.path(), 1).is_ok());
        let message = check_space(dir.path(), u64::MAX).unwrap_err().to_string();
        assert!(message.contains("are needed"), "{message}");
    }
}
