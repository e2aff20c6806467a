//! The comparison as a page for GitHub.

use super::{CaseView, Compared, NAMED, ROLES, SHOWN, difference, parts, why_apart};
use crate::compare::{CaseChange, Counts};
use crate::record::{Ending, Role};
use crate::report::escape::{fenced, markdown_safe};
use crate::report::markdown::{CASES, PAGE_BYTES, answer, answer_patch, clip};
use crate::report::pieces::{add, code, tag};
use crate::report::terminal::p_value;
use crate::report::view::asked;
use crate::report::{NEAR_TIE, fraction, share};

/// Bytes kept back for saying what was left out.
const MORE_BYTES: usize = 200;
/// Bytes of the page after which a role's table is cut.
const TABLE_BYTES: [usize; 2] = [8_000, 16_000];

pub(super) fn markdown(compared: &Compared<'_>) -> String {
    let mut page = String::new();
    head(&mut page, compared);
    table(&mut page, compared);
    let end = end(compared);
    let room = PAGE_BYTES.saturating_sub(MORE_BYTES + end.len());
    let mut left_out = 0;
    for change in SHOWN {
        left_out += shown(&mut page, compared, change, room);
    }
    NAMED.into_iter().for_each(|change| named(&mut page, compared, change, room));
    if left_out > 0 {
        let s = if left_out == 1 { "" } else { "s" };
        add(
            &mut page,
            &format!("_{left_out} more case{s} left out; `finetest compare --format json` has all of them._\n"),
        );
    }
    page.push_str(&end);
    page
}

fn mark(ending: Ending) -> &'static str {
    match ending {
        Ending::Passed => "✅",
        Ending::NotGated => "⚠️",
        Ending::Failed | Ending::Incomplete => "❌",
    }
}

fn head(page: &mut String, compared: &Compared<'_>) {
    let (ending, project) = (compared.ending(), &compared.comparison.after.run.project);
    add(page, &format!("## {} {}: {}\n", mark(ending), ending.word(), markdown_safe(&clip(project, 80))));
    let sentences: Vec<String> =
        compared.sentences().iter().map(|sentence| markdown_safe(&clip(sentence, 300))).collect();
    add(page, &format!("**{}**. {}\n", markdown_safe(&compared.summary()), sentences.join(" ")));
}

/// The scenarios that changed, the others in a line, and the totals.
fn table(page: &mut String, compared: &Compared<'_>) {
    let comparison = compared.comparison;
    add(page, "| role | scenario | before | now | change |\n|---|---|--:|--:|---|");
    let mut same = Vec::new();
    for (role, limit) in ROLES.into_iter().zip(TABLE_BYTES) {
        let mut more = 0;
        for row in comparison.scenarios.iter().filter(|row| row.scenario.role == role) {
            let [before, after] = row.counts.rates().map(|rate| fraction(&rate));
            let change = change(&row.counts);
            if change.is_empty() {
                same.push(format!("{} {after}", row.scenario.name));
            } else if page.len() > limit {
                more += 1;
            } else {
                let name = markdown_safe(&clip(&row.scenario.name, 80));
                add(page, &format!("| {role} | {name} | {before} | {after} | {change} |"));
            }
        }
        if more > 0 {
            add(page, &format!("| {role} | … {more} more scenarios | | | |"));
        }
        totals(page, compared, role);
    }
    page.push('\n');
    if !same.is_empty() {
        add(page, &format!("<sub>the same: {}</sub>\n", markdown_safe(&clip(&same.join(", "), 2_000))));
    }
}

fn totals(page: &mut String, compared: &Compared<'_>, role: Role) {
    let total = compared.comparison.total(role);
    let counts = &total.counts;
    if counts.all() == 0 {
        return;
    }
    let [before, after] = counts.rates().map(|rate| share(&rate));
    let flips = counts.count(CaseChange::NewlyBroken) + counts.count(CaseChange::Fixed) > 0;
    let p = if flips { format!("; exact McNemar {}, one-sided", p_value(counts.broken_p())) } else { String::new() };
    let (compared, difference) = (counts.compared(), difference(total));
    // `<` of a small p would begin a tag.
    let effect = markdown_safe(&format!("{difference}{p}"));
    add(page, &format!("| **{role}** | **{compared} compared** | **{before}** | **{after}** | **{effect}** |"));
}

