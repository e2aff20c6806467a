//! Approved, changed and pending snapshots on a terminal: a line each, and what changed in one of them.

use super::paint::{Ink, Page, Piece, Style, columns, left, piece};
use crate::compare::{Change, DiffLine};
use crate::snapshot::{Held, ScenarioSnapshot, Standing, VerdictChange};

/// Changed verdicts that a line names.
const VERDICTS: usize = 3;

/// A line for each scenario, and how many there are of each kind.
pub(crate) fn snapshot_status(all: &[ScenarioSnapshot], style: Style) -> String {
    let mut page = Page::new(style);
    let wide = |text: &dyn Fn(&ScenarioSnapshot) -> usize| all.iter().map(text).max().unwrap_or(0);
    let words = wide(&|one| one.state.word().len());
    let names = wide(&|one| columns(&one.scenario));
    for one in all {
        page.line(&[
            piece(ink(one.state), left(one.state.word(), words)),
            piece(Ink::Plain, format!("  {}  ", left(&one.scenario, names))),
            piece(Ink::Dim, detail(one)),
        ]);
    }
    page.blank();
    page.line(&[piece(Ink::Plain, snapshot_counts(all))]);
    page.finish()
}

/// `14 approved, 1 new`.
pub(crate) fn snapshot_counts(all: &[ScenarioSnapshot]) -> String {
    let count = |state: Standing| match all.iter().filter(|one| one.state == state).count() {
        0 => None,
        count => Some(format!("{count} {}", state.word())),
    };
    Standing::ALL.into_iter().filter_map(count).collect::<Vec<_>>().join(", ")
}

/// What changed in one snapshot: of each case that changed its question, its verdicts and the changed lines.
pub(crate) fn snapshot_difference(one: &ScenarioSnapshot, style: Style) -> String {
    let mut page = Page::new(style);
    page.line(&[
        piece(Ink::Bold, one.scenario.as_str()),
        piece(ink(one.state), format!("  {}", one.state.word())),
        piece(Ink::Dim, format!("  {}", detail(one))),
    ]);
    let mut start = 0;
    while start < one.diff.len() {
        let next = one.diff[start + 1..].iter().position(|line| line.text.starts_with("## "));
        let end = next.map_or(one.diff.len(), |after| start + 1 + after);
        case(&mut page, &one.diff[start..end]);
        start = end;
    }
    page.finish()
}

/// The lines of a case, when it has changed ones.
fn case(page: &mut Page, lines: &[DiffLine]) {
    let is_changed = |at: usize| lines.get(at).is_some_and(|line| line.change != Change::Equal);
    if !(0..lines.len()).any(is_changed) {
        return;
    }
    page.blank();
    let mut is_gap = false;
    for (at, line) in lines.iter().enumerate() {
        // What stands at the margin says which case and whose answer it is.
        let is_near = is_changed(at) || is_changed(at + 1) || at.checked_sub(1).is_some_and(is_changed);
        if !is_near && line.text.starts_with(' ') {
            if !std::mem::replace(&mut is_gap, true) {
                page.line(&[piece(Ink::Dim, "    …")]);
            }
            continue;
        }
        is_gap = false;
        let text = line.text.as_str();
        let pieces: Vec<Piece> = match line.change {
            _ if text.is_empty() => continue,
            Change::Equal => {
                vec![piece(if text.starts_with("## ") { Ink::Bold } else { Ink::Dim }, format!("  {text}"))]
            }
            Change::Removed => vec![piece(Ink::Bad, format!("- {text}"))],
            Change::Added => vec![piece(Ink::Good, format!("+ {text}"))],
        };
        page.wrapped_under("    | ", &pieces);
    }
}

fn ink(state: Standing) -> Ink {
    match state {
        Standing::Approved => Ink::Good,
        Standing::Reworded | Standing::New | Standing::Pending => Ink::Warn,
        Standing::VerdictsChanged => Ink::Bad,
        Standing::Orphaned => Ink::Dim,
    }
}

