//! The report a person reads at a glance: the table, the gate, what broke, and one last line.

use crate::compare::{Flip, ScenarioRow, Tally, word_diff};
use crate::record::{CaseRecord, Ending, Role, Rule, ScenarioRecord, Verdict};
use crate::report::paint::{Ink, Page, Piece, Style, clip, columns, left, piece, right};
use crate::report::{
    NEAR_TIE, Report, adapter, drift, failed_targets, failures, first_line, fraction, gain, interval, measured,
    model_size, near_ties, open_cases, percent, power_note, proof, retention, short, threshold,
};

/// Lines of one answer that are shown.
const ANSWER_LINES: usize = 12;
/// Target failures, fixed or open cases that are shown.
const CASES: usize = 10;
/// Columns that the table takes at least; on a narrower terminal each row is two lines.
const TABLE: usize = 72;
/// Width of the column of roles, and of labels.
const LABEL: usize = 9;

/// Renders a report for a terminal; ends with the verdict and a line break.
///
/// Nothing of it can act on the terminal: see [`terminal_safe`](crate::report::escape::terminal_safe). Without colour, signs and
/// words tell everything: `✓ ✗ ?`, `▲ ▼`, `[-removed-]{+added+}`.
#[must_use]
pub fn terminal(report: &Report<'_>, style: Style) -> String {
    let mut page = Page::new(style);
    header(&mut page, report);
    table(&mut page, report);
    gate(&mut page, report);
    broken(&mut page, report);
    target_failures(&mut page, report);
    errors(&mut page, report);
    listed(&mut page, "not evaluated: an arm gave no answer", Ink::Warn, open_cases(report));
    let fixed = report.comparison.fixed().map(|f| (f.scenario, f.case)).collect();
    listed(
        &mut page,
        &format!("fixed: {} failed, {} passes", report.comparison.base, report.comparison.tuned),
        Ink::Good,
        fixed,
    );
    verdict(&mut page, report);
    page.finish()
}

/// The gate's rules and its verdict alone.
#[must_use]
pub fn terminal_gate(report: &Report<'_>, style: Style) -> String {
    let mut page = Page::new(style);
    gate(&mut page, report);
    errors(&mut page, report);
    verdict(&mut page, report);
    page.finish()
}

fn label(page: &mut Page, name: &str, text: &str) {
    let pieces = [piece(Ink::Dim, format!("  {}", left(name, LABEL))), piece(Ink::Plain, text)];
    page.wrapped(LABEL + 2, &pieces);
}

fn heading(page: &mut Page, text: &str, count: Option<usize>) {
    page.blank();
    let count = count.map_or_else(String::new, |n| format!(" ({n})"));
    page.wrapped(2, &[piece(Ink::Bold, text), piece(Ink::Dim, count)]);
}

fn header(page: &mut Page, report: &Report<'_>) {
    let run = report.run;
    page.line(&[piece(Ink::Bold, "finetest"), piece(Ink::Plain, format!("  {}", run.project))]);
    let room = page.width().saturating_sub(LABEL + 2);
    let size = model_size(run);
    // The end of a model's path says more than its beginning.
    let room = if page.width() < TABLE { usize::MAX } else { room.saturating_sub(columns(&size) + 3) };
    let source = clip_start(&run.model.source, room);
    label(page, "model", &format!("{source} ({size})"));
    label(page, "adapter", &adapter(report));
    let arms: Vec<String> = run.arms.iter().map(|a| format!("{} {}", a.name, short(&a.fingerprint))).collect();
    label(page, "arms", &arms.join(", "));
    label(page, "backend", &run.backend);
    let cost = &run.cost;
    label(page, "answers", &format!("{} computed, {} stored, {:.1} s", cost.computed, cost.stored, cost.seconds));
}

fn clip_start(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let backwards: String = text.chars().rev().collect();
    clip(&backwards, width).chars().rev().collect()
}

/// Widths of the table's columns.
struct Columns {
    name: usize,
    base: usize,
    tuned: usize,
}

fn table(page: &mut Page, report: &Report<'_>) {
    if page.width() < TABLE {
        stacked(page, report);
    } else {
        aligned(page, report);
    }
    for (name, text) in
        [("drift", drift(report.run, &report.comparison.tuned)), ("proof", proof(report.run, &report.comparison.tuned))]
    {
        label(page, name, text.as_deref().unwrap_or("not measured"));
    }
}

