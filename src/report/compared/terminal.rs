//! The comparison a person reads at a glance: what it came to, the table, the newly broken cases, and what it came to again.

use super::{CaseView, Compared, NAMED, ROLES, SHOWN, difference, parts, why_apart};
use crate::compare::{CaseChange, Counts, word_diff};
use crate::record::Role;
use crate::report::paint::{Ink, Page, Piece, Style, clip, columns, heading, left, piece, right};
use crate::report::terminal::{CASES, LABEL, answer, ink_of, more, p_value, plain_lines};
use crate::report::{NEAR_TIE, fraction, share};

/// Width of a column of pass rates.
const RATE: usize = 7;
/// Columns of a terminal from which on labels have a column of their own.
const WIDE: usize = 72;

pub(super) fn terminal(compared: &Compared<'_>, style: Style) -> String {
    let mut page = Page::new(style);
    let ending = compared.ending();
    let rest = format!("  {}: {}", compared.comparison.after.run.project, compared.summary());
    page.wrapped(6, &[piece(ink_of(ending), ending.word()), piece(Ink::Plain, rest)]);
    for sentence in compared.sentences() {
        page.wrapped(2, &[piece(Ink::Plain, format!("  {sentence}"))]);
    }
    table(&mut page, compared);
    SHOWN.into_iter().for_each(|change| shown(&mut page, compared, change));
    NAMED.into_iter().for_each(|change| named(&mut page, compared, change));
    about(&mut page, compared);
    page.blank();
    let code = compared.comparison.exit_code(compared.fail_on);
    let rest = format!("  {}; exit code {code}", compared.summary());
    page.line(&[piece(ink_of(ending), ending.word()), piece(Ink::Plain, rest)]);
    page.finish()
}

fn table(page: &mut Page, compared: &Compared<'_>) {
    let comparison = compared.comparison;
    let longest = comparison.scenarios.iter().map(|row| columns(&row.scenario.name)).max().unwrap_or(0);
    let name = longest.clamp(12, page.width().saturating_sub(LABEL + 40).max(12));
    page.blank();
    let (before, after) = (right("before", RATE), right("now", RATE));
    let head = format!("  {}{}  {before}  {after}   change", " ".repeat(LABEL), left("scenario", name));
    page.line(&[piece(Ink::Dim, head)]);
    for role in ROLES {
        let mut shown = role.to_string();
        for row in comparison.scenarios.iter().filter(|row| row.scenario.role == role) {
            let cell = clip(&row.scenario.name, name);
            table_row(page, &shown, &left(&cell, name), &row.counts);
            shown.clear();
        }
    }
    page.blank();
    ROLES.into_iter().for_each(|role| totals(page, compared, name, role));
}

fn table_row(page: &mut Page, role: &str, name: &str, counts: &Counts) {
    let [before, after] = counts.rates().map(|rate| right(&fraction(&rate), RATE));
    let mut pieces = vec![
        piece(Ink::Bold, format!("  {}", left(role, LABEL))),
        piece(Ink::Plain, format!("{name}  {before}  {after}   ")),
    ];
    pieces.extend(change(counts));
    page.line(&pieces);
}

fn totals(page: &mut Page, compared: &Compared<'_>, name: usize, role: Role) {
    let total = compared.comparison.total(role);
    let counts = &total.counts;
    if counts.all() == 0 {
        return;
    }
    let [before, after] = counts.rates().map(|rate| right(&share(&rate), RATE));
    let cases = left(&format!("{} compared", counts.compared()), name);
    page.line(&[
        piece(Ink::Bold, format!("  {}", left(&role.to_string(), LABEL))),
        piece(Ink::Plain, format!("{cases}  {before}  {after}   ")),
        piece(Ink::Bold, difference(total)),
    ]);
    let (broken, fixed) = (counts.count(CaseChange::NewlyBroken), counts.count(CaseChange::Fixed));
    if broken + fixed > 0 {
        let p = p_value(counts.broken_p());
        let text = format!("{broken} newly broken, {fixed} fixed; exact McNemar {p}, one-sided");
        page.wrapped(LABEL + 2, &[piece(Ink::Dim, format!("  {}{text}", " ".repeat(LABEL)))]);
    }
}

