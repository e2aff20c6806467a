//! The controls on a terminal.

use super::{HEAD, OWN, moved, moved_in_words};
use crate::compare::number;
use crate::record::Evidence;
use crate::report::paint::{Ink, Page, columns, heading, left, piece};
use crate::report::view::View;

/// Moved tokens that a terminal shows.
const MOVED_IN_TERMINAL: usize = 3;

/// The controls of each gated arm, and the tokens that moved most.
pub(in crate::report) fn controls(page: &mut Page, view: &View<'_>) {
    for controls in &view.controls {
        let verdict = controls.verdict;
        let of = if view.controls.len() > 1 { format!(" of {}", verdict.arm) } else { String::new() };
        heading(page, &format!("controls{of}: {}", verdict.evidence.words()), Some(verdict.questions));
        let ink = |evidence| match evidence {
            Evidence::Kept => Ink::Good,
            Evidence::Lost => Ink::Bad,
            Evidence::NotShown => Ink::Dim,
        };
        let rows: Vec<&[String; 5]> = controls.rows.iter().collect();
        let widest =
            |column: usize| rows.iter().map(|row| columns(&row[column])).max().unwrap_or(0).max(columns(HEAD[column]));
        let widths: Vec<usize> = (0..4).map(widest).collect();
        let line = |cells: [&str; 4]| -> String {
            cells.iter().zip(&widths).map(|(cell, width)| format!("  {}", left(cell, *width))).collect()
        };
        page.line(&[piece(Ink::Dim, format!("{}  {}", line([HEAD[0], HEAD[1], HEAD[2], HEAD[3]]), HEAD[4]))]);
        for (row, measure) in rows.iter().zip(&verdict.measures) {
            let told = line([&row[0], &row[1], &row[2], &row[3]]);
            page.wrapped(4, &[piece(Ink::Plain, told), piece(ink(measure.evidence), format!("  {}", row[4]))]);
        }
        if controls.rows.iter().any(|row| row[3].ends_with('*')) {
            page.wrapped(4, &[piece(Ink::Dim, format!("    {OWN}"))]);
        }
        for note in controls.notes.iter().chain(&controls.remedy) {
            page.wrapped(4, &[piece(Ink::Plain, format!("  {note}"))]);
        }
    }
    if let Some((arm, drift)) = view.main().and_then(|arm| Some((arm.name, arm.drift?))) {
        let all = moved(drift);
        if !all.is_empty() {
            heading(page, "tokens that moved most", None);
        }
        for (text, token) in all.into_iter().take(MOVED_IN_TERMINAL) {
            let told = format!("  {}  {} nats  ", text.text, number((token.kl * 100.0).round() / 100.0));
            page.wrapped(4, &[piece(Ink::Bold, told), piece(Ink::Plain, moved_in_words(token, arm))]);
        }
    }
}
