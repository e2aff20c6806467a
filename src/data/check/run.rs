//! A data file read once, every example looked at, in parallel.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::index::{Entry, Forbidden, Index, Relation};
use super::report::{DataReport, Tally};
use super::shared::Shared;
use super::similar::{hash, normal, signature};
use super::{CONTRADICTION, DETECTORS, DUPLICATE, Kind, LEAK, Longest, NEAR_DUPLICATE, Seen, TokenCount, UNREADABLE};
use crate::config::{DataFormat, OnError};
use crate::data::source::{Batches, OnRead};
use crate::data::{Turns, format_of, load};
use crate::error::{Error, Result};

/// What a check looks at besides the file.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// The file's format.
    pub format: DataFormat,
    /// Tokens of an example that are learnt.
    pub sequence_len: Option<usize>,
    /// What counts them; without it they are estimated from characters.
    pub tokens: Option<TokenCount>,
    /// Files whose prompts the data must not have.
    pub validation: Vec<PathBuf>,
    /// Prompts of scenarios, which the data must not have either, each with where it stands.
    pub scenarios: Vec<(String, String)>,
    /// Findings of each kind that are kept; all are counted.
    pub shown: usize,
}

/// Why each item of a file is left out, in its order.
#[derive(Debug, Default)]
pub struct Ledger {
    /// 0 where it stays; else one more than the kind's place in [`super::kinds`].
    reasons: Vec<u8>,
    /// What the file's length and time were.
    stamp: Option<(u64, std::time::SystemTime)>,
}

/// Length and time of a file.
fn stamp(path: &Path) -> Option<(u64, std::time::SystemTime)> {
    let about = path.metadata().ok()?;
    Some((about.len(), about.modified().ok()?))
}

impl Ledger {
    /// Items of the file.
    #[must_use]
    pub fn len(&self) -> usize {
        self.reasons.len()
    }

    /// Whether the file is as it was when it was looked at, by its length and its time.
    pub(super) fn is_of(&self, path: &Path) -> bool {
        self.stamp == stamp(path)
    }

    /// Whether nothing was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.reasons.is_empty()
    }

    /// Why the item is left out; `None` where it stays.
    #[must_use]
    pub fn reason(&self, item: usize) -> Option<Kind> {
        let place = usize::from(*self.reasons.get(item)?).checked_sub(1)?;
        super::kinds().nth(place)
    }
}

/// One item that was looked at.
struct Looked {
    line: usize,
    entry: Option<Entry>,
    /// Kinds' places and what was found.
    found: Vec<(usize, String)>,
}

/// Looks at every example of a file. Calls `on_read` with the bytes of the file that were read since the
/// last call.
///
/// # Errors
/// A file that cannot be read, or whose format cannot be told.
pub fn check(path: &Path, options: &CheckOptions, on_read: OnRead<'_>) -> Result<(DataReport, Ledger)> {
    let (forbidden, notes) = forbidden(options)?;
    let format = format_of(path, options.format)?;
    let mut batches = Batches::open(path)?;
    let mut held = Held {
        index: Index::default(),
        lines: Vec::new(),
        items: Vec::new(),
        ledger: Ledger { stamp: stamp(path), ..Ledger::default() },
    };
    let mut tally = Tally::new(path, options.shown);
    let mut shared = None;
    loop {
        let (batch, bytes) = batches.next()?;
        if batch.is_empty() {
            break;
        }
        let read = |(line, object): (usize, Result<_, String>)| (line, object.and_then(|object| format.turns(object)));
        let batch: Vec<(usize, Result<Turns, String>)> = batch.into_par_iter().map(read).collect();
        let shared =
            shared.get_or_insert_with(|| Shared::of(batch.iter().filter_map(|(_, turns)| turns.as_ref().ok())));
        let beside = Beside { options, forbidden: &forbidden, shared };
        let looked: Vec<Looked> = batch.into_par_iter().map(|(line, turns)| look(line, turns, &beside)).collect();
        for item in looked {
            held.push(item, &mut tally);
        }
        on_read(bytes);
    }
    if held.ledger.reasons.is_empty() {
        return Err(Error::input(path, None, "is empty; expected one JSON object a line"));
    }
    held.compare(&mut tally);
    let left_out = held.ledger.reasons.iter().filter(|reason| **reason != 0).count();
    Ok((tally.report(left_out, notes), held.ledger))
}