/// How a change is drawn.
fn sign(change: CaseChange) -> (Ink, &'static str) {
    match change {
        CaseChange::NewlyBroken => (Ink::Bad, "▼"),
        CaseChange::Fixed => (Ink::Good, "▲"),
        CaseChange::Changed => (Ink::Warn, "≠"),
        CaseChange::NotEvaluated => (Ink::Warn, "?"),
        CaseChange::ChangedQuestion => (Ink::Dim, "~"),
        CaseChange::Gone => (Ink::Dim, "-"),
        CaseChange::New => (Ink::Dim, "+"),
        CaseChange::Same => (Ink::Dim, "="),
    }
}

fn change(counts: &Counts) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for (change, count, word) in parts(counts) {
        let (ink, sign) = sign(change);
        let gap = if pieces.is_empty() { "" } else { "  " };
        pieces.push(piece(ink, format!("{gap}{sign} {count} {word}")));
    }
    if pieces.is_empty() { vec![piece(Ink::Dim, "=")] } else { pieces }
}

/// Cases with their question, both answers and what fails: all newly broken ones, some of the others.
fn shown(page: &mut Page, compared: &Compared<'_>, change: CaseChange) {
    let all = compared.comparison.all.counts.count(change);
    if all == 0 {
        return;
    }
    heading(page, compared.heading(change), Some(all));
    let most = if change == CaseChange::NewlyBroken { all } else { CASES };
    for (i, case) in compared.comparison.became(change).take(most).enumerate() {
        if i > 0 {
            page.blank();
        }
        one(page, &CaseView::of(case));
    }
    if most < all {
        more(page, all);
    }
}

fn one(page: &mut Page, view: &CaseView<'_>) {
    let place = view.place.as_ref().map_or_else(String::new, |place| format!("  {place}"));
    page.line(&[piece(Ink::Bold, format!("  {}", view.test)), piece(Ink::Dim, place)]);
    let room = page.width().saturating_sub(13);
    let asked = view.question.iter().map(|line| vec![piece(Ink::Plain, clip(line, room))]).collect();
    answer(page, "asked", asked);
    if let Some(turn) = view.turn {
        page.wrapped(6, &[piece(Ink::Dim, format!("    the answers to turn {turn} differ:"))]);
    }
    let [before, after] = view.texts;
    let diff = word_diff(before, after);
    if before == after {
        answer(page, "both", plain_lines(before));
    } else if diff.is_readable() {
        let lines = diff.lines().iter().map(|line| page.woven(line)).collect();
        answer(page, "diff", lines);
    } else {
        answer(page, "before", plain_lines(before));
        answer(page, "now", plain_lines(after));
    }
    for failure in &view.failures {
        let (ink, sign) = if view.failed_before { (Ink::Dim, "before: ✗") } else { (Ink::Bad, "✗") };
        page.wrapped(6, &[piece(ink, format!("    {sign} ")), piece(Ink::Plain, clip(&failure.to_string(), 400))]);
    }
    for samples in &view.samples {
        page.wrapped(6, &[piece(Ink::Dim, format!("    {samples}"))]);
    }
    for when in &view.near_ties {
        page.wrapped(6, &[piece(Ink::Dim, format!("    ≈ {when}: {NEAR_TIE}"))]);
    }
}

/// Cases that are not compared: their names, and why.
fn named(page: &mut Page, compared: &Compared<'_>, change: CaseChange) {
    let all = compared.comparison.all.counts.count(change);
    if all == 0 {
        return;
    }
    heading(page, compared.heading(change), Some(all));
    let (ink, sign) = sign(change);
    for case in compared.comparison.became(change).take(CASES) {
        let why = why_apart(case);
        page.line(&[
            piece(ink, format!("  {sign} ")),
            piece(Ink::Plain, case.test()),
            piece(Ink::Dim, format!("  {}", clip(&why, 300))),
        ]);
    }
    more(page, all);
}

fn about(page: &mut Page, compared: &Compared<'_>) {
    heading(page, "about both runs", None);
    let all = compared.about();
    let longest = all.iter().map(|about| columns(about.label)).max().unwrap_or(0);
    // On a narrow terminal the values have the room.
    let field = if page.width() < WIDE { 2 } else { longest + 2 };
    for about in all {
        let mut name = about.label;
        if columns(name) >= field {
            page.wrapped(4, &[piece(Ink::Dim, format!("  {name}"))]);
            name = "";
        }
        for (when, value) in [("before", &about.before), ("now", &about.after)] {
            let label = format!("  {}{}  ", left(name, field), left(when, 6));
            page.wrapped(columns(&label), &[piece(Ink::Dim, label), piece(Ink::Plain, value.as_str())]);
            name = "";
        }
    }
}
