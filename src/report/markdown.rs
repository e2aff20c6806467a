//! The report as a page: GitHub's step summary and pull requests, and annotations on scenario files.

use crate::compare::{Change, Tally, line_diff};
use crate::record::{Ending, Role, Verdict};
use crate::report::controls::{markdown::controls, moved_in_words};
use crate::report::escape::{fenced, github_message, github_property, markdown_safe};
use crate::report::pieces::{add, code, tag};
use crate::report::view::{ArmView, CaseView, View, asked};
use crate::report::{
    INTERVALS, NEAR_TIE, Report, SHOWN, adapter, again, drift, evidence, fraction, gain, groups, interval, made,
    measured, model_size, proof, retention, share, short, threshold,
};

/// Most bytes of a page. GitHub takes 64 KB in a comment and 1 MiB in a step summary.
pub(super) const PAGE_BYTES: usize = 60_000;
/// Bytes kept back for the page's end and for saying what was left out.
const END_BYTES: usize = 2_500;
/// Most bytes of one answer, and of what was asked.
const ANSWER_BYTES: usize = 4_000;
/// Bytes of the page after which a role's table is cut.
const TABLE_BYTES: [usize; 2] = [10_000, 20_000];
/// Target failures, and broken cases of a further arm, that are shown.
pub(super) const CASES: usize = 10;
/// GitHub shows ten annotations of a kind and drops the rest.
const ANNOTATIONS: usize = 10;

/// Renders a report as GitHub's Markdown, at most 60 000 bytes: cases that do not fit are left out whole, and counted.
///
/// Text of a model appears only in fences it cannot close, in `<code>`, or quoted by
/// [`markdown_safe`](crate::report::escape::markdown_safe): it makes no markup, mention or link.
#[must_use]
pub fn markdown(report: &Report<'_>) -> String {
    let view = View::of(report);
    let mut page = String::new();
    summary(&mut page, &view);
    view.main().into_iter().for_each(|main| table(&mut page, main));
    arms(&mut page, &view);
    gate(&mut page, &view);
    controls(&mut page, &view);
    let end = end(report, &view);
    let room = PAGE_BYTES.saturating_sub(END_BYTES + end.len());
    cases(&mut page, &view, room);
    page.push_str(&end);
    page
}

fn summary(page: &mut String, view: &View<'_>) {
    let sign = match view.ending {
        Ending::Passed => "✅",
        Ending::NotGated => "⚠️",
        Ending::Failed | Ending::Incomplete => "❌",
    };
    add(page, &format!("## {sign} {}: {}\n", view.ending.word(), markdown_safe(&clip(&view.run.project, 80))));
    let sentences: Vec<String> = view.sentences.iter().map(|sentence| markdown_safe(&clip(sentence, 200))).collect();
    add(page, &format!("**{}**. {}\n", markdown_safe(&clip(&view.summary, 400)), sentences.join(" ")));
}

/// The scenarios that changed, the others folded, and the totals.
fn table(page: &mut String, arm: &ArmView<'_>) {
    let c = arm.comparison;
    let (base, tuned) = (markdown_safe(&clip(&c.base, 40)), markdown_safe(&clip(&c.tuned, 40)));
    add(page, &format!("| role | scenario | {base} | {tuned} | change |\n|---|---|--:|--:|---|"));
    let mut same = Vec::new();
    for (role, limit) in [Role::Target, Role::Control].into_iter().zip(TABLE_BYTES) {
        let mut more = 0;
        for row in arm.rows(role) {
            let tally = &row.tally;
            let Some(change) = change(tally) else {
                same.push(format!("{} {}", row.scenario.name, fraction(&tally.tuned)));
                continue;
            };
            if page.len() > limit {
                more += 1;
                continue;
            }
            let name = markdown_safe(&clip(&row.scenario.name, 80));
            let (base, tuned) = (fraction(&tally.base), fraction(&tally.tuned));
            add(page, &format!("| {role} | {name} | {base} | {tuned} | {change} |"));
        }
        if more > 0 {
            add(page, &format!("| {role} | … {more} more scenarios | | | |"));
        }
        let tally = c.tally(role);
        let effect = if role == Role::Target { gain(c) } else { retention(tally) };
        let (cases, base, tuned) = (tally.cases, share(&tally.base), share(&tally.tuned));
        add(page, &format!("| **{role}** | **all {cases} cases** | **{base}** | **{tuned}** | **{effect}** |"));
    }
    page.push('\n');
    if !same.is_empty() {
        add(page, &format!("<sub>unchanged: {}</sub>\n", markdown_safe(&clip(&same.join(", "), 2_000))));
    }
}

