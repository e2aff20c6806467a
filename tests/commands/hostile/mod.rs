//! Hostile and broken files, and what finetest says of each: one clear message and an exit code, without a panic, in bounded time
//! and memory.
//!
//! Each room of the table holds one kind of file. A case changes one thing of a project that works; [`Case::check`] runs the
//! built program on it with [`MEMORY_KB`] of memory and [`SECONDS`] of time.

mod adapters;
mod data;
mod manifests;
mod models;
mod scenarios;
mod templates;

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Project, Ran};

/// Address space of one command.
const MEMORY_KB: u32 = 4_000_000;
/// Time of one command.
const SECONDS: u64 = 20;

/// One broken or hostile input, and the error that it must give.
pub(crate) struct Case {
    /// What is wrong, for the test's own messages.
    pub(crate) name: &'static str,
    /// Breaks a project that works.
    pub(crate) prepare: fn(&Project),
    /// Arguments of the command.
    pub(crate) command: &'static [&'static str],
    pub(crate) code: i32,
    /// All of these must be in the message.
    pub(crate) words: &'static [&'static str],
}

impl Case {
    /// Runs the case. A panic, an abort, a hang or a message without one of the words fails the test.
    pub(crate) fn check(&self) {
        let project = Project::new();
        (self.prepare)(&project);
        let ran = bounded(&mut project.command(self.command), self.name);
        let told = format!("{}\nstdout:\n{}\nstderr:\n{}", self.name, ran.stdout, ran.stderr);
        assert_eq!(ran.code, self.code, "exit code of {told}");
        for word in self.words {
            assert!(ran.stderr.contains(word), "{word:?} is not in the message of {told}");
        }
        for sign in ["panicked", "RUST_BACKTRACE", "stack backtrace", "overflowed its stack", "memory allocation"] {
            assert!(!ran.stderr.contains(sign), "{sign:?} is in the message of {told}");
        }
    }
}

/// Runs every case of a room and reports all that fail, not only the first.
#[track_caller]
pub(crate) fn check_all(cases: &[Case]) {
    let failed: Vec<&str> =
        cases.iter().filter(|case| std::panic::catch_unwind(|| case.check()).is_err()).map(|case| case.name).collect();
    assert!(failed.is_empty(), "{} of {} cases: {failed:?}", failed.len(), cases.len());
}

/// Runs a command with bounded memory and time.
pub(crate) fn bounded(command: &mut Command, name: &str) -> Ran {
    let mut limited = Command::new("sh");
    limited.arg("-c").arg(format!("ulimit -v {MEMORY_KB}; exec \"$0\" \"$@\""));
    limited.arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(key, value),
            None => limited.env_remove(key),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        limited.current_dir(directory);
    }
    let mut child = limited.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("sh");
    let (mut stdout, mut stderr) = (child.stdout.take().expect("a pipe"), child.stderr.take().expect("a pipe"));
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        stdout.read_to_end(&mut text).map(|_| text).expect("stdout")
    });
    let errors = std::thread::spawn(move || {
        let mut text = Vec::new();
        stderr.read_to_end(&mut text).map(|_| text).expect("stderr")
    });
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        if started.elapsed() > Duration::from_secs(SECONDS) {
            child.kill().expect("a child");
            child.wait().expect("a child");
            panic!("{name}: still running after {SECONDS} s");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let (stdout, stderr) = (reader.join().expect("a reader"), errors.join().expect("a reader"));
    Ran {
        code: status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}
