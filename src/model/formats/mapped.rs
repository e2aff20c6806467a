//! Model files that are mapped into memory, and what is said when one is cut short while it is in use.
//!
//! A mapped file is neither read nor copied before it is needed, several processes share it, and the system may drop its pages:
//! a model of 16 GB can be used by a machine that has 8. The price is that a page which is gone from the file (`cp` over it, a second
//! download) ends the process with SIGBUS, wherever it is touched. A handler makes of that a message and exit code 1.

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::error::{Error, Result};
use crate::files::open_regular;

/// A file's bytes.
pub(crate) struct Mapped {
    map: Mmap,
    #[cfg(unix)]
    _watched: Option<watch::Watched>,
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

/// Maps a file for reading.
///
/// # Errors
/// It cannot be opened, is empty, or is no regular file.
pub(crate) fn map_file(path: &Path) -> Result<Arc<Mapped>> {
    let (file, metadata) = open_regular(path)?;
    if metadata.len() == 0 {
        return Err(Error::model(path, "the file is empty; download it again"));
    }
    // SAFETY: the mapping is read-only and private to this process, and nothing is written through it. When another process cuts the
    // file short, the pages that are gone are never seen as data: touching one raises SIGBUS, and the handler ends the process.
    #[expect(unsafe_code, reason = "a model of many gigabytes is not copied into memory")]
    let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path, "map"))?;
    #[cfg(unix)]
    let _watched = watch::watch(&map, path);
    Ok(Arc::new(Mapped {
        map,
        #[cfg(unix)]
        _watched,
    }))
}

#[cfg(unix)]
mod watch {
    //! The handler of SIGBUS. It only reads atomics, writes to stderr and ends the process: all that a handler may do.

    use std::path::Path;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

    /// Files that are watched at once; one more is not watched.
    const MAX_FILES: usize = 1024;

    struct Slot {
        start: AtomicUsize,
        end: AtomicUsize,
        message: AtomicPtr<u8>,
        length: AtomicUsize,
    }

    static SLOTS: [Slot; MAX_FILES] = [const {
        Slot {
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            message: AtomicPtr::new(std::ptr::null_mut()),
            length: AtomicUsize::new(0),
        }
    }; MAX_FILES];

    /// What was done with SIGBUS before.
    static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