fn change(tally: &Tally) -> Option<String> {
    let parts =
        [(tally.broken, "🔻", "broken"), (tally.fixed, "🔺", "fixed"), (tally.not_evaluated(), "❔", "not evaluated")];
    let shown: Vec<String> =
        parts.iter().filter(|(n, ..)| *n > 0).map(|(n, sign, word)| format!("{sign} {n} {word}")).collect();
    (!shown.is_empty()).then(|| shown.join(", "))
}

/// Each arm in a row, where there are several to compare.
fn arms(page: &mut String, view: &View<'_>) {
    if view.arms.len() < 2 {
        return;
    }
    add(
        page,
        "### Arms against base\n\n| arm | target | gain | retention | broken | drift, nats/token |\n|---|--:|---|---|--:|--:|",
    );
    for arm in &view.arms {
        let c = arm.comparison;
        let moved = arm.drift.and_then(|d| d.kl).map_or_else(|| "–".to_owned(), |kl| crate::compare::number(kl.mean));
        let (name, target, broken) = (code(&clip(arm.name, 40)), share(&c.target.tuned), c.control.broken);
        add(page, &format!("| {name} | {target} | {} | {} | {broken} | {moved} |", gain(c), retention(&c.control)));
    }
    page.push('\n');
}

fn gate(page: &mut String, view: &View<'_>) {
    add(page, "### Gate\n");
    if view.rules.is_empty() {
        add(page, "No thresholds in `[gate]`: nothing was gated.\n");
        return;
    }
    add(page, "| | rule | measured | threshold | 95 % interval | |\n|---|---|--:|---|---|---|");
    for row in &view.rules {
        let rule = row.rule;
        let sign = match rule.verdict {
            Verdict::Passed => "✅",
            Verdict::Failed => "❌",
            Verdict::NotEvaluated => "❔",
        };
        let range = rule.interval.map_or_else(String::new, |of| interval(rule.unit, of));
        let failed = (rule.verdict != Verdict::Passed).then(|| markdown_safe(&clip(&rule.explanation, 400)));
        let notes: Vec<String> = failed.into_iter().chain(evidence(rule)).collect();
        let (name, measured, threshold) = (code(&rule.label()), measured(row), threshold(rule));
        add(page, &format!("| {sign} | {name} | {measured} | {threshold} | {range} | {} |", notes.join("; ")));
    }
    page.push('\n');
    add(page, &format!("<sub>{INTERVALS}; {SHOWN}</sub>\n"));
}

/// Broken cases, then target failures, as long as they fit in `room` bytes of the page.
fn cases(page: &mut String, view: &View<'_>, room: usize) {
    let mut left_out = 0;
    let mut put = |page: &mut String, block: String| {
        if page.len() + block.len() <= room { page.push_str(&block) } else { left_out += 1 }
    };
    for (i, arm) in view.arms.iter().enumerate().filter(|(_, arm)| !arm.broken.is_empty()) {
        let (base, name) = (markdown_safe(&arm.comparison.base), markdown_safe(arm.name));
        let count = arm.broken.len();
        put(page, format!("### Broken: {base} passes, {name} fails ({count})\n\n"));
        let shown = if i == 0 { count } else { CASES };
        arm.broken
            .iter()
            .take(shown)
            .for_each(|case| put(page, if i == 0 { broken_case(case) } else { broken_line(case) }));
        if count > shown {
            put(page, format!("- … and {} more\n", count - shown));
        }
    }
    if let Some(main) = view.main().filter(|main| !main.failed_targets.is_empty()) {
        let (name, count) = (markdown_safe(main.name), main.failed_targets.len());
        put(page, format!("### Target cases that {name} still fails ({count})\n\n"));
        main.failed_targets.iter().take(CASES).for_each(|case| put(page, failed_case(case)));
        left_out += count.saturating_sub(CASES);
    }
    if left_out > 0 {
        let s = if left_out == 1 { "" } else { "s" };
        add(page, &format!("_{left_out} more case{s} left out; the run's record has all of them._\n"));
    }
}

