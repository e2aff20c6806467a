//! The engine's process: started in a group of its own, followed by its log, and ended as a group.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::shown::visible;

/// Pause between two looks at a process.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a group that was asked to end may take.
const GRACE: Duration = Duration::from_secs(5);
/// Last lines of the log that an error shows.
const LINES: usize = 12;
/// Characters of a line that are looked at.
const LONGEST: usize = 4000;
/// The log's name.
const LOG: &str = "engine.log";

/// A program to start.
pub(crate) struct Launched {
    pub(crate) command: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    /// Where it runs, and its log is.
    pub(crate) directory: PathBuf,
    pub(crate) timeout: Option<Duration>,
}

/// Groups of processes that are running.
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// Ends every engine that this process started, with all that they started: before this process ends itself.
pub(crate) fn end_all() {
    let groups = std::mem::take(&mut *RUNNING.lock().unwrap_or_else(PoisonError::into_inner));
    for group in &groups {
        signal(*group, false);
    }
    if !groups.is_empty() {
        std::thread::sleep(PAUSE);
    }
    groups.iter().for_each(|group| signal(*group, true));
}

/// Takes a group off the list; whether it was still there.
fn forget(group: u32) -> bool {
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let before = running.len();
    running.retain(|other| *other != group);
    running.len() < before
}

/// Asks a group to end, or ends it.
fn signal(group: u32, hard: bool) {
    #[cfg(unix)]
    if let Some(pid) = i32::try_from(group).ok().and_then(rustix::process::Pid::from_raw) {
        let signal = if hard { rustix::process::Signal::KILL } else { rustix::process::Signal::TERM };
        let _ = rustix::process::kill_process_group(pid, signal);
    }
    #[cfg(not(unix))]
    let _ = (group, hard);
}

/// Runs a program to its end, and tells each loss that its log has.
///
/// # Errors
/// It cannot be started, ends with another code than 0, or takes too long: with the end of its log.
pub(crate) fn run(launched: &Launched, on_loss: &mut dyn FnMut(usize, f64)) -> Result<()> {
    let log = launched.directory.join(LOG);
    let file = File::create(&log).map_err(Error::io(&log, "write"))?;
    let mut child = start(launched, file)?;
    let group = child.id();
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner).push(group);
    let mut tail = Tail::open(&log)?;
    let ended = follow(&mut child, &mut tail, launched.timeout, on_loss);
    // What it left running ends with it.
    signal(group, true);
    if !forget(group) {
        // This process is being interrupted, which says so and ends it; that the engine ended is no other news.
        std::thread::sleep(GRACE);
    }
    let said = || {
        let lines: Vec<String> = tail.last.iter().map(|line| visible(line).into_owned()).collect();
        format!("; its log is {}\n{}", log.display(), lines.join("\n"))
    };
    match ended? {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(Error::failed(format!("{} ended with {status}{}", launched.command[0], said()))),
        None => {
            let seconds = launched.timeout.unwrap_or_default().as_secs_f64();
            let program = &launched.command[0];
            let why = format!("{program} was ended after {seconds:.0} s, as [train.launch] timeout_hours says");
            Err(Error::failed(why + &said()))
        }
    }
}

fn start(launched: &Launched, log: File) -> Result<Child> {
    let Some((program, arguments)) = launched.command.split_first() else {
        return Err(Error::Usage("[train.launch] command is empty".into()));
    };
    let also = log.try_clone().map_err(Error::io(&launched.directory, "write"))?;
    let mut command = Command::new(program);
    command.args(arguments).envs(launched.env.iter().cloned()).current_dir(&launched.directory);
    command.stdin(Stdio::null()).stdout(log).stderr(also).env("PYTHONUNBUFFERED", "1");
    // A launcher is found beside its Python, as in an activated environment.
    if let Some(bin) = Path::new(program).parent().filter(|bin| !bin.as_os_str().is_empty()) {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let all = std::iter::once(bin.to_path_buf()).chain(std::env::split_paths(&path));
        if let Ok(all) = std::env::join_paths(all) {
            command.env("PATH", all);
        }
    }
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn().map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::Usage(format!(
            "{program:?} is not there; give the engine's own Python, or the program: [train.launch]"
        )),
        _ => Error::failed(format!("{program:?} cannot be started: {error}")),
    })
}

/// Waits for a process; `None` when it took too long.
fn follow(
    child: &mut Child,
    tail: &mut Tail,
    timeout: Option<Duration>,
    on_loss: &mut dyn FnMut(usize, f64),
) -> Result<Option<ExitStatus>> {
    let (started, group) = (Instant::now(), child.id());
    loop {
        let ended = child.try_wait().map_err(|error| Error::failed(format!("the engine is lost: {error}")))?;
        tail.read(on_loss);
        if ended.is_some() {
            return Ok(ended);
        }
        if timeout.is_some_and(|timeout| started.elapsed() > timeout) {
            signal(group, false);
            let asked = Instant::now();
            while asked.elapsed() < GRACE && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(PAUSE);
            }
            signal(group, true);
            let _ = child.kill();
            let _ = child.wait();
            tail.read(on_loss);
            return Ok(None);
        }
        std::thread::sleep(PAUSE);
    }
}

/// What a log has come to say.
struct Tail {
    reader: BufReader<File>,
    /// The beginning of a line that is not whole yet.
    part: Vec<u8>,
    last: VecDeque<String>,
    losses: usize,
}

impl Tail {
    fn open(log: &Path) -> Result<Self> {
        let file = File::open(log).map_err(Error::io(log, "read"))?;
        Ok(Self { reader: BufReader::new(file), part: Vec::new(), last: VecDeque::new(), losses: 0 })
    }

    fn read(&mut self, on_loss: &mut dyn FnMut(usize, f64)) {
        while let Ok(n) = self.reader.read_until(b'\n', &mut self.part) {
            if n == 0 || self.part.last() != Some(&b'\n') {
                return;
            }
            let line: String = String::from_utf8_lossy(&self.part).chars().take(LONGEST).collect();
            self.part.clear();
            // A bar of progress is written over itself.
            for line in line.split('\r').map(str::trim_end).filter(|line| !line.is_empty()) {
                if let Some(loss) = loss(line) {
                    self.losses += 1;
                    on_loss(self.losses, loss);
                }
                if self.last.len() == LINES {
                    self.last.pop_front();
                }
                self.last.push_back(line.to_owned());
            }
        }
    }
}

/// The loss of a step in a line that transformers' Trainer prints: `{'loss': '2.474', 'grad_norm': …}`.
fn loss(line: &str) -> Option<f64> {
    let (_, rest) = line.split_once("'loss':").or_else(|| line.split_once("\"loss\":"))?;
    let value = rest.trim_start().trim_start_matches(['\'', '"']);
    let end = value.find(['\'', '"', ',', '}']).unwrap_or(value.len());
    value[..end].trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_read_from_lines_of_every_version() {
        for (line, expected) in [
            ("{'loss': '2.474', 'grad_norm': '1.2', 'epoch': '0.5'}", Some(2.474)),
            (" 10%|█ | 1/10 {'loss': 1.5, 'learning_rate': 0.0}", Some(1.5)),
            ("{\"current_steps\": 1, \"loss\": 0.75}", Some(0.75)),
            ("{'eval_loss': 2.0}", None),
            ("{'train_loss': 2.0}", None),
            ("{'loss': nonsense}", None),
        ] {
            assert_eq!(loss(line), expected, "{line}");
        }
    }
}
