//! The report a person reads at a glance: the verdict, the table, the gate, what broke, where everything is, and the verdict again.

use crate::compare::{ScenarioRow, Tally, word_diff};
use crate::record::{Ending, Evidence, Role, Unit, Verdict};
use crate::report::controls::{moved_in_words, terminal::controls};
use crate::report::paint::{Ink, Page, Piece, Style, clip, columns, heading, left, piece, right};
use crate::report::view::{ArmView, CaseView, Group, RuleView, View};
use crate::report::{
    INTERVALS, NEAR_TIE, Report, SHOWN, adapter, again, amount, drift, evidence, fraction, gain, groups, interval,
    made, measured, model_size, proof, retention, share, short, threshold,
};

/// Lines of one answer that are shown.
const ANSWER_LINES: usize = 12;
/// Target failures and broken cases of further arms that are shown.
pub(super) const CASES: usize = 10;
/// Columns that the table takes at least; on a narrower terminal each row is two lines.
const TABLE: usize = 72;
/// Width of the column of roles, and of labels.
pub(super) const LABEL: usize = 9;

/// Renders a report for a terminal; begins and ends with the verdict.
///
/// Nothing of it can act on the terminal: see [`terminal_safe`](crate::report::escape::terminal_safe). Without colour, signs and
/// words tell everything: `✓ ✗ ?`, `▲ ▼`, `[-removed-]{+added+}`.
#[must_use]
pub fn terminal(report: &Report<'_>, style: Style) -> String {
    let view = View::of(report);
    let mut page = Page::new(style);
    headline(&mut page, &view);
    if let Some(main) = view.main() {
        table(&mut page, main);
    }
    arms(&mut page, &view);
    gate(&mut page, &view);
    controls(&mut page, &view);
    for (i, arm) in view.arms.iter().enumerate() {
        broken(&mut page, arm, i == 0);
    }
    view.main().into_iter().for_each(|main| target_failures(&mut page, main));
    errors(&mut page, &view);
    listed(&mut page, "not evaluated: an arm gave no answer", Ink::Warn, &view.open);
    if let Some(main) = view.main() {
        let title = format!("fixed: {} failed, {} passes", main.comparison.base, main.name);
        listed(&mut page, &title, Ink::Good, &main.fixed);
    }
    about(&mut page, &view);
    next(&mut page, report, &view);
    verdict(&mut page, report, &view);
    page.finish()
}

/// The gate's rules and its verdict alone.
#[must_use]
pub fn terminal_gate(report: &Report<'_>, style: Style) -> String {
    let view = View::of(report);
    let mut page = Page::new(style);
    gate(&mut page, &view);
    errors(&mut page, &view);
    next(&mut page, report, &view);
    verdict(&mut page, report, &view);
    page.finish()
}

fn label(page: &mut Page, name: &str, text: &str) {
    // One that fills its column would run into the text.
    let gap = if columns(name) < LABEL { "" } else { " " };
    let pieces = [piece(Ink::Dim, format!("  {}{gap}", left(name, LABEL))), piece(Ink::Plain, text)];
    page.wrapped(LABEL + 2, &pieces);
}

pub(super) fn ink_of(ending: Ending) -> Ink {
    match ending {
        Ending::Passed => Ink::Good,
        Ending::NotGated => Ink::Warn,
        Ending::Failed | Ending::Incomplete => Ink::Bad,
    }
}

fn headline(page: &mut Page, view: &View<'_>) {
    let rest = format!("  {}: {}", view.run.project, view.summary);
    page.wrapped(6, &[piece(ink_of(view.ending), view.ending.word()), piece(Ink::Plain, rest)]);
    for sentence in &view.sentences {
        page.wrapped(2, &[piece(Ink::Plain, format!("  {sentence}"))]);
    }
}

/// Widths of the table's columns.
struct Columns {
    name: usize,
    base: usize,
    tuned: usize,
}

fn table(page: &mut Page, arm: &ArmView<'_>) {
    if page.width() < TABLE {
        stacked(page, arm);
    } else {
        aligned(page, arm);
    }
}