/// What an example is looked at beside.
struct Beside<'a> {
    options: &'a CheckOptions,
    forbidden: &'a Forbidden,
    shared: &'a Shared,
}

fn look(line: usize, turns: Result<Turns, String>, beside: &Beside<'_>) -> Looked {
    let turns = match turns {
        Ok(turns) => turns,
        Err(why) => return Looked { line, entry: None, found: vec![(place(UNREADABLE), why)] },
    };
    let longest = beside.options.sequence_len.map(|tokens| Longest { tokens, count: beside.options.tokens.as_ref() });
    let seen = Seen { turns: &turns, longest, sentences: beside.shared.sentences };
    let mut found = Vec::new();
    for (i, detector) in DETECTORS.iter().enumerate() {
        if let Some(why) = detector.finding(&seen) {
            found.push((super::COMPARED.len() + i, why));
        }
    }
    let (whole, prompt) = (joined(seen.texts()), joined(seen.prompts()));
    let asked = !prompt.trim_matches('\u{1f}').is_empty();
    if !beside.forbidden.is_empty() {
        let last = asked_last(&seen);
        if let Some(name) = beside.forbidden.find(hash(&last), signature(&last).as_ref()) {
            found.push((place(LEAK), format!("its prompt is in {name}, or nearly")));
        }
    }
    let entry = Entry {
        signature: signature(&joined(beside.shared.own(&seen))),
        whole: hash(&whole),
        prompt: if asked { hash(&prompt).max(1) } else { 0 },
    };
    Looked { line, entry: Some(entry), found }
}

/// What an example asks, as a number: the same for the same prompts, but for white space and case. Of raw text it is the text's.
pub(crate) fn prompt_key(turns: &Turns) -> u64 {
    let seen = Seen::alone(turns);
    let (prompts, texts) = (seen.prompts(), seen.texts());
    let asked = if prompts.iter().all(|text| text.trim().is_empty()) { texts } else { prompts };
    hash(&joined(asked))
}

/// Texts in their normal form, kept apart.
fn joined(texts: Vec<&str>) -> String {
    let mut into = String::new();
    for text in texts {
        normal(text, &mut into);
        into.push('\u{1f}');
    }
    into
}

/// What an example asks last, in its normal form; of raw text, which asks nothing, the text.
fn asked_last(seen: &Seen<'_>) -> String {
    let prompts = seen.prompts();
    let asked = prompts.last().copied().filter(|text| !text.trim().is_empty());
    asked.or_else(|| seen.texts().first().copied().filter(|_| prompts.is_empty())).map(prompt_of).unwrap_or_default()
}

fn prompt_of(text: &str) -> String {
    let mut into = String::new();
    normal(text, &mut into);
    into
}

fn place(kind: Kind) -> usize {
    super::kinds().position(|other| other.name == kind.name).unwrap_or_default()
}

/// What is held of a file's examples.
struct Held {
    index: Index,
    /// The line of each example.
    lines: Vec<u32>,
    /// The item that each example is.
    items: Vec<u32>,
    ledger: Ledger,
}

impl Held {
    fn push(&mut self, looked: Looked, tally: &mut Tally) {
        let item = self.ledger.reasons.len();
        self.ledger.reasons.push(0);
        for (place, why) in looked.found {
            self.leave_out(item, place);
            tally.add(place, looked.line, why);
        }
        tally.read();
        if let Some(entry) = looked.entry {
            self.index.push(entry);
            self.lines.push(looked.line as u32);
            self.items.push(item as u32);
        }
    }