/// A case's name, its question and what fails; the rest is folded below.
fn opening(case: &CaseView<'_>) -> String {
    let (name, asked_last) = (clip(&case.test, 200), clip(&case.question.join(" ⏎ "), 200));
    let mut page = format!("<details><summary>{} {}</summary>\n\n", tag(&name), tag(&asked_last));
    for failure in case.failures.iter().take(8) {
        add(&mut page, &format!("- {}", code(&clip(&failure.to_string(), 400))));
    }
    for samples in &case.samples {
        add(&mut page, &format!("- {}", markdown_safe(samples)));
    }
    if let Some(token) = case.divergence {
        add(&mut page, &format!("- {}", markdown_safe(&moved_in_words(token, case.tuned_arm))));
    }
    for arm in &case.near_ties {
        add(&mut page, &format!("- {}'s {NEAR_TIE}", markdown_safe(arm)));
    }
    page.push('\n');
    let whole = asked(case.case);
    // The summary has a question of one line already.
    if whole.trim().lines().count() > 1 {
        page.push_str("asked:\n\n");
        page.push_str(&fenced("text", &answer(&whole)));
        page.push('\n');
    }
    page
}

/// What differs between two answers, as a block of a diff.
pub(super) fn answer_patch(before: &str, after: &str) -> String {
    let mut patch = String::new();
    for line in line_diff(&answer(before), &answer(after)) {
        let sign = match line.change {
            Change::Equal => ' ',
            Change::Removed => '-',
            Change::Added => '+',
        };
        add(&mut patch, &format!("{sign} {}", line.text));
    }
    fenced("diff", &patch)
}

fn broken_case(case: &CaseView<'_>) -> String {
    let mut block = opening(case);
    block.push_str(&answer_patch(case.base, case.tuned));
    add(&mut block, "\n</details>\n");
    block
}

/// A broken case of a further arm: its name, and why.
fn broken_line(case: &CaseView<'_>) -> String {
    let why = case
        .failures
        .first()
        .map_or_else(String::new, |failure| format!(": {}", code(&clip(&failure.to_string(), 200))));
    format!("- {}{why}\n", code(&clip(&case.test, 200)))
}

fn failed_case(case: &CaseView<'_>) -> String {
    let mut block = opening(case);
    block.push_str("answered:\n\n");
    block.push_str(&fenced("text", &answer(case.tuned)));
    add(&mut block, "\n</details>\n");
    block
}

pub(super) fn answer(text: &str) -> String {
    if text.trim().is_empty() {
        return "(an empty answer)".to_owned();
    }
    let cut = floor(text, ANSWER_BYTES);
    if cut < text.len() { format!("{}\n… {} more bytes", &text[..cut], text.len() - cut) } else { text.to_owned() }
}

/// The largest character boundary of `text` that is not above `at`.
fn floor(text: &str, at: usize) -> usize {
    if at >= text.len() { text.len() } else { (0..=at).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0) }
}

pub(super) fn clip(text: &str, bytes: usize) -> String {
    let cut = floor(text, bytes);
    if cut < text.len() { format!("{}…", &text[..cut]) } else { text.to_owned() }
}