/// The table for a narrow terminal: a scenario's name on a line, and below it what both arms pass.
fn stacked(page: &mut Page, arm: &ArmView<'_>) {
    let c = arm.comparison;
    let rates = |base: &str, tuned: &str| format!("    {} {base}  {} {tuned}  ", c.base, c.tuned);
    page.blank();
    for role in [Role::Target, Role::Control] {
        for row in arm.rows(role) {
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
        let rates = rates(&share(&tally.base), &share(&tally.tuned));
        page.wrapped(4, &[piece(Ink::Plain, rates), piece(Ink::Bold, effect(arm, role))]);
        if role == Role::Control {
            page.wrapped(4, &[piece(Ink::Dim, format!("    {}", flips(tally)))]);
        }
    }
}

fn aligned(page: &mut Page, arm: &ArmView<'_>) {
    let c = arm.comparison;
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
        for row in arm.rows(role) {
            table_row(page, &widths, &shown, row);
            shown.clear();
        }
    }
    page.blank();
    for role in [Role::Target, Role::Control] {
        totals(page, &widths, arm, role);
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

fn totals(page: &mut Page, widths: &Columns, arm: &ArmView<'_>, role: Role) {
    let tally = arm.comparison.tally(role);
    let pieces = [
        piece(Ink::Bold, format!("  {}", left(&role.to_string(), LABEL))),
        piece(Ink::Plain, left(&format!("all {} cases", tally.cases), widths.name)),
        piece(Ink::Plain, format!("  {}", right(&share(&tally.base), widths.base))),
        piece(Ink::Plain, format!("  {}   ", right(&share(&tally.tuned), widths.tuned))),
        piece(Ink::Bold, effect(arm, role)),
    ];
    page.line(&pieces);
    if role == Role::Control {
        page.wrapped(LABEL + 2, &[piece(Ink::Dim, format!("  {}{}", " ".repeat(LABEL), flips(tally)))]);
    }
}

fn effect(arm: &ArmView<'_>, role: Role) -> String {
    match role {
        Role::Target => gain(arm.comparison),
        Role::Control => retention(&arm.comparison.control),
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

/// Each arm in a line, where there are several to compare.
fn arms(page: &mut Page, view: &View<'_>) {
    if view.arms.len() < 2 {
        return;
    }
    heading(page, "arms against base", Some(view.arms.len()));
    let name = view.arms.iter().map(|arm| columns(arm.name)).max().unwrap_or(0);
    for arm in &view.arms {
        let c = arm.comparison;
        let moved =
            arm.drift.and_then(|drift| drift.kl).map_or_else(|| "–".to_owned(), |kl| amount(Unit::Nats, kl.mean));
        let told = format!(
            "target {}  {}  {}  {} broken  drift {moved}",
            share(&c.target.tuned),
            gain(c),
            retention(&c.control),
            c.control.broken
        );
        page.wrapped(4, &[piece(Ink::Bold, format!("  {}  ", left(arm.name, name))), piece(Ink::Plain, told)]);
    }
}

fn sign(verdict: Verdict) -> (Ink, &'static str) {
    match verdict {
        Verdict::Passed => (Ink::Good, "✓"),
        Verdict::Failed => (Ink::Bad, "✗"),
        Verdict::NotEvaluated => (Ink::Warn, "?"),
    }
}

fn gate(page: &mut Page, view: &View<'_>) {
    heading(page, "gate", None);
    if view.rules.is_empty() {
        page.wrapped(4, &[piece(Ink::Warn, "  ? no thresholds in [gate]: nothing was gated")]);
        return;
    }
    let cells: Vec<[String; 4]> = view.rules.iter().map(cells).collect();
    let widest = |column: usize| cells.iter().map(|row| columns(&row[column])).max().unwrap_or(0);
    let widths = [widest(0), widest(1), widest(2), widest(3)];
    for (row, cells) in view.rules.iter().zip(&cells) {
        let rule = row.rule;
        let (ink, sign) = sign(rule.verdict);
        let line = if page.width() < TABLE {
            cells.iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join("  ")
        } else {
            let cell = |column: usize| left(&cells[column], widths[column]);
            format!("{}  {}  {}  {}", cell(0), cell(1), cell(2), cell(3))
        };
        let note = evidence(rule).map_or_else(String::new, |note| format!("  {note}"));
        let of_note = if rule.evidence == Evidence::NotShown { Ink::Warn } else { Ink::Dim };
        page.line(&[piece(ink, format!("  {sign} ")), piece(Ink::Plain, line), piece(of_note, note)]);
        if rule.verdict != Verdict::Passed {
            page.wrapped(4, &[piece(ink, format!("    {}", rule.explanation))]);
        }
    }
    page.wrapped(4, &[piece(Ink::Dim, format!("    {INTERVALS}"))]);
    page.wrapped(4, &[piece(Ink::Dim, format!("    {SHOWN}"))]);
}

/// A rule's name, what was measured, the threshold and the interval.
fn cells(row: &RuleView<'_>) -> [String; 4] {
    let rule = row.rule;
    let range = rule.interval.map_or_else(String::new, |of| interval(rule.unit, of));
    [rule.label(), measured(row), threshold(rule), range]
}

fn case_line(page: &mut Page, view: &CaseView<'_>) {
    let place = view.case.line.map_or_else(String::new, |line| format!("  {}:{line}", view.scenario.path));
    page.line(&[piece(Ink::Bold, format!("  {}", view.test)), piece(Ink::Dim, place)]);
    let room = page.width().saturating_sub(13);
    let asked = view.question.iter().map(|line| vec![piece(Ink::Plain, clip(line, room))]).collect();
    answer(page, "asked", asked);
}

fn case_failures(page: &mut Page, view: &CaseView<'_>) {
    for failure in &view.failures {
        page.wrapped(6, &[piece(Ink::Bad, "    ✗ "), piece(Ink::Plain, clip(&failure.to_string(), 400))]);
    }
    for samples in &view.samples {
        page.wrapped(6, &[piece(Ink::Dim, format!("    {samples}"))]);
    }
    if let Some(token) = view.divergence {
        page.wrapped(6, &[piece(Ink::Dim, format!("    ↳ {}", moved_in_words(token, view.tuned_arm)))]);
    }
    for arm in &view.near_ties {
        page.wrapped(6, &[piece(Ink::Dim, format!("    ≈ {arm}'s {NEAR_TIE}"))]);
    }
}

/// Broken cases: of the first arm whole, of the others their names and why.
fn broken(page: &mut Page, arm: &ArmView<'_>, whole: bool) {
    let (base, tuned) = (&arm.comparison.base, arm.name);
    if arm.broken.is_empty() {
        return;
    }
    heading(page, &format!("broken: {base} passes, {tuned} fails"), Some(arm.broken.len()));
    if !whole {
        for case in arm.broken.iter().take(CASES) {
            let why = case.failures.first().map_or_else(String::new, |failure| format!("  {failure}"));
            page.line(&[piece(Ink::Bold, format!("  {}", case.test)), piece(Ink::Plain, clip(&why, 100))]);
        }
        return more(page, arm.broken.len());
    }
    for (i, case) in arm.broken.iter().enumerate() {
        if i > 0 {
            page.blank();
        }
        case_line(page, case);
        if case.base == case.tuned {
            answer(page, "both", plain_lines(case.base));
        } else {
            let diff = word_diff(case.base, case.tuned);
            if diff.is_readable() {
                let lines = diff.lines().iter().map(|line| page.woven(line)).collect();
                answer(page, "diff", lines);
            } else {
                answer(page, base, plain_lines(case.base));
                answer(page, tuned, plain_lines(case.tuned));
            }
        }
        case_failures(page, case);
    }
}

pub(super) fn plain_lines(text: &str) -> Vec<Vec<Piece>> {
    if text.trim().is_empty() {
        return vec![vec![piece(Ink::Dim, "(an empty answer)")]];
    }
    text.trim_end().lines().map(|line| vec![piece(Ink::Plain, line)]).collect()
}

/// An answer beside its label, with a bar before each of its lines.
pub(super) fn answer(page: &mut Page, name: &str, lines: Vec<Vec<Piece>>) {
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

fn target_failures(page: &mut Page, arm: &ArmView<'_>) {
    let cases = &arm.failed_targets;
    if cases.is_empty() {
        return;
    }
    heading(page, &format!("target cases that {} still fails", arm.name), Some(cases.len()));
    for case in cases.iter().take(CASES) {
        case_line(page, case);
        let room = page.width().saturating_sub(13);
        let first = case.tuned.trim().lines().next().unwrap_or("(an empty answer)");
        answer(page, arm.name, vec![vec![piece(Ink::Plain, clip(first, room))]]);
        case_failures(page, case);
    }
    more(page, cases.len());
}

/// What could not be computed: all of it, since each is a fault.
fn errors(page: &mut Page, view: &View<'_>) {
    if view.errors.is_empty() {
        return;
    }
    heading(page, "errors: this could not be computed", Some(view.errors.len()));
    for (what, why) in &view.errors {
        page.wrapped(6, &[piece(Ink::Bad, format!("    ✗ {what}: ")), piece(Ink::Plain, clip(why, 600))]);
    }
}

pub(super) fn more(page: &mut Page, all: usize) {
    if all > CASES {
        page.line(&[piece(Ink::Dim, format!("  … and {} more", all - CASES))]);
    }
}

fn listed(page: &mut Page, title: &str, ink: Ink, of: &[Group<'_>]) {
    if !of.is_empty() {
        heading(page, title, Some(of.iter().map(|group| group.cases.len()).sum()));
        page.wrapped(2, &[piece(ink, format!("  {}", groups(of)))]);
    }
}

/// What was asked, with what, and by what it is known again.
fn about(page: &mut Page, view: &View<'_>) {
    let run = view.run;
    heading(page, "about this run", None);
    for arm in &view.arms {
        let of = |what: &str| if view.arms.len() > 1 { format!("{what} {}", arm.name) } else { what.to_owned() };
        label(page, &of("drift"), &arm.drift.map_or_else(|| "not measured".to_owned(), drift));
        label(page, &of("active"), &arm.proof.map_or_else(|| "not measured".to_owned(), proof));
        again(run, arm.name).into_iter().for_each(|said| label(page, &of("asked again"), &said));
    }
    label(page, "model", &format!("{} ({})", run.model.source, model_size(run)));
    for arm in run.arms.iter().skip(1) {
        let name = if view.arms.len() > 1 { arm.name.as_str() } else { "adapter" };
        label(page, name, &adapter(arm));
    }
    let cost = &run.cost;
    let answers = format!("{} computed, {} stored, {:.1} s", cost.computed, cost.stored, cost.seconds);
    label(page, "answers", &format!("{answers}, on {}", run.backend));
    made(run).into_iter().for_each(|made| label(page, "made", &made));
    let arms: Vec<String> = run.arms.iter().map(|a| format!("{} {}", a.name, short(&a.fingerprint))).collect();
    label(page, "hashes", &arms.join(", "));
}

fn next(page: &mut Page, report: &Report<'_>, view: &View<'_>) {
    page.blank();
    for (name, path) in report.files {
        label(page, name, path);
    }
    for (what, command) in &view.next {
        page.wrapped(4, &[piece(Ink::Dim, format!("  {what} ")), piece(Ink::Plain, command.as_str())]);
    }
    if !view.thresholds.is_empty() {
        page.wrapped(4, &[piece(Ink::Dim, "  what was measured, to paste into the manifest and to change:")]);
        view.thresholds.iter().for_each(|line| page.line(&[piece(Ink::Plain, format!("    {line}"))]));
    }
}

fn verdict(page: &mut Page, report: &Report<'_>, view: &View<'_>) {
    let rest = format!("  {}; exit code {}", view.summary, report.run.exit_code(report.decision));
    page.line(&[piece(ink_of(view.ending), view.ending.word()), piece(Ink::Plain, rest)]);
}

/// A p-value to two places; a smaller one is said to be smaller, never 0.
pub(super) fn p_value(p: f64) -> String {
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
            "retention 76.9 %",
            "gain +87.5 points",
            "✗ min_retention",
            "not shown, needs",
            "0.0213 ± 0.0031 nats/token",
            "control::arithmetic::case_4  scenarios/arithmetic.toml:7",
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
        assert!(text.contains("? 2 not evaluated") && text.contains("  open 2\n"), "{text}");
        assert!(text.contains("not evaluated: 2 of 17 control cases"), "{text}");
    }

    #[test]
    fn a_broken_case_that_hangs_on_a_near_tie_says_so() {
        let mut run = fixture::run(vec![fixture::scenario("facts", Role::Control, &[(P, F), (P, F)])]);
        let answer = run.scenarios[0].cases[0].answers.get_mut("tuned").expect("an answer");
        answer.samples[0].turns[0].near_ties = 1;
        let text = render(&run, &policy(), PLAIN);
        assert_eq!(text.matches("≈ tuned's answer is unstable").count(), 1, "{text}");
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
