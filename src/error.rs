//! One error type for the crate, and what each kind means to a shell.

use std::path::{Path, PathBuf};

/// Result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. Messages are lowercase fragments that say what, where, what was found, what was expected, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read, written or locked.
    #[error("{}: cannot {action}: {source}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was being done: `read`, `write`, `create`, `lock`, `rename`.
        action: &'static str,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A user's file says something that cannot be used: a manifest, a scenario, a data line, an adapter's configuration.
    #[error("{}: {message}", place(.path, *.line))]
    Input {
        /// The file.
        path: PathBuf,
        /// Its line, counted from 1, where one is known.
        line: Option<usize>,
        /// What is wrong, what was expected and what to do.
        message: String,
    },
    /// A model's or an adapter's file does not hold what it should.
    #[error("{}: {message}", .path.display())]
    Model {
        /// The file or directory.
        path: PathBuf,
        /// The tensor or key, both shapes, and what to do.
        message: String,
    },
    /// Several things are wrong at once; each is reported.
    #[error("{}", many(.0))]
    Many(Vec<Error>),
    /// The command line was used wrongly.
    #[error("{0}")]
    Usage(String),
    /// There was nothing to run; never a pass.
    #[error("nothing ran: {0}")]
    NothingRan(String),
    /// A computation or a program failed.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// The exit code of a command that ends with this error: 1 operational, 2 usage, 4 nothing ran.
    /// (0 is a pass and 100 a failed gate; those are not errors.)
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => exit::USAGE,
            Self::NothingRan(_) => exit::NOTHING_RAN,
            _ => exit::ERROR,
        }
    }

    /// For `map_err`: turns an [`std::io::Error`] into one that names the path and the action.
    pub(crate) fn io<'p>(path: &'p Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self + 'p {
        move |source| Self::Io { path: path.to_path_buf(), action, source }
    }

    pub(crate) fn input(path: impl Into<PathBuf>, line: impl Into<Option<usize>>, message: impl Into<String>) -> Self {
        Self::Input { path: path.into(), line: line.into(), message: message.into() }
    }

    pub(crate) fn model(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        // Names out of a file may be as long as the file.
        let mut message = without_backtrace(message.into());
        if let Some((at, _)) = message.char_indices().nth(LONGEST_MESSAGE) {
            message.truncate(at);
            message.push('…');
        }
        Self::Model { path: path.into(), message }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::Failed(without_backtrace(message.into()))
    }

    /// The same error of a file in `to`, when it was met in `from`, where `to` was written first.
    pub(crate) fn moved(mut self, from: &Path, to: &Path) -> Self {
        match &mut self {
            Self::Io { path, .. } | Self::Input { path, .. } | Self::Model { path, .. } => {
                if let Ok(inside) = path.strip_prefix(from) {
                    *path = if inside.as_os_str().is_empty() { to.to_path_buf() } else { to.join(inside) };
                }
                self
            }
            Self::Many(all) => Self::Many(std::mem::take(all).into_iter().map(|one| one.moved(from, to)).collect()),
            Self::Usage(_) | Self::NothingRan(_) | Self::Failed(_) => self,
        }
    }

    /// Whether a file or directory is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }

    /// `Ok` when nothing is wrong, the error itself when one thing is, else all of them.
    pub(crate) fn collect(mut errors: Vec<Self>) -> Result<()> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Self::Many(errors)),
        }
    }
}

#[cfg(feature = "candle")]
impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::failed(error.to_string())
    }
}

/// Exit codes of the command line.
pub mod exit {
    /// Every scenario ran and the gate passed.
    pub const PASS: u8 = 0;
    /// An operational error: a file, a download, a model.
    pub const ERROR: u8 = 1;
    /// The command line was used wrongly.
    pub const USAGE: u8 = 2;
    /// No scenario ran.
    pub const NOTHING_RAN: u8 = 4;
    /// Everything ran, and the gate did not pass.
    pub const GATE_FAILED: u8 = 100;
}

/// Characters of a message about a model's file.
const LONGEST_MESSAGE: usize = 2000;

/// A message without the backtrace that other crates' errors (candle's) put behind theirs when `RUST_BACKTRACE` is set: it says
/// nothing to a person.
fn without_backtrace(mut message: String) -> String {
    // The first frame, as the standard library writes it.
    if let Some(at) = message.find("\n   0: ") {
        message.truncate(message[..at].trim_end().len());
    }
    message
}

/// What a caught panic says, when it says something.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> Option<&str> {
    panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied())
}

fn place(path: &Path, line: Option<usize>) -> String {
    match line {
        Some(line) => format!("{}:{line}", path.display()),
        None => path.display().to_string(),
    }
}

fn many(errors: &[Error]) -> String {
    let lines: Vec<String> = errors.iter().map(|e| format!("- {e}")).collect();
    format!("{} problems\n{}", errors.len(), lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backtrace_is_no_part_of_a_message() {
        let backtrace = std::backtrace::Backtrace::force_capture();
        for error in [
            Error::failed(format!("shapes differ\n{backtrace}")),
            Error::model("m", format!("shapes differ\n{backtrace}")),
        ] {
            let text = error.to_string();
            assert!(text.ends_with("shapes differ"), "{text}");
        }
        assert_eq!(Error::failed("a\n- b").to_string(), "a\n- b");
    }

    #[cfg(feature = "candle")]
    #[test]
    fn an_error_of_candle_is_its_message_alone() {
        let inner = Box::new(candle_core::Error::Msg("shapes differ".into()));
        let backtrace = Box::new(std::backtrace::Backtrace::force_capture());
        let error = candle_core::Error::WithBacktrace { inner, backtrace };
        assert_eq!(Error::from(error).to_string(), "shapes differ");
    }
}
