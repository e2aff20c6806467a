//! What is wrong with training data: a detector for each kind of defect, and what shows only when examples are compared.

mod answers;
mod clean;
mod form;
mod index;
#[cfg(test)]
pub(crate) mod measured;
mod people;
mod pieces;
#[cfg(test)]
mod planted;
mod remains;
mod report;
mod run;
mod shared;
mod similar;

use super::Turns;
use crate::record::Message;

pub use clean::{Cleaned, clean};
pub use report::DataReport;
pub(crate) use run::prompt_key;
pub use run::{CheckOptions, Ledger, check};

/// What to do about a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Look at it; `clean` keeps the example.
    Note,
    /// It teaches something that nobody wants; `clean` leaves the example out.
    Warning,
    /// It cannot be learnt from, or must not get out; `clean` leaves the example out.
    Error,
}

/// A kind of defect.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// As findings name it.
    pub name: &'static str,
    /// What to do about it.
    pub severity: Severity,
    /// What it sees, in a sentence.
    pub sees: &'static str,
    /// What it cannot see, in a sentence.
    pub misses: &'static str,
}

/// Finds one kind of defect in one example.
trait Detector: Sync {
    fn kind(&self) -> Kind;

    /// What looks wrong, for a person; `None` where nothing does.
    fn find(&self, example: &Seen<'_>) -> Option<String>;

    /// Whether it is right here, because the example is about such things. Asked only where something was found.
    fn excused(&self, _example: &Seen<'_>) -> bool {
        false
    }

    /// What is wrong; `None` where nothing is.
    fn finding(&self, example: &Seen<'_>) -> Option<String> {
        self.find(example).filter(|_| !self.excused(example))
    }
}

/// Every detector of single examples, in the order of the documentation.
static DETECTORS: [&dyn Detector; 14] = [
    &answers::Empty,
    &answers::Truncated,
    &answers::Repetition,
    &answers::Refusal,
    &answers::Leftover,
    &form::Roles,
    &form::TemplateTags,
    &form::Mojibake,
    &remains::Html,
    &remains::Boilerplate,
    &people::Secret,
    &people::Personal,
    &people::Rude,
    &form::TooLong,
];

/// What shows only when the file is read, or examples are compared.
const UNREADABLE: Kind = Kind {
    name: "unreadable",
    severity: Severity::Error,
    sees: "A line that is no example of the file's format: no JSON, a missing key, a number where text is due, an empty answer.",
    misses: "A line in a format that finetest does not know, but that reads as one it knows.",
};
const DUPLICATE: Kind = Kind {
    name: "duplicate",
    severity: Severity::Error,
    sees: "An example that is there before, but for white space and case.",
    misses: "One word of difference: that is a near duplicate.",
};
const NEAR_DUPLICATE: Kind = Kind {
    name: "near-duplicate",
    severity: Severity::Warning,
    sees: "An example that shares about 83 % or more of its sequences of five characters with one before. A system message does not count, nor what almost all prompts begin or end with.",
    misses: "The same said in other words. Below 12 characters nothing is near.",
};
const CONTRADICTION: Kind = Kind {
    name: "contradiction",
    severity: Severity::Warning,
    sees: "The same prompt with another answer than before.",
    misses: "The same question in other words. Where many answers are right, as in stories, it sees what is no defect.",
};
const LEAK: Kind = Kind {
    name: "leak",
    severity: Severity::Error,
    sees: "A training example whose prompt, or nearly that, is in the validation data or in a scenario.",
    misses: "The same question in other words.",
};
static COMPARED: [Kind; 5] = [UNREADABLE, DUPLICATE, NEAR_DUPLICATE, CONTRADICTION, LEAK];

/// Every kind of defect, in the order of the documentation.
pub fn kinds() -> impl Iterator<Item = Kind> {
    COMPARED.into_iter().chain(DETECTORS.iter().map(|detector| detector.kind()))
}

/// An example as detectors look at it.
struct Seen<'a> {
    turns: &'a Turns,
    /// Longest example that is learnt whole; `None` where it is not known.
    longest: Option<Longest<'a>>,
    /// Whether almost all answers of its file end a sentence.
    sentences: bool,
}

/// The longest example that is learnt whole.
#[derive(Clone, Copy)]
struct Longest<'a> {
    tokens: usize,
    /// What counts tokens, where there is a tokenizer.
    count: Option<&'a TokenCount>,
}

/// Counts the tokens of an example as a model reads it; `None` of one that it cannot read.
#[derive(Clone)]
pub struct TokenCount(pub(crate) std::sync::Arc<CountTokens>);

type CountTokens = dyn Fn(&Turns) -> Option<usize> + Send + Sync;

impl std::fmt::Debug for TokenCount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenCount")
    }
}

impl<'a> Seen<'a> {
    /// An example by itself.
    fn alone(turns: &'a Turns) -> Self {
        Self { turns, longest: None, sentences: false }
    }

    /// The chat; empty of raw text.
    fn messages(&self) -> &'a [Message] {
        match self.turns {
            Turns::Chat { messages, .. } => messages,
            _ => &[],
        }
    }

    /// What is learnt.
    fn answers(&self) -> Vec<&'a str> {
        match self.turns {
            Turns::Chat { messages, .. } => of_role(messages, |role| role == "assistant"),
            Turns::Completion { completion, .. } => vec![completion],
            Turns::Text(text) => vec![text],
        }
    }

    /// What is asked; empty of raw text.
    fn prompts(&self) -> Vec<&'a str> {
        match self.turns {
            Turns::Chat { messages, .. } => of_role(messages, |role| role != "assistant"),
            Turns::Completion { prompt, .. } => vec![prompt],
            Turns::Text(_) => Vec::new(),
        }
    }

    /// All of it.
    fn texts(&self) -> Vec<&'a str> {
        match self.turns {
            Turns::Chat { messages, .. } => of_role(messages, |_| true),
            Turns::Completion { prompt, completion } => vec![prompt, completion],
            Turns::Text(text) => vec![text],
        }
    }

    /// All of it but a system message.
    fn said(&self) -> Vec<&'a str> {
        match self.turns {
            Turns::Chat { messages, .. } => of_role(messages, |role| role != "system"),
            _ => self.texts(),
        }
    }

    /// Whether it is raw text, which may begin and end anywhere.
    fn is_text(&self) -> bool {
        matches!(self.turns, Turns::Text(_))
    }

    /// Whether a prompt is about something; of raw text, which has none, whether the text is.
    fn is_about(&self, about: impl Fn(&str) -> bool) -> bool {
        let asked = if self.is_text() { self.texts() } else { self.prompts() };
        asked.into_iter().any(about)
    }

    /// The first of these texts in which something is found.
    fn first(texts: Vec<&str>, find: impl Fn(&str) -> Option<String>) -> Option<String> {
        texts.into_iter().find_map(find)
    }
}

fn of_role(messages: &[Message], wanted: impl Fn(&str) -> bool) -> Vec<&str> {
    messages.iter().filter(|message| wanted(&message.role)).flat_map(Message::texts).collect()
}
