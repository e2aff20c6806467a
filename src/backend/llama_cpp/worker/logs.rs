//! llama.cpp's messages: into `tracing`, never to stderr. In the worker they are passed on to the parent, and the last errors are
//! kept, because llama.cpp says why it cannot load a file only there.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Messages that are kept to explain an error.
const KEPT: usize = 8;

static LAST: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// Sends what llama.cpp and ggml say to `tracing` from now on.
pub(super) fn to_tracing() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| llama_cpp_2::send_logs_to_tracing(llama_cpp_2::LogOptions::default()));
}

/// The last errors, for a message; and forgets them.
pub(super) fn take_errors() -> String {
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    last.drain(..).collect::<Vec<_>>().join("; ")
}

/// Receives the worker's messages: this process has nobody else to tell.
pub(super) struct Forward<F> {
    /// What the parent wants to hear.
    pub(super) wanted: OnceLock<LevelFilter>,
    pub(super) send: F,
}

impl<F: Fn(&Level, String) + Send + Sync + 'static> Subscriber for Forward<F> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && (*metadata.level() == Level::ERROR || self.wanted.get().is_some_and(|w| metadata.level() <= w))
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let level = event.metadata().level();
        if *level == Level::ERROR {
            let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
            if last.len() == KEPT {
                last.pop_front();
            }
            last.push_back(text.0.clone());
        }
        if self.wanted.get().is_some_and(|wanted| level <= wanted) {
            (self.send)(level, text.0);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// An event's message.
struct Text(String);

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.trim_end().clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

/// A worker's message, as if llama.cpp were in this process.
pub(crate) fn pass_on(level: &str, text: &str) {
    match level {
        "ERROR" => tracing::error!(target: "llama.cpp", "{text}"),
        "WARN" => tracing::warn!(target: "llama.cpp", "{text}"),
        "INFO" => tracing::info!(target: "llama.cpp", "{text}"),
        _ => tracing::debug!(target: "llama.cpp", "{text}"),
    }
}