/// The table for a narrow terminal: a scenario's name on a line, and below it what both arms pass.
fn stacked(page: &mut Page, report: &Report<'_>) {
    let c = report.comparison;
    let rates = |base: &str, tuned: &str| format!("    {} {base}  {} {tuned}  ", c.base, c.tuned);
    page.blank();
    for role in [Role::Target, Role::Control] {
        for row in c.scenarios.iter().filter(|row| row.scenario.role == role) {
            page.wrapped(4, &[piece(Ink::Bold, format!("  {role} ")), piece(Ink::Plain, row.scenario.name.as_str())]);
            let mut pieces = vec![piece(Ink::Plain, rates(&fraction(&row.tally.base), &fraction(&row.tally.tuned)))];
            pieces.extend(change(&row.tally));
            page.wrapped(4, &pieces);
        }
    }
    page.blank();
    for (role, tally) in [(Role::Target, &c.target), (Role::Control, &c.control)] {
        page.wrapped(
            4,
            &[piece(Ink::Bold, format!("  {role} ")), piece(Ink::Plain, format!("all {} cases", tally.cases))],
        );
        let rates = rates(&percent(&tally.base), &percent(&tally.tuned));
        page.wrapped(4, &[piece(Ink::Plain, rates), piece(Ink::Bold, effect(report, role, tally))]);
        if role == Role::Control {
            page.wrapped(4, &[piece(Ink::Dim, format!("    {}", flips(tally)))]);
        }
    }
}

fn aligned(page: &mut Page, report: &Report<'_>) {
    let c = report.comparison;
    let longest = c.scenarios.iter().map(|row| columns(&row.scenario.name)).max().unwrap_or(0);
    let widths = Columns {
        name: longest.clamp(12, page.width().saturating_sub(LABEL + 40).max(12)),
        base: columns(&c.base).clamp(7, 16),
        tuned: columns(&c.tuned).clamp(7, 16),
    };
    page.blank();
    let head = format!(
        "  {}{}  {}  {}   change",
        " ".repeat(LABEL),
        left("scenario", widths.name),
        right(&clip(&c.base, widths.base), widths.base),
        right(&clip(&c.tuned, widths.tuned), widths.tuned)
    );
    page.line(&[piece(Ink::Dim, head)]);
    for role in [Role::Target, Role::Control] {
        let mut shown = role.to_string();
        for row in c.scenarios.iter().filter(|row| row.scenario.role == role) {
            table_row(page, &widths, &shown, row);
            shown.clear();
        }
    }
    page.blank();
    for (role, tally) in [(Role::Target, &c.target), (Role::Control, &c.control)] {
        totals(page, &widths, report, role, tally);
    }
}

fn table_row(page: &mut Page, widths: &Columns, role: &str, row: &ScenarioRow<'_>) {
    let mut pieces = vec![
        piece(Ink::Bold, format!("  {}", left(role, LABEL))),
        piece(Ink::Plain, left(&clip(&row.scenario.name, widths.name), widths.name)),
        piece(Ink::Plain, format!("  {}", right(&fraction(&row.tally.base), widths.base))),
        piece(Ink::Plain, format!("  {}   ", right(&fraction(&row.tally.tuned), widths.tuned))),
    ];
    pieces.extend(change(&row.tally));
    page.line(&pieces);
}

fn totals(page: &mut Page, widths: &Columns, report: &Report<'_>, role: Role, tally: &Tally) {
    let pieces = [
        piece(Ink::Bold, format!("  {}", left(&role.to_string(), LABEL))),
        piece(Ink::Plain, left(&format!("all {} cases", tally.cases), widths.name)),
        piece(Ink::Plain, format!("  {}", right(&percent(&tally.base), widths.base))),
        piece(Ink::Plain, format!("  {}   ", right(&percent(&tally.tuned), widths.tuned))),
        piece(Ink::Bold, effect(report, role, tally)),
    ];
    page.line(&pieces);
    if role == Role::Control {
        page.wrapped(LABEL + 2, &[piece(Ink::Dim, format!("  {}{}", " ".repeat(LABEL), flips(tally)))]);
    }
}

fn effect(report: &Report<'_>, role: Role, tally: &Tally) -> String {
    match role {
        Role::Target => gain(report.comparison),
        Role::Control => retention(tally),
    }
}

fn flips(tally: &Tally) -> String {
    format!("{} broken, {} fixed; exact McNemar {}", tally.broken, tally.fixed, p_value(tally.broken_p()))
}