/// What is said last: errors, fixed and open cases, drift, proof, model, and what the run is known by.
fn end(report: &Report<'_>, view: &View<'_>) -> String {
    let mut page = String::new();
    let run = view.run;
    let mut line = |name: &str, text: String| add(&mut page, &format!("- **{name}**: {text}"));
    for (what, why) in view.errors.iter().take(CASES) {
        line("error", markdown_safe(&format!("{}: {}", clip(what, 200), clip(why, 400))));
    }
    if view.errors.len() > CASES {
        line("error", format!("and {} more", view.errors.len() - CASES));
    }
    let fixed = view.main().map_or(&[][..], |main| &main.fixed);
    for (name, of) in [("fixed", fixed), ("not evaluated", &view.open)] {
        if !of.is_empty() {
            line(name, markdown_safe(&clip(&groups(of), 1_000)));
        }
    }
    for arm in view.arms.iter().take(8) {
        let of = |what: &str| {
            if view.arms.len() > 1 { format!("{what} {}", markdown_safe(arm.name)) } else { what.to_owned() }
        };
        line(&of("drift"), markdown_safe(&clip(&arm.drift.map_or_else(|| "not measured".to_owned(), drift), 600)));
        line(&of("adapter check"), markdown_safe(&arm.proof.map_or_else(|| "not measured".to_owned(), proof)));
        again(run, arm.name).into_iter().for_each(|said| line(&of("asked again"), said));
    }
    let (source, size) = (clip(&run.model.source, 300), clip(&model_size(run), 80));
    line("model", format!("{} ({})", markdown_safe(&source), markdown_safe(&size)));
    for arm in run.arms.iter().skip(1).take(8) {
        let name = if view.arms.len() > 1 { markdown_safe(&clip(&arm.name, 40)) } else { "adapter".to_owned() };
        line(&name, markdown_safe(&clip(&adapter(arm), 300)));
    }
    made(run).into_iter().for_each(|made| line("made", markdown_safe(&clip(&made, 300))));
    for (label, path) in report.files {
        line(&markdown_safe(label), markdown_safe(path));
    }
    let hash = |a: &crate::record::Arm| markdown_safe(&format!("{} {}", clip(&a.name, 40), short(&a.fingerprint)));
    let hashes: Vec<String> = run.arms.iter().take(8).map(hash).collect();
    line("hashes", format!("{} on {}", hashes.join(", "), markdown_safe(&clip(&run.backend, 80))));
    if !view.thresholds.is_empty() {
        page.push_str("\nWhat was measured, to paste into the manifest and to change:\n\n```toml\n");
        page.push_str(&(view.thresholds.join("\n") + "\n```\n\n"));
    }
    page
}

/// An annotation: where, its title, and what it says.
struct Annotation {
    place: Option<(String, Option<usize>)>,
    title: String,
    message: String,
}

/// GitHub workflow commands: an error for each rule that does not pass and each broken case, on the case's line of its file.
///
/// When the gate passed, broken cases are warnings, so that nothing is red in a green run. At most ten of a kind, the last of
/// which counts the rest.
#[must_use]
pub fn annotations(report: &Report<'_>) -> Vec<String> {
    let (view, decision) = (View::of(report), report.decision);
    let (mut errors, mut warnings) = (Vec::new(), Vec::new());
    for rule in decision.rules.iter().filter(|r| r.verdict != Verdict::Passed) {
        let title = format!("gate: {}", rule.label());
        errors.push(Annotation { place: None, title, message: rule.explanation.clone() });
    }
    for arm in &decision.undecided {
        let message = format!("not shown whether {arm} kept the controls");
        errors.push(Annotation { place: None, title: "gate: controls".to_owned(), message });
    }
    for scenario in &decision.snapshots {
        let message = format!("{scenario}; `finetest snapshots review` shows and approves it");
        errors.push(Annotation { place: None, title: "snapshots".to_owned(), message });
    }
    if decision.rules.is_empty() {
        warnings.push(Annotation { place: None, title: "gate".to_owned(), message: decision.summary() });
    }
    for error in &report.run.errors {
        let title = format!("error: {}", error.what());
        errors.push(Annotation { place: None, title, message: clip(error.why(), 400) });
    }
    for (scenario, case) in report.run.cases() {
        errors.extend(case.errors().map(|(arm, why)| Annotation {
            place: Some((scenario.path.clone(), case.line)),
            title: format!("error: {}", scenario.test_name(case)),
            message: format!("{arm}: {}", clip(why, 400)),
        }));
    }
    let broken = view.arms.iter().flat_map(|arm| arm.broken.iter().map(move |case| broken_annotation(arm, case)));
    if decision.rules_passed() {
        warnings.extend(broken);
    } else {
        errors.extend(broken);
    }
    [("error", errors), ("warning", warnings)].into_iter().flat_map(|(kind, all)| commands(kind, &all)).collect()
}

