//! The answers to one question, side by side.

use serde::Serialize;

use crate::compare::word_diff;
use crate::record::{BASE, RunRecord};
use crate::report::paint::{Ink, Page, Style, piece};

/// Every arm's answer to one question.
#[derive(Debug, Serialize)]
pub struct Answers<'r> {
    prompt: String,
    answers: Vec<ArmAnswer<'r>>,
}

#[derive(Debug, Serialize)]
struct ArmAnswer<'r> {
    arm: &'r str,
    /// Nothing where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'r str>,
    /// New tokens.
    tokens: usize,
    /// It ended at the limit of tokens.
    cut: bool,
    /// It is the same text as base's.
    same_as_base: bool,
}

impl<'r> Answers<'r> {
    /// The answers of a run of one question.
    #[must_use]
    pub fn of(run: &'r RunRecord) -> Self {
        let Some(case) = run.scenarios.iter().flat_map(|scenario| &scenario.cases).next() else {
            return Self { prompt: String::new(), answers: Vec::new() };
        };
        let base = case.text(BASE);
        let answer = |arm: &'r str| {
            let answer = case.answers.get(arm);
            let completion = answer.and_then(crate::record::Answer::completion);
            let text = completion.map(|completion| completion.text.as_str());
            ArmAnswer {
                arm,
                text,
                error: answer.and_then(crate::record::Answer::error),
                tokens: completion.map_or(0, |completion| completion.tokens.len()),
                cut: completion.is_some_and(|completion| completion.finish == crate::record::Finish::Length),
                same_as_base: arm != BASE && text.is_some() && text == base,
            }
        };
        let answers = run.arms.iter().map(|arm| answer(arm.name.as_str())).collect();
        Self { prompt: case.prompt.to_string(), answers }
    }
}

/// The answers for a terminal: each whole, and below another arm's what differs from base's.
#[must_use]
pub fn answers(run: &RunRecord, style: Style) -> String {
    let Answers { answers, .. } = Answers::of(run);
    let base = answers.iter().find(|answer| answer.arm == BASE).and_then(|answer| answer.text);
    let mut page = Page::new(style);
    for (i, answer) in answers.iter().enumerate() {
        if i > 0 {
            page.blank();
        }
        let cut = if answer.cut { ", cut at the limit" } else { "" };
        let about = match (answer.text, answer.same_as_base) {
            (None, _) => String::new(),
            (_, true) => format!("  same answer as base ({} tokens{cut})", answer.tokens),
            (_, false) => format!("  {} tokens{cut}", answer.tokens),
        };
        page.wrapped(0, &[piece(Ink::Bold, answer.arm), piece(Ink::Dim, about)]);
        match (answer.text, answer.error) {
            (Some(text), _) => text.lines().for_each(|line| page.wrapped_under("  ", &[piece(Ink::Plain, line)])),
            (None, why) => {
                let why = why.unwrap_or("there is no answer");
                page.wrapped_under("  ", &[piece(Ink::Bad, format!("error: {why}"))]);
            }
        }
    }
    let changed = answers.iter().filter(|answer| answer.arm != BASE && !answer.same_as_base);
    for answer in changed {
        let (Some(base), Some(text)) = (base, answer.text) else { continue };
        let diff = word_diff(base, text);
        // Where hardly a word is the same, the answers themselves show it better.
        if !diff.is_readable() {
            continue;
        }
        page.blank();
        page.wrapped(0, &[piece(Ink::Bold, format!("base → {}", answer.arm))]);
        for line in diff.lines() {
            let woven = page.woven(&line);
            page.wrapped_under("  ", &woven);
        }
    }
    page.finish()
}