fn change(tally: &Tally) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut add = |ink, count: usize, sign: &str, word: &str| {
        if count > 0 {
            let gap = if pieces.is_empty() { "" } else { "  " };
            pieces.push(piece(ink, format!("{gap}{sign} {count} {word}")));
        }
    };
    add(Ink::Bad, tally.broken, "▼", "broken");
    add(Ink::Good, tally.fixed, "▲", "fixed");
    add(Ink::Warn, tally.not_evaluated(), "?", "not evaluated");
    if pieces.is_empty() { vec![piece(Ink::Dim, "=")] } else { pieces }
}

fn sign(verdict: Verdict) -> (Ink, &'static str) {
    match verdict {
        Verdict::Passed => (Ink::Good, "✓"),
        Verdict::Failed => (Ink::Bad, "✗"),
        Verdict::NotEvaluated => (Ink::Warn, "?"),
    }
}

fn gate(page: &mut Page, report: &Report<'_>) {
    heading(page, "gate", None);
    if report.decision.rules.is_empty() {
        page.wrapped(4, &[piece(Ink::Warn, "  ? no thresholds in [gate]: nothing was gated")]);
        return;
    }
    let rules = &report.decision.rules;
    let widest = |text: &dyn Fn(&Rule) -> String| rules.iter().map(|r| columns(&text(r))).max().unwrap_or(0);
    let range = |r: &Rule| r.interval.map_or_else(String::new, |i| interval(i.low, i.high));
    let widths = [
        widest(&|r| r.name.clone()),
        widest(&measured),
        widest(&threshold),
        widest(&range),
        widest(&|r| r.n.to_string()),
    ];
    for rule in rules {
        let (ink, sign) = sign(rule.verdict);
        let narrow = page.width() < TABLE;
        let plain = [rule.name.clone(), measured(rule), threshold(rule), range(rule), format!("n {}", rule.n)];
        let aligned = format!(
            "{}  {}  {}  {}  {}",
            left(&rule.name, widths[0]),
            right(&measured(rule), widths[1]),
            left(&threshold(rule), widths[2]),
            left(&range(rule), widths[3]),
            right(&format!("n {}", rule.n), widths[4] + 2)
        );
        let row = if narrow {
            plain.iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join("  ")
        } else {
            aligned
        };
        let note = if rule.underpowered { "  underpowered" } else { "" };
        page.line(&[piece(ink, format!("  {sign} ")), piece(Ink::Plain, row), piece(Ink::Warn, note)]);
        if rule.verdict != Verdict::Passed {
            page.wrapped(4, &[piece(ink, format!("    {}", rule.explanation))]);
        }
    }
    if let Some(note) = power_note(report) {
        page.wrapped(4, &[piece(Ink::Dim, format!("    {note}"))]);
    }
}

fn case_line(page: &mut Page, scenario: &ScenarioRecord, case: &CaseRecord) {
    let name = scenario.test_name(case);
    let room = page.width().saturating_sub(columns(&name) + 4);
    let asked = if room < 16 { String::new() } else { format!("  {}", clip(first_line(case), room)) };
    page.line(&[piece(Ink::Bold, format!("  {name}")), piece(Ink::Dim, asked)]);
}

fn case_failures(page: &mut Page, case: &CaseRecord, arm: &str) {
    for failure in failures(case, arm) {
        page.wrapped(6, &[piece(Ink::Bad, "    ✗ "), piece(Ink::Plain, clip(failure, 400))]);
    }
}

fn broken(page: &mut Page, report: &Report<'_>) {
    let (base, tuned) = (&report.comparison.base, &report.comparison.tuned);
    let flips: Vec<&Flip<'_>> = report.comparison.broken().collect();
    if flips.is_empty() {
        return;
    }
    heading(page, &format!("broken: {base} passes, {tuned} fails"), Some(flips.len()));
    for (i, flip) in flips.into_iter().enumerate() {
        if i > 0 {
            page.blank();
        }
        case_line(page, flip.scenario, flip.case);
        case_failures(page, flip.case, tuned);
        for arm in near_ties(flip.case, &[base, tuned]) {
            page.wrapped(6, &[piece(Ink::Dim, format!("    ≈ {arm}'s {NEAR_TIE}"))]);
        }
        let (before, after) = (flip.case.text(base).unwrap_or(""), flip.case.text(tuned).unwrap_or(""));
        if before == after {
            answer(page, "both", plain_lines(before));
            continue;
        }
        let diff = word_diff(before, after);
        if diff.is_readable() {
            let lines = diff.lines().iter().map(|line| page.woven(line)).collect();
            answer(page, "diff", lines);
        } else {
            answer(page, base, plain_lines(before));
            answer(page, tuned, plain_lines(after));
        }
    }
}

