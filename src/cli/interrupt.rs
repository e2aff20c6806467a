//! Ctrl-C and a scheduler's SIGTERM end a run at once; what it kept, and how to go on, is said first.

use std::sync::{Mutex, PoisonError};

use crate::run::RunEvent;
use crate::shown::visible;

/// What is going on, as far as it decides what is lost.
#[derive(Clone, Debug, PartialEq)]
enum Doing {
    Nothing,
    Fetching(String),
    Training {
        done: usize,
        steps: usize,
        saved: usize,
    },
    /// Another program trains.
    Elsewhere,
    Answering {
        done: usize,
        all: usize,
    },
    Measuring,
}

static DOING: Mutex<Doing> = Mutex::new(Doing::Nothing);

/// Notes what an event tells.
pub(super) fn note(event: &RunEvent) {
    DOING.lock().unwrap_or_else(PoisonError::into_inner).note(event);
}

impl Doing {
    fn note(&mut self, event: &RunEvent) {
        match (event, &mut *self) {
            (RunEvent::Stage { what, bytes: true, .. }, doing) => *doing = Self::Fetching(what.clone()),
            (RunEvent::StageFinished, doing) => *doing = Self::Nothing,
            (RunEvent::Stage { what, units, .. }, doing) if what == "training" => {
                *doing = Self::Training { done: 0, steps: *units, saved: 0 };
            }
            (RunEvent::Stage { what, .. }, doing) if what.starts_with("training with ") => *doing = Self::Elsewhere,
            (RunEvent::Step { step, .. }, Self::Training { done, .. }) => *done = *step,
            (RunEvent::Saved { step }, Self::Training { saved, done, .. }) => {
                (*saved, *done) = (*step, *step.max(done));
            }
            (RunEvent::Stage { what, units, .. }, doing) if what == "answering" => {
                *doing = Self::Answering { done: 0, all: *units };
            }
            (RunEvent::Stage { .. }, doing) => *doing = Self::Measuring,
            (RunEvent::Advanced { units, .. }, Self::Answering { done, .. }) => *done += units,
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
            Self::Elsewhere => {
                "the trainer and all that it started are ended. Run the same command to start it again".to_owned()
            }
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
            #[cfg(feature = "candle")]
            crate::train::engine::end_all();
            crate::files::remove_unfinished();
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
        let mut kept = |event: RunEvent| {
            doing.note(&event);
            doing.kept()
        };
        let stage = |what: &str, units| RunEvent::Stage { what: what.to_owned(), units, bytes: false };
        assert!(kept(stage("training", 100)).contains("before its first checkpoint"));
        assert!(kept(RunEvent::Saved { step: 30 }).contains("checkpoint of step 30 is kept"));
        assert!(kept(stage("answering", 170)).contains("0 of 170"));
        assert!(kept(RunEvent::Advanced { units: 57, tokens: 0 }).contains("57 of 170"));
        assert!(kept(RunEvent::Advanced { units: 0, tokens: 5 }).contains("57 of 170"));
        assert!(kept(stage("measuring drift", 1)).contains("all answers"));
    }
}
