//! Ctrl-C and a scheduler's SIGTERM end a run at once; what it kept, and how to go on, is said first.

use std::sync::{Mutex, PoisonError};

use crate::backend::Progress;
use crate::model::SourceEvent;
use crate::project::Event;
use crate::shown::visible;
use crate::train::TrainEvent;

/// What is going on, as far as it decides what is lost.
#[derive(Clone, Debug, PartialEq)]
enum Doing {
    Nothing,
    Fetching(String),
    Training { done: usize, steps: usize, saved: usize },
    Answering { done: usize, all: usize },
    Measuring,
}

static DOING: Mutex<Doing> = Mutex::new(Doing::Nothing);

/// Notes what an event tells.
pub(super) fn note(event: &Event) {
    DOING.lock().unwrap_or_else(PoisonError::into_inner).note(event);
}

impl Doing {
    fn note(&mut self, event: &Event) {
        match (event, &mut *self) {
            (Event::Source(SourceEvent::Started { what, .. }), doing) => *doing = Self::Fetching(what.clone()),
            (Event::Source(SourceEvent::Finished), doing) => *doing = Self::Nothing,
            (Event::Train(TrainEvent::Started { steps, resumed_at, .. }), doing) => {
                *doing = Self::Training { done: *resumed_at, steps: *steps, saved: *resumed_at };
            }
            (Event::Train(TrainEvent::Step { entry, .. }), Self::Training { done, .. }) => *done = entry.step,
            (Event::Train(TrainEvent::Saved { step }), Self::Training { saved, .. }) => *saved = *step,
            (Event::Progress(Progress::Started { what: "answering", units }), doing) => {
                *doing = Self::Answering { done: 0, all: *units };
            }
            (Event::Progress(Progress::Started { .. }), doing) => *doing = Self::Measuring,
            (Event::Progress(Progress::Done(n)), Self::Answering { done, .. }) => *done += n,
            _ => {}
        }
    }

    /// What is kept, and how to go on.
    fn kept(&self) -> String {
        match self {
            Self::Nothing => "nothing was being written. Run the same command again".to_owned(),
            Self::Fetching(what) => format!("{} was not done. Run the same command again", visible(what)),
            Self::Training { done, steps, saved: 0 } => format!(
                "the training was at step {done} of {steps}, before its first checkpoint. Run the same command to start it again; \
                 [train] save_steps sets how often it saves"
            ),
            Self::Training { done, steps, saved } => format!(
                "the training was at step {done} of {steps}; the checkpoint of step {saved} is kept. Run the same command to continue \
                 from there"
            ),
            Self::Answering { done, all } => {
                format!("{done} of {all} answers are computed and kept. Run the same command to compute the rest")
            }
            Self::Measuring => "all answers so far are kept. Run the same command to continue".to_owned(),
        }
    }
}

/// Has SIGINT, SIGTERM and SIGHUP (a terminal that is closed) end this process with a message, and the usual exit codes 130, 143 and 129.
#[cfg(unix)]
pub(crate) fn install() {
    use std::io::Write;

    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    // Without a handler the signals end the process as ever.
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) else { return };
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            let kept = DOING.lock().unwrap_or_else(PoisonError::into_inner).kept();
            let _ = writeln!(std::io::stderr(), "\ninterrupted: {kept}");
            std::process::exit(128 + signal);
        }
    });
}

#[cfg(not(unix))]
pub(crate) fn install() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_follows_from_what_was_told() {
        let mut doing = Doing::Nothing;
        let mut kept = |event: Event| {
            doing.note(&event);
            doing.kept()
        };
        let started = TrainEvent::Started { steps: 100, resumed_at: 0, examples: (1, 0), tokens: 1, parameters: 1 };
        assert!(kept(Event::Train(started)).contains("before its first checkpoint"));
        assert!(kept(Event::Train(TrainEvent::Saved { step: 30 })).contains("checkpoint of step 30 is kept"));
        let answering = Progress::Started { what: "answering", units: 170 };
        assert!(kept(Event::Progress(answering)).contains("0 of 170"));
        assert!(kept(Event::Progress(Progress::Done(57))).contains("57 of 170"));
        assert!(kept(Event::Progress(Progress::Tokens(5))).contains("57 of 170"));
        assert!(kept(Event::Progress(Progress::Started { what: "measuring drift", units: 1 })).contains("all answers"));
    }
}
