//! The report as a page: GitHub's step summary and pull requests, and annotations on scenario files.

use crate::compare::{Change, Flip, Tally, line_diff};
use crate::record::{CaseRecord, Ending, Role, ScenarioRecord, Verdict};
use crate::report::escape::{fenced, github_message, github_property, html_safe, markdown_safe};
use crate::report::{
    NEAR_TIE, Report, adapter, drift, failed_targets, failures, first_line, fraction, gain, interval, measured,
    model_size, near_ties, open_cases, percent, power_note, proof, retention, short, threshold,
};

/// Most bytes of a page. GitHub takes 64 KB in a comment and 1 MiB in a step summary.
const PAGE_BYTES: usize = 60_000;
/// Bytes kept back for the page's end and for saying what was left out.
const END_BYTES: usize = 2_500;
/// Most bytes of one answer.
const ANSWER_BYTES: usize = 4_000;
/// Bytes of the page after which a role's table is cut.
const TABLE_BYTES: [usize; 2] = [10_000, 20_000];
/// Target failures, fixed and open cases that are shown.
const CASES: usize = 10;
/// GitHub shows ten annotations of a kind and drops the rest.
const ANNOTATIONS: usize = 10;

/// Renders a report as GitHub's Markdown, at most 60 000 bytes: cases that do not fit are left out whole, and counted.
///
/// Text of a model appears only in fences it cannot close, in `<code>`, or quoted by
/// [`markdown_safe`](crate::report::escape::markdown_safe): it makes no markup, mention or link.
#[must_use]
pub fn markdown(report: &Report<'_>) -> String {
    let mut page = String::new();
    summary(&mut page, report);
    table(&mut page, report);
    gate(&mut page, report);
    let end = end(report);
    let room = PAGE_BYTES.saturating_sub(END_BYTES + end.len());
    cases(&mut page, report, room);
    page.push_str(&end);
    page
}

fn add(page: &mut String, line: &str) {
    page.push_str(line);
    page.push('\n');
}

fn summary(page: &mut String, report: &Report<'_>) {
    let decision = report.decision;
    let sign = match decision.ending() {
        Ending::Passed => "✅",
        Ending::NotGated => "⚠️",
        Ending::Failed | Ending::Incomplete => "❌",
    };
    let word = decision.ending().word();
    let c = report.comparison;
    add(page, &format!("## {sign} {word}: {}\n", markdown_safe(&clip(&report.run.project, 80))));
    let broken = format!("{} broken, {} fixed", c.control.broken, c.control.fixed);
    add(
        page,
        &format!(
            "**{}** · target {} · {} · controls: {broken}\n",
            markdown_safe(&clip(&decision.summary(), 400)),
            gain(c),
            retention(&c.control)
        ),
    );
}

fn table(page: &mut String, report: &Report<'_>) {
    let c = report.comparison;
    let (base, tuned) = (markdown_safe(&clip(&c.base, 40)), markdown_safe(&clip(&c.tuned, 40)));
    add(page, &format!("| role | scenario | {base} | {tuned} | change |\n|---|---|--:|--:|---|"));
    for (role, limit) in [Role::Target, Role::Control].into_iter().zip(TABLE_BYTES) {
        let mut more = 0;
        for row in c.scenarios.iter().filter(|row| row.scenario.role == role) {
            let tally = &row.tally;
            let name = markdown_safe(&clip(&row.scenario.name, 80));
            if page.len() > limit {
                more += 1;
                continue;
            }
            let (base, tuned) = (fraction(&tally.base), fraction(&tally.tuned));
            add(page, &format!("| {role} | {name} | {base} | {tuned} | {} |", change(tally)));
        }
        if more > 0 {
            add(page, &format!("| {role} | … {more} more scenarios | | | |"));
        }
        let tally = c.tally(role);
        let effect = if role == Role::Target { gain(c) } else { retention(tally) };
        add(
            page,
            &format!(
                "| **{role}** | **all {} cases** | **{}** | **{}** | **{}** |",
                tally.cases,
                percent(&tally.base),
                percent(&tally.tuned),
                effect
            ),
        );
    }
    page.push('\n');
}

fn change(tally: &Tally) -> String {
    let parts =
        [(tally.broken, "🔻", "broken"), (tally.fixed, "🔺", "fixed"), (tally.not_evaluated(), "❔", "not evaluated")];
    let shown: Vec<String> =
        parts.iter().filter(|(n, ..)| *n > 0).map(|(n, sign, word)| format!("{sign} {n} {word}")).collect();
    if shown.is_empty() { "=".to_owned() } else { shown.join(", ") }
}

