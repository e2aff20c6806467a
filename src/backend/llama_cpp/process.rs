//! llama.cpp in a process of its own: started when it is needed, started again when it died, and every item that it crashed on
//! found and told apart from those that only were in the same batch.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::bisection::Bisection;
use super::protocol::{HELLO, Job, Opened, Opening, Reply, read_line, write_line};
use super::worker::pass_on;
use super::worker::serve::WORKER;
use crate::backend::Progress;
use crate::error::{Error, Result};

/// Names the program to start as the worker; default: this one.
const PROGRAM: &str = "FINETEST_WORKER_PROGRAM";
/// How often an idle thread of ggml looks for work before it sleeps. libgomp's default spins so long that two threads are slower
/// than one when another process wants the cores; 0 makes generation three times slower on idle cores. Anything from 2000 to 20000
/// is good at both. It is read when libgomp is loaded, so it has to be in the environment before the worker starts.
const SPIN: (&str, &str) = ("GOMP_SPINCOUNT", "5000");
/// ggml starts a debugger for a backtrace when an assert fails, which takes seconds and tells nothing here.
const NO_BACKTRACE: (&str, &str) = ("GGML_NO_BACKTRACE", "1");
/// Last lines of the worker's stderr that explain its death.
const LINES: usize = 6;
/// Deaths without an item answered between them, after which what is left is not tried any more: something else than single items is
/// wrong.
const DEATHS: usize = 24;

/// An item's result, or why it has none.
type Outcome<T> = std::result::Result<T, String>;

/// Receives the outcome of each item, by its number, as soon as it is known.
pub(super) type OnOutcome<'a, T> = &'a mut dyn FnMut(usize, Outcome<T>) -> Result<()>;

/// A worker that survives its deaths.
pub(super) struct Isolated {
    opening: Opening,
    worker: Option<(Worker, Opened)>,
    /// It was open, so that the model can be loaded.
    was_open: bool,
    /// What it said of itself when it was opened first.
    note: Option<String>,
    /// Since an item was last answered.
    deaths: usize,
}

/// How a job ended, when it was not by an error.
pub(super) enum End {
    Done,
    /// The process died, and what it said.
    Died(String),
}

impl Isolated {
    /// Nothing is started yet.
    pub(super) fn new(opening: Opening) -> Self {
        Self { opening, worker: None, was_open: false, note: None, deaths: 0 }
    }

    /// What the model is; loads it when it is not.
    pub(super) fn opened(&mut self) -> Result<Opened> {
        if let Some((_, opened)) = &self.worker {
            return Ok(*opened);
        }
        let mut worker = Worker::start()?;
        let (mut found, mut note) = (None, None);
        let end = worker.run(&Job::Open(self.opening.clone()), &mut |reply| match reply {
            Reply::Opened(opened) => found = Some(opened),
            Reply::Note(said) => note = Some(said),
            _ => {}
        })?;
        self.note = self.note.take().or(note);
        match (end, found) {
            (End::Done, Some(opened)) => {
                self.worker = Some((worker, opened));
                self.was_open = true;
                Ok(opened)
            }
            (End::Done, None) => Err(Error::failed("llama.cpp's worker did not say what it loaded")),
            (End::Died(why), _) => {
                Err(Error::model(&self.opening.model, format!("llama.cpp crashed while loading it: {why}")))
            }
        }
    }

    /// What it said of itself; once.
    pub(super) fn note(&mut self) -> Option<String> {
        self.note.take()
    }

    /// Does a job that cannot be divided: if the process crashes on it, that is an error.
    pub(super) fn run_undivided(&mut self, job: &Job, what: &str, on_reply: &mut dyn FnMut(Reply)) -> Result<()> {
        match self.run(job, on_reply)? {
            End::Done => Ok(()),
            End::Died(why) => Err(Error::failed(format!("llama.cpp crashed while {what}: {why}"))),
        }
    }