/// What there is to say of a snapshot besides its state.
fn detail(one: &ScenarioSnapshot) -> String {
    let file = one.file.display();
    let said = match one.state {
        Standing::Approved => String::new(),
        Standing::Reworded if one.changed_cases == 0 => "the description differs".to_owned(),
        Standing::Reworded => {
            format!("differs in {} of {} cases, with the same verdicts", one.changed_cases, one.cases)
        }
        Standing::VerdictsChanged => verdicts(&one.verdicts),
        Standing::New => format!("no answers are approved in {file}"),
        Standing::Pending => String::new(),
        Standing::Orphaned if one.file.exists() => {
            format!("no scenario of the run has {file}; remove it if the scenario is gone")
        }
        Standing::Orphaned => "no scenario of the run has this name".to_owned(),
    };
    let waits = one.pending.as_ref().map(|pending| match &pending.holds {
        Held::ThisRun => format!("also in {}", pending.file.display()),
        Held::OtherAnswers if one.state == Standing::Orphaned => format!("{} is pending", pending.file.display()),
        Held::OtherAnswers => format!("{} holds other answers than the run", pending.file.display()),
        Held::Nothing(why) => why.clone(),
    });
    [Some(said), waits].into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
}

/// `france: tuned passed → failed; rome: base new, passed; 2 more`.
fn verdicts(changes: &[VerdictChange]) -> String {
    let told = |change: &VerdictChange| {
        let what = match (&change.approved, &change.now) {
            (Some(approved), Some(now)) => format!("{approved} → {now}"),
            (None, Some(now)) => format!("new, {now}"),
            (Some(approved), None) => format!("gone, was {approved}"),
            (None, None) => String::new(),
        };
        format!("{}: {} {what}", change.case, change.arm)
    };
    let mut all: Vec<String> = changes.iter().take(VERDICTS).map(told).collect();
    if changes.len() > VERDICTS {
        all.push(format!("{} more", changes.len() - VERDICTS));
    }
    all.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::line_diff;

    fn snapshot(approved: &str, now: &str) -> ScenarioSnapshot {
        ScenarioSnapshot {
            scenario: "facts\u{1b}[2J".into(),
            state: Standing::VerdictsChanged,
            file: "snapshots/facts.snap".into(),
            cases: 3,
            changed_cases: 1,
            verdicts: vec![VerdictChange {
                case: "fr\u{202e}".into(),
                arm: "tuned".into(),
                approved: Some("passed".into()),
                now: None,
            }],
            pending: None,
            diff: line_diff(approved, now),
        }
    }

    #[test]
    fn a_difference_shows_the_cases_that_changed_and_nothing_acts_on_the_terminal() {
        let case = |name: &str, last: &str| {
            format!("## {name}\n> What?\nbase: passed\n  | one\n  | two\n  | three\n  | four\n  | {last}\n\n")
        };
        let approved = format!("# target::facts\nabout\n\n{}{}", case("a", "old\u{1b}[31m\u{202e}"), case("b", "same"));
        let now = format!("# target::facts\nabout\n\n{}{}", case("a", "new"), case("b", "same"));
        let one = snapshot(&approved, &now);
        let shown = snapshot_difference(&one, Style { color: false, width: 100 });
        let expected = "facts\\u{1b}[2J  verdicts changed  fr\\u{202e}: tuned gone, was passed\n\n  ## a\n  > What?\n  base: passed\n    …\n    | four\n-   | old\\u{1b}[31m\\u{202e}\n+   | new\n";
        assert_eq!(shown, expected);
        let status = snapshot_status(std::slice::from_ref(&one), Style { color: false, width: 100 });
        assert_eq!(
            status,
            "verdicts changed  facts\\u{1b}[2J  fr\\u{202e}: tuned gone, was passed\n\n1 verdicts changed\n"
        );
    }

    #[test]
    fn many_verdicts_are_counted() {
        let one = snapshot("", "");
        let many = vec![one.verdicts[0].clone(); VERDICTS + 2];
        assert!(verdicts(&many).ends_with("; 2 more"), "{}", verdicts(&many));
    }
}