fn broken_annotation(arm: &ArmView<'_>, case: &CaseView<'_>) -> Annotation {
    let why: Vec<String> = case.failures.iter().map(ToString::to_string).collect();
    let asked = clip(&case.question.join(" ⏎ "), 200);
    let (why, answer) = (clip(&why.join("; "), 400), clip(case.tuned.trim(), 300));
    Annotation {
        place: Some((case.scenario.path.clone(), case.case.line)),
        title: format!("broken: {}", case.test),
        message: format!("{why}\nasked: {asked}\n{}: {answer}", arm.name),
    }
}

/// At most [`ANNOTATIONS`] of a kind, the last of which counts the rest.
fn commands(kind: &str, all: &[Annotation]) -> Vec<String> {
    let more = all.len().saturating_sub(ANNOTATIONS);
    let shown = if more > 0 { ANNOTATIONS - 1 } else { all.len() };
    let command = |Annotation { place, title, message }: &Annotation| {
        let place = place.as_ref().map_or_else(String::new, |(file, line)| {
            let line = line.map_or_else(String::new, |line| format!("line={line},"));
            format!("file={},{line}", github_property(file))
        });
        format!("::{kind} {place}title={}::{}", github_property(title), github_message(message))
    };
    let rest = (more > 0).then(|| format!("::{kind} title=finetest::{} more in the report", all.len() - shown));
    all.iter().take(shown).map(command).chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Policy;
    use crate::record::RunRecord;
    use crate::record::fixture::{self, F, P};
    use crate::report::tests::{example, policy, with_report};

    fn page(run: &RunRecord) -> String {
        with_report(run, &policy(), markdown)
    }

    fn many_broken(n: usize, answer: &str) -> RunRecord {
        let mut scenario = fixture::scenario("facts", Role::Control, &[]);
        scenario.cases = (0..n).map(|i| fixture::case(&format!("case_{i}"), "Say A.", (P, "A"), (F, answer))).collect();
        fixture::run(vec![scenario])
    }

    #[test]
    fn the_verdict_comes_first() {
        let text = page(&example());
        assert!(text.starts_with("## ❌ FAIL: diagnostics\n\n**1 of 5 rules failed**"), "{text}");
        for part in ["| control | arithmetic | 3/4 | 2/4 | 🔻 1 broken |", "| ❌ | `min_retention` |", "not shown"] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(text.contains("```diff\n- 17 + 25 is equal to 42.\n+ 17 + 25 is equal to 41.\n```"), "{text}");
        assert!(with_report(&example(), &Policy::default(), markdown).starts_with("## ⚠️ NOT GATED"));
    }

    /// What GitHub would render as text: all outside of fences.
    fn outside_fences(text: &str) -> String {
        let mut fence: Option<usize> = None;
        let mut out = String::new();
        for line in text.lines() {
            let ticks = line.len() - line.trim_start_matches('`').len();
            match fence {
                Some(open) if ticks >= open && line.trim_matches('`').trim().is_empty() => fence = None,
                Some(_) => {}
                None if ticks >= 3 => fence = Some(ticks),
                None => add(&mut out, line),
            }
        }
        assert_eq!(fence, None, "a fence is left open");
        out
    }

    #[test]
    fn no_answer_makes_markup_or_mentions() {
        let mut run = example();
        let hostile = "</summary></details><script>x</script>\n\n# h @octocat [l](http://x)";
        run.scenarios[1].cases.push(fixture::case(
            "| @x |",
            hostile,
            (P, "a"),
            (F, "````\n```\n@octocat</details>\n`````"),
        ));
        if let Some(answer) = run.scenarios[1].cases.last_mut().and_then(|c| c.answers.get_mut("tuned")) {
            answer.samples[0].failures = vec!["expected <b>4</b>, got @octocat | `x` http://evil.example".into()];
        }
        let outside = outside_fences(&page(&run));
        for active in ["<script", "<b>", "@octocat", "http://", "\u{1b}", "\u{202e}"] {
            let code_free = outside
                .replace("<code>", "\u{0}")
                .split('\u{0}')
                .map(|p| p.split_once("</code>").map_or(p, |x| x.1))
                .collect::<String>();
            assert!(!code_free.contains(active), "{active:?} in\n{code_free}");
            assert!(active.starts_with(['@', 'h']) || !outside.contains(active), "{active:?}");
        }
        let (opened, closed) = (outside.matches("<details>").count(), outside.matches("</details>").count());
        assert_eq!((opened, opened), (closed, outside.matches("</summary>").count()));
    }

    #[test]
    fn a_page_is_cut_between_cases_and_says_so() {
        let text = page(&many_broken(300, &"words and more words\n".repeat(30)));
        assert!(text.len() <= PAGE_BYTES, "{} bytes", text.len());
        let shown = text.matches("<details>").count();
        assert!(shown > 20 && text.matches("</details>").count() == shown);
        assert!(text.contains(&format!("_{} more cases left out", 300 - shown)), "{shown}");
        outside_fences(&text);
    }

    #[test]
    fn endless_names_do_not_fill_the_page() {
        let mut run = example();
        let name = "<*_@#".repeat(500);
        run.backend = name.clone();
        run.project = name.clone();
        run.scenarios[0].cases[0].name = name.clone();
        for drift in run.drift.values_mut() {
            drift.source = name.clone();
        }
        let plain = fixture::scenario(&name, Role::Target, &[(F, P), (P, F)]);
        run.scenarios.extend((0..400).map(|_| plain.clone()));
        let text = page(&run);
        assert!(text.len() <= PAGE_BYTES, "{} bytes", text.len());
        assert!(text.contains(" more scenarios |") && text.contains("more cases left out"));
    }

    #[test]
    fn one_endless_answer_does_not_fill_the_page() {
        let text = page(&many_broken(1, &"é".repeat(100_000)));
        assert!(text.len() < 20_000 && text.contains("more bytes"), "{} bytes", text.len());
    }

    #[test]
    fn annotations_are_ten_a_kind_and_one_line_each() {
        let lines = with_report(&many_broken(30, "50%\r\n::error::x"), &policy(), annotations);
        assert_eq!(lines.len(), 10);
        assert!(lines.iter().all(|l| l.starts_with("::error ") && !l.contains(['\n', '\r'])), "{lines:#?}");
        assert!(lines[9].ends_with(" more in the report"), "{}", lines[9]);
        let broken = lines.iter().find(|l| l.contains("file=")).expect("a broken case");
        assert!(
            broken.starts_with(
                "::error file=scenarios/facts.toml,line=7,title=broken%3A control%3A%3Afacts%3A%3Acase_0::"
            )
        );
        assert!(broken.contains("50%25%0D%0A"), "{broken}");
    }

    #[test]
    fn a_passed_gate_has_no_errors() {
        let mut verdicts = vec![(P, P); 20];
        verdicts.push((P, F));
        let run = fixture::run(vec![fixture::scenario("facts", Role::Control, &verdicts)]);
        let lines = with_report(&run, &Policy { max_broken_controls: Some(1), ..Policy::default() }, annotations);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("::warning file=scenarios/facts.toml,line=7,"), "{}", lines[0]);
    }
}
