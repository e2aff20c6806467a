//! The worker: this program once more, as a child that calls llama.cpp and can therefore crash on one of its asserts.
//!
//! The parent starts it with [`WORKER`] in the environment; whoever is started so serves on stdin and stdout and does nothing else.

use std::io::{BufReader, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::raw::Differentiator;
use super::{Session, logs};
use crate::backend::llama_cpp::protocol::{HELLO, Job, OpeningToTrain, Reply, Window, floats, read_line, write_line};
use crate::error::{Error, Result};

/// Environment variable that makes this program a worker.
pub(crate) const WORKER: &str = "FINETEST_WORKER";

/// Serves, when this process was started to; how it then ended.
pub(crate) fn serve_if_asked() -> Option<ExitCode> {
    std::env::var_os(WORKER).is_some_and(|name| name == "llama-cpp").then(|| match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    })
}

/// Where replies go. llama.cpp's messages come from other threads.
#[derive(Clone)]
struct Parent(Arc<Mutex<std::io::Stdout>>);

impl Parent {
    fn tell(&self, reply: &Reply) -> Result<()> {
        let mut out = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A parent that is gone wants no more answers.
        write_line(&mut *out, reply).map_err(|e| Error::failed(format!("nobody listens: {e}")))
    }
}

fn serve() -> Result<()> {
    let parent = Parent(Arc::new(Mutex::new(std::io::stdout())));
    let logs = Arc::new(logs::Forward {
        wanted: OnceLock::new(),
        send: {
            let parent = parent.clone();
            move |level: &tracing::Level, text| drop(parent.tell(&Reply::Log(level.to_string(), text)))
        },
    });
    let _ = tracing::subscriber::set_global_default(Arc::clone(&logs));
    parent.tell(&Reply::Hello(HELLO.to_owned()))?;
    let mut input = BufReader::new(std::io::stdin());
    let (mut session, mut trainer) = (None, None);
    let open_log = |log: &str| {
        let _ = logs.wanted.set(log.parse().unwrap_or(tracing::level_filters::LevelFilter::OFF));
    };
    while let Some(job) = read_line::<Job>(&mut input)? {
        let done = match job {
            Job::Open(opening) => {
                open_log(&opening.log);
                let placed = Session::placed(&opening);
                let said = placed.and_then(|note| note.map_or(Ok(()), |note| parent.tell(&Reply::Note(note))));
                said.and_then(|()| Session::open(&opening)).and_then(|mut opened| {
                    let found = opened.opened()?;
                    session = Some(opened);
                    parent.tell(&Reply::Opened(found))
                })
            }
            Job::OpenTraining(opening) => {
                open_log(&opening.log);
                let OpeningToTrain { model, adapter, window, threads, .. } = &opening;
                // Products are computed by this pool, in ggml's place. It fails where there is one already, as after an error.
                let _ = rayon::ThreadPoolBuilder::new().num_threads((*threads).max(1)).build_global();
                let opened = super::prepare().and_then(|_| Differentiator::open(model, adapter, *window, *threads));
                opened.and_then(|opened| {
                    let tensors = opened.tensors();
                    trainer = Some(opened);
                    parent.tell(&Reply::Tensors(tensors))
                })
            }
            Job::Descend { parameters, gradients, windows } => match &mut trainer {
                Some(trainer) => descend(trainer, &parameters, gradients.as_deref(), &windows)
                    .and_then(|loss| parent.tell(&Reply::Loss(Some(loss).filter(|loss| loss.is_finite())))),
                None => Err(Error::failed("no adapter is open")),
            },
            job => match &mut session {
                Some(session) => work(session, job, &parent),
                None => Err(Error::failed("no model is open")),
            },
        };
        parent.tell(&done.map_or_else(|error| Reply::Failed(error.to_string()), |()| Reply::Done))?;
    }
    Ok(())
}

fn work(session: &mut Session, job: Job, parent: &Parent) -> Result<()> {
    let mut tell = |reply| parent.tell(&reply);
    match job {
        Job::Open(_) | Job::OpenTraining(_) | Job::Descend { .. } => Err(Error::failed("a model is open already")),
        Job::Generate { items, stop } => session.generate(&items, &stop, &mut tell),
        Job::Score { items } => session.score(&items, &mut tell),
        Job::Compare { items, arms } => session.compare(&items, arms, &mut tell),
        Job::Prove { prompts, arms } => {
            let (effect, base) = session.probe_adapter(&prompts, arms)?;
            tell(Reply::Proved { effect, base })
        }
        Job::Logits { items, directory } => session.logits(&items, &directory, &mut tell),
        Job::Tokenize { texts } => {
            let tokens = texts.iter().map(|text| session.tokenize(text)).collect::<Result<_>>()?;
            tell(Reply::Tokenized(tokens))
        }
        Job::Render { conversations } => {
            let texts = conversations.iter().map(|messages| session.render(messages)).collect::<Result<_>>()?;
            tell(Reply::Rendered(texts))
        }
    }
}

/// Loss over all windows, and gradients into a file when there is a place for them.
fn descend(
    trainer: &mut Differentiator,
    parameters: &Path,
    gradients: Option<&Path>,
    windows: &[Window],
) -> Result<f64> {
    let bytes = std::fs::read(parameters).map_err(Error::io(parameters, "read"))?;
    trainer.set(&floats(&bytes))?;
    let losses = windows.iter().map(|window| trainer.run(window, gradients.is_some()));
    let loss = losses.sum::<Result<f64>>()?;
    if let Some(path) = gradients {
        let bytes: Vec<u8> = trainer.take().into_iter().flat_map(f32::to_le_bytes).collect();
        std::fs::write(path, bytes).map_err(Error::io(path, "write"))?;
    }
    Ok(loss)
}