fn plain_lines(text: &str) -> Vec<Vec<Piece>> {
    if text.trim().is_empty() {
        return vec![vec![piece(Ink::Dim, "(an empty answer)")]];
    }
    text.trim_end().lines().map(|line| vec![piece(Ink::Plain, line)]).collect()
}

/// An answer beside its label, with a bar before each of its lines.
fn answer(page: &mut Page, name: &str, lines: Vec<Vec<Piece>>) {
    let more = lines.len().saturating_sub(ANSWER_LINES);
    let mut name = clip(name, 8).into_owned();
    let field = columns(&name).max(6);
    let bar = format!("{} │ ", " ".repeat(4 + field));
    for line in lines.into_iter().take(ANSWER_LINES) {
        let mut pieces = vec![piece(Ink::Dim, format!("    {} │ ", left(&name, field)))];
        // A line of thousands of words would push everything else off the screen.
        let mut room = 8 * page.width();
        for (ink, text) in line {
            let text = clip(&text, room).into_owned();
            room = room.saturating_sub(columns(&text)).max(1);
            pieces.push((ink, text));
        }
        page.wrapped_under(&bar, &pieces);
        name.clear();
    }
    if more > 0 {
        page.line(&[piece(Ink::Dim, format!("{bar}… {more} more lines"))]);
    }
}

fn target_failures(page: &mut Page, report: &Report<'_>) {
    let tuned = &report.comparison.tuned;
    let cases = failed_targets(report);
    if cases.is_empty() {
        return;
    }
    heading(page, &format!("target cases that {tuned} still fails"), Some(cases.len()));
    for (scenario, case) in cases.iter().take(CASES) {
        case_line(page, scenario, case);
        let all = failures(case, tuned);
        if let Some(first) = all.first() {
            let more = if all.len() > 1 { format!(" (and {} more)", all.len() - 1) } else { String::new() };
            let room = page.width().saturating_sub(6 + columns(&more));
            let pieces = [piece(Ink::Bad, "    ✗ "), piece(Ink::Plain, clip(first, room)), piece(Ink::Dim, more)];
            page.line(&pieces);
        }
        let text = case.text(tuned).unwrap_or("");
        let room = page.width().saturating_sub(13);
        let first = text.trim().lines().next().unwrap_or("(an empty answer)");
        answer(page, tuned, vec![vec![piece(Ink::Plain, clip(first, room))]]);
    }
    more(page, cases.len());
}

/// What could not be computed: all of it, since each is a fault.
fn errors(page: &mut Page, report: &Report<'_>) {
    let failed: Vec<_> = report.run.cases().filter(|(_, case)| case.errors().next().is_some()).collect();
    if !report.run.errors.is_empty() {
        heading(page, "errors: this could not be computed", Some(report.run.errors.len()));
        for error in &report.run.errors {
            let what = error.what();
            page.wrapped(6, &[piece(Ink::Bad, format!("    ✗ {what}: ")), piece(Ink::Plain, clip(error.why(), 600))]);
        }
    }
    if failed.is_empty() {
        return;
    }
    heading(page, "errors: these answers could not be computed", Some(failed.len()));
    for (scenario, case) in failed {
        case_line(page, scenario, case);
        for (arm, why) in case.errors() {
            page.wrapped(6, &[piece(Ink::Bad, format!("    ✗ {arm}: ")), piece(Ink::Plain, clip(why, 600))]);
        }
    }
}

fn more(page: &mut Page, all: usize) {
    if all > CASES {
        page.line(&[piece(Ink::Dim, format!("  … and {} more", all - CASES))]);
    }
}

fn listed(page: &mut Page, title: &str, ink: Ink, cases: Vec<(&ScenarioRecord, &CaseRecord)>) {
    if cases.is_empty() {
        return;
    }
    heading(page, title, Some(cases.len()));
    let names: Vec<String> = cases.iter().take(CASES).map(|(s, c)| s.test_name(c)).collect();
    page.wrapped(2, &[piece(ink, format!("  {}", names.join(", ")))]);
    more(page, cases.len());
}

fn verdict(page: &mut Page, report: &Report<'_>) {
    page.blank();
    for (name, path) in report.files {
        label(page, name, path);
    }
    let decision = report.decision;
    let ink = match decision.ending() {
        Ending::Passed => Ink::Good,
        Ending::NotGated => Ink::Warn,
        Ending::Failed | Ending::Incomplete => Ink::Bad,
    };
    let word = decision.ending().word();
    let rest = format!("  {}; exit code {}", decision.summary(), report.run.exit_code(decision));
    page.line(&[piece(ink, word), piece(Ink::Plain, rest)]);
}