fn gate(page: &mut String, report: &Report<'_>) {
    add(page, "### Gate\n");
    if report.decision.rules.is_empty() {
        add(page, "No thresholds in `[gate]`: nothing was gated.\n");
        return;
    }
    add(page, "| | rule | measured | threshold | 95 % interval | n | |\n|---|---|--:|---|---|--:|---|");
    for rule in &report.decision.rules {
        let sign = match rule.verdict {
            Verdict::Passed => "✅",
            Verdict::Failed => "❌",
            Verdict::NotEvaluated => "❔",
        };
        let range = rule.interval.map_or_else(String::new, |i| interval(i.low, i.high));
        let mut note = if rule.underpowered { "underpowered".to_owned() } else { String::new() };
        if rule.verdict != Verdict::Passed {
            note = format!(
                "{}{}{note}",
                markdown_safe(&clip(&rule.explanation, 400)),
                if note.is_empty() { "" } else { "; " }
            );
        }
        let name = markdown_safe(&rule.name);
        add(
            page,
            &format!("| {sign} | {name} | {} | {} | {range} | {} | {note} |", measured(rule), threshold(rule), rule.n),
        );
    }
    page.push('\n');
    if let Some(note) = power_note(report) {
        add(page, &format!("<sub>{}</sub>\n", markdown_safe(&note)));
    }
}

/// Broken cases, then target failures, as long as they fit in `room` bytes of the page.
fn cases(page: &mut String, report: &Report<'_>, room: usize) {
    let c = report.comparison;
    let broken: Vec<&Flip<'_>> = c.broken().collect();
    let mut left_out = 0;
    if !broken.is_empty() {
        add(
            page,
            &format!(
                "### Broken: {} passes, {} fails ({})\n",
                markdown_safe(&c.base),
                markdown_safe(&c.tuned),
                broken.len()
            ),
        );
    }
    for flip in broken {
        let block = broken_case(report, flip);
        if page.len() + block.len() <= room { page.push_str(&block) } else { left_out += 1 }
    }
    let failed = failed_targets(report);
    if !failed.is_empty() {
        add(page, &format!("### Target cases that {} still fails ({})\n", markdown_safe(&c.tuned), failed.len()));
    }
    left_out += failed.len().saturating_sub(CASES);
    for (scenario, case) in failed.into_iter().take(CASES) {
        let block = failed_case(report, scenario, case);
        if page.len() + block.len() <= room { page.push_str(&block) } else { left_out += 1 }
    }
    if left_out > 0 {
        let s = if left_out == 1 { "" } else { "s" };
        add(page, &format!("_{left_out} more case{s} left out; the run's record has all of them._\n"));
    }
}

fn opening(page: &mut String, report: &Report<'_>, scenario: &ScenarioRecord, case: &CaseRecord) {
    let (name, asked) = (clip(&scenario.test_name(case), 200), clip(first_line(case), 200));
    add(
        page,
        &format!("<details><summary><code>{}</code> <code>{}</code></summary>\n", html_safe(&name), html_safe(&asked)),
    );
    for failure in failures(case, &report.comparison.tuned).iter().take(8) {
        add(page, &format!("- {}", markdown_safe(&clip(failure, 400))));
    }
    page.push('\n');
}

fn broken_case(report: &Report<'_>, flip: &Flip<'_>) -> String {
    let mut block = String::new();
    opening(&mut block, report, flip.scenario, flip.case);
    let text = |arm: &str| answer(flip.case.text(arm).unwrap_or(""));
    let mut patch = String::new();
    for line in line_diff(&text(&report.comparison.base), &text(&report.comparison.tuned)) {
        let sign = match line.change {
            Change::Equal => ' ',
            Change::Removed => '-',
            Change::Added => '+',
        };
        add(&mut patch, &format!("{sign} {}", line.text));
    }
    for arm in near_ties(flip.case, &[&report.comparison.base, &report.comparison.tuned]) {
        add(&mut block, &format!("{}'s {NEAR_TIE}.\n", markdown_safe(arm)));
    }
    block.push_str(&fenced("diff", &patch));
    add(&mut block, "\n</details>\n");
    block
}

fn failed_case(report: &Report<'_>, scenario: &ScenarioRecord, case: &CaseRecord) -> String {
    let mut block = String::new();
    opening(&mut block, report, scenario, case);
    block.push_str(&fenced("text", &answer(case.text(&report.comparison.tuned).unwrap_or(""))));
    add(&mut block, "\n</details>\n");
    block
}

