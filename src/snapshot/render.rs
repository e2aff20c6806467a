//! A scenario's answers as they are approved: text that a person reads in a pull request, and that is the same on every machine.

use std::sync::LazyLock;

use regex::Regex;

use crate::compare::failures_shown;
use crate::record::{Answer, BASE, CaseRecord, Completion, Prompt, Role, Sample, ScenarioRecord, Verdict};
use crate::shown::visible;

/// Lines of a prompt that are shown: of a longer one those at its beginning and its end.
const PROMPT_LINES: usize = 8;
/// Lines at a long prompt's end.
const PROMPT_END: usize = 3;
/// Characters of a line of a prompt: of a longer one those at its beginning and its end.
const PROMPT_CHARACTERS: usize = 240;
/// Characters of an answer that is not worth more: base's, to what it was not trained for.
const FAILED_BASE: usize = 100;

/// Renders a scenario's answers: readable in a pull request, and stable.
///
/// A case is its name, what it asks, and each arm's verdict and answer, each line of an answer behind `  | `. An answer is `= base` when
/// it is that arm's. Of a target case only the beginning of what base answers is shown where base fails. There are no scores, times or
/// fingerprints, and no invisible characters, and a changed answer changes the lines of its own case only.
#[must_use]
pub fn render(scenario: &ScenarioRecord, arms: &[&str]) -> String {
    let mut body = format!("# {}::{}\n", scenario.role, line(&scenario.name));
    if !scenario.description.trim().is_empty() {
        body.push_str(&format!("{}\n", line(&scenario.description)));
    }
    for case in &scenario.cases {
        body.push_str(&format!("\n## {}\n", line(&case.name)));
        for asked in prompt(&case.prompt) {
            body.push_str(format!("> {}", line(&asked)).trim_end());
            body.push('\n');
        }
        for (i, arm) in arms.iter().enumerate() {
            let cut =
                *arm == BASE && arms.len() > 1 && scenario.role == Role::Target && case.verdict(arm) == Verdict::Failed;
            render_arm(&mut body, case, arm, &arms[..i], cut);
        }
    }
    body
}

/// The lines of what is asked.
fn prompt(prompt: &Prompt) -> Vec<String> {
    let lines: Vec<String> = prompt.to_string().lines().map(str::to_owned).collect();
    let shown = |line: &String| middle_cut(line, PROMPT_CHARACTERS);
    if lines.len() <= PROMPT_LINES {
        return lines.iter().map(shown).collect();
    }
    let begin = PROMPT_LINES - 1 - PROMPT_END;
    let left_out = lines.len() - begin - PROMPT_END;
    let end = lines[lines.len() - PROMPT_END..].iter();
    lines[..begin].iter().map(shown).chain([format!("… {left_out} more lines …")]).chain(end.map(shown)).collect()
}

/// A line cut to so many characters, in its middle.
fn middle_cut(line: &str, most: usize) -> String {
    let count = line.chars().count();
    if count <= most {
        return line.to_owned();
    }
    let half = most / 2;
    let begin: String = line.chars().take(half).collect();
    let end: String = line.chars().skip(count - half).collect();
    format!("{begin} … {} more characters … {end}", count - 2 * half)
}

/// An arm's verdict and answer; `earlier` arms are those that it may be the same as, and it is `cut` to its beginning.
fn render_arm(body: &mut String, case: &CaseRecord, arm: &str, earlier: &[&str], cut: bool) {
    let answer = case.answers.get(arm);
    let verdict = word(answer.map_or(Verdict::NotEvaluated, |answer| answer.verdict));
    let same = answer.and_then(|answer| earlier.iter().find(|other| is_same(answer, case.answers.get(**other))));
    let same_as = same.map_or_else(String::new, |other| format!(" = {}", line(other)));
    let samples = answer.map_or(&[][..], |answer| &answer.samples);
    let counted = match samples.len() {
        0 | 1 => String::new(),
        all => format!(", {} of {all} samples", answer.map_or(0, Answer::passed)),
    };
    body.push_str(&format!("{}: {verdict}{counted}{same_as}\n", line(arm)));
    if same.is_some() {
        return;
    }
    for (i, sample) in samples.iter().enumerate() {
        if samples.len() > 1 {
            body.push_str(&format!("  sample {}: {}\n", i + 1, word(sample.verdict)));
        }
        render_sample(body, case, sample, cut);
    }
}