/// A p-value to two places; a smaller one is said to be smaller, never 0.
fn p_value(p: f64) -> String {
    if p < 0.005 { "p < 0.01".to_owned() } else { format!("p = {p:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Policy;
    use crate::record::RunRecord;
    use crate::record::fixture::{self, F, N, P};
    use crate::report::tests::{example, policy, with_report};

    fn render(run: &RunRecord, policy: &Policy, style: Style) -> String {
        with_report(run, policy, |report| terminal(report, style))
    }

    const PLAIN: Style = Style { color: false, width: 80 };

    #[test]
    fn everything_is_told_without_colour() {
        let text = render(&example(), &policy(), PLAIN);
        for part in [
            "target   fields",
            "▼ 1 broken",
            "▲ 4 fixed",
            "retention 0.77",
            "gain +0.88",
            "✗ min_retention",
            "underpowered",
            "0.0213 ± 0.0031 nats/token",
            "control::arithmetic::case_4  What is 17 + 25?",
            "17 + 25 is equal to [-42-]{+41+}.",
            "The capital of France is Paris.",
            "target::fields::case_4",
            ".finetest/report.md",
            "FAIL  1 of 5 rules failed; exit code 100",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn no_answer_reaches_the_terminal_raw() {
        let text = render(&example(), &policy(), Style { color: false, width: 120 });
        assert!(text.contains("\\u{1b}[2J") && text.contains("\\u{202e}evil"), "{text}");
        assert!(!text.contains('\u{202e}'));
        // With colours, every escape is one of ours.
        let coloured = render(&example(), &policy(), Style { color: true, width: 120 });
        for escape in coloured.split('\u{1b}').skip(1) {
            let code = escape.strip_prefix('[').and_then(|e| e.split_once('m')).map(|(code, _)| code);
            assert!(code.is_some_and(|c| c.chars().all(|c| c.is_ascii_digit() || c == ';')), "{escape:?}");
        }
    }

    #[test]
    fn lines_fit_the_terminal() {
        for width in [20, 30, 40, 60, 71, 72, 80, 120] {
            for line in render(&example(), &policy(), Style { color: false, width }).lines() {
                assert!(columns(line) <= width, "{} columns of {width}: {line}", columns(line));
                assert_eq!(line, line.trim_end());
            }
        }
    }

    #[test]
    fn a_passed_run_ends_with_pass() {
        let run = fixture::run(vec![
            fixture::scenario("fields", Role::Target, &[(F, P); 8]),
            fixture::scenario("facts", Role::Control, &[(P, P); 40]),
        ]);
        let text = render(&run, &policy(), PLAIN);
        assert_eq!(text.lines().last(), Some("PASS  all 5 rules passed; exit code 0"));
        assert!(!text.contains("broken:") && !text.contains("still fails"));
    }

    #[test]
    fn an_ungated_run_does_not_look_green() {
        let text = render(&example(), &Policy::default(), PLAIN);
        assert!(text.contains("nothing was gated"));
        assert!(
            text.lines().last().is_some_and(|l| l.starts_with("NOT GATED") && l.ends_with("exit code 100")),
            "{text}"
        );
    }

    #[test]
    fn cases_without_an_answer_are_named() {
        let mut run = example();
        run.scenarios.push(fixture::scenario("open", Role::Control, &[(P, N), (N, N)]));
        let text = render(&run, &policy(), PLAIN);
        assert!(text.contains("? 2 not evaluated") && text.contains("control::open::case_1"), "{text}");
        assert!(text.contains("not evaluated: 2 of 17 control cases"), "{text}");
    }

    #[test]
    fn a_broken_case_that_hangs_on_a_near_tie_says_so() {
        let mut run = fixture::run(vec![fixture::scenario("facts", Role::Control, &[(P, F), (P, F)])]);
        let answer = run.scenarios[0].cases[0].answers.get_mut("tuned").expect("an answer");
        answer.samples[0].turns[0].near_ties = 1;
        let text = render(&run, &policy(), PLAIN);
        assert_eq!(text.matches("≈ tuned's answer hangs on a near-tie").count(), 1, "{text}");
    }

    #[test]
    fn long_lists_and_answers_are_cut_and_say_so() {
        let mut target = fixture::scenario("fields", Role::Target, &[(F, F); 14]);
        let long = vec!["line"; 40].join("\n");
        target.cases.push(fixture::case("long", "Say it.", (P, "short"), (F, &long)));
        let text = render(&fixture::run(vec![target]), &policy(), PLAIN);
        assert!(text.contains("… and 4 more") && text.contains("… 28 more lines"), "{text}");
    }
}