fn answer(text: &str) -> String {
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

fn clip(text: &str, bytes: usize) -> String {
    let cut = floor(text, bytes);
    if cut < text.len() { format!("{}…", &text[..cut]) } else { text.to_owned() }
}

/// What is said last: fixed and open cases, drift, proof, model and files.
fn end(report: &Report<'_>) -> String {
    let mut page = String::new();
    let run = report.run;
    let mut line = |name: &str, text: String| add(&mut page, &format!("- **{name}**: {text}"));
    let failed = run.cases().flat_map(|(s, case)| case.errors().map(move |(arm, why)| (s.test_name(case), arm, why)));
    for (name, arm, why) in failed.take(CASES) {
        line("error", markdown_safe(&format!("{}, {arm}: {}", clip(&name, 120), clip(why, 400))));
    }
    for error in &run.errors {
        line("error", markdown_safe(&format!("{}: {}", clip(&error.what(), 120), clip(error.why(), 400))));
    }
    let fixed: Vec<_> = report.comparison.fixed().map(|f| (f.scenario, f.case)).collect();
    for (name, cases) in [("fixed", fixed), ("not evaluated", open_cases(report))] {
        if !cases.is_empty() {
            let names: Vec<String> =
                cases.iter().take(CASES).map(|(s, c)| markdown_safe(&clip(&s.test_name(c), 120))).collect();
            let more = cases.len().saturating_sub(CASES);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            line(name, format!("{}{more}", names.join(", ")));
        }
    }
    line(
        "drift",
        markdown_safe(&clip(&drift(run, &report.comparison.tuned).unwrap_or_else(|| "not measured".to_owned()), 600)),
    );
    line("proof", markdown_safe(&proof(run, &report.comparison.tuned).unwrap_or_else(|| "not measured".to_owned())));
    line(
        "model",
        format!("{} ({})", markdown_safe(&clip(&run.model.source, 300)), markdown_safe(&clip(&model_size(run), 80))),
    );
    line("adapter", markdown_safe(&clip(&adapter(report), 300)));
    let arms: Vec<String> = run
        .arms
        .iter()
        .take(8)
        .map(|a| markdown_safe(&format!("{} {}", clip(&a.name, 40), short(&a.fingerprint))))
        .collect();
    line("arms", format!("{} on {}", arms.join(", "), markdown_safe(&clip(&run.backend, 80))));
    for (label, path) in report.files {
        line(&markdown_safe(label), markdown_safe(path));
    }
    page
}

/// GitHub workflow commands: an error for each rule that does not pass and each broken case, on the scenario's file.
///
/// When the gate passed, broken cases are warnings, so that nothing is red in a green run. At most ten of a kind, the last of
/// which counts the rest.
#[must_use]
pub fn annotations(report: &Report<'_>) -> Vec<String> {
    let decision = report.decision;
    let mut errors = Vec::new();
    let mut warnings = Vec::new();
    for rule in decision.rules.iter().filter(|r| r.verdict != Verdict::Passed) {
        errors.push((None, format!("gate: {}", rule.name), rule.explanation.clone()));
    }
    if decision.rules.is_empty() {
        warnings.push((None, "gate".to_owned(), decision.summary()));
    }
    errors.extend(
        report.run.errors.iter().map(|error| (None, format!("error: {}", error.what()), clip(error.why(), 400))),
    );
    for (scenario, case) in report.run.cases() {
        for (arm, why) in case.errors() {
            let title = format!("error: {}", scenario.test_name(case));
            errors.push((Some(scenario.path.clone()), title, format!("{arm}: {}", clip(why, 400))));
        }
    }
    let tuned = &report.comparison.tuned;
    let broken = report.comparison.broken().map(|flip| {
        let why = failures(flip.case, tuned).join("; ");
        let answer = clip(flip.case.text(tuned).unwrap_or("").trim(), 300);
        let asked = clip(first_line(flip.case), 200);
        let title = format!("broken: {}", flip.scenario.test_name(flip.case));
        (Some(flip.scenario.path.clone()), title, format!("{}\nasked: {asked}\n{tuned}: {answer}", clip(&why, 400)))
    });
    if decision.rules_passed() {
        warnings.extend(broken);
    } else {
        errors.extend(broken);
    }
    let mut lines = Vec::new();
    for (kind, all) in [("error", errors), ("warning", warnings)] {
        let more = all.len().saturating_sub(ANNOTATIONS);
        let shown = if more > 0 { ANNOTATIONS - 1 } else { all.len() };
        for (file, title, message) in all.iter().take(shown) {
            let file = file.as_ref().map_or_else(String::new, |f| format!("file={},", github_property(f)));
            lines.push(format!("::{kind} {file}title={}::{}", github_property(title), github_message(message)));
        }
        if more > 0 {
            lines.push(format!("::{kind} title=finetest::{} more in the report", all.len() - shown));
        }
    }
    lines
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
        for part in ["| control | arithmetic | 3/4 | 2/4 | 🔻 1 broken |", "| ❌ | min&#95;retention |", "underpowered"]
        {
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
            broken.starts_with("::error file=scenarios/facts.toml,title=broken%3A control%3A%3Afacts%3A%3Acase_0::")
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
        assert!(lines[0].starts_with("::warning file=scenarios/facts.toml"), "{}", lines[0]);
    }
}