/// Are two answers the same, word by word and verdict by verdict? Scores of choices are not compared, so they never are.
fn is_same(answer: &Answer, other: Option<&Answer>) -> bool {
    let texts = |answer: &Answer| -> Option<Vec<String>> {
        let turns = || answer.samples.iter().flat_map(|sample| &sample.turns);
        let shown = turns().next().is_some() && turns().all(|turn| !only_scored(turn));
        shown.then(|| turns().map(|turn| turn.text.clone()).collect())
    };
    let Some(other) = other.filter(|other| other.samples.len() == answer.samples.len()) else { return false };
    let verdicts = |answer: &Answer| answer.samples.iter().map(|sample| sample.verdict).collect::<Vec<_>>();
    verdicts(answer) == verdicts(other) && texts(answer).is_some_and(|ours| Some(ours) == texts(other))
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "failed",
        Verdict::NotEvaluated => "not evaluated",
    }
}

fn render_sample(body: &mut String, case: &CaseRecord, sample: &Sample, cut: bool) {
    for (turn, completion) in sample.turns.iter().enumerate() {
        if let Some(asked) = turn.checked_sub(1).and_then(|before| case.follow_ups.get(before)) {
            let asked = asked.trim().lines().map(|asked| line(&middle_cut(asked, PROMPT_CHARACTERS)));
            asked.for_each(|asked| body.push_str(&format!("  > {asked}\n")));
        }
        if !only_scored(completion) {
            if cut { quote_beginning(body, &completion.text) } else { quote_lines(body, &completion.text) }
        }
        if let Some(likeliest) = likeliest(completion) {
            body.push_str(&format!("  top choice: {}\n", line(&format!("{likeliest:?}"))));
        }
    }
    let scored = sample.turns.iter().any(|completion| !completion.choices.is_empty());
    for mut failure in failures_shown(case, sample) {
        if cut {
            failure.found.clear();
        }
        body.push_str(&format!("  ! {}\n", line(&steady(&failure.to_string(), scored))));
    }
}

/// Whether nothing was to be generated: there is no text to show.
fn only_scored(completion: &Completion) -> bool {
    completion.text.is_empty() && !completion.choices.is_empty()
}

/// The continuation with the highest log-likelihood; its score would not be the same on the next machine.
fn likeliest(completion: &Completion) -> Option<&str> {
    let scored = completion.choices.iter().filter(|c| !c.log_likelihood.is_nan());
    scored.max_by(|a, b| a.log_likelihood.total_cmp(&b.log_likelihood)).map(|c| c.text.as_str())
}

/// A failure without scores: decimal numbers of one that compares log-likelihoods become `…`.
pub(super) fn steady(failure: &str, scored: bool) -> String {
    static DECIMAL: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[-+]?\b\d+\.\d+(?:e[-+]?\d+)?\b").ok());
    match &*DECIMAL {
        Some(decimal) if scored => decimal.replace_all(failure, "…").into_owned(),
        _ => failure.to_owned(),
    }
}

fn quote_lines(body: &mut String, text: &str) {
    text.split('\n').for_each(|line| quote_line(body, line));
}

/// The beginning of an answer that tells nothing but that it fails.
fn quote_beginning(body: &mut String, text: &str) {
    let first = text.split('\n').next().unwrap_or_default();
    let shown: String = first.chars().take(FAILED_BASE).collect();
    quote_line(body, &shown);
    // Neither how much more nor what: the rest is no draft of the next run, which may answer it otherwise on another machine.
    if shown.len() < text.len() {
        body.push_str("  …\n");
    }
}

/// One line of an answer. A blank at its end is spelt out, since editors and git take it off or complain.
fn quote_line(body: &mut String, text: &str) {
    let shown = visible(text);
    let shown = match shown.strip_suffix([' ', '\t']) {
        Some(rest) if shown.ends_with(' ') => format!("{rest}\\u{{20}}"),
        Some(rest) => format!("{rest}\\u{{9}}"),
        None => shown.into_owned(),
    };
    body.push_str(if shown.is_empty() { "  |" } else { "  | " });
    body.push_str(&shown);
    body.push('\n');
}

pub(super) fn line(text: &str) -> String {
    visible(text.trim()).replace('\n', " ⏎ ")
}