    /// A mapping that is watched until this is dropped.
    pub(super) struct Watched {
        slot: &'static Slot,
        /// The handler reads it.
        _message: Box<[u8]>,
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            // The handler runs while the mapping is read, so never for this one any more.
            self.slot.end.store(0, Ordering::SeqCst);
            self.slot.start.store(0, Ordering::SeqCst);
        }
    }

    /// Watches a mapping of the file at `path`; `None` when that cannot be done.
    pub(super) fn watch(map: &[u8], path: &Path) -> Option<Watched> {
        install()?;
        let (start, end) = (map.as_ptr() as usize, map.as_ptr() as usize + map.len());
        // The last page is mapped whole.
        let end = end.next_multiple_of(1 << 16);
        let free = |slot: &&Slot| slot.start.compare_exchange(0, start, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        let slot = SLOTS.iter().find(free)?;
        let shown: String = path.to_string_lossy().chars().filter(|c| !c.is_control()).collect();
        let text = format!(
            "error: {shown}: the file was truncated or changed while it was in use; run again when it is whole\n"
        );
        let mut message = text.into_bytes().into_boxed_slice();
        slot.message.store(message.as_mut_ptr(), Ordering::SeqCst);
        slot.length.store(message.len(), Ordering::SeqCst);
        slot.end.store(end, Ordering::SeqCst);
        Some(Watched { slot, _message: message })
    }

    /// Puts the handler in place, once.
    fn install() -> Option<()> {
        static DONE: OnceLock<bool> = OnceLock::new();
        let done = DONE.get_or_init(|| {
            // SAFETY: both structures are plain data that sigaction reads or fills, the handler is of the type that SA_SIGINFO asks
            // for, and it does only what a handler may.
            #[expect(unsafe_code, reason = "the standard library has no way to handle a signal")]
            let installed = unsafe {
                let mut before: libc::sigaction = std::mem::zeroed();
                if libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut before) != 0 {
                    return false;
                }
                let _ = BEFORE.set(before);
                let mut action: libc::sigaction = std::mem::zeroed();
                let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
                action.sa_sigaction = handler as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                libc::sigemptyset(&mut action.sa_mask);
                libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut())
            };
            installed == 0
        });
        done.then_some(())
    }

    extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the system calls the handler with a valid `info`. A slot whose range holds the address is that of a mapping which
        // is being read, so its message is still there. write, _exit and sigaction may be called in a handler.
        #[expect(unsafe_code, reason = "what a handler of a signal does")]
        unsafe {
            let address = (*info).si_addr() as usize;
            for slot in &SLOTS {
                let (start, end) = (slot.start.load(Ordering::SeqCst), slot.end.load(Ordering::SeqCst));
                if start != 0 && start <= address && address < end {
                    let message = slot.message.load(Ordering::SeqCst);
                    libc::write(2, message.cast_const().cast(), slot.length.load(Ordering::SeqCst));
                    libc::_exit(i32::from(crate::error::exit::ERROR));
                }
            }
            // Not ours: the access is tried again, under what was there before.
            if let Some(before) = BEFORE.get() {
                libc::sigaction(libc::SIGBUS, before, std::ptr::null_mut());
            } else {
                libc::signal(libc::SIGBUS, libc::SIG_DFL);
            }
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    const FILE: &str = "FINETEST_TEST_MAPPED";

    /// What the test below runs in a process of its own.
    #[test]
    #[ignore = "ends its process"]
    fn reads_a_file_that_is_cut() {
        let Some(path) = std::env::var_os(FILE) else { return };
        let path = Path::new(&path);
        let other = map_file(path).expect("a mapping");
        drop(other);
        let map = map_file(path).expect("a mapping");
        let file = std::fs::File::options().write(true).open(path).expect("the file");
        if path.extension().is_some_and(|e| e == "other") {
            // A mapping that is not watched: what happens is as without finetest.
            let read = std::fs::File::open(path).expect("the file");
            // SAFETY: it is only read.
            #[expect(unsafe_code, reason = "a mapping like any other program's")]
            let foreign = unsafe { Mmap::map(&read) }.expect("a mapping");
            file.set_len(0).expect("cut");
            std::process::exit(i32::from(foreign[0]));
        }
        file.set_len(0).expect("cut");
        std::process::exit(i32::from(map[5000]));
    }

    #[test]
    fn a_file_that_is_cut_while_it_is_mapped_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let run = |name: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, vec![7u8; 20_000]).expect("written");
            let mut command = Command::new(std::env::current_exe().expect("this program"));
            command.args([
                "--exact",
                "model::formats::mapped::tests::reads_a_file_that_is_cut",
                "--ignored",
                "--nocapture",
            ]);
            command.env(FILE, path).output().expect("it runs")
        };
        let ended = run("model.gguf");
        let told = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(1), "{told}");
        assert!(told.contains("model.gguf: the file was truncated or changed while it was in use"), "{told}");
        let ended = run("model.other");
        assert_eq!(ended.status.signal(), Some(libc::SIGBUS), "{ended:?}");
    }

    #[test]
    fn only_files_with_content_are_mapped() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("empty");
        std::fs::write(&path, "").expect("written");
        let told = |path: &Path| map_file(path).map(|_| ()).expect_err("refused").to_string();
        assert!(told(&path).contains("the file is empty"));
        assert!(told(Path::new("/dev/zero")).contains("is a device, expected a regular file"));
        std::fs::write(&path, "GGUF").expect("written");
        assert_eq!(&map_file(&path).expect("a mapping")[..], b"GGUF");
    }
}