fn sign(change: CaseChange) -> &'static str {
    match change {
        CaseChange::NewlyBroken => "🔻",
        CaseChange::Fixed => "🔺",
        CaseChange::Changed => "✏️",
        CaseChange::NotEvaluated => "❔",
        CaseChange::ChangedQuestion => "❕",
        CaseChange::Gone => "➖",
        CaseChange::New => "➕",
        CaseChange::Same => "=",
    }
}

fn change(counts: &Counts) -> String {
    let shown = parts(counts).into_iter().map(|(change, n, word)| format!("{} {n} {word}", sign(change)));
    shown.collect::<Vec<_>>().join(", ")
}

/// Cases with what was asked, both answers and what fails, as long as they fit; says how many were left out.
fn shown(page: &mut String, compared: &Compared<'_>, change: CaseChange, room: usize) -> usize {
    let all = compared.comparison.all.counts.count(change);
    if all == 0 {
        return 0;
    }
    let most = if change == CaseChange::NewlyBroken { all } else { CASES };
    add(page, &format!("### {} ({all})\n", capital(compared.heading(change))));
    let mut put = 0;
    for case in compared.comparison.became(change).take(most) {
        let block = one(&CaseView::of(case));
        if page.len() + block.len() <= room {
            page.push_str(&block);
            put += 1;
        }
    }
    all - put
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

fn one(view: &CaseView<'_>) -> String {
    let (name, question) = (clip(&view.test, 200), clip(&view.question.join(" ⏎ "), 200));
    let mut block = format!("<details><summary>{} {}</summary>\n\n", tag(&name), tag(&question));
    if let Some(place) = &view.place {
        add(&mut block, &format!("- {}", code(&clip(place, 200))));
    }
    let when = if view.failed_before { "before: " } else { "" };
    for failure in view.failures.iter().take(8) {
        add(&mut block, &format!("- {when}{}", code(&clip(&failure.to_string(), 400))));
    }
    for samples in &view.samples {
        add(&mut block, &format!("- {}", markdown_safe(samples)));
    }
    for when in &view.near_ties {
        add(&mut block, &format!("- {when}: {NEAR_TIE}"));
    }
    if let Some(turn) = view.turn {
        add(&mut block, &format!("- the answers to turn {turn} differ"));
    }
    block.push('\n');
    let whole = asked(view.compared.case);
    // The summary has a question of one line already.
    if whole.trim().lines().count() > 1 {
        block.push_str("asked:\n\n");
        block.push_str(&fenced("text", &answer(&whole)));
        block.push('\n');
    }
    block.push_str(&answer_patch(view.texts[0], view.texts[1]));
    add(&mut block, "\n</details>\n");
    block
}

/// Cases that are not compared: their names, and why.
fn named(page: &mut String, compared: &Compared<'_>, change: CaseChange, room: usize) {
    let all = compared.comparison.all.counts.count(change);
    if all == 0 || page.len() > room {
        return;
    }
    add(page, &format!("### {} ({all})\n", capital(compared.heading(change))));
    let mut put = 0;
    for case in compared.comparison.became(change).take(CASES) {
        let line = format!("- {}: {}\n", code(&clip(&case.test(), 200)), markdown_safe(&clip(&why_apart(case), 300)));
        if page.len() + line.len() <= room {
            page.push_str(&line);
            put += 1;
        }
    }
    if put < all {
        add(page, &format!("- … and {} more", all - put));
    }
    page.push('\n');
}

/// Both runs side by side.
fn end(compared: &Compared<'_>) -> String {
    let mut page = String::from("### Both runs\n\n| | before | now |\n|---|---|---|\n");
    for about in compared.about() {
        let [before, after] = [&about.before, &about.after].map(|text| markdown_safe(&clip(text, 600)));
        add(&mut page, &format!("| {} | {before} | {after} |", about.label));
    }
    page
}