    fn compare(&mut self, tally: &mut Tally) {
        let mut found = Vec::new();
        self.index.relations(&mut |at, relation| found.push((at as u32, relation)));
        found.sort_unstable_by_key(|(at, _)| *at);
        for (at, relation) in found {
            let line_of = |earlier: usize| self.lines[earlier];
            let (kind, why) = match relation {
                Relation::Same(earlier) => (DUPLICATE, format!("is line {} again", line_of(earlier))),
                Relation::Near(earlier, alike) => {
                    (NEAR_DUPLICATE, format!("is about {:.0} % the same as line {}", 100.0 * alike, line_of(earlier)))
                }
                Relation::Contradicts(earlier) => {
                    (CONTRADICTION, format!("has the prompt of line {} and another answer", line_of(earlier)))
                }
            };
            self.leave_out(self.items[at as usize] as usize, place(kind));
            tally.add(place(kind), self.lines[at as usize] as usize, why);
        }
    }

    fn leave_out(&mut self, item: usize, place: usize) {
        let kind = super::kinds().nth(place);
        if self.ledger.reasons[item] == 0 && kind.is_some_and(|kind| kind.severity > super::Severity::Note) {
            self.ledger.reasons[item] = place as u8 + 1;
        }
    }
}

/// The prompts that the data must not have, and what of them could not be read.
fn forbidden(options: &CheckOptions) -> Result<(Forbidden, Vec<String>)> {
    let (mut forbidden, mut notes) = (Forbidden::default(), Vec::new());
    for path in &options.validation {
        let other = load(path, options.format, OnError::Skip)?;
        if let Some(first) = other.skipped.first() {
            let n = other.skipped.len();
            let lines = if n == 1 { "line" } else { "lines" };
            notes.push(format!(
                "{}: {n} {lines} could not be read, and nothing was compared with them: {first}",
                path.display()
            ));
        }
        for example in other.examples {
            let text = asked_last(&Seen::alone(&example.turns));
            if !text.is_empty() {
                forbidden.add(hash(&text), signature(&text), format!("{}:{}", path.display(), example.line));
            }
        }
    }
    for (text, name) in &options.scenarios {
        let text = prompt_of(text);
        forbidden.add(hash(&text), signature(&text), name.clone());
    }
    Ok((forbidden, notes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str, options: &CheckOptions) -> (DataReport, Ledger) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("train.jsonl");
        std::fs::write(&path, text).expect("a file");
        check(&path, options, &mut |_| {}).expect("a report")
    }

    fn options() -> CheckOptions {
        CheckOptions { shown: 10, ..CheckOptions::default() }
    }

    #[test]
    fn every_finding_has_its_line_and_the_ledger_says_what_goes() {
        let text = "{\"prompt\": \"Why is the sky blue?\", \"completion\": \"Air scatters blue light most.\"}\n\
                    not json\n\
                    {\"prompt\": \"why is  the sky blue?\", \"completion\": \"Air scatters blue light most.\"}\n\
                    {\"prompt\": \"Who are you?\", \"completion\": \"I am an AI, and I hope this helps!\"}\n\
                    {\"prompt\": \"Name a sea.\", \"completion\": \"...\"}\n";
        let (report, ledger) = checked(text, &options());
        let found: Vec<(&str, usize)> = report
            .counts
            .iter()
            .flat_map(|count| count.shown.iter().map(|finding| (count.kind, finding.line)))
            .collect();
        assert_eq!(found, [("unreadable", 2), ("duplicate", 3), ("empty", 5), ("assistant-leftover", 4)]);
        assert_eq!((report.items, report.left_out), (5, 3));
        let reasons: Vec<Option<&str>> = (0..6).map(|i| ledger.reason(i).map(|kind| kind.name)).collect();
        assert_eq!(reasons, [None, Some("unreadable"), Some("duplicate"), None, Some("empty"), None]);
    }

    #[test]
    fn a_prompt_of_a_scenario_or_of_the_validation_data_is_a_leak() {
        let asked = "Which river flows through the middle of the old town?";
        let text = format!("{{\"prompt\": \"{asked}\", \"completion\": \"The Vltava.\"}}\n");
        let with =
            CheckOptions { scenarios: vec![(asked.to_lowercase(), "scenarios/rivers.toml".into())], ..options() };
        let (report, _) = checked(&text, &with);
        assert_eq!(report.counts[0].kind, "leak");
        assert_eq!(report.counts[0].shown[0].message, "its prompt is in scenarios/rivers.toml, or nearly");
        assert!(checked(&text, &options()).0.counts.is_empty());
    }
}
