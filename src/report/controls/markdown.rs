//! The controls on a Markdown page.

use super::{HEAD, OWN, moved, moved_in_words};
use crate::compare::number;
use crate::report::escape::markdown_safe;
use crate::report::paint::clip;
use crate::report::pieces::{add, code};
use crate::report::view::View;

/// The controls of each gated arm, and the tokens that moved most, folded.
pub(in crate::report) fn controls(page: &mut String, view: &View<'_>) {
    for controls in &view.controls {
        let verdict = controls.verdict;
        let of = if view.controls.len() > 1 { format!(" of {}", markdown_safe(&verdict.arm)) } else { String::new() };
        add(page, &format!("### Controls{of}: {}\n", verdict.evidence.words()));
        add(page, &format!("| {} |\n|---|--:|---|---|---|", HEAD.join(" | ")));
        for row in &controls.rows {
            add(page, &format!("| {} |", row.each_ref().map(|cell| markdown_safe(cell)).join(" | ")));
        }
        page.push('\n');
        for note in controls.notes.iter().chain(&controls.remedy) {
            add(page, &format!("- {}", markdown_safe(&clip(note, 400))));
        }
        add(page, &format!("\n<sub>{}</sub>\n", markdown_safe(OWN)));
    }
    let Some((arm, drift)) = view.main().and_then(|arm| Some((arm.name, arm.drift?))) else { return };
    let all = moved(drift);
    if all.is_empty() {
        return;
    }
    add(page, "<details><summary>Tokens that moved most</summary>\n\n| case | nats | where |\n|---|--:|---|");
    for (text, token) in all {
        let (name, kl) = (code(&clip(&text.text, 80)), number((token.kl * 100.0).round() / 100.0));
        add(page, &format!("| {name} | {kl} | {} |", markdown_safe(&moved_in_words(token, arm))));
    }
    add(page, "\n</details>\n");
}