    /// Outcomes of all items, in order: see [`Self::each`].
    pub(super) fn all<T>(
        &mut self,
        count: usize,
        job: &dyn Fn(&[usize]) -> Job,
        take: &dyn Fn(Reply) -> Option<(usize, T)>,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Outcome<T>>> {
        let mut outcomes: Vec<Option<Outcome<T>>> = (0..count).map(|_| None).collect();
        let mut keep = |item: usize, outcome| {
            outcomes[item] = Some(outcome);
            Ok(())
        };
        self.each(count, job, take, &mut keep, on_progress)?;
        Ok(outcomes.into_iter().flatten().collect())
    }

    /// Does a job of `count` items. When the process dies, the items that it had begun are tried again in halves, until those that
    /// it crashes on are alone: each is an outcome of its own, and every other item is answered. What it had not begun is tried first.
    pub(super) fn each<T>(
        &mut self,
        count: usize,
        job: &dyn Fn(&[usize]) -> Job,
        take: &dyn Fn(Reply) -> Option<(usize, T)>,
        on_outcome: OnOutcome<'_, T>,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let mut bisection = Bisection::new(count);
        while let Some(mut attempt) = bisection.next_attempt() {
            // What was answered is not lost when it cannot be loaded again: the memory may be gone, or the file.
            if let (true, Err(why)) = (self.was_open, self.opened()) {
                let why = format!("llama.cpp died before, and cannot be started again: {why}");
                return bisection.give_up(&attempt).into_iter().try_for_each(|item| on_outcome(item, Err(why.clone())));
            }
            let mut handed = Ok(());
            let end = self.run(&job(&attempt.items), &mut |reply| match reply {
                Reply::Started(place) => attempt.begin(place),
                Reply::Tokens(n) => on_progress(Progress::Tokens(n)),
                reply => {
                    if let Some((place, value)) = take(reply)
                        && let Some(item) = attempt.answer(place)
                        && handed.is_ok()
                    {
                        handed = on_outcome(item, Ok(value));
                        on_progress(Progress::Done(1));
                    }
                }
            })?;
            handed?;
            if attempt.has_answers() {
                self.deaths = 0;
            }
            let End::Died(why) = end else {
                let missing = attempt.unanswered().count();
                if missing > 0 {
                    let message = format!("llama.cpp left {missing} of {} items out", attempt.items.len());
                    return Err(Error::failed(message));
                }
                continue;
            };
            self.deaths += 1;
            if self.deaths >= DEATHS {
                let why =
                    format!("not tried any more: llama.cpp died {DEATHS} times and answered nothing between: {why}");
                return bisection.give_up(&attempt).into_iter().try_for_each(|item| on_outcome(item, Err(why.clone())));
            }
            if let Some(item) = bisection.died(&attempt) {
                on_outcome(item, Err(format!("llama.cpp crashed on it: {why}")))?;
            }
        }
        Ok(())
    }

    fn run(&mut self, job: &Job, on_reply: &mut dyn FnMut(Reply)) -> Result<End> {
        self.opened()?;
        let Some((worker, _)) = &mut self.worker else { return Err(Error::failed("there is no worker")) };
        let end = worker.run(job, on_reply);
        if !matches!(end, Ok(End::Done)) {
            self.worker = None;
        }
        end
    }
}

/// The process. It is ended with its owner.
pub(super) struct Worker {
    child: Child,
    input: ChildStdin,
    replies: BufReader<ChildStdout>,
    errors: Arc<Mutex<VecDeque<String>>>,
    listener: Option<JoinHandle<()>>,
}

impl Worker {
    pub(super) fn start() -> Result<Self> {
        if std::env::var_os(WORKER).is_some() {
            return Err(Error::failed(format!("{WORKER} is set: a worker starts no worker")));
        }
        let program = match std::env::var_os(PROGRAM) {
            Some(program) => PathBuf::from(program),
            None => std::env::current_exe().map_err(Error::io(Path::new("this program"), "find"))?,
        };
        let mut command = Command::new(&program);
        command.env(WORKER, "llama-cpp").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for (name, value) in [SPIN, NO_BACKTRACE] {
            if std::env::var_os(name).is_none() {
                command.env(name, value);
            }
        }
        let mut child = command.spawn().map_err(Error::io(&program, "start"))?;
        let (Some(input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Error::failed("the worker has no pipes"));
        };
        let last = Arc::new(Mutex::new(VecDeque::new()));
        let listener = std::thread::spawn({
            let last = Arc::clone(&last);
            move || listen(errors, &last)
        });
        let mut worker = Self { child, input, replies: BufReader::new(output), errors: last, listener: Some(listener) };
        match read_line::<Reply>(&mut worker.replies) {
            Ok(Some(Reply::Hello(hello))) if hello == HELLO => Ok(worker),
            Ok(None) => {
                let why = worker.death();
                Err(Error::failed(format!("{} does not start as llama.cpp's worker: {why}", program.display())))
            }
            _ => Err(Error::failed(format!(
                "{} is no worker of this version; {PROGRAM} must name a `finetest` built with --features llama-cpp",
                program.display()
            ))),
        }
    }

    /// Gives it a job and listens until it is done.
    pub(super) fn run(&mut self, job: &Job, on_reply: &mut dyn FnMut(Reply)) -> Result<End> {
        if write_line(&mut self.input, job).is_err() {
            return Ok(End::Died(self.death()));
        }
        loop {
            match read_line(&mut self.replies)? {
                None => return Ok(End::Died(self.death())),
                Some(Reply::Done) => return Ok(End::Done),
                Some(Reply::Failed(message)) => return Err(Error::failed(message)),
                Some(Reply::Log(level, text)) => pass_on(&level, &text),
                Some(reply) => on_reply(reply),
            }
        }
    }

    /// How it ended, and the last that it said.
    fn death(&mut self) -> String {
        let _ = self.child.kill();
        let status = self.child.wait();
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
        let last = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let said: Vec<&str> = last.iter().map(String::as_str).collect();
        let how = status.map_or_else(|e| e.to_string(), describe);
        if said.is_empty() { how } else { format!("{} ({how})", said.join("; ")) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps the last lines of what a process writes to stderr, without letting it block or fill the memory.
fn listen(errors: impl Read, last: &Mutex<VecDeque<String>>) {
    let mut errors = BufReader::new(errors);
    loop {
        let mut line = Vec::new();
        match errors.by_ref().take(4096).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        if line.is_empty() {
            continue;
        }
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == LINES {
            last.pop_front();
        }
        last.push_back(line);
    }
}

/// How a process ended. A signal of a wrong instruction or address has a reason that is worth naming.
fn describe(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let (name, hint) = match signal {
            4 => (" SIGILL", "; the build uses instructions that this processor has not"),
            6 => (" SIGABRT", ""),
            9 => (" SIGKILL", "; was there too little memory?"),
            11 => (
                " SIGSEGV",
                "; was it built with -C target-cpu=native? ggml has crashed so on processors with AMX: build without",
            ),
            _ => ("", ""),
        };
        return format!("signal {signal}{name}{hint}");
    }
    status.to_string()
}
